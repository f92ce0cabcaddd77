"""Many hosts as few lines: what is alike on several is one group, whatever format shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumend.text.ranges import compress, natural

Document = Mapping[str, Any]
SEVERITY = ("fail", "warn", "unknown", "note", "waived")
EXITS = (5, 4, 1, 3, 0)  # the worst first


def one_line(text: str) -> str:
    """No line break of a host's makes a line of a report's."""
    return " ".join(text.split())


def hosts_text(names: Iterable[str], room: int | None = None) -> str:
    """`gpu[01-30], login1`; where that is longer than `room`, as many names as fit, and how many more there are."""
    found = sorted(set(names), key=lambda name: (natural(name), name))

    def of(count: int) -> str:
        text = ", ".join(map(one_line, compress(found[:count])))
        return text if count == len(found) else f"{text} and {len(found) - count} more"

    if room is None or len(of(len(found))) <= room:
        return of(len(found))
    low, high = 1, len(found) - 1  # the most that fit; one is told in any case
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if len(of(middle)) <= room else (low, middle - 1)
    return of(low)


def counted(names: Iterable[str]) -> str:
    """`30 hosts: gpu[01-30]`, and one host by its name alone."""
    found = sorted(set(names))
    return one_line(found[0]) if len(found) == 1 else f"{len(found)} hosts: {hosts_text(found)}"


def in_order(document: Document) -> list[tuple[str, dict[str, Any]]]:
    """The hosts, the worst first, then by name."""
    return sorted(
        document["hosts"].items(), key=lambda item: (EXITS.index(item[1]["exit"]), natural(item[0]), item[0])
    )


@dataclass
class Group:
    """One finding over hosts, or several unknown ones of one cause. summaries: each wording, with how often it occurs."""

    status: str
    codes: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    summaries: Counter[str] = field(default_factory=Counter)
    mends: Counter[str] = field(default_factory=Counter)
    findings: list[dict[str, Any]] = field(default_factory=list)

    def add(self, host: str, finding: dict[str, Any], mend: str) -> None:
        self.codes = sorted({*self.codes, finding["code"]})
        if self.hosts[-1:] != [host]:  # a host's findings come together
            self.hosts.append(host)
        self.summaries[one_line(finding["summary"])] += 1
        self.mends[mend] += 1
        self.findings.append(finding)

    @property
    def mend(self) -> str:
        """What a mend does about it, in few words; of several answers each, with its count."""
        said = [(text, count) for text, count in self.mends.most_common() if text]
        if len(said) == 1 and len(self.mends) == 1:
            return said[0][0]
        return "; ".join(f"{text} (on {count})" for text, count in said)


def service_name(unit: str) -> str:
    return unit.removesuffix(".service")


def mend_of(host: Mapping[str, Any], finding: Mapping[str, Any]) -> str:
    """What a mend would do about a finding on its host: from the plan, so that it cannot say anything else."""
    if not finding["mends"]:
        if finding["status"] not in ("fail", "warn"):
            return ""
        return "mend holds it back" if finding["refused"] else "by hand"
    why = host["blocked"].get(finding["mends"])
    if why:
        return "mend cannot"
    for transaction in host["plan"]:
        if transaction["component"] == finding["mends"] and finding["code"] in transaction["codes"]:
            service = transaction["service"]
            if not service:
                return "mend puts it right"
            waits = ", which waits" if service["waits"] else ""
            return f"mend {service['action']}s {service_name(service['unit'])}{waits}"
    return ""


def cause(finding: Mapping[str, Any]) -> tuple[str, ...]:
    """What could not be read, for one that is unknown: findings of one cause are one thing to look at."""
    first = finding["evidence"][0] if finding["evidence"] else None
    return (first["source"], first["text"]) if first else (finding["summary"],)


def causes(findings: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """One host's findings, in order; the unknown ones of one cause together at the first one's place."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for number, finding in enumerate(findings):
        key = cause(finding) if finding["status"] == "unknown" else (number,)
        found.setdefault(key, []).append(finding)
    yield from found.values()


def _severity(status: str) -> int:
    return SEVERITY.index(status) if status in SEVERITY else len(SEVERITY)


def groups(document: Document) -> list[Group]:
    """All findings, equal codes of equal status together, unknown ones of one cause together; the gravest first."""
    by_code: dict[tuple[Any, ...], Group] = {}
    by_cause: dict[tuple[Any, ...], list[tuple[str, dict[str, Any]]]] = {}
    for name, host in in_order(document):
        for finding in host["findings"]:
            if finding["status"] == "unknown":
                by_cause.setdefault(cause(finding), []).append((name, finding))
                continue
            key = (finding["status"], finding["code"])
            by_code.setdefault(key, Group(finding["status"])).add(name, finding, mend_of(host, finding))
    found = list(by_code.values())
    for items in by_cause.values():
        group = Group("unknown")
        for name, finding in items:
            group.add(name, finding, "")
        found.append(group)
    return sorted(
        found, key=lambda item: (_severity(item.status), -len(item.hosts), item.codes, sorted(item.hosts))
    )


def said(group: Group) -> str:
    """What is wrong, in one line: where hosts differ in words, the most frequent ones."""
    if group.status == "unknown" and len(group.codes) > 1:
        first = group.findings[0]["evidence"][:1]
        source = one_line(first[0]["source"]) if first else ""
        text = one_line(first[0]["text"]) if first else ""
        return f"not known: {source}: {text}" if source else next(iter(group.summaries))
    [(text, _)] = group.summaries.most_common(1)
    others = len(group.summaries) - 1
    return text + (f" (and {others} other wording{'s' * (others != 1)})" if others else "")


def errors(document: Document) -> dict[str, list[str]]:
    """Why hosts gave no answer: each error with its hosts."""
    found: dict[str, list[str]] = {}
    for name, host in in_order(document):
        if host["error"]:
            found.setdefault(one_line(host["error"]), []).append(name)
    return found


def states(document: Document) -> dict[str, list[str]]:
    """Hosts by state, the worst first."""
    found: dict[str, list[str]] = {}
    for name, host in in_order(document):
        found.setdefault(host["status"], []).append(name)
    return found


def totals(document: Document) -> str:
    """`40 hosts: 22 as wanted, 18 drift; findings: 12 fail, 3 unknown`."""
    count, what = len(document["hosts"]), "file" if document.get("files") else "host"
    hosts = ", ".join(f"{len(names)} {word}" for word, names in states(document).items())
    statuses = Counter(found["status"] for host in document["hosts"].values() for found in host["findings"])
    found = ", ".join(f"{statuses[key]} {key}" for key in SEVERITY if statuses[key])
    return f"{count} {what}{'s' * (count != 1)}: {hosts or 'none'}; findings: {found or 'none'}"
