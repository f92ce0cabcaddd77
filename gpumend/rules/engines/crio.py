"""GM55x: CRI-O: the nvidia runtime in its drop-ins, its spec directories, and whether the running one has them.

Judged where a CRI-O runs, or where the wanted state names it. It has CDI from 1.24 on, always on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules.change import SetValues
from gpumend.rules.engines.containerd_config import NVIDIA, Keys, injects
from gpumend.rules.engines.spec_directories import canonical, lacking, widened
from gpumend.rules.evidence import line_of, place, standing
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.containerd import ConfigError
from gpumend.state.crio import DIRECTORY, LIBEXEC, Settings
from gpumend.state.reading import Unread
from gpumend.state.toolkit import CONFIG as TOOLKIT_CONFIG
from gpumend.text.backports import tomllib
from gpumend.text.edits import Edit, EditError, apply_lines
from gpumend.text.version import Version

CDI_SINCE: Version = (1, 24)  # cdi_spec_dirs: pkg/config/config.go v1.24.0
RESTART = ("crio.service", "restart")
OURS = f"{DIRECTORY}/99-nvidia.toml"  # where nvidia-ctk runtime configure --runtime=crio writes
PROGRAM = "nvidia-container-runtime"
RUNTIMES: Keys = ("crio", "runtime", "runtimes")
# Of another runtime's table these are its own; all else (monitor, annotations) holds for nvidia, too, as nvidia-ctk has it.
OWN_KEYS = {"runtime_path", "runtime_type", "runtime_root", "runtime_config_path", "inherit_default_runtime"}
RELOADED = "`systemctl reload crio` shows a new runtime in `crio status config`, but pods of it fail"


def wanted_runtimes(context: Context) -> tuple[str, ...]:
    """The runtimes that CRI-O has to have on this host."""
    if context.wanted.crio_runtimes is not None:
        return context.wanted.crio_runtimes
    crio = context.state.crio
    return (NVIDIA,) if crio.installed and crio.running is not None else ()


def has_crio(context: Context) -> bool:
    """Whether there is a GPU, and a CRI-O that runs or is wanted."""
    crio = context.state.crio
    named = context.wanted.crio_runtimes is not None
    return has_gpu(context) and crio.installed and (crio.running is not None or named)


def unreadable_why(context: Context) -> tuple[str, str]:
    """(file and line, why) where CRI-O would not start with its files; empty texts where it would. Raises Unread."""
    try:
        context.state.crio.parsed()
    except ConfigError as error:
        return place(error.path, line_of(error.detail)), error.detail
    return "", ""


def readable(context: Context) -> bool:
    """CRI-O is judged, and GM551 does not apply: what its files hold can be judged."""
    return has_crio(context) and not unreadable_why(context)[0]


def home(context: Context, keys: Keys) -> str:
    """The file in which a key counts: the last one that has it, else the drop-in of our own."""
    parsed = context.state.crio.parsed()
    for path in reversed(tuple(parsed)):
        here: Any = parsed[path]
        for key in keys:
            here = here.get(key) if isinstance(here, Mapping) else None
        if here is not None:
            return path
    return OURS


def at(context: Context, keys: Keys, text: str) -> Evidence:
    """`file:line` of a key or table, and what stands there."""
    path = home(context, keys)
    content = context.state.crio.files.get(path)
    return standing(path, content.value if content else None, keys, text)


def hold_back(context: Context) -> str:
    """Why CRI-O's configuration is not changed on this host, or an empty text where it may be."""
    crio = context.state.crio
    if not context.wanted.manage_crio:
        return "crio.manage is false"
    if crio.elsewhere:
        return f"the running CRI-O was started with {crio.elsewhere}"
    if source := unreadable_why(context)[0]:
        return f"{source} cannot be read (GM551)"
    if crio.running is None:
        return "CRI-O does not run: nothing could be proven"
    unit = crio.unit.get()
    if unit is None:
        return "CRI-O is no systemd unit here"
    if str(unit.get("MainPID")) != str(crio.running.pid):
        return "the running CRI-O is not the one of crio.service"
    return ""


def change(context: Context, values: Mapping[Keys, Any]) -> tuple[Change | None, str]:
    """The change that sets these keys, each in the file where it counts, or why it is held back."""
    if held := hold_back(context):
        return None, held
    tables = {keys: home(context, keys[:4] if keys[:3] == RUNTIMES else keys) for keys in values}
    edits = tuple(Edit(tables[keys], keys, value) for keys, value in values.items())
    return Change(Component.CRIO, SetValues(edits), service=RESTART), ""


