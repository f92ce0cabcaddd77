"""GM53x: what checkpoint and restore of GPU containers need: CRIU, cuda-checkpoint, driver, and CRIU's own files."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.engines.containerd_config import containerd_version, cri, embedded, has_containerd
from gpumend.rules.engines.grit import has_grit, managed
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.containerd import OVERLAY, ConfigError
from gpumend.state.criu import RUNC_CONF
from gpumend.state.snapshot import FileContent
from gpumend.text.record import Record
from gpumend.text.version import Version, show

PLUGIN_SINCE: Version = (4, 0)  # CRIU 4.0, 2024-09-20: the first with the CUDA plugin
FROZEN_SINCE: Version = (
    4,
    1,
)  # 2025-03-24, commit 4196268ee (criu#2508): works on frozen cgroups, as GRIT leaves them
OVERLAY_SINCE: Version = (4, 3)  # criu PR#3043: inotify handles on overlay
# containerd PR#13805: 1.7.34, 2.0.11, 2.1.9, 2.2.7 and 2.3.4 still add `index=off` behind every mount_options; 2.4.0 does not
EXPORTS_SINCE: Version = (2, 4)
EXPORTS = "nfs_export=on"
# cuda-checkpoint README; criu plugins/cuda/README.md; docs/reference/compatibility.md of ai-dynamo/snapshot
DRIVERS: tuple[tuple[Version, str], ...] = (
    ((550,), "cuda-checkpoint needs 550"),
    ((555,), "CRIU's CUDA plugin needs 555 (--action)"),
    ((570,), "process trees and NVML users, PyTorch among them, need 570"),
)
# cuda-checkpoint by driver (field-2026.md F): 801 on arm64 with 580; IPC memory from 610.
ARM64_SINCE: Version = (595,)
IPC_SINCE: Version = (610,)
# Options of criu(8) that a configuration file may have, as 4.2 takes them with `criu check --config` (measured), and
# those that take a value. Others of criu(8) are looked at by criu itself.
FLAGS = frozenset(
    [
        "tcp-established",
        "tcp-close",
        "tcp-skip-in-flight",
        "skip-in-flight",
        "ext-unix-sk",
        "shell-job",
        "force-irmap",
        "file-locks",
        "link-remap",
        "evasive-devices",
        "leave-running",
        "leave-stopped",
        "auto-dedup",
        "track-mem",
        "enable-external-masters",
        "enable-external-sharing",
        "weak-sysctls",
        "enable-fs-all",
        "orphan-pts-master",
        "unprivileged",
        "allow-uprobes",
        "skip-mnt-all",
        "log-pid",
        "stream",
        "display-stats",
        "empty-ns-all",
    ]
)
VALUES = frozenset(
    [
        "external",
        "ext-mount-map",
        "irmap-scan-path",
        "manage-cgroups",
        "cgroup-root",
        "cgroup-props",
        "cgroup-props-file",
        "cgroup-dump-controller",
        "cgroup-yard",
        "log-file",
        "verbosity",
        "work-dir",
        "images-dir",
        "libdir",
        "ghost-limit",
        "timeout",
        "enable-fs",
        "skip-mnt",
        "veth-pair",
        "cpu-cap",
        "empty-ns",
        "join-ns",
        "lsm-profile",
        "lsm-mount-context",
        "network-lock",
        "file-validation",
        "pre-dump-mode",
        "inherit-fd",
        "exec-cmd",
        "freeze-cgroup",
    ]
)
RESTORE_ONLY = frozenset(
    {"mntns-compat-mode"}
)  # "only valid on restore": with it in runc.conf every dump fails


class Fault(Record):
    """A line of a CRIU configuration file that CRIU refuses."""

    line: int
    text: str
    why: str
    certain: bool = True


def lint(text: str) -> list[Fault]:
    """What `criu check --config` refuses in a configuration file (criu.txt, Configuration files; measured with 4.2)."""
    found = []
    for number, raw in enumerate(text.splitlines(), 1):
        row = raw.split("#", 1)[0].strip()
        words = [word for word in re.split(r"[\s=]+", row, maxsplit=1) if word]
        if not words:
            continue
        name, value = words[0], words[1] if len(words) > 1 else ""
        if name.startswith("-"):
            found.append(Fault(number, row, "an option stands without dashes here"))
        elif name in RESTORE_ONLY:
            found.append(Fault(number, row, f"{name} is only valid on restore: with it every dump fails"))
        elif len(value.split()) > 1 and not value.startswith(("'", '"')):
            found.append(Fault(number, row, "an option takes one argument"))
        elif name not in FLAGS and name not in VALUES:
            found.append(Fault(number, row, f"CRIU has no option {name}", certain=False))
    return found


def options(content: FileContent | None) -> dict[str, list[str]]:
    """A configuration file's options and their values, in order."""
    found: dict[str, list[str]] = {}
    for raw in (content.data.decode("utf-8", "replace") if content else "").splitlines():
        words = [word for word in re.split(r"[\s=]+", raw.split("#", 1)[0].strip(), maxsplit=1) if word]
        if words:
            found.setdefault(words[0], []).append(words[1] if len(words) > 1 else "")
    return found


