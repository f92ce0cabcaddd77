"""A container engine's packages; proven by what it answers."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import PackageStep, RunCommand
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import InstallEngine
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    [job] = of_kind(changes, InstallEngine)
    steps = (PackageStep(context.state.packages.manager, "install", job.targets), RunCommand(job.proof))
    return Transaction(Component.ENGINE, codes, steps, package_wait=context.wanted.toolkit_lock_wait)
