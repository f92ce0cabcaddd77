"""What apt and dpkg are asked, and how their answers are read: stdlib only, Python 3.6 or newer."""

import glob
import re
from typing import Iterable, List, Optional

from gpumend.payload.change.managers import PackageChange, Unfit, last_line
from gpumend.payload.probe.running import run

# dpkg-query(1), package-status: what apt and `dpkg --configure --pending` finish, whosever it is. A trigger that has not
# run is none of them: it sets nothing up.
HALF = ("U", "F", "H")

# No questions, no service restarted behind our back (needrestart's apt hook), no removal whatever apt comes to think.
APT_ENV = [
    "env",
    "DEBIAN_FRONTEND=noninteractive",
    "NEEDRESTART_SUSPEND=1",
    "NEEDRESTART_MODE=l",
    "APT_LISTCHANGES_FRONTEND=none",
]

ARCHIVES = "/var/cache/apt/archives"  # what apt has fetched, until somebody runs `apt-get clean`


def apt_changes(text: str) -> List[PackageChange]:
    """What `apt-get -s` would do, in its order: (`install` | `upgrade` | `remove`, name, version or None)."""
    changes = []
    for line in text.splitlines():
        match = re.match(r"(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+))?", line)
        if match:
            word, name, old, new = match.groups()
            what = "remove" if word != "Inst" else "upgrade" if old else "install"
            changes.append((what, name.partition(":")[0], new))
    return changes


def apt(wait: int, *words: str) -> List[str]:
    """apt-get's argv. It waits for its lock by itself, too: somebody may have been faster."""
    options = ["-o", "DPkg::Lock::Timeout=%d" % max(wait, 1), "-o", "Dpkg::Options::=--force-confold"]
    return APT_ENV + ["apt-get", "-q", "-y", "--no-install-recommends"] + options + list(words)


def half_installed() -> List[str]:
    """dpkg's packages that are half-installed. Raises Unfit where dpkg does not say."""
    found = run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Package}\\n"], 20)
    if found["status"] != "ok" or found["rc"] not in (0, 1):
        raise Unfit("dpkg-query: %s" % last_line(found))
    rows = [line.split("\t") for line in found["out"].splitlines()]
    return sorted(row[1] for row in rows if len(row) == 2 and row[0][1:2] in HALF)


def left_alone(names: Iterable[str]) -> None:
    """No other package than these is half-installed. Raises Unfit: whatever apt is asked for, it finishes those, too
    (apt-pkg's order list takes every package that needs to be configured), and their scripts may restart anything."""
    others = sorted(set(half_installed()) - set(names))
    if others:
        told = " ".join(others)
        raise Unfit(
            "apt would finish %s as well, which is not ours: `dpkg --configure %s` first" % (told, told)
        )


def dpkg(*words: str) -> None:
    """dpkg has done this to the packages that are named, and to no other. Raises Unfit with its own words."""
    found = run(APT_ENV + ["dpkg", "--force-confold"] + list(words), None)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("dpkg %s: %s" % (" ".join(words), last_line(found)))


def cached(name: str, version: Optional[str]) -> Optional[str]:
    """apt's own archive of a package in that version, or None. In its name a colon is %3a."""
    found = glob.glob("%s/%s_%s_*.deb" % (ARCHIVES, name, glob.escape((version or "").replace(":", "%3a"))))
    return found[0] if found else None
