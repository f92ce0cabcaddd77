"""Which file systems take an overlay, by kernel and by Docker's documents.

Judged from what the host says of its file systems, by the table below. A real overlay mount in the very directory is made
by the transaction, before it changes anything (gpumend/payload/change/inner.py): an audit mounts nothing.
"""

from __future__ import annotations

from gpumend.rules.rule import Context, has_gpu
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
ZFS_SINCE: Version = (2, 2)
OVERLAY_DRIVERS = ("overlay2", "overlayfs", "overlay")


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
