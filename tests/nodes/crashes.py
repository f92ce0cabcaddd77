"""kill -9 before every step of a transaction that is slow to repeat, driven on the node by one process.

The program is loaded once; each transaction, killed or not, and each recovery is a fork of it. A step is what leaves
a trace: a call that changes a file system, or a command that is not only asked for something. The driver writes down
what it saw; that it is what has to hold is judged here, as after every other fault (tests/nodes/faults.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from gpumend.payload.source import change_source as program_source
from gpumend.run.attempt import rollback_data
from tests.nodes.faults import SIGHT, Before, Sight, fault
from tests.nodes.lab import Node

# Between a transaction's definitions and its call: kill -9 right after the journal's nth entry is on disk.
KILL = """
_write, _left = Journal.write, [{nth}]
def _dies(journal):
    _write(journal)
    _left[0] -= 1
    if _left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.write = _dies
"""

# Not part of the shipped program.
DRIVER = r"""
ASKING = ("show", "is-active", "reset-failed", "dpkg-query", "journalctl", "plugins", "KillMode", "-s", "-L", "--format=csv,noheader")

class Steps(object):
    # Counts the steps of this process, and ends it as kill -9 does before the one that is named by its number.

    def __init__(self, fatal):
        self.count, self.fatal, self.last = 0, fatal, ""
        for name in ("mkdir", "rmdir", "chmod", "link", "rename", "unlink"):
            self.wrap(os, name)
        self.wrap(tempfile, "mkstemp")
        self.wrap(tempfile, "mkdtemp")
        self.wrap(sys.modules["__main__"], "run")

    def wrap(self, place, name):
        real = getattr(place, name)
        def wrapped(*arguments, **named):
            self.step(name, arguments, named)
            return real(*arguments, **named)
        setattr(place, name, wrapped)

    def step(self, name, arguments, named):
        if name == "run" and set(ASKING) & set(arguments[0]):
            return
        # In the run's own directory only a rename makes a difference to who comes later.
        if name != "rename" and ROOT in repr((arguments, named)):
            return
        self.count += 1
        if self.count == self.fatal:
            os.write(2, ("%s %s" % (name, repr(arguments)[:120])).encode())
            os.kill(os.getpid(), signal.SIGKILL)


def forked(wanted, fatal):
    # (result or None where it was killed, what it was about to do)
    out, said = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(said.fileno(), 2)
            Steps(fatal)
            result = transact(wanted)
            out.write(json.dumps(result).encode())
            out.flush()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    out.seek(0), said.seek(0)
    if os.WIFSIGNALED(status):
        return None, said.read().decode("utf-8", "replace")
    text = out.read().decode()
    if not text:
        raise SystemExit("the program itself failed: " + said.read().decode("utf-8", "replace"))
    return json.loads(text), ""


def state():
    found = sight((), WATCHED)
    for top in DATA_KEPT:
        # What a daemon has written there is never deleted; a directory that is empty, or ours, is to be seen.
        for path in glob.glob(top + "/*") + glob.glob(top + "/*/*") + glob.glob(top + "/*/*/.gpumend*"):
            if ".gpumend" in path:
                found["beside"].append(path)
            elif not os.listdir(path):
                found["files"][path] = "directory"
    # While a transaction is broken off they may say anything.
    found["said"] = {" ".join(argv): run(argv, 60).get("out", "") for argv in ASKED}
    return found


def reset():
    shutil.rmtree(ROOT, ignore_errors=True)
    for argv in RESET:
        subprocess.check_call(argv)


def main():
    reset()
    found = {"old": state(), "steps": []}
    found["whole"], _ = forked(DATA, 0)
    found["new"] = state()
    found["back"], _ = forked(ROLLBACK, 0)
    found["undone"] = state()
    while True:
        reset()
        result, at = forked(DATA, len(found["steps"]) + 1)
        if result is not None:
            found["end"] = [result, forked(ROLLBACK, 0)[0]]
            reset()
            break
        step = {"at": at, "after": state()}
        found["steps"].append(step)
        step["recovered"], _ = forked(dict(RECOVER, journals=[journal.path for journal in journals()]), 0)
        step["then"] = state()
        if step["then"]["files"] != found["old"]["files"]:
            break  # what comes after it would show nothing
    sys.stdout.write(json.dumps(found))


main()
"""


def kill_at_every_step(
    node: Node,
    data: Mapping[str, Any],
    watched: Sequence[str],
    asked: Sequence[Sequence[str]] = (),
    kept: Sequence[str] = (),
    reset: Sequence[Sequence[str]] = (),
    containers: bool = True,
    timeout: float = 300.0,
) -> list[tuple[str, list[str] | None]]:
    """Each step at which the transaction was killed, and the journal's log by then; each was a fault that was survived.
    After each, the files under `watched` were old or new; after its recovery they, what the commands `asked` say and, where
    `containers`, what dockerd runs were as before. kept: directories in which a daemon's own data may stay; reset: commands
    before each kill."""
    names = {
        "DATA": data,
        "RECOVER": {"verb": "recover", "run": "next", "who": "test", "restarts": data["restarts"]},
        "ROLLBACK": rollback_data(str(data["run"]), "allow"),
        "WATCHED": list(watched),
        "ASKED": [list(argv) for argv in asked],
        "DATA_KEPT": list(kept),
        "RESET": [list(argv) for argv in reset],
    }
    given = "".join(f"{name} = json.loads({json.dumps(value)!r})\n" for name, value in names.items())
    done = node.run(
        ["python3", "-I", "-S", "-B", "-"],
        input=f"{program_source()}\n{SIGHT}\n{given}\n{DRIVER}\n",
        check=False,
        timeout=timeout,
    )
    if done.returncode != 0:
        raise AssertionError(f"rc {done.returncode}\n{done.stdout}\n{done.stderr}")
    found = json.loads(done.stdout)

    old, new = Sight.of(found["old"]), Sight.of(found["new"])
    assert found["whole"]["status"] == found["back"]["status"] == "changed", found
    assert (new.files, found["new"]["said"]) != (old.files, found["old"]["said"]), "nothing was changed"
    paths = {*old.files, *new.files}
    before = Before(
        node, old.files, old.running if containers else None, {path: new.files.get(path) for path in paths}
    )
    as_before(before, found["old"], found["undone"], "a rollback")
    killed = []
    for step in found["steps"]:
        at = step["at"]
        with fault("kill -9"):
            after = Sight.of(step["after"])
            before.verify(after, at)
            assert step["recovered"]["status"] in ("changed", "unchanged"), f"{step['recovered']} after {at}"
            as_before(before, found["old"], step["then"], f"the recovery after {at}")
        killed.append((at, after.journals[0]["log"] if after.journals else None))
    assert "end" in found, f"not as before after {killed[-1]}"
    assert [result["status"] for result in found["end"]] == ["changed", "changed"], found["end"]
    return killed


def as_before(before: Before, old: Mapping[str, Any], then: Mapping[str, Any], at: str) -> None:
    """All was put back: files, what commands say, what runs; nothing of ours is left beside them."""
    seen = Sight.of(then)
    before.verify(seen, at)
    changed = {
        path for path in {*old["files"], *seen.files} if old["files"].get(path) != seen.files.get(path)
    }
    assert changed == set(), f"{at} left {changed}"
    assert then["said"] == old["said"], f"{at} left {then['said']}"
    assert seen.beside == (), f"{at} left {seen.beside}"
    assert set(seen.states()) <= {"put_back"}, f"{seen.states()} after {at}"
