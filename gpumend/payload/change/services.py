"""The part of the program on a host that tells daemons of their new files: stdlib only, Python 3.6 or newer.

Whether a restart may be made now, the restart itself, what ran under the daemon before it, and what must be seen after it.
"""

import os
import re
import socket
import time
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Type

from gpumend.payload.change.engine import docker_call, docker_info, running_containers
from gpumend.payload.change.files import Failed
from gpumend.payload.change.inner import main_start, runs_now
from gpumend.payload.change.trial import can_ask_cri, cri_info
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.processes import genuine
from gpumend.payload.probe.running import run

LOCK_WAIT = 60  # seconds; a run takes seconds, and two runs at once want the same
COMMAND_TIMEOUT = 60
SERVICE_TIMEOUT = (
    180  # docker.service's own TimeoutStartSec is unlimited; 3 minutes is what an operator waits
)
PROOF_TIMEOUT = 45
LOOK_AT_DAEMON = 0.3  # seconds between two looks
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


def active(unit: str) -> bool:
    """Whether systemd calls a unit active."""
    found = run(["systemctl", "is-active", unit], 20)
    return bool(found["status"] == "ok" and found["rc"] == 0)


def main_process(unit: str) -> str:
    """A unit's main process as systemd knows it: another text after every start, and while there is none."""
    names = ["-p", "MainPID", "-p", "ExecMainStartTimestampMonotonic"]
    return str(run(["systemctl", "show"] + names + [unit], 20).get("out", ""))


def systemd() -> bool:
    return os.path.isdir("/run/systemd/system")


def wait_for(test: Callable[[], bool], seconds: float) -> bool:
    """Ask until the test is true or the time is over; the time is the only thing that ends it."""
    deadline = time.monotonic() + seconds
    while True:
        if test():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


NO_SYSTEMD = "this host was not booted by systemd: tell what runs as %s by hand, then audit it again"


def gate(policy: str, unit: str = "docker.service") -> str:
    """Why a daemon may not be restarted now, by its own word; an empty text where it may."""
    if not systemd():
        return NO_SYSTEMD % unit
    if unit in GATES:
        return GATES[unit](policy)
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    try:
        info = docker_call("/info")
        running = running_containers()
    except (OSError, ValueError) as error:
        return "whether containers run is not known: %s" % error
    if running and not (info.get("LiveRestoreEnabled") and outlive_restart(unit)):
        return "it would stop %d running: %s" % (len(running), ", ".join(sorted(running.values())))
    busy = clients_at_work()
    if busy:
        return "it would break off %s" % ", ".join(busy)
    if (info.get("Swarm") or {}).get("ControlAvailable"):
        return "this Docker is a swarm's manager"
    return ""


def outlive_restart(unit: str) -> bool:
    """Whether containers outlive their daemon's restart with live-restore: their shims are not among what systemd then
    kills, which is the whole cgroup of the unit but with KillMode=process (systemd.kill(5))."""
    found = run(["systemctl", "show", "--value", "-p", "KillMode", unit], 20)
    if found.get("out", "").strip() in ("process", "none"):
        return True
    for ident in shims():
        try:
            with open("/proc/%s/cgroup" % ident.partition(":")[0]) as handle:
                if "/%s" % unit in handle.read():
                    return False
        except OSError:
            continue  # it ended
    return True


# What docker's own clients do that ends with the daemon's connection, and leaves half a thing behind.
CLIENTS = ("docker", "docker-compose", "docker-buildx", "com.docker.cli")
WORK = (
    "build",
    "buildx",
    "commit",
    "compose",
    "cp",
    "exec",
    "export",
    "import",
    "load",
    "pull",
    "push",
    "run",
    "save",
)


def clients_at_work() -> List[str]:
    """Docker's clients that are in the middle of something, as `docker pull (pid 12)`. Whoever may start one may hold a
    restart back by it, and no more."""
    found = []
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as handle:
                argv = handle.read().decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it ended
        name = os.path.basename(argv[0])
        verb = next((word for word in argv[1:] if word in WORK), "")
        if name in CLIENTS and verb:
            found.append("%s %s (pid %s)" % (name, verb, pid))
    return found


def stopped(unit: str) -> bool:
    """Whether a unit was stopped, and did not fail: stopped stays stopped, and so does what is masked."""
    argv = ["systemctl", "show", "-p", "ActiveState", "-p", "Result", "-p", "LoadState", unit]
    said = set(run(argv, 20).get("out", "").split())
    return "LoadState=masked" in said or {"ActiveState=inactive", "Result=success"} <= said


def containerd_gate(policy: str) -> str:
    """containerd's containers are children of shims, which a restart leaves alone with KillMode=process only."""
    if policy == "never":
        return "restarts is `never`"
    found = run(["systemctl", "show", "--value", "-p", "KillMode", "containerd.service"], 20)
    mode = found.get("out", "").strip()
    return "" if mode == "process" else "KillMode=%s: it would stop every container" % (mode or "unknown")


