"""GM3xx: CDI specs: is there one, can each engine load it, and does it say what is true of this host now."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.driver.gpus import fault
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.state.cdi import DEFAULT_DIRS, KIND, Spec, SpecFile
from gpumend.state.containerd import ConfigError, K3s
from gpumend.state.reading import Reading, Unread
from gpumend.text.version import Version, show

STATIC = "/etc/cdi/nvidia.yaml"
DYNAMIC = "/var/run/cdi/nvidia.yaml"  # where nvidia-cdi-refresh writes (deployments/systemd, 1.18.0)
NO_GIDS = "no-additional-gids-for-device-nodes"  # --feature-flag since 1.19.0: a 0.5.0 spec again (nct#1860)

LEAST_WRITTEN: Version = (0, 5, 0)  # no toolkit's spec is older: its devices are named 0, 1, ...

# The newest cdiVersion an engine loads, from the version it has that (vendored pkg/cdi CurrentVersion at those tags).
READS: dict[str, tuple[tuple[Version, Version], ...]] = {
    "docker": (
        ((25, 0), (0, 6, 0)),
        ((26, 1), (0, 7, 0)),
        ((27, 4), (0, 8, 0)),
        ((28, 2), (1, 0, 0)),
        ((29, 2), (1, 1, 0)),
    ),
    "podman": (
        ((4, 1), (0, 4, 0)),
        ((4, 3), (0, 5, 0)),
        ((4, 7), (0, 6, 0)),
        ((5, 1), (0, 7, 0)),
        ((5, 2), (0, 8, 0)),
        ((5, 5), (1, 0, 0)),
    ),
    # read at the tags 1.7.0, .13, .16, .20, .24, .27, 2.0.0, .5, 2.1.0, 2.3.0: in between the older one's is taken
    "containerd": (
        ((1, 7), (0, 5, 0)),
        ((1, 7, 13), (0, 6, 0)),
        ((1, 7, 16), (0, 7, 0)),
        ((1, 7, 27), (0, 8, 0)),
        ((2, 0, 5), (1, 0, 0)),
        ((2, 3), (1, 1, 0)),
    ),
    "crio": (
        ((1, 24), (0, 3, 0)),
        ((1, 25), (0, 5, 0)),
        ((1, 28), (0, 6, 0)),
        ((1, 30), (0, 7, 0)),
        ((1, 31), (0, 8, 0)),
        ((1, 33), (1, 0, 0)),
        ((1, 35), (1, 1, 0)),
    ),
}


def newest_readable(engine: str, version: Version) -> Version | None:
    """The newest cdiVersion this engine loads; None where it has no CDI at all."""
    readable = None
    for since, spec in READS[engine]:
        if version >= since:
            readable = spec
    return readable


def readers(context: Context) -> dict[str, Version]:
    """Engines on this host that load CDI specs, with the newest cdiVersion each can read. A Docker whose CDI nobody
    wants, a containerd that serves Docker alone, and a CRI-O that does not run are none of them. Raises Unread."""
    from gpumend.rules.engines.containerd_config import embedded, has_containerd
    from gpumend.rules.engines.docker import wanted_paths

    found, state = {}, context.state
    k3s = embedded(context)
    engines = (
        ("docker", state.docker.version.value if "device" in wanted_paths(context) else None),
        ("podman", state.podman.version.get()),
        ("containerd", state.containerd.version.get() if has_containerd(context) else None),
        ("containerd", k3s.version.get() if k3s is not None and _injects(k3s) else None),
        ("crio", state.crio.version.get() if state.crio.installed and state.crio.running else None),
    )
    for name, version in engines:
        readable = newest_readable(name, version) if version else None
        if version and readable:
            found[f"{name} {show(version)}"] = readable
    return found


def _injects(k3s: K3s) -> bool:
    """Whether k3s' own containerd has CDI on; raises Unread."""
    try:
        return k3s.cri().enable_cdi is True
    except ConfigError:  # GM511
        return False


def canonical(directory: str) -> str:
    """A spec directory under the name that the defaults have: /var/run is /run."""
    directory = directory.rstrip("/")
    return f"/var{directory}" if directory.startswith("/run/") else directory


