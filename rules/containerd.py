"""GM50x, GM51x: containerd beside Docker, and k3s or RKE2 around it.

Judged where something starts containers through it: a kubelet, k3s, GRIT, or a wanted state that names it. A containerd
that only serves Docker needs no nvidia runtime of its own.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from facts.containerd import (
    CONFIG,
    MERGES_KEYS,
    V2_PLUGIN,
    V3_PLUGIN,
    ConfigError,
    Cri,
    K3s,
    config_version,
    imports_of,
    loads,
    names_read,
    newest_config,
    order,
    plugin_of,
    unread_imports,
)
from facts.reading import Unread
from facts.version import Version, show
from rules.cdi import canonical
from rules.edits import Edit, EditError, apply_lines
from rules.edits.toml_lines import scan
from rules.finding import Change, Component, Evidence, Finding, Risk, Status
from rules.rule import Context, has_gpu, rule

CDI_SINCE: Version = (1, 7)  # enable_cdi: containerd v1.7.0 pkg/cri/config/config_unix.go
RESTART = ("containerd.service", "restart")
NVIDIA = "nvidia"
RUNC = "io.containerd.runc.v2"
DEFAULT_DIRS = ("/etc/cdi", "/var/run/cdi")
Keys = tuple[str, ...]


def serves_pods(context: Context) -> bool:
    """Whether a kubelet, k3s or CRI client starts containers through the containerd that is a service here."""
    kubernetes = context.state.kubernetes
    if kubernetes.k3s is not None and kubernetes.k3s.embedded and not kubernetes.kubelet.process.ok:
        return False
    return kubernetes.here


def embedded(context: Context) -> K3s | None:
    """k3s or RKE2, where its own containerd serves the kubelet."""
    k3s = context.state.kubernetes.k3s
    return k3s if k3s is not None and k3s.embedded else None


def wanted_runtimes(context: Context) -> tuple[str, ...]:
    """The runtimes that containerd's CRI has to have on this host."""
    if context.wanted.containerd_runtimes is not None:
        return context.wanted.containerd_runtimes
    pods = serves_pods(context) or embedded(context) is not None
    return (NVIDIA,) if pods or context.wanted.grit_role else ()


def has_containerd(context: Context) -> bool:
    """Whether there is a GPU and a containerd of its own that somebody uses beside Docker."""
    if not has_gpu(context) or not context.state.containerd.installed or embedded(context) is not None:
        return False
    return bool(wanted_runtimes(context)) or uses_grit(context)


def uses_grit(context: Context) -> bool:
    return context.wanted.grit_role is not None or not context.state.grit.content.absent


def readable(context: Context) -> bool:
    """containerd is judged, and GM501 has no say: what its files hold can be judged."""
    return has_containerd(context) and not unreadable_why(context)


def has_k3s(context: Context) -> bool:
    return has_gpu(context) and context.state.kubernetes.k3s is not None


def cri(context: Context) -> Cri:
    """The CRI settings of the containerd that serves here; raises Unread or ConfigError."""
    k3s = embedded(context)
    return k3s.cri() if k3s is not None else context.state.containerd.cri()


def version_of(context: Context) -> Version:
    return context.state.containerd.version.need()


def where(text: str, keys: Keys) -> int | None:
    """The number of the line, from 1, on which a TOML text has the table or the key of this path, or the first below it."""
    try:
        items = scan(text.splitlines())
    except (EditError, tomllib.TOMLDecodeError):
        return None
    found = next((item for item in items if item.keys == keys), None)
    found = found or next((item for item in items if item.keys[: len(keys)] == keys), None)
    return found.start + 1 if found else None


def line_of(detail: str) -> int | None:
    """The line that tomllib's message names: `Cannot declare ('a',) twice (at line 4, column 3)`."""
    found = re.search(r"at line (\d+)", detail)
    return int(found.group(1)) if found else None


# --- what is where


