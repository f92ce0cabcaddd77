"""GM120 to GM123: the kernel module and its packages: signed for Secure Boot, built by DKMS, configured, of one source."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.driver.drift import NUMBERED, driver_packages
from gpumend.rules.driver.driver import loaded, native
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.text.pattern import Pattern
from gpumend.text.version import package_version, show

# The kernel does not say which module it has refused (linux kernel/module/signing.c module_sig_check).
UNNAMED = "Loading of module with unavailable key"


def own_kernel(context: Context) -> bool:
    """As native, and the kernel is this system's own: a container boots none."""
    return native(context) and not context.state.machine.container.ok


@rule(
    "GM120",
    "Secure Boot takes the module",
    "linux Documentation/admin-guide/module-signing.rst, kernel/module/signing.c; mokutil(1); modinfo(8)",
    applies=own_kernel,
)
def signed(context: Context) -> Iterator[Finding]:
    host, driver, signer = context.state.host, context.state.driver, context.state.modules.signer
    if host.secure_boot.value is not True or driver.module_on_disk.value is None:
        return
    log = context.state.machine.log
    there = driver.loaded.value is not None
    if there and driver.loaded.value == driver.module_on_disk.value:
        return  # the kernel took it
    named = [line for line in log.value or () if "Key was rejected" in line]
    refused = named or [line for line in log.value or () if UNNAMED in line and not there]
    if signer.need() and not refused:
        if not there:
            log.get()
        return
    how = "not signed"
    if signer.value:
        how = f"signed with a key that the kernel {'does' if named else 'may'} not know"
    yield Finding(
        code="GM120",
        status=Status.WARN if there or (signer.value and not named) else Status.FAIL,
        summary=f"Secure Boot is on, and the module {show(driver.module_on_disk.value)} on disk is {how}",
        evidence=(
            Evidence("mokutil --sb-state", "SecureBoot enabled"),
            Evidence("modinfo -F signer nvidia", signer.value or "nobody"),
            *(Evidence("dmesg", line.strip()[:200]) for line in refused[-2:]),
        ),
        cause="The kernel loads signed modules only, and DKMS' or the runfile's own is signed with no key, or with one that was never enrolled.",
        remedy="Enrol the key (`mokutil --import /var/lib/shim-signed/mok/MOK.der` or /var/lib/dkms/mok.pub, then reboot and confirm on the console), "
        "or install the distribution's signed module (Ubuntu: linux-modules-nvidia-...), or switch Secure Boot off.",
        risk=Risk.REBOOT,
        refused="keys are enrolled on the console",
        symptoms=(
            "modprobe: ERROR: could not insert 'nvidia': Key was rejected by service",
            "Required key not available",
        ),
    )


@rule(
    "GM121",
    "DKMS has built the module",
    "dkms(8); pop-os/pop#3811, zen-kernel#305",
    applies=own_kernel,
)
def built(context: Context) -> Iterator[Finding]:
    modules, drift, host = context.state.modules, context.state.drift, context.state.host
    added = modules.added.get() or ()
    if not added:
        return
    have, done = drift.with_module.get() or (), {kernel for _, kernel in modules.built.get() or ()}
    newest = drift.orphaned(host.kernel)  # GM112 tells of it where nothing failed
    for kernel in dict.fromkeys((host.kernel, newest)):
        if kernel is None or kernel in have or kernel in done:
            continue
        failed = [found for found in modules.failed if found.kernel in ("", kernel)]
        running = kernel == host.kernel
        if context.state.driver.loaded.value is not None and running:
            continue  # it is loaded, wherever it came from
        if not running and not failed:
            continue
        yield Finding(
            code="GM121",
            status=Status.FAIL if running else Status.WARN,
            summary=f"DKMS has no nvidia module for kernel {kernel}, which {'runs' if running else 'boots next'}",
            evidence=(
                Evidence("/var/lib/dkms", f"nvidia {', '.join(sorted(set(added)))} is added"),
                Evidence(f"/lib/modules/{kernel}/modules.dep", "names no nvidia module"),
                *(Evidence(found.log, found.error[:200]) for found in failed[:2]),
            ),
            cause="The build failed."
            if failed
            else "It was not built: the kernel's headers are missing, or DKMS was not called.",
            remedy=f"Install linux-headers-{kernel}, then `dkms autoinstall -k {kernel}`; where the build fails, read its make.log: as a rule "
            "the driver is too old for this kernel, and a newer one of its branch builds.",
            risk=Risk.REBOOT,
            refused="kernels and drivers are not installed by mend",
            symptoms=(
                "Error! Bad return status for module build on kernel",
                "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver",
            ),
        )


