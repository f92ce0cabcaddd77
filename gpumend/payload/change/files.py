"""The part of the program on a host that writes files: stdlib only, Python 3.6 or newer.

A file has its old bytes or its new ones, never a mix: new bytes are staged beside their target, synced, and renamed.
"""

import errno
import hashlib
import os
import re
import stat
import tempfile
from typing import List, Optional, Sequence

from gpumend.payload.probe.files import open_file


class Refused(Exception):
    """Nothing was changed, and this is why. `status` is what the answer says."""

    def __init__(self, detail: str, status: str = "refused") -> None:
        Exception.__init__(self, detail)
        self.status = status


class Failed(Exception):
    """Something was changed and must be put back."""


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: str) -> str:
    """Of a file that may have gigabytes."""
    total = hashlib.sha256()
    with open_file(path) as handle:
        for part in iter(lambda: handle.read(1 << 20), b""):
            total.update(part)
    return total.hexdigest()


def sync_directory(path: str) -> None:
    """Make a rename in this directory durable. Some file systems have no fsync for directories: they need none."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def stage(target: str, data: bytes, like: Optional[str] = None, mode: int = 0o644) -> str:
    """A new file beside `target` with these bytes, synced, of `like`'s mode, owner and extended attributes.

    Its name starts with a dot and ends in neither .json nor .yaml nor .toml: no engine that watches the directory takes
    it for its own. It is made with O_EXCL under a random name, so a link planted beside the target is not followed.
    """
    directory, name = os.path.split(target)
    handle, path = tempfile.mkstemp(prefix="." + name + ".", suffix=".gpumend", dir=directory)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            if like is not None:
                found = os.stat(like)
                os.fchown(out.fileno(), found.st_uid, found.st_gid)
                os.fchmod(out.fileno(), stat.S_IMODE(found.st_mode))
                for name in os.listxattr(like):
                    os.setxattr(path, name, os.getxattr(like, name))
            else:
                os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
    except BaseException:
        os.unlink(path)
        raise
    return path


def replace(target: str, data: bytes, like: Optional[str] = None, mode: int = 0o644) -> None:
    """The file at `target` has these bytes, or (on any error) the old ones; never a mix."""
    path = stage(target, data, like, mode)
    try:
        os.rename(path, target)
    except BaseException:
        os.unlink(path)
        raise
    sync_directory(os.path.dirname(target))


def missing_directories(path: str) -> List[str]:
    """The directories that have to be made before this one is there, outermost first."""
    missing: List[str] = []
    while not os.path.isdir(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def make_directories(path: str, mode: int = 0o755) -> List[str]:
    """The directory exists. Returns those that were made, outermost first, so that they can be taken away again."""
    made = missing_directories(path)
    for directory in made:
        os.mkdir(directory, mode)
        os.chmod(directory, mode)
        sync_directory(os.path.dirname(directory))
    return made


def current(path: str) -> Optional[bytes]:
    """The bytes of a regular file, or None where there is nothing. Raises Refused for anything else."""
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.islink(path):
            return None
        raise Refused("%s: %s" % (path, error.strerror))
    if not stat.S_ISREG(found.st_mode):
        raise Refused("%s is not a regular file" % path)
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except OSError as error:  # a read that fails names no file
        raise Refused("%s: %s" % (path, error.strerror))


def kept_name(path: str) -> str:
    """Where a file's old inode waits, beside it, until its transaction has ended."""
    directory, name = os.path.split(path)
    return os.path.join(directory, "." + name + ".gpumend-old")


def keep(path: str) -> None:
    """The old inode under a second name: putting it back then needs no space and brings its times back, too.
    A file system without hard links has the backup alone; a full one raises OSError, before anything is changed."""
    forget(path)
    try:
        os.link(path, kept_name(path))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise


def forget(path: str) -> None:
    try:
        os.unlink(kept_name(path))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def remove_empty(directories: Sequence[str]) -> None:
    """Directories that were made are gone again, innermost first, as far as nobody has put anything into them."""
    for directory in reversed(directories):
        try:
            os.rmdir(directory)
        except OSError as error:
            if error.errno != errno.ENOENT:  # killed before it was made; any other: it is in use by now
                break


def reason_of(error: BaseException) -> str:
    """What went wrong, for the report: an error of the system names its file, one of ours its class."""
    if isinstance(error, (Failed, Refused)):
        return str(error)
    if isinstance(error, OSError):
        where = "%s: " % error.filename if error.filename else ""
        return where + (error.strerror or str(error))
    return "internal error: %s: %s" % (type(error).__name__, error)


def clean(target: str) -> None:
    """What a killed transaction left beside a target is gone. Where the disk is read-only by now it stays: no engine reads
    it, and the next transaction that writes there takes it away."""
    for path in leftovers(target) + [kept_name(target)]:
        try:
            os.unlink(path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EROFS):
                raise


def leftovers(target: str) -> List[str]:
    """Files that a killed transaction staged beside a target."""
    directory, name = os.path.split(target)
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    pattern = re.compile(r"\." + re.escape(name) + r"\.[A-Za-z0-9_]+\.gpumend$")
    return [os.path.join(directory, entry) for entry in names if pattern.match(entry)]
