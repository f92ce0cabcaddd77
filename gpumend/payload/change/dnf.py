"""What dnf is asked, and how its answers are read: stdlib only, Python 3.6 or newer."""

import re
from typing import Dict, Iterable, List

from gpumend.payload.change.managers import PackageChange, Unfit, last_line
from gpumend.payload.probe.running import run

MAX_HISTORY = 50  # of dnf's transactions that are looked at for one of ours
HISTORY = re.compile(r"(?m)^(Transaction ID|Return-Code|Status|Comment)[ \t]*:[ \t]*([^:\n]*)")

DNF_SECTIONS = (
    (r"Installing(?: dependencies| weak dependencies| group/module packages)?:", "install"),
    (r"(?:Upgrading|Reinstalling|Replacing|Obsoleting)(?: dependencies)?:", "upgrade"),
    (r"Downgrading(?: dependencies)?:", "downgrade"),
    (r"Removing(?: dependent packages| unused dependencies)?:|Removing [\w ]+:", "remove"),
    (r"Enabling module streams:|Switching module streams:|Disabling modules?:|Resetting modules?:", "module"),
)


def dnf_changes(text: str) -> List[PackageChange]:
    """What `dnf --assumeno` would do: its table's sections, a package a row (measured with dnf 4.14 and dnf5 5.4).
    Below a row is what that replaces: dnf 4 tells of obsoleted packages alone, dnf5 of a package's old version, too, and
    counts both.

    Raises Unfit where the rows that were understood are not as many as dnf's own summary says.
    """
    changes: List[PackageChange] = []
    section, name, expected, replaced = None, "", 0, 0
    for line in text.splitlines():
        count = re.match(
            r"\s*(?:Install|Upgrad|Remov|Downgrad|Reinstall|Replac)\w*:?\s+(\d+) [Pp]ackages?$", line
        )
        expected += int(count.group(1)) if count else 0
        if count or (line and not line[0].isspace()):
            section = next((word for pattern, word in DNF_SECTIONS if re.match(pattern, line)), None)
            continue
        fields = line.split()
        if section is None or not fields:
            continue
        if section == "module":
            changes.append(("module", fields[0], None))
        elif fields[0] == "replacing" and len(fields) > 4:
            replaced += 1
            if not changes or fields[1] != changes[-1][1]:
                changes.append(("remove", fields[1], None))
        elif fields[0] == "replacing":
            changes.append(("remove", fields[1].rpartition(".")[0] or fields[1], None))
        elif len(fields) == 1:
            name = fields[0]  # too long for its column: the rest is on the next row
        else:
            full = [name] + fields if name else fields
            name = ""
            changes.append((section, full[0], re.sub("^0:", "", full[2]) if len(full) > 2 else ""))
    if len([change for change in changes if change[2] is not None]) + replaced != expected:
        raise Unfit("what dnf would do could not be read: %d packages, not %d" % (len(changes), expected))
    return changes


def dnf(mark: str, *words: str) -> List[str]:
    """dnf's argv, for what it is to do at once. mark: what its history says of it, by which it is found again (dnf(8) --comment)."""
    return ["dnf", "-y", "--setopt=install_weak_deps=False", "--comment=" + mark] + list(words)


def dnf_versions(names: Iterable[str], timeout: float, hidden: bool = False) -> Dict[str, List[str]]:
    """VERSION-RELEASEs of these packages that repositories have. hidden: also those of module streams that are not enabled.
    Raises Unfit with dnf's own words."""
    argv = ["dnf", "-q", "repoquery", "--qf", "%{name}\t%{version}-%{release}\n"]
    found = run(argv + (["--disable-modular-filtering"] if hidden else []) + list(names), timeout)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dnf repoquery %s: %s" % (" ".join(names), last_line(found)))
    rows = [line.split("\t") for line in found["out"].splitlines() if "\t" in line]
    versions: Dict[str, List[str]] = {}
    for name, version in rows:
        versions.setdefault(name, []).append(version)
    return versions


def module_streams(module: str, timeout: float) -> List[str]:
    """The streams of a module that repositories have; none where they have no such module, which dnf 4 calls an error. Where it
    is one of another kind, nothing modular is enabled, and what is filtered out then is not found."""
    return listed_streams(module, run(["dnf", "-q", "module", "list", module], timeout).get("out", ""))


def listed_streams(module: str, text: str) -> List[str]:
    """`dnf module list`: a stream is the second word of its module's rows."""
    return re.findall(r"(?m)^%s[ \t]+([^ \t\n]+)" % re.escape(module), text)


def broken_off(mark: str) -> str:
    """The number of dnf's newest transaction of that mark where it has not come to its end, or an empty text: dnf 4 says
    `Return-Code : Failure`, dnf5 `Status : Started` (measured with 4.14 and 5.4, whose dnf was killed)."""
    number = "last"
    for _ in range(MAX_HISTORY):
        said = dict(HISTORY.findall(run(["dnf", "history", "info", number], 60).get("out", "")))
        ident = said.get("Transaction ID", "")
        if said.get("Comment") == mark:
            return "" if said.get("Return-Code", said.get("Status")) in ("Success", "Ok") else ident
        if not ident.isdigit() or int(ident) < 2:  # asked for number 0, dnf 4 does not come to its end
            return ""
        number = str(int(ident) - 1)
    return ""


def redo(mark: str, number: str) -> None:
    """dnf has done what is left of one of its transactions, and of no other: of an upgrade that broke off it takes the old
    packages away. Raises Unfit with its own words."""
    found = run(dnf(mark, "history", "redo", number), None)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dnf history redo %s: %s" % (number, last_line(found)))
