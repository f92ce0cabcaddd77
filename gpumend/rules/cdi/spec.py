"""The spec of this host: who needs it, who writes it, and into which file."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.change import GenerateSpec
from gpumend.rules.engines.engine import ENGINES, readers
from gpumend.rules.engines.spec_directories import canonical, named
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.cdi import DEFAULT_DIRS, KIND, Spec, SpecFile
from gpumend.text.version import Version

STATIC = "/etc/cdi/nvidia.yaml"
DYNAMIC = "/var/run/cdi/nvidia.yaml"  # where nvidia-cdi-refresh writes (deployments/systemd, 1.18.0)
NO_GIDS = "no-additional-gids-for-device-nodes"  # --feature-flag since 1.19.0: a 0.5.0 spec again (nct#1860)

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
    if toolkit.installed and (
        context.wanted.mode == "cdi" or (toolkit.config.known and toolkit.mode() == "cdi")
    ):
        found['nvidia-container-runtime in mode "cdi"'] = runtime_dirs(context)
    for engine in ENGINES:
        found.update(engine.needs_spec(context))
    return found


def can_generate(context: Context) -> str:
    """Why no spec can be made on this host now, or an empty text where one can."""
    toolkit, driver = context.state.toolkit, context.state.driver
    if toolkit.programs["nvidia-ctk"].get() is None:
        return "nvidia-ctk is not installed"
    if not context.state.host.wsl2 and not context.state.host.tegra and driver.loaded.get() is None:
        return "the driver is not loaded"
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
    named = re.search(r"(?m)^NVIDIA_CTK_CDI_OUTPUT_FILE_PATH=[\"']?([^\"'\s]+)", environment)
    directory = canonical(named.group(1).rpartition("/")[0]) if named else ""
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
    reason = can_generate(context)
    return (None, reason) if reason else (Change(Component.CDI, GenerateSpec()), "")


def resolvable_after_mend(context: Context) -> bool:
    """Whether mode cdi will find devices: a spec resolves now, or one can be made."""
    return bool(context.state.cdi.resolve(runtime_dirs(context)).gpus()) or not can_generate(context)