def docker_dirs(context: Context) -> tuple[str, ...]:
    """The directories dockerd reads: as it says itself, else as daemon.json sets them, else the defaults."""
    docker = context.state.docker
    listed = (docker.info.value or {}).get("CDISpecDirs") or (docker.config.value or {}).get("cdi-spec-dirs")
    return (
        tuple(canonical(str(item)) for item in listed)
        if isinstance(listed, list) and listed
        else DEFAULT_DIRS
    )


def runtime_dirs(context: Context) -> tuple[str, ...]:
    """The directories nvidia-container-runtime reads in mode cdi."""
    toolkit = context.state.toolkit
    listed = (
        toolkit.value("nvidia-container-runtime", "modes", "cdi", "spec-dirs")
        if toolkit.config.known
        else None
    )
    return (
        tuple(canonical(str(item)) for item in listed)
        if isinstance(listed, list) and listed
        else DEFAULT_DIRS
    )


def needed_by(context: Context) -> dict[str, tuple[str, ...]]:
    """Who needs a spec on this host, and which directories each reads."""
    from gpumend.rules.engines.docker import wanted_paths

    found: dict[str, tuple[str, ...]] = {}
    toolkit = context.state.toolkit
    if toolkit.installed and (
        context.wanted.mode == "cdi" or (toolkit.config.known and toolkit.mode() == "cdi")
    ):
        found['nvidia-container-runtime in mode "cdi"'] = runtime_dirs(context)
    if "device" in wanted_paths(context):
        found["docker --device"] = docker_dirs(context)
    podman = context.state.podman.version.get()
    if podman and newest_readable("podman", podman):
        # containers.conf's default was /etc/cdi alone in 5.5 (nixpkgs#420638)
        files = context.state.podman.files.values()
        configured = any(b"cdi_spec_dirs" in file.value.data for file in files if file.value)
        narrow = (5, 5) <= podman < (5, 6) and not configured
        found["podman --device"] = ("/etc/cdi",) if narrow else DEFAULT_DIRS
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


def regenerate(context: Context) -> tuple[Change | None, str]:
    """The change that makes the spec anew, and why it is held back where it is."""
    reason = can_generate(context)
    return (None, reason) if reason else (Change(Component.CDI, action="generate"), "")


def resolvable_after_mend(context: Context) -> bool:
    """Whether mode cdi will find devices: a spec resolves now, or one can be made."""
    return bool(context.state.cdi.resolve(runtime_dirs(context)).gpus()) or not can_generate(context)


@rule(
    "GM301",
    "a spec that resolves",
    "nct#146, nct#1239, NixOS/nixpkgs#420638; cdi pkg/cdi/cache.go",
    applies=has_toolkit,
)
def unresolvable(context: Context) -> Iterator[Finding]:
    cdi = context.state.cdi
    broken = [file for file in cdi.files.need() if not file.spec.ok]
    lacking = {
        who: dirs
        for who, dirs in needed_by(context).items()
        if not cdi.resolve(dirs).gpus() and not cdi.resolve(dirs).conflicts
    }
    if not lacking:
        return
    for file in broken:
        if file.unread:
            file.spec.need()  # it may be the one that defines them
    for directory in (
        directory for dirs in lacking.values() for directory in dirs if directory not in DEFAULT_DIRS
    ):
        raise Unread(
            Reading.fail(directory, "not among the directories that are read: what is in it is not known")
        )
    if cdi.resolve(DEFAULT_DIRS).gpus():
        yield from _wrong_directory(context, lacking)
        return
    change, refused = regenerate(context)
    yield Finding(
        code="GM301",
        status=Status.FAIL,
        summary=f"no CDI spec defines {KIND}: needed by {', '.join(lacking)}",
        evidence=(
            *(Evidence(directory, _listing(context, directory)) for directory in DEFAULT_DIRS),
            *(Evidence(file.path, file.spec.detail) for file in broken),
        ),
        cause="No engine loads the files that are there (GM302)."
        if broken
        else "None was ever generated, or it was lost at a reboot.",
        remedy=f"Mend generates {target(context)}."
        if change
        else "Put that right first, then run this again.",
        change=change,
        refused=refused,
        symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
    )


