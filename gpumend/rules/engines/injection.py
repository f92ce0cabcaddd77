"""GM509: containers that lose the GPU at `systemctl daemon-reload`, told beforehand by how it gets into them.

With the cgroup driver systemd a reload sets a container's device rules anew from what systemd was told. Two ways lose:
- the hook (mode legacy, Docker's --gpus before 29.2) lets the container at the devices without telling anybody; links in
  /dev/char do not help: measured with runc 1.1.5 and 1.3.6;
- devices in config.json (CDI, --device) are told to systemd by runc as paths in /dev/char. runc 1.1.3 to 1.1.6 leaves out
  a path that does not exist, and systemd before 240 passes it over; links that are there when the container starts help.
"""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import LinkCharDevices
from gpumend.rules.engines.containerd_config import injects
from gpumend.rules.engines.docker_config import GPUS_BY_CDI
from gpumend.rules.engines.engine import ENGINES
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.state.docker import Container
from gpumend.state.driver import CHAR_RULE as UDEV_RULE
from gpumend.text.version import Version, show

LEAVES_OUT: tuple[Version, Version] = ((1, 1, 3), (1, 1, 7))  # runc PR #3504; PR #3845
KNOWS_MAJORS: Version = (240,)  # systemd; runc PR #3842, #3567
# NVIDIA container toolkit, troubleshooting: "Containers losing access to GPUs"; nct#48
UDEV_TEXT = (
    "# /dev/char links for NVIDIA devices, made again at every boot (gpumend explain GM509)\n"
    'ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="/usr/bin/nvidia-ctk system create-dev-char-symlinks --create-all"\n'
)
SYMPTOM = "Failed to initialize NVML: Unknown Error"


def is_legacy(context: Context) -> bool:
    """Whether nvidia-container-runtime leaves devices to the hook."""
    toolkit = context.state.toolkit
    if context.state.host.tegra and toolkit.mode() == "auto":  # csv, which edits config.json
        return False
    version = toolkit.version.value or (1, 17)
    return toolkit.mode() == "legacy" or (toolkit.mode() == "auto" and version < (1, 18))


def wants_cdi(context: Context) -> bool:
    return context.wanted.mode in ("cdi", "cdi-only")


def hooked_runtimes(context: Context, stays: bool) -> list[str]:
    """Runtimes of pods whose containers the hook lets at the devices. stays: whether the runtime's own mode leaves them to
    it; nvidia-container-runtime.legacy and .cdi have theirs whatever the file says."""
    return [
        name
        for engine in ENGINES
        for name, path in engine.systemd_runtimes(context).items()
        if injects(path) and (path.endswith(".legacy") or (stays and not path.endswith(".cdi")))
    ]


def by_hook(context: Context) -> tuple[Container, ...]:
    """Docker's running containers that the hook gave the GPU, under the cgroup driver systemd. Raises Unread."""
    docker = context.state.docker
    if docker.cgroup_driver() != "systemd":
        return ()
    flag = (docker.version.value or (0,)) < GPUS_BY_CDI
    flag = flag and not context.state.host.tegra  # there the hook refuses it (GM205)
    return tuple(
        found
        for found in docker.containers.get() or ()
        if found.running
        and ((flag and found.uses_gpus_flag()) or (found.uses_runtime() and is_legacy(context)))
    )


def injects_by_hook(context: Context) -> list[str]:
    """The ways on this host by which the hook gives a container devices, as far as they stay: mode cdi is GM204's."""
    mode = context.state.toolkit.mode()
    stays = is_legacy(context) and not (wants_cdi(context) and context.wanted.manage_runtime)
    found = []
    if stays and context.state.docker.cgroup_driver() == "systemd":
        found.append(f"docker --runtime=nvidia in mode {mode!r}")
    found += [f"{name} in mode {mode!r}" for name in hooked_runtimes(context, stays)]
    if users := by_hook(context):
        found.append(f"running container {', '.join(user.label() for user in users)}")
    return found


def injects_by_config(context: Context) -> list[str]:
    """The ways on this host by which devices stand in a container's config.json and systemd is told of them."""
    return [way for engine in ENGINES for way in engine.told_to_systemd(context)]


def needs_links(context: Context) -> str:
    """What on this host tells systemd of devices by their link in /dev/char only, or an empty text; raises Unread."""
    runc = context.state.containerd.runc
    if runc.absent:  # another OCI runtime: not known to lose any
        return ""
    if LEAVES_OUT[0] <= runc.need() < LEAVES_OUT[1]:
        return f"runc {show(runc.need())}"
    systemd = context.state.host.systemd_version
    if not systemd.absent and systemd.need() < KNOWS_MAJORS:
        return f"systemd {show(systemd.need())}"
    return ""


