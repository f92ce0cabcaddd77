"""The report for people: a table of hosts and what is wrong on each; of a fleet, what is alike on many as one group."""

from __future__ import annotations

import datetime
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from gpumend.reports import fleet, parity_text
from gpumend.reports.fleet import hosts_text, one_line
from gpumend.rules import data

WIDTH = 110  # where there is no terminal to ask
NARROW, WIDE = 60, 160  # columns; below the first nothing fits, beyond the second nobody finds the next line
FLEET = 5  # hosts; from here on they are shown as groups, unless the details are asked for
COLORS = {
    "fail": "red",
    "warn": "yellow",
    "unknown": "magenta",
    "note": "cyan",
    "waived": "blue",
    "ok": "green",
}
STATES = {0: "green", 1: "magenta", 3: "yellow", 4: "red", 5: "red"}
FACTS = ("driver", "toolkit", "mode", "docker")
COLUMNS = ("HOST", "STATE", "DRIVER", "TOOLKIT", "MODE", "DOCKER", "FINDINGS")
DROPPED = ("MODE", "DOCKER", "TOOLKIT", "DRIVER")  # on a narrow terminal, in this order
GOOD = ("changed", "unchanged", "pending")


def columns() -> int:
    """How wide the report may be: COLUMNS, or what the terminal says, within reason."""
    return min(max(shutil.get_terminal_size((WIDTH, 24)).columns, NARROW), WIDE)


def colored(environment: Mapping[str, str] | None = None) -> bool | None:
    """Whether colours are shown: NO_COLOR and FORCE_COLOR (no-color.org, force-color.org); None: on a terminal."""
    found = os.environ if environment is None else environment
    if found.get("NO_COLOR"):
        return False
    if found.get("FORCE_COLOR"):
        return True
    return False if found.get("TERM") == "dumb" else None


