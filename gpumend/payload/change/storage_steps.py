"""The kinds of step on a host that give a Docker inside a container its storage: stdlib only, Python 3.6 or newer."""

import os
import stat
from typing import List

from gpumend.payload.change.file_steps import FileStep, StagedFile, hash_of
from gpumend.payload.change.files import (
    Failed,
    current,
    make_directories,
    missing_directories,
    remove_empty,
)
from gpumend.payload.change.inner import Unmet, drop_in, forget_trials, fuse_ready, try_overlay
from gpumend.payload.change.journal import Entry, Journal
from gpumend.payload.change.step import Step, absolute


class DropIn(StagedFile):
    """A drop-in has the `docker run` of a unit with more options. Its bytes never leave the host: the plan has not seen
    them, so what is there when it is checked is what it begins with."""

    kind = "dropin"

    def check(self) -> None:
        absolute(self.path)
        absolute(self.wanted["unit"])
        self.before = hash_of(current(self.path))
        FileStep.check(self)

    def new_bytes(self) -> bytes:
        unit = self.wanted["unit"]
        self.mode = stat.S_IMODE(os.stat(unit).st_mode)  # it holds what the unit holds
        try:
            data: bytes = drop_in(unit, self.wanted["container"], self.wanted["options"])
        except Unmet as reason:
            raise Failed(str(reason))
        return data


class DirectoryTrial(Step):
    """The directory is there, and an overlay was mounted in it for trial. Undoing takes away directories that were made,
    and those only while they are empty."""

    kind = "directory"

    def describe(self) -> str:
        return "directory %s" % self.wanted["path"]

    def check(self) -> None:
        absolute(self.wanted["path"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        path = self.wanted["path"]
        made = missing_directories(path)
        journal.begin_step(self.kind, {"path": path, "made": made})
        journal.log(self.describe())
        make_directories(path)
        if made:
            os.chmod(path, self.wanted["mode"])
        journal.log("try %s" % path)
        try_overlay(path)

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        forget_trials(entry["path"])
        remove_empty(entry["made"])
        return []


class FuseReady(Step):
    """/dev/fuse is there. Nothing is undone: a loaded module harms nobody, and others may use it by now."""

    kind = "fuse"
    silent = True

    def describe(self) -> str:
        return "fuse"

    def do(self, journal: Journal, notes: List[str]) -> None:
        journal.log(self.describe())
        fuse_ready()
