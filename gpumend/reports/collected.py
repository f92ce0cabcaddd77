"""Many reports, which agents wrote and somebody brought together, as one document: read one by one, of each what a fleet's report
shows. What a host wrote is believed of that host alone, and nothing of it is believed to be well-formed."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumend.reports.document import VERSION, WORDS, Exit, tool_version, worst
from gpumend.reports.fleet import SEVERITY
from gpumend.run.record import new_id
from gpumend.text.mask import mask, mask_all, printable

MOST = 4 << 20  # bytes of one host's report
MOST_NAMED = 1 << 30  # of a file that the caller named: a whole fleet's
MOST_FINDINGS = 1000  # of one host
MOST_TEXT = (2000, 100_000)  # characters; where all of a report is kept
AHEAD = datetime.timedelta(minutes=10)  # what clocks may differ
CODE = re.compile(r"GM[0-9]{3}\Z")
FOREIGN = 1 << 30
TEXTS = ("summary", "refused")
WHOLE = ("cause", "remedy", "title", "source", "page", "risk")


class ReportError(ValueError):
    """A file is no report that counts; the text says why."""


@dataclass
class Claim:
    """A host as one file tells of it. place: how far in, from the directory that was given, the first directory is, or the file,
    that has the host's name; 0: the caller named the file; FOREIGN: none has."""

    host: dict[str, Any]
    started: datetime.datetime
    path: str
    place: int


@dataclass
class Collected:
    """claims: by host, the one that counts. unread: files that are no report, and why. passed: reports of hosts of which a
    newer one counts. foreign: files that tell of a host of which another file, or one further out, has the name: what lies in a
    host's directory is named by that host."""

    claims: dict[str, Claim] = field(default_factory=dict)
    unread: list[tuple[str, str]] = field(default_factory=list)
    passed: int = 0
    foreign: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, claim: Claim) -> None:
        there = self.claims.get(name)
        if there is None:
            self.claims[name] = claim
            return
        first, second = sorted((there, claim), key=lambda item: (-item.place, item.started, item.path))
        self.claims[name] = second
        if second.place < first.place and (first.place == FOREIGN or first.started > second.started):
            self.foreign.append((first.path, name))
        else:
            self.passed += 1

    def take(self, more: Collected) -> None:
        """What others were collected counts here, too."""
        self.unread += more.unread
        self.foreign += more.foreign
        self.passed += more.passed
        for name, claim in more.claims.items():
            self.add(name, claim)


class Shortener:
    """Makes equal values one value: what is alike on thousands of hosts is kept once, and masked once."""

    def __init__(self, whole: bool = False) -> None:
        self.most = MOST_TEXT[whole]
        self.texts: dict[str, str] = {}
        self.values: dict[bytes, Any] = {}

    def text(self, raw: Any) -> str:
        if not isinstance(raw, str):
            raise ReportError("a text is not one")
        raw = raw[: self.most]
        found = self.texts.get(raw)
        if found is None:
            found = mask(raw)
            found = self.texts[raw] = raw if found == raw else found
        return found

    def value(self, made: Any) -> Any:
        key = hashlib.blake2b(repr(made).encode("utf-8", "replace"), digest_size=16).digest()
        return self.values.setdefault(key, made)


def time_of(raw: Any) -> datetime.datetime:
    """Raises ReportError."""
    try:
        found = datetime.datetime.fromisoformat(raw)
    except (TypeError, ValueError):
        raise ReportError("it does not say when it was made") from None
    return found if found.tzinfo else found.replace(tzinfo=datetime.timezone.utc)


def _is(raw: Any, kind: type) -> Any:
    if not isinstance(raw, kind):
        raise ReportError(f"a {kind.__name__} is needed and something else is there")
    return raw


def _finding(raw: Any, short: Shortener, whole: bool) -> dict[str, Any]:
    code = _is(raw, dict)["code"]
    if not isinstance(code, str) or not CODE.match(code) or raw["status"] not in (*SEVERITY, "ok", "skipped"):
        raise ReportError("a finding has no code and status of ours")
    made = {"code": code, "status": raw["status"], **{key: short.text(raw[key]) for key in TEXTS}}
    made["mends"] = short.text(raw["mends"]) if raw["mends"] is not None else None
    evidence = _is(raw["evidence"], list)
    made["evidence"] = [
        {"source": short.text(_is(item, dict)["source"]), "text": short.text(item["text"])}
        for item in (evidence if whole else evidence[:1])
    ]
    if whole:
        made.update({key: short.text(raw[key]) for key in WHOLE})
        made["symptoms"] = [short.text(item) for item in _is(raw["symptoms"], list)]
    return dict(made)


