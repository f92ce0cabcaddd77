"""containerd's files as containerd reads them, which of them counts for a key, and how they are changed.

Who is served by which containerd, and the runtimes that it has to have. The rules are in gpumend/rules/engines/containerd.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from gpumend.rules.change import SetValues
from gpumend.rules.engines.trial import ALL, DEVICE, Trial
from gpumend.rules.evidence import line_of, place, standing, where
from gpumend.rules.finding import Change, Component, Evidence
from gpumend.rules.managers import plugin_injects
from gpumend.rules.rule import Context, has_gpu
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.containerd import (
    CONFIG,
    CONVERTS_EACH,
    MERGES_KEYS,
    OTHER_CONFIGS,
    V2_PLUGIN,
    V3_PLUGIN,
    ConfigError,
    Cri,
    config_version,
    counting_version,
    imports_of,
    names_read,
    newest_config,
    unread_imports,
)
from gpumend.state.kubernetes import K3s
from gpumend.state.reading import Reading, Unread
from gpumend.state.snapshot import NOT_ASKED
from gpumend.text.backports import tomllib
from gpumend.text.edits import Edit, apply_lines
from gpumend.text.record import Record
from gpumend.text.version import Version, show

RESTART = ("containerd.service", "restart")
NVIDIA = "nvidia"
RUNC = "io.containerd.runc.v2"
Keys = tuple[str, ...]


def serves_pods(context: Context) -> bool:
    """Whether a kubelet, k3s or CRI client starts containers through the containerd that is a service here."""
    kubernetes = context.state.kubernetes
    if kubernetes.k3s is not None and kubernetes.k3s.embedded and not kubernetes.kubelet.process.ok:
        return False
    told = kubernetes.kubelet.endpoint if kubernetes.kubelet.process.ok else ""
    endpoint = told or (kubernetes.k3s.endpoint if kubernetes.k3s is not None else "")
    return kubernetes.here and "crio" not in endpoint and "cri-dockerd" not in endpoint


def embedded(context: Context) -> K3s | None:
    """k3s or RKE2, where its own containerd serves the kubelet."""
    k3s = context.state.kubernetes.k3s
    return k3s if k3s is not None and k3s.embedded else None


def managed_by(k3s: K3s) -> str:
    """Why the configuration of a distribution's own containerd is not changed."""
    return f"{k3s.flavour.name} writes this containerd's configuration: {source_of(k3s)} is what counts"


def source_of(k3s: K3s) -> str:
    """Where a person changes the configuration of a distribution's own containerd."""
    if k3s.flavour.like_k3s:
        return "its template"
    if k3s.flavour.template:
        return k3s.flavour.template
    return f"a file in {k3s.flavour.directory}/containerd.d" if k3s.managed else k3s.flavour.generated


def by_hand(k3s: K3s, table: str) -> str:
    """What a person does where a distribution does not register the runtime by itself."""
    restart = (
        "`microk8s stop; microk8s start`"
        if k3s.flavour.template
        else f"`systemctl restart {k3s.unit.source.split()[-1]}`"
    )
    return f"Put {table} into {source_of(k3s)}, then {restart}: it is read at the start only."


def not_read(context: Context) -> str:
    """The file that the containerd of its own names and that the probe does not read; empty where it was read."""
    containerd = context.state.containerd
    return containerd.path if containerd.content.detail == NOT_ASKED else ""


def wanted_runtimes(context: Context) -> tuple[str, ...]:
    """The runtimes that containerd's CRI has to have on this host."""
    if context.wanted.containerd_runtimes is not None:
        return context.wanted.containerd_runtimes
    pods = (serves_pods(context) or embedded(context) is not None) and not plugin_injects(context)
    return (NVIDIA,) if pods or context.wanted.grit_role else ()


def has_containerd(context: Context) -> bool:
    """Whether there is a GPU and a containerd of its own that somebody uses beside Docker."""
    if not has_gpu(context) or not context.state.containerd.installed or embedded(context) is not None:
        return False
    if not_read(context):  # GM515
        return False
    return bool(wanted_runtimes(context)) or uses_grit(context)


def uses_grit(context: Context) -> bool:
    return context.wanted.grit_role is not None or not context.state.grit.content.absent


