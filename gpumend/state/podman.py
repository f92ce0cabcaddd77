"""podman: its version, the spec directories that containers.conf gives it, and its services that start at boot."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Glob, Request
from gpumend.state.snapshot import FileContent, Snapshot
from gpumend.text.documents import toml
from gpumend.text.mask import mask
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

CONFIG = "/etc/containers/containers.conf"
DROP_INS = "/etc/containers/containers.conf.d/*.conf"
VENDOR = "/usr/share/containers/containers.conf"

# A user's own: where rootless containers lie, and what of the settings says where specs are looked for (containers.conf(5)).
USER_STORAGE = "/home/*/.local/share/containers/storage"
USER_CONFIGS = (
    "/home/*/.config/containers/containers.conf",
    "/home/*/.config/containers/containers.conf.d/*.conf",
)
USER_DIRS = r"(?m)^[ \t]*cdi_spec_dirs[ \t]*=[ \t]*(\[[^\]\n]{0,500}\])"
SUBUID = "/etc/subuid"
# podman-systemd.unit(5): files of which a generator makes services at each boot, with their drop-ins; and services that somebody
# wrote or had `podman generate systemd` write. Of them leave: the device, whether the service is started at boot, and whether it
# waits for the spec.
QUADLETS = tuple(
    f"{directory}/{name}"
    for directory in ("/etc/containers/systemd", "/usr/share/containers/systemd")
    for name in ("*.container", "*/*.container", "*.container.d/*.conf")
)
SERVICES = ("/etc/systemd/system/*.service",)
_LINE = r"(?:[^\n\\]|\\[\s\S]){0,2000}?"
_DEVICE = r"(nvidia\.com/[\w.=:/-]{1,80}|--gpus(?:[= ][\"']{0,2}[\w=,:-]{1,40})?)"
WAITS = "nvidia-cdi-refresh.service"
AT_BOOT = (
    rf"(?m)^[ \t]{{0,40}}(?:AddDevice[ \t]{{0,9}}=[ \t]{{0,9}}[\"'-]{{0,2}}{_DEVICE}"
    rf"|PodmanArgs[ \t]{{0,9}}={_LINE}{_DEVICE}"
    rf"|ExecStart[ \t]{{0,9}}=(?={_LINE}\bpodman[ \t]){_LINE}{_DEVICE}"
    rf"|After[ \t]{{0,9}}=[^\n]{{0,500}}?({WAITS})|(WantedBy|RequiredBy)[ \t]{{0,9}}=[ \t]{{0,9}}\w)"
)

SYSTEMD = ("/run/systemd/system",)
WANTS = ((*QUADLETS, *SERVICES), r"^(?:nvidia\.com/|--gpus)")
FAILED = r"(?m)^[ \t]{0,4}(\S{1,200}\.service)"
# podman says why it did not start a container, and ends (cmd/podman/main.go formatError); systemd keeps it in the journal.
ERRORS = r"(?m)^Error: [^\n]{0,400}(?:CDI|nvidia)[^\n]{0,400}"

REQUEST = Request(
    files=(VENDOR, CONFIG, SUBUID),
    globs=(
        Glob(DROP_INS),
        Glob(USER_STORAGE, read=False),
        *(Glob(pattern, read=False, search=USER_DIRS) for pattern in USER_CONFIGS),
        *(Glob(pattern, read=False, search=AT_BOOT) for pattern in (*QUADLETS, *SERVICES)),
    ),
    programs=("podman",),
    commands={
        "podman": Command(("podman", "--version"), timeout=5),
        "podman-failed": Command(
            (
                "systemctl",
                "list-units",
                "--state=failed",
                "--type=service",
                "--plain",
                "--full",
                "--no-legend",
                "--no-pager",
            ),
            timeout=5,
            needs=SYSTEMD,
            told_by=WANTS,
            keep=FAILED,
        ),
        "podman-errors": Command(
            (
                "journalctl",
                "--identifier=podman",
                "--boot",
                "--lines=100",
                "--output=cat",
                "--no-pager",
            ),
            timeout=5,
            needs=SYSTEMD,
            told_by=WANTS,
            keep=ERRORS,
        ),
    },
)


class Service(Record):
    """A service of podman's that is started at boot. path: the file that makes it. device: what it asks of the GPU, as it stands
    there. waits: whether it is started after nvidia-cdi-refresh."""

    path: str
    device: str
    waits: bool

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2].rpartition(".")[0]


class Podman(Record):
    """files: in podman's order, the later over the earlier (containers.conf(5)). users: name and uid of those who have
    rootless containers here. user_dirs: of a user's containers.conf that sets cdi_spec_dirs, what it sets. subordinate: names
    and uids that subuid(5) gives user ids to. services: of containers with the GPU that start at boot. failed: services of the
    host that have failed; errors: what podman said of CDI and NVIDIA since boot, masked, the newest last."""

    version: Reading[Version]
    files: Mapping[str, Reading[FileContent]]
    users: Mapping[str, int] = {}
    user_dirs: Mapping[str, tuple[str, ...]] = {}
    subordinate: Reading[frozenset[str]] = Reading.none(SUBUID)
    services: tuple[Service, ...] = ()
    failed: Reading[frozenset[str]] = Reading.none("systemctl")
    errors: tuple[str, ...] = ()

    def spec_dirs(self) -> tuple[str, ...] | None:
        """engine.cdi_spec_dirs of the last file that has it, or None where none has; raises Unread."""
        found = None
        for content in self.files.values():
            raw = content.map(lambda file: toml(file.text())).get() or {}
            engine = raw.get("engine")
            listed = engine.get("cdi_spec_dirs") if isinstance(engine, dict) else None
            if isinstance(listed, list):
                found = tuple(str(item) for item in listed)
        return found


def _services(snapshot: Snapshot) -> Iterator[Service]:
    hits: dict[str, list[str]] = {}
    for pattern in (*QUADLETS, *SERVICES):
        for path in snapshot.glob(pattern).value or ():
            found = snapshot.found(path, AT_BOOT).value or ()
            hits.setdefault(re.sub(r"\.d/[^/]*$", "", path), []).extend(found)
    for path, texts in sorted(hits.items()):
        devices = [text for text in texts if text.startswith(("nvidia.com/", "--gpus"))]
        if devices and {"WantedBy", "RequiredBy"} & set(texts):
            yield Service(path, devices[0], WAITS in texts)


def parse(snapshot: Snapshot) -> Podman:
    listed = snapshot.glob(DROP_INS)
    files = {path: snapshot.file(path) for path in (VENDOR, CONFIG, *(listed.value or ()))}
    if not listed.known:
        files[DROP_INS] = listed.without_value()
    users: dict[str, int] = {}
    for path in snapshot.glob(USER_STORAGE).value or ():
        if (meta := snapshot.stat(path).value) is not None and meta.uid:
            users[path.split("/")[2]] = meta.uid
    return Podman(
        snapshot.succeeded("podman").map(lambda found: parse_version(found.out)),
        files,
        users,
        {
            path: tuple(re.findall(r"[\"']([^\"']+)[\"']", text))
            for pattern in USER_CONFIGS
            for path in snapshot.glob(pattern).value or ()
            for text in (snapshot.found(path, USER_DIRS).value or ())[-1:]
        },
        snapshot.text(SUBUID).map(
            lambda text: frozenset(line.partition(":")[0] for line in text.splitlines() if ":" in line)
        ),
        tuple(_services(snapshot)),
        snapshot.succeeded("podman-failed").map(lambda found: frozenset(found.out.split())),
        snapshot.succeeded("podman-errors").map(lambda found: tuple(map(mask, found.out.splitlines()))).value
        or (),
    )
