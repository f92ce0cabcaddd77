"""The probe's answer, as readings. The only place that knows the answer's JSON."""

from __future__ import annotations

import base64
import binascii
import json
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from gpumend.state.reading import Reading, Status
from gpumend.text.digest import sha256
from gpumend.text.record import Record
from gpumend.text.shared import shared

T = TypeVar("T")

# As the probe says it (PACKED of gpumend/payload/probe/look.py), which costs a reader http.client and more to import.
PACKED = "gpumend:zlib:"
FORMAT = 1
NOT_ASKED = "not in the probe's answer"
MAX_ANSWER_BYTES = 1 << 26  # of one host; 1 MB of zlib can be 1 GB of text
MAX_REASON = 2000  # characters of why something could not be read: each finding that needed it tells it
MAX_FILE_BYTES = 1 << 20  # what the probe sends of a file at most; a parser here is not given more


class FileMeta(Record):
    """A path's metadata, links followed. `link` is its own target where it is a symbolic link.

    mode: permission bits; mtime, ctime: seconds since the epoch; rdev: (major, minor) of a device node.
    """

    path: str
    kind: str
    mode: int = 0
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: float = 0.0
    ctime: float = 0.0
    rdev: tuple[int, int] | None = None
    link: str | None = None
    real: str | None = None


class FileContent(Record):
    """A regular file's metadata, bytes and their SHA-256 (hex)."""

    meta: FileMeta
    data: bytes
    sha256: str
    selinux: str | None = None

    @property
    def path(self) -> str:
        return self.meta.path

    def text(self) -> str:
        """The bytes as UTF-8; raises ValueError naming the first offset that is not."""
        try:
            return self.data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"not UTF-8 at byte {error.start}") from None


class Output(Record):
    """What a command printed and its exit status."""

    out: str
    err: str
    rc: int


class Process(Record):
    """A running process. start: seconds since the epoch. env: allow-listed names only. container: the short id of the
    container that it runs in, where that is not ours."""

    pid: int
    argv: tuple[str, ...]
    uid: int
    start: float
    exe: str | None
    env: Mapping[str, str]
    nested: bool = False
    container: str | None = None

    @property
    def inner(self) -> bool:
        """Whether it is a container's own: in a pid namespace below ours, or in a container's cgroup."""
        return self.nested or self.container is not None


class Impostor(Record):
    """A process that only calls itself `name`. uids: real, effective, saved, file system. why: what gives it away.
    container: as of `Process`."""

    pid: int
    name: str
    uids: tuple[int, ...]
    exe: str | None
    why: str
    container: str | None = None


def search_key(search: str) -> str:
    """The probe's short name for a search pattern."""
    return sha256(search.encode("utf-8")).hexdigest()[:8]


class AnswerError(ValueError):
    """The probe's output is not an answer of ours."""


@shared(256)
def _bytes(text: str) -> bytes:
    """Base64's bytes. A fleet's hosts have mostly the same files: as many states as are kept share them."""
    return base64.b64decode(text, validate=True)


@shared(256)
def _ascii(text: str) -> bytes:
    """A text's bytes, shared likewise."""
    return text.encode("ascii")


STATUSES = {str(status): status for status in Status}


OK, ABSENT, FAILED = (
    Status.OK,
    Status.ABSENT,
    Status.FAILED,
)  # a member is looked up through its class each time, which takes as long as the rest
UNASKED: Mapping[str, Any] = {"status": "failed", "error": NOT_ASKED}


def _status(item: Mapping[str, Any]) -> Status:
    status = item.get("status")
    return STATUSES.get(status, FAILED) if isinstance(status, str) else FAILED


def unpacked(output: str) -> str:
    """The probe's JSON where it comes as `PACKED` and base64 of zlib; any other text as it is. Raises AnswerError."""
    if not output.startswith(PACKED):
        return output
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(
            base64.b64decode(output.removeprefix(PACKED).strip(), validate=True), MAX_ANSWER_BYTES
        )
        if not unpacker.eof:
            raise AnswerError(f"the probe's answer is not whole, or larger than {MAX_ANSWER_BYTES} bytes")
        return data.decode("ascii")
    except AnswerError:
        raise
    except (ValueError, zlib.error) as error:
        raise AnswerError(f"the probe's answer is not whole: {error}") from None


