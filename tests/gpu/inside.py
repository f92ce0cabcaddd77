"""A machine inside this machine: the same files, kernel and GPU, where whatever is changed is gone with its last process.

`enter` starts a program in namespaces of its own (mount, PID, network, IPC, UTS, cgroup). There every directory of the root is
an overlay whose upper half is memory: /etc, /usr and /var can be broken and mended, and the machine's own stay as they are. Its
daemons are not seen, and with its first process every other one ends.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# Not overlaid: the kernel's own, and what only a mount or a boot loader needs.
KEPT = {"boot", "dev", "lost+found", "media", "mnt", "proc", "run", "sys"}
CGROUP = "gpumend-gpu-test"
# A daemon's storage is itself an overlay, and an overlay takes no overlay as its upper half.
STORES = ("/var/lib/docker", "/var/lib/containerd", "/var/lib/containers")


def mounts() -> list[str]:
    """Where something is mounted, as this process sees it, in the order of the mounts."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line.split(" ")[4].encode().decode("unicode_escape") for line in lines]


def run(*argv: str) -> str:
    """What a program says; raises with its own words where it fails."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip() or done.returncode}"
        )
    return done.stdout


@contextmanager
def cgroups() -> Iterator[Path]:
    """The root of the unified cgroup hierarchy, mounted for as long as it is needed."""
    place = Path(tempfile.mkdtemp(prefix="gpumend-cgroup-"))
    run("mount", "-t", "cgroup2", "none", str(place))
    try:
        yield place
    finally:
        run("umount", str(place))
        place.rmdir()


def enter(program: Sequence[str], parts: Path | None) -> int:
    """Run `program` in a machine of its own, and return its exit status. Afterwards nothing of it is left."""
    with cgroups() as top:
        own = top / CGROUP
        own.mkdir(exist_ok=True)
    try:
        argv = [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--net",
            "--ipc",
            "--uts",
            "--propagation",
            "private",
        ]
        named = [] if parts is None else ["--parts", str(parts)]
        inner = [*argv, sys.executable, "-B", "-m", "tests.gpu.inside", *named, "--", *program]
        return subprocess.call(inner, close_fds=False)
    finally:
        with cgroups() as top:
            for directory, _, _ in os.walk(top / CGROUP, topdown=False):
                os.rmdir(directory)


def overlay(scratch: Path) -> None:
    """Every directory of the root is an overlay; what was mounted below it is there again."""
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "none", str(scratch))
    there = mounts()
    for top in sorted(Path("/").iterdir()):
        if top.name in KEPT or top.is_symlink() or not top.is_dir():
            continue
        upper, work, lower = (scratch / kind / top.name for kind in ("upper", "work", "lower"))
        for directory in (upper, work, lower):
            directory.mkdir(parents=True)
        shutil.copystat(top, upper)
        run("mount", "--rbind", str(top), str(lower))
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        run("mount", "-t", "overlay", "-o", options, "overlay", str(top))
        for path in there:
            below = Path(path)
            if top in below.parents:
                run("mount", "--rbind", str(lower / below.relative_to(top)), path)


def own_cgroup() -> None:
    """This process is in the test's cgroup, the root of its namespace; below it daemons make theirs with every controller."""
    with cgroups() as top:
        (top / CGROUP / "cgroup.procs").write_text("0")
    if ctypes.CDLL(None, use_errno=True).unshare(0x02000000):  # CLONE_NEWCGROUP
        raise OSError(ctypes.get_errno(), "unshare of the cgroup namespace")
    place = Path("/sys/fs/cgroup")
    if str(place) in mounts():
        run("umount", "--recursive", str(place))
    run("mount", "-t", "cgroup2", "none", str(place))
    # A cgroup with processes of its own gives its children no controllers (the kernel's cgroup-v2.rst, "No Internal Process").
    (place / "init").mkdir()
    for pid in (place / "cgroup.procs").read_text().split():
        (place / "init/cgroup.procs").write_text(pid)
    for controller in (place / "cgroup.controllers").read_text().split():
        (place / "cgroup.subtree_control").write_text(f"+{controller}")


def lay(parts: Path) -> None:
    """What the machine lacks and `parts` brings is in its place: .deb archives as dpkg unpacks them, programs of bin/ in /usr/bin."""
    for archive in sorted(parts.glob("*.deb")):
        with tempfile.TemporaryDirectory() as tree:
            run("dpkg-deb", "-x", str(archive), tree)
            merge(Path(tree))
    for program in sorted(parts.glob("bin/*")):
        target = Path("/usr/bin") / program.name
        if not target.exists():
            shutil.copy(program, target)
            target.chmod(0o755)
    run("ldconfig")


def merge(tree: Path) -> None:
    """Everything of `tree` that the machine does not have is in its place there.

    Nothing is replaced, and no library comes that the linker has already: an older or newer one beside it breaks the machine.
    """
    known = {line.split()[0] for line in run("ldconfig", "-p").splitlines()[1:] if line.strip()}
    for directory, _, names in os.walk(tree):
        target = Path("/") / Path(directory).relative_to(tree)
        for name in names:
            path, place = Path(directory) / name, target / name
            soname = re.match(r"[^/]+?\.so\.\d+", name)
            if os.path.lexists(place) or (soname and soname.group() in known):
                continue
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place, follow_symlinks=False)


def main() -> int:
    arguments = sys.argv[1:]
    program = arguments[arguments.index("--") + 1 :]
    parts = Path(arguments[1]).resolve() if arguments[0] == "--parts" else None
    scratch = Path("/mnt")
    run("mount", "-t", "proc", "proc", "/proc")
    own_cgroup()
    overlay(scratch)
    os.chdir(os.getcwd())  # the same name, in the overlay
    for store in STORES:
        Path(store).mkdir(parents=True, exist_ok=True)
        run("mount", "-t", "tmpfs", "none", store)
    run("mount", "-t", "tmpfs", "none", "/run")
    run("mount", "-t", "tmpfs", "-o", "mode=1777", "none", "/dev/shm")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 0x1))  # SIOCSIFFLAGS: up
    if parts is not None:
        lay(parts)
    return subprocess.call(program, close_fds=False)


if __name__ == "__main__":
    sys.exit(main())
