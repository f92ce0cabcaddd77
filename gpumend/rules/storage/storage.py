"""GM7xx: where images and containers lie, and the Dockers inside of containers.

Judged from what the host says of its file systems, by the table below. A real overlay mount in the very directory is made
by the transaction, before it changes anything (gpumend/payload/change/inner.py): an audit mounts nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpumend.rules.engines import docker
from gpumend.rules.engines.restarts import restart_gate
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.docker import Container
from gpumend.state.reading import Unread
from gpumend.state.storage import DOCKER_ROOT, DRIVER_NAMES, FUSE_DEVICE, PRIOR_DRIVERS, Inner, vfs_bytes
from gpumend.text.edits import Edit
from gpumend.text.version import Version

# Whether the kernel takes a file system as overlay's upper layer, and where that is known from.
# tests/fixtures/dind/overlay_mount_experiment.json, kernel 6.18.
UPPER: dict[str, tuple[bool, str]] = {
    "ext4": (True, "captures: mount_rc 0"),
    "xfs": (True, "captures: ftype=1, overlay_rc 0"),
    "tmpfs": (True, "captures: mount_rc 0"),
    "btrfs": (True, "docs.docker.com overlayfs-driver lists it not; linux fs/btrfs has d_type and xattr"),
    "overlay": (False, "captures: EINVAL, `not supported as upperdir`"),
    "fuse.fuse-overlayfs": (False, "linux Documentation/filesystems/overlayfs.rst: upper needs trusted xattr and d_type"),
    "nfs": (False, "linux Documentation/filesystems/overlayfs.rst: NFS is not a valid upper"),
    "nfs4": (False, "linux Documentation/filesystems/overlayfs.rst: NFS is not a valid upper"),
    "9p": (False, "k3s-io/k3s#66, unraid/ci-runner-farm#7: no d_type or trusted xattr of 9p that overlay takes"),
    "virtiofs": (False, "linux fs/fuse: RENAME_WHITEOUT and trusted xattr are the server's; rwlove/home-ops#12492"),
    "cifs": (False, "linux Documentation/filesystems/overlayfs.rst: a remote file system with its own revalidation"),
    "smb3": (False, "linux Documentation/filesystems/overlayfs.rst: a remote file system with its own revalidation"),
    "vfat": (False, "linux Documentation/filesystems/overlayfs.rst: no xattr"),
}  # fmt: skip
DOCUMENTED = ("ext4", "xfs")  # docs.docker.com/engine/storage/drivers/overlayfs-driver: backing file systems
OVERLAY_DRIVERS = ("overlay2", "overlayfs", "overlay")
REBOOTS = (
    "reboot",
    "reboot-force",
    "reboot-immediate",
    "poweroff",
    "poweroff-force",
    "poweroff-immediate",
    "halt",
    "kexec",
)
LOOP = 3  # restarts; dockerd's own back-off has doubled three times by then (moby restartmanager)
DEAD = re.compile(
    r"error initializing graphdriver|driver not supported|several valid graphdrivers|configured driver .* not available"
)
REFUSED_MOUNT = re.compile(
    r"failed to mount .*(?:invalid argument|operation not permitted|not supported)|not supported as upperdir"
)
ZFS_SINCE: Version = (2, 2)


@dataclass(frozen=True)
class Remedy:
    """What an inner daemon's storage should be. kind: `volume`, `fuse-overlayfs`, `vfs`, or empty where nothing fits;
    then `refused` says why. options: of `docker run`. directory: on the host, for a volume. drivers: which its daemon then has.
    """

    kind: str
    options: tuple[str, ...] = ()
    directory: str = ""
    drivers: tuple[str, ...] = ()
    why: str = ""
    refused: str = ""


def has_inner(context: Context) -> bool:
    """As `rootful`, or a dockerd runs in a pod of containerd's or CRI-O's, on a host that may have no Docker (ARC, GitLab and
    Jenkins runners)."""
    return rootful(context) or (
        has_gpu(context) and any(found.daemon for found in context.state.storage.inners)
    )


def rootful(context: Context) -> bool:
    """Whether there is a Docker to judge, on a host that has a GPU or of whose storage something is wanted."""
    wanted = context.wanted
    asked = wanted.dind_containers or wanted.docker_storage_driver or wanted.docker_data_root
    return context.state.docker.installed and (has_gpu(context) or bool(asked))


def takes_overlay(context: Context, fstype: str) -> bool | None:
    """Whether overlay's upper layer may lie on this file system; None where that is not known."""
    if fstype == "xfs":
        return context.state.storage.ftype.value
    if fstype == "zfs":  # RENAME_WHITEOUT came with OpenZFS 2.2 (openzfs/zfs#8648, PR#14070)
        version = context.state.storage.zfs.value
        return None if version is None else version >= ZFS_SINCE
    if fstype in UPPER:
        return UPPER[fstype][0]
    return False if is_fuse(fstype) else None


