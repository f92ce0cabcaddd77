"""Where images and containers lie: Docker's and containerd's roots, and the Dockers that run inside of containers.

Everything is read: mounts from /proc, the inner daemon's own words over its own socket, its log from the outer one.
Nothing is started, mounted or written to find out.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from gpumend.state.docker import Container, Docker, containers_of, daemon_json, whole
from gpumend.state.docker import parse as parse_docker
from gpumend.state.reading import Reading, first_unknown
from gpumend.state.request import Command, Glob, Inside, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

DOCKER_ROOT, CONTAINERD_ROOT = "/var/lib/docker", "/var/lib/containerd"
MOUNTINFO = "/proc/self/mountinfo"
ZFS = "/sys/module/zfs/version"
FUSE_DEVICE = "/dev/fuse"
FUSE_PROGRAMS = ("/usr/bin/fuse-overlayfs", "/usr/local/bin/fuse-overlayfs", "/bin/fuse-overlayfs")
FUSE_BOOT = "/etc/modules-load.d/gpumend-fuse.conf"  # modules-load.d(5)
# Directories of a Docker root that hold a graph driver's data (moby daemon/graphdriver: each driver's home is its name).
GRAPH_DRIVERS = ("overlay2", "fuse-overlayfs", "btrfs", "zfs", "vfs")
# vfs is not among them: moby scanPriorDrivers leaves it out.
PRIOR_DRIVERS = ("overlay2", "fuse-overlayfs", "btrfs", "zfs")
STORE_DEFAULT: Version = (
    29,
    0,
)  # moby 29.0: the containerd image store is the default (image_store_choice.go)
# Local file systems: statvfs(2) of them cannot hang as a network's can.
LOCAL = ("ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "overlay", "tmpfs", "fuse.fuse-overlayfs")

# Compose takes the first of these besides its main file (compose-go cli/options.go DefaultOverrideFileNames).
OVERRIDES = (
    "compose.override.yml",
    "compose.override.yaml",
    "docker-compose.override.yml",
    "docker-compose.override.yaml",
)
MAIN_FILES = ("compose.yml", "compose.yaml", "docker-compose.yml", "docker-compose.yaml")
DRIVER_NAMES = ("DOCKERD_STORAGE_DRIVER", "DOCKER_STORAGE_DRIVER", "DOCKER_DRIVER")
UNITS = "/etc/systemd/system/*.service"
DROPINS = "/etc/systemd/system/*.service.d/*.conf"
# Of a unit file only this leaves the host: its `docker run` may carry tokens.
UNIT_LINES = (
    r"(?m)^(?:StartLimitAction|FailureAction|StartLimitBurst|StartLimitInterval(?:Sec)?|Restart|Requires|BindsTo"
    r"|PartOf)[ \t]*=.*$"
    r"|^#.*\b[Mm]anaged by\b.*$|^#.*\bAnsible managed\b.*$"
    r"|\b(?:docker|podman)(?: container)? run\b|--name[= ]\S+|--privileged\b|--device[= ]/dev/fuse\S*"
    r"|(?:-v|--volume)[= ]\S+:/var/lib/docker\S*|\bDOCKERD?_(?:STORAGE_)?DRIVER=[a-z0-9-]+"
    r"|\bgpumend:[ \t]\S+"
)
OUR_DROPIN = "gpumend-dind.conf"
RUNS_AT_END = r"\brun$"
RUNS = Pattern(RUNS_AT_END)
CRON = (
    "/etc/crontab",
    "/etc/cron.d/*",
    "/etc/cron.hourly/*",
    "/etc/cron.daily/*",
    "/var/spool/cron/crontabs/*",
    "/var/spool/cron/*",
)
# Scripts by their paths; what else stands on a line stays on the host.
CRON_LINES = (
    r"(?m)^[^#\n]*?(?<![\w./@-])[\w.@-]*"
    r"(/[\w./@-]*(?:docker|reconcil|gpu[-_]state|stale[-_]gpu|validate-state|container)[\w./@-]*)"
)
SAID = (
    r"(?:error initializing graphdriver|driver not supported|contains several valid graphdrivers"
    r"|not supported as upperdir|failed to mount|storage-driver=\S+|\[graphdriver\]|fuse: device|configured driver"
    r"|no space left on device)"
)
LOG_LINES = rf"(?mi)^[^\n]*{SAID}[^\n]*$"
# What of `unit-dangers` says that systemd starts, started or has given up to start a unit again by itself.
LOOPS = {"NRestarts", "SubState", "Result"}
# The empty line between two units stays, too: which of its properties `systemctl show` prints first differs by version.
SHOWN = r"^(?:Id=.*|NRestarts=[1-9].*|(?:StartLimit|Failure)Action=(?!none).+|SubState=(?:auto-restart(?:-queued)?|failed)|Result=start-limit-hit)?$"

REQUEST = Request(
    files=(MOUNTINFO, "/proc/filesystems", FUSE_BOOT, ZFS),
    stats=(FUSE_DEVICE, DOCKER_ROOT, CONTAINERD_ROOT),
    globs=(
        Glob(UNITS, read=False, search=UNIT_LINES),
        Glob(DROPINS, read=False, search=UNIT_LINES),
        *(Glob(pattern, read=False, search=CRON_LINES) for pattern in CRON),
    ),
    programs=("fuse-overlayfs", "modprobe"),
    commands={
        # It takes a mount point, and no directory below one: `cannot open ...: Is a directory` (seen with xfsprogs 6.1 and 7.2).
        "xfs-info": Command(
            ("sh", "-c", 'exec xfs_info "$(stat -c %m "$0")"', DOCKER_ROOT),
            timeout=5,
            keep=r"ftype=\d",
            needs=(DOCKER_ROOT,),
            needs_one=("/usr/sbin/xfs_info", "/sbin/xfs_info"),
            mounted=("xfs",),
        ),
        # What `docker run` of a unit printed: with --rm its container is gone as soon as its daemon has died.
        "unit-log": Command(
            ("journalctl", "--boot", "_COMM=docker", "--lines=400", "--output=with-unit", "--no-pager"),
            timeout=10,
            needs=("/run/systemd/system",),
            told_by=((UNITS, DROPINS), RUNS_AT_END),
            keep=rf"(?mi)(?<!\S)\S+\.service\[\d+\]: [^\n]*{SAID}[^\n]*$",
        ),
        # Loaded units with what drop-ins and packages say of them: of a hundred, some lines.
        "unit-dangers": Command(
            (
                "systemctl", "show", "--property=Id,NRestarts,StartLimitAction,FailureAction,SubState,Result",
                "*.service",
            ),
            timeout=10,
            needs=("/run/systemd/system",),
            keep=f"(?m){SHOWN}",
            by_systemd=True,
            units_of=UNITS,
        ),
    },
    spaces=LOCAL,
    listings=(DOCKER_ROOT,),
    inside=Inside(files=("/etc/docker/daemon.json",), stats=(FUSE_DEVICE, *FUSE_PROGRAMS, DOCKER_ROOT)),
    beside_compose=(OVERRIDES, r"\A# gpumend: ([^\n]*)"),
    log_keep=LOG_LINES,
)  # fmt: skip


class Mount(Record):
    """A mounted file system, as mountinfo of proc(5) has it."""

    point: str
    fstype: str
    source: str


class Root(Record):
    """A daemon's root directory. mount: what it lies on; free: bytes left there, None where not known. drivers: the graph
    drivers whose directories in it hold something."""

    path: str
    mount: Reading[Mount]
    free: int | None
    drivers: Reading[tuple[str, ...]]

    @property
    def fstype(self) -> str:
        """Its file system's name as findmnt gives it, or an empty text where it is not known."""
        return self.mount.value.fstype if self.mount.value else ""


