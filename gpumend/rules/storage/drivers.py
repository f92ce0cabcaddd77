"""GM702, GM703: what fuse-overlayfs and vfs call for: a device, and room on the disk."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import FuseDevice
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.storage.inner import change, cost, evidence_of, gigabytes, inners, left, without_fuse
from gpumend.rules.storage.outer import vfs_cost_of_outer, wants_another
from gpumend.rules.storage.overlay import rootful
from gpumend.state.reading import Unread
from gpumend.state.storage import FUSE_DEVICE


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
            change=Change(Component.STORAGE, FuseDevice()) if context.wanted.manage_dind else None,
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
                evidence=(*evidence_of(inner), Evidence(f"{FUSE_DEVICE} in {inner.name}", "not there")),
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
    if wants_another(context) and context.wanted.docker_storage_driver == "vfs":
        storage = context.state.storage
        needed, free = vfs_cost_of_outer(context), storage.docker.free
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
