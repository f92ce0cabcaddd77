"""Wanted repositories: each is asked by itself first, with its key alone; then its files are there, and what it has is known."""

from __future__ import annotations

from gpumend.plan import step
from gpumend.plan.changes import of_kind
from gpumend.plan.step import IndexDirectory, RemoveFile, Step, TryRepository, WriteFile, seen
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import AddRepository, RemoveFiles, SetMode
from gpumend.rules.finding import Change, Component
from gpumend.rules.repositories.place import Place, files_of, have, place_of, stale_index, stanza, superseded
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    names = [action.name for action in of_kind(changes, AddRepository)]
    gone = [path for action in of_kind(changes, RemoveFiles) for path in action.paths]
    steps: list[Step] = []
    tried: list[Step] = []
    written: set[str] = set()
    for entry in context.wanted.repositories:
        if entry.name not in names:
            continue
        found = place_of(context, entry)
        gone += superseded(context, found)[0]
        if stale_index(context, entry, found):
            before = seen(context.state.repositories.indexes[entry.index_path].get())
            steps.append(IndexDirectory(entry.index_path, before, entry.directory))
        for path, data in files_of(context, entry, found).items():
            now = have(context, path)
            if now is None or now.data != data:
                steps.append(WriteFile.over(path, now, data))
                written.add(path)
        tried.append(trial(found, entry.directory))
    modes = [action.path for action in of_kind(changes, SetMode) if action.path not in written]
    steps += [step.SetMode(path, seen(have(context, path))) for path in dict.fromkeys(modes)]
    steps += [RemoveFile(path, seen(have(context, path))) for path in dict.fromkeys(gone)]
    # Tried while nothing is there yet; what they have is fetched when all is.
    return Transaction(
        Component.REPOSITORIES, codes, (*steps, *tried), package_wait=context.wanted.toolkit_lock_wait
    )


def trial(found: Place, directory: str) -> TryRepository:
    made = directory if found.made else ""
    return TryRepository(
        found.name,
        found.manager,
        found.address,
        found.source_file,
        stanza(found),
        found.keyring,
        found.key,
        made,
        found.local,
        found.fingerprint,
    )