def is_fuse(fstype: str) -> bool:
    """Whether a program serves this file system: `fuse`, `fuse.shfs` (Unraid), `fuseblk` (ntfs-3g)."""
    return fstype.startswith(("fuse.", "fuseblk")) or fstype == "fuse"


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def inners(context: Context) -> tuple[Inner, ...]:
    """Containers that run a dockerd, by what was seen in them, by their log, or since the wanted state names them."""
    return tuple(
        found
        for found in context.state.storage.inners
        if found.daemon or found.name in context.wanted.dind_containers or any(map(DEAD.search, found.log))
    )


def broken(context: Context, inner: Inner) -> str:
    """Why this inner daemon cannot run containers, or an empty text."""
    if not inner.info.ok:
        dead = next((row for row in reversed(inner.log) if DEAD.search(row)), "")
        if dead:
            return f"its dockerd does not start: {_words(dead)}"
    if (
        inner.driver in OVERLAY_DRIVERS
        and inner.root.fstype
        and takes_overlay(context, inner.root.fstype) is False
    ):
        return f"its driver {inner.driver} mounts overlay, and its root lies on {inner.root.fstype}"
    said = next((row for row in reversed(inner.log) if REFUSED_MOUNT.search(row)), "")
    if said and inner.driver in (*OVERLAY_DRIVERS, ""):  # whatever the table has of the file system
        return f"its overlay cannot be mounted: {_words(said)}"
    return ""


def fell_back(inner: Inner) -> bool:
    """Whether its daemon has vfs since overlay could not be mounted: Docker up to 28 then tries the next (moby#42171)."""
    named = inner.named_driver() in ("", "vfs")
    return inner.driver == "vfs" and named and any(map(REFUSED_MOUNT.search, inner.log))


def _words(row: str) -> str:
    """What a log line says, without its frame."""
    found = re.search(r'msg="(.*?)"(?: \w+=|$)', row)
    return (found.group(1) if found else row)[:200]


def without_fuse(inner: Inner) -> bool:
    """Whether its daemon has fuse-overlayfs, and no device to mount it by."""
    return inner.driver == "fuse-overlayfs" and inner.fuse.value is False


def cost(inner: Inner) -> int | None:
    """Bytes that its present images and containers take under vfs; None while its daemon does not tell."""
    images = inner.images.value
    return vfs_bytes(images, inner.containers.value or 0) if images is not None else None


def left(context: Context, inner: Inner) -> int | None:
    """Bytes left where an inner daemon's images lie now."""
    return inner.root.free if inner.root.free is not None else context.state.storage.docker.free


def _environment(inner: Inner, driver: str) -> tuple[str, ...]:
    """The options that name a driver: by the variables that name one now, else by dockerd's own."""
    names = [name for name in DRIVER_NAMES if inner.env().get(name)] or ["DOCKER_DRIVER"]
    return tuple(word for name in names for word in ("-e", f"{name}={driver}"))


