"""One component's change on a host: stdlib only, Python 3.6 or newer.

A transaction is data (`gpumend/plan/wire.py` puts it together). All of it is done or nothing:

    check that the host is as the plan saw it, stage beside the target, validate, back up, rename, reload or restart what
    loaded the changed bytes, prove; and if anything fails, put everything back and prove that.

Each step is in the journal before it is made.
"""

import base64
import os
import re
import shutil
import tempfile
from typing import Any, Dict, List

from gpumend.payload.change.file_steps import WriteFile
from gpumend.payload.change.files import Failed, Refused, forget, reason_of
from gpumend.payload.change.inner import Unmet, prove_inner
from gpumend.payload.change.journal import ROOT, Journal
from gpumend.payload.change.kinds import step_kind
from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.services import (
    COMMAND_TIMEOUT,
    LOCK_WAIT,
    active,
    gate,
    inner_gate,
    prove,
    service_of,
    systemd,
    wait_for,
)
from gpumend.payload.change.step import Step, command, nearest_directory, writable
from gpumend.payload.change.undo import Answer, undo
from gpumend.payload.change.watch import watch_of
from gpumend.payload.change.watched import is_watched, tell
from gpumend.payload.probe.running import run

ANSWER_TIMEOUT = 10  # seconds; dockerd answers in milliseconds, a busy one in seconds


