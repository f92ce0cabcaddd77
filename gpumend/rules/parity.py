"""What has to be equal on two nodes for a checkpoint of one to be restored on the other. Pure, over HostStates.

A fact that nobody could read is `unknown` and never a mismatch (ai-dynamo/snapshot docs/design/
restore-compatibility-checker.md). What is no host's affair (pod UIDs in kubelet paths, images) is not compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from gpumend.rules.engines.criu import options
from gpumend.rules.engines.engine import serving
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.containerd import ConfigError
from gpumend.state.criu import DEFAULT_CONF, RUNC_CONF
from gpumend.state.grit import ROOT
from gpumend.state.host_state import HostState
from gpumend.state.reading import Reading, Unread
from gpumend.text.backports import StrEnum
from gpumend.text.digest import sha256
from gpumend.text.record import Record
from gpumend.text.version import Version, show

NO_MAPPING = "Error (criu/mount.c:3141): mnt: No mapping for N:(null) mountpoint"
AUTODETECTED = 'Mount N is autodetected external mount. Try "--ext-mount-map auto"'


class Level(StrEnum):
    """`blocker`: the restore fails. `risk`: it may. `unknown`: not known on some node."""

    BLOCKER = "blocker"
    RISK = "risk"
    UNKNOWN = "unknown"


class Value(Record):
    """What a node has: `key` is compared, `text` is shown, `parts` tell two sets apart."""

    key: str
    text: str
    parts: frozenset[str] = frozenset()


class Subject(Record):
    """One thing that is compared. of: raises Unread where a node does not tell. error: what a mismatch leads to, in the
    words of the tool that says it; source: where that is from. needed: the only value that works: a node with another
    differs, even where all have that."""

    name: str
    title: str
    level: Level
    of: Callable[[HostState], Value]
    error: str
    source: str
    needed: str = ""


class Difference(Record):
    """A subject in which the nodes of a group differ, or that is not known on some. values: by host, as shown; differ:
    who differs from the majority (both halves where there is none), or from what is needed."""

    subject: Subject
    level: Level
    values: Mapping[str, str]
    differ: tuple[str, ...]
    details: tuple[str, ...] = ()


def _text(value: str) -> Value:
    return Value(value, value)


def _version(reading: Reading[Version]) -> Value:
    found = reading.get()
    return _text(show(found) if found else "not installed")


def _gpus(state: HostState) -> Value:
    listed = state.gpus.listed
    names = [gpu.name for gpu in listed.value or ()] if listed.ok else list(state.gpus.proc.need().values())
    text = ", ".join(f"{count} x {name}" for name, count in sorted(Counter(names).items()))
    return _text(text or "none")


def _mig(state: HostState) -> Value:
    details = state.gpus.details.get()
    on = any(gpu.mig for gpu in details.gpus) if details else False
    return _text("on" if on else "off")


def _cdi_paths(state: HostState) -> Value:
    """The set of paths that the effective specs put into a container: by content, whatever the files are called."""
    paths: set[str] = set()
    for file in state.cdi.resolve(DEFAULT_DIRS).in_use():
        if file.spec.value is not None:
            edits = file.spec.value.edits
            paths |= {inside for _, inside in edits.mounts} | {node.inside for node in edits.nodes}
    digest = sha256("\n".join(sorted(paths)).encode()).hexdigest()
    return Value(
        digest, f"{len(paths)} paths, sha256 {digest[:12]}" if paths else "no spec", frozenset(paths)
    )


def _memory(state: HostState) -> Value:
    """What the GPUs hold goes through the host's memory. Where none tells how much that is (no nvidia-smi, or memory that
    is the host's own), nothing is short."""
    details = state.gpus.details.get()
    total = sum(gpu.memory or 0 for gpu in details.gpus) if details else 0
    if not total:
        return Value("enough", "not told")
    have = state.host.memory.need()
    return Value("enough" if have >= total else "less", f"{have} MiB for {total} MiB of its GPUs")


