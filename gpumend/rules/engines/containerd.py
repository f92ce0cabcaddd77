"""GM501 to GM508: containerd beside Docker.

Judged where something starts containers through it: a kubelet, k3s, GRIT, or a wanted state that names it. A containerd
that only serves Docker needs no nvidia runtime of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.rules.change import TellDaemon
from gpumend.rules.engines.containerd_config import (
    NVIDIA,
    RESTART,
    RUNC,
    Keys,
    Layout,
    by_hand,
    change,
    containerd_version,
    cri,
    embedded,
    evidence,
    expected_systemd,
    has,
    has_containerd,
    injects,
    layout,
    misplaced,
    pods_readable,
    readable,
    restart_hold,
    unreadable_why,
    wanted_runtimes,
)
from gpumend.rules.engines.spec_directories import lacking, widened
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.managers import is_described
from gpumend.rules.rule import Context, rule
from gpumend.state.containerd import MERGES_KEYS, config_version, imports_of
from gpumend.state.reading import Unread
from gpumend.text.version import Version, show

CDI_SINCE: Version = (1, 7)  # enable_cdi: containerd v1.7.0 pkg/cri/config/config_unix.go


# --- GM501, GM502: the files


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
    for path in context.state.containerd.unheeded():
        yield Finding(
            code="GM502",
            status=Status.WARN,
            summary=f"{path} has no effect: nothing imports it",
            evidence=(
                Evidence(path, "exists"),
                evidence(
                    context,
                    found.root,
                    ("imports",),
                    f"imports = {list(imports_of(found.root, found.parsed.get(found.root, {}), found.version))}",
                ),
            ),
            cause="containerd reads the files that `imports` of its main file names. 2.2 has /etc/containerd/conf.d there in "
            "the file that it makes by `config default`, and in no other.",
            remedy=f'`imports = ["{path.rpartition("/")[0]}/*.toml"]` in {found.root}, or take the file away.',
            refused="whether the file is still wanted is the owner's decision",
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
    root, own = found.plugins(found.root).get(name), found.plugins(path).get(name)
    if not isinstance(root, Mapping) or not isinstance(own, Mapping):
        return
    for keys, _ in _leaves(root):
        if not has(own, keys):
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
    applies=pods_readable,
)
def nvidia_runtime(context: Context) -> Iterator[Finding]:
    if NVIDIA not in wanted_runtimes(context):
        return
    program = context.state.toolkit.programs["nvidia-container-runtime"].get()
    settings, containerd = cri(context), context.state.containerd
    known = settings.runtimes.get(NVIDIA)
    gone = known is not None and (meta := containerd.binaries.get(known.binary)) is not None and meta.absent
    if program is None or (known is not None and injects(known.binary) and not gone):
        return
    default = settings.runtimes.get(settings.default)
    if known is None and default and injects(default.binary) and context.wanted.containerd_runtimes is None:
        return  # every pod gets it, whatever the runtime's name (AKS: nvidia-container-runtime)
    k3s = embedded(context)
    name = f"{k3s.flavour.name}'s containerd" if k3s else "containerd"
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
        summary=f"{name} does not know the runtime `nvidia`"
        if known is None
        else f"{name}'s runtime `nvidia` calls {known.binary or 'runc'}"
        + (", which is not there" if gone else ""),
        evidence=(
            Evidence("containerd config dump", f"runtimes: {', '.join(sorted(settings.runtimes)) or 'none'}"),
        ),
        cause=f"{k3s.flavour.name} registers it by itself where nvidia-container-runtime is in /usr/bin when it starts, and "
        "its template has the base (GM510)."
        if k3s and k3s.flavour.like_k3s
        else f"{k3s.flavour.name} does not register it by itself."
        if k3s
        else f"It is not registered in {containerd.path}, the file that this containerd reads."
        if known is None
        else "Every container of it fails to start: the toolkit was moved, or taken away."
        if gone
        else "Without nvidia-container-runtime nothing injects the GPU.",
        remedy="Mend registers it and restarts containerd: containers keep running."
        if made
        else by_hand(k3s, f"the runtime's table, with BinaryName {program.path},")
        if k3s and not k3s.flavour.like_k3s
        else f"`systemctl restart {k3s.unit.source.split()[-1]}` when it suits: pods keep running."
        if k3s
        else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=('no runtime for "nvidia" is configured',),
    )


@rule(
    "GM504",
    "containerd's CDI is on",
    "containerd v1.7.0 pkg/cri/config/config_unix.go; docs/containerd-2.0.md; RELEASES.md (2.2: deprecated, always on)",
    applies=pods_readable,
)
def cdi_off(context: Context) -> Iterator[Finding]:
    settings, k3s = cri(context), embedded(context)
    if not wanted_runtimes(context):
        return
    default = settings.runtimes.get(settings.default)
    if is_described(context) and default is not None and injects(default.binary):
        return  # a system made from its own description: its default runtime injects without containerd's CDI
    values: dict[Keys, Any] = {}
    if settings.enable_cdi is not True:
        values[("enable_cdi",)] = True
    missing = lacking(settings.cdi_spec_dirs)
    if missing:
        values[("cdi_spec_dirs",)] = widened(settings.cdi_spec_dirs)
    if not values or (version := containerd_version(context).need()) < CDI_SINCE:
        return
    made, refused = change(context, values)
    off = settings.enable_cdi is not True
    # k3s' base has a table of the CRI already, so that a template cannot add to it; its nvidia runtime works without
    needed = off and (k3s is None or context.wanted.grit_role is not None)
    yield Finding(
        code="GM504",
        status=Status.FAIL if needed else Status.NOTE if off else Status.WARN,
        summary=f"CDI is off in containerd {show(version)}"
        if off
        else f"cdi_spec_dirs leaves out {', '.join(missing)}",
        evidence=(
            Evidence("containerd config dump", f"enable_cdi = {str(settings.enable_cdi).lower()}"),
            Evidence("containerd config dump", f"cdi_spec_dirs = {list(settings.cdi_spec_dirs)}"),
        ),
        cause="containerd 1.7 has CDI off unless enable_cdi is true; from 2.0 on it is on."
        if off
        else "nvidia-cdi-refresh writes to /var/run/cdi, `nvidia-ctk cdi generate` guides to /etc/cdi.",
        remedy="Mend sets it and restarts containerd: containers keep running."
        if made
        else by_hand(k3s, "`enable_cdi = true`")
        if k3s and not k3s.flavour.like_k3s
        else f"A {k3s.flavour.name} with containerd 2, or a template of your own without the base."
        if k3s
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
    applies=pods_readable,
)
def cgroup_driver(context: Context) -> Iterator[Finding]:
    kubernetes, k3s = context.state.kubernetes, embedded(context)
    if kubernetes.kubelet.unread is not None:
        raise Unread(kubernetes.kubelet.unread)
    driver = kubernetes.cgroup_driver
    if not driver and k3s is not None:  # it gives runc and its kubelet the same (config_linux.go)
        driver = "systemd" if expected_systemd(context) else "cgroupfs"
    if driver not in ("systemd", "cgroupfs"):
        return
    settings = cri(context)
    wrong = [
        found
        for found in settings.runtimes.values()
        if found.type == RUNC
        and found.systemd_cgroup != (driver == "systemd")
        # Pods of the others name them: `untrusted` and its kind, which images have and nobody uses (AgentBaker), and containerd's
        # own runc beside another default (amazon-eks-ami nodeadm writes nvidia alone).
        and (found.name in (settings.default, "grit") or found.name.startswith(NVIDIA))
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
        else by_hand(k3s, f"`SystemdCgroup = {str(driver == 'systemd').lower()}`")
        if k3s and not k3s.flavour.like_k3s
        else f"A newer {k3s.flavour.name}, which gives nvidia the same as runc; or a template of your own without the base."
        if k3s
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
    made = None if held else Change(Component.CONTAINERD, TellDaemon(), service=RESTART)
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
