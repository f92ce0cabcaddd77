"""One component's change on a host: stdlib only, Python 3.6 or newer.

A transaction is data (`gpumend/plan/plan.py` makes it). All of it is done or nothing:

    check that the host is as the plan saw it, stage beside the target, validate, back up, rename, reload or restart what
    loaded the changed bytes, prove; and if anything fails, put everything back and prove that.

Each step is in the journal before it is made.
"""

import base64
import os
import re
import shutil
import stat
import tempfile

from gpumend.payload.change.files import (
    Failed,
    Refused,
    clean,
    current,
    forget,
    keep,
    kept_name,
    make_directories,
    missing_directories,
    reason_of,
    sha256,
    stage,
    sync_directory,
)
from gpumend.payload.change.inner import Unmet, drop_in, fuse_ready, prove_inner, try_overlay
from gpumend.payload.change.journal import ROOT, Journal, restore
from gpumend.payload.change.packaging import (
    Unfit,
    check_note,
    cu_init,
    package_entries,
    perform,
    prove_cuda,
    prove_toolkit,
    simulate,
    wait_for_lock,
)
from gpumend.payload.change.services import (
    COMMAND_TIMEOUT,
    LOCK_WAIT,
    active,
    gate,
    inner_gate,
    prove,
    service_of,
    wait_for,
)
from gpumend.payload.change.undo import undo
from gpumend.payload.probe import run, which

SPARE_BYTES = 1 << 20
ANSWER_TIMEOUT = 10  # seconds; dockerd answers in milliseconds, a busy one in seconds


def check_spec(data):
    """A generated CDI spec names devices, and every file it mounts is there. Raises Failed.

    The whole judgement is the controller's, which reads the file again after this program.
    """
    text = data.decode("utf-8", "replace")
    if "cdiVersion" not in text or not re.search(r"(?m)^\s*-?\s*\"?name\"?:", text):
        raise Failed("the generated spec has no device")
    for path in re.findall(r"(?m)^\s*-?\s*hostPath:\s*\"?(/[^\s\"]+)", text):
        if not os.path.exists(path):
            raise Failed("the generated spec names %s, which is not there" % path)


