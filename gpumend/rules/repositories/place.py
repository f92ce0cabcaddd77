"""A wanted repository on this host: where it is, with which key, and the files that say so. One place: audit shows them, mend
writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from gpumend.rules.data import load
from gpumend.rules.rule import Context
from gpumend.rules.toolkit.apt import Source, deb822, one_line
from gpumend.state.packages import TOOLKIT
from gpumend.state.repositories import Entry
from gpumend.text.openpgp import PublicKey, binary, public_keys
from gpumend.text.record import Record

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # as dpkg says it
RPM = {"dnf": "/etc/yum.repos.d", "zypper": "/etc/zypp/repos.d"}  # where a manager's repositories stand
OURS = "# Written by gpumend: repositories.{name} of the desired state.\n"


class Place(Record):
    """Where a repository is. uri: without the last slash, empty where it is not known; key: bytes of a keyring, empty where nobody
    has it; fingerprint: the one that it has to have, empty where nobody says. refused: why it is not added, by_hand: what a
    person does then. local: it is a directory of the host's. made: its index is made here. trusted: nothing of it is
    signed, and the desired state takes it so."""

    name: str
    manager: str
    uri: str = ""
    suite: str = ""
    components: str = ""
    keyring: str = ""
    source_file: str = ""
    fingerprint: str = ""
    key: bytes = b""
    refused: str = ""
    by_hand: str = ""
    local: str = ""
    made: bool = False
    trusted: bool = False
    signs: str = "index"

    @property
    def identity(self) -> tuple[str, str]:
        return self.uri, self.suite

    @property
    def address(self) -> str:
        """What a person is told of where it is."""
        return self.local or (f"{self.uri} {self.suite}".rstrip() if self.uri else "not known")


def table(context: Context, name: str, manager: str) -> Mapping[str, Any]:
    """The table's row for this host; empty where there is none. Raises Unread."""
    host, release = context.state.host, context.state.repositories.release.get() or ""
    distribution = host.distribution.get() or ""
    for row in load("repositories")["repositories"]:
        if row["name"] != name or row["manager"] != manager or host.machine not in row["arch"]:
            continue
        named = row["id"] in ("*", distribution) or (row.get("like") and row["id"] in host.like)
        releases = row.get("releases")
        key = release if not releases or release in releases else release.partition(".")[0]
        if named and (not releases or key in releases):
            path = releases[key] if releases else ""
            filled = {"path": path, "arch": row["arch"][host.machine]}
            return {**row, **{each: row[each].format(**filled) for each in ("uri", "suite")}, "path": path}
    return {}


def place_of(context: Context, entry: Entry) -> Place:
    """Where a wanted repository is on this host. Raises Unread."""
    manager = context.state.packages.manager
    row = table(context, entry.name, manager)
    places = {each["name"]: each for each in load("repositories")["places"]}[entry.name]
    found = Place(
        entry.name,
        manager,
        entry.uri or row.get("uri", ""),
        entry.suite or row.get("suite", "/"),
        entry.components or row.get("components", ""),
        places["keyring"],
        places["source_file"],
        entry.fingerprint or ("" if entry.uri or entry.directory else row.get("fingerprint", "")),
        signs=row.get("signs", "index"),
    )
    if manager in RPM:
        found = found._replace(
            keyring=f"/etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-{entry.name}",
            source_file=f"{RPM[manager]}/gpumend-{entry.name}.repo",
            suite="",
        )
    if entry.directory:
        found = in_directory(context, entry, found)
    elif not found.uri:
        host = context.state.host
        told = f"{host.name.value or host.distribution.value} on {host.machine}"
        return found._replace(
            refused=f"the table has no {entry.name} repository for {told}",
            by_hand=f"Name one in repositories.{entry.name}.uri, or a directory of packages.",
        )
    ends = (
        "" if entry.uri or entry.directory else row.get("ends", "")
    )  # a mirror may sign with a key of its own
    return found if found.trusted or found.refused else with_key(context, entry, found, ends)


def in_directory(context: Context, entry: Entry, found: Place) -> Place:
    """A directory of packages on the host. For one without an index, that of gpumend's lies elsewhere and names its files from
    the root on: nothing is written into the directory."""
    repositories = context.state.repositories
    own, signed = entry.directory in repositories.own_index, entry.directory in repositories.signed
    keyed = bool(entry.key or entry.keyring)
    local = found._replace(local=entry.directory, components="", trusted=not keyed)
    if found.manager in RPM:
        return local._replace(uri=f"file://{entry.directory}")
    if keyed and not signed:
        return local._replace(
            refused=f"{entry.directory} has no InRelease, which the key of repositories.{entry.name} would be for",
            by_hand="Sign its index, or leave key and keyring out: its packages are then taken as they lie there.",
        )
    if own or signed:
        return local._replace(uri=f"file:{entry.directory}", suite="./")
    if not repositories.archives.get(entry.directory):
        return local._replace(
            refused=f"{entry.directory} has no package (*.deb) and no index",
            by_hand="Put the packages there, with all that they depend on.",
        )
    return local._replace(uri="file:", suite=entry.index_path.rpartition("/")[0].lstrip("/") + "/", made=True)