class ImageSize(Record):
    """An image: bytes in all, and of its layers from the lowest up; None where they were not read."""

    names: tuple[str, ...]
    size: int
    layers: tuple[int, ...] | None


class UnitFile(Record):
    """A systemd unit that runs a container, with its drop-ins. settings: what UNIT_LINES found, by directive; owner: who
    its header says manages it; overridden: the drop-in of somebody else that has an ExecStart of its own."""

    path: str
    name: str
    settings: Mapping[str, str]
    container: str
    owner: str
    words: tuple[str, ...]
    dropins: tuple[str, ...]
    log: tuple[str, ...]
    overridden: str

    def volume(self) -> str:
        """What it mounts on /var/lib/docker of its container, or an empty text."""
        found = [re.match(r"(?:-v|--volume)[= ](.+?):", word) for word in self.words]
        return next((match.group(1) for match in reversed(found) if match), "")


class Compose(Record):
    """The compose project that a container is of. override: the file in which a site adds to it; ours: what the first line
    of that file says, where it is ours. taken: why there is no such file for us, or an empty text."""

    project: str
    service: str
    directory: str
    override: str
    ours: str
    taken: str


class Inner(Record):
    """A container that runs a dockerd, or may: it is privileged. daemon: one was seen running inside of it.

    root: the inner daemon's root as that container sees it. info: its own `docker info`. fuse: whether the container has
    /dev/fuse; fuse_program: whether it has fuse-overlayfs. store: its daemon.json asks for the containerd image store.
    unit: the systemd unit that starts it; loops: systemd starts that again by itself. compose: its project.
    """

    id: str
    name: str
    container: Container | None
    daemon: bool
    root: Root
    info: Reading[Mapping[str, Any]]
    images: Reading[tuple[ImageSize, ...]]
    containers: Reading[int]
    fuse: Reading[bool]
    fuse_program: Reading[bool]
    store: Reading[bool]
    unit: UnitFile | None
    loops: bool
    compose: Compose | None

    @property
    def driver(self) -> str:
        """The inner daemon's storage driver as it says itself, else as its log does; empty where neither is known."""
        if self.info.value:
            return str(self.info.value.get("Driver") or "")
        for row in reversed(self.log):
            found = re.search(r"storage-driver=([a-z0-9-]+)|driver not supported: ([a-z0-9-]+)", row)
            if found:
                return found.group(1) or found.group(2)
        return ""

    @property
    def log(self) -> tuple[str, ...]:
        """What its daemon last said of its storage: by its container's log, and by its unit's while no container runs, or in
        a loop, where one that has just begun has said nothing yet. Else the unit's log is of an earlier start, which may
        have been another command's: a daemon that answers has ended its loop."""
        own, before = self.container.log if self.container else (), self.unit.log if self.unit else ()
        begun = self.container is not None and self.container.running
        return own if self.info.ok or (begun and not self.loops) else (*before, *own)

    def named_driver(self) -> str:
        """The driver that its environment names. Docker reads DOCKER_DRIVER; the other two are site entry points'."""
        return next((value for name in DRIVER_NAMES if (value := self.env().get(name))), "")

    def env(self) -> Mapping[str, str]:
        """Its environment; while there is no container, as far as its unit's command names it."""
        if self.container:
            return self.container.env
        pairs = [word.partition("=") for word in (self.unit.words if self.unit else ())]
        return {name: value for name, _, value in pairs if name in DRIVER_NAMES}

    def volume(self) -> str:
        """What is mounted on its /var/lib/docker, or an empty text."""
        if self.container:
            mounts = self.container.mounts
            return next((str(m.get("source")) for m in mounts if m.get("target") == DOCKER_ROOT), "")
        return self.unit.volume() if self.unit else ""


