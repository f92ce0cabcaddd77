"""The program that changes a host: stdlib only, Python 3.6 or newer, sent over stdin in one exec.

It takes one verb with its data, locks the host and carries it out. What is true afterwards is in its answer, one line of
ASCII JSON:

    unchanged   nothing was to be done, nothing was written
    changed     done and proven
    pending     done, but a restart waits, because it would stop containers or is not allowed
    moved       the host is not as the plan saw it; nothing was written
    refused     it cannot be done here (lock held, read-only or full disk, validator says no); nothing was changed
    put_back    it failed, and every file and daemon is as it was before
    broken      it failed, and not everything could be put back: `detail` says what
    running     nobody waits for it any longer, and nothing is killed in the middle: it goes on and keeps the host's lock

It is done by a process in a session of its own. A lost connection does not end that one, nor does the end of the one that
answers: it writes to nobody, finishes, and its journal says how.
"""

import errno
import fcntl
import json
import os
import select
import signal
import sys
import time
from typing import Callable, Dict

from gpumend.payload.change.files import Refused, reason_of
from gpumend.payload.change.journal import ROOT, prune
from gpumend.payload.change.reboot import reboot
from gpumend.payload.change.services import LOCK_WAIT, wait_for
from gpumend.payload.change.transaction import Transaction
from gpumend.payload.change.trial import try_all
from gpumend.payload.change.undo import acknowledge, recover, rollback
from gpumend.payload.probe.files import Json

LOCK = "/run/gpumend.lock"
ANSWER_WITHIN = (
    900  # seconds; whoever sent it waits longer (gpumend/run/remote/exchange.py), a package manager may not
)


def apply(wanted: Json) -> Json:
    answer: Json = Transaction(wanted).apply()
    prune()
    return answer


def containers(wanted: Json) -> Json:
    """A container on each engine path runs the proving command; where one fails, the whole run is undone. `alone`: nothing is:
    it is a host that was rebooted."""
    good, failures, untried = try_all(wanted["containers"])
    if failures and wanted.get("alone"):
        return {"status": "broken", "detail": "; ".join(failures)}
    if not failures:
        told = ["proven in a container: %s" % ", ".join(good)] if good else []
        return {"status": "changed", "detail": "; ".join(told + ["not tried: %s" % each for each in untried])}
    back = rollback(wanted)
    if back["status"] in ("broken", "pending"):
        failures.append("then: %s" % back["detail"])
    status = "broken" if back["status"] == "broken" else "put_back"
    return {"status": status, "detail": "; ".join(failures), "files": back.get("files", [])}


VERBS: Dict[str, Callable[[Json], Json]] = {
    "apply": apply,
    "recover": recover,
    "rollback": rollback,
    "acknowledge": acknowledge,
    "containers": containers,
    "reboot": reboot,
}


def locked(wanted: Json) -> Json:
    """Run the verb alone on this host. The lock is the kernel's: it ends with the process, however that ends."""
    if os.geteuid() != 0:
        raise Refused("root is needed to change this host, this is uid %d" % os.geteuid())
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not wait_for(lambda: try_lock(handle), wanted.get("lock_wait", LOCK_WAIT)):
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            raise Refused("another run holds the lock: %s" % (holder or "it does not say who"))
        os.ftruncate(handle, 0)
        os.write(
            handle, ("%s, run %s, pid %d\n" % (wanted["who"], wanted["run"], os.getpid())).encode("utf-8")
        )
        return VERBS[wanted["verb"]](wanted)
    finally:
        os.close(handle)  # which unlocks it


def try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def transact(wanted: Json) -> Json:
    """The answer of one transaction, whatever happens."""
    try:
        return locked(wanted)
    except Refused as refused:
        return {"status": refused.status, "detail": str(refused)}
    except OSError as error:
        return {"status": "refused", "detail": reason_of(error)}
    except Exception as error:  # a journal of another version, say: the host is told by what is on its disk
        return {"status": "broken", "detail": reason_of(error)}


def carried_out(wanted: Json) -> Json:
    """The answer of one transaction, by a process of its own; where that one does not end in time, that it goes on. Ends
    this program, as by the same signal, where it was killed."""
    answer, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(answer)
            alone()
            os.write(into, json.dumps(transact(wanted)).encode("ascii"))
        finally:
            os._exit(0)
    os.close(into)
    text = b""
    end = time.monotonic() + wanted.get("answer_within", ANSWER_WITHIN)
    while True:
        if not select.select([answer], [], [], max(end - time.monotonic(), 0))[0]:
            return {"status": "running", "detail": at_work(wanted, child)}
        data = os.read(answer, 65536)
        if not data:
            break
        text += data
    _, status = os.waitpid(child, 0)
    if not text:
        number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        sys.stderr.write("what changes this host ended without a word (signal %d): audit it again\n" % number)
        sys.exit(128 + number if number else 1)
    found: Json = json.loads(text.decode("ascii"))
    return found


def alone() -> None:
    """This process is in a session of its own, and nobody waits for what it prints: sshd would for as long as it could."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDWR)
    for handle in (0, 1, 2):
        os.dup2(nothing, handle)
    os.close(nothing)


def at_work(wanted: Json, pid: int) -> str:
    """What a transaction is in the middle of, for the report."""
    try:
        with open(os.path.join(ROOT, "runs", wanted["run"], wanted["component"], "journal.json")) as handle:
            doing = " (%s)" % json.load(handle)["log"][-1]
    except (OSError, ValueError, LookupError):
        doing = ""  # it waits for its lock, or undoes a run
    return (
        "process %d is not at its end%s and goes on: it keeps this host's lock until then, and its journal says how it ends"
        % (pid, doing)
    )


def main_transaction(wanted: Json, probe_again: Callable[[], Json]) -> None:
    """Run it, look at the host again, and print both. Signals of a vanished connection do not end it."""
    for name in ("SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    result = carried_out(wanted)
    text = json.dumps({"result": result, "snapshot": probe_again()}, ensure_ascii=True, separators=(",", ":"))
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError:
        pass  # nobody is there any more; the journal says how it ended
