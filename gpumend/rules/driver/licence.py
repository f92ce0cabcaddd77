"""GM118, GM119: the services beside the driver that keep GPUs at work: the vGPU licence, and persistence."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.driver.driver import loaded
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule


@rule(
    "GM118",
    "vGPUs have their licence",
    "NVIDIA/gpu-operator#220, #628; Azure/aks-gpu#90; vGPU Client Licensing User Guide",
    applies=loaded,
)
def licence(context: Context) -> Iterator[Finding]:
    details = context.state.gpus.details.value
    bad = {
        index: detail.licence
        for index, detail in enumerate(details.gpus if details else ())
        if detail.licence.startswith("Unlicensed")
    }
    if not bad:
        return
    gridd = context.state.driver.gridd
    yield Finding(
        code="GM118",
        status=Status.WARN,
        summary=f"vGPU {', '.join(map(str, bad))} has no licence: {next(iter(bad.values()))}",
        evidence=(
            *(
                Evidence("nvidia-smi -q", f"GPU {index}, License Status: {text}")
                for index, text in bad.items()
            ),
            Evidence(
                "systemctl show nvidia-gridd.service",
                gridd.value or ("no such unit" if gridd.absent else "not known"),
            ),
        ),
        cause="Without a licence a vGPU is slowed down some twenty minutes after the boot, and CUDA fails later.",
        remedy="Put the client token into /etc/nvidia/ClientConfigToken (FeatureType in /etc/nvidia/gridd.conf), "
        "`systemctl restart nvidia-gridd`, and read `journalctl -u nvidia-gridd`: the licence server has to be reached.",
        refused="licences are the owner's",
        symptoms=("License Status : Unlicensed (Restricted)", "Valid GRID license not found"),
    )


@rule(
    "GM119",
    "GPUs are kept initialised",
    "NVIDIA driver persistence guide (docs.nvidia.com/deploy/driver-persistence)",
    applies=loaded,
)
def persistence(context: Context) -> Iterator[Finding]:
    driver, details = context.state.driver, context.state.gpus.details.value
    off = [
        index for index, detail in enumerate(details.gpus if details else ()) if detail.persistence is False
    ]
    if not off or driver.persistenced.value == "active":
        return
    unit = driver.persistenced
    yield Finding(
        code="GM119",
        status=Status.NOTE,
        summary=f"GPU {', '.join(map(str, off))} without persistence: the first program waits until it is initialised",
        evidence=(
            Evidence("nvidia-smi -q", f"Persistence Mode: Disabled, GPU {', '.join(map(str, off))}"),
            Evidence(
                "systemctl show nvidia-persistenced.service",
                unit.value or ("no such unit" if unit.absent else "not known"),
            ),
        ),
        cause="Where nothing has a GPU open, the driver lets it go, and with it settings and accounting; eight GPUs take tens of seconds to come back.",
        remedy="`systemctl enable --now nvidia-persistenced`, where that matters.",
    )