class Transaction:
    """One component's change, from lock to answer."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.journal = None
        self.staged = []  # (step, staged path, new bytes)
        self.told = ""
        self.lost = []
        self.notes = []  # for the report: what was waited for, what a proof showed
        self.before = (-1, 0)  # cu_init before anything was changed

    def preconditions(self):
        """Refuse, before anything is written, what cannot end well: other bytes than the plan saw, no room, no right."""
        for step in self.wanted["steps"]:
            if not step.get("path"):
                continue
            if step["do"] == "directory":
                continue
            path = os.path.realpath(step["path"])
            data = current(step["path"])
            if step["do"] == "dropin":  # its bytes never leave the host: the plan has not seen them
                step["before"] = None if data is None else sha256(data)
            if (None if data is None else sha256(data)) != step["before"]:
                raise Refused("%s changed since it was read" % step["path"], "moved")
            directory = os.path.dirname(path)
            while not os.path.isdir(directory):
                directory = os.path.dirname(directory)
            self.writable(directory, len(data or b"") + len(step.get("data") or ""))
        parent = ROOT
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        self.writable(parent, 0)
        if self.wanted["service"]:
            unit = self.wanted["service"][0]
            daemon = service_of(unit, None)
            if active(unit) and not wait_for(daemon.answers, ANSWER_TIMEOUT):
                raise Refused("%s runs and gives no answer: nothing is changed under it" % daemon.name)
        try:
            self.simulations()
        except Unfit as reason:
            raise Refused(str(reason))

    def simulations(self):
        """What package managers would do is what they may do, and their lock is free. Raises Unfit."""
        wait = self.wanted.get("package_wait", LOCK_WAIT)
        for step in self.wanted["steps"]:
            if step["do"] == "package":
                manager, action = step["argv"][:2]
                waited = wait_for_lock(manager, wait)
                self.notes.extend([waited] if waited else [])
                step["changes"] = simulate(manager, action, step["argv"][2:], wait)
            elif step["do"] == "cuda" and self.before[0] == -1:
                self.before = cu_init()

    @staticmethod
    def writable(directory, size):
        found = os.statvfs(directory)
        if found.f_flag & 1:  # ST_RDONLY
            raise Refused("%s is mounted read-only" % directory)
        if found.f_bavail * found.f_frsize < size * 2 + SPARE_BYTES:
            raise Refused("no space left in %s" % directory)
        if not os.access(directory, os.W_OK):
            raise Refused("%s cannot be written by uid %d" % (directory, os.geteuid()))

    def waiting(self):
        """Why the restart that this transaction calls for has to wait; an empty text where there is none to wait."""
        service = self.wanted["service"]
        return gate(self.wanted["restarts"], service[0]) if service and service[1] == "restart" else ""

    def make(self):
        """Stage every file, validate, then rename them all. Nothing but staged files is there until the last part."""
        for step in self.wanted["steps"]:
            if step["do"] in ("write", "generate", "dropin"):
                self.stage(step)
        for step, path, _ in self.staged:
            self.validate(step, path)
        if self.wanted.get("tree") and self.staged:
            self.validate_tree()
        for step in self.wanted["steps"]:
            self.carry_out(step)

    def new_bytes(self, step):
        if step["do"] == "write":
            return base64.b64decode(step["data"])
        if step["do"] == "dropin":
            step["mode"] = stat.S_IMODE(os.stat(step["argv"][0]).st_mode)  # it holds what the unit holds
            try:
                return drop_in(step["argv"][0], step["argv"][1], step["argv"][2:])
            except Unmet as reason:
                raise Failed(str(reason))
        found = run(step["argv"], COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            lines = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Failed("%s: %s" % (" ".join(step["argv"][:3]), lines[-1] if lines else found["status"]))
        data = found["out"].encode("utf-8")
        check_spec(data)
        return data

    def stage(self, step):
        data = self.new_bytes(step)
        path = os.path.realpath(step["path"])
        if step["before"] == sha256(data):
            return
        entry = self.journal.backup(step["path"], self.still(step))
        entry["after"] = sha256(data)
        entry["made"] = missing_directories(os.path.dirname(path))
        self.journal.log("stage %s" % step["path"])
        make_directories(os.path.dirname(path))
        clean(path)  # of a run that could not take it away again
        like = path if step["before"] is not None else None
        temporary = stage(path, data, like, step["mode"])
        if step["do"] == "generate":
            os.chmod(temporary, step["mode"])  # as nvidia-ctk writes it: an old 0600 is a fault
        self.staged.append((step, temporary, data))

    @staticmethod
    def still(step):
        """The bytes of a step's file, which are those that the plan saw. Raises Failed: somebody else is at work."""
        data = current(step["path"])
        if (None if data is None else sha256(data)) != step["before"]:
            raise Failed("%s was changed by somebody else meanwhile" % step["path"])
        return data

    def validate(self, step, path):
        argv = [word.replace("{staged}", path) for word in self.wanted["validate"]]
        if not argv or step["do"] != "write" or self.wanted.get("tree"):
            return
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "") + found.get("out", "")).strip() or found.get("error", "")
            raise Failed(
                "%s refuses the new %s: %s"
                % (argv[0], step["path"], reason.replace(path, step["path"])[:500])
            )

    def validate_tree(self):
        """The daemon's own program reads the whole configuration as it will be, in a directory of its own, and shows of it what
        is expected. Raises Failed; the directory is gone afterwards."""
        directory = tempfile.mkdtemp(prefix="gpumend-", dir="/run")
        try:
            for name, data in self.wanted["tree"]:
                with open(os.path.join(directory, name), "wb") as out:
                    out.write(base64.b64decode(data).replace(b"{tree}", directory.encode("ascii")))
            found = run(
                [word.replace("{tree}", directory) for word in self.wanted["validate"]], COMMAND_TIMEOUT
            )
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        program = self.wanted["validate"][0]
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "") + found.get("out", "")).strip() or found.get("error", "")
            raise Failed("%s refuses the new configuration: %s" % (program, reason[:500]))
        for pattern in self.wanted["expect"]:
            if not re.search(pattern, found["out"]):
                raise Failed("%s does not see what the new configuration says: %s" % (program, pattern))

    def carry_out(self, step):
        path = os.path.realpath(step["path"]) if step.get("path") else ""
        if step["do"] in ("write", "generate", "dropin"):
            for staged, temporary, _ in self.staged:
                if staged is step:
                    self.last_look(step, path)
                    if step["before"] is not None:
                        keep(path)
                    self.journal.log("rename %s" % step["path"])
                    os.rename(temporary, path)
                    sync_directory(os.path.dirname(path))
                    if step["before"] is None:
                        self.relabel(path)
        elif step["do"] == "remove":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = None
            self.journal.log("remove %s" % step["path"])
            os.rename(path, kept_name(path))
            sync_directory(os.path.dirname(path))
        elif step["do"] == "mode":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = entry["before"]
            self.journal.log("mode %s %o" % (step["path"], step["mode"]))
            os.chmod(path, step["mode"])
        elif step["do"] == "trigger":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = ""  # whatever the command writes: not known before
            self.journal.log("keep %s" % step["path"])
            if step["before"] is not None:
                keep(path)
            self.journal.log("run %s" % " ".join(step["argv"]))
            self.command(step["argv"])
            data = current(step["path"])
            if data is None:
                raise Failed("%s wrote no %s" % (" ".join(step["argv"]), step["path"]))
            check_spec(data)
            entry["after"] = sha256(data)
        elif step["do"] in ("directory", "fuse"):
            try:
                self.storage(step)
            except Unmet as reason:
                raise Failed(str(reason))
        elif step["do"] in ("package", "note", "cuda", "toolkit"):
            try:
                self.beyond_files(step)
            except Unfit as reason:
                raise Failed(str(reason))
        else:
            self.journal.log("run %s" % " ".join(step["argv"]))
            self.command(step["argv"])

    def storage(self, step):
        """`directory`: it is there, and an overlay was mounted in it for trial. `fuse`: /dev/fuse is there. Raises Unmet."""
        if step["do"] == "fuse":
            self.journal.log("fuse")
            fuse_ready()
            return
        made = missing_directories(step["path"])
        # Never a file: undoing takes away directories that were made, and those only while they are empty.
        inside = os.path.join(step["path"], ".gpumend-trial")
        entry = {"path": step["path"], "real": inside, "before": None, "after": None, "made": made}
        self.journal.record["files"].extend([entry] if made else [])
        self.journal.log("directory %s" % step["path"])
        make_directories(step["path"])
        if made:
            os.chmod(step["path"], step["mode"])
        self.journal.record["trials"].append(step["path"])
        self.journal.log("try %s" % step["path"])
        try_overlay(step["path"])

    def serve_inner(self):
        """Units of inner daemons are started anew, as far as that is allowed, and each daemon has its storage. Returns why
        any waits."""
        waits = []
        for argv in self.wanted["settle"]:
            self.command(argv)
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
                self.journal.record["inner"].append(told)
                self.journal.log("restart %s" % entry["unit"])
                self.command(["systemctl", "restart", entry["unit"]])
                self.notes.append("%s: %s" % (entry["container"], prove_inner(entry)))
            except Unmet as reason:
                raise Failed(str(reason))
        return "; ".join(waits)

    def beyond_files(self, step):
        """`package` (manager, action, targets): each package that comes, changes or goes is in the journal before, and so is
        the file that its scripts would write, where the step has one. `note` (directory, section, driver): the library is
        for the driver. `cuda` (kind, directory, version): cuInit says so. `toolkit` (manager, version): its packages and
        programs say so. Raises Unfit."""
        if step["do"] == "note":
            check_note(*step["argv"])
        elif step["do"] == "cuda":
            self.notes.append(prove_cuda(*(step["argv"] + [self.before])))
        elif step["do"] == "toolkit":
            self.notes.append(prove_toolkit(*step["argv"]))
        else:
            manager, action = step["argv"][:2]
            entry = self.written_by_packages(step) if step["path"] else None
            self.journal.record["packages"].extend(package_entries(manager, step["changes"]))
            self.journal.log("package %s" % " ".join(step["argv"][1:]))
            wait = self.wanted.get("package_wait", LOCK_WAIT)
            perform(manager, action, step["argv"][2:], step["changes"], wait)
            if entry is not None:
                self.keep_bytes(step, entry)

    def written_by_packages(self, step):
        """The journal's entry of a file that a package's scripts write as they please. It is put back after them."""
        entry = self.journal.backup(step["path"], self.still(step))
        entry["after"] = ""  # whatever they write: not known before
        entry["made"] = missing_directories(os.path.dirname(entry["real"]))
        entry["of_package"] = True
        return entry

    def keep_bytes(self, step, entry):
        """A file that was there has its old bytes again: the toolkit's packages write config.toml anew without its comments
        (nct packaging/debian/nvidia-container-toolkit-base.postinst). A new one is theirs."""
        data = current(step["path"])
        if entry["before"] is None:
            entry["after"] = None if data is None else sha256(data)
            return
        restore(self.journal, entry)
        entry["after"] = entry["before"]

    def last_look(self, step, path):
        """Right before the rename: bytes that came since the plan are not written over, nor put back afterwards."""
        try:
            self.still(step)
        except Failed:
            files = self.journal.record["files"]
            self.journal.record["files"] = [entry for entry in files if entry["real"] != path]
            raise

    @staticmethod
    def relabel(path):
        """A new file gets its directory's policy label where SELinux is at work; elsewhere there is no restorecon."""
        if os.path.isdir("/sys/fs/selinux") and which("restorecon"):
            run(["restorecon", path], 20)

    @staticmethod
    def command(argv):
        if argv[:2] == ["systemctl", "restart"]:
            run(["systemctl", "reset-failed"] + argv[2:], 20)  # the limit of starts counts others', too
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            lines = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Failed("%s: %s" % (" ".join(argv), lines[-1] if lines else found["status"]))

    def serve(self, waiting):
        """Tell the daemon. Where its restart has to wait, a reload makes true what a reload can. Returns why it waits."""
        if self.wanted.get("inner"):
            return self.serve_inner()
        if not self.wanted["service"]:
            prove(self.wanted["proofs"], "")
            return ""
        waiting = waiting or self.waiting()  # a container may have been started meanwhile
        if waiting and self.wanted.get("must_restart"):
            raise Failed(waiting)
        unit, action = self.wanted["service"]
        service = service_of(unit, self.journal)
        if waiting and not service.reloads:
            return waiting
        self.told = "reload" if waiting else action
        service.tell(self.told)
        prove(self.wanted["proofs"], self.told)
        if self.told == "restart":
            self.lost = service.start_again()
            service.outlives(self.wanted.get("watch", 0))
        return waiting

    def apply(self):
        """All of it; the answer says how it ended."""
        self.preconditions()
        waiting = self.waiting()
        if waiting and self.wanted.get("must_restart"):
            raise Refused("it needs a restart now, and %s" % waiting)
        if not self.wanted["steps"] and waiting:  # then nothing is written, not even a journal
            return {"status": "pending", "detail": waiting}
        self.journal = Journal.begin(self.wanted)
        try:
            self.make()
            if not self.journal.record["files"] and not self.wanted["service"] and not self.ran():
                self.journal.discard()
                return {"status": "unchanged"}
            waiting = self.serve(waiting)
            for entry in self.journal.record["files"]:
                forget(entry["real"])
        except Exception as error:  # whatever it is, a fault of ours included: put back first
            return self.put_back(error)
        detail = "; ".join(filter(None, [waiting] + self.notes))
        record = self.journal.record
        if waiting and self.wanted.get("inner") and not (record["files"] or record["inner"]):
            self.journal.discard()  # all but the wait was done by an earlier run
            return {"status": "pending", "detail": detail}
        try:
            self.journal.record["running"] = {}  # a rollback days later does not start them
            self.journal.end("done")
        except OSError as error:
            # All is done and proven. A journal left `working` would have the next run put it back.
            self.journal.discard()
            detail = "; ".join(filter(None, (detail, "it cannot be rolled back: %s" % reason_of(error))))
        answer = {"status": "pending" if waiting else "changed", "detail": detail, "told": self.told}
        answer["files"] = [entry["path"] for entry in self.journal.record["files"]]
        if self.lost:
            answer["lost"] = self.lost
        return answer

    def ran(self):
        return bool(self.wanted.get("inner")) or any(
            step["do"] in ("run", "package", "fuse") for step in self.wanted["steps"]
        )

    def put_back(self, error):
        """Everything as before, and said so; `broken` where that fails."""
        reason = reason_of(error)
        touched = any(step.split(" ", 1)[0] not in ("stage", "keep") for step in self.journal.record["log"])
        for _, path, _ in self.staged:
            try:
                os.unlink(path)
            except OSError:
                pass  # renamed already, or `undo` names what it cannot put back
        # Allowed, since it was restarted with that permission a moment ago.
        problems, _ = undo(self.journal, "allow")
        if problems:
            return {"status": "broken", "detail": "%s; then: %s" % (reason, "; ".join(problems))}
        if not touched:
            self.journal.discard()
        return {"status": "put_back" if touched else "refused", "detail": reason}
