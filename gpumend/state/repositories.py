"""Where packages come from: a host's sources, keyrings and pins, and where those that are installed came from. Read only where the
desired state has `repositories`, `engine` or `handover`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from gpumend.state.host import release_fields
from gpumend.state.packages import NO_CACHE, TOOLKIT, Offer, parse_policy
from gpumend.state.reading import NONE, Reading
from gpumend.state.request import Command, Glob
from gpumend.state.snapshot import NOT_ASKED, FileContent, Output, Snapshot
from gpumend.text.record import Record

KEY, ENGINE, HANDOVER = "repositories", "engine", "handover"
LIST = "/etc/apt/sources.list"
SOURCES = ("/etc/apt/sources.list.d/*.list", "/etc/apt/sources.list.d/*.sources")
REPOS = ("/etc/yum.repos.d/*.repo", "/etc/zypp/repos.d/*.repo")
PREFERENCES = "/etc/apt/preferences.d/*"
KEYRINGS = ("/etc/apt/keyrings/*", "/usr/share/keyrings/*nvidia*", "/usr/share/keyrings/*cuda*")
RPM_KEYS = "/etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-*"
SQV = "/usr/bin/sqv"  # what apt verifies with from Debian 13 on (apt 2.9.19)
INDEX = "/var/lib/gpumend/repositories/{name}/Packages"  # of a directory that has none
ENGINES = ("docker.io", "docker-cli", "docker-ce", "docker-ce-cli", "containerd.io", "containerd", "podman")
# What a hand-over tells of: these, and a wanted CUDA toolkit's.
TOLD = (*TOOLKIT, *ENGINES, "runc", "nvidia-driver", "nvidia-open", "cuda-drivers")
OF_CUDA = (
    "cuda-toolkit", "cuda-libraries", "cuda-libraries-dev", "cuda-cudart-dev", "cuda-minimal-build", "cuda-cupti", "cuda-cupti-dev",
)  # fmt: skip

# What dnf 4 notes of each package, and what zypp does. dnf5 keeps it elsewhere.
DNF_HISTORY = "/var/lib/dnf/history.sqlite"
ZYPP_HISTORY = "/var/log/zypp/history"
LONGEST = 16 << 20  # bytes of zypp's: years of a host
# immutable: SQLite writes nothing beside it. Once dnf has ended, all is in the file itself (measured with 4.24).
OF_DNF = """
import sqlite3, sys
base = sqlite3.connect("file:%s?mode=ro&immutable=1" % sys.argv[1], uri=True)
for row in base.execute(
    "SELECT rpm.name, rpm.version || '-' || rpm.release, repo.repoid FROM trans_item JOIN rpm ON rpm.item_id = trans_item.item_id "
    "JOIN repo ON repo.id = trans_item.repo_id ORDER BY trans_item.id"
):
    if row[0] in sys.argv[2:]:
        print("\\t".join(row))
"""


class Entry(Record):
    """One repository that is wanted. uri, suite, components: in place of those of the table; directory: packages that lie on the
    host. key: a public key as text; keyring: the path on the host of one; fingerprint: whole, in capitals. pin: whether
    packages that others have, too, are taken from here."""

    name: str
    uri: str = ""
    suite: str = ""
    components: str = ""
    directory: str = ""
    key: str = ""
    keyring: str = ""
    fingerprint: str = ""
    pin: bool = True

    @property
    def index_path(self) -> str:
        """Where the index of its directory lies that gpumend makes."""
        return INDEX.format(name=self.name)

    @property
    def archives(self) -> str:
        return f"{self.directory}/*.deb"


def entries(raw: Mapping[str, Any]) -> tuple[Entry, ...]:
    """Of what the schema has let pass."""
    return tuple(
        Entry(
            name,
            uri=str(each.get("uri", "")).rstrip("/"),
            suite=each.get("suite", ""),
            components=each.get("components", ""),
            directory=str(each.get("directory", "")).rstrip("/"),
            key=each.get("key", ""),
            keyring=each.get("keyring", ""),
            fingerprint=each.get("fingerprint", ""),
            pin=each.get("pin", True),
        )
        for name, each in sorted(raw.items())
    )


def request(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked of the probe besides, where the desired state has `repositories` or `engine`; else nothing."""
    wanted, engine = raw.get(KEY), raw.get(ENGINE)
    found: dict[str, Any] = {}
    if isinstance(wanted, Mapping):
        named = entries(wanted)
        globs = [*map(Glob, (*SOURCES, *REPOS, PREFERENCES, *KEYRINGS, RPM_KEYS))]
        files, stats = [LIST, *(each.keyring for each in named if each.keyring)], [SQV]
        for each in named:
            if each.directory:
                globs.append(Glob(each.archives, read=False))
                files.append(each.index_path)
                stats += [f"{each.directory}/{name}" for name in ("Packages", "InRelease")]
        found = {"globs": [each.entry() for each in globs], "files": files, "stats": stats}
    if raw.get(HANDOVER):
        globs = [*map(Glob, (*SOURCES, *REPOS, PREFERENCES, *KEYRINGS, RPM_KEYS))]
        found.setdefault("globs", [each.entry() for each in globs])
        found.setdefault("files", [LIST])
        found.setdefault("stats", [SQV])
        release = str((raw.get("cuda_toolkit") or {}).get("version", "")).replace(".", "-")
        names = (*TOLD, *(f"{name}-{release}" for name in OF_CUDA if release))
        told = Command(("apt-cache", *NO_CACHE, "policy", *names), timeout=20)
        mine = rpm_names(raw)
        noted = Command(
            ("python3", "-I", "-S", "-B", "-c", OF_DNF, DNF_HISTORY, *mine), timeout=20, needs=(DNF_HISTORY,)
        )
        found["commands"] = {"origins": told.entry(), "dnf-history": noted.entry()}
        history = Glob(ZYPP_HISTORY, read=False, search=zypp_rows(mine), limit=LONGEST)
        found["globs"] = [*found["globs"], history.entry()]
    if engine:
        asked = Command(("apt-cache", *NO_CACHE, "policy", *ENGINES), timeout=20)
        found.setdefault("commands", {})["engine-offers"] = asked.entry()
    return found


