"""The part of the program on a host that keeps what a transaction did, on disk before it does the next thing, and puts a
file back by it: stdlib only, Python 3.6 or newer.

/var/lib/gpumend/runs/RUN/COMPONENT/journal.json, mode 0600, with the old bytes beside it. A journal left in state
`working` is an interrupted run.
"""

import glob
import json
import os
import shutil
import stat
import time
from typing import Any, Dict, List, Optional

from gpumend.payload.change.files import (
    Failed,
    Refused,
    clean,
    current,
    forget,
    kept_name,
    make_directories,
    remove_empty,
    replace,
    sha256,
    stage,
    sync_directory,
)

ROOT = "/var/lib/gpumend"
# How many of the newest runs are kept whatever their age, how many days the others, and how many of these at the most. One
# that is not known to have ended well is always kept.
KEPT, KEPT_DAYS, KEPT_AT_MOST = 50, 90, 1000
ENDED_WELL = ("done", "put_back")
SELINUX = "security.selinux"
# Of journal.json. 1, which has no number in it: `files`, `trials` and `packages` apart. 2: `steps`, an entry for each step
# that has something to undo, of the kind that its `do` names, in the order in which they were made.
JOURNAL_FORMAT = 2

Entry = Dict[str, Any]


class Journal:
    """What a transaction did so far, on disk before it does the next thing. It holds no file's content: the backups
    beside it do, mode 0600 in a directory of mode 0700."""

    def __init__(self, directory: str, record: Dict[str, Any]) -> None:
        self.directory = directory
        self.path = os.path.join(directory, "journal.json")
        self.record = record
        self.strict = True

    @classmethod
    def begin(cls, transaction: Dict[str, Any]) -> "Journal":
        """The journal of a transaction that has done nothing yet. Where it cannot be written nothing is left of it."""
        directory = os.path.join(ROOT, "runs", transaction["run"], transaction["component"])
        record = {
            "format": JOURNAL_FORMAT,
            "run": transaction["run"],
            "component": transaction["component"],
            "who": transaction["who"],
            "number": 1 + max([record.get("number", 0) for record in records()] or [0]),
            "started": time.time(),
            "state": "working",
            "steps": [],
            "inner": [],
            "settle": transaction.get("settle", []),
            "service": transaction.get("service"),
            "served": "",
            "running": {},
            "log": [],
        }
        journal = cls(directory, record)
        try:
            make_directories(directory, 0o700)
            journal.write()
        except OSError:
            journal.discard()
            raise
        return journal

    @classmethod
    def load(cls, path: str) -> "Journal":
        """A journal of this format, or of an older one, of which it becomes one of this. Raises Refused for any other:
        what it says of steps that nobody knows here must not be left out."""
        with open(path) as handle:
            record = json.load(handle)
        found = record.get("format", 1)
        if found == 1:
            record = of_this_format(record)
        elif found != JOURNAL_FORMAT:
            raise Refused(
                "%s is of format %s, and this gpumend knows none newer than %d: use one as new as the one that wrote it"
                % (path, found, JOURNAL_FORMAT)
            )
        return cls(os.path.dirname(path), record)

    def mark(self) -> str:
        """What others' records call this transaction."""
        return "gpumend %s %s" % (self.record["run"], self.record["component"])

    @property
    def number(self) -> int:
        """The order of transactions on this host: clocks jump, and runs are named by the controller's."""
        return int(self.record.get("number", 0))

    @property
    def steps(self) -> List[Entry]:
        """An entry for each step so far that has something to undo."""
        found: List[Entry] = self.record["steps"]
        return found

    def files(self) -> List[Entry]:
        """The entries of files and of directories that were made, those of packages' files included."""
        found: List[Entry] = []
        for entry in self.steps:
            if "files" in entry:
                found.extend(entry["files"])
            elif "real" in entry or entry["made"]:
                found.append(entry)
        return found

    def paths(self) -> List[str]:
        return [entry["path"] for entry in self.files()]

    def discard(self) -> None:
        """Nothing was changed: leave no trace of the run either."""
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            os.rmdir(os.path.dirname(self.directory))
        except OSError:
            pass

    def write(self) -> None:
        """The record is on the disk. While things are put back (`strict` is off) a full disk does not stop that."""
        text = json.dumps(self.record, indent=1, sort_keys=True) + "\n"
        try:
            replace(self.path, text.encode("ascii"), mode=0o600)
        except OSError:
            if self.strict:
                raise

    def log(self, text: str) -> None:
        """Note what is about to be done."""
        self.record["log"].append(text)
        self.write()

    def keep(self, path: str, data: Optional[bytes]) -> Entry:
        """Keep a file's old bytes. Returns what undoing needs, to which the new bytes' hash is added once known."""
        entry: Entry = {
            "path": path,
            "real": os.path.realpath(path),
            "before": None,
            "after": None,
            "made": [],
        }
        if data is not None:
            found = os.stat(path)
            entry["before"] = sha256(data)
            entry["backup"] = "%d.before" % len(self.files())
            entry["mode"] = stat.S_IMODE(found.st_mode)
            entry["uid"], entry["gid"] = found.st_uid, found.st_gid
            entry["label"] = label_of(path)
            entry["times"] = [found.st_atime_ns, found.st_mtime_ns]
            kept = os.path.join(self.directory, entry["backup"])
            replace(kept, data, like=path)
            os.chmod(kept, 0o600)
            os.chown(kept, os.geteuid(), os.getegid())
        return entry

    def begin_step(self, kind: str, entry: Entry) -> Entry:
        """A step of this kind is about to be made; it counts as soon as the journal is next written."""
        entry["do"] = kind
        self.steps.append(entry)
        return entry

    def packages(self) -> Entry:
        """The one entry of all packages: they are put back in one go, for neither way need be possible alone, and after the
        files that came with them."""
        for entry in self.steps:
            if entry["do"] == "package":
                return entry
        made: Entry = {"do": "package", "packages": [], "files": []}
        self.steps.insert(0, made)
        return made

    def forget(self, real: str) -> None:
        """A file was not changed after all."""
        self.record["steps"] = [entry for entry in self.steps if entry.get("real") != real]

    def old(self, entry: Entry) -> bytes:
        with open(os.path.join(self.directory, entry["backup"]), "rb") as handle:
            data = handle.read()
        if sha256(data) != entry["before"]:
            raise OSError("the backup of %s is damaged" % entry["path"])
        return data

    def end(self, state: str) -> None:
        self.record["state"] = state
        self.record["ended"] = time.time()
        self.write()


