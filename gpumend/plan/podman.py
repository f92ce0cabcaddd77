"""podman's directories of CDI specs."""

from __future__ import annotations

from gpumend.plan.step import WriteFile
from gpumend.plan.transaction import Transaction
from gpumend.rules.engines import podman
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    return Transaction(Component.PODMAN, codes, (WriteFile.over(podman.DROP_IN, None, podman.TEXT.encode()),))
