"""GM509: containers that lose the GPU at `systemctl daemon-reload`, foretold from how it gets into them."""

from __future__ import annotations

from collections.abc import Iterator

from facts.containerd import ConfigError
from facts.driver import CHAR_RULE as UDEV_RULE
from facts.reading import Unread
from facts.version import Version
from rules.finding import Change, Component, Evidence, Finding, Status
from rules.rule import Context, has_toolkit, rule

GPUS_BY_CDI: Version = (29, 2)  # moby PR #50228
# NVIDIA container toolkit, troubleshooting: "Containers losing access to GPUs"; nct#48
UDEV_TEXT = (
    "# /dev/char links for NVIDIA devices, made again at every boot (gpumend explain GM509)\n"
    'ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="/usr/bin/nvidia-ctk system create-dev-char-symlinks --create-all"\n'
)


def injects_behind_runc(context: Context) -> list[str]:
    """The ways on this host by which the hook adds devices to a container's cgroup without runc's and systemd's knowledge.

    CDI and jit-cdi put the devices into config.json, and systemd keeps them.
    """
    toolkit, docker = context.state.toolkit, context.state.docker
    version = toolkit.version.value or (1, 17)
    legacy = toolkit.mode() == "legacy" or (toolkit.mode() == "auto" and version < (1, 18))
    becomes_cdi = context.wanted.mode == "cdi" and context.wanted.manage_runtime  # GM204's
    found = []
    if docker.cgroup_driver() == "systemd":
        running = [each for each in docker.containers.value or () if each.running]
        if legacy and (not becomes_cdi or any(each.uses_runtime() for each in running)):
            found.append(f"docker --runtime=nvidia in mode {toolkit.mode()!r}")
        if (docker.version.value or (0,)) < GPUS_BY_CDI and any(each.uses_gpus_flag() for each in running):
            found.append("docker --gpus, through nvidia-container-runtime-hook")
    if legacy and not becomes_cdi:
        try:
            from rules.containerd_config import cri, has_containerd

            if has_containerd(context):
                runtimes = [each for each in cri(context).runtimes.values() if "nvidia" in each.binary]
                found.extend(f"containerd's runtime {each.name}" for each in runtimes if each.systemd_cgroup)
        except (ConfigError, Unread):
            pass
    return found


def unlinked(context: Context) -> list[str]:
    """NVIDIA device nodes of major 195 that have no link in /dev/char; raises Unread."""
    driver = context.state.driver
    links = {path.rpartition("/")[2] for path in driver.char_links.need()}
    return sorted(
        path
        for path, node in driver.nodes.items()
        if node.value is not None
        and node.value.rdev is not None
        and node.value.rdev[0] == 195
        and f"{node.value.rdev[0]}:{node.value.rdev[1]}" not in links
    )


def legacy_systemd(context: Context) -> bool:
    """The toolkit is here and readable, and some way of injection goes behind systemd's back."""
    return has_toolkit(context) and context.state.toolkit.config.known and bool(injects_behind_runc(context))


@rule(
    "GM509",
    "containers keep the GPU over a daemon-reload",
    "nct#48, nct#251, nct#1227, nd#1730; opencontainers/runc#3708: systemd looks devices up in /dev/char",
    applies=legacy_systemd,
)
def daemon_reload(context: Context) -> Iterator[Finding]:
    missing = unlinked(context)
    if not missing:
        return
    ways = injects_behind_runc(context)
    refused = ""
    if context.state.toolkit.programs["nvidia-ctk"].get() is None:
        refused = "nvidia-ctk is not installed, which makes the links"
    elif not context.wanted.manage_runtime:
        refused = "runtime.manage is false"
    yield Finding(
        code="GM509",
        status=Status.WARN,
        summary="running containers will lose the GPU at the next `systemctl daemon-reload`",
        evidence=(
            Evidence("docker info, containerd config dump", "cgroup driver systemd"),
            *(Evidence("injection", way) for way in ways),
            Evidence("/dev/char", f"no link for {', '.join(missing[:6])}"),
        ),
        cause="The legacy hook lets a container at the devices behind systemd's back. At a daemon-reload, which every package "
        "upgrade makes, systemd sets the cgroup anew from what it knows, and it knows devices by their link in /dev/char only.",
        remedy=f'Mend makes the links and {UDEV_RULE}, which makes them again at boot. CDI injection (runtime.mode = "cdi") is '
        "better where it can be had. A container that has lost the GPU has to be recreated."
        if not refused
        else "`nvidia-ctk system create-dev-char-symlinks --create-all`, or CDI injection.",
        change=None if refused else Change(Component.DRIVER, action="char-links"),
        refused=refused,
        symptoms=("Failed to initialize NVML: Unknown Error",),
    )
