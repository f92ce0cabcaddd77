"""GM115, GM116: GPUs that are split by MIG."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.driver.driver import loaded
from gpumend.rules.driver.gpus import empty, fault
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule


def pending(context: Context) -> tuple[int, ...]:
    """Indices of the GPUs whose MIG mode changes with their next reset."""
    details = context.state.gpus.details.value
    return tuple(
        index
        for index, detail in enumerate(details.gpus if details else ())
        if detail.mig is not None and detail.mig_pending is not None and detail.mig != detail.mig_pending
    )


@rule(
    "GM115",
    "GPUs with MIG on have instances",
    "Azure/AgentBaker#8736, k8s-device-plugin#225; MIG User Guide: instances do not survive a reboot",
    applies=loaded,
)
def instances(context: Context) -> Iterator[Finding]:
    gpus = context.state.gpus
    if fault(context) is None:  # GM107 tells that nvidia-smi fails
        gpus.details.get()
    for index in empty(context):
        manager = gpus.mig_manager
        state = manager.value or ("no such unit" if manager.absent else "not known")
        yield Finding(
            code="GM115",
            status=Status.FAIL,
            summary=f"GPU {index} has MIG on and no instance: no program can use it",
            evidence=(
                Evidence("nvidia-smi -q", f"GPU {index}, MIG Mode: Enabled"),
                Evidence("nvidia-smi -L", f"GPU {index} without a MIG device"),
                Evidence("systemctl show nvidia-mig-manager.service", state),
            ),
            cause="Instances were never made, or were lost at a reboot, which only the mode survives. nvidia-ctk makes no spec of such a GPU.",
            remedy=f"Make them (`nvidia-smi mig -i {index} -cgi PROFILE -C`; `nvidia-smi mig -lgip` lists profiles), and again at each "
            f"boot (nvidia-mig-manager.service of mig-parted); or `nvidia-smi -i {index} -mig 0`.",
            refused="how a GPU is split is the owner's decision",
            symptoms=("no CUDA-capable device is detected", "No MIG devices found"),
        )
    for index in pending(context):
        assert gpus.details.value is not None
        detail = gpus.details.value.gpus[index]
        words = ("Enabled" if detail.mig else "Disabled", "Enabled" if detail.mig_pending else "Disabled")
        yield Finding(
            code="GM115",
            status=Status.WARN,
            summary=f"GPU {index}: MIG is {words[0]}, and {words[1]} after its next reset",
            evidence=(
                Evidence("nvidia-smi -q", f"GPU {index}, MIG Mode: Current {words[0]}, Pending {words[1]}"),
            ),
            cause="The mode was changed while the GPU was in use, or on one that takes it only with a reset.",
            remedy=f"End what uses it and `nvidia-smi --gpu-reset -i {index}`, or reboot; or take the change back "
            f"(`nvidia-smi -i {index} -mig {1 if detail.mig else 0}`).",
            risk=Risk.REBOOT,
            refused="a reset ends what runs on the GPU: the owner's decision",
            symptoms=("Warning: MIG mode is in pending enable state for GPU",),
        )


@rule(
    "GM116",
    "MIG devices have their capability nodes",
    "MIG User Guide, Device Nodes and Capabilities; nvidia-container-toolkit pkg/nvcdi/mig-device-nvml.go",
    applies=loaded,
)
def capabilities(context: Context) -> Iterator[Finding]:
    gpus, cdi = context.state.gpus, context.state.cdi
    uuids = {uuid for gpu in gpus.listed.value or () for uuid in gpu.mig}
    if not uuids:
        return
    nodes = {path for path, meta in (context.state.nodes.caps.get() or {}).items() if meta.kind == "char"}
    # Two belong to no instance: cap1, configuration, and cap2, monitoring.
    own = {path for path in nodes if path.rpartition("cap")[2] not in ("1", "2")}
    if len(own) < 2:
        yield Finding(
            code="GM116",
            status=Status.FAIL,
            summary=f"{len(uuids)} MIG devices, and no capability nodes of theirs in /dev/nvidia-caps",
            evidence=(
                Evidence("/dev/nvidia-caps", ", ".join(sorted(nodes)) or "no node"),
                Evidence("nvidia-smi -L", ", ".join(sorted(uuids)[:3])),
            ),
            cause="Each instance has a node that a program must be able to open. They are made by nvidia-modprobe as the instances "
            "are used for the first time, and are gone after a reboot.",
            remedy="`nvidia-modprobe -f /proc/driver/nvidia/capabilities/.../access` for each, or run `nvidia-smi` as root; then make the "
            "CDI spec anew.",
            refused="capabilities are given out by whoever splits the GPU",
            symptoms=("cuInit returns 101 (invalid device ordinal)", "NVML: Insufficient Permissions"),
        )
        return
    for file in cdi.files.value or ():
        spec = file.spec.value
        bare = [
            name
            for name, edits in (spec.devices.items() if spec else ())
            if name in uuids and not any(node.host.startswith("/dev/nvidia-caps/") for node in edits.nodes)
        ]
        if bare:
            yield Finding(
                code="GM116",
                status=Status.FAIL,
                summary=f"{file.path} gives {len(bare)} MIG devices without their capability nodes",
                evidence=tuple(
                    Evidence(file.path, f"{name}: no node of /dev/nvidia-caps") for name in bare[:3]
                ),
                cause="The spec was made before the nodes were.",
                remedy="Generate it anew: `nvidia-ctk cdi generate`.",
                refused="which capabilities a container gets is not decided by mend",
                symptoms=("cuInit returns 101 (invalid device ordinal)",),
            )
