"""GM11x: what will change the driver under the host, or has already: reboots that wait, upgrades, kernels."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.driver import gpus
from gpumend.rules.driver.driver import loaded, native
from gpumend.rules.engines.engine import stopped_by_restart
from gpumend.rules.finding import Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.text.version import package_version, show


def reboot_pending(context: Context) -> str:
    """Why the driver in the kernel is not the one that is installed, in words; an empty text where it is, or where
    there is nothing to compare. While it is not, changes around the driver would be made for the wrong one."""
    driver = context.state.driver
    module, library, next_module = (
        driver.loaded.value,
        driver.userspace().value,
        driver.module_on_disk.value,
    )
    if module is None or not native(context):
        return ""
    if library is not None and library != module and context.state.machine.container.ok:
        return (
            f"the libraries of this container are {show(library)}, the outer host's driver is {show(module)}"
        )
    if library is not None and library != module:
        return f"a reboot is pending: the loaded driver is {show(module)}, its libraries are {show(library)}"
    if next_module is not None and next_module != module and not context.state.machine.container.ok:
        return (
            f"a reboot is pending: the loaded driver is {show(module)}, the next one is {show(next_module)}"
        )
    return ""


def hold(findings: list[Finding], context: Context) -> list[Finding]:
    """The findings without changes that a pending reboot makes harmful: anything around driver libraries, and a restart
    of dockerd under running containers, which could not get the GPU back. And without those that a GPU which does not
    answer holds back."""
    findings = gpus.hold(findings, context)
    reason = reboot_pending(context)
    libraries = context.state.driver.userspace()
    if not reason and native(context) and context.state.driver.loaded.ok and not libraries.known:
        reason = f"whether a reboot is pending is not known: {libraries.source} could not be read"
    if not reason:
        return findings

    def harmful(finding: Finding) -> bool:
        change = finding.change
        if change is None:
            return False
        if change.component in (Component.DRIVER, Component.CUDA):
            return True
        return stopped_by_restart(context, change.component, change.service)

    return [found._replace(change=None, refused=reason) if harmful(found) else found for found in findings]


def driver_packages(context: Context) -> dict[str, str]:
    """The driver's packages and their versions; raises Unread where the package database could not be read."""
    return {found.name: found.version for found in context.state.cuda.of_role("driver")}


# The packages whose version is the driver's own, on Debian, Ubuntu, RHEL, Fedora and SUSE. Others of the driver
# (nvidia-settings, cuda-drivers' fabric manager, linux-modules-nvidia) follow other numbers.
NUMBERED = (
    "nvidia-driver", "nvidia-headless", "libnvidia-compute", "libcuda1", "nvidia-kernel-dkms", "nvidia-dkms",
    "nvidia-open", "nvidia-compute-utils", "nvidia-compute-G", "xorg-x11-drv-nvidia-cuda-libs", "kmod-nvidia",
)  # fmt: skip


@rule(
    "GM110",
    "the module in the kernel is the one that is installed",
    "modinfo(8); open-gpu-kernel-modules kernel-open/nvidia/nv-procfs.c",
    applies=lambda context: loaded(context) and not context.state.machine.container.ok,
)
def next_module(context: Context) -> Iterator[Finding]:
    driver = context.state.driver
    module, on_disk = driver.loaded.need(), driver.module_on_disk
    if not on_disk.known and not on_disk.detail.startswith("exit status"):
        on_disk.need()  # modinfo's own exit status says that there is no such module
    if on_disk.value is None or on_disk.value == module:
        return
    if driver.userspace().value not in (None, module):  # GM101 says it, with this as evidence
        return
    yield Finding(
        code="GM110",
        status=Status.WARN,
        summary=f"a reboot is pending: the loaded driver is {show(module)}, the module on disk is {show(on_disk.value)}",
        evidence=(
            Evidence("/proc/driver/nvidia/version", f"loaded module {show(module)}"),
            Evidence("modinfo -F version nvidia", show(on_disk.value)),
        ),
        cause="The module was upgraded, and the old one is still in the kernel. Once its libraries follow, or the module is "
        "loaded anew, nothing new can use the GPU until the next boot.",
        remedy="Reboot when it suits. Until then mend changes nothing around the driver.",
        risk=Risk.REBOOT,
        refused="a reboot is the owner's decision",
    )