def unlinked(context: Context) -> list[str]:
    """NVIDIA device nodes that have no link in /dev/char; raises Unread."""
    driver = context.state.driver
    links = {path.rpartition("/")[2] for path in driver.char_links.need()}
    return sorted(
        path
        for path, node in driver.nodes.items()
        if node.value is not None
        and node.value.rdev is not None
        and f"{node.value.rdev[0]}:{node.value.rdev[1]}" not in links
    )


def lost_at_reload(context: Context) -> list[str]:
    """Whose GPU a daemon-reload takes now: running containers, as far as they can be told; raises Unread."""
    lost = [user.label() for user in by_hook(context)]
    if context.state.docker.cgroup_driver() == "systemd" and unlinked(context) and needs_links(context):
        lost += [
            found.label()
            for found in context.state.docker.containers.get() or ()
            if found.running and (found.uses_cdi() or any("/dev/nvidia" in path for path in found.devices))
        ]
    pods = any("k8s.io" in shim.argv for shim in context.state.containerd.shims.get() or ())
    if pods and (
        hooked_runtimes(context, is_legacy(context)) or (unlinked(context) and needs_links(context))
    ):
        lost.append("pods with a GPU")
    return lost


def judged(context: Context) -> bool:
    """The toolkit is here and readable, and systemd keeps some containers' cgroups."""
    return (
        has_toolkit(context)
        and context.state.toolkit.config.known
        and bool(injects_by_hook(context) or injects_by_config(context))
    )


@rule(
    "GM509",
    "containers keep the GPU over a daemon-reload",
    "nct#48, nct#251, nct#1227, nd#1730; runc#3708, runc#3567, runc PR #3504, #3845: devices are looked up in /dev/char",
    applies=judged,
)
def daemon_reload(context: Context) -> Iterator[Finding]:
    if ways := injects_by_hook(context):
        yield Finding(
            code="GM509",
            status=Status.WARN,
            summary="containers that get the GPU from the hook lose it at the next `systemctl daemon-reload`",
            evidence=(
                Evidence("docker info, containerd config dump", "cgroup driver systemd"),
                *(Evidence("injection", way) for way in ways),
            ),
            cause="The hook gives a container its devices without telling systemd. At a daemon-reload, which every package "
            "upgrade makes, systemd sets the container's device rules anew without them. Links in /dev/char do not help.",
            remedy="Recreate these containers with CDI injection: --runtime=nvidia once GM204 is mended, or --device nvidia.com/gpu=all, "
            "instead of --gpus."
            if wants_cdi(context) and context.wanted.manage_runtime
            else 'runtime.mode = "cdi" in the wanted state; then recreate the containers with --runtime=nvidia or --device '
            "nvidia.com/gpu=all instead of --gpus. Or the cgroup driver cgroupfs.",
            symptoms=(SYMPTOM,),
        )
    ways = injects_by_config(context)
    missing = unlinked(context) if ways else []
    if not missing or not (why := needs_links(context)):
        return
    refused = ""
    if context.state.toolkit.programs["nvidia-ctk"].get() is None:
        refused = "nvidia-ctk is not installed, which makes the links"
    elif not context.wanted.manage_runtime:
        refused = "runtime.manage is false"
    yield Finding(
        code="GM509",
        status=Status.WARN,
        summary=f"with {why}, containers that start now lose the GPU at the next `systemctl daemon-reload`",
        evidence=(
            Evidence("docker info, containerd config dump", "cgroup driver systemd"),
            *(Evidence("injection", way) for way in ways),
            Evidence("/dev/char", f"no link for {', '.join(missing[:6])}"),
        ),
        cause="runc tells systemd of a device by its path in /dev/char. "
        + (
            "This runc leaves out a path that is not there."
            if why.startswith("runc")
            else "systemd before 240 passes over a path that is not there."
        )
        + " At a daemon-reload, which every package upgrade makes, the container loses what systemd was not told of.",
        remedy=f"Mend makes the links and {UDEV_RULE}, which makes them again at boot. Containers that were started without "
        "the links have to be recreated."
        if not refused
        else "`nvidia-ctk system create-dev-char-symlinks`, or a newer runc; then recreate the containers.",
        change=None if refused else Change(Component.DRIVER, LinkCharDevices()),
        refused=refused,
        symptoms=(SYMPTOM,),
    )