def has_criu(context: Context) -> bool:
    """GRIT is judged, and CRIU is installed."""
    return has_grit(context) and context.state.criu.installed


@rule(
    "GM531",
    "CRIU is new enough for GPU processes",
    "criu v4.0 (CUDA plugin), v4.1 commit 4196268ee, criu#2508; Debian 12 and Ubuntu 22.04 have 3.17 and 3.16",
    applies=managed,
)
def version(context: Context) -> Iterator[Finding]:
    criu = context.state.criu
    if criu.program.get() is None:
        yield Finding(
            code="GM531",
            status=Status.FAIL,
            summary="CRIU is not installed",
            evidence=(Evidence("PATH", "no criu"),),
            cause="runc calls criu for every checkpoint and restore.",
            remedy="Install CRIU 4.1 or newer with its CUDA plugin: Debian's packages have no plugin, RPM hosts' have one.",
            refused="CRIU is not installed by mend",
        )
        return
    found = criu.version.need()
    if found >= FROZEN_SINCE:
        return
    old = found < PLUGIN_SINCE
    yield Finding(
        code="GM531",
        status=Status.FAIL if old else Status.WARN,
        summary=f"CRIU {show(found)} is too old: the CUDA plugin comes with 4.0"
        if old
        else f"CRIU {show(found)} cannot checkpoint a paused GPU container: 4.1 can",
        evidence=(Evidence("criu --version", show(found)),),
        cause="Without the plugin GPU memory is not saved; on new kernels 3.17.1 fails its own check, too."
        if old
        else "GRIT pauses the container first, and cuda-checkpoint cannot lock frozen threads before 4.1 (criu#2508).",
        remedy="Install CRIU 4.1 or newer; distributions' 3.x will not do.",
        refused="CRIU is not installed by mend",
        symptoms=("vdso: Unexpected rt vDSO area bounds",) if old else ("cuda_plugin: timeout",),
    )


@rule("GM532", "criu check passes", "criu.txt: check; measured with 3.17.1 and 4.2", applies=has_criu)
def check(context: Context) -> Iterator[Finding]:
    criu = context.state.criu
    if criu.check.absent:
        return  # not asked: no grit.toml yet (GM522), or a criu that is not the distribution's (GM531 judges its version)
    output = criu.check.need()
    if output.rc == 0:
        return
    said = [row for row in (output.err + output.out).splitlines() if "Error" in row or "refus" in row.lower()]
    last = (said or (output.err + output.out).strip().splitlines() or ["no word"])[-1]
    yield Finding(
        code="GM532",
        status=Status.FAIL,
        summary=f"`criu check` fails on this host: {last[:160]}",
        evidence=tuple(Evidence("criu check", row[:200]) for row in (said or [last])[-4:]),
        cause="This CRIU does not go with this kernel, or the kernel lacks what it needs.",
        remedy="Install a newer CRIU, or a kernel with CONFIG_CHECKPOINT_RESTORE.",
        refused="CRIU and kernels are not installed by mend",
    )