def readable(context: Context) -> bool:
    """containerd is judged, and GM501 does not apply: what its files hold can be judged."""
    return has_containerd(context) and not unreadable_why(context)


def pods_readable(context: Context) -> bool:
    """As `readable`, or k3s' own containerd is judged, and GM511 does not apply."""
    k3s = embedded(context)
    if k3s is None:
        return readable(context)
    if not has_gpu(context) or k3s.generated.absent:
        return False
    try:
        k3s.cri()
    except ConfigError:
        return False
    except Unread:
        pass
    return True


def cri(context: Context) -> Cri:
    """The CRI settings of the containerd that serves here; raises Unread or ConfigError."""
    k3s = embedded(context)
    return k3s.cri() if k3s is not None else context.state.containerd.cri()


def containerd_version(context: Context) -> Reading[Version]:
    """Of the containerd that serves here."""
    k3s = embedded(context)
    return k3s.version if k3s is not None else context.state.containerd.version


def injects(binary: str) -> bool:
    """Whether an OCI runtime is one of nvidia-container-runtime's, which the toolkit has for each mode (.cdi, .legacy); nvidia-oci
    is Bottlerocket's (bottlerocket-os/bottlerocket packages/containerd/containerd-config-toml_k8s_nvidia)."""
    name = binary.rpartition("/")[2]
    return (
        re.fullmatch(r"nvidia-container-runtime([.-](cdi|legacy|experimental))?|nvidia-oci", name) is not None
    )


# --- what is where


class Layout(Record):
    """The files of the running containerd. order: as they are merged. counts: the `version` by which it takes them."""

    version: Version
    root: str
    parsed: Mapping[str, Mapping[str, Any]]
    order: tuple[str, ...]
    counts: int

    @property
    def plugin(self) -> str:
        """The CRI's table for a new key of the root file."""
        each = self.version >= CONVERTS_EACH and bool(self.parsed.get(self.root))
        number = config_version(self.parsed[self.root]) if each else self.counts
        if self.version < (2, 0):
            return "cri" if number < 2 else V2_PLUGIN
        files = (self.root,) if each else self.order
        return (
            V3_PLUGIN
            if number >= 3 or any(self.has_runtimes(path, V3_PLUGIN) for path in files)
            else V2_PLUGIN
        )

    def has_runtimes(self, path: str, name: str) -> bool:
        return has(self.plugins(path).get(name), ("containerd", "runtimes"))

    def plugins(self, path: str) -> Mapping[str, Any]:
        """A file's tables of plugins; empty where its `plugins` is something else, which containerd would not take."""
        found = self.parsed.get(path, {}).get("plugins")
        return found if isinstance(found, Mapping) else {}

    def names(self, path: str) -> tuple[str, ...]:
        return names_read(self.version, self.counts, config_version(self.parsed.get(path, {})))

    def home(self, keys: Keys) -> tuple[str, str]:
        """(file, plugin name) in which a key below the CRI's table has to stand to count.

        Before 2.0 that is the last file that has the plugin's table; from then on the last that has the key, else the
        root file.
        """
        for path in reversed(self.order):
            for name in self.names(path):
                part = self.plugins(path).get(name)
                if not isinstance(part, Mapping):
                    continue
                if self.version < MERGES_KEYS or has(part, keys):
                    return path, name
        return self.root, self.plugin


def has(table: Any, keys: Keys) -> bool:
    for key in keys:
        if not isinstance(table, Mapping) or key not in table:
            return False
        table = table[key]
    return True


def layout(context: Context) -> Layout:
    """Raises Unread where a file could not be read, ConfigError where containerd would not start with one."""
    containerd = context.state.containerd
    version, parsed = containerd.version.need(), containerd.parsed()
    counts = counting_version(version, parsed.values())
    if not any(parsed.values()):
        counts = 3 if version >= (2, 0) else 2
    return Layout(version, containerd.path, parsed, tuple(parsed) or (containerd.path,), counts)


def evidence(context: Context, path: str, keys: Keys, text: str) -> Evidence:
    """`file:line` of a key or table, and what stands there."""
    content = context.state.containerd.files.get(path)
    return standing(path, content.value if content else None, keys, text)