def _planned(raw: Any, short: Shortener, whole: bool) -> dict[str, Any]:
    service = _is(raw, dict)["service"]
    if service is not None:
        service = {key: short.text(_is(service, dict)[key]) for key in ("unit", "action", "waits")}
    files = [
        {key: short.text(_is(item, dict)[key]) for key in ("path", "do", "diff")}
        for item in (_is(raw["files"], list) if whole else ())
    ]
    codes = [short.text(code) for code in _is(raw["codes"], list)]
    return {"component": short.text(raw["component"]), "codes": codes, "service": service, "files": files}


def _fact(raw: Any, short: Shortener) -> Any:
    if isinstance(raw, list):
        return [
            short.text(item) if isinstance(item, str) else mask_all(item, top=False) for item in raw[:256]
        ]
    return None if raw is None else short.text(raw)


def host_of(raw: Any, short: Shortener, whole: bool) -> dict[str, Any]:
    """A host of a report: what a fleet's report shows of it, or all. Raises ReportError, KeyError or TypeError."""
    if _is(raw, dict)["exit"] not in (0, 1, 3, 4, 5) or isinstance(raw["exit"], bool):
        raise ReportError("a host has no exit status of ours")
    findings = _is(raw["findings"], list)
    if len(findings) > MOST_FINDINGS:
        raise ReportError(f"{len(findings)} findings of one host")
    wanted = raw["wanted"]
    reboot = [short.text(why) for why in _is(raw.get("reboot", []), list)[:8]]
    return {
        **({"reboot": reboot} if reboot else {}),
        "status": short.text(raw["status"]),
        "exit": raw["exit"],
        "error": short.text(raw["error"]),
        "wanted": short.text(wanted) if wanted is not None else None,
        "facts": short.value(
            {short.text(key): _fact(item, short) for key, item in _is(raw["facts"], dict).items()}
        ),
        "findings": [short.value(_finding(item, short, whole)) for item in findings],
        "passed": [],
        "skipped": [],
        "plan": [short.value(_planned(item, short, whole)) for item in _is(raw["plan"], list)],
        "blocked": {short.text(key): short.text(why) for key, why in _is(raw["blocked"], dict).items()},
    }