@rule(
    "GM533",
    "CRIU has its CUDA plugin and cuda-checkpoint",
    "criu plugins/cuda/cuda_plugin.c cuda_plugin_init; criu/include/plugin.h CR_PLUGIN_DEFAULT; cuda-checkpoint README",
    applies=managed,
)
def plugin(context: Context) -> Iterator[Finding]:
    criu = context.state.criu
    if criu.program.get() is None or (criu.version.value or (0,)) < PLUGIN_SINCE:
        return  # GM531
    rows: list[tuple[str, Evidence, str]] = []
    if not criu.plugins.need():
        debian = context.state.packages.manager == "apt" and "criu" in (
            context.state.packages.installed.value or {}
        )
        rows.append(
            (
                "CRIU's cuda_plugin.so is not there",
                Evidence("/usr/lib/criu, /usr/lib64/criu", "no cuda_plugin.so"),
                "Debian's criu has none (4.1.1 and 4.2.1 were looked into): build CRIU with it, or take another's package."
                if debian
                else "It is built with CRIU, and packaged apart by some distributions.",
            )
        )
    k3s = embedded(context)
    name = k3s.flavour.name if k3s else "containerd"
    process = (k3s if k3s else context.state.containerd).process.value
    directories = process.env.get("PATH", "") if process else ""
    seen = Evidence(f"/proc/PID/environ of {name}", f"PATH={directories}")
    own = criu.program.get()
    if own and directories and own.path.rpartition("/")[0] not in directories.split(":"):
        why = f"runc calls `criu`, and has {name}'s PATH: every checkpoint and restore fails."
        rows.append((f"{own.path} is not in {name}'s PATH", seen, why))
    tool = criu.cuda_checkpoint.get()
    if tool is None:
        rows.append(
            (
                "cuda-checkpoint is not in root's PATH",
                Evidence("PATH", "no cuda-checkpoint"),
                "The plugin turns itself off without it, silently."
                + (f" {criu.plugins.need()[0]} alone does nothing." if criu.plugins.need() else ""),
            )
        )
    else:
        if directories and tool.path.rpartition("/")[0] not in directories.split(":"):
            why = f"CRIU runs below the shim, with {name}'s PATH: the plugin turns itself off without a word."
            rows.append((f"{tool.path} is not in {name}'s PATH", seen, why))
        if criu.action.value is False:
            rows.append(
                (
                    "cuda-checkpoint has no --action",
                    Evidence("cuda-checkpoint --help", "no --action"),
                    "It is older than what the plugin calls.",
                )
            )
    for summary, found, why in rows:
        yield Finding(
            code="GM533",
            status=Status.FAIL,
            summary=summary,
            evidence=(found,),
            cause=why,
            remedy="Install CRIU, its plugin and NVIDIA's cuda-checkpoint where containerd's PATH finds them.",
            refused="neither is installed by mend",
        )
    criu.action.get()  # one that gave no usage is not known to have it


@rule(
    "GM534",
    "CRIU's configuration files are valid for a dump",
    "criu.txt: configuration files; `criu check --config` of 4.2, measured; runc libcontainer/criu_linux.go",
    applies=has_grit,
)
def configuration(context: Context) -> Iterator[Finding]:
    criu = context.state.criu
    for path, reading in criu.confs.items():
        content = reading.get()
        if content is None:
            continue
        judged = criu.check_runc.value if path == RUNC_CONF and not criu.check_runc.absent else None
        faults = lint(content.data.decode("utf-8", "replace"))
        if judged is not None:  # criu's own word: a line that it does not complain of is fine
            said = judged.out + judged.err
            faults = [
                fault
                for fault in faults
                if judged.rc != 0 and (fault.certain or f"--{fault.text.split()[0]}" in said)
            ]
        for fault in faults:
            yield Finding(
                code="GM534",
                status=Status.FAIL if fault.certain or judged is not None else Status.WARN,
                summary=f"{path}:{fault.line}: {fault.why}",
                evidence=(
                    Evidence(f"{path}:{fault.line}", fault.text),
                    *(
                        [Evidence(f"criu check --config {path}", f"exit status {judged.rc}")]
                        if judged
                        else []
                    ),
                ),
                cause="runc hands this file to CRIU at every dump and restore; CRIU refuses all of it for one line.",
                remedy=f"Take the line out, and check with `criu check --config {path}`.",
                refused="whose file this is, and what it was meant for, is not ours to guess",
                symptoms=("Option --mntns-compat-mode is only valid on restore",)
                if "restore" in fault.why
                else (),
            )