class Choice(Record):
    """Why Docker has the storage that it has. rule: the number in systems.md C.2; store: the containerd image store."""

    rule: int
    reason: str
    driver: str
    store: bool


class Storage(Record):
    """docker, containerd: the host's own roots. mounts: of the host, by mount point. zfs: the module's version. ftype: of the xfs below
    /var/lib/docker. kernel: file systems that the kernel knows now. fuse: /dev/fuse is there. units: that run
    containers, as far as they could be read: `units_read` says whether all could; unit_log: what their `docker run` printed; dangers: of loaded units, what may reboot the host or is in a loop. cron: job file -> scripts."""

    docker: Root
    containerd: Root
    mounts: Reading[tuple[Mount, ...]]
    spaces: Mapping[str, int]
    ftype: Reading[bool]
    kernel: Reading[tuple[str, ...]]
    fuse: Reading[bool]
    fuse_boot: Reading[str]
    fuse_program: bool
    modprobe: bool
    images: Reading[tuple[ImageSize, ...]]
    choice: Reading[Choice]
    inners: tuple[Inner, ...]
    units: tuple[UnitFile, ...]
    units_read: Reading[bool]
    unit_log: Reading[Output]
    dangers: Reading[Mapping[str, Mapping[str, str]]]
    cron: Reading[Mapping[str, tuple[str, ...]]]
    zfs: Reading[Version]

    def lies_on(self, path: str) -> Mount | None:
        """The mount that a path of the host lies on, whether it exists or not."""
        return below(self.mounts.value or (), path)

    def free(self, path: str) -> int | None:
        """Bytes left where a path of the host lies or would lie."""
        mount = self.lies_on(path)
        return self.spaces.get(mount.point) if mount else None