def _volume(context: Context, inner: Inner) -> Remedy:
    wanted, storage = context.wanted, context.state.storage
    directory = f"{wanted.dind_root}/{inner.name}"
    mount = storage.lies_on(directory)
    fstype = mount.fstype if mount else ""
    if inner.volume() not in ("", directory):
        return Remedy("", refused=f"it has a mount on {DOCKER_ROOT} already: {inner.volume()}")
    if wanted.dind_fs != "any" and fstype != wanted.dind_fs:
        return Remedy(
            "", refused=f"{directory} would lie on {fstype or 'nothing known'}, not on {wanted.dind_fs}"
        )
    if fstype not in DOCUMENTED or takes_overlay(context, fstype) is False:
        return Remedy(
            "",
            refused=f"{directory} would lie on {fstype or 'nothing known'}, which Docker's overlay2 is not for",
        )
    driver = inner.named_driver()
    options: tuple[str, ...] = ("-v", f"{directory}:{DOCKER_ROOT}")
    if driver and driver not in OVERLAY_DRIVERS:
        options += _environment(inner, "overlay2")
    return Remedy("volume", options, directory, ("overlay2", "overlayfs"), f"{directory} lies on {fstype}")


def _store(inner: Inner, driver: str) -> str:
    """Why its daemon.json keeps its daemon from a graph driver, or an empty text. That of a container which does not run
    cannot be looked at: then the transaction proves it."""
    if not inner.store.known:
        return (
            f"whether its daemon.json asks for the containerd image store is not known: {inner.store.detail}"
        )
    return (
        f"its daemon.json asks for the containerd image store, which has no {driver}"
        if inner.store.value
        else ""
    )


def _fuse(context: Context, inner: Inner) -> Remedy:
    storage = context.state.storage
    if is_fuse(inner.root.fstype):  # tried: its own upper layer cannot lie on FUSE
        return Remedy("", refused=f"fuse-overlayfs does not work on {inner.root.fstype}")
    if held := _store(inner, "fuse-overlayfs"):
        return Remedy("", refused=held)
    if inner.fuse_program.value is False:
        return Remedy("", refused="its image has no fuse-overlayfs")
    if "fuse" not in (storage.kernel.value or ()) and not storage.modprobe:
        return Remedy("", refused="the kernel has no fuse, and there is no modprobe to load it with")
    options = ("--device", FUSE_DEVICE, *_environment(inner, "fuse-overlayfs"))
    return Remedy("fuse-overlayfs", options, "", ("fuse-overlayfs",), "any file system will do")


def _vfs(context: Context, inner: Inner) -> Remedy:
    if held := _store(inner, "vfs"):
        return Remedy("", refused=held)
    needed, free = cost(inner), left(context, inner)
    if needed is not None and free is not None and needed > free:
        return Remedy(
            "", refused=f"under vfs its images take {gigabytes(needed)}, and {gigabytes(free)} are left"
        )
    price = (
        f"its images take {gigabytes(needed)} then"
        if needed is not None
        else "what its images take is not known"
    )
    return Remedy("vfs", _environment(inner, "vfs"), "", ("vfs",), f"a full copy a layer: {price}")


MAKERS = {"overlay2": _volume, "fuse-overlayfs": _fuse, "vfs": _vfs}


def remedy(context: Context, inner: Inner) -> Remedy:
    """The first that fits of a volume on ext4 or xfs, fuse-overlayfs, and vfs; or the one that is wanted, if it fits."""
    if context.wanted.dind_driver != "auto":
        return MAKERS[context.wanted.dind_driver](context, inner)
    tried = [maker(context, inner) for maker in MAKERS.values()]
    return next(
        (found for found in tried if found.kind),
        Remedy("", refused="; ".join(found.refused for found in tried)),
    )


def as_wanted(context: Context, inner: Inner, found: Remedy) -> bool:
    """Whether an inner daemon that works has what the wanted state asks of it. `auto` asks for nothing more."""
    if context.wanted.dind_driver == "auto" or inner.name not in context.wanted.dind_containers:
        return True
    if found.kind == "volume":
        return inner.volume() == found.directory and inner.driver in found.drivers
    return not found.kind or inner.driver in found.drivers