class Page:
    """Lines of one width."""

    def __init__(self, width: int) -> None:
        self.width = width

    def wrap(self, text: str, indent: str, first: str | None = None) -> str:
        """The text in lines; `first` begins the first one."""
        return textwrap.fill(
            one_line(text),
            self.width,
            initial_indent=indent if first is None else first,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,  # names of packages and options stay whole
        )

    def who(self, names: Iterable[str], before: int, after: int = 0) -> str:
        """`30 hosts: gpu[01-30]`, cut to what is left of a line."""
        found = sorted(set(names))
        room = max(self.width - before - after, 30)
        if len(found) == 1:
            return one_line(found[0])
        head = f"{len(found)} hosts: "
        return head + hosts_text(found, room - len(head))

    def stopped(self, found: Mapping[str, Any] | None) -> list[str]:
        """What a run that was stopped has left as it was."""
        if not found:
            return []
        left = f": not done with {self.who(found['left'], 40)}" if found["left"] else ""
        return ["", self.wrap(f"Stopped ({found['why']}){left}", "  ", "")]

    # -- hosts one by one

    def table(self, hosts: list[tuple[str, dict[str, Any]]], files: bool = False) -> Iterator[str]:
        rows, states = [["FILE", *COLUMNS[1:]] if files else list(COLUMNS)], [-1]
        for name, host in hosts:
            facts = host["facts"]
            codes = sorted(
                {f["code"] for f in host["findings"] if f["status"] in ("fail", "warn", "unknown")}
            )
            cells = [one_line(facts.get(key) or "") or "-" for key in FACTS]
            rows.append([one_line(name), host["status"], *cells, " ".join(codes) or "-"])
            states.append(host["exit"])
        shown = list(range(len(COLUMNS)))
        widths = [max(len(row[number]) for row in rows) for number in shown]
        for name in DROPPED:
            if (
                not files and sum(widths[number] + 2 for number in shown[:-1]) + 17 <= self.width
            ):  # three codes
                break
            shown.remove(COLUMNS.index(name))
        left = sum(widths[number] + 2 for number in shown[:-1])
        for row, state in zip(rows, states):
            codes_lines = textwrap.wrap(row[-1], max(self.width - left, 15))
            cells = [row[number].ljust(widths[number]) for number in shown[:-1]]
            if state >= 0:
                cells[1] = click.style(cells[1], fg=STATES.get(state))
            yield "  ".join((*cells, codes_lines[0])).rstrip()
            yield from (" " * left + line for line in codes_lines[1:])

    def findings(self, findings: Iterable[dict[str, Any]]) -> Iterator[str]:
        for alike in fleet.causes(findings):
            if len(alike) == 1:
                yield from self.finding(alike[0])
                continue
            item = alike[0]["evidence"][0] if alike[0]["evidence"] else None
            cause = f"{item['source']}: {item['text']}" if item else alike[0]["summary"]
            yield self.headline("unknown", f"{len(alike)} findings", f"not known, for one cause: {cause}")
            yield self.wrap(", ".join(found["code"] for found in alike), "             ", "           - ")
            if alike[0]["remedy"]:
                yield self.wrap(alike[0]["remedy"], "                 ", "           do:   ")

    def headline(self, status: str, what: str, text: str) -> str:
        label = click.style(f"{status:<7}", fg=COLORS.get(status), bold=True)
        first, *rest = self.wrap(text, "           ", " " * (12 + len(what))).split("\n")
        return "\n".join((f"  {label} {click.style(what, bold=True)}  {first.lstrip()}", *rest))

    def finding(self, finding: dict[str, Any]) -> Iterator[str]:
        yield self.headline(finding["status"], finding["code"], finding["summary"])
        for item in finding["evidence"][:6]:
            yield self.wrap(f"{item['source']}: {item['text']}", "             ", "           - ")
        if len(finding["evidence"]) > 6:
            yield f"           - and {len(finding['evidence']) - 6} more"
        if finding["cause"]:
            yield self.wrap(finding["cause"], "                 ", "           why:  ")
        if finding["remedy"]:
            text, *lines = finding["remedy"].split("\n")
            yield self.wrap(text, "                 ", "           do:   ")
            yield from (f"             {line}" for line in lines)  # to be copied: not wrapped
        if finding["refused"]:
            yield self.wrap(finding["refused"], "                 ", "           held: ")

    def plan(self, host: dict[str, Any]) -> Iterator[str]:
        for transaction in host["plan"]:
            yield self.wrap(planned(transaction), "                ", "  would change  ")
            service = transaction["service"]
            if service and service["waits"]:
                yield self.wrap(
                    f"the {service['action']} waits: {service['waits']}",
                    "                ",
                    "                ",
                )
            for file in transaction["files"]:
                yield from diff_lines(file["diff"])

    def blocked(self, host: dict[str, Any]) -> Iterator[str]:
        """Why mend leaves a component alone: in every report, so that no mend does nothing without a word."""
        for component, why in host["blocked"].items():
            yield self.wrap(f"{component}: {why}", "                ", "  left alone    ")

    def changes(self, host: dict[str, Any], diffs: bool) -> Iterator[str]:
        for change in host["changes"]:
            good = change["status"] in GOOD
            label = click.style(f"{change['status']:<9}", fg="green" if good else "red", bold=True)
            rest = self.wrap(done(change), "            ", " " * 12).lstrip()
            yield f"  {label} {rest}"
            for file in change["files"] if diffs else ():
                yield from diff_lines(file["diff"])
            if change["detail"]:
                word = "the restart waits" if change["status"] == "pending" else "why"
                yield self.wrap(f"{word}: {change['detail']}", "            ", "            ")
            for name in change["not_restarted"]:
                yield f"            container {one_line(name)} did not come back"
        if host.get("rebooted"):
            told = f"{host['rebooted']['status']}: {host['rebooted']['detail']}"
            yield self.wrap(told, "            ", "  reboot    ")
        if host.get("after"):
            yield self.wrap(host["after"], "            ", "  after     ")
        if host["proof"]:
            proof = f"{host['proof']['status']}: {host['proof']['detail']}"
            yield self.wrap(proof, "            ", "  proof     ")

    def body(self, host: dict[str, Any], mended: bool, diffs: bool) -> str:
        rows: list[str] = []
        if host["error"]:
            rows.append(self.wrap(host["error"], "  ", "  "))
        if mended:
            rows.extend(self.changes(host, diffs))
        rows.extend(self.findings(host["findings"]))
        if not mended or host["plan"]:
            rows.extend(self.plan(host))
        rows.extend(self.blocked(host))
        if host.get("reboot"):
            rows.append(self.wrap("; ".join(host["reboot"]), "            ", "  reboot    required: "))
        return "\n".join(rows)

    def bodies(
        self, hosts: list[tuple[str, dict[str, Any]]], mended: bool, diffs: bool, whole: bool
    ) -> Iterator[str]:
        """Each host's findings, plan and changes; hosts of which the same is said, once."""
        alike: dict[str, list[str]] = {}
        for name, host in hosts:
            alike.setdefault(self.body(host, mended, diffs), []).append(name)
        for body, names in alike.items():
            if body:
                shown = hosts_text(names) if whole else hosts_text(names, 2 * self.width)
                yield from ("", click.style(shown, bold=True), body)

    # -- a fleet

    def overview(self, document: Mapping[str, Any]) -> Iterator[str]:
        """How many hosts are in which state, and what they run where they differ."""
        exits = {host["status"]: host["exit"] for host in document["hosts"].values()}
        found = fleet.states(document)
        width = max(map(len, found), default=0)
        for word, names in found.items():
            label = click.style(word.ljust(width), fg=STATES.get(exits[word]), bold=True)
            count = f"{len(names):>5}"
            if not exits[word]:  # healthy hosts are a count
                yield f"{label}  {count}"
                continue
            yield f"{label}  {count}  {hosts_text(names, max(self.width - width - 9, 20))}"
        yield ""
        for error, names in fleet.errors(document).items():
            yield self.wrap(f"{self.who(names, 12)}: {error}", "            ", "no answer   ")
        alike = []
        for key in FACTS:
            values: dict[str, list[str]] = {}
            for name, host in document["hosts"].items():
                if host["facts"].get(key):
                    values.setdefault(one_line(host["facts"][key]), []).append(name)
            if len(values) == 1:
                alike.append(f"{key} {next(iter(values))}")
            elif values:
                yield self.versions(key, values)
        if alike:
            yield self.wrap(", ".join(alike), " " * 12, "all alike   ")

    def versions(self, key: str, values: dict[str, list[str]]) -> str:
        """`driver  580.95.05 on 38, 570.133.20 on gpu[07-08]`, the most frequent first."""
        parts = []
        ranked = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
        for number, (value, names) in enumerate(ranked):
            if number == 4:
                parts.append(
                    f"{len(ranked) - number} more on {sum(len(item[1]) for item in ranked[number:])}"
                )
                break
            short = hosts_text(names)
            on = short if number and len(short) <= 24 else f"{len(names)}"
            parts.append(f"{value} on {on}")
        return self.wrap(", ".join(parts), " " * 12, f"{key:<12}")

    def grouped(self, document: Mapping[str, Any]) -> Iterator[str]:
        """Findings by code over hosts, two lines each."""
        for group in fleet.groups(document):
            what = group.codes[0] if len(group.codes) == 1 else f"{len(group.codes)} findings"
            after = f"; {group.mend}" if group.mend else ""
            label = click.style(f"{group.status:<7}", fg=COLORS.get(group.status), bold=True)
            who = self.who(group.hosts, 10 + len(what), len(after))
            head = self.wrap(f"{who}{after}", "        ", " " * (10 + len(what))).lstrip()
            yield f"{label} {click.style(what, bold=True)}, {head}"
            yield self.wrap(fleet.said(group), "        ")
            if len(group.codes) > 1:
                yield self.wrap(", ".join(group.codes), "        ")

    def fleet_plan(self, document: Mapping[str, Any]) -> Iterator[str]:
        """What would be changed, by component over hosts."""
        found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {}
        for name, host in fleet.in_order(document):
            for transaction in host["plan"]:
                key = (transaction["component"], then(transaction))
                found.setdefault(key, []).append((name, transaction))
        for (component, after), items in sorted(found.items()):
            names = [name for name, _ in items]
            head = f"would change {component}, {self.who(names, 16 + len(component), len(after))}{after}"
            yield self.wrap(head, "        ", "")
            waits = Counter(one_line(t["service"]["waits"]) for _, t in items if t["service"])
            waits.pop("", None)
            for why, count in waits.most_common(1):
                more = f" (on {count}; others differ)" if len(waits) > 1 else ""
                yield self.wrap(f"the restart waits: {why}{more}", "        ")
        yield from self.fleet_blocked(document)

    def fleet_blocked(self, document: Mapping[str, Any]) -> Iterator[str]:
        found: dict[tuple[str, str], list[str]] = {}
        for name, host in fleet.in_order(document):
            for component, why in host["blocked"].items():
                found.setdefault((component, one_line(why)), []).append(name)
        for (component, why), names in sorted(found.items()):
            yield self.wrap(f"{component}, {self.who(names, 30)}: {why}", "        ", "left alone   ")

    def fleet_changes(self, document: Mapping[str, Any]) -> Iterator[str]:
        """What was changed, by component and how it ended over hosts."""
        found: dict[tuple[bool, str, str, str], list[tuple[str, str]]] = {}
        for name, host in fleet.in_order(document):
            ended = [(c["status"], f"{c['component']}{notified(c)}", c["detail"]) for c in host["changes"]]
            if host.get("rebooted"):
                ended.append((host["rebooted"]["status"], "reboot", host["rebooted"]["detail"]))
            if host["proof"]:
                ended.append((host["proof"]["status"], "proof in a container", host["proof"]["detail"]))
            for status, what, detail in ended:
                key = (status in GOOD, status, what, "")
                found.setdefault(key, []).append((name, one_line(detail)))
        for (good, status, what, _), items in sorted(found.items()):
            names = [name for name, _ in items]
            label = click.style(f"{status:<9}", fg="green" if good else "red", bold=True)
            head = f"{what}, {self.who(names, 12 + len(what))}"
            yield f"{label} {self.wrap(head, '        ', ' ' * 10).lstrip()}"
            details = Counter(detail for _, detail in items if detail)
            for detail, count in details.most_common(1):
                more = f" (on {count}; others differ)" if len(details) > 1 else ""
                yield self.wrap(f"{detail}{more}", "        ")
        for name, host in fleet.in_order(document):
            if host.get("after"):
                yield self.wrap(f"{one_line(name)}: {host['after']}", "        ", "")
            missing = [one_line(item) for change in host["changes"] for item in change["not_restarted"]]
            if missing:
                yield self.wrap(f"{one_line(name)}: did not come back: {', '.join(missing)}", "        ", "")


