"""Why a host has to be rebooted before its driver is the one that is installed; what `gpumend mend --reboot` goes by."""

from __future__ import annotations

from gpumend.rules.driver.drift import reboot_pending
from gpumend.rules.driver.driver import native
from gpumend.rules.finding import Finding, Status
from gpumend.rules.rule import Context
from gpumend.state.drift import kernel_kind, kernel_number
from gpumend.text.version import show


def installed_not_loaded(context: Context) -> str:
    """Why a driver that is installed is not the kernel's, in words; an empty text where none is installed, or one is loaded."""
    driver = context.state.driver
    on_disk = driver.module_on_disk.value
    if on_disk is None or not driver.loaded.absent or not native(context):
        return ""
    if context.state.gpus.nouveau_bound.value:
        return f"driver {show(on_disk)} is installed, and nouveau holds the GPU"
    return f"driver {show(on_disk)} is installed and not loaded"


def required(context: Context) -> tuple[str, ...]:
    """Why this host has to be rebooted, in words; nothing where it has not, and nothing in a container, which boots no kernel."""
    if context.state.machine.container.ok:
        return ()
    drift = context.state.drift
    found = [reboot_pending(context).removeprefix("a reboot is pending: ")]
    # Without `driver` in the desired state, somebody may keep the module out on purpose.
    found.append(installed_not_loaded(context) if context.wanted.driver is not None else "")
    if drift.reboot.value and native(context):
        names = [
            name
            for name in drift.reboot_packages.value or ()
            if "nvidia" in name or name.startswith("linux-image")
        ]
        found.append(f"the distribution waits for one, for {', '.join(names[:4])}" if names else "")
    return tuple(filter(None, found))


# Findings that say that the next boot would not bring what is there now, or would bring less: the CDI spec and the engines' order
# (GM314), the module for Secure Boot (GM120), for the next kernel (GM112, GM121), packages that are not finished (GM122, GM008),
# runs that were interrupted or ended broken (GM003, GM007).
AT_BOOT_CODES = ("GM003", "GM007", "GM008", "GM112", "GM120", "GM121", "GM122", "GM314")


def next_kernel(context: Context) -> str:
    """Why the kernel that boots next is not known to have the driver's module, in words; an empty text where it has it, and
    where this host has no driver of its own. The newest of the running kernel's kind is taken for the next one."""
    if not native(context):
        return ""
    drift, running = context.state.drift, context.state.host.kernel
    if not drift.kernels.known or not drift.with_module.known:
        return "which kernels are here and have the module is not known"
    mine = [name for name in drift.kernels.value or () if kernel_kind(name) == kernel_kind(running)]
    newest = max(mine, key=kernel_number, default=running)
    return (
        ""
        if newest in (drift.with_module.value or ())
        else f"kernel {newest}, which boots next, has no nvidia module"
    )


def lost_at_boot(context: Context, findings: tuple[Finding, ...]) -> tuple[str, ...]:
    """Why this host would not come back with all that it has, or is about to have; nothing where it would. findings: its
    own, of which a waived one is somebody's to answer for."""
    found = [
        f"{finding.code}: {finding.summary}"
        for finding in findings
        if finding.code in AT_BOOT_CODES and finding.status in (Status.FAIL, Status.WARN, Status.UNKNOWN)
    ]
    kernel = "" if any(text.startswith("GM112") for text in found) else next_kernel(context)
    return tuple(filter(None, (*found, kernel)))