class Transaction:
    """One component's change, from lock to answer."""

    def __init__(self, wanted: Dict[str, Any]) -> None:
        self.wanted = wanted
        self.steps: List[Step] = [step_kind(step)(step) for step in wanted["steps"]]
        self.told = ""
        self.lost: List[str] = []
        self.notes: List[str] = []  # for the report: what was waited for, what a proof showed

    def check(self) -> None:
        """Refuse, before anything is written, what cannot end well: other bytes than the plan saw, no room, no right, a
        package manager that would do more than it may, or whose lock is not free."""
        for step in self.steps:
            step.check()
        writable(nearest_directory(ROOT), 0)
        if self.wanted["service"]:
            unit = self.wanted["service"][0]
            daemon = service_of(unit, None)
            if active(unit) and not wait_for(daemon.answers, ANSWER_TIMEOUT):
                raise Refused("%s runs and gives no answer: nothing is changed under it" % daemon.name)
        try:
            for step in self.steps:
                step.foresee(self.wanted.get("package_wait", LOCK_WAIT), self.notes)
        except Unfit as reason:
            raise Refused(str(reason))

    def waiting(self) -> str:
        """Why the restart that this transaction calls for has to wait; an empty text where there is none to wait."""
        service = self.wanted["service"]
        if not service or (service[1] != "restart" and systemd()):
            return ""
        return str(gate(self.wanted["restarts"], service[0]))

    def make(self, journal: Journal) -> None:
        """Stage every file, validate, then make each step. Nothing but staged files is there until the last part."""
        try:
            for step in self.steps:
                step.stage(journal)
            self.validate()
            for step in self.steps:
                step.do(journal, self.notes)
        except (Unmet, Unfit) as reason:
            raise Failed(str(reason))

    def validate(self) -> None:
        """The daemon's own program accepts what is staged. Raises Failed."""
        staged = [step for step in self.steps if isinstance(step, WriteFile) and step.staged]
        if self.wanted.get("tree"):
            if staged:
                self.validate_tree()
        elif self.wanted["validate"]:
            for step in staged:
                self.validate_file(step)

    def validate_file(self, step: WriteFile) -> None:
        argv = [word.replace("{staged}", step.staged) for word in self.wanted["validate"]]
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = said_in_full(found).replace(step.staged, step.path)
            raise Failed("%s refuses the new %s: %s" % (argv[0], step.path, reason[:500]))

    def validate_tree(self) -> None:
        """The daemon's own program reads the whole configuration as it will be, in a directory of its own, and shows of it what
        is expected. Raises Failed; the directory is gone afterwards."""
        directory = tempfile.mkdtemp(prefix="gpumend-", dir="/run")
        try:
            for name, data in self.wanted["tree"]:
                with open(os.path.join(directory, name), "wb") as out:
                    out.write(base64.b64decode(data).replace(b"{tree}", directory.encode("ascii")))
            argv = [word.replace("{tree}", directory) for word in self.wanted["validate"]]
            found = run(argv, COMMAND_TIMEOUT)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        program = self.wanted["validate"][0]
        if found["status"] != "ok" or found["rc"] != 0:
            raise Failed("%s refuses the new configuration: %s" % (program, said_in_full(found)[:500]))
        for pattern in self.wanted["expect"]:
            if not re.search(pattern, found["out"]):
                raise Failed("%s does not see what the new configuration says: %s" % (program, pattern))

    def serve_inner(self, journal: Journal) -> str:
        """Units of inner daemons are started anew, as far as that is allowed, and each daemon has its storage. Returns why
        any waits."""
        waits = []
        for argv in self.wanted["settle"]:
            command(argv)
        for entry in self.wanted["inner"]:
            try:
                if not entry["unit"]:
                    waits.append("%s: %s" % (entry["container"], entry["by_hand"]))
                    continue
                held = inner_gate(self.wanted["restarts"], entry)
                if held:
                    waits.append("%s waits for its restart: %s" % (entry["unit"], held))
                    continue
                told = {"unit": entry["unit"], "container": entry["container"]}
                journal.record["inner"].append(told)
                journal.log("restart %s" % entry["unit"])
                command(["systemctl", "restart", entry["unit"]])
                self.notes.append("%s: %s" % (entry["container"], prove_inner(entry)))
            except Unmet as reason:
                raise Failed(str(reason))
        return "; ".join(waits)

    def serve(self, journal: Journal, waiting: str) -> str:
        """Tell the daemon. Where its restart has to wait, a reload makes true what a reload can. Returns why it waits."""
        if self.wanted.get("inner"):
            return self.serve_inner(journal)
        if not self.wanted["service"]:
            prove(self.wanted["proofs"], "")
            return ""
        waiting = waiting or self.waiting()  # a container may have been started meanwhile
        if waiting and self.wanted.get("must_restart"):
            raise Failed(waiting)
        unit, action = self.wanted["service"]
        service = service_of(unit, journal)
        if waiting and not (service.reloads and systemd()):
            return waiting
        self.told = "reload" if waiting else action
        tell(service, self.told)
        prove(self.wanted["proofs"], self.told)
        if self.told == "restart":
            self.lost = service.start_again()
            if service.again:
                self.notes.append("stopped and started again: %s" % ", ".join(service.again))
            seconds = self.wanted.get("watch", 0)
            if seconds and self.wanted.get("later") and not any(step.waits() for step in self.steps):
                journal.record["watch"] = watch_of(service, seconds, self.wanted["proofs"])
                journal.log("watch %s" % unit)
            else:
                service.outlives(seconds)
        return waiting

    def apply(self) -> Answer:
        """All of it; the answer says how it ended."""
        self.check()
        waiting = self.waiting()
        if waiting and self.wanted.get("must_restart"):
            raise Refused("it needs a restart now, and %s" % waiting)
        if not self.steps and waiting:  # then nothing is written, not even a journal
            return {"status": "pending", "detail": waiting}
        journal = Journal.begin(self.wanted)
        try:
            self.make(journal)
            if not journal.files() and not self.wanted["service"] and not self.silent():
                journal.discard()
                return {"status": "unchanged"}
            waiting = self.serve(journal, waiting)
            waiting = "; ".join(filter(None, [waiting] + [step.waits() for step in self.steps]))
            for entry in journal.files():
                if "real" in entry:
                    forget(entry["real"])
        except Exception as error:  # whatever it is, a fault of ours included: put back first
            return self.put_back(journal, error)
        return self.ended(journal, waiting)

    def silent(self) -> bool:
        """Whether the host may be changed where the journal has no file."""
        return bool(self.wanted.get("inner")) or any(step.silent for step in self.steps)

    def ended(self, journal: Journal, waiting: str) -> Answer:
        """The answer where all is done and proven."""
        detail = "; ".join(filter(None, [waiting] + self.notes))
        if waiting and self.wanted.get("inner") and not (journal.files() or journal.record["inner"]):
            journal.discard()  # all but the wait was done by an earlier run
            return {"status": "pending", "detail": detail}
        watched = is_watched(journal.record)
        try:
            if not watched:
                journal.record["running"] = {}  # a rollback days later does not start them
                journal.end("done")
        except OSError as error:
            # A journal left `working` would have the next run put it back.
            journal.discard()
            detail = "; ".join(filter(None, (detail, "it cannot be rolled back: %s" % reason_of(error))))
        status = "watching" if watched else "pending" if waiting else "changed"
        answer: Answer = {"status": status, "detail": detail, "told": self.told}
        answer["files"] = journal.paths()
        if self.lost:
            answer["lost"] = self.lost
        return answer

    def put_back(self, journal: Journal, error: Exception) -> Answer:
        """Everything as before, and said so; `broken` where that fails."""
        reason = reason_of(error)
        touched = any(text.split(" ", 1)[0] not in ("stage", "keep") for text in journal.record["log"])
        for step in self.steps:
            step.unstage()
        # A daemon that has new work since its restart is not restarted for it: the next start has the old files. Inner ones
        # run what we have started a moment ago.
        problems, held = undo(journal, self.wanted["restarts"], "allow")
        reason = "; then: ".join(filter(None, (reason, held)))
        if problems:
            return {"status": "broken", "detail": "%s; then: %s" % (reason, "; ".join(problems))}
        if not touched:
            journal.discard()
        return {"status": "put_back" if touched else "refused", "detail": reason}


def said_in_full(found: Dict[str, Any]) -> str:
    """All that a command said, or why it said nothing."""
    return str((found.get("err", "") + found.get("out", "")).strip() or found.get("error", ""))