def _given(inner: Inner, found: Remedy) -> bool:
    """Whether a container was started with a remedy, whatever became of it."""
    if found.kind == "volume":
        return inner.volume() == found.directory
    return inner.named_driver() in found.drivers


def owner(inner: Inner) -> str:
    """Who started the container and is to be changed, where that is not ours; an empty text where it is."""
    if inner.compose:
        taken = inner.compose.taken
        return f"the compose project {inner.compose.project} ({taken})" if taken else ""
    if inner.unit is None:
        return "whoever ran `docker run`"
    if inner.unit.overridden:
        return f"{inner.unit.overridden}, an ExecStart of somebody else's,"
    if inner.unit.owner:
        return f"{inner.unit.path} ({inner.unit.owner})"
    return ""


def line_to_add(inner: Inner, found: Remedy) -> str:
    """The exact words that make a remedy, in the language of what starts the container."""
    if not inner.compose:
        return f"docker run {' '.join(found.options)}"
    rows = [f'{key}: ["{value}"]' for key, value in _pairs(found)]
    return f"services: {inner.compose.service}: " + ", ".join(rows)


def _pairs(found: Remedy) -> list[tuple[str, str]]:
    """A remedy's options as compose's keys and values."""
    keys = {"-v": "volumes", "-e": "environment", "--device": "devices"}
    return [(keys[flag], value) for flag, value in zip(found.options[::2], found.options[1::2], strict=True)]


def override_mark(inner: Inner, found: Remedy) -> str:
    """What the first line of our compose override says: for whom, and what."""
    return " ".join((inner.name, *found.options))


def override_text(inner: Inner, service: str, found: Remedy) -> str:
    """A compose override that adds a remedy to a service; compose merges lists, and environment by its names."""
    rows = [f"# gpumend: {override_mark(inner, found)}", "services:", f"  {json.dumps(service)}:"]
    for key in dict.fromkeys(key for key, _ in _pairs(found)):
        rows.append(f"    {key}:")
        rows.extend(f"      - {json.dumps(value)}" for other, value in _pairs(found) if other == key)
    return "\n".join(rows) + "\n"


def change(context: Context, inner: Inner) -> tuple[Change | None, str, str]:
    """(the change, why it is held back, what a person does) for one inner daemon."""
    found = remedy(context, inner)
    if not found.kind:
        return (
            None,
            found.refused,
            f"Give it a volume on ext4 or xfs: {_where(inner)}.",
        )
    if inner.container is None and inner.unit is None:
        return None, "its pod is the cluster's to change", f"Give it a volume: {_where(inner)}."
    by_hand = f"Add `{line_to_add(inner, found)}` ({found.why}), and start it anew."
    if inner.name not in context.wanted.dind_containers:
        return None, "it is not named in dind.containers", by_hand
    if not context.wanted.manage_dind:
        return None, "dind.manage is false", by_hand
    whose = owner(inner)
    if whose:
        return None, f"{whose} starts it, which is not ours to change", by_hand
    if inner.compose and inner.compose.ours not in ("", override_mark(inner, found)):
        return None, f"{inner.compose.override} is ours and says something else: remove it first", by_hand
    where = (
        inner.compose.override if inner.compose else f"a drop-in of {inner.unit.name if inner.unit else ''}"
    )
    mended = f"Mend gives it {found.kind}: `{line_to_add(inner, found)}` in {where}."
    return Change(Component.STORAGE, action=inner.name), "", mended


def _evidence(inner: Inner) -> tuple[Evidence, ...]:
    rows = [
        Evidence(
            f"/proc, mounts of {inner.name}",
            f"{inner.root.path} on {inner.root.fstype or 'a file system that is not known'}",
        )
    ]
    if inner.info.ok:
        rows.append(Evidence(f"docker info in {inner.name}", f"Storage Driver: {inner.driver}"))
    rows.extend(
        Evidence(f"docker logs {inner.name}", _words(row))
        for row in inner.log[-3:]
        if DEAD.search(row) or REFUSED_MOUNT.search(row)
    )
    return tuple(rows)