@dataclass(frozen=True)
class Layout:
    """The files of the running containerd. order: as they are merged. plugin: the CRI's table in the root file."""

    version: Version
    root: str
    parsed: Mapping[str, Mapping[str, Any]]
    order: tuple[str, ...]
    highest: int

    @property
    def plugin(self) -> str:
        return plugin_of(self.version, self.highest)

    def names(self, path: str) -> tuple[str, ...]:
        return names_read(self.version, self.highest, config_version(self.parsed.get(path, {})))

    def home(self, keys: Keys) -> tuple[str, str]:
        """(file, plugin name) in which a key below the CRI's table has to stand to count.

        Before 2.1 that is the last file that has the plugin's table; from then on the last that has the key, else the
        root file.
        """
        for path in reversed(self.order):
            plugins = self.parsed.get(path, {}).get("plugins")
            plugins = plugins if isinstance(plugins, Mapping) else {}
            for name in self.names(path):
                part = plugins.get(name)
                if not isinstance(part, Mapping):
                    continue
                if self.version < MERGES_KEYS or _has(part, keys):
                    return path, name
        return self.root, self.plugin


def _has(table: Any, keys: Keys) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def layout(context: Context) -> Layout:
    """Raises Unread where a file could not be read, ConfigError where containerd would not start with one."""
    containerd = context.state.containerd
    version, parsed = containerd.version.need(), containerd.parsed()
    files = order(containerd.path, parsed, version)
    highest = max((config_version(parsed[path]) for path in files if path in parsed), default=0)
    if highest == 0 or not any(parsed.get(path) for path in files):
        highest = 3 if version >= (2, 0) else 2
    return Layout(version, containerd.path, parsed, files, highest)


def evidence(context: Context, path: str, keys: Keys, text: str) -> Evidence:
    """`file:line` of a key or table, and what stands there."""
    content = context.state.containerd.files.get(path)
    data = content.value.data.decode("utf-8", "replace") if content and content.value else ""
    number = where(data, keys)
    return Evidence(f"{path}:{number}" if number else path, text)


def hold_back(context: Context) -> str:
    """Why containerd's configuration is not changed on this host, or an empty text where it may be."""
    containerd = context.state.containerd
    if not context.wanted.manage_containerd:
        return "containerd.manage is false"
    if embedded(context) is not None:
        return "k3s writes this containerd's configuration: its template is what counts"
    if why := unreadable_why(context):
        return f"{why} (GM501)"
    found = layout(context)
    raw = found.parsed.get(found.root, {})
    if raw and "version" not in raw and found.version >= (2, 0):
        return f"{found.root} has no `version`, and this containerd ignores its CRI settings (GM502)"
    if unread := unread_imports(found.root, found.parsed):
        return f"{found.root} imports {unread[0]}, which is not read"
    if list(misplaced(found)):
        return "some settings stand where this containerd ignores them (GM502)"
    if not containerd.cri().enabled:
        return "the CRI plugin is among disabled_plugins"
    return restart_hold(context)


def restart_hold(context: Context) -> str:
    """Why a restart of containerd would not be safe on this host, or an empty text."""
    containerd = context.state.containerd
    if containerd.process.absent:
        return "containerd does not run: nothing could be proven"
    unit = containerd.unit.get()
    if unit is None:
        return "containerd is no systemd unit here"
    if str(unit.get("MainPID")) != str(containerd.process.need().pid):
        return "the running containerd is not the one of containerd.service"
    if unit.get("KillMode") != "process":
        return f"KillMode={unit.get('KillMode')}: a restart would stop every container (GM506)"
    bound = {word for key in ("RequiredBy", "BoundBy", "ConsistsOf") for word in unit.get(key, "").split()}
    lives = (context.state.docker.info.value or {}).get("LiveRestoreEnabled")
    running = any(found.running for found in context.state.docker.containers.value or ())
    if "docker.service" in bound and running and not lives:
        return "docker.service is bound to it: a restart of containerd would restart dockerd and stop its containers"
    return ""


