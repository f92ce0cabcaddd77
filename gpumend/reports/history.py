"""Since when a finding is there, and what is gone: what one look at a fleet's reports leaves for the next, as one small file."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from gpumend.reports.collected import ReportError, read_bytes, time_of
from gpumend.reports.fleet import SEVERITY, counted

FORMAT = 1
MOST = 256 << 20
KEPT = datetime.timedelta(days=30)  # how long it is told what is gone, and which host tells nothing more

Table = dict[str, dict[str, str]]  # by host: `fail GM304` -> when


class History:
    """seen: what is there, since when. gone: what was, and when it was first not. last: a host's last report."""

    def __init__(self, seen: Table, gone: Table, last: dict[str, str]) -> None:
        self.seen, self.gone, self.last = seen, gone, last

    @classmethod
    def read(cls, path: Path) -> History:
        """Empty where there is no file yet. Raises ReportError: what is there and no history is not written over."""
        try:
            raw = json.loads(read_bytes(path, MOST))
            if raw["gpumend_history"] != FORMAT:
                raise ReportError(f"{path}: a history of another gpumend")
            seen, gone, last = raw["seen"], raw["gone"], raw["last"]
            if not set(last) == set(seen) == set(gone):
                raise KeyError
            for told in (*seen.values(), *gone.values(), last):
                for since in told.values():
                    time_of(since)
            return cls(seen, gone, last)
        except FileNotFoundError:
            return cls({}, {}, {})
        except OSError as error:
            raise ReportError(f"{path}: {error.strerror}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ReportError(f"{path}: no history of gpumend's") from None

    def text(self) -> str:
        told = {"gpumend_history": FORMAT, "last": self.last, "seen": self.seen, "gone": self.gone}
        return json.dumps(told, indent=1, sort_keys=True) + "\n"

    def take(self, document: Mapping[str, Any], times: Mapping[str, datetime.datetime]) -> None:
        """What this document shows is the newest. times: when each host's report was made. Of a host that gave no answer
        nothing is gone: it is not known."""
        now = time_of(document["started"])
        for name, host in document["hosts"].items():
            if host["error"]:
                continue
            when = times[name].isoformat(timespec="seconds")
            was = self.seen.get(name, {})
            is_now = {f"{f['status']} {f['code']}" for f in host["findings"] if f["status"] in SEVERITY}
            gone = self.gone.setdefault(name, {})
            for key in set(was) - is_now:
                gone[key] = when
            for key in is_now:
                gone.pop(key, None)
            self.seen[name] = {key: was.get(key, when) for key in is_now}
            self.last[name] = when
        for name, told in self.gone.items():
            self.gone[name] = {key: since for key, since in told.items() if now - time_of(since) <= KEPT}
        for name in self.missing(document):
            if now - time_of(self.last[name]) > KEPT:
                del self.last[name], self.seen[name], self.gone[name]

    def missing(self, document: Mapping[str, Any]) -> list[str]:
        """Hosts that had a report once and are in this document no more."""
        return sorted(set(self.last) - set(document["hosts"]))

    def lines(self, document: Mapping[str, Any]) -> Iterator[str]:
        """By finding and day: on how many hosts it is since then, or gone since then."""
        rank = {status: number for number, status in enumerate(SEVERITY)}
        for word, table in (("first seen", self.seen), ("gone", self.gone)):
            found: dict[tuple[int, str, str], list[str]] = {}
            for name in document["hosts"]:
                for key, since in table.get(name, {}).items():
                    status = key.partition(" ")[0]
                    found.setdefault((rank.get(status, len(rank)), key, since[:10]), []).append(name)
            for (_, key, day), names in sorted(found.items()):
                yield f"{word} {day}  {key}  {counted(names)}"
        for name in self.missing(document):
            yield f"no report any more  {name}, the last of {self.last[name]}"
