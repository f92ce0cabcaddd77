"""Why a host has to be rebooted before its driver is the one that is installed; what `gpumend mend --reboot` goes by."""

from __future__ import annotations

from gpumend.rules.driver.drift import reboot_pending
from gpumend.rules.driver.driver import native
from gpumend.rules.rule import Context
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
