"""GM52x: GRIT: grit.toml, and the runtime table in containerd through which pods reach it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from gpumend.rules.change import AddTemplateTable, SetValues
from gpumend.rules.engines import containerd_config
from gpumend.rules.engines.containerd_config import (
    Keys,
    cri,
    embedded,
    expected_systemd,
    unreadable_why,
    uses_grit,
)
from gpumend.rules.engines.k3s import BASE as TEMPLATE_BASE
from gpumend.rules.engines.k3s import broken, repeated, template_text
from gpumend.rules.evidence import line_of, place, standing
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.containerd import (
    V2_PLUGIN,
    V3_PLUGIN,
    ConfigError,
    Runtime,
    config_version,
    loads,
)
from gpumend.state.grit import CONFIG, OPTIONS, REMOVED, ROOT, meant
from gpumend.state.kubernetes import K3s
from gpumend.state.reading import Unread
from gpumend.text.edits import Edit

SHIM = "containerd-shim-grit-v1"
TYPE = "io.containerd.grit.v1"  # maps to containerd-shim-grit-v1 in containerd's PATH
TYPE_URL = "containerd.runc.v1.Options"
ANNOTATIONS = ["grit.dev/*"]
NVIDIA_RUNTIME = "nvidia-container-runtime"
DEFAULT_BINARY = f"/usr/bin/{NVIDIA_RUNTIME}"
BASE: Keys = ("containerd", "runtimes", "grit")


def has_grit(context: Context) -> bool:
    """Whether there is a GPU, and GRIT is wanted here or has left its file."""
    return has_gpu(context) and uses_grit(context)


def readable(context: Context) -> bool:
    """GRIT is judged, and GM521 does not apply."""
    grit = context.state.grit
    return has_grit(context) and grit.raw.known and not grit.wrong


def managed(context: Context) -> bool:
    """GRIT is wanted here: its file and its runtime have to be there."""
    return has_grit(context) and context.wanted.grit_role is not None


def evidence(context: Context, key: str, text: str) -> Evidence:
    content = context.state.grit.content.value
    return standing(CONFIG, content, (key,), text)


def change(context: Context, key: str, value: Any) -> tuple[Change | None, str]:
    """The change that sets a key of grit.toml: under the spelling that stands there: keys are case-insensitive. It is
    read at every container start (kaito-project/grit readRuntimeOptions): nothing is restarted."""
    if context.wanted.grit_role is None:
        return None, "GRIT is not in the wanted state of this host (`grit`)"
    raw = context.state.grit.raw.get() or {}
    spelled = next((name for name in raw if name.lower() == key.lower()), key)
    return Change(Component.GRIT, SetValues((Edit(CONFIG, (spelled,), value),))), ""


def binary(context: Context) -> str:
    """The runtime that grit.toml should name: as wanted, else nvidia-container-runtime where it is installed."""
    wanted = context.wanted.grit_binary
    if wanted:
        return wanted
    program = context.state.toolkit.programs[NVIDIA_RUNTIME].value
    return program.path if program else DEFAULT_BINARY


@rule(
    "GM521",
    "grit.toml is readable",
    "kaito-project/grit cmd/containerd-shim-grit-v1/runc/container.go readRuntimeOptions; containerd oci.proto",
    applies=has_grit,
)
def unreadable(context: Context) -> Iterator[Finding]:
    grit = context.state.grit
    if grit.content.absent or (grit.raw.known and not grit.wrong):
        return  # GM522 where there is none
    if not grit.content.ok:
        grit.content.need()
    if grit.raw.known:
        for name, kind in grit.wrong.items():
            yield Finding(
                code="GM521",
                status=Status.FAIL,
                summary=f"{CONFIG}: {name} = {grit.options[name]!r} is not of type {kind.__name__}",
                evidence=(evidence(context, name, f"{name} = {grit.options[name]!r}"),),
                cause="The shim cannot decode the file: every GRIT pod fails to start.",
                remedy="Correct it by hand.",
                refused="what it was meant to be is not ours to guess",
            )
        return
    source = place(CONFIG, line_of(grit.raw.detail))
    yield Finding(
        code="GM521",
        status=Status.FAIL,
        summary=f"{source}: {grit.raw.detail}",
        evidence=(Evidence(source, grit.raw.detail),),
        cause="The shim cannot read the file: every GRIT pod fails to start.",
        remedy="Repair it by hand.",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
    )


@rule(
    "GM522",
    "grit.toml names a runtime that injects the GPU",
    "Cumulus-Compute-Labs/grit fresh/RECENT-UPDATES.md; kaito-project/grit contrib/containerd/grit.toml; go-runc: runc by default",
    applies=readable,
)
def runtime(context: Context) -> Iterator[Finding]:
    grit, wanted = context.state.grit, binary(context)
    name = grit.binary
    spelled = next((key for key in grit.ignored if meant(key) == "BinaryName"), "")
    if grit.content.absent:
        summary, why = (
            f"{CONFIG} is not there",
            "Every GRIT pod fails to start, where containerd's table names this file.",
        )
        found = Evidence(CONFIG, "not there")
    elif not name and spelled:
        summary = f"{spelled} in {CONFIG} is ignored: GRIT calls plain runc, without the GPU"
        why = "The decoder knows BinaryName only, and drops every other key without a word (GM523)."
        found = evidence(context, spelled, f"{spelled} = {(grit.raw.need())[spelled]!r}")
    elif not name:
        summary = f"{CONFIG} has no BinaryName: GRIT calls plain runc, without the GPU"
        why = "Without BinaryName the shim takes `runc` from its PATH."
        found = Evidence(CONFIG, "no BinaryName")
    elif name.endswith(SHIM):
        summary = f"BinaryName = {name!r} is the shim itself, not an OCI runtime"
        why = "The shim is containerd's; what it has to call is the OCI runtime."
        found = evidence(context, "BinaryName", f"BinaryName = {name!r}")
    elif name.rpartition("/")[2] in ("runc", "crun", "youki") and name != context.wanted.grit_binary:
        summary = f"BinaryName = {name!r}: containers of GRIT get no GPU"
        why = (
            "The shim calls whatever BinaryName says. Plain runc runs none of NVIDIA's hooks and makes no CDI edits, so nothing "
            "injects the GPU."
        )
        found = evidence(context, "BinaryName", f"BinaryName = {name!r}")
    elif name.startswith("/") and (meta := grit.paths.get(name)) is not None and meta.absent:
        summary, why = f"BinaryName = {name!r} is not there", "The toolkit was moved, or is not installed."
        found = evidence(context, "BinaryName", f"BinaryName = {name!r}")
    elif (
        (meta := grit.paths.get(name)) is not None and meta.value is not None and not meta.value.mode & 0o111
    ):
        summary, why = f"BinaryName = {name!r} cannot be executed", "Its file is not executable."
        found = evidence(context, "BinaryName", f"BinaryName = {name!r}")
    elif context.wanted.grit_binary and name != context.wanted.grit_binary:
        summary, why = f"BinaryName = {name!r}, wanted is {wanted!r}", ""
        found = evidence(context, "BinaryName", f"BinaryName = {name!r}")
    else:
        return
    made, refused = change(context, "BinaryName", wanted)
    if name == wanted:
        made, refused = None, "the file that it names is not ours to change"
    yield Finding(
        code="GM522",
        status=Status.FAIL,
        summary=summary,
        evidence=(found,),
        cause=why,
        remedy=f"Mend sets BinaryName = {wanted!r}. It is read at every container start: nothing is restarted; recreate the "
        "pods."
        if made
        else f"Install it, or `chmod 755 {name}`."
        if name == wanted
        else f"Set BinaryName = {wanted!r}. Nothing has to be restarted.",
        change=made,
        refused=refused,
        symptoms=("RuntimeError: Found no NVIDIA driver on your system",),
    )


@rule(
    "GM523",
    "grit.toml has no key that is ignored",
    "containerd api/types/runc/options/oci.proto; go-toml v2: not strict",
    applies=readable,
)
def ignored(context: Context) -> Iterator[Finding]:
    grit = context.state.grit
    for key in grit.ignored:
        option = meant(key)
        if option in REMOVED:
            why = REMOVED[option]
        elif option:
            why = f"the decoder knows {option}, and drops every other key without a word"
        else:
            why = f"the decoder knows {', '.join(OPTIONS)}, and drops every other key without a word"
        yield Finding(
            code="GM523",
            status=Status.WARN,
            summary=f"{key} in {CONFIG} has no effect",
            evidence=(evidence(context, key, f"{key} = {(grit.raw.need())[key]!r}"),),
            cause=f"{why[:1].upper()}{why[1:]}.",
            remedy=f"Write {option} instead of {key}, or take the line out."
            if option in OPTIONS
            else "Take the line out, so that nobody relies on it.",
            refused="a key that is not ours is left as it is",
        )


@rule(
    "GM524",
    "grit.toml has the node's cgroup driver and state directory",
    "systemd: containerd docs/cri/config.md SystemdCgroup; kaito-project/grit process/utils.go RuncRoot",
    applies=readable,
)
def cgroups(context: Context) -> Iterator[Finding]:
    grit, wanted = context.state.grit, context.wanted
    if grit.content.absent and wanted.grit_role is None:
        return
    expected = (
        expected_systemd(context) if wanted.grit_systemd_cgroup == "auto" else wanted.grit_systemd_cgroup
    )
    present = grit.options.get("SystemdCgroup") is True
    rows: list[tuple[str, Any, Any, str]] = []
    if isinstance(expected, bool) and present != expected:
        driver = context.state.kubernetes.cgroup_driver or "containerd's default runtime"
        rows.append(
            ("SystemdCgroup", present, expected, f"The node's cgroups are managed otherwise ({driver}).")
        )
    root = grit.options.get("Root") or ROOT
    if root != wanted.grit_root:
        why = f"runc keeps its state in {wanted.grit_root}, and other tools look there."
        rows.append(("Root", root, wanted.grit_root, why))
    for key, have, want, why in rows:
        made, refused = change(context, key, want)
        text = (
            f"{key} = {_toml(have)}"
            if key in grit.options
            else f"{key} is not set, which means {_toml(have)}"
        )
        yield Finding(
            code="GM524",
            status=Status.FAIL if key == "SystemdCgroup" else Status.WARN,
            summary=f"{key} is {_toml(have)} in {CONFIG}, on this node it has to be {_toml(want)}",
            evidence=(evidence(context, key, text),),
            cause=why,
            remedy=f"Mend sets {key} = {_toml(want)}. Nothing is restarted."
            if made
            else f"Set {key} = {_toml(want)}.",
            change=made,
            refused=refused,
        )


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


# --- the runtime table


def lacking(found: Runtime | None) -> dict[Keys, tuple[Any, str]]:
    """What containerd's runtime `grit` lacks: keys below the CRI's table -> (value, what happens without it)."""
    options = found.options if found else {}
    rows: dict[Keys, tuple[Any, str]] = {}
    if found is None or found.type != TYPE:
        rows[(*BASE, "runtime_type")] = (TYPE, f'no runtime for "grit", or not through {SHIM}')
    for key, have in (
        ("pod_annotations", found.pod_annotations if found else ()),
        ("container_annotations", found.container_annotations if found else ()),
    ):
        if not any(_covers(pattern) for pattern in have):
            value = [*have, *ANNOTATIONS]
            rows[(*BASE, key)] = (
                value,
                "grit.dev/checkpoint does not reach the shim: a restored pod starts afresh, silently",
            )
    if options.get("ConfigPath") != CONFIG:
        rows[(*BASE, "options", "ConfigPath")] = (CONFIG, "the shim does not read grit.toml")
    if options.get("TypeUrl") != TYPE_URL:
        rows[(*BASE, "options", "TypeUrl")] = (TYPE_URL, "the shim fails: type with url : not found")
    return rows


def _covers(pattern: str) -> bool:
    return re.fullmatch(r"\*|grit\.dev/?\*", pattern) is not None


def table_readable(context: Context) -> bool:
    """GRIT is judged, there is a containerd, and it can read its configuration."""
    if not has_grit(context):
        return False
    if embedded(context) is None and (not context.state.containerd.installed or unreadable_why(context)):
        return False
    return context.wanted.grit_role is not None or "grit" in _runtimes(context)


def _runtimes(context: Context) -> dict[str, Runtime]:
    try:
        return dict(cri(context).runtimes)
    except (ConfigError, Unread):
        return {}


@rule(
    "GM525",
    "containerd has the runtime `grit`",
    "kaito-project/grit contrib/containerd/config.toml; containerd internal/cri/config GenerateRuntimeOptions",
    applies=table_readable,
)
def table(context: Context) -> Iterator[Finding]:
    try:
        found = cri(context).runtimes.get("grit")
    except ConfigError:
        return  # GM511
    rows = lacking(found)
    if not rows:
        return
    k3s = embedded(context)
    if context.wanted.grit_role is None:
        made, refused = None, "GRIT is not in the wanted state of this host (`grit`)"
    elif k3s is not None:
        made, refused = _template_change(context)
    else:
        made, refused = containerd_config.change(context, {keys: value for keys, (value, _) in rows.items()})
    names = ", ".join(".".join(keys[3:]) for keys in rows)
    whose = f"{k3s.flavour.name}'s containerd" if k3s else "containerd"
    yield Finding(
        code="GM525",
        status=Status.FAIL,
        summary=f"{whose} has no runtime `grit`"
        if found is None
        else f"{whose}'s runtime `grit` lacks {names}",
        evidence=(
            Evidence(
                "containerd config dump", f"runtimes: {', '.join(sorted(_runtimes(context))) or 'none'}"
            ),
            *(
                Evidence("containerd config dump", f"{'.'.join(keys[2:])}: without it {why}")
                for keys, (_, why) in rows.items()
            ),
        ),
        cause="Pods of RuntimeClass grit start through this table alone.",
        remedy="Mend writes the table where this containerd reads it and restarts containerd: containers keep running."
        if made and not k3s
        else "Mend adds the table to the template; it counts after a restart of k3s."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=('no runtime for "grit" is configured', "type with url : not found"),
    )


def _template_change(context: Context) -> tuple[Change | None, str]:
    """The change that adds the table to k3s' template. k3s makes its configuration of it at its own next start, which is
    the owner's: GM512 says that it waits."""
    k3s = embedded(context)
    assert k3s is not None
    if not context.wanted.manage_containerd:
        return None, "containerd.manage is false"
    if not k3s.flavour.like_k3s:
        return None, containerd_config.managed_by(k3s)
    text = template_text(k3s)
    if text is not None and not TEMPLATE_BASE.search(text):
        return None, "the template has no base (GM510)"
    if (source := broken(k3s)[0]) or repeated(k3s)[0]:
        return (
            None,
            f"{source or k3s.template} would keep {k3s.flavour.name}'s containerd from starting (GM511)",
        )
    if text is not None and "runtimes.grit" in text:
        return (
            None,
            f"{k3s.template} has a table for grit: it waits for a restart of {k3s.flavour.name}, or lacks something",
        )
    if k3s.generated.get() is None:
        return (
            None,
            f"{k3s.flavour.name} has not written {k3s.flavour.generated} yet: which form it has is not known",
        )
    if k3s.template and (k3s.template == k3s.flavour.templates[0]) != _third(k3s):
        return None, f"{k3s.template} waits for a restart of {k3s.flavour.name} (GM512)"
    return Change(Component.CONTAINERD, AddTemplateTable()), ""


