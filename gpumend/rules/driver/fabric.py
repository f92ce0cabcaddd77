"""GM124, GM125: GPUs whose fabric is not set up by a fabric manager of this host alone. GM106 has the others."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.driver.driver import loaded, registrar
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.fabric import CONFIG, SUBNET_MANAGER, waiting
from gpumend.text.version import show

MODES = {1: "shared NVSwitches", 2: "vGPU"}


def _rack(context: Context) -> tuple[str, str, tuple[Evidence, ...]]:
    fabric, driver = context.state.fabric, context.state.driver
    unit = fabric.imex.value or ("no such unit" if fabric.imex.absent else "not known")
    return (
        "GB200 and GB300 have their NVSwitches in the rack: its switch trays run the fabric manager (NMX), this host has none to run.",
        "Look at the rack's NVLink domain: `nvidia-smi -q | grep -A6 Fabric` (clique, cluster UUID), the switch trays, NMX-C. "
        "Do not start nvidia-fabricmanager here: it fails.",
        (
            Evidence("systemctl show nvidia-imex.service", unit),
            Evidence(
                "systemctl show nvidia-fabricmanager.service",
                driver.fabricmanager.value
                or ("no such unit" if driver.fabricmanager.absent else "not known"),
            ),
        ),
    )


def _guest(context: Context) -> tuple[str, str, tuple[Evidence, ...]]:
    return (
        f"This is a virtual machine ({context.state.machine.vm.value}) without NVSwitches: the fabric manager that registers its GPUs "
        "runs on the hypervisor, or in its service VM.",
        "Have the fabric manager of the hypervisor looked at (its partition for this machine), then start this machine anew. "
        "Alone, a GPU works without NVLink: `options nvidia NVreg_NvLinkDisable=1`.",
        (
            Evidence("systemd-detect-virt --vm", context.state.machine.vm.value or ""),
            Evidence("/sys/bus/pci/devices", "no NVSwitch"),
        ),
    )


def _subnet(context: Context) -> tuple[str, str, tuple[Evidence, ...]]:
    fabric, driver = context.state.fabric, context.state.driver
    lacks, remedy = [], []
    if fabric.umad.value is False:
        lacks.append("the module ib_umad is not loaded")
        remedy.append("`modprobe ib_umad` (and ib_umad in /etc/modules-load.d, for the next boot)")
    if fabric.subnet_manager.absent:
        lacks.append("the NVLink subnet manager (package nvlsm) is not installed")
        remedy.append("install nvlsm")
    runs = driver.fabric_runs.value or driver.fabricmanager.value == "active"
    if not runs:
        lacks.append("no fabric manager runs")
        version = f" {show(driver.loaded.value)}" if driver.loaded.value else ""
        remedy.append(
            f"install nvidia-fabricmanager in the driver's own version{version}, `systemctl enable --now nvidia-fabricmanager`"
        )
    return (
        "On HGX B200 and B300 the fabric manager works by way of a subnet manager over InfiniBand: "
        + ("; ".join(lacks) if lacks else "all three are there")
        + ".",
        f"In this order: {'; then '.join(remedy)}."
        if remedy
        else "`journalctl -u nvidia-fabricmanager`; links: `ibstat`, `nvidia-smi nvlink -s`.",
        (
            Evidence(
                "/sys/module/ib_umad",
                "there" if fabric.umad.value else "not there" if fabric.umad.ok else fabric.umad.detail,
            ),
            Evidence(
                SUBNET_MANAGER,
                "there" if fabric.subnet_manager.ok else fabric.subnet_manager.detail or "not there",
            ),
            Evidence("/proc", "nv-fabricmanager runs" if runs else "no nv-fabricmanager"),
        ),
    )


def _shared(context: Context) -> tuple[str, str, tuple[Evidence, ...]]:
    mode = context.state.fabric.mode.value or 0
    return (
        f"The fabric manager is set up for {MODES.get(mode, 'virtual machines')}: it registers no GPU until a partition is activated.",
        f"On bare metal set FABRIC_MODE=0 in {CONFIG}, and `systemctl restart nvidia-fabricmanager` with no GPU in use; on a hypervisor "
        "activate the partition (`fmpm -a`, or what manages the virtual machines).",
        (Evidence(CONFIG, f"FABRIC_MODE={mode}"),),
    )


CAUSES = {"rack": _rack, "guest": _guest, "subnet": _subnet, "shared": _shared}


@rule(
    "GM124",
    "GPUs are registered with their rack, hypervisor or subnet",
    "NVIDIA Fabric Manager User Guide; spectrocloud/CanvOS#700; Azure/AgentBaker#8839; NVIDIA/NVSentinel#883",
    applies=loaded,
)
def registered(context: Context) -> Iterator[Finding]:
    what = registrar(context)
    if what not in CAUSES or context.state.driver.nvlink_off.value:
        return
    away = waiting(context.state.gpus)
    if not away:
        return
    cause, remedy, evidence = CAUSES[what](context)
    yield Finding(
        code="GM124",
        status=Status.FAIL,
        summary=f"{len(away)} GPUs are not registered with their NVLink fabric: CUDA gives error 802",
        evidence=(
            *(
                Evidence("nvidia-smi -q", f"GPU {index}, Fabric: {text}")
                for index, text in sorted(away.items())[:3]
            ),
            *evidence,
        ),
        cause=cause,
        remedy=remedy,
        refused="the fabric is not set up by mend",
        symptoms=(
            "CUDA error 802: system not yet initialized",
            'Kernel module "ib_umad" has not been loaded, fabric manager cannot start',
            "/opt/nvidia/nvlsm/sbin/nvlsm does not exist",
        ),
    )


@rule(
    "GM125",
    "IMEX works where GPUs share memory across hosts",
    "NVIDIA IMEX Service guide; nvidia-modprobe#9; bottlerocket-kernel-kit#428",
    applies=loaded,
)
def imex(context: Context) -> Iterator[Finding]:
    fabric, nodes = context.state.fabric, context.state.nodes
    major = (nodes.majors.value or {}).get("nvidia-caps-imex-channels")
    channels = nodes.channels.value or {}
    wrong = {
        path: meta
        for path, meta in channels.items()
        if meta.kind != "char" or (major is not None and meta.rdev is not None and meta.rdev[0] != major)
    }
    if wrong:
        path, meta = next(iter(sorted(wrong.items())))
        is_ = f"{meta.rdev[0]}:{meta.rdev[1]}" if meta.rdev else meta.kind
        yield Finding(
            code="GM125",
            status=Status.WARN,
            summary=f"{path} is {is_}, the kernel's major for IMEX channels is {major}",
            evidence=(Evidence(path, is_), Evidence("/proc/devices", f"{major} nvidia-caps-imex-channels")),
            cause="The channel was made by hand before a reboot: its major is another one after any boot.",
            remedy=f"`rm {path}` and `mknod {path} c {major} {path.rpartition('channel')[2]}`, or let the module make it "
            "(NVreg_CreateImexChannel0=1).",
            refused="channels are given out by the owner",
            symptoms=("CUDA_ERROR_NOT_PERMITTED in cuMemCreate",),
        )
    if registrar(context) != "rack" or fabric.imex.value != "failed" or fabric.imex_runs.value:
        return
    yield Finding(
        code="GM125",
        status=Status.WARN,
        summary="nvidia-imex.service has failed: GPUs of this rack share no memory across hosts",
        evidence=(
            Evidence("systemctl show nvidia-imex.service", "failed"),
            Evidence("/dev/nvidia-caps-imex-channels", f"{len(channels)} channels"),
        ),
        cause="As a rule /etc/nvidia-imex/nodes_config.cfg does not name this host's own address, or another version's IMEX runs there.",
        remedy="`journalctl -u nvidia-imex`, `nvidia-imex-ctl -N`. Where the DRA driver of Kubernetes runs IMEX, mask the unit.",
        refused="the domain's hosts are the owner's to name",
        symptoms=("CUDA_ERROR_NOT_PERMITTED in cuMemCreate", "IMEX"),
    )