def _meta(path: str, item: Mapping[str, Any]) -> FileMeta:
    get = item.get
    rdev = get("rdev")
    # By position: a host has hundreds, and a record takes four times as long by name.
    return FileMeta(
        path,
        sys.intern(str(get("kind", "other"))),
        int(get("mode", 0)),
        int(get("uid", 0)),
        int(get("gid", 0)),
        int(get("size", 0)),
        float(get("mtime", 0)),
        float(get("ctime", 0)),
        (int(rdev[0]), int(rdev[1])) if rdev else None,
        get("link"),
        get("real"),
    )


class Snapshot:
    """One host at one moment. Every accessor returns a Reading; what was not asked for reads `failed`."""

    def __init__(self, answer: Mapping[str, Any]) -> None:
        self.answer = answer
        self._made: dict[Any, Any] = {}
        # What is asked for hundreds of times a host.
        self._globs, self._stats, self._files = (
            part if isinstance(part := answer.get(name), dict) else {} for name in ("globs", "stats", "files")
        )

    def once(self, parse: Callable[[Snapshot], T]) -> T:
        """What a subsystem's parse makes of this, made once however many subsystems ask."""
        if parse not in self._made:
            self._made[parse] = parse(self)
        found: T = self._made[parse]
        return found

    @classmethod
    def from_output(cls, output: str) -> Snapshot:
        """Parse the probe's whole output, packed or not; raises AnswerError where it is not exactly one answer."""
        try:
            answer = json.loads(unpacked(output))
        except (ValueError, RecursionError) as error:
            raise AnswerError(f"the probe's answer is not JSON: {error}") from None
        if not isinstance(answer, dict) or answer.get("gpumend") != FORMAT:
            raise AnswerError("the probe's answer is not one of this version")
        return cls(answer)

    def _item(self, section: str, key: str) -> Mapping[str, Any]:
        part = self.answer.get(section)
        item = part.get(key) if isinstance(part, dict) else None
        return item if isinstance(item, dict) else UNASKED

    def _unread(self, item: Mapping[str, Any], source: str) -> Reading[Any]:
        return Reading(_status(item), None, source, sys.intern(str(item.get("error", ""))[:MAX_REASON]))

    @property
    def system(self) -> Mapping[str, Any]:
        part = self.answer.get("system")
        return part if isinstance(part, dict) else {}

    def stat(self, path: str) -> Reading[FileMeta]:
        """Metadata of a path that was asked for as a file, a stat, or mentioned in a file."""
        for part in (self._stats, self._files):
            item = part.get(path)
            if isinstance(item, dict):
                return Reading(OK, _meta(path, item), path) if "kind" in item else self._unread(item, path)
        return Reading(FAILED, None, path, NOT_ASKED)

    def dangling(self, path: str) -> str | None:
        """Where a symbolic link that leads nowhere points, or None for any other path."""
        item = self._item("files" if path in self.answer.get("files", ()) else "stats", path)
        absent = (
            _status(item) is Status.ABSENT and "kind" not in item
        )  # not: where it leads could not be read
        return str(item["link"]) if "link" in item and absent else None

    def file(self, path: str) -> Reading[FileContent]:
        """A regular file's content. A directory, device or dangling link reads `failed`, with its kind."""
        item = self._files.get(path)
        if not isinstance(item, dict):
            return Reading(FAILED, None, path, NOT_ASKED)
        if item.get("status") != "ok":
            if "link" in item and _status(item) is Status.ABSENT:
                return Reading(Status.FAILED, None, path, f"a link to {item['link']}, which does not exist")
            return self._unread(item, path)
        if item.get("kind") != "file":
            return Reading(Status.FAILED, None, path, f"a {item.get('kind')}, not a file")
        try:
            data = (_bytes if item.get("base64") else _ascii)(str(item["data"]))
        except (KeyError, ValueError):  # binascii.Error is one, and so is what is not ASCII
            return Reading(Status.FAILED, None, path, "no content in the probe's answer")
        if len(data) > MAX_FILE_BYTES:
            return Reading(Status.FAILED, None, path, f"larger than {MAX_FILE_BYTES} bytes")
        meta = _meta(path, item)
        return Reading(Status.OK, FileContent(meta, data, str(item.get("sha256")), item.get("selinux")), path)

    def unread(self, path: str) -> bool:
        """Whether a file could not be read; one that is a directory, or a link to nowhere, is no file for anybody else either."""
        return _status(self._item("files", path)) not in (Status.OK, Status.ABSENT)

    def text(self, path: str) -> Reading[str]:
        return self.file(path).map(lambda content: content.text())

    def glob(self, pattern: str) -> Reading[tuple[str, ...]]:
        """The paths that match. A missing directory is an empty list: knowledge."""
        item = self._globs.get(pattern)
        if not isinstance(item, dict):
            return Reading(FAILED, None, pattern, NOT_ASKED)
        if item.get("status") in ("ok", "absent"):
            paths = item.get("paths", ())
            return Reading(OK, tuple(map(str, paths)) if paths else (), pattern)
        return self._unread(item, pattern)

    def found(self, path: str, search: str = "") -> Reading[tuple[str, ...]]:
        """What a `Glob.search` found in a file; without naming it, what any of them did."""
        item = self._item("stats", path)
        if item.get("status") != "ok":
            return self._unread(item, path)
        hits: dict[str, list[str]] = item.get("found", {})
        wanted = [hits.get(search_key(search), [])] if search else hits.values()
        return Reading(Status.OK, tuple(str(text) for texts in wanted for text in texts), path)

    def compose_paths(self) -> tuple[str, ...]:
        """The compose files that the probe looked at; not those that it found named in others."""
        found = self.answer.get("compose")
        if not isinstance(found, dict):
            return ()
        return tuple(sorted(path for path in map(str, found) if "followed" not in self.compose(path)))

    def dockerfiles(self) -> tuple[str, ...]:
        """What the probe found where compose files have something built."""
        found = self.answer.get("compose")
        paths = map(str, found) if isinstance(found, dict) else ()
        return tuple(path for path in paths if self.compose(path).get("builds"))

    def compose(self, path: str) -> Mapping[str, Any]:
        """What is known of a compose file: its masked `text`, `sha256` and `others`, with the tag of how it was read; of a .env
        file `variables` in place of the text."""
        return self._item("compose", path)

    def section(self, path: str) -> Reading[bytes]:
        """The bytes of a file's ELF section that a `Glob.section` asked for; absent where it has none."""
        item = self._item("stats", path).get("section")
        if not isinstance(item, dict):
            return Reading(Status.FAILED, None, path, "not in the probe's answer")
        if item.get("status") != "ok":
            return self._unread(item, path)
        try:
            return Reading(Status.OK, _bytes(str(item["data"])), path)
        except (KeyError, binascii.Error):
            return Reading(Status.FAILED, None, path, "no content in the probe's answer")

    def program(self, name: str) -> Reading[FileMeta]:
        """A program in root's PATH; its `path` is where it was found."""
        item = self._item("programs", name)
        if item.get("status") != "ok":
            return self._unread(item, name)
        return Reading(Status.OK, _meta(str(item.get("path")), item), name)

    def command(self, name: str) -> Reading[Output]:
        """A command's output whatever its exit status; absent where it is not installed."""
        item = self._item("commands", name)
        if item.get("status") != "ok":
            return self._unread(item, name)
        return Reading(
            Status.OK,
            Output(sys.intern(str(item.get("out", ""))), str(item.get("err", "")), int(item.get("rc", -1))),
            name,
        )

    def succeeded(self, name: str) -> Reading[Output]:
        """A command's output; a non-zero exit status reads `failed` with the last line it printed."""
        found = self.command(name)
        if found.value is not None and found.value.rc != 0:
            lines = (found.value.err.strip() or found.value.out.strip()).splitlines()
            rc = found.value.rc
            how = (
                f"exit status {rc}" if rc > 0 else f"ended by signal {-rc}"
            )  # the latter is no word of its own
            return Reading(Status.FAILED, None, name, f"{how}: {lines[-1] if lines else ''}")
        return found

    def daemons(self, program: str) -> Reading[tuple[Process, ...]]:
        """Those processes of a program that are the host's own: root's, and in no container."""
        return self.processes(program).map(
            lambda found: tuple(each for each in found if each.uid == 0 and not each.inner)
        )

    def impostors(self) -> Reading[tuple[Impostor, ...]]:
        """Processes that are not what they call themselves."""
        item = self.answer.get("processes")
        if not isinstance(item, dict) or _status(item) is not Status.OK:
            return self._unread(item if isinstance(item, dict) else {}, "/proc")
        return Reading(
            Status.OK,
            tuple(
                Impostor(
                    pid=int(entry["pid"]),
                    name=str(entry["name"]),
                    uids=tuple(int(uid) for uid in entry["uids"]),
                    exe=entry.get("exe"),
                    why=str(entry["why"]),
                    container=entry.get("container"),
                )
                for entry in item.get("impostors", ())
            ),
            "/proc",
        )

    def processes(self, program: str) -> Reading[tuple[Process, ...]]:
        """Processes that are that program: users' and containers', too."""
        item = self.answer.get("processes")
        if not isinstance(item, dict) or _status(item) is not Status.OK:
            return self._unread(item if isinstance(item, dict) else {}, "/proc")
        return Reading(
            Status.OK,
            tuple(
                Process(
                    pid=int(entry["pid"]),
                    argv=tuple(entry["argv"]),
                    uid=int(entry["uid"]),
                    start=float(entry["start"]),
                    exe=entry.get("exe"),
                    env=dict(entry.get("env", {})),
                    nested=bool(entry.get("nested")),
                    container=entry.get("container"),
                )
                for entry in item.get("processes", ())
                if entry["argv"][0].rpartition("/")[2] == program
            ),
            "/proc",
        )

    def unit(self, name: str) -> Reading[Mapping[str, str]]:
        """A systemd unit's properties; absent where the host has no systemd or no such unit."""
        item = self.answer.get("units")
        if not isinstance(item, dict) or _status(item) is not Status.OK:
            return self._unread(item if isinstance(item, dict) else {}, f"systemctl show {name}")
        found = item.get("units", {}).get(name)
        if not found:
            return Reading(Status.FAILED, None, f"systemctl show {name}", NOT_ASKED)
        if found.get("LoadState") == "not-found":
            return Reading(Status.ABSENT, None, f"systemctl show {name}", "no such unit")
        properties = {
            sys.intern(key): sys.intern(value) for key, value in found.items() if isinstance(value, str)
        }
        return Reading(Status.OK, properties, f"systemctl show {name}")

    def listing(self, path: str) -> Reading[Mapping[str, int | None]]:
        """The names in a directory, each with how many names it has in turn; None where it is no directory."""
        item = self._item("listings", path)
        if item.get("status") != "ok":
            return self._unread(item, path)
        return Reading(Status.OK, dict(item["names"]), path)

    @property
    def spaces(self) -> Mapping[str, int]:
        """Free bytes of local file systems, by mount point."""
        part = self.answer.get("spaces")
        items = part.items() if isinstance(part, dict) else ()
        return {path: int(item["free"]) for path, item in items if isinstance(item, dict) and "free" in item}

    @property
    def inside(self) -> Mapping[str, Snapshot]:
        """What was read inside of containers, by container id, each as an answer of its own."""
        part = self.answer.get("inside")
        items = part.items() if isinstance(part, dict) else ()
        return {str(name): Snapshot(item) for name, item in items if isinstance(item, dict)}

    def mountinfo(self) -> Reading[str]:
        """mountinfo of the container's process, in an answer of `inside`."""
        item = self.answer.get("mountinfo")
        return Snapshot({"files": {"mountinfo": item if isinstance(item, dict) else {}}}).text("mountinfo")

    @property
    def docker(self) -> Reading[Mapping[str, Any]]:
        item = self.answer.get("docker")
        if not isinstance(item, dict) or _status(item) is not Status.OK:
            return self._unread(item if isinstance(item, dict) else {}, "/run/docker.sock")
        return Reading(Status.OK, item, "/run/docker.sock")