@rule(
    "GM535",
    "the driver can be checkpointed",
    "cuda-checkpoint README; criu plugins/cuda/README.md: unsupported are MIG, MPS, UVM; ai-dynamo/snapshot compatibility.md",
    applies=managed,
)
def driver(context: Context) -> Iterator[Finding]:
    loaded = context.state.driver.loaded.get()
    unmet = [why for least, why in DRIVERS if loaded is not None and loaded < least]
    if loaded is not None and unmet:
        yield Finding(
            code="GM535",
            status=Status.FAIL if loaded < (555,) else Status.WARN,
            summary=f"driver {show(loaded)}: {unmet[0]}",
            evidence=(
                Evidence("/proc/driver/nvidia/version", show(loaded)),
                *(Evidence("needs", why) for why in unmet[1:]),
            ),
            remedy="Upgrade the driver.",
            risk=Risk.REBOOT,
            refused="the driver is not changed by mend",
        )
    if loaded is not None and context.state.host.machine == "aarch64" and (570,) <= loaded < ARM64_SINCE:
        yield Finding(
            code="GM535",
            status=Status.FAIL,
            summary=f"driver {show(loaded)}: on arm64 cuda-checkpoint needs {show(ARM64_SINCE)}",
            evidence=(Evidence("/proc/driver/nvidia/version", show(loaded)), Evidence("uname -m", "aarch64")),
            cause="Older ones answer CUDA error 801, not supported (580).",
            remedy="Upgrade the driver.",
            risk=Risk.REBOOT,
            refused="the driver is not changed by mend",
            symptoms=("CUDA_ERROR_NOT_SUPPORTED (801)",),
        )
    details = context.state.gpus.details.value
    if details and any(gpu.mig for gpu in details.gpus):
        yield Finding(
            code="GM535",
            status=Status.FAIL,
            summary="MIG is on: GPU processes cannot be checkpointed",
            evidence=(Evidence("nvidia-smi -q", "MIG Mode: Enabled"),),
            cause="cuda-checkpoint does not support MIG: it fails with `out of memory`, whatever is free.",
            symptoms=("cuda-checkpoint: out of memory",),
            remedy="`nvidia-smi -mig 0` on an idle GPU.",
            refused="MIG is the owner's decision",
        )
    for process in (context.state.criu.mps.get() or ())[:1]:
        yield Finding(
            code="GM535",
            status=Status.FAIL,
            summary="MPS runs: GPU processes that use it cannot be checkpointed",
            evidence=(Evidence("/proc", f"{process.pid}: {process.argv[0]}"),),
            cause="cuda-checkpoint does not support NVIDIA's multi-process service.",
            remedy="`echo quit | nvidia-cuda-mps-control` when no process uses it.",
            refused="MPS is the owner's decision",
        )


@rule(
    "GM518",
    "what this driver's checkpoints leave out",
    "cuda-checkpoint README by driver: IPC from 610; persistence cured `operation not permitted` (field-2026.md F)",
    applies=managed,
)
def limits(context: Context) -> Iterator[Finding]:
    loaded, persistenced = context.state.driver.loaded.get(), context.state.driver.persistenced.value
    if loaded is not None and (570,) <= loaded < IPC_SINCE:
        yield Finding(
            code="GM518",
            status=Status.NOTE,
            summary=f"driver {show(loaded)}: processes that share GPU memory (CUDA IPC, NCCL within a node) cannot be checkpointed "
            f"before {show(IPC_SINCE)}",
            evidence=(Evidence("/proc/driver/nvidia/version", show(loaded)),),
            remedy="Upgrade the driver where such pods are to be checkpointed.",
            refused="the driver is not changed by mend",
        )
    if persistenced not in (None, "active"):
        yield Finding(
            code="GM518",
            status=Status.NOTE,
            summary="persistence is off: cuda-checkpoint may answer `operation not permitted` while the driver starts anew",
            evidence=(Evidence("systemctl show nvidia-persistenced", str(persistenced)),),
            remedy="`systemctl enable --now nvidia-persistenced`.",
            refused="the driver's services are not changed for this",
            symptoms=("operation not permitted",),
        )