def change(context: Context, values: Mapping[Keys, Any]) -> tuple[Change | None, str]:
    """The change that sets keys below the CRI's table, each in the file where it counts, or why it is held back."""
    if held := hold_back(context):
        return None, held
    found = layout(context)
    edits = []
    if not found.parsed.get(found.root):
        edits.append(Edit(found.root, ("version",), found.highest))
    for keys, value in (*default_runtime(context, found, values).items(), *values.items()):
        path, name = found.home(keys)
        edits.append(Edit(path, ("plugins", name, *keys), value))
    return Change(Component.CONTAINERD, tuple(edits), service=RESTART), ""


def default_runtime(context: Context, found: Layout, values: Mapping[Keys, Any]) -> dict[Keys, Any]:
    """What keeps `runc` beside a first runtime of one's own: before 2.0 a file that names any runtime takes it away, and
    the CRI plugin does not load then (`no corresponding runtime configured`, measured with 1.6.20 and 1.7.24)."""
    if found.version >= (2, 0) or not any(keys[:2] == ("containerd", "runtimes") for keys in values):
        return {}
    path, name = found.home(("containerd", "runtimes"))
    part = (found.parsed.get(path, {}).get("plugins") or {}).get(name) or {}
    default = cri(context).default
    if default != "runc" or _has(part, ("containerd", "runtimes", default)):
        return {}
    base: Keys = ("containerd", "runtimes", default)
    made: dict[Keys, Any] = {(*base, "runtime_type"): RUNC}
    if context.state.kubernetes.cgroup_driver == "systemd":
        made[(*base, "options", "SystemdCgroup")] = True
    return made


