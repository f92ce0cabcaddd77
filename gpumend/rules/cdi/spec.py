"""The spec of this host: who needs it, who writes it, and into which file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.cdi.additions import Addition, additions, hand_made, why_lost
from gpumend.rules.change import GenerateSpec
from gpumend.rules.driver.driver import without_nodes
from gpumend.rules.driver.nodes import capabilities, misplaced
from gpumend.rules.engines.engine import ENGINES, readers
from gpumend.rules.engines.spec_directories import canonical, named
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.cdi import DEFAULT_DIRS, KIND, Spec, SpecFile
from gpumend.state.docker import Container
from gpumend.state.podman import Service
from gpumend.text.version import Version

STATIC = "/etc/cdi/nvidia.yaml"
DYNAMIC = "/var/run/cdi/nvidia.yaml"  # where nvidia-cdi-refresh writes (deployments/systemd, 1.18.0)
NO_GIDS = "no-additional-gids-for-device-nodes"  # --feature-flag since 1.19.0: a 0.5.0 spec again (nct#1860)

OUTPUT_FILE = re.compile(
    r"(?m)^NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=[\"']?([^\"'\s]+)"
)  # of nvidia-cdi-refresh.env

LEAST_WRITTEN: Version = (0, 5, 0)  # no toolkit's spec is older: its devices are named 0, 1, ...


def runtime_dirs(context: Context) -> tuple[str, ...]:
    """The directories nvidia-container-runtime reads in mode cdi."""
    toolkit = context.state.toolkit
    keys = ("nvidia-container-runtime", "modes", "cdi", "spec-dirs")
    return named(toolkit.value(*keys) if toolkit.config.known else None)


def needed_by(context: Context) -> dict[str, tuple[str, ...]]:
    """Who needs a spec on this host, and which directories each reads."""
    found: dict[str, tuple[str, ...]] = {}
    toolkit = context.state.toolkit
    if toolkit.installed and (becomes_literal(context) or (toolkit.config.known and toolkit.mode() == "cdi")):
        found['nvidia-container-runtime in mode "cdi"'] = runtime_dirs(context)
    for engine in ENGINES:
        found.update(engine.needs_spec(context))
    return found


def becomes_literal(context: Context) -> bool:
    """Whether this host is to be in mode cdi itself: by name, or because its toolkit's `auto` is not CDI."""
    wanted, version = context.wanted.mode, context.state.toolkit.version.value or (1, 17)
    return wanted == "cdi-only" or (wanted == "cdi" and version < (1, 18) and not context.state.host.tegra)


def starts_at_boot(found: Container) -> bool:
    """Whether dockerd starts a container by itself as it starts; what it could not start then stays down (moby
    daemon/daemon.go restore)."""
    alive = found.running or found.restarting
    return found.restart == "always" or (found.restart in ("unless-stopped", "on-failure") and alive)


def needs_at_boot(context: Context) -> tuple[Container, ...]:
    """Docker's containers that come back at boot, and need a spec file then; as far as dockerd tells."""
    docker, toolkit = context.state.docker, context.state.toolkit
    stays = context.wanted.mode not in ("auto", "legacy") or not context.wanted.manage_runtime  # else GM204's
    literal = stays and toolkit.config.known and toolkit.mode() == "cdi"
    return tuple(
        found
        for found in docker.containers.value or ()
        if starts_at_boot(found) and (found.uses_cdi() or (literal and found.uses_runtime()))
    )


def podman_at_boot(context: Context) -> tuple[Service, ...]:
    """podman's services that start at boot, ask for the GPU and do not wait for the spec: their only chance is that it is there
    (podman-systemd.unit(5): a quadlet is started once, unless it says otherwise)."""
    podman = context.state.podman
    return tuple(
        found
        for found in podman.services
        if podman.version.ok and not (found.waits and not _late_refresh(context))
    )


def _late_refresh(context: Context) -> bool:
    """Whether nvidia-cdi-refresh waits for multi-user.target, as 1.19.0's does, so that nothing there can wait for it."""
    return "multi-user.target" in (context.state.cdi.refresh.value or {}).get("After", "").split()


