"""APT sources of the toolkit: those that contradict the current one go."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import RemoveFile
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import RemoveFiles
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    sources = context.state.toolkit.sources.need()
    # Two sources may both contradict the same old file.
    paths = dict.fromkeys(path for action in of_kind(changes, RemoveFiles) for path in action.paths)
    steps = tuple(RemoveFile(path, sources[path].sha256) for path in paths)
    return Transaction(Component.APT, codes, steps)