def rpm_names(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What a hand-over tells of, as rpm calls it."""
    release = str((raw.get("cuda_toolkit") or {}).get("version", "")).replace(".", "-")
    return (*TOLD, *(f"{name.replace('-dev', '-devel')}-{release}" for name in OF_CUDA if release))


def zypp_rows(names: Iterable[str]) -> str:
    """What is looked for in zypp's history: `date|install|name|version|arch|by|repository` (measured with zypper 1.14.101)."""
    return rf"(?m)^[^|\n]*\|install\|(?:{'|'.join(map(re.escape, names))})(?:\|[^|\n]*){{4}}"


class RpmPlace(Record):
    """A repository of dnf's or zypper's. keyrings: paths; empty where nothing of it has to be signed."""

    uri: str
    keyrings: tuple[str, ...]


def parse_repos(text: str) -> dict[str, RpmPlace]:
    """A .repo file: its repositories by their ids."""
    found = {}
    for part in re.split(r"(?m)^\[", text)[1:]:
        ident, _, rest = part.partition("]")
        pairs = (row.partition("=") for row in rest.splitlines())
        rows = {key.strip(): value.strip() for key, mark, value in pairs if mark and not key[:1].isspace()}
        signed = "1" in (rows.get("gpgcheck"), rows.get("repo_gpgcheck"))
        keys = tuple(re.findall(r"file://(/\S+)", rows.get("gpgkey", ""))) if signed else ()
        found[ident] = RpmPlace(rows.get("baseurl", "").rstrip("/"), keys)
    return found


def parse_noted(rows: Iterable[tuple[str, str, str]]) -> dict[str, dict[str, str]]:
    """(name, version, repository) of what was installed, the last at the end: by name and version. dnf's own name of what was there
    before is no repository."""
    found: dict[str, dict[str, str]] = {}
    for name, version, ident in rows:
        if ident and not ident.startswith("@"):
            found.setdefault(name, {})[version] = ident
    return found


class Origin(Record):
    """An installed package. places: (base URI, suite) of each repository that has it in this version; empty where none has: it came
    as a file."""

    version: str
    places: tuple[tuple[str, str], ...]


class Repositories(Record):
    """sources: files of APT sources, all of them; repos: those of dnf and zypper. keyrings: by path; preferences: files of pins.
    indexes: by path, what gpumend has made; archives: by directory, its packages with their sizes; own_index, signed:
    directories that have an index of their own (`Packages`), and a signed one (`InRelease`). release: VERSION_ID.
    offers: what apt has of the engines' packages. origins: where installed packages came from; noted: of rpm's, by name and version,
    the repository's id, as dnf or zypp has noted it."""

    sources: Reading[Mapping[str, FileContent]] = NONE
    repos: Reading[Mapping[str, FileContent]] = NONE
    preferences: Reading[Mapping[str, FileContent]] = NONE
    keyrings: Mapping[str, Reading[FileContent]] = {}
    indexes: Mapping[str, Reading[FileContent]] = {}
    archives: Mapping[str, Mapping[str, int]] = {}
    own_index: frozenset[str] = frozenset()
    signed: frozenset[str] = frozenset()
    release: Reading[str] = NONE
    sqv: bool = False
    offers: Reading[Mapping[str, Offer]] = NONE
    origins: Reading[Mapping[str, Origin]] = NONE
    noted: Mapping[str, Mapping[str, str]] = {}

    def rpm_places(self) -> dict[str, RpmPlace]:
        """dnf's and zypper's repositories by their ids. Raises Unread."""
        found: dict[str, RpmPlace] = {}
        for content in (self.repos.get() or {}).values():
            found.update(parse_repos(content.data.decode("utf-8", "replace")))
        return found

    def source_file(self, path: str) -> FileContent | None:
        """A source file's content, or None where there is none. Raises Unread."""
        return (self.sources.get() or {}).get(path) or (self.repos.get() or {}).get(path)

    def keyring(self, path: str) -> Reading[FileContent]:
        """A keyring; absent where it is not there."""
        return self.keyrings.get(path) or Reading.none(path, "not there")


def _files(snapshot: Snapshot, patterns: Iterable[str], *more: str) -> Reading[Mapping[str, FileContent]]:
    found: dict[str, FileContent] = {}
    paths = list(more)
    for pattern in patterns:
        listed = snapshot.glob(pattern)
        if not listed.ok:
            return listed.without_value()
        paths += listed.value or ()
    for path in paths:
        content = snapshot.file(path)
        if not content.known:
            return Reading(content.status, None, path, content.detail)
        if content.value is not None:
            found[path] = content.value
    return Reading.of(found, ", ".join(patterns))


def parse_origins(output: Output) -> dict[str, Origin]:
    """`apt-cache policy`: the installed packages, with the repositories that have the installed version."""
    found: dict[str, Origin] = {}
    for block in re.split(r"(?m)^(?=\S)", output.out):
        version = re.search(r"(?m)^  Installed: (\S+)$", block)
        if version is None or version.group(1) == "(none)":
            continue
        mine = re.search(r"(?m)^ \*\*\* \S+ -?\d+\n((?: {8,}-?\d+ .*\n?)*)", block)
        rows = [row.split() for row in (mine.group(1) if mine else "").splitlines()]
        # A suite that is the base itself is not told: `500 https://host/deb/amd64  Packages`.
        places = tuple(
            (row[1].rstrip("/"), "/" if row[2] == "Packages" else row[2])
            for row in rows
            if len(row) > 2 and not row[1].startswith("/")
        )
        found[block.partition(":")[0]] = Origin(version.group(1), places)
    return found


def parse(snapshot: Snapshot) -> Repositories:
    asked = snapshot.command("engine-offers")
    offers: Reading[Mapping[str, Offer]] = Reading.none("apt-cache policy", NOT_ASKED)
    if asked.detail != NOT_ASKED:
        offers = snapshot.succeeded("engine-offers").map(parse_policy)
    if snapshot.glob(PREFERENCES).detail == NOT_ASKED:
        return Repositories(offers=offers)
    listed = [path for pattern in (*KEYRINGS, RPM_KEYS) for path in snapshot.glob(pattern).value or ()]
    files, stats = (_asked(snapshot, section) for section in ("files", "stats"))
    named = [path for path in files if path.endswith((".gpg", ".asc", ".pgp"))]
    there = [path for path in stats if snapshot.stat(path).ok]
    directories = [str(glob) for glob in _asked(snapshot, "globs") if str(glob).endswith("/*.deb")]
    return Repositories(
        sources=_files(snapshot, SOURCES, LIST),
        repos=_files(snapshot, REPOS),
        preferences=_files(snapshot, (PREFERENCES,)),
        keyrings={path: snapshot.file(path) for path in dict.fromkeys((*listed, *named))},
        indexes={path: snapshot.file(path) for path in files if path.startswith(INDEX.partition("{")[0])},
        archives={
            glob.rpartition("/")[0]: {path: _size(snapshot, path) for path in snapshot.glob(glob).value or ()}
            for glob in directories
        },
        own_index=frozenset(path.rpartition("/")[0] for path in there if path.endswith("/Packages")),
        signed=frozenset(path.rpartition("/")[0] for path in there if path.endswith("/InRelease")),
        release=snapshot.once(release_fields).map(lambda found: found.get("VERSION_ID", "")),
        sqv=snapshot.stat(SQV).ok,
        offers=offers,
        origins=snapshot.succeeded("origins").map(parse_origins),
        noted=parse_noted(_noted(snapshot)),
    )


def _noted(snapshot: Snapshot) -> Iterator[tuple[str, str, str]]:
    said = snapshot.succeeded("dnf-history").value
    for line in (said.out if said else "").splitlines():
        if line.count("\t") == 2:
            name, version, ident = line.split("\t")
            yield name, version, ident
    for line in snapshot.found(ZYPP_HISTORY).value or ():
        fields = line.split("|")
        yield fields[2], fields[3], fields[6]


def _size(snapshot: Snapshot, path: str) -> int:
    found = snapshot.stat(path).value
    return found.size if found else -1


def _asked(snapshot: Snapshot, section: str) -> list[str]:
    found = snapshot.answer.get(section)
    return list(found) if isinstance(found, dict) else []
