"""GM541, GM545: podman, which reads specs at every start and needs no runtime and no restart."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.change import SetSpecDirectories
from gpumend.rules.engines.containers import causes
from gpumend.rules.engines.spec_directories import lacking
from gpumend.rules.engines.trial import DEVICE, Trial
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.text.version import Version, show

CDI_SINCE: Version = (4, 1)
NARROW: tuple[Version, Version] = (
    (5, 5),
    (5, 6),
)  # common/pkg/config/default.go: /etc/cdi alone; both from 5.6 on (NixOS/nixpkgs#420638)
DROP_IN = "/etc/containers/containers.conf.d/50-gpumend-cdi.conf"
TEXT = '# both directories: nvidia-cdi-refresh writes to /var/run/cdi (gpumend explain GM541)\n[engine]\ncdi_spec_dirs = ["/etc/cdi", "/var/run/cdi"]\n'


def has_podman(context: Context) -> bool:
    """Raises Unread where podman is here and gives no version."""
    return has_gpu(context) and (context.state.podman.version.get() or (0,)) >= CDI_SINCE


def hold_back(context: Context) -> str:
    """Why containers.conf gets no drop-in of ours, or an empty text where it may. Raises Unread."""
    podman = context.state.podman
    if not context.wanted.manage_cdi:
        return "cdi.manage is false"
    here = podman.files.get(DROP_IN)
    if podman.spec_dirs() is not None or (here is not None and not here.absent):
        return "somebody set it: which directories are meant is the owner's decision"
    return ""


def needs_spec(context: Context) -> dict[str, tuple[str, ...]]:
    """Its directories by its version: where containers.conf names some, GM541 judges them. Raises Unread."""
    podman = context.state.podman
    version = podman.version.get()
    if not version or version < CDI_SINCE:
        return {}
    configured = any(b"cdi_spec_dirs" in file.value.data for file in podman.files.values() if file.value)
    narrow = NARROW[0] <= version < NARROW[1] and not configured
    return {"podman --device": ("/etc/cdi",) if narrow else DEFAULT_DIRS}


def trials(context: Context, must: bool) -> list[Trial]:
    if has_podman(context) and context.state.cdi.resolve(DEFAULT_DIRS).gpus():
        return [Trial("podman device", "podman", DEVICE, must)]
    return []


@rule(
    "GM541",
    "podman reads both spec directories",
    "podman v5.5.0 vendor common/pkg/config/default.go; NixOS/nixpkgs#420638",
    applies=has_podman,
)
def narrowed(context: Context) -> Iterator[Finding]:
    podman = context.state.podman
    version = podman.version.need()
    dirs = podman.spec_dirs()
    if dirs is None:
        if not NARROW[0] <= version < NARROW[1]:
            return
        dirs = ("/etc/cdi",)
    missing = lacking(dirs)
    if not missing:
        return
    configured = podman.spec_dirs() is not None
    refused = hold_back(context)
    yield Finding(
        code="GM541",
        status=Status.WARN,
        summary=f"podman {show(version)} does not read {', '.join(missing)}",
        evidence=(
            Evidence("podman --version", show(version)),
            Evidence(
                "containers.conf", f"cdi_spec_dirs = {list(dirs)}" + ("" if configured else " (its default)")
            ),
        ),
        cause="podman 5.5 alone has /etc/cdi as its only default; nvidia-cdi-refresh (toolkit 1.18) writes to /var/run/cdi."
        if not configured
        else "Set by hand.",
        remedy=f"Mend writes {DROP_IN}. podman reads it at every start: nothing is restarted."
        if not refused
        else "Add the directory.",
        change=None if refused else Change(Component.PODMAN, SetSpecDirectories()),
        refused=refused,
        symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
    )


@rule(
    "GM545",
    "podman's services with a GPU have started",
    "podman-systemd.unit(5); systemctl(1) list-units --state=failed; podman cmd/podman/main.go: its last error goes to stderr",
    applies=has_podman,
)
def failed_services(context: Context) -> Iterator[Finding]:
    podman = context.state.podman
    if not podman.services:
        return
    failed = podman.failed.get() or frozenset()
    error = podman.errors[-1] if podman.errors else ""
    codes = causes(error)
    for service in podman.services:
        unit = f"{service.name}.service"
        if unit not in failed:
            continue
        yield Finding(
            code="GM545",
            status=Status.FAIL,
            summary=f"{unit}, a container of podman that wants a GPU, has failed"
            + (f": {error}" if error else "")[:300],
            evidence=(
                Evidence("systemctl list-units --state=failed", unit),
                Evidence(service.path, service.device),
                *([Evidence("journalctl --identifier=podman", error)] if error else []),
            ),
            cause=f"This text belongs to {' or '.join(codes)}."
            if codes
            else "The journal has its own words.",
            remedy=("".join(f"`gpumend explain {code}`; " for code in codes) or f"`journalctl -u {unit}`; ")
            + f"then `systemctl restart {unit}`.",
            refused="a container is not started by mend",
            symptoms=("Error: setting up CDI devices: unresolvable CDI devices nvidia.com/gpu=all",),
        )
