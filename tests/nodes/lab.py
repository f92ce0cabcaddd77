"""Nodes: Debian hosts that are really booted, with systemd, sshd and dockerd, and the lab that holds them.

    with Lab() as lab:
        node = lab.boot("trixie")
        node.run(["docker", "version"])
        subprocess.run(["ssh", "-F", str(lab.ssh_config), node.name, "id"])

A node's root is an overlay over the suite's base, mounted only in the mount namespace that the node itself
runs in: when its processes are gone, so are its mounts, and nothing on the outer machine needs unmounting.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

from tests.nodes.base import BaseError, base, ensure_tools, missing_tools, plain
from tests.nodes.slot import ONLY_CGROUP2, LabError, Slot, kill_cgroups, remove_tree, wait_for

__all__ = ["MAX_NODES", "Entry", "Lab", "LabError", "Node", "why_not"]

MAX_NODES = 4
ENGINES = ("docker.socket", "docker.service", "containerd.service")
COPIED = ("upper", "docker", "containerd")  # a node's directories that are its disks
USERS = {"root": "/root", "ops": "/home/ops", "nosudo": "/home/nosudo"}
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
BOOT_SECONDS = 90.0  # a booted node takes 2-5 s on an idle machine; tests share theirs with others

USER_RANGE = (
    1 << 19
)  # first user id of a node with a user namespace; an unprivileged LXC has such a range of 65536

# $1 cgroup, $2 the layers below with their options, $3 node's directory, the rest is nspawn. bash: `exec` keeps the pid that the
# lab waits for.
BOOT = f"""
set -eu
{ONLY_CGROUP2}
mkdir /sys/fs/cgroup/"$1"
echo $$ >/sys/fs/cgroup/"$1"/cgroup.procs
mount -t overlay -o lowerdir="$2",upperdir="$3/upper",workdir="$3/work" overlay "$3/root"
shift 3
exec "$@"
"""

TREE = r"""
import hashlib, json, os, stat, sys
def entry(path):
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        what = "-> " + os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        what = hashlib.sha256(open(path, "rb").read()).hexdigest()
    elif stat.S_ISDIR(status.st_mode):
        what = "directory"
    else:
        what = "special %d:%d" % (os.major(status.st_rdev), os.minor(status.st_rdev))
    return [what, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns]
found = {}
for top in sys.argv[1:]:
    if not os.path.lexists(top):
        continue
    found[top] = entry(top)
    if os.path.isdir(top) and not os.path.islink(top):
        for directory, directories, files in os.walk(top):
            for name in directories + files:
                path = os.path.join(directory, name)
                found[path] = entry(path)