def hold_back(context: Context) -> str:
    """Why containerd's configuration is not changed on this host, or an empty text where it may be."""
    containerd = context.state.containerd
    if not context.wanted.manage_containerd:
        return "containerd.manage is false"
    if (k3s := embedded(context)) is not None:
        return managed_by(k3s)
    if manager := OTHER_CONFIGS.get(containerd.path):
        return f"{manager} writes {containerd.path}"
    if why := unreadable_why(context):
        return f"{why} (GM501)"
    found = layout(context)
    raw = found.parsed.get(found.root, {})
    if raw and "version" not in raw and found.version >= (2, 0):
        return f"{found.root} has no `version`, and this containerd ignores its CRI settings (GM502)"
    if unread := unread_imports(found.parsed, found.version):
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
    running = context.state.docker.may_run_containers
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
        edits.append(Edit(found.root, ("version",), found.counts))
    for keys, value in (*default_runtime(context, found, values).items(), *values.items()):
        path, name = found.home(keys)
        edits.append(Edit(path, ("plugins", name, *keys), value))
    return Change(Component.CONTAINERD, SetValues(tuple(edits)), service=RESTART), ""


def default_runtime(context: Context, found: Layout, values: Mapping[Keys, Any]) -> dict[Keys, Any]:
    """What keeps `runc` beside a first runtime of one's own: before 2.0 a file that names any runtime takes it away, and
    the CRI plugin does not load then (`no corresponding runtime configured`, measured with 1.6.20 and 1.7.24)."""
    if found.version >= (2, 0) or not any(keys[:2] == ("containerd", "runtimes") for keys in values):
        return {}
    path, name = found.home(("containerd", "runtimes"))
    part = found.plugins(path).get(name)
    default = cri(context).default
    if default != "runc" or has(
        part if isinstance(part, Mapping) else {}, ("containerd", "runtimes", default)
    ):
        return {}
    base: Keys = ("containerd", "runtimes", default)
    made: dict[Keys, Any] = {(*base, "runtime_type"): RUNC}
    if context.state.kubernetes.cgroup_driver == "systemd":
        made[(*base, "options", "SystemdCgroup")] = True
    return made


def staged_tree(context: Context, new: Mapping[str, bytes]) -> tuple[tuple[str, bytes], ...]:
    """The configuration as it will be, as files of one directory: `config.toml` and the drop-ins that change. Imports of the
    root are absolute there, and name the new drop-ins in place of the old. `{tree}` stands for the directory."""
    found = layout(context)
    content = context.state.containerd.files[found.root].get()
    root = new.get(found.root, content.data if content else b"")
    raw = tomllib.loads(root.decode("utf-8"))
    patterns = imports_of(found.root, raw, found.version)
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


def shown_by_crictl(edits: Iterable[Edit]) -> tuple[Keys, ...]:
    """Where `crictl info` shows what was set: the paths of each runtime, and of CDI where it was switched on."""
    found: list[Keys] = []
    for edit in edits:
        if "runtimes" in edit.keys:
            found.append(("config", "containerd", "runtimes", edit.keys[edit.keys.index("runtimes") + 1]))
        elif edit.keys[-1] == "enable_cdi":
            found.append(("config", "enableCDI"))
    return tuple(dict.fromkeys(found))


def unreadable_why(context: Context) -> str:
    """In containerd's or tomllib's words, why containerd would not start with its files; empty where it would.
    Raises Unread where that is not known."""
    containerd = context.state.containerd
    try:
        parsed, version = containerd.parsed(), containerd.version.need()
        newest, counts = newest_config(version), counting_version(version, parsed.values())
        above = ("", 0)  # the first file that names a version, and that
        for path, raw in parsed.items():
            number = config_version(raw)
            why = ""
            above = above if above[0] or "version" not in raw else (path, number)
            if newest is not None and number == counts > newest:
                why = f"version = {number}, this containerd takes up to {newest}"
            elif version >= CONVERTS_EACH and "version" in raw and number > above[1]:
                why = (
                    f"version = {number} is above that of {above[0]}, {above[1]}: this containerd refuses it"
                )
            if why:
                return f"{path}:{where(containerd.files[path].need().text(), ('version',))}: {why}"
        if containerd.path == CONFIG and containerd.dump.detail.startswith("exit status"):
            return f"{CONFIG}: {containerd.dump.detail.partition(': ')[2]}"
    except ConfigError as error:
        return f"{place(error.path, line_of(error.detail))}: {error.detail}"
    return ""


