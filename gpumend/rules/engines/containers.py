"""GM416 to GM420: Docker's containers that want a GPU: why one failed to start, what it asks for, and what brings it back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gpumend.rules.engines.docker_config import (
    CDI_BY_DEFAULT,
    CDI_SINCE,
    evidence,
    spec_directories,
    undefined_default,
    up,
)
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_docker, rule
from gpumend.state.docker import Container
from gpumend.text.pattern import Pattern
from gpumend.text.version import show

NVIDIA_CAPABILITIES = {"compute", "compat32", "graphics", "utility", "video", "display", "ngx"}
STOPPED_BY_HAND = (
    0,
    137,
    143,
)  # of `docker stop`: SIGTERM's 143, SIGKILL's 137 after the time given; or it ended well
# What a failed start says, and the findings whose pages tell what to do (container-toolkit.md 6).
CAUSES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (r'could not select device driver "cdi"', ("GM404", "GM418")),
    (r"could not select device driver|AMD CDI spec not found|no known GPU vendor", ("GM406", "GM203")),
    (r"unknown or invalid runtime name|[Uu]nknown runtime specified", ("GM403",)),
    (r"/usr/local/nvidia/toolkit/nvidia-container-runtime", ("GM010",)),
    (r"exec.*nvidia-container-runtime.*(?:no such file|executable file not found)", ("GM403", "GM203")),
    (r"custom device \"/dev/nvidia", ("GM105",)),
    (r"invoking the NVIDIA Container Runtime Hook directly", ("GM205",)),
    (r"unresolvable CDI devices", ("GM301", "GM302", "GM303", "GM417")),
    (r"failed to stat CDI host device", ("GM105", "GM304")),
    (r"is not host-relative|ldcache error|could not start \S*ldconfig", ("GM201",)),
    (r"invalid mode ", ("GM207",)),
    (
        r"error getting hook config|failed to (?:unmarshal|load) config|failed to load specified config",
        ("GM208", "GM211"),
    ),
    (r"version mismatch", ("GM101",)),
    (r"driver not loaded|Driver Not Loaded|couldn't communicate with the NVIDIA driver", ("GM102",)),
    (r"load library failed: libnvidia-ml|ERROR_LIBRARY_NOT_FOUND", ("GM104",)),
    (r"unsatisfied condition: cuda", ("GM414",)),
    (r"unknown device", ("GM417",)),
    (r"bpf_prog_query|failed to add device rules", ("GM215", "GM424")),
    (
        r"(?:error stat|failed to mount|mounting|stat) .*(?:nvidia|libcuda|cuda).*no such file|nvidia.*no such file",
        ("GM304",),
    ),
)


def causes(error: str) -> tuple[str, ...]:
    """The findings that a failed start belongs to; empty where none is known."""
    return next((codes for pattern, codes in CAUSES if re.search(pattern, error)), ())


def gpu_containers(context: Context) -> list[Container]:
    """Docker's containers that want a GPU, running or not. Raises Unread."""
    return [found for found in context.state.docker.containers.get() or () if found.wants_gpu()]


@rule(
    "GM416",
    "containers that want a GPU have started",
    "Engine API ContainerInspect State.Error, State.ExitCode; moby daemon/start.go; nct#146, nd#1034",
    applies=up,
)
def failed_starts(context: Context) -> Iterator[Finding]:
    for found in gpu_containers(context):
        if found.running or found.restarting:  # a loop is GM707's
            continue
        kept = found.restart not in ("", "no")
        if found.error:
            status, summary = Status.FAIL, f"{found.label()} wants a GPU and did not start: {found.error}"
        elif found.exit in STOPPED_BY_HAND:
            continue
        else:
            status = Status.WARN if kept else Status.NOTE
            summary = f"{found.label()} wants a GPU and is down: it ended with exit status {found.exit}"
        codes = causes(found.error)
        yield Finding(
            code="GM416",
            status=status,
            summary=summary[:400],
            evidence=(
                Evidence(
                    f"docker inspect {found.name}",
                    f"State.Error: {found.error}" if found.error else f"State.ExitCode: {found.exit}",
                ),
                Evidence(f"docker inspect {found.name}", f"RestartPolicy: {found.restart or 'no'}"),
            ),
            cause=f"This text belongs to {' or '.join(codes)}."
            if codes
            else "The container's own program ended; its log says why."
            if not found.error
            else "",
            remedy=f"{'; '.join(f'`gpumend explain {code}`' for code in codes)}; then `docker start {found.name}`."
            if codes
            else f"`docker logs {found.name}`; `docker start {found.name}` tries again.",
            refused="a container is not started by mend",
        )


