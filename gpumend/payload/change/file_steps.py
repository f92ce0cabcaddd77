"""The kinds of step on a host that change one file: stdlib only, Python 3.6 or newer."""

import base64
import os
import re
from typing import Any, Dict, List, Optional

from gpumend.payload.change.files import (
    Failed,
    Refused,
    clean,
    current,
    keep,
    kept_name,
    make_directories,
    missing_directories,
    sha256,
    stage,
    sync_directory,
)
from gpumend.payload.change.journal import Entry, Journal, manner, restore
from gpumend.payload.change.services import COMMAND_TIMEOUT
from gpumend.payload.change.spec_text import with_additions
from gpumend.payload.change.step import (
    Step,
    absolute,
    command,
    last_error,
    nearest_directory,
    replaceable,
    roots_place,
    writable,
)
from gpumend.payload.probe.execution import resolved, which
from gpumend.payload.probe.running import run


def check_spec(data: bytes) -> None:
    """A generated CDI spec names devices, and every file it mounts is there. Raises Failed.

    The whole judgement is the controller's, which reads the file again after this program.
    """
    text = data.decode("utf-8", "replace")
    if "cdiVersion" not in text or not re.search(r"(?m)^[ \t]*(?:-[ \t]*)?\"?name\"?:", text):
        raise Failed("the generated spec has no device")
    for path in re.findall(r"(?m)^[ \t]*(?:-[ \t]*)?hostPath:[ \t]*\"?(/[^\s\"]+)", text):
        if not os.path.exists(path):
            raise Failed("the generated spec names %s, which is not there" % path)


def relabel(path: str) -> None:
    """A new file gets its directory's policy label where SELinux is at work; elsewhere there is no restorecon."""
    if os.path.isdir("/sys/fs/selinux") and which("restorecon"):
        run(["restorecon", path], 20)


def hash_of(data: Optional[bytes]) -> Optional[str]:
    return None if data is None else str(sha256(data))


class FileStep(Step):
    """A step that changes one file. before: SHA-256 of the bytes that the plan saw, None where there was no file."""

    def __init__(self, wanted: Dict[str, Any]) -> None:
        Step.__init__(self, wanted)
        self.path: str = wanted["path"]
        self.before: Optional[str] = wanted.get("before")
        self.real: str = os.path.realpath(self.path)

    def size(self) -> int:
        """Bytes that it is going to write, as far as they are known."""
        return 0

    def describe(self) -> str:
        return "%s %s" % (self.kind, self.path)

    def check(self) -> None:
        absolute(self.path)
        data = current(self.path)
        if hash_of(data) != self.before:
            raise Refused("%s changed since it was read" % self.path, "moved")
        roots_place(self.path)
        replaceable(self.real)
        writable(nearest_directory(os.path.dirname(self.real)), len(data or b"") + self.size())

    def still(self) -> Optional[bytes]:
        """The file's bytes, which are those that the plan saw. Raises Failed: somebody else is at work."""
        data: Optional[bytes] = current(self.path)
        if hash_of(data) != self.before:
            raise Failed("%s was changed by somebody else meanwhile" % self.path)
        return data

    def begun(self, journal: Journal) -> Entry:
        """The journal's entry of this step, with the file's old bytes kept."""
        return journal.begin_step(self.kind, journal.keep(self.path, self.still()))

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        restore(journal, entry)
        clean(entry["real"])
        return []


class StagedFile(FileStep):
    """A file whose new bytes are staged beside it, and renamed over it. mode: of a new one."""

    def __init__(self, wanted: Dict[str, Any]) -> None:
        FileStep.__init__(self, wanted)
        self.mode: int = wanted.get("mode", 0o644)
        self.entry: Entry = {}  # of the journal, once it is staged
        self.staged = ""  # the path, until it is renamed; empty also where the file has these bytes already

    def new_bytes(self) -> bytes:
        raise NotImplementedError

    def describe(self) -> str:
        return "rename %s" % self.path

    def stage(self, journal: Journal) -> None:
        data = self.new_bytes()
        if self.before == sha256(data):
            return
        self.entry, directory = self.begun(journal), os.path.dirname(self.real)
        self.entry["after"] = sha256(data)
        self.entry["made"] = missing_directories(directory)
        journal.log("stage %s" % self.path)
        make_directories(directory)
        clean(self.real)  # of a run that could not take it away again
        self.staged = stage(self.real, data, self.real if self.before is not None else None, self.mode)

    def unstage(self) -> None:
        if self.staged:
            try:
                os.unlink(self.staged)
            except OSError:
                pass  # renamed already, or `undo` names what it cannot put back

    def do(self, journal: Journal, notes: List[str]) -> None:
        if not self.staged:
            return
        self.last_look(journal)
        if self.before is not None:
            keep(self.real)
            self.entry["then"] = manner(self.staged)
        journal.log(self.describe())
        os.rename(self.staged, self.real)
        sync_directory(os.path.dirname(self.real))
        if self.before is None:
            relabel(self.real)

    def last_look(self, journal: Journal) -> None:
        """Right before the rename: bytes that came since the plan are not written over, nor put back afterwards."""
        try:
            self.still()
        except Failed:
            journal.forget(self.real)
            raise