@rule(
    "GM111",
    "the driver's packages and its libraries are of one version",
    "NVIDIA driver installation guide, Conflicting Installation Methods",
    applies=loaded,
)
def packages(context: Context) -> Iterator[Finding]:
    library = context.state.driver.userspace()
    if library.get() is None:
        return
    found = {
        name: version
        for name, version in driver_packages(context).items()
        if name.startswith(NUMBERED) and _number(version) is not None
    }
    others = {name: version for name, version in found.items() if _number(version) != library.value}
    # Names with a branch of their own (nvidia-driver-535) may be left-overs beside the branch in use.
    if not found or len(others) < len(found):
        return
    runfile = context.state.drift.runfile
    yield Finding(
        code="GM111",
        status=Status.WARN,
        summary=f"the driver's libraries are {show(library.need())}, its packages are of another version",
        evidence=(
            Evidence(library.source, show(library.need())),
            *(Evidence("dpkg, rpm", f"{name} {version}") for name, version in sorted(others.items())[:4]),
            *([Evidence("/usr/bin/nvidia-uninstall", "there: NVIDIA's runfile was used")] if runfile else []),
        ),
        cause="The driver in use came from NVIDIA's runfile, over a driver of packages: the next package upgrade breaks it."
        if runfile
        else "Files of another driver lie before those of the packages, or a package is only half installed.",
        remedy="Keep one way: `nvidia-uninstall` and reinstall the packages, or remove the packages.",
        risk=Risk.REBOOT,
        refused="the driver is not changed by mend",
    )


def _number(version: str) -> tuple[int, ...] | None:
    try:
        found = package_version(version)
    except ValueError:
        return None
    return found if found[0] >= 300 else None


@rule(
    "GM112",
    "the newest kernel has an nvidia module",
    "modules.dep(5); NVIDIA driver installation guide, DKMS",
    applies=loaded,
)
def orphaned(context: Context) -> Iterator[Finding]:
    drift, host = context.state.drift, context.state.host
    newest = drift.orphaned(host.kernel)
    if newest is None:
        return
    yield Finding(
        code="GM112",
        status=Status.WARN,
        summary=f"kernel {newest}, which boots next, has no nvidia module",
        evidence=(
            Evidence("uname -r", host.kernel),
            Evidence(f"/lib/modules/{host.kernel}/modules.dep", "names an nvidia module"),
            Evidence(f"/lib/modules/{newest}/modules.dep", "names none"),
        ),
        cause="The kernel was upgraded without the driver: DKMS did not build for it (no kernel headers), or the "
        "distribution's module package for it is not installed.",
        remedy=f"Install linux-headers-{newest} and run `dkms autoinstall -k {newest}`, or install the matching "
        "linux-modules-nvidia package, before the next reboot.",
        risk=Risk.REBOOT,
        refused="kernels and drivers are not installed by mend",
        symptoms=("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",),
    )


@rule(
    "GM113",
    "automatic upgrades leave the driver alone",
    "unattended-upgrades README (Package-Blacklist is matched from the start of the name); lyulyul/shine-cluster#50, pando85/homelab#4110",
    applies=loaded,
)
def unattended(context: Context) -> Iterator[Finding]:
    settings = context.state.drift.unattended.get()
    if settings is None or not settings.enabled:
        return
    held = context.state.packages.held
    free = [
        name
        for name in driver_packages(context)
        if name.startswith(NUMBERED) and name not in held and not settings.covers(name)
    ]
    if not free:
        return
    yield Finding(
        code="GM113",
        status=Status.WARN,
        summary="unattended upgrades may change the driver under the running module",
        evidence=(
            Evidence("apt-config dump", "APT::Periodic::Unattended-Upgrade is on"),
            Evidence(
                "Unattended-Upgrade::Package-Blacklist",
                ", ".join(settings.blacklist) or "nothing is left out",
            ),
            Evidence("dpkg", f"not held: {', '.join(sorted(free)[:6])}"),
        ),
        cause="An upgraded library and the old module do not work together: every new program on the GPU fails until a reboot.",
        remedy='Put "nvidia-", "libnvidia-", "libcuda1" and "cuda-drivers" into Unattended-Upgrade::Package-Blacklist, '
        "or `apt-mark hold` the driver's packages, and upgrade them together with a reboot.",
        refused="when the driver is upgraded is the owner's decision",
        symptoms=("Driver/library version mismatch",),
    )


@rule(
    "GM114",
    "no reboot is pending",
    "/run/reboot-required (Debian, Ubuntu: update-notifier-common)",
    applies=native,
)
def waited_for(context: Context) -> Iterator[Finding]:
    drift = context.state.drift
    if not drift.reboot.need():
        return
    packages = drift.reboot_packages.get() or ()
    mine = [name for name in packages if "nvidia" in name or name.startswith(("linux-image", "linux-base"))]
    if not mine:
        return
    yield Finding(
        code="GM114",
        status=Status.WARN,
        summary=f"the distribution waits for a reboot, for {', '.join(mine[:4])}",
        evidence=(Evidence("/run/reboot-required.pkgs", ", ".join(packages[:12])),),
        cause="A kernel or the driver was upgraded. What boots next is not what runs now.",
        remedy="Reboot when it suits; look at GM112 first, which says whether the next kernel has the driver.",
        risk=Risk.REBOOT,
        refused="a reboot is the owner's decision",
    )
