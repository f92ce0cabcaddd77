"""The toolkit's packages, all in one version; proven by what its programs say. Their scripts write config.toml."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import PackageStep, ToolkitProof, WrittenByPackage, seen
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import InstallPackages
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.toolkit import CONFIG


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    [job, *_] = of_kind(changes, InstallPackages)
    manager = context.state.packages.manager
    config = WrittenByPackage(CONFIG, seen(context.state.toolkit.content.get()))
    install = PackageStep(manager, job.verb, job.targets, config, job.least, job.broken)
    steps = (install, ToolkitProof(manager, job.version))
    return Transaction(Component.PACKAGES, codes, steps, package_wait=context.wanted.toolkit_lock_wait)