def _listing(context: Context, directory: str) -> str:
    names = [
        file.path.rpartition("/")[2] for file in context.state.cdi.files.need() if file.directory == directory
    ]
    return ", ".join(names) or ("no spec" if context.state.cdi.directories[directory].ok else "not there")


def _wrong_directory(context: Context, lacking: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    for who, dirs in lacking.items():
        have = sorted({file.directory for file in context.state.cdi.resolve(DEFAULT_DIRS).in_use()})
        yield Finding(
            code="GM301",
            status=Status.FAIL,
            summary=f"{who} reads {', '.join(dirs)}, the spec is in {', '.join(have)}",
            evidence=tuple(Evidence(directory, _listing(context, directory)) for directory in DEFAULT_DIRS),
            cause="The engine's spec directories were narrowed by hand, or are narrow by default.",
            remedy="Let it read both directories (docker: GM405; podman 5.5: cdi_spec_dirs in containers.conf; "
            "runtime: nvidia-container-runtime.modes.cdi.spec-dirs).",
            refused="its directories are set elsewhere",
            symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
        )


@rule(
    "GM302", "every spec file loads", "cdi pkg/cdi/spec.go, version.go: strict decoding", applies=has_toolkit
)
def invalid(context: Context) -> Iterator[Finding]:
    for file in context.state.cdi.files.need():
        if file.spec.ok:
            continue
        if file.unread:
            file.spec.need()
        ours = file.path == target(context)
        change, refused = (
            regenerate(context) if ours else (None, f"{file.path} is not the file that mend writes")
        )
        yield Finding(
            code="GM302",
            status=Status.FAIL if ours else Status.WARN,
            summary=f"{file.path} is not loaded by any engine: {file.spec.detail}",
            evidence=(Evidence(file.path, file.spec.detail),),
            cause="Engines decode strictly: one unknown field or wrong type drops the whole file, and only a log line tells.",
            remedy="Mend generates it anew." if change else "Repair or remove it.",
            change=change,
            refused=refused,
            symptoms=("unresolvable CDI devices",),
        )


@rule(
    "GM303",
    "no device defined twice in one directory",
    "cdi pkg/cdi/cache.go: conflicts remove the device for good",
    applies=has_toolkit,
)
def conflict(context: Context) -> Iterator[Finding]:
    conflicts = {
        name: paths
        for name, paths in context.state.cdi.resolve(DEFAULT_DIRS).conflicts.items()
        if name.startswith(f"{KIND}=")
    }
    if not conflicts:
        return
    paths = tuple(dict.fromkeys(path for found in conflicts.values() for path in found))
    files = {file.path: file for file in gpu_files(context)}
    keep = next((path for path in paths if path in (STATIC, DYNAMIC)), paths[0])
    kept = set(_names(files[keep]))
    surplus = [path for path in paths if path != keep]
    safe = context.wanted.manage_cdi and all(set(_names(files[path])) <= kept for path in surplus)
    yield Finding(
        code="GM303",
        status=Status.FAIL,
        summary=f"{', '.join(sorted(conflicts))} defined by {' and '.join(paths)}: no engine resolves them",
        evidence=tuple(Evidence(" and ".join(found), name) for name, found in sorted(conflicts.items())),
        cause="Two files of one directory define the same device; the loader then drops it altogether, even where another directory defines it rightly.",
        remedy=f"Mend moves {', '.join(surplus)} into the run's backup and keeps {keep}."
        if safe
        else "Remove one of the files.",
        change=Change(Component.CDI, action="remove:" + ":".join(surplus)) if safe else None,
        refused=""
        if safe
        else (
            "cdi.manage is false"
            if not context.wanted.manage_cdi
            else "the files define different devices besides"
        ),
        symptoms=("conflicting device", "unresolvable CDI devices"),
    )


def _names(file: SpecFile) -> tuple[str, ...]:
    return file.spec.value.names() if file.spec.value else ()


def stale_paths(context: Context, spec: Spec) -> list[Evidence]:
    """Files a spec names that are not on this host: mounts, and hooks that are missing or cannot be executed."""
    found = []
    mentioned = context.state.cdi.mentioned
    for host in dict.fromkeys(host for host, _ in spec.edits().mounts):
        if mentioned[host].get() is None:
            found.append(Evidence(spec.path, f"mounts {host}, which is not there"))
    for program in dict.fromkeys(hook[0] for hook in spec.edits().hooks):
        meta = mentioned[program].get()
        if meta is None or not meta.mode & 0o111:
            found.append(Evidence(spec.path, f"hook {program} is not there, or not executable"))
    return found


MADE_BY_MEND = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
)  # GM105 makes these anew; a spec that lacks others is made anew