def with_key(context: Context, entry: Entry, found: Place, ends: str) -> Place:
    """The place with its key, once that is known to be the right one: whole fingerprint, not expired, not revoked, and by no
    hash that this host's apt refuses."""
    say = f"repositories.{entry.name}"
    if not found.fingerprint:
        known = f"only its end is known, {ends}, and anybody can make a key with such an end" if ends else ""
        return found._replace(
            refused=f"the fingerprint of the key of {found.address} is not known"
            + (f": {known}" if known else ""),
            by_hand=f"Give it whole in {say}.fingerprint, from whoever runs the repository.",
        )
    if ends and not found.fingerprint.endswith(ends):
        return found._replace(
            refused=f"{say}.fingerprint does not end with {ends}, as that of {found.address} does",
            by_hand="Ask whoever runs the repository.",
        )
    source, data = key_bytes(context, entry, found)
    if not data:
        return found._replace(
            refused=f"the host has no key for {found.address}, and none is fetched",
            by_hand=f"Give the key of fingerprint {found.fingerprint} in {say}.key, or the path on the host of its keyring "
            f"in {say}.keyring; the vendor's own package brings {found.keyring}.",
        )
    why = unfit(context, data, found.fingerprint)
    if why:
        return found._replace(refused=f"{source}: {why[0]}", by_hand=why[1])
    armoured = found.keyring.endswith(".asc") or found.manager in RPM
    return found._replace(key=data if armoured else binary(data))


def key_bytes(context: Context, entry: Entry, found: Place) -> tuple[str, bytes]:
    """(where it comes from, the keyring). Raises Unread."""
    if entry.key:
        return f"repositories.{entry.name}.key", entry.key.encode()
    path = entry.keyring or found.keyring
    content = context.state.repositories.keyring(path).get()
    return path, content.data if content else b""


def unfit(context: Context, data: bytes, fingerprint: str) -> tuple[str, str] | None:
    """(why a keyring is not trusted, what a person does), or None where it is what it has to be."""
    try:
        keys = public_keys(data)
    except ValueError as error:
        return f"this is no keyring: {error}", "Get the key again from whoever runs the repository."
    others = [key.fingerprint for key in keys if key.fingerprint != fingerprint]
    if others:
        return (
            f"it has the key {', '.join(others)}, wanted is {fingerprint} alone",
            "Compare it with what whoever runs the repository publishes. Never take one because apt asks for it.",
        )
    return next(filter(None, (fault(context, key) for key in keys)), None)


def fault(context: Context, key: PublicKey) -> tuple[str, str] | None:
    """What is wrong with the right key, and what a person does; None where nothing is."""
    now = context.state.host.time
    if key.revoked:
        return f"key {key.fingerprint} is revoked", "Ask whoever runs the repository for its present key."
    if key.expires is not None and key.expires <= now:
        return (
            f"key {key.fingerprint} has expired",
            "Get it again from whoever runs the repository: one that was prolonged has the same fingerprint.",
        )
    if key.weak and context.state.repositories.sqv:
        return (
            f"key {key.fingerprint} is bound by SHA-1 alone, which this host's apt (sqv) refuses since 2026-02-01",
            "Take another way: the repository of a release whose key is newer, a mirror that signs with a key of its own "
            "(uri, key, fingerprint), or a directory of packages. Do not widen Sequoia's policy: it holds for every repository of the host.",
        )
    return None


def apt_sources(context: Context) -> list[Source]:
    """Every APT source of the host. $(ARCH) is as apt reads it. Raises Unread."""
    arch = ARCHITECTURES.get(context.state.host.machine, context.state.host.machine)
    found = []
    for path, content in (context.state.repositories.sources.need()).items():
        text = content.data.decode("utf-8", "replace").replace("$(ARCH)", arch)
        found += deb822(path, text) if path.endswith(".sources") else one_line(path, text)
    return found


def stanza(found: Place) -> str:
    """The source as apt (deb822, sources.list(5)) or dnf reads it."""
    head = OURS.format(name=found.name)
    if found.manager == "zypper":
        return head + zypp_stanza(found)
    if found.manager == "dnf":
        signed = [
            f"gpgkey=file://{found.keyring}",
            f"repo_gpgcheck={int(found.signs == 'index')}",
            f"gpgcheck={int(found.signs == 'packages')}",
        ]
        rows = [
            f"[gpumend-{found.name}]",
            f"name={found.name} (gpumend)",
            f"baseurl={found.uri}",
            "enabled=1",
        ]
        return (
            "\n".join(
                [head.rstrip(), *rows, *(["gpgcheck=0", "repo_gpgcheck=0"] if found.trusted else signed)]
            )
            + "\n"
        )
    rows = ["Types: deb", f"URIs: {found.uri}/"]
    rows.append(f"Suites: {found.suite}")
    rows += [f"Components: {found.components}"] if not found.suite.endswith("/") else []
    rows.append("Trusted: yes" if found.trusted else f"Signed-By: {found.keyring}")
    return head + "\n".join(rows) + "\n"