def _conf(state: HostState, path: str) -> Value:
    """By meaning: comments and order of different options do not count."""
    content = state.criu.confs[path].get()
    if content is None:
        return Value("", "not there")
    rows = [f"{name} {value}".strip() for name, values in options(content).items() for value in values]
    return Value("\n".join(sorted(rows)), ", ".join(sorted(rows)) or "empty", frozenset(rows))


def _grit_binary(state: HostState) -> Value:
    name = state.grit.binary
    if state.grit.content.absent:
        return _text("no grit.toml")
    return _text(name or "runc (BinaryName is not set)")


def _grit_rest(state: HostState) -> Value:
    """Normalised: what is not set has the decoder's default."""
    found = state.grit.options
    rows = {"Root": found.get("Root") or ROOT, "SystemdCgroup": found.get("SystemdCgroup", False)}
    rows |= {key: value for key, value in found.items() if key not in ("BinaryName", *rows)}
    text = ", ".join(f"{key} = {value}" for key, value in sorted(rows.items()))
    return _text(text)


def _mode(state: HostState) -> Value:
    if not state.toolkit.installed:
        return _text("no toolkit")
    state.toolkit.config.get()
    return _text(state.toolkit.mode())


def _snapshotter(state: HostState) -> Value:
    return _text(_cri(state)[1])


def _enable_cdi(state: HostState) -> Value:
    return _text(_cri(state)[0])


def _cri(state: HostState) -> tuple[str, str]:
    """(whether containerd's CRI injects CDI, the snapshotter of GRIT's containers)."""
    engine = serving(state)
    assert engine.cri is not None
    try:
        cri = engine.cri(state)
    except ConfigError as error:
        raise Unread(Reading.fail(error.path, error.detail)) from None
    runtime = cri.runtimes.get("grit")
    on = "on" if cri.enable_cdi else "off"
    return on, (runtime.snapshotter if runtime else "") or cri.snapshotter or "overlayfs"


def _containerd(state: HostState) -> Value:
    """Of the one that serves pods: k3s brings its own."""
    return _version(serving(state).version(state))


def _instances(state: HostState) -> Value:
    found = state.criu.instances.get()
    return _text("not there" if found is None else str(found))


def _device_map(state: HostState) -> Value:
    """Whether a process may be restored on another GPU than it was on: cuda-checkpoint --device-map (driver 580)."""
    loaded = state.driver.loaded.need()
    return Value("580" if loaded >= (580,) else "older", f"driver {show(loaded)}")


def _present(reading: Reading[Any]) -> Value:
    return _text("there" if reading.get() is not None else "not there")


