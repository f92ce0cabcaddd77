"""A site's allocations of containers that are not there."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import ReconcileAllocations
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import ReleaseAllocation, SetMetadataAside
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.text.edits import EditError


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    books = context.wanted.allocations
    if books is None:
        raise EditError("the desired state names no allocations")
    step = ReconcileAllocations(
        spec=books.spec(),
        entries=tuple((action.slot, action.container) for action in of_kind(changes, ReleaseAllocation)),
        orphans=tuple(action.file for action in of_kind(changes, SetMetadataAside)),
        lock=books.lock,
        log=books.log,
        allocator=() if books.interactive else books.allocator,
        monitors=books.monitors,
        grace=books.grace,
        max_release=books.max_release,
    )
    return Transaction(Component.ALLOCATIONS, codes, (step,))
