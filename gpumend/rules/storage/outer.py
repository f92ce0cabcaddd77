"""GM704, GM705: the storage of the host's own Docker: what is wanted of it, and what a switch would hide."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import SetValues
from gpumend.rules.engines import docker_config as docker
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.storage.overlay import rootful, takes_overlay
from gpumend.rules.storage.restarts import reboots, restart_gate
from gpumend.state.storage import PRIOR_DRIVERS, vfs_bytes
from gpumend.text.edits import Edit


def wants_another(context: Context) -> bool:
    """Whether the wanted state asks for another driver or root than the host's Docker has."""
    wanted, info = context.wanted, context.state.docker.info.value or {}
    driver, root = wanted.docker_storage_driver, wanted.docker_data_root
    return bool(info) and bool(
        (driver and driver != info.get("Driver"))
        or (root and root.rstrip("/") != str(info.get("DockerRootDir")).rstrip("/"))
    )


def vfs_cost_of_outer(context: Context) -> int | None:
    images = context.state.storage.images.value
    return vfs_bytes(images, len(context.state.docker.containers.value or ())) if images is not None else None


def outer_refusal(context: Context) -> str:
    """Why the host's own storage is not switched, or an empty text where it may be."""
    state, wanted = context.state.docker, context.wanted
    info = state.info.need()
    held = docker.hold_back(context, "storage-driver", "data-root")
    if held:
        return held
    if state.process.value and state.process.value.env.get("DOCKER_DRIVER"):
        return "DOCKER_DRIVER in docker.service's environment beats daemon.json: change it there"
    dangers = reboots(context)
    if dangers:
        return f"without its image {', '.join(dangers)} would fail until the host reboots (GM706)"
    needed, free = vfs_cost_of_outer(context), context.state.storage.docker.free
    if wanted.docker_storage_driver == "vfs" and (needed is None or free is None):
        return "whether its images fit on the disk is not known"
    if wanted.docker_storage_driver == "vfs" and needed is not None and free is not None and needed > free:
        return "the disk would be full (GM703)"
    containers = state.containers.need()
    running = sorted(found.label() for found in containers if found.running)
    if running and info.get("LiveRestoreEnabled"):
        return f"live-restore would keep {', '.join(running)} running on storage that dockerd no longer has"
    hidden = _hidden(context)
    if hidden and not wanted.allow_storage_switch:
        return f"it would hide {hidden}: set allow_storage_switch if that is meant"
    gate = restart_gate(context)
    return f"it needs a restart now, and {gate}" if gate else ""


def _hidden(context: Context) -> str:
    """What is there that another driver or root would not show."""
    state = context.state.docker
    info = state.info.need()
    images = [name for found in context.state.storage.images.value or () for name in found.names]
    count = int(info.get("Images") or 0)
    names = f" ({', '.join(sorted(images)[:5])})" if images else ""
    containers = [found.label() for found in state.containers.need()]
    driver = context.wanted.docker_storage_driver or info.get("Driver")
    others = [
        name
        for name in context.state.storage.docker.drivers.get() or ()
        if name not in (driver, info.get("Driver"))
    ]
    parts = [f"{count} images{names}"] if count else []
    parts += [f"{len(containers)} containers ({', '.join(sorted(containers)[:5])})"] if containers else []
    parts += [f"data of {', '.join(others)}"] if others else []
    return " and ".join(parts)


@rule(
    "GM704",
    "Docker's storage is as wanted",
    "docs.docker.com/engine/storage/drivers/select-storage-driver; moby daemon/graphdriver/driver.go",
    applies=rootful,
)
def outer_storage(context: Context) -> Iterator[Finding]:
    if not wants_another(context):
        return
    wanted, storage, info = context.wanted, context.state.storage, context.state.docker.info.need()
    edits = {}
    if wanted.docker_storage_driver and wanted.docker_storage_driver != info.get("Driver"):
        edits["storage-driver"] = wanted.docker_storage_driver
    if wanted.docker_data_root and wanted.docker_data_root.rstrip("/") != str(
        info.get("DockerRootDir")
    ).rstrip("/"):
        edits["data-root"] = wanted.docker_data_root
    refused = outer_refusal(context)
    hidden = _hidden(context)
    choice = storage.choice.value
    doubt = (
        edits.get("storage-driver") == "overlay2" and takes_overlay(context, storage.docker.fstype) is False
    )
    yield Finding(
        code="GM704",
        status=Status.FAIL,
        summary="Docker's "
        + " and ".join(f"{key} is not {value}" for key, value in edits.items())
        + (f", and a switch would hide {hidden}" if hidden else ""),
        evidence=(
            Evidence(
                "docker info",
                f"Storage Driver: {info.get('Driver')}, Docker Root Dir: {info.get('DockerRootDir')}",
            ),
            Evidence("/proc/self/mountinfo", f"{storage.docker.path} on {storage.docker.fstype}"),
        ),
        cause=(f"It has this driver because {choice.reason} (rule {choice.rule})." if choice else "")
        + (f" overlay2 is not expected to start on {storage.docker.fstype}." if doubt else ""),
        remedy="Put that right first."
        if refused
        else "Mend sets it, restarts dockerd, and puts all back where the new one does not come up. Nothing is deleted: what "
        "is hidden comes back with the old setting.",
        risk=Risk.RESTART,
        change=None
        if refused
        else Change(
            Component.DOCKER_STORAGE,
            SetValues(
                tuple(Edit(context.state.docker.config_path, (key,), value) for key, value in edits.items())
            ),
            service=docker.RESTART,
        ),
        refused=refused,
    )


@rule(
    "GM705",
    "Docker's next start finds one storage driver",
    "moby daemon/graphdriver/driver.go New, scanPriorDrivers: contains several valid graphdrivers",
    applies=rootful,
)
def several_drivers(context: Context) -> Iterator[Finding]:
    storage, state = context.state.storage, context.state.docker
    data = [name for name in storage.docker.drivers.get() or () if name in PRIOR_DRIVERS]
    if len(data) < 2 or not state.config.known:
        return
    env = state.process.value.env.get("DOCKER_DRIVER") if state.process.value else None
    store = state.value("features", "containerd-snapshotter")
    if env or state.flags.get("storage-driver") or state.value("storage-driver") or store is True:
        return
    yield Finding(
        code="GM705",
        status=Status.FAIL,
        summary=f"{storage.docker.path} has data of {' and '.join(data)}, and no driver is named: dockerd does not start again",
        evidence=(
            Evidence(storage.docker.path, ", ".join(data)),
            Evidence(state.config_path, "no storage-driver"),
        ),
        cause="Another driver was tried here, and its directory was left.",
        remedy="Name the driver whose images are wanted as storage-driver in daemon.json.",
        refused="which of them is wanted is not ours to guess, and nothing is deleted",
        symptoms=("contains several valid graphdrivers",),
    )
