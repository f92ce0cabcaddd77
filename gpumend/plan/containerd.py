"""containerd's configuration: its own files, or the template of which k3s makes them."""

from __future__ import annotations

from gpumend.plan.changes import edited, edits_of, of_kind
from gpumend.plan.step import WriteFile
from gpumend.plan.transaction import Proof, Transaction
from gpumend.rules.change import AddTemplateTable
from gpumend.rules.engines import containerd_config, grit
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.rules.storage.restarts import gate_of
from gpumend.text.edits import Edit, apply_lines


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The edited files, and beside them the whole configuration as it will be, for containerd itself to read first."""
    if of_kind(changes, AddTemplateTable):
        return _k3s_template(context, codes)
    # Of two edits of one value the later one counts, where the first one stood.
    edits = {(edit.path, edit.keys): edit for edit in edits_of(changes)}
    by_path: dict[str, list[Edit]] = {}
    for edit in edits.values():
        by_path.setdefault(edit.path, []).append(edit)
    found = {path: context.state.containerd.files[path].get() for path in by_path}
    steps = [step for path, mine in by_path.items() for step in edited(path, found[path], mine, apply_lines)]
    new = {path: content.data for path, content in found.items() if content}
    new.update({step.path: step.data for step in steps})
    tree = containerd_config.staged_tree(context, new) if steps else ()
    made = [edit for mine in by_path.values() for edit in mine]
    shown = containerd_config.shown_by_crictl(made)
    return Transaction(
        Component.CONTAINERD,
        codes,
        tuple(steps),
        service=containerd_config.RESTART,
        proofs=tuple(Proof(keys, needs="restart", engine="crictl") for keys in shown),
        gate=gate_of(context, "containerd"),
        validate=("containerd", "--config", "{tree}/config.toml", "config", "dump") if tree else (),
        tree=tree,
        expect=containerd_config.expected_dump(made) if tree else (),
    )


def _k3s_template(context: Context, codes: tuple[str, ...]) -> Transaction:
    """The template alone: k3s' own containerd reads first what k3s will make of it. Nothing is restarted."""
    k3s = containerd_config.embedded(context)
    assert k3s is not None
    path, text, made = grit.template(context)
    return Transaction(
        Component.CONTAINERD,
        codes,
        (WriteFile.over(path, k3s.templates[path].get(), text.encode()),),
        validate=(k3s.flavour.program, "--config", "{tree}/config.toml", "config", "dump"),
        tree=(("config.toml", made.encode()),),
        expect=(r"(?m)^\s*\[plugins\..*\.runtimes\.grit\]",),
    )
