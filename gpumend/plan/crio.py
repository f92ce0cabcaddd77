"""CRI-O's drop-ins."""

from __future__ import annotations

from gpumend.plan.changes import edits_of
from gpumend.plan.step import WriteFile
from gpumend.plan.transaction import Proof, Transaction
from gpumend.rules.engines import crio
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.rules.storage.restarts import gate_of
from gpumend.text.edits import Edit


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The edited drop-ins, and beside them the whole configuration as it will be, for `crio config` to read first."""
    files = context.state.crio.files
    edits = {(edit.path, edit.keys): edit for edit in edits_of(changes)}
    by_path: dict[str, list[Edit]] = {}
    for edit in edits.values():
        by_path.setdefault(edit.path, []).append(edit)
    new = crio.planned_files(context, by_path)
    found = {path: files[path].get() if path in files else None for path in new}
    return Transaction(
        Component.CRIO,
        codes,
        tuple(WriteFile.over(path, found[path], data) for path, data in new.items()),
        service=crio.RESTART,
        proofs=tuple(
            Proof(keys, needs="restart", value=str(edit.value), engine="crio")
            for (_, keys), edit in edits.items()
            if keys[:3] == crio.RUNTIMES and keys[-1] == "runtime_path"
        ),
        gate=gate_of(context, "crio"),
        validate=("crio", "--config", "", "--config-dir", "{tree}", "config") if new else (),
        tree=crio.staged_tree(context, new) if new else (),
        expect=crio.expected_dump({edit.keys: edit.value for edit in edits.values()}) if new else (),
    )