GATES: Dict[str, Callable[[str], str]] = {"containerd.service": containerd_gate}


def inner_gate(policy: str, entry: Json) -> str:
    """Why an inner daemon's container may not be started anew now; an empty text where it may. Raises Unmet."""
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    return "it would stop %s" % entry["container"] if runs_now(entry["container"]) else ""


def until_next(left: float) -> float:
    """Seconds to the next look at a daemon that has to live for so many more: the last one is made when they are over."""
    return min(left, LOOK_AT_DAEMON)


class Service:
    """The daemon a transaction tells of its new file: dockerd. The journal keeps which containers it ran before a restart,
    so that a run that puts back an interrupted one starts them, too."""

    reloads = True
    name = "dockerd"

    def __init__(self, unit: str, journal: Any) -> None:
        self.unit = unit
        self.journal = journal
        self.told = time.time()
        self.main = ""  # what systemd says of the unit's process after a restart
        self.again: List[str] = []  # names of containers that a restart stopped, and that were started again

    def tell(self, action: str) -> None:
        """Reload or restart the unit; raises Failed where it does not come back."""
        if action == "restart":
            try:
                self.journal.record["running"].update(self.running())
            except (OSError, ValueError):
                pass
        self.told = time.time()
        self.journal.record["served"] = action
        self.journal.log("%s %s" % (action, self.unit))
        if not systemd():
            raise Failed("this host was not booted by systemd: %s %s by hand" % (action, self.unit))
        if action == "restart":
            # systemd refuses a unit that was started three times in a minute (docker.service: StartLimitBurst=3).
            run(["systemctl", "reset-failed", self.unit], 20)
        found = run(["systemctl", action, self.unit], SERVICE_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "").strip() or found.get("error", "")).split("\n")[0]
            raise Failed("systemctl %s %s: %s%s" % (action, self.unit, reason, self.last_words()))
        self.main = main_process(self.unit)
        if not wait_for(self.answers, PROOF_TIMEOUT):
            raise Failed(
                "%s gives no answer %d s after its %s%s"
                % (self.name, PROOF_TIMEOUT, action, self.last_words())
            )

    def outlives(self, seconds: float) -> None:
        """The process that a restart started is still the unit's own, and answers, that many seconds after its start: a
        daemon may answer and die of its new file yet. Raises Failed."""
        end = main_start(self.unit) + seconds
        while main_process(self.unit) == self.main:
            left = end - time.monotonic()
            if left <= 0:
                if seconds and not self.answers():
                    break
                return
            time.sleep(until_next(left))
        raise Failed("%s did not live %d s after its restart%s" % (self.name, seconds, self.last_words()))

    @staticmethod
    def running() -> Dict[str, str]:
        """What runs under the daemon, by id, with names for the report. Raises OSError or ValueError."""
        return running_containers()

    @staticmethod
    def answers() -> bool:
        return docker_info() is not None

    def last_words(self) -> str:
        """What the daemon itself said last since it was told, an error where there is one, for the report; masked there."""
        since = "--since=@%d" % self.told
        # systemd's own words about the unit come by another transport.
        argv = [
            "journalctl",
            "-u",
            self.unit,
            "_TRANSPORT=stdout",
            since,
            "-n",
            "400",
            "-o",
            "cat",
            "--no-pager",
        ]
        line = telling(run(argv, 20).get("out", ""))
        return " (%s: %s)" % (self.unit, line[:300]) if line else ""

    def start_again(self) -> List[str]:
        """Containers that ran before a restart run again. Returns the names of those that do not."""
        before = self.journal.record["running"]
        try:
            now = running_containers()
        except (OSError, ValueError):
            return sorted(before.values())
        lost = []
        for ident, name in sorted(before.items()):
            if ident not in now:
                try:
                    docker_call("/containers/%s/start" % ident, "POST", timeout=60)
                    self.again.append(name)
                except (OSError, ValueError):
                    lost.append(name)
        return lost


def telling(said: str) -> str:
    """Of what a daemon printed, the line that says why it ended: the last one about an error, else its last; empty where it
    said nothing. What is indented goes on with a line before it: from 28 on dockerd has all its flags after the error in one."""
    whole = [line for line in said.splitlines() if line.strip()]
    lines = [line for line in whole if not line[0].isspace()]
    errors = [line for line in lines if re.search(r"(?i)unable|failed|fatal|error|unknown", line)]
    return (errors or lines or whole or [""])[-1]


class Monitored(Service):
    """A daemon whose containers have a process of their own beside them, by pid and start: a restart leaves every one of
    them as it is."""

    reloads = False

    def start_again(self) -> List[str]:
        """A process that is gone cannot be started again: its name is all that can be told."""
        now = self.running()
        return sorted(name for ident, name in self.journal.record["running"].items() if ident not in now)