@rule(
    "GM536",
    "file watches on overlay can be dumped",
    "criu/fsnotify.c:284, criu PR#3043 (4.3); containerd PR#13805 (2.4); measured with criu 4.2 on kernel 6.18",
    applies=managed,
)
def watches(context: Context) -> Iterator[Finding]:
    criu = context.state.criu
    found = criu.version.value
    if found is None or found >= OVERLAY_SINCE or context.wanted.grit_role == "restore":
        return
    try:
        settings = cri(context)
    except ConfigError:
        return
    runtime = settings.runtimes.get("grit")
    used = (runtime.snapshotter if runtime else "") or settings.snapshotter or "overlayfs"
    conf = options(criu.confs[RUNC_CONF].get())
    if used not in ("overlayfs", "fuse-overlayfs") or ("force-irmap" in conf and "irmap-scan-path" in conf):
        return
    if used == "overlayfs" and EXPORTS in settings.overlay_options:
        return  # such handles need no search; GM539 where this containerd cannot mount so
    now = criu.watchers.value or ()
    who = "containers that watch files (PyTorch does)"
    if now:
        who = f"{len(now)} process{'es' * (len(now) > 1)} in pods of this host"
    yield Finding(
        code="GM536",
        status=Status.FAIL if now else Status.WARN,
        summary=f"{who} cannot be dumped: CRIU {show(found)} on {used}",
        evidence=(
            Evidence("containerd config dump", f"snapshotter = {used}"),
            Evidence(
                RUNC_CONF,
                "no irmap-scan-path" + (", force-irmap alone does not help" if "force-irmap" in conf else ""),
            ),
            *(
                Evidence(f"/proc/{pid}/fdinfo", f"{name} watches a file on overlay (fhandle-type:f8)")
                for pid, name in now[:8]
            ),
        ),
        cause="inotify handles on overlay are of a kind (fhandle type f8) that CRIU before 4.3 cannot find again by itself.",
        remedy=f"`force-irmap` and `irmap-scan-path /` in {RUNC_CONF}, or the native snapshotter for grit; CRIU 4.3 may not be "
        "installable yet. "
        + (
            'Or mount_options = ["index=on", "nfs_export=on"] for overlayfs; it counts for new containers.'
            if (containerd_version(context).value or (0,)) >= EXPORTS_SINCE
            else "Not `mount_options` with nfs_export=on: containerd before 2.4 adds index=off, and every mount fails."
        ),
        refused="what it costs (a scan at every dump, or disk) is the owner's decision",
        symptoms=("fsnotify: Can't dump that handle",),
    )


@rule(
    "GM537",
    "mounts of the hook are external for CRIU",
    "criu/mount.c get_mp_root; runc libcontainer addCriuDumpMount; nct#1098, criu#2672, runc#5296",
    applies=managed,
)
def mounts(context: Context) -> Iterator[Finding]:
    conf = options(context.state.criu.confs[RUNC_CONF].get())
    if any(value.startswith("mnt[]") for value in conf.get("external", ())) or "ext-mount-map" in conf:
        return
    toolkit = context.state.toolkit
    legacy = toolkit.config.known and (
        toolkit.mode() == "legacy"
        or (toolkit.mode() == "auto" and (toolkit.version.value or (1, 17)) < (1, 18))
    )
    if not legacy:
        return
    yield Finding(
        code="GM537",
        status=Status.WARN,
        summary=f"the legacy hook's mounts are not in config.json, and {RUNC_CONF} does not call them external",
        evidence=(
            Evidence(RUNC_CONF, "no `external mnt[]`"),
            Evidence("nvidia-container-runtime.mode", toolkit.mode()),
        ),
        cause="CRIU meets mounts that runc never told it of. (`No mapping for N:(null) mountpoint` on another node has the "
        "same root: the two nodes' config.json list different mounts.)",
        remedy=f"`external mnt[]:sm` in {RUNC_CONF} on both nodes; better, CDI through containerd's CRI on both.",
        refused="CRIU's configuration is the owner's decision",
        symptoms=('Mount N is autodetected external mount. Try "--ext-mount-map auto"', "No mapping for"),
    )