def misplaced(found: Layout) -> Iterator[tuple[str, str, str]]:
    """(file, plugin name, why) of CRI settings that stand where this containerd ignores them."""
    newer = next((path for path in found.order if found.has_runtimes(path, V3_PLUGIN)), "")
    for path in found.order:
        raw = found.parsed.get(path, {})
        for name in ("cri", V2_PLUGIN, V3_PLUGIN):
            part = found.plugins(path).get(name)
            if not isinstance(part, Mapping):
                continue
            if name in found.names(path):
                beside = path if found.version >= CONVERTS_EACH else newer
                if (
                    name != V3_PLUGIN
                    and found.has_runtimes(path, name)
                    and found.has_runtimes(beside, V3_PLUGIN)
                ):
                    yield path, name, f"its runtimes are lost beside those under {V3_PLUGIN} in {beside}"
                continue
            if name == V2_PLUGIN and found.counts >= 3:
                part = {key: value for key, value in part.items() if key not in V3_GRPC_KEYS}
            if not part:
                continue
            if name == V3_PLUGIN:
                why = f"containerd {show(found.version)} has it under {V2_PLUGIN}"
            elif found.version < (2, 0):
                why = f"the last `version` of its files counts, {found.counts}: it is {found.plugin} there"
            elif "version" not in raw:
                why = "the file has no `version`"
            elif config_version(raw) < found.counts:
                why = f"another file has version = {found.counts}, so this one's version {config_version(raw)} is not converted"
            else:
                why = f"in a file of version {config_version(raw)} it is {found.plugin}"
            yield path, name, why


# What io.containerd.grpc.v1.cri still has in version 3: the streaming server (containerd docs/cri/config.md).
V3_GRPC_KEYS = {
    "disable_tcp_service", "stream_server_address", "stream_server_port", "stream_idle_timeout", "enable_tls_streaming",
    "x509_key_pair_streaming",
}  # fmt: skip


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


# --- what the engine table asks


def kept_by_systemd(context: Context) -> dict[str, str]:
    """The runtimes of the containerd that serves here, and their programs, whose containers' cgroups systemd keeps."""
    try:
        if not pods_readable(context):
            return {}
        return {each.name: each.binary for each in cri(context).runtimes.values() if each.systemd_cgroup}
    except (ConfigError, Unread):  # GM501's
        return {}


def systemd_runtimes(context: Context) -> dict[str, str]:
    if embedded(context) is not None:
        return {}
    return {f"containerd's runtime {name}": program for name, program in kept_by_systemd(context).items()}


def k3s_systemd_runtimes(context: Context) -> dict[str, str]:
    k3s = embedded(context)
    whose = f"{k3s.flavour.name}'s containerd" if k3s is not None else ""
    found = kept_by_systemd(context) if k3s is not None else {}
    return {f"{whose}'s runtime {name}": program for name, program in found.items()}


def told_to_systemd(context: Context) -> list[str]:
    """k3s brings a runc of its own, newer than those that need links."""
    names = kept_by_systemd(context) if embedded(context) is None else {}
    return [f"containerd's runtime {', '.join(names)}, CDI"] if names else []


def k3s_loads_specs(context: Context) -> bool:
    """Whether k3s' own containerd has CDI on; raises Unread."""
    k3s = embedded(context)
    try:
        return k3s is not None and k3s.cri().enable_cdi is True
    except ConfigError:  # GM511
        return False


CTR_DEVICES_SINCE: Version = (2, 0)  # ctr run --device with a CDI name: cmd/ctr/commands/run/run_unix.go


def trials(context: Context, must: bool) -> list[Trial]:
    if not readable(context) or NVIDIA not in wanted_runtimes(context):
        return []
    # ctr knows no runtimes of the CRI plugin: it is given the program that the registered one calls.
    registered = cri(context).runtimes.get(NVIDIA)
    found = []
    if registered is not None and registered.binary:
        options = ("--runc-binary", registered.binary, *ALL)
        found.append(Trial("containerd runtime", "containerd", options, must))
    resolved = context.state.cdi.resolve(DEFAULT_DIRS).gpus()
    if (context.state.containerd.version.value or (0,)) >= CTR_DEVICES_SINCE and resolved:
        found.append(Trial("containerd device", "containerd", DEVICE, must))
    return found