def monitor(context: Context, settings: Settings) -> str:
    """Where conmon is, as far as it has to be said: CRI-O finds one that is in its PATH by itself, at its start."""
    if settings.conmon:
        return ""
    crio = context.state.crio
    if crio.programs["conmon"].ok:
        return crio.programs["conmon"].need().path
    return f"{LIBEXEC}/conmon" if crio.libexec["conmon"].ok else ""


def staged_tree(context: Context, new: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The configuration as it will be, as files of one directory in the order in which CRI-O takes them: crio.conf first."""
    files = {
        path: content.value.data
        for path, content in context.state.crio.files.items()
        if content.value is not None
    }
    first, *rest = context.state.crio.files
    paths = [first, *sorted({*rest, *new} - {first})]
    merged = {**files, **new}
    return tuple((f"{number:03}.conf", merged[path]) for number, path in enumerate(paths) if path in merged)


def expected_dump(edits: Mapping[Keys, Any]) -> tuple[str, ...]:
    """What CRI-O's own account of the new configuration has to show: each runtime's table with its path."""
    return tuple(
        rf'(?m)^\[crio\.runtime\.runtimes\.{keys[3]}\]\s*$(?:\n(?!\[).*)*?\nruntime_path = "{value}"'
        for keys, value in edits.items()
        if keys[:3] == RUNTIMES and keys[-1] == "runtime_path"
    )


def loads_specs(context: Context) -> bool:
    """Whether one runs; raises Unread where nobody could look."""
    crio = context.state.crio
    return crio.installed and crio.running is not None


def systemd_runtimes(context: Context) -> dict[str, str]:
    """CRI-O's runtimes and their programs, where systemd keeps their containers' cgroups, as it does by default."""
    try:
        if not readable(context):
            return {}
        crio = context.state.crio
        tables = [raw.get("crio", {}).get("runtime", {}) for raw in crio.parsed().values()]
        managers = [table["cgroup_manager"] for table in tables if "cgroup_manager" in table]
        if managers and managers[-1] != "systemd":
            return {}
        found = crio.settings().runtimes
        return {
            f"CRI-O's runtime {name}": str(table.get("runtime_path") or "") for name, table in found.items()
        }
    except (ConfigError, Unread):  # GM551's
        return {}


@rule(
    "GM551",
    "CRI-O's configuration is readable",
    "cri-o pkg/config/config.go UpdateFromDropInFile; measured with 1.34.11 and 1.28.0",
    applies=has_crio,
)
def unreadable(context: Context) -> Iterator[Finding]:
    source, why = unreadable_why(context)
    if not source:
        return
    running = context.state.crio.running is not None
    yield Finding(
        code="GM551",
        status=Status.FAIL,
        summary=f"{source}: {why}",
        evidence=(Evidence(source, why),),
        cause="Edited by hand, or appended twice with `tee -a`."
        + (
            " CRI-O still runs with what it read before; it will not start again."
            if running
            else " CRI-O cannot start with it."
        ),
        remedy="Repair it by hand, and check it with `crio config`.",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
        symptoms=("unable to decode configuration",),
    )


@rule(
    "GM552",
    "CRI-O has the nvidia runtime",
    "nct pkg/config/engine/crio; cri-o docs/crio.conf.5.md crio.runtime.runtimes; measured with 1.34.11 and 1.28.0",
    applies=readable,
)
def nvidia_runtime(context: Context) -> Iterator[Finding]:
    if NVIDIA not in wanted_runtimes(context):
        return
    program = context.state.toolkit.programs[PROGRAM].get()
    if program is None:
        return
    settings = context.state.crio.settings()
    known = settings.runtimes.get(NVIDIA)
    path = str((known or {}).get("runtime_path") or "")
    if known is not None and injects(path):
        return
    base: Keys = (*RUNTIMES, NVIDIA)
    values: dict[Keys, Any] = {(*base, "runtime_path"): program.path}
    if known is None or known.get("runtime_type") not in (None, "", "oci"):
        values[(*base, "runtime_type")] = "oci"
    if known is None:
        inherited = settings.runtimes.get(settings.default, {})
        values.update({(*base, key): value for key, value in inherited.items() if key not in OWN_KEYS})
        # A runtime without it has none after the next SIGHUP: only a start of CRI-O looks conmon up.
        if "monitor_path" not in inherited and (found := monitor(context, settings)):
            values[(*base, "monitor_path")] = found
    made, refused = change(context, values)
    yield Finding(
        code="GM552",
        status=Status.FAIL,
        summary="CRI-O does not know the runtime `nvidia`"
        if known is None
        else f"CRI-O's runtime `nvidia` calls {path or 'a program `nvidia` in its PATH'}",
        evidence=(
            Evidence(
                "crio.conf and crio.conf.d", f"runtimes: {', '.join(sorted(settings.runtimes)) or 'none'}"
            ),
            *(() if known is None else (at(context, base, f"runtime_path = {path!r}"),)),
        ),
        cause=f"No file of {DIRECTORY} registers it."
        if known is None
        else "Without nvidia-container-runtime nothing injects the GPU.",
        remedy="Mend writes it and restarts CRI-O: containers keep running."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("failed to find runtime handler nvidia from runtime list",),
    )


@rule(
    "GM553",
    "CRI-O reads both spec directories",
    "cri-o docs/crio.conf.5.md cdi_spec_dirs (1.24); CDI SPEC.md",
    applies=readable,
)
def narrowed(context: Context) -> Iterator[Finding]:
    version = context.state.crio.version.need()
    settings = context.state.crio.settings()
    missing = lacking(settings.cdi_spec_dirs)
    if version < CDI_SINCE or not missing:
        return
    keys: Keys = ("crio", "runtime", "cdi_spec_dirs")
    made, refused = change(context, {keys: widened(settings.cdi_spec_dirs)})
    yield Finding(
        code="GM553",
        status=Status.WARN,
        summary=f"CRI-O's cdi_spec_dirs leaves out {', '.join(missing)}",
        evidence=(at(context, keys, f"cdi_spec_dirs = {list(settings.cdi_spec_dirs)}"),),
        cause="nvidia-cdi-refresh writes to /var/run/cdi, `nvidia-ctk cdi generate` guides to /etc/cdi.",
        remedy="Mend sets it and restarts CRI-O: containers keep running."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("unresolvable CDI devices", "CDI injection failed"),
    )


@rule(
    "GM554",
    "CRI-O's default runtime is there, and the wanted one",
    "cri-o pkg/config/config.go ValidateDefaultRuntime; measured with 1.34.11",
    applies=readable,
)
def default_runtime(context: Context) -> Iterator[Finding]:
    settings = context.state.crio.settings()
    keys: Keys = ("crio", "runtime", "default_runtime")
    wanted = context.wanted.crio_default
    missing = settings.default not in settings.runtimes
    if not missing and wanted in ("keep", settings.default):
        return
    made: Change | None = None
    refused = "which runtime is meant is the owner's decision"
    program = context.state.toolkit.programs[PROGRAM].get()
    coming = program is not None and NVIDIA in wanted_runtimes(context)
    if wanted in settings.runtimes or (wanted == NVIDIA and coming):
        made, refused = change(context, {keys: wanted})
    elif wanted != "keep":
        refused = f"there is no runtime {wanted!r}"
    yield Finding(
        code="GM554",
        status=Status.FAIL if missing else Status.WARN,
        summary=f"CRI-O's default runtime {settings.default!r} is not among its runtimes: it will not start"
        if missing
        else f"CRI-O's default runtime is {settings.default!r}, wanted is {wanted!r}",
        evidence=(
            at(context, keys, f"default_runtime = {settings.default!r}"),
            Evidence("crio.conf and crio.conf.d", f"runtimes: {', '.join(sorted(settings.runtimes))}"),
        ),
        cause="The file that had its table was removed or renamed." if missing else "",
        remedy="Mend sets it and restarts CRI-O: containers keep running."
        if made
        else "Set it, or add its table.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("default_runtime set to",),
    )


@rule(
    "GM555",
    "the running CRI-O has what its files say",
    "cri-o pkg/config/reload.go ReloadRuntimes, 1.26 to 1.36: a reload starts no pod with it; measured with 1.34.11 and 1.28.0",
    applies=readable,
)
def not_restarted(context: Context) -> Iterator[Finding]:
    crio = context.state.crio
    if crio.running is None or crio.elsewhere:
        return
    settings, live = crio.settings(), crio.live_settings()
    if live is None:
        return
    shown = [*_differences(settings, live), *_later(context)]
    if not shown:
        return
    made, refused = change(context, {})
    yield Finding(
        code="GM555",
        status=Status.WARN,
        summary=f"the running CRI-O does not have what its files say: {shown[0].text}",
        evidence=tuple(shown[:6]),
        cause=f"Files that were changed after its start, or only reloaded: {RELOADED} until a restart.",
        remedy="Mend restarts CRI-O: containers keep running." if made else "Restart CRI-O.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("failed to find runtime handler",),
    )


def _later(context: Context) -> Iterator[Evidence]:
    """Files with runtimes that are newer than the running CRI-O. Reloaded, they are in its own account whole, with their
    monitor_path, and yet no pod starts through them."""
    crio = context.state.crio
    started = crio.running.start if crio.running else 0.0
    for path, raw in crio.parsed().items():
        content = crio.files[path].need()
        named = raw.get("crio", {}).get("runtime", {}).get("runtimes")
        if named and content.meta.mtime > started + 1:
            yield Evidence(
                path, f"its runtimes were changed at {content.meta.mtime:.0f}, CRI-O started at {started:.0f}"
            )


def _differences(settings: Settings, live: Settings) -> Iterator[Evidence]:
    source = "crio status config"
    for name, table in settings.runtimes.items():
        running = live.runtimes.get(name)
        path = str(table.get("runtime_path") or "")
        if running is None:
            yield Evidence(source, f"no runtime {name}")
        elif path and running.get("runtime_path") != path:
            yield Evidence(
                source, f"runtime {name}: runtime_path = {running.get('runtime_path')!r}, not {path!r}"
            )
        elif running.get("runtime_type") in (None, "", "oci") and not running.get("monitor_path"):
            yield Evidence(
                source,
                f"runtime {name} has no monitor_path: it came with a reload, and no pod starts through it",
            )
    if live.default != settings.default:
        yield Evidence(source, f"default_runtime = {live.default!r}, not {settings.default!r}")
    if tuple(map(canonical, live.cdi_spec_dirs)) != tuple(map(canonical, settings.cdi_spec_dirs)):
        yield Evidence(
            source, f"cdi_spec_dirs = {list(live.cdi_spec_dirs)}, not {list(settings.cdi_spec_dirs)}"
        )


@rule(
    "GM556",
    "nvidia-container-runtime finds an OCI runtime beside CRI-O",
    "nct internal/runtime/runtime_factory.go, internal/oci/runtime_low_level.go; cri-o packaging: runc and crun in /usr/libexec/crio",
    applies=has_crio,
)
def no_low_level(context: Context) -> Iterator[Finding]:
    if NVIDIA not in wanted_runtimes(context) or context.state.toolkit.programs[PROGRAM].get() is None:
        return
    keys = (PROGRAM, "runtimes")
    crio = context.state.crio
    listed = context.state.toolkit.value(*keys)
    candidates = listed if isinstance(listed, list) and listed else ["runc", "crun"]
    here = {name for name, found in crio.programs.items() if found.get() is not None}
    beside = [f"{LIBEXEC}/{name}" for name in ("crun", "runc") if crio.libexec[name].get() is not None]
    unseen = [
        name for name in candidates if name not in ("runc", "crun", "docker-runc") and name not in beside
    ]
    if here & set(candidates) or set(beside) & set(candidates) or unseen or not beside:
        return
    made: Change | None = None
    refused = "" if context.wanted.manage_runtime else "runtime.manage is false"
    if not refused:
        made = Change(Component.TOOLKIT, SetValues((Edit(TOOLKIT_CONFIG, keys, [*candidates, beside[0]]),)))
    yield Finding(
        code="GM556",
        status=Status.FAIL,
        summary=f"none of {', '.join(candidates)} is in PATH: nvidia-container-runtime has nothing to call",
        evidence=(
            Evidence(TOOLKIT_CONFIG, f"nvidia-container-runtime.runtimes = {candidates}"),
            *(Evidence(path, "CRI-O's own, which is not in PATH") for path in beside),
        ),
        cause="CRI-O's packages bring their OCI runtimes in a directory of their own.",
        remedy=f"Mend adds {beside[0]} to the list. It is read at every container start: nothing is restarted."
        if made
        else "Add one of them to the list.",
        change=made,
        refused=refused,
        symptoms=("no runtime binary found from candidate list",),
    )


def planned_files(context: Context, edits: Mapping[str, list[Edit]]) -> dict[str, bytes]:
    """The new bytes of each file that changes. Raises EditError where one cannot be edited alone, Unread."""
    new = {}
    for path, mine in edits.items():
        content = context.state.crio.files.get(path)
        found = content.get() if content is not None else None
        was = found.data if found else None
        try:
            data = apply_lines(path, was, mine)
        except tomllib.TOMLDecodeError as error:
            raise EditError(f"{path}: {error}") from None
        if data != was:
            new[path] = data
    return new
