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

from gpumend.payload.change.files import (
    Failed,
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


class Journal:
    """What a transaction did so far, on disk before it does the next thing. It holds no file's content: the backups
    beside it do, mode 0600 in a directory of mode 0700."""

    def __init__(self, directory, record):
        self.directory = directory
        self.path = os.path.join(directory, "journal.json")
        self.record = record
        self.strict = True

    @classmethod
    def begin(cls, transaction):
        """The journal of a transaction that has done nothing yet. Where it cannot be written nothing is left of it."""
        directory = os.path.join(ROOT, "runs", transaction["run"], transaction["component"])
        record = {
            "run": transaction["run"],
            "component": transaction["component"],
            "who": transaction["who"],
            "number": 1 + max([journal.number for journal in journals()] or [0]),
            "started": time.time(),
            "state": "working",
            "files": [],
            "packages": [],
            "inner": [],
            "trials": [],
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

    @property
    def number(self):
        """The order of transactions on this host: clocks jump, and runs are named by the controller's."""
        return self.record.get("number", 0)

    @classmethod
    def load(cls, path):
        with open(path) as handle:
            return cls(os.path.dirname(path), json.load(handle))

    def discard(self):
        """Nothing was changed: leave no trace of the run either."""
        shutil.rmtree(self.directory, ignore_errors=True)
        try:
            os.rmdir(os.path.dirname(self.directory))
        except OSError:
            pass

    def write(self):
        """The record is on the disk. While things are put back (`strict` is off) a full disk does not stop that."""
        text = json.dumps(self.record, indent=1, sort_keys=True) + "\n"
        try:
            replace(self.path, text.encode("ascii"), mode=0o600)
        except OSError:
            if self.strict:
                raise

    def log(self, step):
        """Note a step that is about to be made."""
        self.record["log"].append(step)
        self.write()

    def backup(self, path, data):
        """Keep a file's old bytes. Returns the entry, to which the new bytes' hash is added once known."""
        entry = {"path": path, "real": os.path.realpath(path), "before": None, "after": None, "made": []}
        if data is not None:
            found = os.stat(path)
            entry["before"] = sha256(data)
            entry["backup"] = "%d.before" % len(self.record["files"])
            entry["mode"] = stat.S_IMODE(found.st_mode)
            entry["uid"], entry["gid"] = found.st_uid, found.st_gid
            entry["times"] = [found.st_atime_ns, found.st_mtime_ns]
            kept = os.path.join(self.directory, entry["backup"])
            replace(kept, data, like=path)
            os.chmod(kept, 0o600)
            os.chown(kept, os.geteuid(), os.getegid())
        self.record["files"].append(entry)
        return entry

    def old(self, entry):
        with open(os.path.join(self.directory, entry["backup"]), "rb") as handle:
            data = handle.read()
        if sha256(data) != entry["before"]:
            raise OSError("the backup of %s is damaged" % entry["path"])
        return data

    def end(self, state):
        self.record["state"] = state
        self.record["ended"] = time.time()
        self.write()


def journals(run="*"):
    """The journals of a run, or all; those that cannot be read are left out."""
    found = []
    for path in glob.glob(os.path.join(ROOT, "runs", run, "*", "journal.json")):
        try:
            found.append(Journal.load(path))
        except (OSError, ValueError):
            continue
    return found


def restore(journal, entry):
    """One file is as it was before its transaction. A file that somebody changed since is left, and raises Failed."""
    path, kept = entry["real"], kept_name(entry["real"])
    data = current(path) if os.path.lexists(path) else None
    have = None if data is None else sha256(data)
    if have == entry["before"]:
        if data is not None and stat.S_IMODE(os.stat(path).st_mode) != entry["mode"]:
            os.chmod(path, entry["mode"])
        clean(path)
    elif entry["after"] != "" and have != entry["after"]:
        forget(path)  # the backup has the old bytes
        raise Failed("%s was changed by somebody else since: it is left as it is" % path)
    elif entry["before"] is None:
        os.unlink(path)
        sync_directory(os.path.dirname(path))
    elif os.path.isfile(kept) and not os.path.islink(kept) and sha256(current(kept)) == entry["before"]:
        os.rename(kept, path)
        sync_directory(os.path.dirname(path))
    else:
        staged = stage(path, journal.old(entry), like=os.path.join(journal.directory, entry["backup"]))
        os.chown(staged, entry["uid"], entry["gid"])
        os.chmod(staged, entry["mode"])
        os.utime(staged, ns=tuple(entry["times"]))
        os.rename(staged, path)
        sync_directory(os.path.dirname(path))
        forget(path)
    if entry["before"] is None:
        remove_empty(entry["made"])
