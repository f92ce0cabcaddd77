"""The program that changes a host: stdlib only, Python 3.6 or newer, sent over stdin in one exec.

It takes one verb with its data, locks the host and carries it out. What is true afterwards is in its answer, one line of
ASCII JSON:

    unchanged   nothing was to be done, nothing was written
    changed     done and proven
    pending     done, but a restart waits, because it would stop containers or is not allowed
    watching    done and proven, and the daemon that was restarted has not lived for long enough yet: a process on this host
                watches it, and the verb `watch` waits for that and says how it ended
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
from typing import Callable, Dict, List, Sequence

from gpumend.payload.change.evidence import must_be_so
from gpumend.payload.change.files import Refused, reason_of
from gpumend.payload.change.journal import ROOT, Journal, prune
from gpumend.payload.change.progress import HEARD_BY, pass_on
from gpumend.payload.change.reboot import reboot
from gpumend.payload.change.recover import recover
from gpumend.payload.change.services import LOCK_WAIT, wait_for
from gpumend.payload.change.transaction import Transaction
from gpumend.payload.change.trial import try_all
from gpumend.payload.change.undo import acknowledge, rollback
from gpumend.payload.change.watch import close_watches, ended_watches, failed_watch, outcome_of
from gpumend.payload.change.watched import is_watched
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import end_children

LOCK = "/run/gpumend.lock"
ANSWER_WITHIN = (
    900  # seconds; whoever sent it waits longer (gpumend/run/remote/exchange.py), a package manager may not
)


WATCH = "/run/gpumend.watch"  # who watches daemons holds it shared; it says whose run that is
WATCHER_WAIT = (
    3600  # seconds for the lock; transactions of the run come first, and a package manager may take long
)
# How a transaction ends whose host need not be looked at, where that was asked for.
AS_FORESEEN = ("changed", "watching")
LOOK_EVERY = 1  # seconds between two looks at a daemon


def apply(wanted: Json) -> Json:
    """overlaps: whether it may be done while daemons of this run are watched. later: whether its own may be watched after
    the answer; where not, all watches of the run are over with it. evidence: what its plan was made of, where the host was not looked
    at since the transaction before."""
    run_id, restarts, later = wanted["run"], wanted["restarts"], wanted.get("later")
    close_watches(run_id, restarts, not wanted.get("overlaps"))
    failed = failed_watch(run_id)
    if failed:
        raise Refused("nothing more is changed by this run: %s" % failed)
    if wanted.get("evidence"):
        must_be_so(wanted["evidence"])
    answer: Json = Transaction(wanted).apply()
    if not later or (answer["status"] == "watching" and not watcher(wanted)):
        close_watches(run_id, restarts, True)
        ended = ended_watches(run_id).get(wanted["component"])
        if ended:  # it was watched here, or one before it failed
            answer = dict(answer, status=ended[0], detail=ended[1] or answer.get("detail", ""))
    prune()
    return answer


def watch(wanted: Json) -> Json:
    """Every watch of a run is over; those that are over by now, where `wait` is False."""
    close_watches(wanted["run"], wanted["restarts"], wanted.get("wait", True))
    ended = ended_watches(wanted["run"])
    found = [status for status, _ in ended.values()]
    status = next((each for each in ("broken", "put_back", "watching") if each in found), "changed")
    return {"status": status if found else "unchanged", "detail": failed_watch(wanted["run"])}


def watcher(wanted: Json) -> bool:
    """A process of its own watches a transaction's daemon and ends its journal by it, whoever else is there to do so or not. Returns
    whether it is there; the caller holds the host's lock."""
    ready, into = os.pipe()
    if os.fork() == 0:
        try:
            os.close(ready)
            attend(wanted, into)
        finally:
            os._exit(0)
    os.close(into)
    there = os.read(ready, 1) != b""
    os.close(ready)
    return there