SUBJECTS = (
    Subject(
        "arch", "machine", Level.BLOCKER, lambda s: _text(s.host.machine),
        "criu: the image is of another architecture", "ai-dynamo/snapshot restore-compatibility-checker.md",
    ),
    Subject(
        "driver", "driver", Level.BLOCKER, lambda s: _version(s.driver.loaded),
        f"{NO_MAPPING} (the version is part of the libraries' names), or cuda-checkpoint refuses", "criu#2672, nct#1098",
    ),
    Subject(
        "gpus", "GPUs", Level.BLOCKER, _gpus,
        "cuda-checkpoint: restore needs the same number and kind of GPUs", "criu plugins/cuda/README.md",
    ),
    Subject(
        "mig", "MIG", Level.BLOCKER, _mig, "cuda-checkpoint does not support MIG", "criu plugins/cuda/README.md", needed="off"
    ),
    Subject(
        "cdi", "paths that CDI puts into a container", Level.BLOCKER, _cdi_paths, NO_MAPPING,
        "runc libcontainer addCriuDumpMount, addCriuRestoreMount; nct#1098",
    ),
    Subject(
        "mode", "nvidia-container-runtime.mode", Level.BLOCKER, _mode, NO_MAPPING,
        "nct internal/runtime: the two config.json list different mounts",
    ),
    Subject(
        "grit_binary", "BinaryName in grit.toml", Level.BLOCKER, _grit_binary, NO_MAPPING,
        "one node's containers have the GPU's mounts, the other's have not; Cumulus-Compute-Labs/grit",
    ),
    Subject(
        "runc_conf", RUNC_CONF, Level.BLOCKER, lambda s: _conf(s, RUNC_CONF), AUTODETECTED, "runc libcontainer/criu_linux.go"
    ),
    Subject(
        "default_conf", DEFAULT_CONF, Level.BLOCKER, lambda s: _conf(s, DEFAULT_CONF), AUTODETECTED,
        "criu.txt: configuration files, before runc.conf",
    ),
    Subject(
        "enable_cdi", "CDI in containerd's CRI", Level.BLOCKER, _enable_cdi, NO_MAPPING,
        "device plugin cdi-cri: both specs need the same edits",
    ),
    Subject(
        "grit", "grit.toml besides", Level.RISK, _grit_rest, "the restored container lands in another cgroup or state directory",
        "containerd oci.proto",
    ),
    Subject("kernel", "kernel", Level.RISK, lambda s: _text(s.host.kernel), "criu: features of one kernel missing in the other", "criu.txt"),
    Subject("criu", "CRIU", Level.RISK, lambda s: _version(s.criu.version), "criu: an image of a newer version", "criu images/inventory.proto"),
    Subject("runc", "runc", Level.RISK, lambda s: _version(s.containerd.runc), "runc declares other mounts external", "runc libcontainer"),
    Subject(
        "cuda_checkpoint", "cuda-checkpoint", Level.RISK, lambda s: _present(s.criu.cuda_checkpoint),
        "the CUDA plugin turns itself off without it, silently", "criu plugins/cuda/cuda_plugin.c", needed="there",
    ),
    Subject(
        "device_map", "cuda-checkpoint --device-map", Level.RISK, _device_map,
        "the restored process finds its GPU only where that has the same index and UUID: --device-map needs driver 580",
        "cuda-checkpoint README (580)", needed="580",
    ),
    Subject(
        "memory", "memory for what the GPUs hold", Level.RISK, _memory, "Out of memory: Killed process",
        "criu plugins/cuda/README.md", needed="enough",
    ),
    Subject("toolkit", "NVIDIA Container Toolkit", Level.RISK, lambda s: _version(s.toolkit.version), "its specs list other paths", "nct"),
    Subject("containerd", "containerd", Level.RISK, _containerd, "it declares other mounts", "containerd"),
    Subject("snapshotter", "snapshotter", Level.RISK, _snapshotter, "fsnotify: Can't dump that handle, on one of the two", "criu/fsnotify.c"),
    # max_user_watches follows the host's memory since Linux 5.11: no two nodes would be equal
    Subject(
        "inotify", "fs.inotify.max_user_instances", Level.RISK, _instances,
        "criu: the watches are not made again at the restore: Too many open files", "inotify(7), criu/fsnotify.c",
    ),
)  # fmt: skip


def compare(states: Mapping[str, HostState]) -> list[Difference]:
    """Every subject in which the nodes differ or that is not known on some; blockers first. Fewer than two nodes differ
    in nothing."""
    found = []
    for subject in SUBJECTS if len(states) > 1 else ():
        known: dict[str, Value] = {}
        unknown: dict[str, str] = {}
        for name, state in sorted(states.items()):
            try:
                known[name] = subject.of(state)
            except Unread as unread:
                unknown[name] = str(unread)
        keys = {value.key for value in known.values()}
        if len(keys) > 1 or (subject.needed and keys - {subject.needed}):
            found.append(_difference(subject, known))
        if unknown:
            found.append(Difference(subject, Level.UNKNOWN, unknown, tuple(unknown)))
    return sorted(found, key=lambda item: list(Level).index(item.level))


def _difference(subject: Subject, known: Mapping[str, Value]) -> Difference:
    counts = Counter(value.key for value in known.values()).most_common()
    majority = counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else None
    majority = subject.needed or majority
    differ = tuple(name for name, value in known.items() if value.key != majority)
    shared = frozenset.intersection(*(value.parts for value in known.values()))
    details = []
    for name, value in known.items():
        only = sorted(value.parts - shared)
        if only:
            details.append(
                f"{name} alone has {', '.join(only[:4])}"
                + (f" and {len(only) - 4} more" if len(only) > 4 else "")
            )
    return Difference(
        subject, subject.level, {name: value.text for name, value in known.items()}, differ, tuple(details)
    )