MIG = Pattern(r"\d+:\d+")


def _named(context: Context) -> dict[str, str]:
    """Each name of a GPU that nvidia-smi lists, and its UUID; empty where it gave no list."""
    listed = context.state.gpus.listed.value or ()
    names = {str(gpu.index): gpu.uuid for gpu in listed} | {gpu.uuid: gpu.uuid for gpu in listed}
    return names | {uuid: uuid for gpu in listed for uuid in gpu.mig}


def _unlisted(context: Context, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of GPUs that nvidia-smi does not list, the start of a UUID among them, and what it lists."""
    known, listed = _named(context), context.state.gpus.listed.value or ()
    for name in names:
        prefix = name.startswith(("GPU-", "MIG-")) and any(uuid.startswith(name) for uuid in known)
        if known and not MIG.fullmatch(name) and not prefix and name not in known:
            yield f"device {name}", f"nvidia-smi lists {', '.join(str(gpu.index) for gpu in listed)}"


def _missing(context: Context, found: Container) -> Iterator[tuple[str, str]]:
    """(what is asked for, why it cannot be met) of a container's requests, by what this host has."""
    resolved = context.state.cdi.resolve(spec_directories(context))
    defined, listed = resolved.gpus(), context.state.gpus.listed.value
    for number, (driver, ids, capabilities) in enumerate(found.requests):
        if driver == "cdi":
            for name in ids:
                if name.startswith("nvidia.com/") and defined and name not in resolved.devices:
                    yield name, f"no spec defines it; defined are {', '.join(sorted(defined))}"
        elif driver in ("", "nvidia"):
            nvidia = driver == "nvidia" or bool(NVIDIA_CAPABILITIES & set(capabilities))
            if nvidia and "gpu" not in capabilities:
                yield f"capabilities {list(capabilities)}", "`gpu` is not among them"
            if "gpu" in capabilities:
                yield from _unlisted(context, ids)
            count = found.counts[number] if number < len(found.counts) else -1
            if "gpu" in capabilities and listed and count > len(listed):
                yield f"{count} GPUs", f"this host has {len(listed)}"
    if found.uses_runtime() and not found.requests:
        words = found.env.get("NVIDIA_VISIBLE_DEVICES", "").split(",")
        yield from _unlisted(context, [word for word in words if word.isdigit() or word.startswith("GPU-")])


def granted(found: Container) -> tuple[str, ...] | None:
    """The devices that a container is given, by name, without the kind; None where that is all, or not said."""
    names: list[str] = []
    for number, (driver, ids, capabilities) in enumerate(found.requests):
        if driver == "cdi":
            names += [name.partition("=")[2] for name in ids if name.startswith("nvidia.com/gpu=")]
        elif "gpu" in capabilities:
            count = found.counts[number] if number < len(found.counts) else -1
            names += ids or ([str(index) for index in range(count)] if count > 0 else ["all"])
    if not names and found.uses_runtime():
        names = [word for word in found.env.get("NVIDIA_VISIBLE_DEVICES", "").split(",") if word]
    return None if not names or "all" in names or "void" in names or "none" in names else tuple(names)


def _every(context: Context, found: Container) -> tuple[str, ...] | None:
    """As `granted`, with all the host's GPUs where a container has asked for all; None where it is not known."""
    if (given := granted(found)) is not None or not found.wants_gpu():
        return given
    listed = context.state.gpus.listed.value or ()
    whole = any(driver != "cdi" for driver, _, _ in found.requests) or found.uses_runtime()
    return tuple(str(gpu.index) for gpu in listed) if whole and not any(gpu.mig for gpu in listed) else None


def _contradiction(context: Context, found: Container) -> tuple[str, str]:
    """(variable, why) where the environment says something else than the request; empty texts where it does not."""
    given, same = granted(found), _named(context)
    visible = found.env.get("NVIDIA_VISIBLE_DEVICES", "")
    if (
        given
        and visible not in ("", "all", "void", "none")
        and found.requests
        and {same.get(name, name) for name in visible.split(",")} != {same.get(name, name) for name in given}
    ):
        return (
            f"NVIDIA_VISIBLE_DEVICES={visible}",
            f"the request gives {', '.join(given)}: which of the two counts depends on the version of Docker",
        )
    if not (has := _every(context, found)):
        return "", ""
    chosen = found.env.get("CUDA_VISIBLE_DEVICES", "")
    words = [word.strip() for word in chosen.split(",") if word.strip()]
    uuids = [same.get(name, name) for name in has]
    other = [
        word
        for word in words
        if (word.isdigit() and int(word) >= len(has))
        or (word.startswith("GPU-") and same and not any(uuid.startswith(word) for uuid in uuids))
    ]
    if other:
        return (
            f"CUDA_VISIBLE_DEVICES={chosen}",
            f"the container has {len(has)} GPU{'s' * (len(has) != 1)}, which CUDA numbers from 0: it finds none at {other[0]}",
        )
    return "", ""


@rule(
    "GM417",
    "what containers ask for can be had",
    "moby daemon/devices.go, cdi.go, nvidia_linux.go; CUDA programming guide: CUDA_VISIBLE_DEVICES; field-2026.md A",
    applies=up,
)
def unmet(context: Context) -> Iterator[Finding]:
    for found in context.state.docker.containers.get() or ():
        for asked, why in _missing(context, found):
            yield Finding(
                code="GM417",
                status=Status.FAIL if "capabilities" not in asked else Status.WARN,
                summary=f"{found.label()} asks for {asked}: {why}",
                evidence=(Evidence(f"docker inspect {found.name}", f"DeviceRequests: {asked}"),),
                cause="The GPU or its MIG device is gone or has another name now."
                if "capabilities" not in asked
                else "Docker serves the request by its capabilities; without `gpu` what is injected differs by version, and "
                "Compose refuses the file.",
                remedy="Name a device that is there, and recreate the container."
                if "capabilities" not in asked
                else "`capabilities: [gpu]`, with others beside it, and recreate the container.",
                refused="what a container should have is its owner's decision",
                symptoms=("unresolvable CDI devices", "unknown device"),
            )
        named, why = _contradiction(context, found)
        if named:
            yield Finding(
                code="GM417",
                status=Status.WARN,
                summary=f"{found.label()} has {named}, and {why}",
                evidence=(
                    Evidence(f"docker inspect {found.name}", named),
                    Evidence(
                        f"docker inspect {found.name}", f"granted: {', '.join(granted(found) or ('all',))}"
                    ),
                ),
                cause="The request chooses among the host's GPUs, CUDA_VISIBLE_DEVICES among those that the container has.",
                remedy="Take the variable out, or let it count from 0 up to the number of GPUs granted; recreate the container.",
                refused="what a container should have is its owner's decision",
                symptoms=("no CUDA-capable device is detected",),
            )


@rule(
    "GM418",
    "containers with CDI devices are brought back with dockerd",
    "moby#49989, PR#49990 (28.2.0): RegisterCDIDriver ran after NewDaemon in v25.0 to v28.1.1",
    applies=up,
)
def not_brought_back(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    users = [
        found
        for found in docker.containers.get() or ()
        if found.restarts_by_itself and any(driver == "cdi" for driver, _, _ in found.requests)
    ]
    if not users or not CDI_SINCE <= (version := docker.version.need()) < CDI_BY_DEFAULT:
        return
    names = ", ".join(sorted(found.label() for found in users))
    yield Finding(
        code="GM418",
        status=Status.WARN,
        summary=f"Docker {show(version)} does not bring back containers with CDI devices at boot or after a restart: {names}",
        evidence=(
            Evidence("dockerd --version", show(version)),
            *(
                Evidence(
                    f"docker inspect {found.name}",
                    f"RestartPolicy {found.restart}, DeviceRequests: driver cdi",
                )
                for found in users[:5]
            ),
        ),
        cause="From 25.0 to 28.1 dockerd starts such containers before it has registered CDI as a driver.",
        remedy="Upgrade Docker to 28.2, or recreate them with --runtime=nvidia and NVIDIA_VISIBLE_DEVICES; until then "
        f"`docker start {users[0].name}` after each start of dockerd.",
        refused="Docker is not upgraded by mend, and containers are their owners'",
        symptoms=('could not select device driver "cdi" with capabilities: []',),
    )


@rule(
    "GM419",
    "daemon.json defines its default runtime",
    "moby daemon/runtime_unix.go, daemon/config: specified default runtime does not exist; nd#1034",
    applies=has_docker,
)
def default_undefined(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if not docker.config.known:
        return  # GM401
    name = undefined_default(context)
    if not name:
        return
    runtimes = docker.value("runtimes")
    running = docker.info.ok
    yield Finding(
        code="GM419",
        status=Status.FAIL,
        summary=f"default-runtime is {name!r}, which daemon.json does not define: dockerd does not start"
        + (" again" if running else ""),
        evidence=(
            evidence(context, "default-runtime", name),
            evidence(context, "runtimes", ", ".join(runtimes) if isinstance(runtimes, dict) else "not there"),
        ),
        cause="The table `runtimes` was lost: a tool wrote the file anew, or the toolkit was removed."
        + (" dockerd still runs with what it read before." if running else ""),
        remedy=f'Put `"runtimes": {{"{name}": {{"path": "/usr/bin/nvidia-container-runtime", "args": []}}}}` back into '
        f"{docker.config_path}, or take default-runtime out; `dockerd --validate --config-file={docker.config_path}` checks it.",
        refused="which of the two is meant is not ours to guess",
        symptoms=("specified default runtime", "unable to configure the Docker daemon"),
    )


STORE_DEFAULT = (29, 0)  # moby 29.0: the containerd image store is the default
CONTAINERD_ROOT = "/var/lib/containerd"


@rule(
    "GM420",
    "Docker 29 keeps images and limits where they are expected",
    "Docker 29.0 release notes: containerd image store; moby#51485, docker/docs PR#23730: containerd 2.1.5's LimitNOFILE; moby "
    "daemon/image_store_choice.go (from recorded answers)",
    applies=up,
)
def of_29(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    version, info = docker.version.need(), docker.info.need()
    rows = [row for row in info.get("DriverStatus") or () if isinstance(row, list) and len(row) == 2]
    store = any(row[0] == "driver-type" and "snapshotter" in str(row[1]) for row in rows)
    root = str(info.get("DockerRootDir") or "/var/lib/docker")
    if version >= STORE_DEFAULT and store and root.rstrip("/") != "/var/lib/docker":
        yield Finding(
            code="GM420",
            status=Status.NOTE,
            summary=f"images lie in {CONTAINERD_ROOT}, not in {root}: data-root does not move them in Docker {show(version)}",
            evidence=(
                Evidence("docker info", f"Docker Root Dir: {root}"),
                Evidence("docker info", "driver-type: io.containerd.snapshotter.v1"),
            ),
            cause="From 29 on a new Docker has containerd's image store, whose place is containerd's.",
            remedy="`root` in /etc/containerd/config.toml moves them; or features.containerd-snapshotter = false before there are any.",
            refused="what is stored where is the owner's decision",
            symptoms=("no space left on device",),
        )
    soft = (context.state.containerd.unit.value or {}).get("LimitNOFILESoft", "")
    limits = docker.value("default-ulimits") if docker.config.known else None
    named = isinstance(limits, dict) and "nofile" in limits
    if soft.isdigit() and int(soft) <= 1024 and not named and gpu_containers(context):
        yield Finding(
            code="GM420",
            status=Status.NOTE,
            summary=f"containers start with {soft} open files: what loads data by many workers, or NCCL, may need more",
            evidence=(Evidence("systemctl show containerd.service", f"LimitNOFILESoft={soft}"),),
            cause="Containers inherit containerd's limit. From 2.1.5 on, which comes with Docker 29, its service has systemd's own.",
            remedy='`"default-ulimits": {"nofile": {"Name": "nofile", "Soft": 65536, "Hard": 524288}}` in daemon.json, or '
            "`--ulimit nofile=65536` for the container that needs it.",
            refused="limits are the owner's decision",
            symptoms=("Too many open files",),
        )
