"""The kinds of step on a host beyond files: packages, and proofs by what they bring. Stdlib only, Python 3.6 or newer."""

import os
from typing import Any, Dict, List, Optional, Tuple

from gpumend.payload.change.file_steps import FileStep
from gpumend.payload.change.files import Failed, Refused, clean, current, missing_directories, replace, sha256
from gpumend.payload.change.gpu_use import gpu_users
from gpumend.payload.change.hooks import hooks_told
from gpumend.payload.change.journal import Entry, Journal, restore
from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.package_locks import wait_and_note
from gpumend.payload.change.package_proofs import (
    check_note,
    cu_init,
    loaded_driver,
    prove_cuda,
    prove_toolkit,
)
from gpumend.payload.change.packaging import (
    keep_archive,
    package_entries,
    perform,
    simulate,
    take_back,
    way_home,
)
from gpumend.payload.change.services import LOCK_WAIT
from gpumend.payload.change.step import Step, absolute
from gpumend.payload.driver import driver_number


class PackageStep(Step):
    """A package manager does what it said it would. `path`, where there is one: a file that the packages' scripts write as
    they please, and that keeps its bytes."""

    kind = "package"
    silent = True

    def __init__(self, wanted: Dict[str, Any]) -> None:
        Step.__init__(self, wanted)
        self.manager: str = wanted["manager"]
        self.verb: str = wanted["verb"]
        self.targets: List[str] = wanted["targets"]
        self.wait = LOCK_WAIT
        self.changes: List[Tuple[str, str, Optional[str]]] = []
        self.kept = FileStep(wanted) if wanted.get("path") else None

    def describe(self) -> str:
        return "package %s" % " ".join([self.verb] + self.targets)

    def check(self) -> None:
        if self.kept:
            self.kept.check()

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.wait = wait
        wait_and_note(self.manager, wait, notes)
        limits = (self.wanted.get("least", ""), self.wanted.get("broken", ()))
        self.changes = simulate(self.manager, self.verb, self.targets, wait, *limits)
        for _, name, _ in self.changes if self.verb == "remove" else ():
            way_home(self.manager, name)

    def do(self, journal: Journal, notes: List[str]) -> None:
        entry = journal.packages()
        file = self.written(journal) if self.kept else None
        entry["files"].extend([file] if file else [])
        packages = package_entries(self.manager, self.changes)
        if self.verb == "remove":
            for package in packages:
                package["archive"] = keep_archive(
                    self.manager, package["name"], package["before"], journal.directory
                )
        entry["packages"].extend(packages)
        journal.log(self.describe())
        perform(self.manager, self.verb, self.targets, self.changes, self.wait, journal.mark())
        notes.extend(hooks_told(self.manager))
        if file:
            self.keep_bytes(journal, file)

    def written(self, journal: Journal) -> Entry:
        """What undoing needs of the file that the scripts write. It is put back after the packages."""
        assert self.kept
        file = journal.keep(self.kept.path, self.kept.still())
        file["after"] = ""  # whatever they write: not known before
        file["made"] = missing_directories(os.path.dirname(file["real"]))
        return file

    def keep_bytes(self, journal: Journal, file: Entry) -> None:
        """A file that was there has its old bytes again: the toolkit's packages write config.toml anew without its comments
        (nct packaging/debian/nvidia-container-toolkit-base.postinst). A new one is theirs."""
        data = current(file["path"])
        if file["before"] is None:
            file["after"] = None if data is None else sha256(data)
            return
        restore(journal, file)
        file["after"] = file["before"]

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        """Packages are as they were, and after them the files that their scripts write."""
        problems: List[str] = []
        found = []
        if in_use(entry["packages"]):
            return ["the driver is loaded, and in use by %s: it stays" % ", ".join(gpu_users()[:6])]
        for file in entry["files"]:
            try:
                found.append((file, current(file["path"])))
            except (OSError, Refused) as error:
                problems.append(str(error))
        try:
            take_back(entry["packages"], LOCK_WAIT, journal.mark())
        except Unfit as error:
            problems.append(str(error))
        for file, data in found:
            try:
                problems.extend(put_back_after_scripts(journal, file, data))
            except (OSError, Failed, Refused) as error:
                problems.append(str(error))
        return problems


def in_use(packages: List[Entry]) -> bool:
    """Whether these packages are the driver that is loaded, and somebody has it open."""
    mine = [driver_number(each["after"] or "") for each in packages if each.get("driver")]
    return driver_number(loaded_driver() or "") in [number for number in mine if number] and bool(gpu_users())


def put_back_after_scripts(journal: Journal, file: Entry, data: Optional[bytes]) -> List[str]:
    """A file that packages' scripts have just been at is as it was before its transaction; where somebody had changed it
    since, it has their bytes, `data`, and that is returned as a problem."""
    have = None if data is None else sha256(data)
    if file["after"] in ("", have) or have == file["before"]:
        file["after"] = ""  # the scripts may have written it anew just now
        restore(journal, file)
        clean(file["real"])
        return []
    if data is not None and current(file["path"]) != data:
        replace(file["real"], data, like=file["real"] if os.path.exists(file["real"]) else None)
    return ["%s was changed by somebody else since: it is left as it is" % file["path"]]


class NoteCheck(Step):
    """The library in a directory says that it is for the driver."""

    kind = "note"

    def describe(self) -> str:
        return "note %s" % self.wanted["directory"]

    def check(self) -> None:
        absolute(self.wanted["directory"])

    def do(self, journal: Journal, notes: List[str]) -> None:
        check_note(self.wanted["directory"], self.wanted["section"], self.wanted["driver"])


class CudaCheck(Step):
    """cuInit says that CUDA works."""

    kind = "cuda"

    def __init__(self, wanted: Dict[str, Any]) -> None:
        Step.__init__(self, wanted)
        self.seen: Tuple[int, int] = (-1, 0)  # cuInit's answer before anything was changed

    def describe(self) -> str:
        return "cuda %s" % self.wanted["how"]

    def check(self) -> None:
        if self.wanted["directory"]:
            absolute(self.wanted["directory"])

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.seen = cu_init()

    def do(self, journal: Journal, notes: List[str]) -> None:
        directory, version = self.wanted["directory"], self.wanted["version"]
        notes.append(prove_cuda(self.wanted["how"], directory, version, self.seen))


class ToolkitProof(Step):
    """The toolkit's packages and programs say of which version they are."""

    kind = "toolkit"

    def describe(self) -> str:
        return "toolkit %s" % self.wanted["version"]

    def do(self, journal: Journal, notes: List[str]) -> None:
        notes.append(prove_toolkit(self.wanted["manager"], self.wanted["version"]))