def mounts_of(text: str) -> tuple[Mount, ...]:
    """mountinfo of proc(5). Of two mounts on one point the later one is what is seen."""
    found: dict[str, Mount] = {}
    for line in text.splitlines():
        left, sign, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if not sign or len(fields) < 5 or len(kinds) < 2:
            raise ValueError(f"not a line of mountinfo: {line[:80]!r}")
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match.group(1), 8)), fields[4])
        found[point] = Mount(sys.intern(point), sys.intern(kinds[0]), sys.intern(kinds[1]))
    return tuple(found.values())


def lies_in(path: str, directory: str) -> bool:
    """Whether an absolute path is a directory or lies in it. By text: a host has a hundred mounts, and is asked for each."""
    return path == directory or path.startswith(directory.rstrip("/") + "/")


def below(mounts: tuple[Mount, ...], path: str) -> Mount | None:
    """The mount with the longest point that leads to the path."""
    leading = [mount for mount in mounts if lies_in(path, mount.point)]
    return max(leading, key=lambda mount: len(mount.point), default=None)


def _leads_to(path: str, mounts: tuple[Mount, ...]) -> Mount:
    mount = below(mounts, path)
    if mount is None:
        raise ValueError(f"no mount leads to {path}")
    return mount


def _root(
    path: str,
    mounts: Reading[tuple[Mount, ...]],
    free: int | None,
    listing: Reading[Mapping[str, int | None]],
) -> Root:
    return Root(
        path,
        mounts.map(partial(_leads_to, path)),
        free,
        listing.map(lambda names: tuple(name for name in GRAPH_DRIVERS if names.get(name))),
    )


def image_sizes(raw: Mapping[str, Any]) -> tuple[ImageSize, ...]:
    return tuple(
        ImageSize(
            tuple(map(str, item.get("names") or ())),
            int(item.get("size") or 0),
            tuple(map(int, item["layers"])) if item.get("layers") is not None else None,
        )
        for item in raw.get("sizes") or ()
    )


