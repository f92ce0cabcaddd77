"""kill -9 before every step of a transaction that is slow to repeat, driven on the node by one process.

The program is loaded once; each transaction, killed or not, and each recovery is a fork of it. A step is what leaves
a trace: a call that changes a file system, or a command that is not only asked for something.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from operations.component import rollback_data
from operations.exchange import program_source
from tests.nodes.lab import Node

# Not part of the shipped program.
DRIVER = r"""
import subprocess

ASKING = ("show", "is-active", "reset-failed", "dpkg-query", "journalctl", "plugins", "KillMode", "-s")

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
        # In the run's own folder only a rename makes a difference to who comes later.
        if name != "rename" and ROOT in repr((arguments, named)):
            return
        self.count += 1
        if self.count == self.fatal:
            os.write(2, ("%s %s" % (name, repr(arguments)[:120])).encode())
            os.kill(os.getpid(), signal.SIGKILL)


def forked(wanted, fatal):
    # (result or None where it was killed, steps made, what it was about to do)
    out, said = tempfile.TemporaryFile(), tempfile.TemporaryFile()
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(said.fileno(), 2)
            steps = Steps(fatal)
            result = transact(wanted)
            out.write(json.dumps([result, steps.count]).encode())
            out.flush()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    out.seek(0), said.seek(0)
    if os.WIFSIGNALED(status):
        return None, fatal, said.read().decode("utf-8", "replace")
    text = out.read().decode()
    if not text:
        raise SystemExit("the program itself failed: " + said.read().decode("utf-8", "replace"))
    result, count = json.loads(text)
    return result, count, ""


def state():
    found = {}
    for top in WATCHED:
        for folder, folders, files in os.walk(top):
            for name in folders:
                found[os.path.join(folder, name)] = "folder"
            for name in files:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    with open(path, "rb") as handle:
                        found[path] = "%s %o" % (sha256(handle.read()), os.stat(path).st_mode)
    for top in KEPT:
        # What a daemon has written there is never deleted; a folder that is empty, or ours, is to be seen.
        for path in glob.glob(top + "/*") + glob.glob(top + "/*/*") + glob.glob(top + "/*/*/.gpumend*"):
            if ".gpumend" in path or not os.listdir(path):
                found[path] = "folder"
    for argv in ASKED:
        found[" ".join(argv)] = run(argv, 60).get("out", "")
    return found


def reset():
    shutil.rmtree(ROOT, ignore_errors=True)
    for argv in RESET:
        subprocess.check_call(argv)


def journals_on_disk():
    return [journal.record for journal in journals()]


def check(good, what):
    if not good:
        raise SystemExit(what)


def main():
    reset()
    old = state()
    result, total, _ = forked(DATA, 0)
    check(result["status"] == "changed", "not changed: %s" % result)
    new = state()
    check(new != old, "nothing was changed")
    result, _, _ = forked(ROLLBACK, 0)
    check(result["status"] == "changed", "not rolled back: %s" % result)
    check(state() == old, "a rollback left %s" % difference(old, state()))
    seen = []
    step = 0
    while True:
        reset()
        step += 1
        result, _, at = forked(DATA, step)
        if result is not None:
            check(result["status"] == "changed", "%s at the end" % result)
            check(forked(ROLLBACK, 0)[0]["status"] == "changed", "not rolled back at the end")
            reset()
            break
        for path, value in state().items():
            ours = ".gpumend" in path
            allowed = [old.get(path), new.get(path)]
            check(ours or value == "folder" or path in COMMANDS or value in allowed, "%s is neither old nor new before %s" % (path, at))
        handle = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        check(try_lock(handle), "locked before %s" % at)
        os.close(handle)
        records = journals_on_disk()
        log = records[0]["log"] if records else None
        result, _, _ = forked(dict(RECOVER, journals=[journal.path for journal in journals()]), 0)
        check(result["status"] in ("changed", "unchanged"), "recovery before %s: %s" % (at, result))
        check([record["state"] for record in journals_on_disk()] in ([], ["put_back"]), "not put back before %s" % at)
        check(state() == old, "recovery before %s left %s" % (at, difference(old, state())))
        seen.append([at, log])
    sys.stdout.write(json.dumps({"steps": seen, "total": total}))


def difference(old, now):
    return {path: (old.get(path), now.get(path)) for path in set(old) | set(now) if old.get(path) != now.get(path)}


COMMANDS = [" ".join(argv) for argv in ASKED]
main()
"""


def kill_at_every_step(
    node: Node,
    data: Mapping[str, Any],
    watched: Sequence[str],
    asked: Sequence[Sequence[str]] = (),
    kept: Sequence[str] = (),
    reset: Sequence[Sequence[str]] = (),
) -> list[tuple[str, list[str] | None]]:
    """Each step at which the transaction was killed, and the journal's log by then. After each the files under `watched`
    were old or new; after its recovery they, and what the commands `asked` say, were as before. Raises with the first
    that was not. kept: folders in which a daemon's own data may stay; reset: commands before each kill."""
    run = str(data["run"])
    recover = {"verb": "recover", "run": "next", "who": "test", "restarts": data["restarts"]}
    names = {
        "DATA": data,
        "RECOVER": recover,
        "ROLLBACK": rollback_data(run, "allow"),
        "WATCHED": list(watched),
        "ASKED": [list(argv) for argv in asked],
        "KEPT": list(kept),
        "RESET": [list(argv) for argv in reset],
    }
    given = "".join(f"{name} = json.loads({json.dumps(value)!r})\n" for name, value in names.items())
    done = node.run(
        ["python3", "-I", "-S", "-B", "-"],
        input=f"{program_source()}\n{given}\n{DRIVER}\n",
        check=False,
        timeout=300.0,
    )
    if done.returncode != 0:
        raise AssertionError(f"rc {done.returncode}\n{done.stdout}\n{done.stderr}")
    return [(at, log) for at, log in json.loads(done.stdout)["steps"]]