@rule(
    "GM701",
    "a Docker inside a container can run containers",
    "incident report 000; linux fs/overlayfs (upperdir); captures/dind; moby daemon/image_store_choice.go",
    applies=has_inner,
)
def inner_overlay(context: Context) -> Iterator[Finding]:
    known = {inner.name for inner in context.state.storage.inners}
    unread: Unread | None = None
    for inner in inners(context):
        why = broken(context, inner)
        made, refused, by_hand = change(context, inner)
        if not why:
            try:
                _heard(context, inner)
                found = remedy(context, inner)
                fits = without_fuse(inner) or as_wanted(context, inner, found)
                if not fits and not inner.driver and _given(inner, found):
                    inner.info.need()  # it was told what is wanted, and whether it does so is not known
            except Unread as error:
                unread = error
                continue
            if fits and fell_back(inner):
                yield _fallback(inner)
            if fits:
                continue
        yield Finding(
            code="GM701",
            status=Status.FAIL if why else Status.WARN,
            summary=f"{inner.name}: {why}"
            if why
            else f"{inner.name}: its storage driver is {inner.driver or 'not known'}, wanted is {context.wanted.dind_driver}",
            evidence=_evidence(inner),
            cause="The kernel takes no overlay's upper layer on another overlay, which a container's own root is, nor on FUSE, "
            "network and virtual machines' file systems. Up to 28 Docker tries the next driver where none is named; the "
            "containerd image store of 29 and newer does not."
            if why
            else "",
            remedy=by_hand,
            risk=Risk.RESTART,
            change=made,
            refused=refused,
            symptoms=("failed to mount", "invalid argument", "driver not supported: overlay2"),
        )
    for name in context.wanted.dind_containers:
        if name not in known and context.state.docker.containers.need() is not None:
            yield Finding(
                code="GM701",
                status=Status.WARN,
                summary=f"{name}, which dind.containers names, is no privileged container on this host",
                evidence=(Evidence("docker ps -a", "not there, or not privileged"),),
                remedy="Start it, or take its name out of dind.containers.",
                refused="no container is made by mend",
            )
    if unread:
        raise unread


def _fallback(inner: Inner) -> Finding:
    return Finding(
        code="GM701",
        status=Status.WARN,
        summary=f"{inner.name}: its Docker fell back to vfs, which copies the whole image for each layer",
        evidence=_evidence(inner),
        cause="Overlay cannot be mounted where its root lies, and no driver is named: Docker took the next that started.",
        remedy=f"Give it a volume on ext4 or xfs: {_where(inner)}.",
        refused="a container is not started anew by mend while it works",
        symptoms=("no space left on device", "failed to mount overlay: invalid argument"),
    )


def _where(inner: Inner) -> str:
    """How a volume is given to what runs an inner daemon. One that no Docker of this host knows is a pod's."""
    if inner.container is None and inner.unit is None:
        return f"an emptyDir, or a volume of a StorageClass, on {DOCKER_ROOT} in the pod's template"
    return f"`-v DIRECTORY:{DOCKER_ROOT}`, one directory a container"


def _heard(context: Context, inner: Inner) -> None:
    """What must be known before silence may be taken for health. Raises Unread."""
    named = inner.name in context.wanted.dind_containers
    if inner.daemon or (named and inner.container is not None and inner.container.running):
        inner.info.need()
    elif inner.container is None:
        context.state.storage.unit_log.get()
    if inner.driver in OVERLAY_DRIVERS:
        inner.root.mount.need()


