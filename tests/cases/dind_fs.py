"""unraid/ci-runner-farm#7, k3s-io/k3s#66, rwlove/home-ops#12492: inner Docker's root on a file system that takes no overlay: fuse.shfs (Unraid), zfs < 2.2, virtiofs, 9p; daemon runs, every container/buildx fails: failed to mount ... invalid argument"""

from tests.unit.build import *
from tests.unit.test_storage import INNER_MOUNTS, daemon, dind_host, inside


def on(fs, driver="overlay2", log=()):
    m = INNER_MOUNTS + f"701 700 0:99 / /var/lib/docker rw - {fs} share rw\n"
    return dind_host(inside(m, docker=daemon(driver)), log=log)


L = (
    'time="2026-06-24T10:00:00Z" level=error msg="failed to mount overlay: invalid argument" storage-driver=overlay2',
    'level=error msg="Handler for POST /v1.47/containers/create returned error: failed to mount /tmp/containerd-mount1234: fstype: overlay: invalid argument"',
)
HOSTS = {
    "fuse.shfs overlay2": on("fuse.shfs"),
    "fuse.shfs overlay2 with the log": on("fuse.shfs", log=L),
    "zfs overlayfs (store)": on("zfs", "overlayfs", log=L),
    "virtiofs": on("virtiofs", "overlay2", L),
    "9p": on("9p", "overlay2", L),
    "vfs fallback (moby#42171)": dind_host(inside(docker=daemon("vfs")), log=L[:1]),
}