def _third(k3s: K3s) -> bool:
    """Whether what k3s wrote is of version 3: config-v3.toml.tmpl's, or a newer k3s' own."""
    return config_version(loads(k3s.flavour.generated, k3s.generated)) >= 3


def template(context: Context) -> tuple[str, str, str]:
    """(path, new text, what k3s would make of it) of the template with GRIT's table. The last is today's generated file
    and the table: the base is in it already."""
    k3s = embedded(context)
    assert k3s is not None
    generated = k3s.generated.map(lambda content: content.text()).need()
    third = _third(k3s)
    path = k3s.template or k3s.flavour.templates[0 if third else 1]
    text = template_text(k3s)
    plugin = V3_PLUGIN if third else V2_PLUGIN
    table = f'plugins."{plugin}".{".".join(BASE)}'
    block = (
        f'\n[{table}]\n  runtime_type = "{TYPE}"\n  pod_annotations = ["grit.dev/*"]\n'
        f'  container_annotations = ["grit.dev/*"]\n[{table}.options]\n  ConfigPath = "{CONFIG}"\n  TypeUrl = "{TYPE_URL}"\n'
    )
    old = text if text is not None else '{{ template "base" . }}\n'
    ended = old if old.endswith("\n") else f"{old}\n"
    return path, ended + block, f"{generated}\n{block}"


@rule(
    "GM526",
    "the shim of GRIT is installed",
    "containerd runtime v2: runtime_type io.containerd.grit.v1 is containerd-shim-grit-v1 in containerd's PATH",
    applies=table_readable,
)
def shim(context: Context) -> Iterator[Finding]:
    found = context.state.containerd.grit_shim
    if found.get() is not None:
        return
    yield Finding(
        code="GM526",
        status=Status.FAIL,
        summary=f"{SHIM} is not installed",
        evidence=(Evidence("PATH", f"no {SHIM}"),),
        cause="containerd looks for the program in its own PATH when a pod starts.",
        remedy="Install it into /usr/local/bin (upstream's Makefile), by a new name and a rename: a running one is busy.",
        refused="programs of GRIT are not installed by mend",
        symptoms=('runtime "io.containerd.grit.v1" binary not installed "containerd-shim-grit-v1"',),
    )