def ordered(context: Context) -> bool:
    """Whether dockerd waits at boot for nvidia-cdi-refresh. 1.19.0's runs after multi-user.target, which waits for dockerd:
    of such a circle systemd leaves one out (nct PR#1638)."""
    after = (context.state.docker.unit.value or {}).get("After", "").split()
    return "nvidia-cdi-refresh.service" in after and not _late_refresh(context)


def goes_auto(context: Context) -> bool:
    """Whether mode `auto` does for this host's containers of the nvidia runtime what mode `cdi` does, without a file."""
    toolkit = context.state.toolkit
    if not toolkit.config.known or not context.wanted.manage_runtime or context.state.host.tegra:
        return False
    own = toolkit.value("nvidia-container-runtime", "modes", "cdi", "default-kind") or KIND
    return (
        context.wanted.mode == "cdi"
        and (toolkit.version.value or (1, 17)) >= (1, 18)
        and own == KIND
        and not any(hand_made(spec) for _, spec in gpu_specs_in_use(context))
    )


def persists(context: Context) -> bool:
    """Whether nvidia-cdi-refresh has to write where a spec outlives a reboot: it is not done when the engines start."""
    if not uses_refresh(context):
        return False
    if podman_at_boot(context):
        return True
    if ordered(context) or not context.state.docker.installed:
        return False
    return context.wanted.mode == "cdi-only" or any(
        found.uses_cdi() or not goes_auto(context) for found in needs_at_boot(context)
    )


def can_generate(context: Context) -> str:
    """Why no spec can be made on this host now, or an empty text where one can."""
    toolkit, driver = context.state.toolkit, context.state.driver
    if toolkit.programs["nvidia-ctk"].get() is None:
        return "nvidia-ctk is not installed"
    if not context.state.host.wsl2 and not context.state.host.tegra and driver.loaded.get() is None:
        return "the driver is not loaded"
    if hook_gone(context):
        return f"{CDI_HOOK} is not installed, and a new spec would name it (GM203)"
    if any(gpu.mig for gpu in context.state.gpus.listed.value or ()) and not capabilities(context):
        return "MIG's capability nodes are not there (GM116), and a new spec would lack them"
    if without_nodes(context):
        return "no GPU has its device node, and nothing here makes it (GM105): a new spec would lack them"
    if wrong := misplaced(context):
        return f"{', '.join(wrong)} is not the kernel's device (GM108): a new spec would have it so, or not at all"
    if not driver.userspace().known:
        return f"the driver's libraries could not be read: {driver.userspace().source}"
    userspace = driver.userspace().value
    if userspace and driver.loaded.value and userspace != driver.loaded.value:
        return "the driver's module and libraries differ in version (GM101)"
    if (
        (toolkit.version.get() or ())[:3] == (1, 18, 0)
        and toolkit.config.known
        and toolkit.mode() not in ("auto", "csv")
    ):
        return f'toolkit 1.18.0 cannot generate one in mode "{toolkit.mode()}" (GM206); run again after that is mended'
    cdi = context.state.cdi
    if context.wanted.cdi_writer == "auto" and not (cdi.refresh.known and cdi.refresh_path.known):
        return f"whether nvidia-cdi-refresh writes it here is not known: {cdi.refresh.detail or cdi.refresh_path.detail}"
    if uses_refresh(context) and not cdi.refresh_env.known:
        return f"which file nvidia-cdi-refresh writes is not known: {cdi.refresh_env.source}: {cdi.refresh_env.detail}"
    if context.wanted.cdi_writer == "refresh" and not context.state.cdi.refresh.ok:
        return "cdi.writer is `refresh`, and this host has no nvidia-cdi-refresh.service"
    if not context.wanted.manage_cdi:
        return "cdi.manage is false"
    return ""


CDI_HOOK = "nvidia-cdi-hook"  # a program of its own since toolkit 1.16.0; before, nvidia-ctk is the hook


def hook_gone(context: Context) -> bool:
    """Whether the program that generated specs call is nowhere on this host: no container starts with such a spec."""
    state = context.state
    if (state.toolkit.version.value or (0,)) < (1, 17) or not state.toolkit.programs[CDI_HOOK].absent:
        return False
    named = [hook[0] for _, spec in gpu_specs_in_use(context) for hook in spec.edits.hooks]
    return not any(
        path.rpartition("/")[2] == CDI_HOOK and state.cdi.mentioned[path].value is not None for path in named
    )