@rule(
    "GM702",
    "fuse-overlayfs has its device",
    "measured with Docker 26.1.5 and 28.5.2: fuse-overlayfs is picked where its program is, even with no /dev/fuse",
    applies=rootful,
)
def fuse_device(context: Context) -> Iterator[Finding]:
    storage = context.state.storage
    info = context.state.docker.info.value or {}
    symptoms = ("fuse: device not found, try 'modprobe fuse' first", "fuse: device /dev/fuse not found")
    cause = (
        "Docker picks fuse-overlayfs by itself where overlay2 cannot be and the program is installed, and does not look for "
        "the device. It starts, pulls images, and fails at the first container."
    )
    if info.get("Driver") == "fuse-overlayfs" and storage.fuse.need() is False:
        yield Finding(
            code="GM702",
            status=Status.FAIL,
            summary=f"Docker's storage driver is fuse-overlayfs, and there is no {FUSE_DEVICE}: no container starts",
            evidence=(
                Evidence("docker info", "Storage Driver: fuse-overlayfs"),
                Evidence(FUSE_DEVICE, "not there"),
            ),
            cause=cause,
            remedy="Mend loads the module fuse, now and at every boot.",
            change=Change(Component.STORAGE, action="fuse") if context.wanted.manage_dind else None,
            refused="" if context.wanted.manage_dind else "dind.manage is false",
            symptoms=symptoms,
        )
    unread: Unread | None = None
    for inner in inners(context):
        if inner.driver == "fuse-overlayfs" and not inner.fuse.known:
            unread = Unread(inner.fuse)
        if without_fuse(inner):
            made, refused, by_hand = change(context, inner)
            yield Finding(
                code="GM702",
                status=Status.FAIL,
                summary=f"{inner.name}: its storage driver is fuse-overlayfs, and it has no {FUSE_DEVICE}: it starts no container",
                evidence=(*_evidence(inner), Evidence(f"{FUSE_DEVICE} in {inner.name}", "not there")),
                cause=cause,
                remedy=by_hand,
                risk=Risk.RESTART,
                change=made,
                refused=refused,
                symptoms=symptoms,
            )
    if unread:
        raise unread


@rule(
    "GM703",
    "vfs fits on the disk",
    "docs.docker.com/engine/storage/drivers/vfs-driver: a full copy a layer",
    applies=rootful,
)
def vfs_cost(context: Context) -> Iterator[Finding]:
    for inner in inners(context):
        needed, free = cost(inner), left(context, inner)
        wants = (
            inner.driver != "vfs"
            and context.wanted.dind_driver == "vfs"
            and inner.name in context.wanted.dind_containers
        )
        if wants and needed is not None and free is not None and needed > free:
            yield _too_big(inner.name, needed, free, inner.root.path)
    if _wants_outer(context) and context.wanted.docker_storage_driver == "vfs":
        storage = context.state.storage
        needed, free = _outer_cost(context), storage.docker.free
        if needed is not None and free is not None and needed > free:
            yield _too_big("Docker", needed, free, storage.docker.path)


def _too_big(who: str, needed: int, free: int, path: str) -> Finding:
    return Finding(
        code="GM703",
        status=Status.FAIL,
        summary=f"{who}: under vfs its present images would take {gigabytes(needed)}, and {gigabytes(free)} are left in {path}",
        evidence=(
            Evidence("docker history", f"layers add up to {gigabytes(needed)}"),
            Evidence("statvfs", f"{path}: {gigabytes(free)} free"),
        ),
        cause="vfs has no layers: each one is a full copy of all below it, and each container is two more.",
        remedy="Use a volume on ext4 or xfs, or fuse-overlayfs; or make room.",
        refused="the disk would be full",
        symptoms=("no space left on device",),
    )


def _wants_outer(context: Context) -> bool:
    """Whether the wanted state asks for another driver or root than the host's Docker has."""
    wanted, info = context.wanted, context.state.docker.info.value or {}
    driver, root = wanted.docker_storage_driver, wanted.docker_data_root
    return bool(info) and bool(
        (driver and driver != info.get("Driver"))
        or (root and root.rstrip("/") != str(info.get("DockerRootDir")).rstrip("/"))
    )


def _outer_cost(context: Context) -> int | None:
    images = context.state.storage.images.value
    return vfs_bytes(images, len(context.state.docker.containers.value or ())) if images is not None else None


