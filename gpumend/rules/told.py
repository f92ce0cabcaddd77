"""What a report tells of hosts: of an audit or a mend what it has of each at a glance, of `gpumend facts` much more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.text.record import Record

KINDS = ("audit", "mend", "facts")


def mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


class Told(Record):
    """One host of a report. host: the report's own words; whole: they are all its facts."""

    name: str
    host: Mapping[str, Any]
    whole: bool
    source: str = ""

    @property
    def error(self) -> str:
        return str(self.host.get("error") or "")

    def at(self, *path: str) -> Any:
        """What stands below these keys, or None."""
        found: Any = self.host if self.whole else mapping(self.host.get("facts"))
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def hosts(document: Any, source: str = "it", name: str = "") -> Iterator[Told]:
    """The hosts of a report, or the one of this name. Raises ValueError where it is none, or has no such host."""
    kind = mapping(document).get("kind")
    if kind not in KINDS or not isinstance(document.get("hosts"), Mapping):
        raise ValueError(f"{source} is no report of `gpumend audit`, `mend` or `facts`")
    found = {key: mapping(value) for key, value in document["hosts"].items()}
    if name and name not in found:
        raise ValueError(f"{source} has no host {name!r}; it has: {', '.join(found) or 'none'}")
    if not found:
        raise ValueError(f"{source} has no host")
    for key, host in found.items():
        if name in ("", key):
            yield Told(key, host, kind == "facts", source)