@rule(
    "GM538",
    "the host's memory takes what its GPUs hold",
    "criu plugins/cuda/README.md: GPU memory is brought into main memory and dumped from there",
    applies=managed,
)
def memory(context: Context) -> Iterator[Finding]:
    details = context.state.gpus.details.get()
    sizes = [gpu.memory for gpu in details.gpus if gpu.memory is not None] if details else []
    total = sum(sizes)
    if not sizes or (have := context.state.host.memory.need()) >= total:
        return
    yield Finding(
        code="GM538",
        status=Status.WARN,
        summary=f"{have} MiB of memory for {total} MiB of its GPUs: a full GPU cannot be checkpointed here",
        evidence=(
            Evidence("/proc/meminfo", f"MemTotal: {have} MiB"),
            Evidence("nvidia-smi -q", f"FB Memory Usage: {' + '.join(map(str, sizes))} MiB"),
        ),
        cause="What a GPU holds is copied into the process's own memory first, and back from there at a restore.",
        remedy="More memory, or checkpoints of pods that hold less of the GPU.",
        refused="memory is not ours to add",
        symptoms=("Out of memory: Killed process",),
    )


# containerd 2.2.7 and 2.3.4 (2026-08-12): a restore through CreateContainer has to be switched on; 2.4 has it no more.
SWITCHED_SINCE: tuple[tuple[Version, Version], ...] = (((2, 2), (2, 2, 7)), ((2, 3), (2, 3, 4)))
REMOVED_SINCE: Version = (2, 4)


def restores(context: Context) -> bool:
    """Whether containers are to be restored here through containerd's CRI."""
    return managed(context) and context.wanted.grit_role in ("restore", "both")


@rule(
    "GM517",
    "containerd can still restore through CreateContainer",
    "containerd 2.2.7, 2.3.4 release notes (2026-08-12): enable_experimental_restore_via_create, enable_criu; removed in 2.4",
    applies=restores,
)
def restore_switch(context: Context) -> Iterator[Finding]:
    version = containerd_version(context).get()
    if version is None:
        return
    try:
        settings = cri(context)
    except ConfigError:
        return  # GM501, GM511
    removed = version >= REMOVED_SINCE
    off = any(version[:2] == branch and version >= since for branch, since in SWITCHED_SINCE)
    if not removed and (not off or (settings.restores and settings.criu is not False)):
        return
    yield Finding(
        code="GM517",
        status=Status.FAIL,
        summary=f"containerd {show(version)} has no restore through CreateContainer any more"
        if removed
        else f"containerd {show(version)} restores nothing: enable_experimental_restore_via_create is not true",
        evidence=(
            Evidence("containerd --version", show(version)),
            Evidence(
                "containerd config dump", f"enable_experimental_restore_via_create = {settings.restores}"
            ),
        ),
        cause="GRIT's interceptor restores in CreateContainer; without it the pod starts afresh, silently."
        if removed
        else "From 2.2.7 and 2.3.4 on it is off where it is not named.",
        remedy="Stay on containerd 2.3 on nodes that restore."
        if removed
        else "`enable_experimental_restore_via_create = true` and `enable_criu = true` in the CRI's table, then a restart.",
        refused="an experimental feature is the owner's decision",
    )


def has_snapshots(context: Context) -> bool:
    """Whether there is a GPU, and a containerd that starts containers beside Docker."""
    return has_containerd(context) or (has_gpu(context) and embedded(context) is not None)


@rule(
    "GM539",
    "containerd can mount its overlays",
    "containerd PR#13805 (2.4): index=off behind every mount_options; measured on kernel 6.18: conflicting options",
    applies=has_snapshots,
)
def exports(context: Context) -> Iterator[Finding]:
    try:
        given = cri(context).overlay_options
    except ConfigError:
        return  # GM501, GM511
    if EXPORTS not in given:
        return
    version = containerd_version(context).need()
    if version >= EXPORTS_SINCE:
        return
    yield Finding(
        code="GM539",
        status=Status.FAIL,
        summary=f"{EXPORTS} in mount_options: containerd {show(version)} cannot start a container on overlayfs with it",
        evidence=(
            Evidence("containerd config dump", f'[plugins."{OVERLAY}"] mount_options = {list(given)}'),
            Evidence("containerd --version", show(version)),
        ),
        cause="containerd before 2.4 adds index=off behind these options, and the kernel rejects the combination.",
        remedy=f"Take {EXPORTS} out. What it was meant for, file watches in a dump, `force-irmap` and `irmap-scan-path /` in "
        f"{RUNC_CONF} do as well (GM536). Existing containers keep their mounts as they are.",
        refused="whose option this is, and what else it was meant for, is not ours to guess",
        symptoms=("overlayfs: conflicting options: nfs_export=on,index=off", "failed to mount"),
    )