json.dump(found, sys.stdout)
"""

Entry = tuple[str, int, int, int, int]


def why_not() -> str | None:
    """One line saying why nodes cannot boot on this machine; None where they can (tools are then there)."""
    if os.geteuid() != 0:
        return "nodes need root (systemd-nspawn, overlay mounts)"
    if missing_tools():
        try:
            ensure_tools()
        except BaseError as error:
            return f"nodes need tools this machine lacks: {error}".splitlines()[0]
    probe = subprocess.run(
        ["unshare", "-m", "sh", "-c", ONLY_CGROUP2], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        return f"nodes need cgroup2 in a mount namespace of their own: {probe.stderr.strip()}".splitlines()[0]
    if "\toverlay\n" not in Path("/proc/filesystems").read_text(encoding="utf-8"):
        return "nodes need overlayfs in the kernel"
    return None


class Node:
    """One booted host. Everything here goes around the product: by the kernel's namespaces, not by SSH."""

    def __init__(self, lab: Lab, name: str, suite: str, index: int) -> None:
        self.lab = lab
        self.name = name
        self.suite = plain(suite)
        self.variant = suite
        self.outer_address, self.address = lab.slot.addresses(index)
        self.cgroup = f"{name}.node"  # the dot: gm0-1 must not be a prefix of gm0-10 when it is killed
        self.directory = lab.slot.directory / name
        self.key = lab.key
        self.docker = True
        self.overlay = False
        self.unprivileged = False
        self.devices: tuple[Path, ...] = ()
        self.disk: Path | None = None
        self.leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<Node {self.name} {self.suite} {self.address}>"

    # -- commands and files ---------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        input: bytes | str | None = None,
        check: bool = True,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `argv` as root inside the node; raises `LabError` with its output if `check` and it failed."""
        done = self.run_bytes(argv, input.encode() if isinstance(input, str) else input, check, timeout)
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode("utf-8", "replace"),
            done.stderr.decode("utf-8", "replace"),
        )

    def run_bytes(
        self, argv: Sequence[str], data: bytes | None = None, check: bool = True, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[bytes]:
        """As `run`, with the output as the bytes it was."""
        if not self.leader:
            raise LabError(f"{self.name} is not running")
        process = subprocess.Popen(
            ["nsenter", "-t", str(self.leader), "-a", "--", *argv],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL if data is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(data, timeout)
        except BaseException as error:
            # nsenter forks to enter the pid namespace: only the whole group reaches the program itself.
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                raise LabError(f"{self.name}: {shlex.join(argv)} took more than {timeout:g} s") from error
            raise
        if check and process.returncode != 0:
            said = (out + err).decode("utf-8", "replace").strip()
            raise LabError(f"{self.name}: {shlex.join(argv)}: rc {process.returncode}\n{said[-4000:]}")
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def sh(
        self, script: str, *arguments: str, check: bool = True, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Runs a shell script inside the node; `arguments` are its $1, $2, ..."""
        return self.run(["sh", "-euc", script, "sh", *arguments], check=check, timeout=timeout)

    def read(self, path: str) -> bytes:
        """The bytes of one file."""
        return self.run_bytes(["cat", "--", path]).stdout

    def write(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """`path` holds `data` with that mode, owned by root; missing parent directories are made."""
        script = 'mkdir -p "$(dirname "$1")"; cat >"$1"; chmod "$2" "$1"'
        content = data.encode() if isinstance(data, str) else data
        self.run_bytes(["sh", "-euc", script, "sh", path, f"{mode:04o}"], content)

    def exists(self, path: str) -> bool:
        """Whether anything lies at `path`, a link that points nowhere included."""
        return self.run(["sh", "-c", '[ -e "$1" ] || [ -L "$1" ]', "sh", path], check=False).returncode == 0

    def tree(self, *paths: str) -> dict[str, Entry]:
        """(content hash or link target, mode, uid, gid, mtime in ns) of each path and all below it.

        Two equal trees mean that nothing there was written, replaced or touched in between.
        """
        found = json.loads(self.run(["python3", "-c", TREE, *paths]).stdout)
        return {path: (str(e[0]), int(e[1]), int(e[2]), int(e[3]), int(e[4])) for path, e in found.items()}

    # -- services -------------------------------------------------------------------------------------------

    def show(self, unit: str, prop: str) -> str:
        """One property of a systemd unit, as `systemctl show` prints it."""
        return self.run(["systemctl", "show", "--value", "-p", prop, unit]).stdout.strip()

    def is_active(self, unit: str) -> bool:
        """Whether systemd calls the unit active."""
        return self.show(unit, "ActiveState") == "active"

    def main_pid(self, unit: str) -> int:
        """The unit's main process inside the node, 0 where none runs: another number means a restart."""
        return int(self.show(unit, "MainPID"))

    pid_of = main_pid

    def start_time(self, unit: str) -> int:
        """When the unit last became active, in microseconds since boot: unchanged by a mere reload."""
        return int(self.show(unit, "ActiveEnterTimestampMonotonic") or 0)

    def ssh_sessions(self) -> int:
        """How many sessions sshd has opened since the node was made: one for each command sent by SSH."""
        self.run(["journalctl", "--sync"])
        return self.run(["journalctl", "-u", "ssh", "-o", "cat", "--no-pager"]).stdout.count(
            "Starting session:"
        )

    def wait_active(self, unit: str, seconds: float = 60.0) -> None:
        """`unit` is active; raises `LabError` with its last log lines where it failed instead."""

        def settled() -> bool:
            return self.show(unit, "ActiveState") in ("active", "failed")

        wait_for(f"{self.name}: {unit} active", settled, seconds)
        if not self.is_active(unit):
            log = self.run(
                ["journalctl", "-u", unit, "-n", "15", "-o", "cat", "--no-pager"], check=False
            ).stdout
            raise LabError(f"{self.name}: {unit} failed to start:\n{log}")

    def restart(self, unit: str) -> None:
        """`unit` is active again after a full restart; how often it was started before does not matter."""
        # Docker's unit allows three starts a minute; the lab's own must not count against the test's.
        self.sh('systemctl reset-failed "$1" 2>/dev/null || true; systemctl restart "$1"', unit)
        self.wait_active(unit)

    def unpack(self, archive: bytes) -> None:
        """Every member of the tar archive lies below / of the node."""
        self.run_bytes(["tar", "-xpf", "-", "-C", "/"], archive)

    # -- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """The node is up: systemd has settled, sshd answers, and Docker is active unless it was left out."""
        if self._nspawn is not None:
            raise LabError(f"{self.name} is already running")
        in_namespace = ["unshare", "-m", "bash", "-c", BOOT, "bash"]
        layers = [*([self.disk / "upper"] if self.disk else []), base(self.variant)]
        # All of the tree changes hands: with metacopy an overlay copies no file's bytes for that.
        lower = ":".join(map(str, layers)) + (",metacopy=on" if self.unprivileged else "")
        arguments = [self.cgroup, lower, str(self.directory), *self._nspawn_argv()]
        with open(self.directory / "console.log", "ab") as log:
            self._nspawn = subprocess.Popen(
                [*in_namespace, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C at the terminal is the lab's to handle, not nspawn's
            )
        self._await_leader()
        self._connect()
        wait_for(f"{self.name}: systemd settled", self._settled, BOOT_SECONDS)
        wait_for(f"{self.name}: sshd answers on {self.address}", self._sshd_answers, BOOT_SECONDS)
        if self.docker:
            self.wait_active("docker", BOOT_SECONDS)

    def _nspawn_argv(self) -> list[str]:
        argv = [
            "systemd-nspawn",
            "--quiet",
            "--settings=no",
            "--keep-unit",
            "--register=no",
            "--link-journal=no",
        ]
        argv += [
            "--resolv-conf=off",
            "--timezone=off",
            f"--machine={self.name}",
            f"--directory={self.directory}/root",
        ]
        argv += [
            "--private-network",
            "--network-veth",
            "--capability=all",
            "--system-call-filter=add_key keyctl bpf",
        ]
        # Docker's overlay2 refuses an overlay below it; these are directories of the outer disk.
        real = ("srv",) if self.overlay else ("srv", "var/lib/docker", "var/lib/containerd")
        argv += [f"--bind={self.directory}/{Path(path).name}:/{path}" for path in real]
        if self.unprivileged:
            argv += [f"--private-users={USER_RANGE}:65536", "--private-users-ownership=chown"]
            argv += [f"--bind={device}:/dev/{device.name}" for device in self.devices]
        return [*argv, "--console=pipe", "--boot"]

    def console(self) -> str:
        """The last lines that nspawn and the node's systemd printed."""
        return (self.directory / "console.log").read_text(encoding="utf-8", errors="replace")[-2000:]

    def _await_leader(self) -> None:
        nspawn = self._nspawn
        assert nspawn is not None
        children = Path(f"/proc/{nspawn.pid}/task/{nspawn.pid}/children")

        def found() -> bool:
            if nspawn.poll() is not None:
                raise LabError(f"{self.name} did not boot (nspawn rc {nspawn.returncode}):\n{self.console()}")
            for child in children.read_text(encoding="ascii").split():
                try:  # nspawn's first child is its own helper; the leader is the one that has become systemd
                    name = Path(f"/proc/{child}/comm").read_text(encoding="utf-8").strip()
                except (FileNotFoundError, ProcessLookupError):  # it ended between the list and the look
                    continue
                if name in ("systemd", "init"):
                    self.leader = int(child)
                    return True
            return False

        wait_for(f"{self.name}: systemd started", found, BOOT_SECONDS)

    def _connect(self) -> None:
        """The two ends of the node's network cable have their addresses."""
        inside = ["nsenter", "-t", str(self.leader), "-n"]

        def ip(prefix: list[str], *arguments: str) -> bool:
            done = subprocess.run([*prefix, "ip", *arguments], capture_output=True, check=False)
            return done.returncode == 0

        outer = f"ve-{self.name}"
        wait_for(f"{self.name}: host0", lambda: ip(inside, "link", "show", "host0"))
        wait_for(f"{self.name}: {outer}", lambda: ip([], "link", "show", outer))
        for prefix, device, address in (([], outer, self.outer_address), (inside, "host0", self.address)):
            if not ip(prefix, "addr", "replace", f"{address}/30", "dev", device) or not ip(
                prefix, "link", "set", device, "up"
            ):
                raise LabError(f"{self.name}: could not give {device} the address {address}")

    def _settled(self) -> bool:
        # Before its socket is there systemctl fails at once and says nothing on stdout; after that it waits.
        state = self.run(
            ["systemctl", "is-system-running", "--wait"], check=False, timeout=BOOT_SECONDS
        ).stdout
        return state.strip() in ("running", "degraded")

    def _sshd_answers(self) -> bool:
        try:
            with socket.create_connection((self.address, 22), timeout=2.0) as connection:
                connection.settimeout(2.0)
                return connection.recv(8) == b"SSH-2.0-"
        except OSError:
            return False

    def _halt(self, orderly: bool) -> None:
        nspawn = self._nspawn
        if nspawn is None:
            return
        if orderly and nspawn.poll() is None:
            nspawn.send_signal(signal.SIGTERM)  # nspawn turns it into an orderly poweroff
            with contextlib.suppress(subprocess.TimeoutExpired):  # what has not stopped then is killed
                nspawn.wait(60.0)
        kill_cgroups(self.cgroup)
        nspawn.kill()
        nspawn.wait()
        self._nspawn = None
        self.leader = 0
        interface = Path(f"/sys/class/net/ve-{self.name}")
        wait_for(f"{self.name}: interface gone", lambda: not interface.exists())

    def halt(self, orderly: bool = False) -> None:
        """The node has lost its power, or shut down; `start` brings it up with the same files, address and keys."""
        self._halt(orderly)

    def reboot(self, orderly: bool = True) -> None:
        """The node has shut down, or lost its power, and is up again with the same files, address and keys."""
        self._halt(orderly)
        self.start()

    @contextlib.contextmanager
    def reboots_by_itself(self) -> Iterator[list[int]]:
        """Inside, a node whose systemd reboots comes up again, as a machine does; nspawn leaves that to whoever called it
        (systemd-nspawn(1), status 133). Gives the leaders of the boots that came so."""
        ended, boots = threading.Event(), list[int]()

        def watch() -> None:
            while not ended.wait(0.05):
                if self._nspawn is not None and self._nspawn.poll() is not None:
                    self._halt(orderly=False)
                    self.start()
                    boots.append(self.leader)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield boots
        finally:
            ended.set()
            watcher.join(2 * BOOT_SECONDS)

    def save(self, disk: Path) -> None:
        """`disk` holds a copy of all that lies on the node's disks, for `Lab.boot(disk=...)`: less its log, and with its
        engines stopped for the moment. What only its processes know is not in it."""
        if self.overlay or self.disk:
            raise LabError(f"{self.name} is not a node of one layer over its base")
        engines = [unit for unit in ENGINES if self.is_active(unit)]
        self.run(["systemctl", "stop", *ENGINES])
        disk.mkdir(mode=0o700)
        for name in COPIED:
            subprocess.run(
                ["cp", "-a", str(self.directory / name), str(disk)], check=True, capture_output=True
            )
        shutil.rmtree(disk / "upper/var/log/journal", ignore_errors=True)
        # Docker's unit allows three starts a minute; the lab's own must not count against the test's.
        self.run(["systemctl", "reset-failed"])
        self.run(["systemctl", "start", *engines])
        for unit in engines:
            self.wait_active(unit)

    def stop(self) -> None:
        """The node is gone, with all its files; a second call does nothing."""
        self._halt(orderly=False)
        if self.directory.exists():
            remove_tree(self.directory)
        self.lab.forget(self)


class Lab:
    """Up to four nodes at a time, with keys and an ssh_config to reach them by strict host key checking."""

    def __init__(self) -> None:
        reason = why_not()
        if reason is not None:
            raise LabError(reason)
        self.slot = Slot()
        self.nodes: list[Node] = []
        self._booted = 0
        self._handlers: dict[int, Any] = {}
        self.key = self.slot.directory / "client_ed25519"
        self.ssh_config = self.slot.directory / "ssh_config"
        self.known_hosts = self.slot.directory / "known_hosts"
        atexit.register(self.close)
        self._make_key(self.key, "gpumend-lab-client")
        self._write_ssh_files()

    def __enter__(self) -> Self:
        # Where SIGTERM or SIGHUP would end the process on the spot, it unwinds instead, and the nodes go.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    self._handlers[number] = signal.signal(number, _unwind)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """No node runs, nothing is mounted, the slot's directory is gone; a second call does nothing."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()
        try:
            for node in list(self.nodes):
                if node._nspawn is not None:
                    kill_cgroups(node.cgroup)
                    node._nspawn.kill()
                    node._nspawn.wait()
                    node._nspawn, node.leader = None, 0
        finally:
            self.nodes.clear()
            self.slot.release()
            atexit.unregister(self.close)

    def boot(
        self,
        suite: str = "trixie",
        *,
        docker: bool = True,
        overlay: bool = False,
        devices: Mapping[str, tuple[int, int]] | None = None,
        files: Mapping[str, bytes | str] | None = None,
        prepare: Callable[[Path], None] | None = None,
        disk: Path | None = None,
    ) -> Node:
        """A new node of `suite`, up and reachable.

        docker=False: neither dockerd nor containerd starts (their units are masked).
        overlay=True: Docker's and containerd's roots lie on the node's own overlay, as in a container, and not on the outer
        disk; /srv lies there always.
        devices: {name: (major, minor)}: the node has a user namespace, as an unprivileged LXC has: root there is an ordinary user
        of the outer machine, which lends these nodes to its /dev.
        files: {path: content} that lie there before the first boot, root's, mode 0644.
        prepare: called with the node's upper directory before the first boot, for anything else.
        disk: another node's disks, as `Node.save` copied them: the node starts with what that one had, and its own identity.
        """
        if len(self.nodes) >= MAX_NODES:
            raise LabError(f"{MAX_NODES} nodes are up already; stop one first")
        lower = base(suite)
        self._booted += 1
        node = Node(self, f"{self.slot.prefix}{self._booted}", suite, self._booted)
        node.docker, node.overlay, node.disk = docker, overlay, disk
        node.unprivileged = devices is not None
        self.nodes.append(node)
        try:
            self._prepare(node, lower, files or {})
            node.devices = tuple(_device(node.directory / "dev", *each) for each in (devices or {}).items())
            if prepare is not None:
                prepare(node.directory / "upper")
            self._write_ssh_files()
            node.start()
        except BaseException:
            node.stop()
            raise
        return node

    def forget(self, node: Node) -> None:
        """`node` is no longer one of the lab's, and no longer in its ssh_config."""
        if node in self.nodes:
            self.nodes.remove(node)
            self._write_ssh_files()

    def _prepare(self, node: Node, lower: Path, files: Mapping[str, bytes | str]) -> None:
        """The node's overlay holds its identity, its keys and `files`, before anything of it runs."""
        for name in ("upper", "work", "root", "docker", "containerd", "srv"):
            (node.directory / name).mkdir(parents=True, mode=0o755)
            if node.unprivileged and name not in ("upper", "work", "root"):
                os.chown(node.directory / name, USER_RANGE, USER_RANGE)
        if node.disk is not None:  # its upper directory stays a layer below
            directories = [str(node.disk / name) for name in COPIED if name != "upper"]
            subprocess.run(["cp", "-a", *directories, str(node.directory)], check=True, capture_output=True)
        upper = node.directory / "upper"
        put(upper, lower, "/etc/machine-id", uuid.uuid4().hex + "\n")
        put(upper, lower, "/etc/hostname", node.name + "\n")
        put(upper, lower, "/etc/hosts", f"127.0.0.1 localhost\n127.0.1.1 {node.name}\n")
        host_key = node.directory / "host_ed25519"
        self._make_key(host_key, node.name)
        put(upper, lower, "/etc/ssh/ssh_host_ed25519_key", host_key.read_bytes(), 0o600)
        put(upper, lower, "/etc/ssh/ssh_host_ed25519_key.pub", host_key.with_suffix(".pub").read_bytes())
        authorized = self.key.with_suffix(".pub").read_bytes()
        for home in USERS.values():
            put(upper, lower, f"{home}/.ssh/authorized_keys", authorized, 0o600)
            owner = (lower / home.lstrip("/")).stat()
            for path in (f"{home}/.ssh", f"{home}/.ssh/authorized_keys"):
                os.chown(upper / path.lstrip("/"), owner.st_uid, owner.st_gid)
        if not node.docker:
            for unit in ("docker.service", "docker.socket", "containerd.service"):
                put(upper, lower, "/etc/systemd/system/.keep", "")
                (upper / "etc/systemd/system" / unit).symlink_to("/dev/null")
        for path, content in files.items():
            put(upper, lower, path, content)

    def _write_ssh_files(self) -> None:
        known, config = [], []
        for node in self.nodes:
            public = node.directory / "host_ed25519.pub"
            if not public.exists():
                continue
            kind, key = public.read_text(encoding="ascii").split()[:2]
            known.append(f"{node.address},{node.name} {kind} {key}\n")
            config.append(
                f"Host {node.name} {node.address}\n    HostName {node.address}\n    User root\n"
                f"    IdentityFile {self.key}\n    IdentitiesOnly yes\n"
                f"    UserKnownHostsFile {self.known_hosts}\n    GlobalKnownHostsFile /dev/null\n"
                "    StrictHostKeyChecking yes\n    LogLevel ERROR\n"
            )
        for path, lines in ((self.known_hosts, known), (self.ssh_config, config)):
            scratch = path.with_suffix(".new")  # a reader never sees half a file
            scratch.write_text("".join(lines), encoding="ascii")
            os.replace(scratch, path)

    @staticmethod
    def _make_key(path: Path, comment: str) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)],
            check=True,
            capture_output=True,
        )


