"""The document that goes with a node to whoever runs it: the run's report of that host alone, as HTML and as JSON."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from gpumend.reports import outputs
from gpumend.reports.document import document
from gpumend.rules.repositories.place import apt_sources
from gpumend.rules.rule import Context
from gpumend.run.record import Record, Run
from gpumend.state.reading import Unread
from gpumend.state.repositories import rpm_names
from gpumend.text.mask import mask_all
from gpumend.text.openpgp import public_keys

FORMATS = ("json", "html")


NOT_NOTED = "neither dnf nor zypp has noted from where"
UNPROVEN = "no container was started: prove.image names none that is on the node"


def directory_of(this: Run, record: Record, executed: bool) -> str:
    """Where the desired state has a node's document left at the end of what installs it; empty where nowhere."""
    hands = this.hands_over and executed and record.now is not None
    return record.now.wanted.handover if record.now is not None and hands else ""


def made(directory: str) -> None:
    """The directory is there and nobody else's. Raises OSError."""
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    if outputs.planted(Path(directory)):
        raise PermissionError(
            errno.EACCES, "it is another user's, in a directory where anybody may write", directory
        )


def written(this: Run, executed: bool, asked: str) -> list[str]:
    """The paths of the files: NODE.json and NODE.html of each host, in the directory that was asked for, else in that of its desired
    state. It is made where it is missing. Each is whole or as it was. Raises OSError."""
    if asked:
        made(asked)
    found = []
    taken: set[str] = set()
    for name, record in sorted(this.records.items()):
        directory = asked or directory_of(this, record, executed)
        if not directory:
            continue
        made(directory)
        mine = file_name(name)
        while mine in taken:  # `a/b` beside `a_b`
            mine += "_"
        taken.add(mine)
        told = document(replace(this, records={name: record}), executed)
        told["hosts"][name]["installed"] = mask_all(installed(record))
        if executed and record.proof is None and record.now and not record.now.wanted.prove_image:
            told["hosts"][name]["proof"] = {"status": "not proven", "detail": UNPROVEN}
        for each in FORMATS:
            path = Path(directory, f"{mine}.{each}")
            outputs.write(told, outputs.Output(each, str(path)))
            found.append(str(path))
    return found


def installed(record: Record) -> list[dict[str, Any]]:
    """What a node has of packages, each with the address that it came from and the fingerprints of the keys that the host trusts
    there; and a wanted runfile. Empty where nobody has read it."""
    if record.now is None:
        return []
    context = record.now.context
    try:
        rows = by_rpm(context) if context.state.packages.manager in ("dnf", "zypper") else by_apt(context)
    except Unread:
        return []
    wanted = context.wanted.cuda_toolkit
    if wanted and wanted.runfile and wanted.method == "runfile":
        told = f"{wanted.runfile[0]}, SHA-256 {wanted.runfile[1]}"
        rows.append({"name": "CUDA toolkit", "version": wanted.release, "from": told, "fingerprints": []})
    return rows


def by_rpm(context: Context) -> list[dict[str, Any]]:
    """By what dnf or zypp has noted as it installed each. Raises Unread."""
    state, places = context.state.repositories, context.state.repositories.rpm_places()
    have = context.state.packages.installed.get() or {}
    cuda = context.wanted.cuda_toolkit
    names = rpm_names({"cuda_toolkit": {"version": cuda.release}} if cuda else {})
    rows = []
    for name in sorted(set(names) & set(have)):
        version = have[name].rpartition(":")[2]
        ident = state.noted.get(name, {}).get(version, "")
        place = places.get(ident)
        told = f"repository {ident}, which this host has no more" if ident else NOT_NOTED
        if place and place.uri:
            local = place.uri.startswith("file://")
            told = f"directory {place.uri[len('file://') :]}" if local else place.uri
        keys = [key for path in (place.keyrings if place else ()) for key in fingerprints(context, path)]
        rows.append({"name": name, "version": have[name], "from": told, "fingerprints": keys})
    return rows


def by_apt(context: Context) -> list[dict[str, Any]]:
    """By the repositories that have each in its version. Raises Unread."""
    rows = []
    found = context.state.repositories.origins.get() or {}
    trusted = keys_by_address(context)
    for name, origin in sorted(found.items()):
        # The first is the one that apt takes (apt-cache(8), policy).
        uri, suite = origin.places[0] if origin.places else ("", "")
        keys = next((keys for address, keys in trusted.items() if address == uri), [])
        made = {each.index_path.rpartition("/")[0].strip("/"): each for each in context.wanted.repositories}
        told = f"{uri} {suite}" if uri else "no repository of this host has it"
        if suite.strip("/") in made:
            told = f"directory {made[suite.strip('/')].directory}"
        rows.append({"name": name, "version": origin.version, "from": told, "fingerprints": keys})
    return rows


def keys_by_address(context: Context) -> dict[str, list[str]]:
    """Base URI of each APT source -> the fingerprints of the keys that its Signed-By names. Raises Unread."""
    found: dict[str, list[str]] = {}
    for source in apt_sources(context):
        found[source.uri.rstrip("/")] = fingerprints(context, source.key)
    return found


def fingerprints(context: Context, signed_by: str) -> list[str]:
    """Of the keys in a keyring, by its path, or in the text itself. Raises Unread."""
    text = signed_by.encode()
    if signed_by.startswith("/"):
        content = context.state.repositories.keyring(signed_by).get()
        text = content.data if content else b""
    try:
        return [key.fingerprint for key in public_keys(text)] if text else []
    except ValueError:
        return []


def file_name(host: str) -> str:
    """A host's name as one of a file: `@docker/a b` becomes `_docker_a_b`."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", host).lstrip(".") or "_"