class WriteFile(StagedFile):
    """The file has these bytes."""

    kind = "write"

    def new_bytes(self) -> bytes:
        return base64.b64decode(self.wanted["data"])

    def size(self) -> int:
        return len(self.new_bytes())


class EditFile(StagedFile):
    """Places of the file have other texts: [start, end, text] in characters behind a byte order mark, from the first on. In a text
    U+E000 START,END U+E001 stands for these characters of the file."""

    kind = "edit"

    def check(self) -> None:
        FileStep.check(self)
        others = resolved(self.path)[1]
        if others:
            raise Refused("%s is not edited: %s" % (self.path, others))

    def new_bytes(self) -> bytes:
        data = current(self.path) or b""
        text = data.decode("utf-8")
        bom = text[:1] if text.startswith("\ufeff") else ""
        text, at, parts = text[len(bom) :], 0, [bom]
        for start, end, new in self.wanted["edits"]:
            if not at <= start <= end <= len(text):
                raise Failed("%s: the edits do not fit" % self.path)
            parts.append(text[at:start])
            for number, part in enumerate(re.split("\ue000(\\d+,\\d+)\ue001", new)):
                first, _, last = part.partition(",")
                parts.append(text[int(first) : int(last)] if number % 2 else part)
            at = end
        return "".join(parts + [text[at:]]).encode("utf-8")


class GenerateFile(StagedFile):
    """What a command prints becomes the file: a CDI spec. keeps: what people had added to the old one (spec_text.py)."""

    kind = "generate"

    def new_bytes(self) -> bytes:
        argv, keeps = list(self.wanted["argv"]), self.wanted.get("keeps")
        if keeps:
            argv.append("--format=json")
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Failed("%s: %s" % (" ".join(argv[:3]), last_error(found)))
        text = with_additions(found["out"], keeps) if keeps else found["out"]
        data: bytes = text.encode("utf-8")
        check_spec(data)
        return data

    def stage(self, journal: Journal) -> None:
        StagedFile.stage(self, journal)
        if self.staged:
            os.chmod(self.staged, self.mode)  # as nvidia-ctk writes it: an old 0600 is a fault


class TriggerFile(FileStep):
    """A command has somebody else write the file: a CDI spec."""

    kind = "trigger"

    def describe(self) -> str:
        return "run %s" % " ".join(self.wanted["argv"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        entry, argv = self.begun(journal), self.wanted["argv"]
        entry["after"] = ""  # whatever the command writes: not known before
        journal.log("keep %s" % self.path)
        if self.before is not None:
            keep(self.real)
        journal.log(self.describe())
        command(argv)
        data = current(self.path)
        if data is None:
            raise Failed("%s wrote no %s" % (" ".join(argv), self.path))
        check_spec(data)
        entry["after"] = sha256(data)
        entry["then"] = manner(self.real)


class RemoveFile(FileStep):
    """The file is in the run's backup alone."""

    kind = "remove"

    def do(self, journal: Journal, notes: List[str]) -> None:
        self.begun(journal)["after"] = None
        journal.log(self.describe())
        os.rename(self.real, kept_name(self.real))
        sync_directory(os.path.dirname(self.real))


class SetMode(FileStep):
    """The file has these permission bits."""

    kind = "mode"

    def describe(self) -> str:
        return "mode %s %o" % (self.path, self.wanted["mode"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        entry = self.begun(journal)
        entry["after"] = entry["before"]
        entry["then"] = [self.wanted["mode"]] + manner(self.real)[1:]
        journal.log(self.describe())
        os.chmod(self.real, self.wanted["mode"])