def of_this_format(old: Dict[str, Any]) -> Dict[str, Any]:
    """A record of format 1 in this one. What it says is undone in the order in which format 1 was: files from the newest,
    then packages with the files that their scripts wrote."""
    packages, of_packages = old.get("packages", []), []
    steps: List[Entry] = []
    tried = list(old.get("trials", []))
    for entry in old["files"]:
        if entry.get("of_package"):
            of_packages.append(entry)
        elif entry["real"] == os.path.join(
            entry["path"], ".gpumend-trial"
        ):  # a directory, by a file that never is
            steps.append({"do": "directory", "path": entry["path"], "made": entry["made"]})
            tried = [path for path in tried if path != entry["path"]]
        else:
            steps.append(dict(entry, do="write"))  # every kind of file was put back in one way
    steps.extend({"do": "directory", "path": path, "made": []} for path in tried)
    if packages or of_packages:
        steps.insert(0, {"do": "package", "packages": packages, "files": of_packages})
    kept = {key: value for key, value in old.items() if key not in ("files", "trials", "packages")}
    defaults: Dict[str, Any] = {
        "inner": [],
        "settle": [],
        "service": None,
        "served": "",
        "running": {},
        "log": [],
    }
    return dict(defaults, **dict(kept, format=JOURNAL_FORMAT, steps=steps))


def record_paths(run: str = "*") -> List[str]:
    return glob.glob(os.path.join(ROOT, "runs", run, "*", "journal.json"))


def records() -> List[Dict[str, Any]]:
    """What all journals say, of whatever format; those that cannot be read are left out."""
    found = []
    for path in record_paths():
        try:
            with open(path) as handle:
                record = json.load(handle)
        except (OSError, ValueError):
            continue
        found.extend([record] if isinstance(record, dict) else [])
    return found


