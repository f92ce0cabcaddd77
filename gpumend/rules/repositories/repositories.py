"""GM230, GM231, GM232: the repositories that the desired state names are the host's, each with its own key and no other."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import AddRepository, RemoveFiles, SetMode
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.repositories.place import (
    Place,
    apt_sources,
    files_of,
    have,
    place_of,
    stale_index,
    superseded,
)
from gpumend.rules.rule import Context, rule
from gpumend.state.repositories import Entry
from gpumend.text.pattern import Pattern

CUDA = Pattern(r"https?://developer\.download\.nvidia\.com/compute/cuda/repos/([a-z0-9-]+)/")


def wanted(context: Context) -> bool:
    return bool(context.wanted.repositories)


def lacking(context: Context, entry: Entry, found: Place) -> list[str]:
    """Files of a wanted repository that are not there or have other bytes. Raises Unread."""
    files = files_of(context, entry, found)
    lacks = [path for path, data in files.items() if (now := have(context, path)) is None or now.data != data]
    return lacks + ([entry.index_path] if stale_index(context, entry, found) else [])


@rule(
    "GM230",
    "the wanted repositories are there, each with the key of its fingerprint",
    "gpumend/rules/data/repositories.json; nct install guide (1.20), CUDA installation guide; sources.list(5)",
    applies=wanted,
)
def there(context: Context) -> Iterator[Finding]:
    packages = context.state.packages
    if packages.manager not in packages.managers:
        yield Finding(
            code="GM230",
            status=Status.FAIL,
            summary="repositories are wanted, and this host has neither apt, dnf nor zypper",
            evidence=(Evidence("PATH", ", ".join(packages.managers) or "no package manager"),),
            remedy="Add them with this host's own package manager, once the fingerprint of its key is compared.",
            refused="mend adds repositories for apt, dnf and zypper only",
        )
        return
    for entry in context.wanted.repositories:
        found = place_of(context, entry)
        if found.refused:
            yield Finding(
                code="GM230",
                status=Status.FAIL,
                summary=f"the {entry.name} repository is wanted and cannot be trusted as it is: {found.refused}",
                evidence=(Evidence(f"repositories.{entry.name}", found.address),),
                remedy=found.by_hand,
                refused=found.refused,
                symptoms=("NO_PUBKEY", "is not bound", "SHA1 is not considered secure"),
            )
            continue
        lacks = lacking(context, entry, found)
        if not lacks:
            continue
        old, why = superseded(context, found)
        key = (
            "its packages are taken as they lie there" if found.trusted else f"its key is {found.fingerprint}"
        )
        yield Finding(
            code="GM230",
            status=Status.FAIL,
            summary=f"the {entry.name} repository is wanted, and {', '.join(lacks)} "
            + ("is" if len(lacks) == 1 else "are")
            + " not as it takes",
            evidence=(Evidence(f"repositories.{entry.name}", found.address),),
            cause=f"{found.address}: {key}.",
            remedy="Name what else the file names in a file of its own."
            if why
            else "Mend asks the repository for its index by itself first, with that key alone, and adds it where that answers.",
            change=None if why else Change(Component.REPOSITORIES, AddRepository(entry.name)),
            refused=why,
        )
        if old and not why:
            yield conflict(found, old, why)


def conflict(found: Place, old: tuple[str, ...], why: str) -> Finding:
    return Finding(
        code="GM231",
        status=Status.FAIL,
        summary=f"{found.uri} is named with another key in {', '.join(old) or 'another file'}: apt refuses both",
        evidence=tuple(Evidence(path, found.uri) for path in old),
        cause="An older guide, a package like cuda-keyring or somebody's own line came before.",
        remedy=f"Mend moves {', '.join(old)} into the run's backup."
        if not why
        else "Remove all but one of them.",
        change=None if why else Change(Component.REPOSITORIES, RemoveFiles(old)),
        refused=why,
        symptoms=("Conflicting values set for option Signed-By",),
    )


@rule(
    "GM231",
    "each wanted repository is named with one key, and apt may read it",
    "apt: Conflicting values set for option Signed-By; NVIDIA/cuda-repo-management#30, #39; apt-secure(8): gpgv runs as _apt",
    applies=wanted,
)
def one_key(context: Context) -> Iterator[Finding]:
    for entry in context.wanted.repositories:
        found = place_of(context, entry)
        keyring = context.state.repositories.keyring(found.keyring).get()
        if keyring is not None and not keyring.meta.mode & 0o004 and found.manager == "apt":
            yield Finding(
                code="GM231",
                status=Status.FAIL,
                summary=f"{found.keyring} has mode {keyring.meta.mode:04o}: apt's own user cannot read it",
                evidence=(Evidence(found.keyring, f"{keyring.meta.mode:04o}"),),
                cause="apt verifies as the user _apt; a keyring that it cannot read is a key that is not there.",
                remedy=f"Mend gives it mode 0644 (chmod 0644 {found.keyring}).",
                change=Change(Component.REPOSITORIES, SetMode(found.keyring)),
                symptoms=("NO_PUBKEY",),
            )
        if found.refused or lacking(context, entry, found):
            continue  # GM230
        old, why = superseded(context, found)
        if old or why:
            yield conflict(found, old, why)


@rule(
    "GM232",
    "the CUDA repository is that of this host's release",
    "cuda-keyring 1.1-1 is one version with another content in each repository; CUDA installation guide",
    applies=lambda context: any(entry.name == "cuda" for entry in context.wanted.repositories),
)
def release(context: Context) -> Iterator[Finding]:
    if context.state.packages.manager != "apt":
        return
    [entry] = [each for each in context.wanted.repositories if each.name == "cuda"]
    found = place_of(context, entry)
    right = CUDA.match(f"{found.uri}/")
    sources = apt_sources(context)
    for path in dict.fromkeys(each.path for each in sources):
        mine = [each.uri for each in sources if each.path == path]
        names = {match.group(1) for uri in mine if (match := CUDA.match(f"{uri}/"))}
        wrong = sorted(names - ({right.group(1)} if right else set()))
        if not wrong:
            continue
        alone = all(CUDA.match(f"{uri}/") for uri in mine) and len(names) == 1
        why = found.refused or ("" if alone else "it names other repositories, too")
        yield Finding(
            code="GM232",
            status=Status.WARN,
            summary=f"{path} names NVIDIA's CUDA repository of {', '.join(wrong)}, which is not this host's release",
            evidence=tuple(Evidence(path, uri) for uri in mine),
            cause="cuda-keyring has the same version in each repository, and brings the list of the one it came from.",
            remedy=f"Mend moves it into the run's backup; {found.address} stays."
            if not why
            else f"Remove it, or have {found.address} added first.",
            change=Change(Component.REPOSITORIES, RemoveFiles((path,))) if not why else None,
            refused=why,
        )
