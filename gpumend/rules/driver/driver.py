"""GM1xx: the NVIDIA driver, as far as containers need it. Numbers in sources are of the failure catalogue
(docs/sources.md): nct = NVIDIA/nvidia-container-toolkit, nd = NVIDIA/nvidia-docker, lnc = NVIDIA/libnvidia-container."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.change import MakeControlNodes, RefreshLinkerCache, RunModprobe
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.managers import is_described, managers, operators_driver
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.driver import CONTROL_NODES
from gpumend.state.fabric import kind
from gpumend.state.manager import DRIVER_ROOT
from gpumend.text.pattern import Pattern
from gpumend.text.version import Version, show, upstream

# Where somebody else's driver lies off the linker's path, and is meant to.
OTHER_ROOTS = (f"{DRIVER_ROOT}/", "/home/kubernetes/bin/nvidia/")


def native(context: Context) -> bool:
    """A GPU with a driver of its own in this kernel: not WSL2 (Windows has the driver) and not Tegra."""
    return has_gpu(context) and not context.state.host.wsl2 and not context.state.host.tegra


def loaded(context: Context) -> bool:
    """As native, and the nvidia module is in the kernel, or it is not known that it is not."""
    return native(context) and not context.state.driver.loaded.absent


@rule(
    "GM101",
    "the driver's module and its libraries are of one version",
    "nct#394, nct#171, ubuntu-packaging-nvidia-driver#3",
    applies=loaded,
)
def mismatch(context: Context) -> Iterator[Finding]:
    driver = context.state.driver
    module, libraries = driver.loaded.need(), driver.userspace()
    found = libraries.get()
    if found is None or found == module:
        return
    evidence = [
        Evidence("/proc/driver/nvidia/version", f"loaded module {show(module)}"),
        Evidence(libraries.source, f"library {show(found)}"),
    ]
    if driver.module_on_disk.value:
        evidence.append(
            Evidence("modinfo -F version nvidia", f"module on disk {show(driver.module_on_disk.value)}")
        )
    outer = context.state.machine.container
    if outer.ok:
        evidence.append(
            Evidence(outer.source, f"this is a container ({outer.value}): the driver is the outer host's")
        )
    yield Finding(
        code="GM101",
        status=Status.FAIL,
        summary=f"the loaded driver is {show(module)}, its libraries are {show(found)}",
        evidence=tuple(evidence),
        cause="The outer host's driver was upgraded, the libraries in this container were not."
        if outer.ok
        else "The driver's packages were upgraded and the old module is still in the kernel.",
        remedy=f"Install the libraries of driver {show(module)} in this container, without a kernel module (runfile: "
        "`--no-kernel-modules`; packages: libnvidia-compute of that version), and again whenever the outer host's changes."
        if outer.ok
        else "Reboot, or, with nothing using a GPU, unload nvidia_uvm, nvidia_drm, nvidia_modeset and nvidia and load "
        "nvidia again. Then run this audit again: CDI specs name the old version's files.",
        risk=Risk.NONE if outer.ok else Risk.REBOOT,
        symptoms=(
            "Driver/library version mismatch",
            "system has unsupported display driver / cuda driver combination",  # CUDA error 803
            "forward compatibility was attempted on non supported HW",  # 804, seen with newer libraries and no compat
        ),
    )


@rule("GM102", "the nvidia module is loaded", "nct#260, nd#365, compute-gpu-installation#18", applies=native)
def not_loaded(context: Context) -> Iterator[Finding]:
    driver, host = context.state.driver, context.state.host
    nouveau_has_it = (
        "nouveau" in (driver.modules.value or ()) and context.state.gpus.nouveau_bound.value
    )  # GM103
    if driver.loaded.get() is not None or nouveau_has_it:
        return
    evidence = [Evidence("/proc/driver/nvidia/version", "not there"), Evidence("uname -r", host.kernel)]
    if host.secure_boot.value:
        evidence.append(Evidence("mokutil --sb-state", "SecureBoot enabled: the module must be signed"))
    on_disk = driver.module_on_disk
    if on_disk.value:
        evidence.append(Evidence("modinfo -F version nvidia", show(on_disk.value)))
        cause = f"A module {show(on_disk.value)} for kernel {host.kernel} is there, but not loaded."
        remedy = "`modprobe nvidia`, and read `dmesg` if that fails (Secure Boot, another driver, a GPU off the bus)."
    elif "not found" not in on_disk.detail:
        evidence.append(Evidence("modinfo -F version nvidia", on_disk.detail or str(on_disk.status)))
        cause = "Whether a module for this kernel exists is not known."
        remedy = "Look with `modinfo nvidia` and `dmesg`."
    else:
        evidence.append(Evidence("modinfo -F version nvidia", on_disk.detail))
        cause = f"There is no nvidia module for the running kernel {host.kernel}: it came with a kernel update, or none was ever built."
        remedy = "Install the driver's module for this kernel (kernel headers and DKMS, or the distribution's linux-modules-nvidia package)."
    yield Finding(
        code="GM102",
        status=Status.FAIL,
        summary="the NVIDIA driver is not loaded",
        evidence=tuple(evidence),
        cause=cause,
        remedy=remedy,
        risk=Risk.REBOOT,
        symptoms=("couldn't communicate with the NVIDIA driver", "driver not loaded"),
    )


@rule(
    "GM103", "nouveau does not hold the GPU", "mattshma/bigdata#133, Oneflow-Inc/oneflow#3106", applies=native
)
def nouveau(context: Context) -> Iterator[Finding]:
    driver, gpus = context.state.driver, context.state.gpus
    bound = gpus.nouveau_bound.get() if "nouveau" in (driver.modules.get() or ()) else None
    if not bound:
        return
    evidence = [Evidence("/proc/modules", "nouveau")]
    evidence.extend(Evidence("/sys/bus/pci/drivers/nouveau", address) for address in bound)
    if driver.nouveau_blacklisted.value:
        evidence.append(
            Evidence(
                "/etc/modprobe.d", "nouveau is blacklisted already: the initramfs or a reboot is missing"
            )
        )
    yield Finding(
        code="GM103",
        status=Status.FAIL,
        summary="nouveau holds the GPU, so the NVIDIA driver cannot",
        evidence=tuple(evidence),
        cause="The kernel's own driver was loaded first.",
        remedy="Write `blacklist nouveau` and `options nouveau modeset=0` to /etc/modprobe.d/blacklist-nouveau.conf, renew the "
        "initramfs (update-initramfs -u, or dracut --force) and reboot.",
        risk=Risk.REBOOT,
        symptoms=("NVRM: The NVIDIA probe routine was not called",),
    )


@rule(
    "GM104",
    "the driver's libraries are in the linker's cache",
    "lnc#231, nct#154, docker/for-win#13835; nct#735",
    applies=loaded,
)
def libraries(context: Context) -> Iterator[Finding]:
    driver = context.state.driver
    if driver.loaded.get() is None:
        return
    present = {found.soname: found for found in driver.libraries.need()}
    cached = driver.cached.need()
    toolkit = context.state.toolkit
    root = toolkit.value("nvidia-container-cli", "root") if toolkit.config.known else None
    if is_described(context) and any(found.ok for found in context.state.manager.opengl.values()):
        return  # /run/opengl-driver/lib: such a system has no linker's cache
    for soname in ("libnvidia-ml.so.1", "libcuda.so.1"):
        if soname in cached or (root and soname in present):
            continue
        if soname in present and present[soname].path.startswith(OTHER_ROOTS) and managers(context):
            continue
        if soname in present:
            library = present[soname]
            directory = library.path.rpartition("/")[0]
            standard = re.fullmatch(r"/usr/lib(64|/[^/]+-linux-gnu)?", directory) is not None
            yield Finding(
                code="GM104",
                status=Status.FAIL,
                summary=f"{soname} is in {directory}, but not in the dynamic linker's cache",
                evidence=(Evidence(library.path, "exists"), Evidence("ldconfig -p", f"no {soname}")),
                cause="ldconfig has not run since the driver was installed."
                if standard
                else "The driver's libraries are off the linker's path.",
                remedy="Mend runs ldconfig."
                if standard
                else f"Name {directory} in a file of /etc/ld.so.conf.d and run ldconfig, or set nvidia-container-cli.root.",
                change=Change(Component.DRIVER, RefreshLinkerCache()) if standard else None,
                refused=""
                if standard
                else f"{directory} is not a standard directory: which files belong there is not ours to decide",
                symptoms=(
                    "load library failed: libnvidia-ml.so.1",
                    "ERROR_LIBRARY_NOT_FOUND",
                    "failed to locate libcuda.so",
                ),
            )
        else:
            yield Finding(
                code="GM104",
                status=Status.FAIL,
                summary=f"{soname} is not installed, although the driver's module is loaded",
                evidence=(
                    Evidence("ldconfig -p", f"no {soname}"),
                    Evidence("the usual library directories", f"no {soname}"),
                ),
                cause="The driver's user-space packages are missing.",
                remedy=f"Install the libraries of driver {show(driver.loaded.need())}: the same version as the module.",
                symptoms=("load library failed: libnvidia-ml.so.1", "ERROR_LIBRARY_NOT_FOUND"),
            )


def node_maker(context: Context, numbered: bool) -> RunModprobe | MakeControlNodes | None:
    """What makes missing nodes here; None where nothing does. numbered: whether a GPU's own are there: `nvidia-ctk system
    create-device-nodes --control-devices` makes the others alone."""
    toolkit = context.state.toolkit
    if toolkit.programs["nvidia-modprobe"].ok:
        return RunModprobe()
    by_ctk = toolkit.programs["nvidia-ctk"].ok and (toolkit.version.value or ()) >= (1, 14)
    return MakeControlNodes() if by_ctk and numbered else None


def without_nodes(context: Context) -> bool:
    """Whether no GPU has a device node on this host, and nothing here makes one (GM105)."""
    driver = context.state.driver
    if not loaded(context) or operators_driver(context.state) or node_maker(context, False):
        return False
    return all(reading.absent for path, reading in driver.nodes.items() if path not in CONTROL_NODES)


@rule(
    "GM105",
    "the GPU's device nodes are there",
    "nct#50, nct#1982, NVIDIA/enroot#106, k8s-device-plugin#222",
    applies=loaded,
)
def nodes(context: Context) -> Iterator[Finding]:
    driver = context.state.driver
    if driver.loaded.get() is None:
        return
    gpus = {path: reading for path, reading in driver.nodes.items() if path not in CONTROL_NODES}
    numbered = [path for path, reading in gpus.items() if reading.get() is not None]
    missing = [path for path in ("/dev/nvidiactl", "/dev/nvidia-uvm") if driver.nodes[path].get() is None]
    if not numbered:
        missing.insert(0, "/dev/nvidia0")
    if operators_driver(context.state):  # a driver container has them below its own root
        there = [path.removeprefix(DRIVER_ROOT) for path in context.state.manager.driver_nodes.need()]
        missing = [path for path in missing if path not in there]
    if not missing:
        return
    action = node_maker(context, bool(numbered))
    yield Finding(
        code="GM105",
        status=Status.FAIL,
        summary=f"device nodes are missing: {', '.join(missing)}",
        evidence=tuple(Evidence(path, "not there") for path in missing),
        cause="nvidia-uvm was not loaded at boot, or nothing has opened the GPU yet.",
        remedy="Mend runs nvidia-modprobe, which makes them."
        if isinstance(action, RunModprobe)
        else "Mend runs `nvidia-ctk system create-device-nodes --control-devices --load-kernel-modules`."
        if action
        else "Run `nvidia-modprobe -c 0 -c 255` and `nvidia-modprobe -u -c 0`.",
        change=Change(Component.DRIVER, action) if action else None,
        refused="" if action else "no program that makes them is on this host",
        symptoms=("CUDA unknown error", "no CUDA-capable device is detected"),
    )


def registrar(context: Context) -> str:
    """Who registers this host's GPUs with their NVLink fabric (gpumend.state.fabric.kind)."""
    state = context.state
    return kind(state.gpus, state.machine, state.fabric)


FABRIC_PACKAGES = (
    "nvidia-fabricmanager",
    "nvidia-fabric-manager",
)  # Debian and Ubuntu; RHEL, SUSE and Fedora


def _fabric_package(context: Context) -> tuple[str, str] | None:
    """The fabric manager's package and its version, without epoch and revision; None where none is known."""
    return next(
        (
            (name, upstream(version))
            for name, version in sorted((context.state.packages.installed.value or {}).items())
            if name.startswith(FABRIC_PACKAGES) and "dev" not in name
        ),
        None,
    )


@rule(
    "GM106",
    "the GPUs are registered with their NVSwitches",
    "NVIDIA Fabric Manager User Guide; NVIDIA/NVSentinel#883; pytorch#35710, gpu-operator#1043",
    applies=loaded,
)
def fabric(context: Context) -> Iterator[Finding]:
    driver, gpus = context.state.driver, context.state.gpus
    switches = gpus.nvswitches.get() or 0
    told = {
        index: detail.fabric
        for index, detail in enumerate(gpus.details.value.gpus if gpus.details.value else ())
        if detail.fabric
    }
    waiting = {
        index: f"{state}, {status}"
        for index, (state, status) in told.items()
        if (state, status) != ("Completed", "Success")
    }
    if (
        not (switches or waiting) or driver.nvlink_off.value or (waiting and registrar(context) != "own")
    ):  # GM124
        return
    running = driver.fabricmanager.value == "active" or driver.fabric_runs.get() is True
    if running and not waiting:
        return
    module, package = driver.loaded.need(), _fabric_package(context)
    unit = driver.fabricmanager.value or ("no such unit" if driver.fabricmanager.known else "not known")
    evidence = [
        *([Evidence("/sys/bus/pci/devices", f"{switches} NVSwitches")] if switches else []),
        *(
            Evidence("nvidia-smi -q", f"GPU {index}, Fabric: {text}")
            for index, text in sorted(waiting.items())[:3]
        ),
        Evidence("systemctl show nvidia-fabricmanager.service", unit),
        Evidence("/proc", "nv-fabricmanager runs" if running else "no nv-fabricmanager"),
    ]
    if package:
        evidence.append(Evidence("dpkg, rpm", f"{' '.join(package)}; the loaded driver is {show(module)}"))
    if running:
        cause = "The fabric manager runs, and has not, or not yet, registered these GPUs: a link, a switch or a GPU may be lost."
        remedy = "A minute after its start this is a fault: `journalctl -u nvidia-fabricmanager`, `nvidia-smi nvlink -s`."
    elif not context.state.packages.installed.known:
        cause = f"Whether it is installed is not known: {context.state.packages.installed.detail}."
        remedy = f"`systemctl status nvidia-fabricmanager`; it has to be of the driver's own version, {show(module)}."
    elif package is None:
        cause = "The fabric manager, which sets up NVLink and NVSwitch, is not installed."
        remedy = f"Install it in the driver's own version, {show(module)}, then `systemctl enable --now nvidia-fabricmanager`."
    elif package[1] != show(module):
        cause = f"It starts only beside a driver of its own version: the package is {package[1]}, the driver {show(module)}."
        remedy = f"Install {package[0]} in version {show(module)}, then `systemctl enable --now nvidia-fabricmanager`."
    else:
        cause = "The fabric manager is installed and does not run."
        remedy = "`systemctl enable --now nvidia-fabricmanager`; where it ends again, `journalctl -u nvidia-fabricmanager`."
    yield Finding(
        code="GM106",
        status=Status.FAIL,
        summary=f"{len(waiting)} GPUs are not registered with their NVSwitches: CUDA gives error 802"
        if running
        else "no fabric manager runs on this NVSwitch system: CUDA gives error 802",
        evidence=tuple(evidence),
        cause=cause,
        remedy=remedy,
        refused="the driver's own services are not started by mend",
        symptoms=("CUDA error 802: system not yet initialized", "cudaErrorSystemNotReady"),
    )


# One constraint of NVIDIA_REQUIRE_CUDA: `cuda>=12.8`, `driver<551`, `brand=tesla` (libnvidia-container src/cli/dsl.c)
CONSTRAINT = Pattern(r"(cuda|driver|arch|brand)(>=|<=|!=|=|<|>)([\w.]+)")


def unmet_cuda(expression: str, cuda: Version, driver: Version | None) -> Version | None:
    """The least CUDA version that NVIDIA_REQUIRE_CUDA asks for, where this driver surely does not do; else None.

    Alternatives are separated by spaces and one suffices; within one, commas join what must all hold. A constraint
    that cannot be told from here (brand, arch) counts as held: only what is surely unmet is reported.
    """
    least: list[Version] = []
    for alternative in expression.split():
        held = True
        for name, sign, text in CONSTRAINT.findall(alternative):
            if name in ("brand", "arch") or not re.fullmatch(r"\d+(\.\d+)*", text):
                continue
            wanted = tuple(int(part) for part in text.split("."))
            have = cuda if name == "cuda" else driver
            if have is None:
                continue
            held = held and compare(have, sign, wanted)
            if name == "cuda" and sign in (">=", "="):
                least.append(wanted)
        if held:
            return None
    return min(least, default=None)


def compare(have: Version, sign: str, wanted: Version) -> bool:
    """Two versions part by part, as far as `wanted` goes for equality: 550.54 = 550."""
    same = have[: len(wanted)] == wanted
    return {
        ">=": have >= wanted or same,
        "<=": have <= wanted or same,
        ">": have > wanted and not same,
        "<": have < wanted,
        "=": same,
        "!=": not same,
    }[sign]
