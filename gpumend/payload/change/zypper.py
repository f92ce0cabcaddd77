"""What zypper is asked, and how its answers are read: stdlib only, Python 3.6 or newer.

Measured with zypper 1.14.101, libzypp of Debian sid. Never with --gpg-auto-import-keys: a repository that brings its own key is
taken with it, whatever other key is wanted.
"""

import glob
import os
import re
from typing import Dict, Iterable, List, Optional, Tuple

from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import run

# zypper(8), EXIT CODES: done, and a reboot or zypper's own restart is due. 107, a script of a package's that failed, is none.
ZYPPER_GOOD = (0, 102, 103)
ZYPPER_NOT_FOUND = 104
ZYPPER_WORDS = {
    "to-install": "install",
    "to-upgrade": "upgrade",
    "to-reinstall": "upgrade",
    "to-change-arch": "upgrade",
    "to-change-vendor": "upgrade",
    "to-downgrade": "downgrade",
    "to-remove": "remove",
}
SECTION = re.compile(r"<(to-[a-z-]{1,40})>$")
SOLVABLE = re.compile(r"<solvable\b([^<>]*)>")
ATTRIBUTE = re.compile(r'(?<![\w-])([\w-]{1,40})="([^"]*)"')


def zypper(wait: int, *words: str) -> List[str]:
    """zypper's argv. It waits for its lock by itself, too: somebody may have been faster."""
    return ["env", "ZYPP_LOCK_TIMEOUT=%d" % max(wait, 1), "zypper", "--non-interactive"] + list(words)


def zypper_changes(text: str) -> Optional[List[Tuple[str, str, Optional[str]]]]:
    """What `zypper --xmlout ... --dry-run` would do; None where its rows are not as many as it says, or it asks for a solution."""
    if "<prompt" in text and "<install-summary" not in text:
        return None
    expected = re.search(r'<install-summary\b[^<>]* packages-to-change="(\d+)"', text)
    changes: List[Tuple[str, str, Optional[str]]] = []
    word = ""
    for line in text.splitlines():
        begun = SECTION.match(line.strip())
        found = SOLVABLE.match(line.strip())
        if begun:
            word = ZYPPER_WORDS.get(begun.group(1), "remove")  # what is not known is as bad as can be
        elif found and word:
            of = dict(ATTRIBUTE.findall(found.group(1)))
            changes.append((word, of.get("name", "?"), None if word == "remove" else of.get("edition")))
    return changes if len(changes) == int(expected.group(1) if expected else 0) else None


def zypper_words(action: str, targets: Iterable[str]) -> List[str]:
    """What follows `zypper`."""
    if action in ("remove", "purge"):
        return ["remove"] + list(targets)
    older = ["--oldpackage"] if action in ("downgrade", "restore") else []
    return ["install", "--no-recommends"] + older + list(targets)


def zypper_offers(name: str, version: Optional[str], timeout: float) -> bool:
    """Whether a repository has that version of a package."""
    found = run(zypper(60, "--xmlout", "search", "--details", "--match-exact", name), timeout)
    rows = [dict(ATTRIBUTE.findall(row)) for row in SOLVABLE.findall(found.get("out", ""))]
    return any(
        row.get("edition") == version and "System Packages" not in row.get("repository", "") for row in rows
    )


def zypper_versions(names: Iterable[str], timeout: float) -> Tuple[Json, Dict[str, List[str]]]:
    """(its answer, VERSION-RELEASEs of these packages that repositories have). Its status is 104 where one is in none."""
    argv = zypper(60, "--xmlout", "search", "--details", "--match-exact", "--type", "package", *names)
    found = run(argv, timeout)
    versions: Dict[str, List[str]] = {}
    for row in SOLVABLE.findall(found.get("out", "")):
        of = dict(ATTRIBUTE.findall(row))
        if "System Packages" not in of.get("repository", ""):
            versions.setdefault(of.get("name", ""), []).append(of.get("edition", ""))
    return found, versions


def zypper_download(
    name: str, version: Optional[str], directory: str, timeout: float
) -> Tuple[Json, List[str]]:
    """(its answer, the archives of a package below a directory)."""
    argv = zypper(60, "--pkg-cache-dir", directory, "download", "%s=%s" % (name, version))
    found = run(argv, timeout)
    return found, glob.glob("%s/**/%s-[0-9]*.rpm" % (glob.escape(directory), name), recursive=True)


def keys_of_rpm(fingerprint: str) -> List[str]:
    """rpm's packages of a public key: gpg-pubkey, and a version that ends as its fingerprint does (rpm 4: the last 8 digits)."""
    listed = run(["rpm", "-qa", "gpg-pubkey*"], 60).get("out", "").lower().split()
    short = fingerprint[-8:].lower()
    return [row for row in listed if re.search(r"-(?:[0-9a-f]*)%s(?:-|$)" % short, row)]


def lone_root(scratch: str, keyring: str, text: str) -> str:
    """A root directory of zypp's own with this repository, this key and no other. Returns its path."""
    root = os.path.join(scratch, "root")
    os.makedirs(os.path.join(root, "etc/zypp/repos.d"), 0o755)
    with open(os.path.join(root, "etc/zypp/repos.d/one.repo"), "w") as out:
        out.write(text)
    run(["rpm", "--root", root, "--initdb"], 60)
    if keyring:
        run(["rpm", "--root", root, "--import", keyring], 60)
    return root