def uses_refresh(context: Context) -> bool:
    """Whether nvidia-cdi-refresh writes the spec here: it is enabled, so that it does so at the next boot, too."""
    units = (context.state.cdi.refresh.value, context.state.cdi.refresh_path.value)
    there = units[0] is not None and units[0].get("LoadState") == "loaded"
    enabled = any(unit is not None and unit.get("UnitFileState") == "enabled" for unit in units)
    return context.wanted.cdi_writer == "refresh" or (
        context.wanted.cdi_writer == "auto" and there and enabled
    )


def target(context: Context) -> str:
    """The file that is (re)written on this host. nvidia-cdi-refresh.env may name another than the default."""
    if not uses_refresh(context):
        return STATIC
    environment = context.state.cdi.refresh_env.value or ""
    named = OUTPUT_FILE.search(environment)
    directory = canonical(named.group(1).rpartition("/")[0]) if named else ""
    if directory != "/etc/cdi" and persists(context):
        return STATIC
    return (
        f"{directory}/{named.group(1).rpartition('/')[2]}" if named and directory in DEFAULT_DIRS else DYNAMIC
    )


def flags(context: Context) -> tuple[str, ...]:
    """Feature flags to generate with: without additional GIDs where that makes the spec one that an engine here can
    read: it is 0.5.0 then, as device names start with a digit, and older than that no toolkit writes."""
    version = context.state.toolkit.version.value or ()
    helped = any(LEAST_WRITTEN <= newest < (0, 7, 0) for newest in readers(context).values())
    return (NO_GIDS,) if version >= (1, 19) and helped else ()


def gpu_files(context: Context) -> tuple[SpecFile, ...]:
    """Spec files of kind nvidia.com/gpu that load. Raises Unread."""
    return tuple(
        file
        for file in context.state.cdi.files.need()
        if file.spec.value is not None and file.spec.value.kind == KIND
    )


def gpu_specs_in_use(context: Context) -> Iterator[tuple[SpecFile, Spec]]:
    """The files that define a GPU for some engine, after precedence."""
    for file in context.state.cdi.resolve(DEFAULT_DIRS).in_use():
        if file.spec.value is not None and file.spec.value.kind == KIND:
            yield file, file.spec.value


def regenerate(context: Context) -> tuple[Change | None, str]:
    """The change that makes the spec anew, and why it is held back where it is."""
    reason = can_generate(context) or edited_by_hand(context, target(context))
    if not reason and persists(context):
        reason = edited_by_hand(context, DYNAMIC)
    return (None, reason) if reason else (Change(Component.CDI, GenerateSpec()), "")


def edited_by_hand(context: Context, path: str) -> str:
    """Why a spec is not made anew, or taken away: somebody put into it what would be lost. Raises Unread."""
    lost = [(found, why) for found in _added(context, path) if (why := _loss(context, path, found))]
    if not lost:
        return ""
    texts = list(dict.fromkeys(found.text for found, _ in lost))
    whys = list(dict.fromkeys(why for _, why in lost))
    return (
        f"{path} was edited by hand, and a new one would lose {', '.join(texts[:4])}{' and more' if texts[4:] else ''} "
        f"({'; '.join(whys[:2])}): move that into a spec file of another name and kind first, which containers then ask for, too"
    )


def _added(context: Context, path: str) -> list[Addition]:
    specs = [file.spec.value for file in gpu_files(context) if file.path == path]
    return [found for spec in specs if spec for found in additions(spec)]


def _loss(context: Context, path: str, found: Addition) -> str:
    """Why an addition is lost when the spec at this path goes or is made anew; an empty text where the new one has it."""
    if path != target(context):
        return "the file goes"
    if uses_refresh(context):
        return "nvidia-cdi-refresh writes that file at every boot"
    return why_lost(context, found)


def resolvable_after_mend(context: Context) -> bool:
    """Whether mode cdi will find devices, now and after a reboot: a spec is there that outlives one, or can be made."""
    dirs = runtime_dirs(context)
    lasting = [each for each in dirs if each == "/etc/cdi" or ordered(context)]
    return bool(context.state.cdi.resolve(lasting).gpus()) or not regenerate(context)[1]