def notified(change: Mapping[str, Any]) -> str:
    """` (restart docker.service)`, where the service was told."""
    told = change["notified"] and change["service"]
    return f" ({change['notified']} {change['service']['unit']})" if told else ""


def then(transaction: Mapping[str, Any]) -> str:
    service = transaction["service"]
    return f", then {service['action']} {service['unit']}" if service else ", nothing is restarted"


def planned(transaction: Mapping[str, Any]) -> str:
    """A transaction to come, in words: one without a file only tells a service."""
    codes = ", ".join(transaction["codes"])
    if not transaction["files"] and transaction["service"]:
        service = transaction["service"]
        return f"{transaction['component']} ({codes}): {service['action']} {service['unit']}, no file changes"
    return f"{transaction['component']} ({codes}){then(transaction)}"


def done(change: Mapping[str, Any]) -> str:
    """A transaction that was carried out, in words."""
    files = ", ".join(file["path"] or file["diff"] for file in change["files"])
    return f"{change['component']} ({', '.join(change['codes'])}): {files or 'no file to change'}{notified(change)}"


def diff_lines(diff: str) -> Iterator[str]:
    for row in diff.splitlines():
        color = {"+": "green", "-": "red", "@": "cyan"}.get(row[:1])
        yield "      " + (click.style(row, fg=color) if color else row)