def stale_nodes(context: Context, spec: Spec) -> list[Evidence]:
    """Device nodes a spec names with other numbers than the host's, or that are no device (toolkit >= 1.19 writes
    numbers; nvidia-uvm's major changes from boot to boot, nct#1934). Missing control nodes are GM105's."""
    found = []
    for node in dict.fromkeys(spec.edits().nodes):
        meta = context.state.cdi.mentioned[node.host].get()
        if meta is None:
            if node.host not in MADE_BY_MEND:
                found.append(Evidence(spec.path, f"device {node.host}, which is not there"))
        elif meta.rdev is None:
            found.append(Evidence(spec.path, f"device {node.host}, which is a {meta.kind}"))
        elif node.major and (node.major, node.minor) != meta.rdev:
            found.append(
                Evidence(
                    spec.path,
                    f"device {node.host} as {node.major}:{node.minor}, on this host it is {meta.rdev[0]}:{meta.rdev[1]}",
                )
            )
    return found


def wrong_names(context: Context, spec: Spec) -> list[Evidence]:
    """GPUs and MIG devices that nvidia-smi lists and the spec has not, and UUIDs that it has and no GPU bears."""
    gpus = context.state.gpus.listed.value
    if gpus is None:
        return []
    # A GPU that is split by MIG stands in a spec by its MIG devices alone.
    uuids = {gpu.uuid for gpu in gpus if not gpu.mig} | {uuid for gpu in gpus for uuid in gpu.mig}
    known = uuids | {gpu.uuid for gpu in gpus}
    named = {name for name in spec.devices if name.startswith(("GPU-", "MIG-"))}
    # A GPU may stand in a file of its own: what another file defines is not missing.
    anywhere = {name.partition("=")[2] for name in context.state.cdi.resolve(DEFAULT_DIRS).gpus()}
    found = [Evidence(spec.path, f"no device {uuid}") for uuid in sorted(uuids - anywhere) if named]
    found.extend(
        Evidence(spec.path, f"device {uuid}, which no GPU here bears") for uuid in sorted(named - known)
    )
    plain = {name for name in spec.devices if name.isdigit()}
    whole = {str(gpu.index) for gpu in gpus if not gpu.mig}
    if plain:
        found.extend(Evidence(spec.path, f"no device {index}") for index in sorted(whole - anywhere))
        found.extend(
            Evidence(spec.path, f"device {index}, but there are {len(gpus)} GPUs")
            for index in sorted(plain - {str(g.index) for g in gpus})
        )
    return found


def missing_control_nodes(context: Context, spec: Spec) -> list[Evidence]:
    """Control nodes of the host that the spec lacks: it was made before they existed."""
    have = {node.host for node in spec.edits().nodes}
    return [
        Evidence(spec.path, f"lacks {path}, which is on this host")
        for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
        if path not in have and context.state.driver.nodes[path].ok
    ]


def staleness(context: Context, spec: Spec) -> tuple[tuple[Evidence, ...], str, str]:
    """All that is no longer true in a spec, with the one cause that explains most of it and its symptom."""
    loaded, made_for = context.state.driver.loaded.get(), spec.driver_version()
    driver = []
    if loaded and made_for and made_for != loaded:
        driver = [Evidence(spec.path, f"made for driver {show(made_for)}, loaded is {show(loaded)}")]
    paths, nodes = stale_paths(context, spec), stale_nodes(context, spec)
    names, control = wrong_names(context, spec), missing_control_nodes(context, spec)
    if driver:
        cause, symptom = "The driver was updated after the spec was made.", "no such file or directory"
    elif paths:
        cause, symptom = "Files that the spec names were removed or moved.", "no such file or directory"
    elif nodes:
        cause = "Device numbers changed: nvidia-uvm gets a new major from boot to boot, and nothing made the spec anew."
        symptom = "cuInit returns 999 (CUDA_ERROR_UNKNOWN) although nvidia-smi works"
    elif names:
        cause = "GPUs or MIG devices changed; nvidia-cdi-refresh does not watch for that."
        symptom = "unresolvable CDI devices"
    else:
        cause, symptom = "The spec was made before nvidia-uvm's nodes existed.", "CUDA unknown error"
    return (*driver, *paths, *nodes, *names, *control), cause, symptom


