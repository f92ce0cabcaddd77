"""The toolkit's config.toml."""

from __future__ import annotations

from gpumend.plan.changes import edited, edits_of
from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    edits = edits_of(changes)
    steps = edited(edits[0].path, context.state.toolkit.content.get(), edits)
    return Transaction(Component.TOOLKIT, codes, steps)