def _device(directory: Path, name: str, number: tuple[int, int]) -> Path:
    """A device node for everybody, whatever the umask."""
    directory.mkdir(exist_ok=True, mode=0o755)
    os.mknod(directory / name, stat.S_IFCHR | 0o666, os.makedev(*number))
    (directory / name).chmod(0o666)
    return directory / name


def put(upper: Path, lower: Path, path: str, data: bytes | str, mode: int = 0o644) -> None:
    """`path` of a node not yet up holds `data`; directories that the base has keep their owner and mode."""
    target = upper / path.lstrip("/")
    for parent in reversed(Path(path).parents[:-1]):
        made = upper / str(parent).lstrip("/")
        if made.is_dir():
            continue
        made.mkdir(mode=0o755)
        below = lower / str(parent).lstrip("/")
        if below.is_dir():
            # In an overlay the upper directory's owner and mode are the ones that count.
            shutil.copystat(below, made)
            os.chown(made, below.stat().st_uid, below.stat().st_gid)
        elif parent.name == ".ssh":
            made.chmod(0o700)
    target.write_bytes(data.encode() if isinstance(data, str) else data)
    target.chmod(mode)
    if not stat.S_ISREG(target.lstat().st_mode):
        raise LabError(f"{path} is not a regular file")


def _unwind(number: int, frame: FrameType | None) -> None:
    # Not SystemExit: pytest takes that for one more failed test and goes on.
    raise KeyboardInterrupt(f"signal {number}")