def gpu_specs_in_use(context: Context) -> Iterator[tuple[SpecFile, Spec]]:
    """The files that define a GPU for some engine, after precedence."""
    for file in context.state.cdi.resolve(DEFAULT_DIRS).in_use():
        if file.spec.value is not None and file.spec.value.kind == KIND:
            yield file, file.spec.value


@rule(
    "GM304",
    "specs say what is true of this host now",
    "nct#1934, nct#1982, nct#50, nct#1828; podman#23935, podman#26233; webkit-container-sdk#23",
    applies=has_toolkit,
)
def stale(context: Context) -> Iterator[Finding]:
    """One finding a file, with all that is wrong with it: they have one cause and one remedy."""
    right = False
    for file, spec in gpu_specs_in_use(context):
        evidence, cause, symptom = staleness(context, spec)
        right = right or not evidence
        if not evidence or is_leftover(context, file):
            continue
        change, refused = regenerate(context)
        if change and file.path != target(context):
            change, refused = None, f"{file.path} is not the file that mend writes ({target(context)})"
        more = f", and {len(evidence) - 1} more" if len(evidence) > 1 else ""
        yield Finding(
            code="GM304",
            status=Status.FAIL,
            summary=f"{file.path} is stale: {evidence[0].text}{more}",
            evidence=evidence,
            cause=cause,
            remedy="Mend generates it anew." if change else "Put that right first, then generate it anew.",
            change=change,
            refused=refused,
            symptoms=(symptom,),
        )
    if right and fault(context) is None:  # GM107 tells
        context.state.gpus.listed.get()  # whether it names the GPUs that are here is not known without their list


def is_leftover(context: Context, file: SpecFile) -> bool:
    """A spec made by hand in /etc/cdi where nvidia-cdi-refresh keeps another: nothing keeps this one true."""
    return uses_refresh(context) and file.path == STATIC and target(context) != STATIC


@rule(
    "GM309",
    "no static spec beside nvidia-cdi-refresh",
    "nct deployments/systemd (1.18.0); cdi pkg/cdi/spec-dirs.go",
    applies=has_toolkit,
)
def leftover(context: Context) -> Iterator[Finding]:
    written = target(context)
    for file in gpu_files(context):
        if not is_leftover(context, file) or file.spec.value is None:
            continue
        evidence, _, symptom = staleness(context, file.spec.value)
        narrow = [who for who, dirs in needed_by(context).items() if written.rpartition("/")[0] not in dirs]
        there = any(other.path == written for other in gpu_files(context))
        refused = f"{', '.join(narrow)} reads /etc/cdi only" if narrow else ""
        refused = refused or ("" if there else can_generate(context))
        refused = refused or ("" if context.wanted.manage_cdi else "cdi.manage is false")
        yield Finding(
            code="GM309",
            status=Status.FAIL if evidence else Status.WARN,
            summary=f"{file.path} is left over: nvidia-cdi-refresh keeps {written}, nothing keeps this one true",
            evidence=evidence
            or (Evidence(file.path, "exists"), Evidence("nvidia-cdi-refresh.service", "enabled")),
            cause="It was generated by hand before toolkit 1.18 brought nvidia-cdi-refresh. Devices that only it defines outlive every driver update.",
            remedy=f"Mend moves it into the run's backup once {written} is there."
            if not refused
            else "Put that right first; then it can go.",
            change=None if refused else Change(Component.CDI, action=f"remove:{file.path}"),
            refused=refused,
            symptoms=(symptom if evidence else "failed to mount: no such file or directory",),
        )