def reboots(context: Context) -> dict[str, str]:
    """Units that run containers, and the action of theirs that would take the host down. Raises Unread."""
    found = {}
    context.state.storage.units_read.get()
    for unit in context.state.storage.units:
        shown = (context.state.storage.dangers.get() or {}).get(unit.name, {})
        for key in ("StartLimitAction", "FailureAction"):
            action = shown.get(key) or unit.settings.get(key, "")
            if action in REBOOTS:
                found[unit.name] = f"{key}={action}"
    return found


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
    needed, free = _outer_cost(context), context.state.storage.docker.free
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
    if not _wants_outer(context):
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
            tuple(Edit(context.state.docker.config_path, (key,), value) for key, value in edits.items()),
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


@rule(
    "GM706",
    "no unit reboots the host when a container fails",
    "systemd.unit(5) StartLimitAction=; ratio1 r1setup edge_node.service (systems.md C.1)",
    applies=rootful,
)
def reboot_units(context: Context) -> Iterator[Finding]:
    by_name = {unit.name: unit for unit in context.state.storage.units}
    for name, action in reboots(context).items():
        unit = by_name[name]
        burst = unit.settings.get("StartLimitBurst", "5 (the default)")
        yield Finding(
            code="GM706",
            status=Status.WARN,
            summary=f"{name} reboots this host when its container fails {burst} times: {action}",
            evidence=(Evidence(unit.path, f"{action}; {unit.owner or 'no owner named'}"),),
            cause="A restart of Docker that its container does not survive becomes a loop, and the loop a reboot.",
            remedy=f"Before Docker is changed: `systemctl stop {name}`, or a drop-in with StartLimitAction=none.",
            refused="whether the host may reboot by itself is its owner's decision",
        )


@rule(
    "GM707",
    "nothing is in a restart loop",
    "systemd.service(5) Restart=; docker inspect RestartCount (moby restartmanager)",
    applies=rootful,
)
def restart_loops(context: Context) -> Iterator[Finding]:
    for name, shown in sorted((context.state.storage.dangers.get() or {}).items()):
        restarts, now = int(shown.get("NRestarts") or 0), shown.get("SubState", "")
        # systemd before 262 keeps the last exit as Result when it gives a unit up, seen with 257.
        given_up = shown.get("Result") == "start-limit-hit" or (now == "failed" and restarts > 0)
        if given_up or (now.startswith("auto-restart") and restarts >= LOOP):
            yield _loop(
                name,
                f"systemctl show {name}",
                f"{restarts} restarts, {'given up' if given_up else 'waits for the next'}",
            )
    docker = context.state.docker
    for found in (docker.containers.get() if docker.running else None) or ():
        if found.restarting and found.restarts >= LOOP:
            yield _loop(found.label(), f"docker inspect {found.name}", _ends(found))


def _ends(found: Container) -> str:
    return f"RestartCount {found.restarts}, exit status {found.exit}"


def _loop(name: str, source: str, text: str) -> Finding:
    return Finding(
        code="GM707",
        status=Status.WARN,
        summary=f"{name} is in a restart loop: {text}",
        evidence=(Evidence(source, text),),
        cause="What it runs ends by itself; its log says why.",
        remedy=f"`journalctl -u {name}` or `docker logs {name.split(' ')[0]}`, before Docker is restarted for anything else.",
        refused="the cause is not known from outside",
    )


@rule(
    "GM708",
    "no cron job takes a stopped Docker for an empty one",
    "systems.md B.3, run: ds01 reconcile-gpu-state.sh frees every live allocation while Docker is down",
    applies=rootful,
)
def reconcilers(context: Context) -> Iterator[Finding]:
    for path, scripts in sorted((context.state.storage.cron.get() or {}).items()):
        mine = [script for script in scripts if re.search(r"reconcil|gpu[-_]state", script)]
        if mine:
            yield Finding(
                code="GM708",
                status=Status.WARN,
                summary=f"{path} runs {', '.join(mine)}: while dockerd restarts it may take every container for gone",
                evidence=(Evidence(path, ", ".join(mine)),),
                cause="A job that compares allocations with running containers sees none in the seconds in which dockerd is down.",
                remedy="Have it stop where `docker version` fails, or hold it (its lock, or the cron line) while Docker is changed.",
                refused="a site's own job is the site's",
            )
