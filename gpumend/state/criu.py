"""CRIU and cuda-checkpoint: versions, the CUDA plugin, and the configuration files that runc hands to CRIU."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gpumend.state.grit import CONFIG as GRIT
from gpumend.state.reading import Reading, first_unknown
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, FileMeta, Output, Process, Snapshot
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

RUNC_CONF = "/etc/criu/runc.conf"  # runc libcontainer/criu_linux.go: over what runc itself asks for
DEFAULT_CONF = "/etc/criu/default.conf"
CONFS = "/etc/criu/*.conf"
PLUGINS = (
    "/usr/lib/criu/cuda_plugin.so",
    "/usr/lib64/criu/cuda_plugin.so",  # RPM hosts
    "/usr/local/lib/criu/cuda_plugin.so",
    "/usr/lib/*/criu/cuda_plugin.so",
)
# `criu check` keeps what it found out of the kernel in /run/criu.kdat: here it gets a /run of its own, which is gone
# afterwards. An audit writes nothing. Like ss(8) it may have the kernel load its socket diagnostics, so that it is run on
# nodes of GRIT alone.
CHECK = "mount -t tmpfs none /run && exec criu check"
# Processes in a pid namespace of their own (proc(5), NSpid), Docker's left out, with a file watch whose handle is overlay's
# (type f8: kernel fs/overlayfs/overlayfs.h OVL_FILEID_V1): pid and name. One grep for all of them, however many there are.
WATCHERS = (
    "grep -slE '^NSpid:[[:space:]]+[0-9]+[[:space:]]+[0-9]' /proc/[0-9]*/status | sed 's,status$,fdinfo,' | "
    "xargs -r grep -rls fhandle-type:f8 | cut -d/ -f3 | sort -nu | "
    'while read -r pid; do grep -qs docker "/proc/$pid/cgroup" || '
    'printf "%s %s\\n" "$pid" "$(cat "/proc/$pid/comm" 2>/dev/null)"; done'
)
MPS = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
INSTANCES = "/proc/sys/fs/inotify/max_user_instances"

REQUEST = Request(
    files=(RUNC_CONF, DEFAULT_CONF, INSTANCES),
    globs=(Glob(CONFS), *(Glob(pattern, read=False) for pattern in PLUGINS)),
    programs=("criu", "cuda-checkpoint"),
    commands={
        "criu": Command(("criu", "--version"), timeout=5),
        "criu-check": Command(("unshare", "-m", "sh", "-c", CHECK), timeout=20, needs=(GRIT,)),
        "criu-check-runc": Command(
            ("unshare", "-m", "sh", "-c", f"{CHECK} --config {RUNC_CONF}"),
            timeout=20,
            needs=(GRIT, RUNC_CONF),
        ),
        "criu-watchers": Command(("sh", "-c", WATCHERS), timeout=10, needs=(GRIT,)),
        # without arguments it prints its usage and does nothing (NVIDIA/cuda-checkpoint README)
        "cuda-checkpoint": Command(("cuda-checkpoint", "--help"), timeout=5),
    },
    processes=MPS,
)


class Criu(Record):
    """check: `criu check` of this host; check_runc: the same with runc.conf, its validator. confs: /etc/criu/*.conf.
    plugins: where cuda_plugin.so was found. action: whether cuda-checkpoint has `--action`, which the plugin calls.
    watchers: pid and name of processes in pods that watch a file on overlay; absent where GRIT is not. mps: NVIDIA's
    multi-process service, where it runs. instances: how many inotify instances a user may have."""

    version: Reading[Version]
    program: Reading[FileMeta]
    check: Reading[Output]
    check_runc: Reading[Output]
    confs: Mapping[str, Reading[FileContent]]
    plugins: Reading[tuple[str, ...]]
    cuda_checkpoint: Reading[FileMeta]
    action: Reading[bool]
    watchers: Reading[tuple[tuple[int, str], ...]]
    mps: Reading[tuple[Process, ...]]
    instances: Reading[int]

    @property
    def installed(self) -> bool:
        return self.program.ok


def parse(snapshot: Snapshot) -> Criu:
    listed = snapshot.glob(CONFS)
    confs = {
        path: snapshot.file(path) for path in dict.fromkeys((RUNC_CONF, DEFAULT_CONF, *(listed.value or ())))
    }
    found: list[str] = []
    plugins: Reading[tuple[str, ...]] | None = None
    for pattern in PLUGINS:
        matches = snapshot.glob(pattern)
        if not matches.known:
            plugins = matches.without_value()
        found.extend(matches.value or ())
    usage = snapshot.command("cuda-checkpoint")
    return Criu(
        version=snapshot.succeeded("criu").map(lambda output: parse_version(output.out)),
        program=snapshot.program("criu"),
        check=snapshot.command("criu-check").map(own_word),
        check_runc=snapshot.command("criu-check-runc").map(own_word),
        confs=confs,
        plugins=plugins or Reading.of(tuple(found), "cuda_plugin.so"),
        cuda_checkpoint=snapshot.program("cuda-checkpoint"),
        action=usage.map(lambda output: has_action(output.out + output.err)),
        watchers=snapshot.succeeded("criu-watchers").map(lambda output: watchers(output.out)),
        mps=_mps(snapshot),
        instances=snapshot.text(INSTANCES).map(int),
    )


def own_word(output: Output) -> Output:
    """What criu itself said; raises ValueError where it was not reached, as in a container that may not mount."""
    if output.rc and (said := re.match(r"(?:unshare|mount|sh): .*", output.err)):
        raise ValueError(said.group())
    return output


def has_action(usage: str) -> bool:
    """Whether cuda-checkpoint's usage has `--action`; raises ValueError for what is no usage (a library is missing)."""
    if not re.search(r"--(?:action|pid|toggle)\b", usage):
        raise ValueError(f"no usage: {(usage.strip().splitlines() or ['an empty answer'])[-1][:200]}")
    return bool(re.search(r"--action\b", usage))


def watchers(text: str) -> tuple[tuple[int, str], ...]:
    """Each line's pid and name; raises ValueError for one without a pid."""
    rows = (line.partition(" ") for line in text.splitlines())
    return tuple((int(pid), name) for pid, _, name in rows)


def _mps(snapshot: Snapshot) -> Reading[tuple[Process, ...]]:
    listed = [snapshot.processes(name) for name in MPS]
    unread = first_unknown(listed)
    return unread or Reading.of(tuple(one for found in listed for one in found.value or ()), "/proc")