def staged_tree(context: Context, new: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The configuration as it will be, as files of one folder: `config.toml` and the drop-ins that change. Imports of the
    root are absolute there, and name the new drop-ins in place of the old. `{tree}` stands for the folder."""
    found = layout(context)
    content = context.state.containerd.files[found.root].get()
    root = new.get(found.root, content.data if content else b"")
    raw = tomllib.loads(root.decode("utf-8"))
    patterns = imports_of(found.root, raw)
    changed = [path for path in found.order if path in new and path != found.root]
    if not patterns and not changed:
        return (("config.toml", root),)
    imports: list[str] = []
    for pattern in patterns:
        listed = [path for path in found.order if path != found.root and fnmatchcase(path, pattern)]
        imports += (
            [f"{{tree}}/{changed.index(path)}.toml" if path in changed else path for path in listed]
            if set(listed) & set(changed)
            else [pattern]
        )
    staged = apply_lines(found.root, root, [Edit(found.root, ("imports",), imports)])
    return (("config.toml", staged), *((f"{number}.toml", new[path]) for number, path in enumerate(changed)))


def expected_dump(edits: Iterable[Edit]) -> tuple[str, ...]:
    """What containerd's own dump of the new configuration has to show: each runtime's table, and each text set."""
    found = []
    for edit in edits:
        if "runtimes" in edit.keys:
            name = edit.keys[edit.keys.index("runtimes") + 1]
            found.append(rf"(?m)^\s*\[plugins\..*\.runtimes\.[\"']?{re.escape(name)}[\"']?\]")
        if isinstance(edit.value, str):
            found.append(rf"(?m)^\s*{re.escape(edit.keys[-1])} = [\"']{re.escape(edit.value)}[\"']")
        elif isinstance(edit.value, bool):
            found.append(rf"(?m)^\s*{re.escape(edit.keys[-1])} = {str(edit.value).lower()}\b")
    return tuple(dict.fromkeys(found))


# --- GM501, GM502: the files


def unreadable_why(context: Context) -> str:
    """In containerd's or tomllib's words, why containerd would not start with its files; empty where it would.
    Raises Unread where that is not known."""
    containerd = context.state.containerd
    try:
        parsed = containerd.parsed()
        newest = newest_config(containerd.version.need())
        for path in order(containerd.path, parsed, containerd.version.need()):
            number = config_version(parsed.get(path, {}))
            if newest is not None and number > newest:
                return f"{path}: version = {number}, this containerd takes up to {newest}"
        if containerd.path == CONFIG and containerd.dump.detail.startswith("exit status"):
            return f"{CONFIG}: {containerd.dump.detail.partition(': ')[2]}"
    except ConfigError as error:
        number_of = line_of(error.detail)
        return f"{error.path}:{number_of}: {error.detail}" if number_of else str(error)
    return ""


@rule(
    "GM501",
    "containerd's configuration is readable",
    "containerd services/server/config; measured with 1.6.20, 1.7.24, 2.1.9; awslabs/amazon-eks-ami#1628",
    applies=has_containerd,
)
def unreadable(context: Context) -> Iterator[Finding]:
    why = unreadable_why(context)
    if not why:
        return
    source, _, text = why.partition(": ")
    running = context.state.containerd.process.ok
    yield Finding(
        code="GM501",
        status=Status.FAIL,
        summary=why,
        evidence=(Evidence(source, text),),
        cause="Edited by hand, or appended twice with `tee -a`."
        + (
            " containerd still runs with what it read before; it will not start again."
            if running
            else " containerd cannot start with it."
        ),
        remedy=f"Repair it by hand, and check it with `containerd --config {context.state.containerd.path} config dump`.",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
        symptoms=("containerd: failed to load TOML", "containerd: failed to unmarshal TOML"),
    )


def misplaced(found: Layout) -> Iterator[tuple[str, str, str]]:
    """(file, plugin name, why) of CRI settings that stand where this containerd ignores them."""
    for path in found.order:
        raw = found.parsed.get(path, {})
        plugins = raw.get("plugins")
        for name in ("cri", V2_PLUGIN, V3_PLUGIN) if isinstance(plugins, Mapping) else ():
            part = plugins.get(name) if isinstance(plugins, Mapping) else None
            if not isinstance(part, Mapping) or name in found.names(path):
                continue
            if name == V2_PLUGIN and found.highest >= 3:
                part = {key: value for key, value in part.items() if key not in V3_GRPC_KEYS}
            if not part:
                continue
            if name == V3_PLUGIN:
                why = f"containerd {show(found.version)} has it under {V2_PLUGIN}"
            elif config_version(raw) < found.highest:
                why = f"another file has version = {found.highest}, so this one's version {config_version(raw)} is not converted"
            elif "version" not in raw:
                why = "the file has no `version`"
            else:
                why = f"in a file of version {config_version(raw)} it is {found.plugin}"
            yield path, name, why


# What io.containerd.grpc.v1.cri still has in version 3: the streaming server (containerd docs/cri/config.md).
V3_GRPC_KEYS = {
    "disable_tcp_service", "stream_server_address", "stream_server_port", "stream_idle_timeout", "enable_tls_streaming",
    "x509_key_pair_streaming",
}  # fmt: skip


@rule(
    "GM502",
    "CRI settings stand where this containerd reads them",
    "containerd docs/cri/config.md, RELEASES.md; measured with 1.6.20, 1.7.24, 2.1.9; nct#1222",
    applies=readable,
)
def ignored(context: Context) -> Iterator[Finding]:
    found = layout(context)
    for path, name, why in misplaced(found):
        yield Finding(
            code="GM502",
            status=Status.FAIL,
            summary=f'{path}: [plugins."{name}"] has no effect: {why}',
            evidence=(
                evidence(context, path, ("plugins", name), f'[plugins."{name}"]'),
                Evidence("containerd --version", show(found.version)),
                evidence(
                    context,
                    found.root,
                    ("version",),
                    f"version = {config_version(found.parsed.get(found.root, {}))}",
                ),
            ),
            cause="containerd ignores tables of a plugin that it does not have, without an error: runtimes, cgroup driver and "
            "CDI in them are lost.",
            remedy="Move the settings under the right name, or convert the file with `containerd config migrate`.",
            refused="moving a whole configuration is the owner's decision",
            symptoms=("Ignoring unknown key in TOML for plugin", 'no runtime for "nvidia" is configured'),
        )
    if found.version >= MERGES_KEYS:
        return
    for path in found.order[1:]:
        for name in found.names(path):
            lost = sorted(_lost(found, path, name))
            if lost:
                yield Finding(
                    code="GM502",
                    status=Status.WARN,
                    summary=f'{path}: its [plugins."{name}"] replaces the whole table: {", ".join(lost[:4])} lost',
                    evidence=(
                        evidence(context, path, ("plugins", name), f'[plugins."{name}"]'),
                        *(
                            evidence(
                                context,
                                found.root,
                                ("plugins", name, *key.split(".")),
                                f"{key}: has no effect",
                            )
                            for key in lost[:4]
                        ),
                    ),
                    cause=f"containerd before {show(MERGES_KEYS)} does not merge a plugin's table: the last file that has it counts alone.",
                    remedy="Repeat those settings in the drop-in, or write everything into one file.",
                    refused="which of the two files is meant is the owner's decision",
                )


def _lost(found: Layout, path: str, name: str) -> Iterator[str]:
    """Keys of the root's table that a drop-in, which replaces it, has not."""
    root = (found.parsed.get(found.root, {}).get("plugins") or {}).get(name)
    own = (found.parsed.get(path, {}).get("plugins") or {}).get(name)
    if not isinstance(root, Mapping) or not isinstance(own, Mapping):
        return
    for keys, _ in _leaves(root):
        if not _has(own, keys):
            yield ".".join(keys)


def _leaves(table: Mapping[str, Any], above: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key), value


# --- GM503 to GM505: what it has


@rule(
    "GM503",
    "containerd has the nvidia runtime",
    "nct pkg/config/engine/containerd; nd#1788 (SystemdCgroup); nct#1222",
    applies=readable,
)
def nvidia_runtime(context: Context) -> Iterator[Finding]:
    if NVIDIA not in wanted_runtimes(context):
        return
    program = context.state.toolkit.programs["nvidia-container-runtime"].get()
    settings, containerd = cri(context), context.state.containerd
    known = settings.runtimes.get(NVIDIA)
    if program is None or (known is not None and known.binary.endswith("nvidia-container-runtime")):
        return
    base: Keys = ("containerd", "runtimes", NVIDIA)
    values: dict[Keys, Any] = {
        (*base, "runtime_type"): RUNC,
        (*base, "options", "BinaryName"): program.path,
    }
    if expected_systemd(context):
        values[(*base, "options", "SystemdCgroup")] = True
    made, refused = change(context, values)
    yield Finding(
        code="GM503",
        status=Status.FAIL,
        summary="containerd does not know the runtime `nvidia`"
        if known is None
        else f"containerd's runtime `nvidia` calls {known.binary or 'runc'}",
        evidence=(
            Evidence("containerd config dump", f"runtimes: {', '.join(sorted(settings.runtimes)) or 'none'}"),
        ),
        cause=f"It is not registered in {containerd.path}, the file that this containerd reads."
        if known is None
        else "Without nvidia-container-runtime nothing injects the GPU.",
        remedy="Mend registers it and restarts containerd: containers keep running."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=('no runtime for "nvidia" is configured',),
    )


def expected_systemd(context: Context) -> bool | None:
    """Whether runtimes have to use systemd's cgroups on this host: as the kubelet does, else as the default runtime
    does; None where neither says so."""
    driver = context.state.kubernetes.cgroup_driver
    if driver in ("systemd", "cgroupfs"):
        return driver == "systemd"
    try:
        settings = cri(context)
    except (ConfigError, Unread):
        return None
    default = settings.runtimes.get(settings.default)
    return default.systemd_cgroup if default else None


@rule(
    "GM504",
    "containerd's CDI is on",
    "containerd v1.7.0 pkg/cri/config/config_unix.go; docs/containerd-2.0.md; RELEASES.md (2.2: deprecated, always on)",
    applies=readable,
)
def cdi_off(context: Context) -> Iterator[Finding]:
    version, settings = version_of(context), cri(context)
    if not wanted_runtimes(context) or version < CDI_SINCE:
        return
    values: dict[Keys, Any] = {}
    if settings.enable_cdi is not True:
        values[("enable_cdi",)] = True
    have = [canonical(folder) for folder in settings.cdi_spec_dirs]
    lacking = [folder for folder in DEFAULT_DIRS if folder not in have]
    if lacking:
        values[("cdi_spec_dirs",)] = [
            *DEFAULT_DIRS,
            *(folder for folder in have if folder not in DEFAULT_DIRS),
        ]
    if not values:
        return
    made, refused = change(context, values)
    off = settings.enable_cdi is not True
    yield Finding(
        code="GM504",
        status=Status.FAIL if off else Status.WARN,
        summary=f"CDI is off in containerd {show(version)}"
        if off
        else f"cdi_spec_dirs leaves out {', '.join(lacking)}",
        evidence=(
            Evidence("containerd config dump", f"enable_cdi = {str(settings.enable_cdi).lower()}"),
            Evidence("containerd config dump", f"cdi_spec_dirs = {list(settings.cdi_spec_dirs)}"),
        ),
        cause="containerd 1.7 has CDI off unless enable_cdi is true; from 2.0 on it is on."
        if off
        else "nvidia-cdi-refresh writes to /var/run/cdi, `nvidia-ctk cdi generate` guides to /etc/cdi.",
        remedy="Mend sets it and restarts containerd: containers keep running."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("unresolvable CDI devices", "CDI injection failed"),
    )


@rule(
    "GM505",
    "containerd's runtimes use the kubelet's cgroup driver",
    "nd#1788, k3s-io/k3s#11631; kubernetes.io: configuring a cgroup driver",
    applies=readable,
)
def cgroup_driver(context: Context) -> Iterator[Finding]:
    driver = context.state.kubernetes.cgroup_driver
    if driver not in ("systemd", "cgroupfs"):
        return
    settings = cri(context)
    wrong = [
        found
        for found in settings.runtimes.values()
        if found.type == RUNC and found.systemd_cgroup != (driver == "systemd")
    ]
    if not wrong:
        return
    values: dict[Keys, Any] = {
        ("containerd", "runtimes", found.name, "options", "SystemdCgroup"): driver == "systemd"
        for found in wrong
    }
    made, refused = change(context, values)
    names = ", ".join(found.name for found in wrong)
    yield Finding(
        code="GM505",
        status=Status.FAIL,
        summary=f"the kubelet's cgroup driver is {driver}, containerd's is not: {names}",
        evidence=tuple(
            Evidence(
                "containerd config dump", f"{found.name}: SystemdCgroup = {str(found.systemd_cgroup).lower()}"
            )
            for found in wrong
        ),
        cause="`nvidia-ctk runtime configure` without a containerd config wrote a runtime without SystemdCgroup."
        if any(found.name == NVIDIA for found in wrong)
        else "The runtime has the default, cgroupfs.",
        remedy="Mend sets SystemdCgroup and restarts containerd: containers keep running."
        if made
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("pods crash-loop after nvidia-ctk runtime configure",),
    )


# --- GM506 to GM508: the daemon


@rule(
    "GM506",
    "a restart of containerd keeps its containers",
    "containerd containerd.service (KillMode=process, Delegate=yes); systemd.kill(5)",
    applies=has_containerd,
)
def kill_mode(context: Context) -> Iterator[Finding]:
    unit = context.state.containerd.unit.get()
    if unit is None or unit.get("KillMode") in ("process", "none", None):
        return
    yield Finding(
        code="GM506",
        status=Status.WARN,
        summary=f"KillMode={unit.get('KillMode')} in containerd.service: a restart of containerd stops every container",
        evidence=(
            Evidence(
                "systemctl show containerd.service",
                f"KillMode={unit.get('KillMode')}, Delegate={unit.get('Delegate')}",
            ),
            Evidence(unit.get("FragmentPath", "containerd.service"), "the unit"),
        ),
        cause="A unit written by hand lacks KillMode=process, which containerd's own has: systemd then kills the shims, too.",
        remedy="A drop-in with [Service] KillMode=process and Delegate=yes, then `systemctl daemon-reload`.",
        refused="units are not changed by mend; until then it does not restart containerd",
    )


@rule(
    "GM507",
    "containerd's default runtime is there",
    "containerd pkg/cri/config ValidatePluginConfig; measured with 1.6.20 and 1.7.24",
    applies=readable,
)
def default_missing(context: Context) -> Iterator[Finding]:
    settings = cri(context)
    if settings.default in settings.runtimes or not settings.enabled:
        return
    values: dict[Keys, Any] = {}
    refused = "which runtime is meant is the owner's decision"
    made = None
    if settings.default == "runc":
        values[("containerd", "runtimes", "runc", "runtime_type")] = RUNC
        if expected := context.state.kubernetes.cgroup_driver == "systemd":
            values[("containerd", "runtimes", "runc", "options", "SystemdCgroup")] = expected
        made, refused = change(context, values)
    yield Finding(
        code="GM507",
        status=Status.FAIL,
        summary=f"containerd's default runtime {settings.default!r} is not among its runtimes: its CRI plugin does not load",
        evidence=(Evidence("containerd config dump", f"runtimes: {', '.join(sorted(settings.runtimes))}"),),
        cause="Before 2.0, a file that names a runtime of its own takes the built-in `runc` away.",
        remedy="Mend adds it and restarts containerd: containers keep running." if made else "Add it.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("no corresponding runtime configured in `containerd.runtimes`",),
    )


@rule(
    "GM508",
    "containerd runs with its present files",
    "containerd reads its files at start only; proc(5) starttime",
    applies=readable,
)
def not_restarted(context: Context) -> Iterator[Finding]:
    containerd = context.state.containerd
    process = containerd.process.get()
    if process is None:
        return
    found = layout(context)
    later = [
        content.value
        for path in found.order
        if (content := containerd.files.get(path))
        and content.value
        and content.value.meta.mtime > process.start + 1
    ]
    if not later:
        return
    held = "" if context.wanted.manage_containerd else "containerd.manage is false"
    held = held or restart_hold(context)
    made = None if held else Change(Component.CONTAINERD, service=RESTART)
    yield Finding(
        code="GM508",
        status=Status.WARN,
        summary=f"{later[0].path} was changed after containerd started: the running one does not have it",
        evidence=(
            Evidence("/proc", f"containerd {process.pid} started at {process.start:.0f}"),
            *(Evidence(item.path, f"changed at {item.meta.mtime:.0f}") for item in later),
        ),
        cause="containerd reads its files at start only.",
        remedy="Mend restarts containerd: containers keep running." if made else "Restart containerd.",
        risk=Risk.RESTART,
        change=made,
        refused=held,
    )


# --- GM510 to GM512: k3s and RKE2

BASE = re.compile(r"\{\{-?\s*template\s+\"base\"\s+\.\s*-?\}\}")


def template_text(k3s: K3s) -> str | None:
    """The text of the template that counts; None where there is none. Raises Unread."""
    path = k3s.template
    content = k3s.templates[path].get() if path else None
    return content.text() if content else None


@rule(
    "GM510",
    "the k3s template includes the base",
    "k3s-io/k3s pkg/agent/containerd/config.go; docs.k3s.io advanced: configuring containerd",
    applies=has_k3s,
)
def template_without_base(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None or (text := template_text(k3s)) is None or BASE.search(text):
        return
    # A template may well be a whole configuration; it is a loss only where CNI and pause image are not in it.
    whole = ".cni]" in text and "sandbox" in text
    path = k3s.template or ""
    yield Finding(
        code="GM510",
        status=Status.WARN if whole else Status.FAIL,
        summary=f'{path} has no {{{{ template "base" . }}}}: it replaces {k3s.flavour.name}\'s whole configuration',
        evidence=(Evidence(f"{path}:1", (text.splitlines() or [""])[0][:120]),),
        cause="Without the base, CNI folders, the pause image and registries that the distribution sets are gone.",
        remedy='Begin the template with `{{ template "base" . }}` and keep only what is added.',
        refused="what this template was meant to keep is not ours to guess: it is left as it is",
        symptoms=("failed to create containerd config", "cni plugin not initialized"),
    )


@rule(
    "GM511",
    "the k3s template does not repeat the nvidia runtime",
    "k3s-io/k3s pkg/agent/containerd/runtimes.go: nvidia is added by itself; toml.io: a table stands once",
    applies=has_k3s,
)
def duplicate_nvidia(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None:
        return
    text = template_text(k3s)
    path = k3s.template or ""
    found = re.search(r"(?m)^\s*\[plugins\..*\.containerd\.runtimes\.[\"']?nvidia[\"']?\]", text or "")
    if text is not None and found and BASE.search(text):
        number = text.count("\n", 0, found.start(0) + len(found.group(0)) - len(found.group(0).lstrip())) + 1
        yield Finding(
            code="GM511",
            status=Status.FAIL,
            summary=f"{path}:{number}: the table of the nvidia runtime stands here, and {k3s.flavour.name} adds its own",
            evidence=(Evidence(f"{path}:{number}", found.group(0).strip()),),
            cause=f"{k3s.flavour.name} registers nvidia by itself where nvidia-container-runtime is installed when it starts; a "
            "table that stands twice keeps containerd from starting.",
            remedy=f"Take the table out of the template, and restart {k3s.unit.source.split()[-1]}.",
            refused="what else that table sets is not ours to drop: the template is left as it is",
            symptoms=("duplicated tables", "already exists"),
        )
    try:
        if k3s.generated.get() is not None:
            loads(k3s.flavour.generated, k3s.generated)
    except ConfigError as error:
        number_of = line_of(error.detail)
        yield Finding(
            code="GM511",
            status=Status.FAIL,
            summary=f"{error.path}:{number_of}: {error.detail}" if number_of else str(error),
            evidence=(Evidence(f"{error.path}:{number_of}" if number_of else error.path, error.detail),),
            cause=f"{k3s.flavour.name} wrote it from its template, and its containerd cannot read it.",
            remedy="Repair the template: the file itself is written anew at each start.",
            refused="what the template was meant to say is not ours to guess: it is left as it is",
        )


@rule(
    "GM512",
    "the k3s template is the one that counts",
    "k3s-io/k3s pkg/agent/containerd/config.go: config-v3.toml.tmpl (1.31.6, 1.32.2), then config.toml.tmpl",
    applies=has_k3s,
)
def template_without_effect(context: Context) -> Iterator[Finding]:
    k3s = context.state.kubernetes.k3s
    if k3s is None or k3s.template is None:
        return
    path = k3s.template
    name = k3s.flavour.name
    if not k3s.embedded:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{path} has no effect: {name}'s kubelet uses {k3s.endpoint}",
            evidence=(
                Evidence(f"{name} container-runtime-endpoint", k3s.endpoint),
                Evidence(path, "a template for the embedded containerd"),
            ),
            cause=f"The containerd that serves this kubelet is a service of its own, and reads {context.state.containerd.path}.",
            remedy=f"Edit {context.state.containerd.path} instead; restarting {name} changes nothing.",
            refused="whether the template is still wanted is the owner's decision",
        )
        return
    both = [found for found in k3s.flavour.templates if not k3s.templates[found].absent]
    if len(both) > 1:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{both[1]} has no effect: {both[0]} is taken",
            evidence=tuple(Evidence(found, "exists") for found in both),
            remedy="Keep one of the two.",
            refused="which of the two is meant is the owner's decision",
        )
    template, generated = k3s.templates[path].get(), k3s.generated.get()
    if template and generated and template.meta.mtime > generated.meta.mtime + 1:
        yield Finding(
            code="GM512",
            status=Status.WARN,
            summary=f"{path} is newer than the configuration written from it: {name} has not been restarted since",
            evidence=(
                Evidence(path, f"changed at {template.meta.mtime:.0f}"),
                Evidence(k3s.flavour.generated, f"written at {generated.meta.mtime:.0f}"),
            ),
            cause=f"{name} writes its containerd's configuration at start only.",
            remedy=f"`systemctl restart {k3s.unit.source.split()[-1]}` when it suits: pods keep running, the API is away for "
            "some seconds.",
            refused=f"a restart of {name} is the owner's decision",
        )
