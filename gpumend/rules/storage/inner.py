"""GM701: the Dockers inside of containers, the storage that each has, and the one that would work."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from gpumend.rules.change import InnerStorage
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.rules.storage.overlay import DOCUMENTED, OVERLAY_DRIVERS, is_fuse, rootful, takes_overlay
from gpumend.state.reading import Unread
from gpumend.state.storage import DOCKER_ROOT, DRIVER_NAMES, FUSE_DEVICE, Inner, vfs_bytes
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record

DEAD = Pattern(
    r"error initializing graphdriver|driver not supported|several valid graphdrivers|configured driver (?:(?!configured driver ).)* not available"
)
REFUSED_MOUNT = Pattern(
    r"failed to mount (?:(?!failed to mount ).)*(?:invalid argument|operation not permitted|not supported)|not supported as upperdir"
)


class Remedy(Record):
    """What an inner daemon's storage should be. kind: `volume`, `fuse-overlayfs`, `vfs`, or empty where nothing fits;
    then `refused` says why. options: of `docker run`. directory: on the host, for a volume. drivers: which its daemon then has.
    """

    kind: str
    options: tuple[str, ...] = ()
    directory: str = ""
    drivers: tuple[str, ...] = ()
    why: str = ""
    refused: str = ""


def gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def has_inner(context: Context) -> bool:
    """As `rootful`, or a dockerd runs in a pod of containerd's or CRI-O's, on a host that may have no Docker (ARC, GitLab and
    Jenkins runners)."""
    return rootful(context) or (
        has_gpu(context) and any(found.daemon for found in context.state.storage.inners)
    )


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


def named(inner: Inner) -> str:
    """A container's name, and what it is where that is told: sysbox gives a container's Docker a root of its own on the host."""
    runtime = inner.container.runtime if inner.container else ""
    return f"{inner.name} ({runtime})" if runtime.startswith("sysbox") else inner.name


def fell_back(inner: Inner) -> bool:
    """Whether its daemon has vfs since overlay could not be mounted: Docker up to 28 then tries the next (moby#42171)."""
    return inner.driver == "vfs" and not inner.named_driver() and any(map(REFUSED_MOUNT.search, inner.log))


def _words(row: str) -> str:
    """What a log line says, without its frame."""
    _, sign, said = row.partition('msg="')
    end = re.search(r'"(?: \w+=|$)', said)
    return (said[: end.start()] if sign and end else row)[:200]


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
    return [(keys[flag], value) for flag, value in zip(found.options[::2], found.options[1::2])]


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
    return Change(Component.STORAGE, InnerStorage(inner.name)), "", mended


def evidence_of(inner: Inner) -> tuple[Evidence, ...]:
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
            summary=f"{named(inner)}: {why}"
            if why
            else f"{inner.name}: its storage driver is {inner.driver or 'not known'}, wanted is {context.wanted.dind_driver}",
            evidence=evidence_of(inner),
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
        evidence=evidence_of(inner),
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