def zypp_stanza(found: Place) -> str:
    """As zypp reads it (zypp.conf(5), repo_gpgcheck and pkg_gpgcheck): what is signed has to be."""
    index, packages = (
        ("0", "0")
        if found.trusted
        else (str(int(found.signs == "index")), str(int(found.signs == "packages")))
    )
    rows = [
        f"[gpumend-{found.name}]",
        f"name={found.name} (gpumend)",
        f"baseurl={found.uri}",
        "enabled=1",
        "autorefresh=1",
    ]
    rows += [
        "type=rpm-md",
        f"gpgcheck={int(not found.trusted)}",
        f"repo_gpgcheck={index}",
        f"pkg_gpgcheck={packages}",
    ]
    rows += [] if found.trusted else [f"gpgkey=file://{found.keyring}"]
    return "\n".join(rows) + "\n"


def pin_of(context: Context, entry: Entry, found: Place) -> tuple[str, bytes] | None:
    """(path, bytes) of the pin that goes with a repository; None where it has none."""
    row = next((each for each in load("repositories")["pins"] if each["name"] == entry.name), None)
    if row is None or not entry.pin or found.manager != "apt":
        return None
    host = re.match(r"https?://([^/:]+)", found.uri)
    text = OURS.format(name=entry.name)
    text += f'Package: {" ".join(TOOLKIT)}\nPin: origin "{host.group(1) if host else ""}"\n'
    return row["path"], (text + f"Pin-Priority: {row['priority']}\n").encode()


def satisfied_by(context: Context, found: Place) -> Source | None:
    """The source of this host that already is what is wanted, in whichever file: the same address, and a keyring that has the
    wanted key. None where there is none. Raises Unread."""
    if found.manager != "apt":
        return None
    ours_first = sorted(apt_sources(context), key=lambda each: each.path != found.source_file)
    for source in ours_first:
        if (source.uri, source.suite) != found.identity:
            continue
        if found.trusted and not source.key and source.path == found.source_file:
            return source
        if not found.trusted and holds(context, source.key, found):
            return source
    return None


def holds(context: Context, signed_by: str, found: Place) -> bool:
    """Whether what Signed-By says is the wanted key and no other: a path, or the key itself. The mode of the place's own
    keyring is another finding's."""
    if not signed_by.startswith("/"):
        data = "\n".join(row.strip() if row.strip() != "." else "" for row in signed_by.splitlines()).encode()
        return bool(signed_by) and unfit(context, data, found.fingerprint) is None
    content = context.state.repositories.keyring(signed_by).get()
    if content is None or unfit(context, content.data, found.fingerprint):
        return False
    return signed_by == found.keyring or bool(content.meta.mode & 0o004)


def superseded(context: Context, found: Place) -> tuple[tuple[str, ...], str]:
    """(files that name this repository with another key and nothing besides, or why one of them cannot go). The one that stays
    is gpumend's, or the one that satisfies. Raises Unread."""
    if found.manager != "apt":
        return (), ""
    kept = satisfied_by(context, found)
    path = kept.path if kept else found.source_file
    key = kept.key if kept else found.keyring
    sources = apt_sources(context)
    same = [each for each in sources if (each.uri, each.suite) == found.identity]
    old = dict.fromkeys(each.path for each in same if each.path != path and each.key != key)
    for each in sources:
        if each.path in old and (each.uri, each.suite) != found.identity:
            return (), f"{each.path} names {each.uri} besides"
    if path == found.source_file and "/etc/apt/sources.list" in old:
        return (), "/etc/apt/sources.list names it with another key"
    return tuple(old), ""


def files_of(context: Context, entry: Entry, found: Place) -> dict[str, bytes]:
    """The files that have to be there, with their bytes. Raises Unread."""
    wanted: dict[str, bytes] = {}
    there = satisfied_by(context, found)
    if there is None or there.path == found.source_file:
        if not found.trusted:
            wanted[found.keyring] = found.key
        wanted[found.source_file] = stanza(found).encode()
    pin = pin_of(context, entry, found)
    if pin:
        wanted[pin[0]] = pin[1]
    return wanted


def have(context: Context, path: str) -> Any:
    """A file of ours as it is now, or None where it is not there. Raises Unread."""
    state = context.state.repositories
    if path in state.keyrings:
        return state.keyring(path).get()
    return state.source_file(path) or (state.preferences.get() or {}).get(path)


def stale_index(context: Context, entry: Entry, found: Place) -> bool:
    """Whether the index that is made of a directory is not there, or of other packages than lie there. Raises Unread."""
    if not found.made:
        return False
    state = context.state.repositories
    content = state.indexes[entry.index_path].get()
    if content is None:
        return True
    text = content.data.decode("utf-8", "replace")
    names, sizes = re.findall(r"(?m)^Filename: \.?(/\S+)$", text), re.findall(r"(?m)^Size: (\d+)$", text)
    return dict(zip(names, map(int, sizes))) != dict(state.archives.get(entry.directory, {}))
