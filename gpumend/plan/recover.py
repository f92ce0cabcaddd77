"""An interrupted run is put back."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import RecoverRun
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    journals = tuple(action.journal for action in of_kind(changes, RecoverRun))
    return Transaction(Component.RECOVER, codes, journals=journals)