# Packages whose names begin like the driver's. Of others it is not ours to say.
OURS = Pattern(
    r"(?:lib)?nvidia-|linux-(?:modules|objects|signatures)-nvidia-|cuda-drivers|libcuda1|xserver-xorg-video-nvidia"
)


@rule(
    "GM122",
    "driver packages are configured",
    "dpkg(1), PACKAGE STATES; pop-os/pop#3811, pop-os/beta#310",
    applies=native,
)
def configured(context: Context) -> Iterator[Finding]:
    broken = {
        name: word
        for name, word in (context.state.modules.unconfigured.get() or {}).items()
        if OURS.match(name)
    }
    if not broken:
        return
    log = context.state.modules.failed
    yield Finding(
        code="GM122",
        status=Status.FAIL,
        summary=f"{next(iter(broken))} is {next(iter(broken.values()))}"
        + (
            f", and {len(broken) - 1} more of the driver's packages are not finished"
            if len(broken) > 1
            else ""
        ),
        evidence=(
            *(Evidence("dpkg-query -W", f"{name}: {word}") for name, word in sorted(broken.items())[:6]),
            *(Evidence(found.log, found.error[:200]) for found in log[:1]),
        ),
        cause="An upgrade ended in the middle: as a rule the module's build failed, or the machine went down.",
        remedy="`dpkg --configure -a`, and read why it fails (a DKMS build: GM121); no package can be installed until then.",
        risk=Risk.REBOOT,
        refused="the driver's packages are not changed by mend",
        symptoms=(
            "dpkg: error processing package nvidia-dkms",
            "post-installation script subprocess returned error exit status 10",
        ),
    )


def _branch(name: str) -> str:
    """The branch in a package's name: `580` of libnvidia-compute-580-server; empty where it has none."""
    match = re.search(r"-(\d{3})(?=-|$)", name)
    return match.group(1) if match else ""


def source_of(version: str) -> str:
    """Whose package a version's revision shows: Ubuntu's `0ubuntu0.24.04.1`, NVIDIA's own `0ubuntu1` and `1ubuntu1`; empty
    where it does not show (packages.ubuntu.com; developer.download.nvidia.com/compute/cuda/repos)."""
    if re.search(r"-\d+ubuntu0\.\d", version):
        return "Ubuntu"
    return "NVIDIA" if re.search(r"-[01]ubuntu1$", version) else ""


@rule(
    "GM123",
    "the driver's packages are of one version and one source",
    "ubuntu-packaging-nvidia-driver#3; NVIDIA driver installation guide, Version Locking",
    applies=loaded,
)
def one_source(context: Context) -> Iterator[Finding]:
    groups: dict[str, dict[str, str]] = {}
    for name, version in driver_packages(context).items():
        if name.startswith(
            (*NUMBERED, "nvidia-utils", "nvidia-kernel-common", "nvidia-kernel-source")
        ) and _branch(name):
            groups.setdefault(_branch(name), {})[name] = version
    loaded_branch = (context.state.driver.loaded.value or (0,))[0]
    group = groups.get(str(loaded_branch), {})
    numbers = {}
    for name, version in group.items():
        try:
            numbers[name] = package_version(version)
        except ValueError:
            continue
    sources = {name: source_of(group[name]) for name in numbers if source_of(group[name])}
    mixed = len(set(sources.values())) > 1
    if len(set(numbers.values())) < 2 and not mixed:
        return
    yield Finding(
        code="GM123",
        status=Status.WARN,
        summary="the driver's packages are of Ubuntu's and of NVIDIA's repository at once"
        if mixed
        else f"the driver's packages of branch {loaded_branch} are of different versions",
        evidence=tuple(Evidence("dpkg", f"{name} {group[name]}") for name in sorted(numbers)[:8]),
        cause="Two repositories offer the same package names, and an upgrade took some from the one and some from the other.",
        remedy="Choose one (a pin in /etc/apt/preferences.d, or remove the other list), then install all of them in one version together.",
        risk=Risk.REBOOT,
        refused="the driver's packages are not changed by mend",
        symptoms=("Driver/library version mismatch", "but it is not going to be installed"),
    )