class Containerd(Monitored):
    """containerd, which has no ExecReload, and its shims; its CRI plugin loads where it loaded before."""

    name = "containerd"

    def tell(self, action: str) -> None:
        before = cri_broken()
        docker = docker_reaches_containerd()
        Service.tell(self, action)
        # Its connection to a containerd that was restarted comes back some seconds later (gRPC's connection backoff).
        if docker and not wait_for(docker_reaches_containerd, PROOF_TIMEOUT):
            raise Failed("dockerd no longer reaches containerd%s" % self.last_words())
        # Where it told before (there is a ctr, and it knows the address), it has to tell now.
        if before is not None and not wait_for(lambda: cri_broken() is not None, PROOF_TIMEOUT):
            raise Failed("containerd no longer tells what it has loaded%s" % self.last_words())
        broken = cri_broken()
        if broken and not before:
            raise Failed("containerd's plugin %s does not load%s" % (broken, self.last_words()))

    @staticmethod
    def running() -> Dict[str, str]:
        return shims()

    @staticmethod
    def answers() -> bool:
        return active("containerd.service") and accepts(CONTAINERD_SOCKET)


def docker_reaches_containerd() -> bool:
    """Whether a dockerd answers that has its containerd's commit; moby daemon/info_unix.go says `N/A`, or nothing, where it does not
    reach it."""
    commit = (docker_info() or {}).get("ContainerdCommit") or {}
    return commit.get("ID") not in (None, "", "N/A")


SERVICES: Dict[str, Type[Service]] = {"containerd.service": Containerd}


def service_of(unit: str, journal: Any) -> Service:
    return SERVICES.get(unit, Service)(unit, journal)


def accepts(path: str) -> bool:
    """Whether somebody listens at a socket; also true where there is none, for containerd may have another address."""
    if not os.path.exists(path):
        return True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        try:
            connection.connect(path)
        except OSError:
            return False
    return True


def shims() -> Dict[str, str]:
    """containerd's shims: `pid:start` -> a name. The start (proc(5), field 22) tells a pid from its successor."""
    found = {}
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as handle:
                argv = handle.read().decode("utf-8", "replace").split("\0")
            with open("/proc/%s/stat" % pid) as handle:
                start = handle.read().rpartition(")")[2].split()[19]
            name = os.path.basename(argv[0])
            shim = name.startswith("containerd-shim") and genuine(pid, name)
        except (OSError, IndexError):
            continue  # it ended while we looked
        if shim:
            ident = argv[argv.index("-id") + 1] if "-id" in argv[:-1] else "?"
            found["%s:%s" % (pid, start)] = "shim %s of %s" % (pid, ident[:64])
    return found


def cri_broken() -> Optional[str]:
    """The plugin of CRI that containerd says it could not load, or an empty text; None where it does not tell."""
    found = run(["ctr", "plugins", "ls"], 20)
    if found["status"] != "ok" or found["rc"] != 0:
        return None
    for row in found.get("out", "").splitlines():
        words = row.split()
        if len(words) > 2 and words[-1] == "error" and "cri" in (words[0] + "." + words[1]).split("."):
            return "%s.%s" % (words[0], words[1])
    return ""


# Whether an engine can be asked, and what it says of itself (None while it does not answer); crio_daemon.py adds its own.
ENGINES: Dict[str, Tuple[Callable[[], bool], Callable[[], Optional[Json]]]] = {
    "docker": (lambda: True, docker_info),
    "crictl": (can_ask_cri, cri_info),
}
SAYS = {"docker": "docker info", "crictl": "crictl info"}


def prove(proofs: Iterable[Json], told: str) -> None:
    """The proofs that can be true by now come true in time; raises Failed with the one that does not."""
    for proof in proofs:
        if proof["needs"] == "restart" and told != "restart":
            continue

        engine = proof.get("engine", "docker")
        can_ask, asked = ENGINES[engine]
        if not can_ask():
            continue

        def shown() -> bool:
            found: Any = asked()
            for key in proof["path"]:
                found = found.get(key) if isinstance(found, dict) else None
            if proof.get("value"):
                return bool(found == proof["value"])
            return bool(found) or isinstance(found, dict)

        if not wait_for(shown, PROOF_TIMEOUT):
            words = filter(None, (".".join(proof["path"]), proof.get("value")))
            raise Failed("`%s` shows no %s" % (SAYS[engine], " ".join(words)))


def reload_or_start(unit: str) -> str:
    """A reload that killed the daemon (dockerd of old versions exits on some files) takes a start to undo. One of which
    systemd does not tell (a bus that is not there, a time limit) is not restarted for that: it may run containers."""
    found = run(["systemctl", "is-active", unit], 20)
    dead = found["status"] == "ok" and found["rc"] in (3, 4)  # 4: no such unit, which 252 called 3, too
    return "restart" if dead else "reload"