def attend(wanted: Json, into: int) -> None:
    """What the watcher does. It keeps nothing of its parent's open: not the lock, and not where the answer goes."""
    mark = os.open(WATCH, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    del HEARD_BY[:]  # its number may soon be another file's
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in (mark, into):
            try:
                os.close(int(name))
            except OSError:
                pass  # the one by which they were listed
    fcntl.flock(mark, fcntl.LOCK_SH)
    # One line for each watcher of a run: the one that names itself last may end first. No other run's are at work.
    of_run = ", run %s, " % wanted["run"]
    named(mark, wanted, [row for row in said_in(mark).splitlines() if of_run in row])
    os.write(into, b"1")
    os.close(into)
    path = os.path.join(ROOT, "runs", wanted["run"], wanted["component"], "journal.json")
    while os.path.exists(path):
        journal = Journal.load(path)
        if not is_watched(journal.record):
            return
        if outcome_of(journal, False) is not None:
            locked(dict(wanted, verb="watch", wait=False, lock_wait=WATCHER_WAIT))
        time.sleep(LOOK_EVERY)


def others_watch(run_id: str) -> str:
    """Who watches daemons for another run; an empty text where nobody does."""
    try:
        mark = os.open(WATCH, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        if try_lock(mark):
            return ""
        said = (said_in(mark).splitlines() or ["it does not say who"])[-1]
        return "" if ", run %s, " % run_id in said else said
    finally:
        os.close(mark)


def said_in(handle: int) -> str:
    """What a lock's file says of who holds it."""
    return os.pread(handle, 4096, 0).decode("utf-8", "replace").strip()


def named(handle: int, wanted: Json, beside: Sequence[str] = ()) -> None:
    """A lock's file says who holds it, beside others that do."""
    rows = [*beside, "%s, run %s, pid %d" % (wanted["who"], wanted["run"], os.getpid())]
    said = "".join(row + "\n" for row in rows).encode("utf-8")
    os.pwrite(handle, said, 0)  # who reads it meanwhile finds those who were there before
    os.ftruncate(handle, len(said))


def containers(wanted: Json) -> Json:
    """A container on each engine path runs the proving command; where one fails, the whole run is undone. `alone`: nothing is:
    it is a host that was rebooted. `pending`: there was nothing to start a container with."""
    good, failures, untried = try_all(wanted["containers"])
    if failures and wanted.get("alone"):
        return {"status": "broken", "detail": "; ".join(failures)}
    if untried and not good and not failures:
        return {"status": "pending", "detail": "not proven: %s" % "; ".join(untried)}
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
    "watch": watch,
}
# Before these no daemon of their run is watched any more.
AFTER_WATCHES = ("containers", "reboot")


def locked(wanted: Json) -> Json:
    """Run the verb alone on this host. The lock is the kernel's: it ends with the process, however that ends."""
    if os.geteuid() != 0:
        raise Refused("root is needed to change this host, this is uid %d" % os.geteuid())
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        watchers: List[str] = []  # whose watches this has waited for

        def free() -> bool:
            if not try_lock(handle):
                return False
            watchers.append(others_watch(wanted["run"]))
            if watchers[-1]:
                fcntl.flock(handle, fcntl.LOCK_UN)
            return not watchers[-1]

        if not wait_for(free, wanted.get("lock_wait", LOCK_WAIT)):
            if watchers and watchers[-1]:
                raise Refused("another run watches what it has restarted: %s" % watchers[-1])
            holder = said_in(handle)
            raise Refused("another run holds the lock: %s" % (holder or "it does not say who"))
        named(handle, wanted)
        if wanted["verb"] in AFTER_WATCHES:
            close_watches(wanted["run"], wanted["restarts"], True)
        answer = VERBS[wanted["verb"]](wanted)
        ended = ended_watches(wanted["run"])
        return dict(answer, watched=ended) if ended else answer
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
    words, said = os.pipe()
    os.set_blocking(said, False)
    child = os.fork()
    if child == 0:
        try:
            os.close(answer)
            os.close(words)
            HEARD_BY.append(said)
            alone()
            os.write(into, json.dumps(transact(wanted)).encode("ascii"))
        finally:
            os._exit(0)
    os.close(into)
    os.close(said)
    open_ones = [answer, words]
    text = b""
    end = time.monotonic() + wanted.get("answer_within", ANSWER_WITHIN)
    while True:
        ready = select.select(open_ones, [], [], max(end - time.monotonic(), 0))[0]
        if not ready:
            return {"status": "running", "detail": at_work(wanted, child)}
        if words in ready:
            heard = os.read(words, 65536)
            pass_on(heard)
            if not heard:
                open_ones.remove(words)
        if answer not in ready:
            continue
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
    """Run it, look at the host again, and print both. Signals of a vanished connection do not end it. look: whether the host is looked
    at even where all went well; where not, what follows in the run is (gpumend/run/foresight.py)."""
    for name in ("SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    result = carried_out(wanted)
    look_again = wanted.get("look", True) or result["status"] not in AS_FORESEEN
    snapshot = probe_again() if look_again else None
    text = json.dumps({"result": result, "snapshot": snapshot}, ensure_ascii=True, separators=(",", ":"))
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError:
        pass  # nobody is there any more; the journal says how it ended
    end_children()
    os._exit(0)  # as the probe's main, and for the same reasons