def vfs_bytes(images: tuple[ImageSize, ...], containers: int = 0) -> int:
    """The disk that these images take under vfs, which copies the whole image so far for each layer
    (docs.docker.com/engine/storage/drivers/vfs-driver), and twice for each container: its init layer and its own.

    An upper bound where images share layers, or where the sizes of layers were not read (a layer each hundred MB then).
    """
    total = 0
    for image in images:
        if image.layers is None:
            total += image.size * max(1, image.size // (100 << 20))
        else:
            total += sum(sum(image.layers[: count + 1]) for count in range(len(image.layers)))
    largest = max((image.size for image in images), default=0)
    return total + 2 * containers * largest


def choice(
    version: Version, named: str, snapshotter: object, prior: tuple[str, ...], running: str, store: bool
) -> Choice:
    """Which rule chose a daemon's storage (moby daemon/image_store_choice.go, systems.md C.2).

    named: DOCKER_DRIVER, else `storage-driver`. snapshotter: features.containerd-snapshotter, None where not set.
    prior: graph drivers with data. running: the driver it has.
    """
    data = tuple(name for name in prior if name in PRIOR_DRIVERS)
    if snapshotter is not None:
        return Choice(2, f"features.containerd-snapshotter is {str(snapshotter).lower()}", running, store)
    if named:
        return Choice(1 if version < STORE_DEFAULT else 4, f"the driver {named} is named", running, store)
    if data:
        return Choice(3, f"{', '.join(data)} has data from before", running, store)
    if version >= STORE_DEFAULT:
        return Choice(
            5, "nothing is named and there is no older data: the containerd image store", running, store
        )
    return Choice(
        5,
        "nothing is named: the first of overlay2, fuse-overlayfs, btrfs, zfs, vfs that started",
        running,
        store,
    )


def _choice(docker: Docker, drivers: Reading[tuple[str, ...]]) -> Reading[Choice]:
    def chosen(info: Mapping[str, Any]) -> Choice:
        process = docker.process.value
        env = process.env.get("DOCKER_DRIVER", "") if process else ""
        config = docker.config.value or {}
        features = config.get("features")
        rows = [row for row in info.get("DriverStatus") or () if isinstance(row, list) and len(row) == 2]
        return choice(
            docker.version.need(),
            env or docker.flags.get("storage-driver") or str(config.get("storage-driver") or ""),
            features.get("containerd-snapshotter") if isinstance(features, dict) else None,
            drivers.value or (),
            str(info.get("Driver") or ""),
            any(row[0] == "driver-type" and "snapshotter" in str(row[1]) for row in rows),
        )

    if unread := first_unknown((docker.config, drivers)):
        return unread.without_value()
    return docker.info.map(chosen) if docker.version.ok else Reading.none("docker info", "version not known")


def _there(snapshot: Snapshot, *paths: str) -> Reading[bool]:
    """Whether one of these paths is there."""
    found = [snapshot.stat(path) for path in paths]
    if any(reading.ok for reading in found):
        return Reading.of(True, paths[0])
    unread = first_unknown(found)
    return Reading(unread.status, None, paths[0], unread.detail) if unread else Reading.of(False, paths[0])


def _all_read(snapshot: Snapshot, *patterns: str) -> Reading[bool]:
    """Whether these directories, and each file in them, could be searched."""
    for pattern in patterns:
        listed = snapshot.glob(pattern)
        if unread := first_unknown((listed, *(snapshot.found(path) for path in listed.value or ()))):
            return unread.without_value()
    return Reading.of(True, ", ".join(patterns))


def _cron(snapshot: Snapshot) -> Reading[Mapping[str, tuple[str, ...]]]:
    return _all_read(snapshot, *CRON).map(
        lambda _: {
            path: scripts
            for pattern in CRON
            for path in snapshot.glob(pattern).value or ()
            if (scripts := tuple(dict.fromkeys(snapshot.found(path, CRON_LINES).value or ())))
        }
    )


def _units(snapshot: Snapshot) -> tuple[UnitFile, ...]:
    dropins: dict[str, list[str]] = {}
    unread = _all_read(snapshot, DROPINS)
    for path in snapshot.glob(DROPINS).value or ():
        dropins.setdefault(path.split("/")[-2].removesuffix(".d"), []).append(path)
    units = []
    output = snapshot.succeeded("unit-log").value
    said = output.out.splitlines() if output else []
    for path in snapshot.glob(UNITS).value or ():
        name = path.rpartition("/")[2]
        words, overridden = list(snapshot.found(path, UNIT_LINES).value or ()), ""
        for dropin in dropins.get(name, ()):
            more = snapshot.found(dropin, UNIT_LINES).value or ()
            words.extend(more)
            if not dropin.endswith(f"/{OUR_DROPIN}") and any(RUNS.search(word) for word in more):
                overridden = dropin
        if not any(RUNS.search(word) for word in words):
            continue
        settings = {}
        for word in words:
            if match := re.match(r"([A-Z][A-Za-z]+)[ \t]*=[ \t]*(.*)$", word):
                settings[match.group(1)] = match.group(2)
        names = [re.split(r"[= ]", word, maxsplit=1)[1] for word in words if word.startswith("--name")]
        owners = [word.lstrip("# ") for word in words if word.startswith("#")]
        if not unread.known:  # it may be one with an ExecStart
            owners.insert(0, f"{unread.source} could not be read")
        container = names[0].strip("\"'") if names else ""
        container = container.replace("%n", name).replace("%N", name.removesuffix(".service"))
        units.append(
            UnitFile(
                path,
                name,
                settings,
                container,
                owners[0] if owners else "",
                tuple(words),
                tuple(dropins.get(name, ())),
                tuple(row.partition("]: ")[2] for row in said if row.startswith(f"{name}[")),
                overridden,
            )
        )
    return tuple(units)


def _ftype(text: str) -> bool:
    """The line of xfs_info(8) that tells; raises ValueError where there is none."""
    if "ftype=" not in text:
        raise ValueError("no ftype in what xfs_info printed")
    return "ftype=1" in text


def _dangers(output: Output) -> Mapping[str, Mapping[str, str]]:
    found = {}
    for block in output.out.split("\n\n"):
        shown = dict(line.split("=", 1) for line in block.split("\n") if "=" in line)
        if len(shown) > 1 and "Id" in shown:
            found[shown.pop("Id")] = shown
    return found


def _outer_root(
    container: Container | None, unit: UnitFile | None, docker: Docker, mounts: Reading[tuple[Mount, ...]]
) -> Reading[Mount]:
    """What /var/lib/docker of a container that does not run would lie on: its mount's source, or its own root, which is
    what the outer driver makes."""
    pairs = (
        [(str(m.get("target") or ""), str(m.get("source") or "")) for m in container.mounts]
        if container
        else []
    )
    if unit and not container:
        pairs.append((DOCKER_ROOT, unit.volume()))
    for target, source in pairs:
        if target and lies_in(DOCKER_ROOT, target) and source.startswith("/"):
            return mounts.map(partial(_leads_to, source))
    info = docker.info.value or {}
    driver = str(info.get("Driver") or "")
    if driver in ("overlay2", "overlayfs", "overlay"):
        return Reading.of(Mount("/", "overlay", "overlay"), "docker info")
    if driver == "fuse-overlayfs":
        return Reading.of(Mount("/", "fuse.fuse-overlayfs", driver), "docker info")
    path = str(info.get("DockerRootDir") or DOCKER_ROOT)
    return mounts.map(partial(_leads_to, path))


def _compose(container: Container, snapshot: Snapshot) -> Compose:
    labels = container.labels
    directory = labels.get("com.docker.compose.project.working_dir", "")
    files = [path for path in labels.get("com.docker.compose.project.config_files", "").split(",") if path]
    main = [path for path in files if path.rpartition("/")[2] in MAIN_FILES]
    name = main[0].rpartition("/")[2] if main else MAIN_FILES[0]
    override, ours, taken = f"{directory}/{name.replace('.y', '.override.y')}", "", ""
    if (
        not directory.startswith("/")
        or not main
        or any(path.rpartition("/")[0] not in ("", directory) for path in files)
    ):
        taken = f"its files are {', '.join(files) or 'not known'}"
    for path in (f"{directory}/{known}" for known in OVERRIDES):
        found = snapshot.stat(path)
        if found.absent or taken:
            continue
        said = snapshot.found(path).value or ()
        if path == override and said:
            ours = said[0]
        else:
            taken = f"{path} is there" if found.ok else f"{path} could not be read"
    service = labels.get("com.docker.compose.service", container.name)
    return Compose(container.project or "", service, directory, override, ours, taken)


def _asks_for_store(within: Snapshot) -> Reading[bool]:
    def asks(config: Mapping[str, Any]) -> bool:
        features = config.get("features")
        return isinstance(features, dict) and features.get("containerd-snapshotter") is True

    return within.file("/etc/docker/daemon.json").map(daemon_json).map(asks)


def ended(within: Snapshot) -> bool:
    """Whether a container's process ended while it was looked at, as in a restart loop: nothing in it is known then."""
    return bool(within.answer.get("ended"))


def _inner(
    ident: str,
    container: Container | None,
    within: Snapshot | None,
    docker: Docker,
    mounts: Reading[tuple[Mount, ...]],
    units: tuple[UnitFile, ...],
    dangers: Mapping[str, Mapping[str, str]],
    snapshot: Snapshot,
) -> Inner:
    absent: Reading[Any] = Reading.none(f"container {ident}", "it does not run")
    name = container.name if container else ident
    unit = next((unit for unit in units if unit.container == name), None)
    daemon = within is not None and "docker" in within.answer
    socket = f"/run/docker.sock in {name}"
    raw = (
        within.docker.renamed(socket) if within and daemon else Reading.none(socket, "no dockerd runs in it")
    )
    if within is None or ended(within):
        where = _outer_root(container, unit, docker, mounts)
        root, fuse, program = Root(DOCKER_ROOT, where, None, absent), absent, absent
    else:
        own = within.mountinfo().map(mounts_of)
        at = within.answer.get("stats", {}).get(DOCKER_ROOT, {})
        path = str((raw.value or {}).get("info", {}).get("DockerRootDir") or DOCKER_ROOT)
        free = int(at["free"]) if "free" in at else None
        root = _root(path, own, free, absent)
        fuse, program = _there(within, FUSE_DEVICE), _there(within, *FUSE_PROGRAMS)
    return Inner(
        id=ident,
        name=name,
        container=container,
        daemon=daemon,
        root=root,
        info=raw.map(lambda found: found["info"]),
        images=whole(raw, "images").map(image_sizes),
        containers=whole(raw, "containers").map(lambda found: len(found.get("containers") or ())),
        fuse=fuse,
        fuse_program=program,
        store=absent if within is None or ended(within) else _asks_for_store(within),
        unit=unit,
        loops=unit is not None and bool(LOOPS & dangers.get(unit.name, {}).keys()),
        compose=_compose(container, snapshot) if container and container.project else None,
    )


def parse(snapshot: Snapshot) -> Storage:
    docker = snapshot.once(parse_docker)
    mounts = snapshot.text(MOUNTINFO).map(mounts_of)
    spaces = snapshot.spaces

    def free(path: str) -> int | None:
        mount = below(mounts.value or (), path)
        return spaces.get(mount.point) if mount else None

    info = docker.info.value or {}
    config = docker.config.value or {}
    named = docker.flags.get("data-root") or config.get("data-root")
    path = str(info.get("DockerRootDir") or named or DOCKER_ROOT)
    root = _root(path, mounts, free(path), snapshot.listing(path))
    # Those of which dockerd could tell, where it could not of each.
    units, listed = _units(snapshot), snapshot.docker.map(containers_of).value or ()
    known = {found.id: found for found in listed if found.privileged}
    # sysbox runs a dockerd in a container that is not privileged
    unprivileged = {found.id: found for found in listed if not found.privileged}
    names, idents = {found.name for found in listed}, {found.id for found in listed}
    inside = {
        ident: within
        for ident, within in snapshot.inside.items()
        # Of one that has ended and that Docker does not know any more, nothing is left to mend.
        if not (ended(within) and docker.containers.ok and ident not in idents)
    }
    dangers = snapshot.succeeded("unit-dangers").map(_dangers)
    # A unit's container that is not there now: between two starts, or --rm after its last.
    away = {unit.container for unit in units if "--privileged" in unit.words and unit.container} - names
    if docker.running and not docker.containers.ok:
        away = set()
    return Storage(
        docker=root,
        containerd=_root(CONTAINERD_ROOT, mounts, free(CONTAINERD_ROOT), Reading.none(CONTAINERD_ROOT)),
        mounts=mounts,
        spaces=spaces,
        ftype=snapshot.succeeded("xfs-info").map(lambda found: _ftype(found.out)),
        kernel=snapshot.text("/proc/filesystems").map(
            lambda text: tuple(line.split()[-1] for line in text.splitlines() if line.split())
        ),
        fuse=_there(snapshot, FUSE_DEVICE),
        fuse_boot=snapshot.text(FUSE_BOOT),
        fuse_program=snapshot.program("fuse-overlayfs").ok,
        modprobe=snapshot.program("modprobe").ok,
        images=whole(snapshot.docker, "images").map(image_sizes),
        choice=_choice(docker, root.drivers),
        inners=tuple(
            _inner(
                ident,
                known.get(ident) or unprivileged.get(ident),
                inside.get(ident),
                docker,
                mounts,
                units,
                dangers.value or {},
                snapshot,
            )
            for ident in sorted({*known, *inside, *away})
        ),
        units=units,
        units_read=_all_read(snapshot, UNITS, DROPINS),
        unit_log=snapshot.succeeded("unit-log"),
        dangers=dangers,
        cron=_cron(snapshot),
        zfs=snapshot.text(ZFS).map(parse_version),
    )