def summary(document: Mapping[str, Any]) -> str:
    """The run in one line."""
    return f"{document['kind']} {document['run']}: {fleet.totals(document)}; {document['seconds']:.1f} s"


def render(
    document: dict[str, Any], diffs: bool = True, width: int | None = None, details: bool = False
) -> str:
    """The report of an audit or a mend as text with colours. diffs: whether a mend shows those of its changes, where they
    were not shown before. details: every host's findings in full, which fewer than five hosts always get."""
    page = Page(width or columns())
    mended = document["kind"] == "mend"
    hosts = fleet.in_order(document)
    rows = [""]
    if document.get("files"):
        rows += [*page.table(hosts, files=True), *page.bodies(hosts, mended, diffs, True)]
    elif len(hosts) < FLEET:
        rows += [*page.table(hosts), *page.bodies(hosts, mended, diffs, details)]
    else:
        rows += page.overview(document)
        if details:
            rows += ["", *page.table(hosts), *page.bodies(hosts, mended, diffs, True)]
        else:
            parts = [list(page.grouped(document))]
            if mended:
                parts.insert(0, list(page.fleet_changes(document)))
            parts.append(list(page.fleet_plan(document)))
            for part in parts:
                rows += ["", *part] if part else []
    rows.extend(parity_text.render(document.get("parity", ())))
    rows += page.stopped(document.get("stopped"))
    rows += ["", page.wrap(summary(document), "  ", "")]
    if aged := data.old(datetime.date.fromisoformat(document["started"][:10])):
        rows.append(page.wrap(aged, "  ", ""))
    if any(found["status"] in COLORS for host in document["hosts"].values() for found in host["findings"]):
        short = (
            ""
            if details or len(hosts) < FLEET or document.get("files")
            else "; `--details` shows each host's"
        )
        rows.append(page.wrap(f"`gpumend explain CODE` says more about a finding{short}.", "  ", ""))
    in_effect = ("changed", "pending", "watching")
    if mended and any(change["status"] in in_effect for _, host in hosts for change in host["changes"]):
        rows.append(f"`gpumend rollback {document['run']}` undoes this run.")
    return "\n".join(rows) + "\n"