def journals(run: str = "*") -> List[Journal]:
    """The journals of a run, or all; those that cannot be read are left out."""
    found = []
    for path in record_paths(run):
        try:
            found.append(Journal.load(path))
        except (OSError, ValueError, Refused):
            continue
    return found


def prune() -> None:
    """Runs beyond what is kept are gone with their backups. What cannot be read or removed stays."""
    found: Dict[str, List[Dict[str, Any]]] = {}
    for path in record_paths():
        directory = os.path.dirname(os.path.dirname(path))
        try:
            with open(path) as handle:
                found.setdefault(directory, []).append(dict(json.load(handle)))
        except (OSError, ValueError, TypeError):
            found.setdefault(directory, []).append({"state": "not known"})
    if len(found) <= KEPT:
        return
    newest = sorted(
        found, key=lambda each: max(record.get("number", 0) for record in found[each]), reverse=True
    )
    oldest = time.time() - KEPT_DAYS * 86400
    for place, directory in enumerate(newest):
        young = any(record.get("started", 0) > oldest for record in found[directory])
        if place < KEPT or (young and place < KEPT_AT_MOST):
            continue
        if all(record.get("state") in ENDED_WELL for record in found[directory]):
            shutil.rmtree(directory, ignore_errors=True)


def label_of(path: str) -> Optional[str]:
    """A file's SELinux label, or None where it has none."""
    try:
        return os.getxattr(path, SELINUX).decode("ascii", "replace")
    except OSError:
        return None


def manner(path: str) -> List[Any]:
    """A file's mode, owner, group and label."""
    found = os.stat(path)
    return [stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, label_of(path)]


def since(entry: Entry, path: str) -> List[Any]:
    """What of a file's manner somebody has changed since its transaction made it, None for each that nobody has. Nothing of
    one of which is not known how the transaction left it."""
    if "then" not in entry or "label" not in entry or not os.path.exists(path):
        return [None] * 4
    before = [entry["mode"], entry["uid"], entry["gid"], entry["label"]]
    rows = zip(manner(path), before, entry["then"])
    return [None if now in (was, then) else now for now, was, then in rows]


def keep_manner(path: str, theirs: List[Any]) -> None:
    """A file has the mode, owner, group and label that somebody gave it since, each as far as somebody did."""
    mode, uid, gid, label = theirs
    if uid is not None or gid is not None:
        had = stat.S_IMODE(os.stat(path).st_mode)
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
        os.chmod(path, had)  # which a change of owner takes bits of
    if mode is not None:
        os.chmod(path, mode)
    if label is not None:
        os.setxattr(path, SELINUX, label.encode("ascii"))


def restore(journal: Journal, entry: Entry) -> None:
    """One file is as it was before its transaction. A file that somebody changed since is left, and raises Failed; a mode,
    an owner or a label that somebody changed since stays, too."""
    path, kept = entry["real"], kept_name(entry["real"])
    theirs = since(entry, path)
    data = current(path) if os.path.lexists(path) else None
    have = None if data is None else sha256(data)
    if have == entry["before"]:
        if data is not None and theirs[0] is None and stat.S_IMODE(os.stat(path).st_mode) != entry["mode"]:
            os.chmod(path, entry["mode"])
        clean(path)
    elif entry["after"] != "" and have != entry["after"]:
        forget(path)  # the backup has the old bytes
        raise Failed("%s was changed by somebody else since: it is left as it is" % path)
    elif entry["before"] is None:
        os.unlink(path)
        sync_directory(os.path.dirname(path))
    elif (
        os.path.isfile(kept) and not os.path.islink(kept) and sha256(current(kept) or b"") == entry["before"]
    ):
        os.rename(kept, path)
        sync_directory(os.path.dirname(path))
        keep_manner(path, theirs)
    else:
        staged = stage(path, journal.old(entry), like=os.path.join(journal.directory, entry["backup"]))
        os.chown(staged, entry["uid"], entry["gid"])
        os.chmod(staged, entry["mode"])
        os.utime(staged, ns=tuple(entry["times"]))
        os.rename(staged, path)
        sync_directory(os.path.dirname(path))
        keep_manner(path, theirs)
        forget(path)
    if entry["before"] is None:
        remove_empty(entry["made"])
