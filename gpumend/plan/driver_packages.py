"""The wanted driver: its packages, then what counts at the next boot, then holds; proven by dpkg or rpm, and modinfo."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import (
    DriverPackages,
    DriverProof,
    EnableUnits,
    HoldDriver,
    ModuleStream,
    RenewInitramfs,
    Step,
    WriteFile,
)
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import InstallDriver
from gpumend.rules.driver.driver_packages import TEXTS, module_text
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.driver_packages import MODULE_FILE, NOUVEAU_OFF


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    [job] = of_kind(changes, InstallDriver)
    wanted = context.wanted.driver
    assert wanted is not None
    initramfs = NOUVEAU_OFF in job.files
    steps: list[Step] = [RenewInitramfs(first=True)] if initramfs else []
    if job.stream:
        now = context.state.driver_packages.files[MODULE_FILE].get()
        written = WriteFile.over(MODULE_FILE, now, module_text(job.stream))
        steps.append(ModuleStream(written.path, written.before, written.data, written.was, job.stream))
    if job.targets:
        made = DriverPackages(
            job.manager,
            "install",
            job.targets,
            branch=job.branch,
            version=job.version,
            pinning=job.pinning,
            upgrade=job.upgrade,
            in_use=context.wanted.restarts,
            stream=bool(job.stream),
            headers=job.headers,
        )
        steps.append(made)
    for path in job.files:
        now = context.state.driver_packages.files[path].get()
        steps.append(WriteFile.over(path, now, TEXTS[path].encode()))
    steps += [RenewInitramfs()] if initramfs else []
    steps += [EnableUnits(job.units)] if job.units else []
    steps += [HoldDriver(job.manager)] if job.hold else []
    steps.append(DriverProof(job.manager, job.branch, job.version, job.names, job.flavour))
    return Transaction(Component.DRIVER_PACKAGES, codes, tuple(steps), package_wait=wanted.lock_wait)