def read_bytes(path: Path, most: int) -> bytes:
    """A regular file's bytes; what is none is not opened for long, and no link is followed. Raises ReportError or OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise ReportError("not a file")
        data = file.read(most + 1)
    if len(data) > most:
        raise ReportError(f"more than {most >> 20} MiB")
    return data


def documents(data: bytes) -> Iterator[dict[str, Any]]:
    """The reports in a file: one, or one a line. Raises ReportError."""
    texts: Iterable[bytes] = (data,)
    if not data.strip():
        raise ReportError("empty")
    first, _, rest = data.lstrip().partition(b"\n")
    if rest.strip() and first.rstrip().endswith(b"}") and first.startswith(b"{"):
        texts = (line for line in data.splitlines() if line.strip())
    for text in texts:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            raise ReportError("no JSON, or not all of it") from None
        if not isinstance(found, dict) or "gpumend" not in found:
            raise ReportError("no report of gpumend's")
        if found["gpumend"] != VERSION:
            raise ReportError(
                f"format {str(found['gpumend'])[:20]} of the report; this gpumend reads {VERSION}"
            )
        if found.get("kind") not in ("audit", "mend"):
            raise ReportError(f"a report of {str(found.get('kind'))[:20]}, not of an audit")
        yield found


def paths_below(source: Path) -> Iterator[tuple[Path, bool]]:
    """The files to be read, and whether the caller named each: of a directory every *.json and *.jsonl below it, but what is
    hidden (rsync's and our own unfinished files are)."""
    if not source.is_dir():
        yield source, True
        return
    for directory, directories, names in os.walk(source):
        directories[:] = sorted(name for name in directories if not name.startswith("."))
        for name in sorted(names):
            if name.endswith((".json", ".jsonl")) and not name.startswith("."):
                yield Path(directory, name), False


def collect(sources: Iterable[Path], now: datetime.datetime, whole: bool = False) -> Collected:
    """All reports of these files and directories. Memory grows with what differs between hosts, not with their number of bytes."""
    found, short = Collected(), Shortener(whole)
    for source in sources:
        for path, named in paths_below(source):
            try:
                names = [*path.relative_to(source).parts[:-1], path.stem]
                for told in documents(read_bytes(path, MOST_NAMED if named else MOST)):
                    started = time_of(told.get("started"))
                    hosts = _is(told.get("hosts"), dict)
                    for raw_name, raw in hosts.items():
                        name = printable(raw_name)[:255]
                        made = host_of(raw, short, whole)
                        if started > now + AHEAD:
                            made = unknown(f"its report is of the future ({started:%Y-%m-%d %H:%M} UTC)")
                            started = datetime.datetime.min.replace(tzinfo=datetime.timezone.utc)
                        place = names.index(raw_name) + 1 if raw_name in names else FOREIGN
                        found.add(name, Claim(made, started, str(path), 0 if named else place))
            except OSError as error:
                found.unread.append((str(path), error.strerror or "cannot be read"))
            except ReportError as error:
                found.unread.append((str(path), str(error)))
            except (KeyError, TypeError, AttributeError):
                found.unread.append((str(path), "no report of gpumend's, or not all of it"))
    return found


def unknown(why: str) -> dict[str, Any]:
    """A host of which nothing is known now."""
    return {
        "status": "no answer", "exit": int(Exit.UNREAD), "error": why, "wanted": None, "facts": {}, "findings": [],
        "passed": [], "skipped": [], "plan": [], "blocked": {},
    }  # fmt: skip


def document(found: Collected, now: datetime.datetime, oldest: datetime.timedelta) -> dict[str, Any]:
    """The newest of each host as one audit's document. A host whose report is older than that gave no answer."""
    hosts = {}
    for name, claim in sorted(found.claims.items()):
        aged = not claim.host["error"] and now - claim.started > oldest
        hosts[name] = unknown(f"no report since {claim.started:%Y-%m-%d %H:%M} UTC") if aged else claim.host
    unread = [Exit.UNREAD] if found.unread or found.foreign else []
    return envelope(hosts, now, unread)


def envelope(hosts: Mapping[str, Any], now: datetime.datetime, more: Iterable[Exit] = ()) -> dict[str, Any]:
    """An audit's document around hosts that are masked already."""
    return {
        "gpumend": VERSION, "version": tool_version(), "run": new_id(), "kind": "audit",
        "started": now.isoformat(timespec="seconds"), "seconds": 0.0,
        "exit": int(worst((*(Exit(host["exit"]) for host in hosts.values()), *more))), "hosts": hosts,
    }  # fmt: skip


def whole_hosts(found: Collected, shown: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each host of a document with all that its report says, read once more; as it is shown where that does not count."""
    for name, host in shown["hosts"].items():
        claim = found.claims[name]
        if claim.host is host:
            with_all = _again(claim, name)
            host = with_all if with_all is not None else unknown("its report is another than a moment ago")
        yield name, host


def _codes(raw: Any) -> list[str]:
    if not all(isinstance(code, str) and CODE.match(code) for code in _is(raw, list)):
        raise ReportError("a code is none of ours")
    return list(raw)


def _again(claim: Claim, name: str) -> dict[str, Any] | None:
    try:
        for told in documents(read_bytes(Path(claim.path), MOST_NAMED)):
            for raw_name, raw in told["hosts"].items():
                if printable(raw_name)[:255] == name and time_of(told["started"]) == claim.started:
                    codes = {key: _codes(raw[key]) for key in ("passed", "skipped")}
                    rest = {key: item for key, item in raw.items() if key not in codes}
                    return {**mask_all(rest, top=False), **codes}
    except (OSError, ReportError, KeyError, AttributeError, TypeError):
        pass
    return None


def parts(shown: Mapping[str, Any], hosts: Iterable[tuple[str, dict[str, Any]]]) -> Iterator[bytes]:
    """A document as JSON, host by host: never all of it in memory."""
    head = json.dumps({key: value for key, value in shown.items() if key != "hosts"})
    yield f'{head[:-1]}, "hosts": {{'.encode()
    for number, (name, host) in enumerate(hosts):
        yield f"{',' if number else ''}\n{json.dumps(name)}: {json.dumps(host)}".encode()
    yield b"\n}}\n"


def status_word(status: int) -> str:
    return WORDS[Exit(status)]