@rule(
    "GM308",
    "every engine here can read the spec's version",
    "nct#1860, nct#1865, nct#1940; vendored pkg/cdi at engine tags",
    applies=has_toolkit,
)
def too_new(context: Context) -> Iterator[Finding]:
    for file, spec in gpu_specs_in_use(context):
        blind = [who for who, newest in readers(context).items() if spec.version > newest]
        if not blind:
            continue
        if file.path != target(context):
            change, refused = None, f"{file.path} is not the file that mend writes ({target(context)})"
        elif not flags(context) or not LEAST_WRITTEN < spec.version <= (0, 7, 0):
            change, refused = None, "this toolkit cannot write an older version"
        else:
            change, refused = regenerate(context)
        version = ".".join(map(str, spec.version))
        yield Finding(
            code="GM308",
            status=Status.FAIL,
            summary=f"{file.path} is of cdiVersion {version}, which {', '.join(blind)} cannot read",
            evidence=(
                Evidence(file.path, f"cdiVersion: {version}"),
                *(Evidence(who, f"reads up to {'.'.join(map(str, readers(context)[who]))}") for who in blind),
            ),
            cause="Toolkit 1.19.1 and newer write additionalGids, which calls for 0.7.0. An older engine drops the whole file.",
            remedy=f"Mend generates it with --feature-flag={NO_GIDS}." if change else "Upgrade the engine.",
            change=change,
            refused=refused,
            symptoms=('json: unknown field "additionalGids"', "unresolvable CDI devices"),
        )


@rule(
    "GM310",
    "nvidia-cdi-refresh works",
    "nct#1611, nct PR#1638, Azure/AgentBaker#9150, nct#1376",
    applies=has_toolkit,
)
def refresh_failed(context: Context) -> Iterator[Finding]:
    unit = context.state.cdi.refresh.get()
    if unit is None or unit.get("Result") in (None, "", "success") or unit.get("ActiveState") != "failed":
        return
    change, refused = regenerate(context)
    if change and not uses_refresh(context):
        change, refused = (
            None,
            "nvidia-cdi-refresh is not the writer here: it is disabled, or cdi.writer is `file`",
        )
    yield Finding(
        code="GM310",
        status=Status.FAIL,
        summary=f"nvidia-cdi-refresh.service failed: {unit.get('Result')}, exit status {unit.get('ExecMainStatus')}",
        evidence=(Evidence("systemctl show nvidia-cdi-refresh.service", f"Result={unit.get('Result')}"),),
        cause="At boot it often runs before the driver is there (toolkit 1.18.0, 1.18.1 and 1.19.0 do not try again).",
        remedy="Mend starts it again. If it fails at every boot, order it: a drop-in with After=nvidia-persistenced.service and "
        "Restart=on-failure, or toolkit 1.20.",
        change=change,
        refused=refused,
        symptoms=("Driver Not Loaded", "invalid discovery mode: cdi"),
    )


@rule(
    "GM312",
    "no spec file that is silently ignored",
    "cdi pkg/cdi/cache.go: .json and .yaml only",
    applies=has_toolkit,
)
def ignored(context: Context) -> Iterator[Finding]:
    for path in context.state.cdi.ignored:
        if path.endswith(".yml"):
            yield Finding(
                code="GM312",
                status=Status.WARN,
                summary=f"{path} is ignored: engines load *.yaml and *.json only",
                evidence=(Evidence(path, "exists"),),
                remedy="Rename it to .yaml if it is wanted, or remove it.",
                refused="whether it is wanted is not known",
            )


@rule("GM313", "spec files that every engine may read", "nct#146: chmod 644", applies=has_toolkit)
def permissions(context: Context) -> Iterator[Finding]:
    for file in context.state.cdi.files.need():
        ours = file.path == target(context) or (file.spec.value is not None and file.spec.value.kind == KIND)
        if ours and file.meta.kind == "file" and not file.meta.mode & 0o004:
            can = context.wanted.manage_cdi
            yield Finding(
                code="GM313",
                status=Status.WARN,
                summary=f"{file.path} has mode {file.meta.mode:04o}: rootless engines cannot read it",
                evidence=(Evidence(file.path, f"mode {file.meta.mode:04o}"),),
                cause="It was written under a strict umask.",
                remedy="Mend sets mode 0644, as nvidia-ctk does.",
                change=Change(Component.CDI, action=f"mode:{file.path}") if can else None,
                refused="" if can else "cdi.manage is false",
                symptoms=("unresolvable CDI devices",),
            )
