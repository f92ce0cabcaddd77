"""GRIT's own configuration file."""

from __future__ import annotations

from gpumend.plan.changes import edited, edits_of
from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.text.edits import apply_lines


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    edits = edits_of(changes)
    steps = edited(edits[0].path, context.state.grit.content.get(), edits, apply_lines)
    return Transaction(Component.GRIT, codes, steps)
