"""GM4xx: Docker, and the three ways in which containers ask it for GPUs.

runtime   --runtime=nvidia and NVIDIA_VISIBLE_DEVICES      nvidia-container-runtime, in its mode
device    --device nvidia.com/gpu=0                        Docker's own CDI
gpus      --gpus all, compose reservations                 the hook; CDI first from Docker 29.2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpumend.rules.driver.driver import unmet_cuda
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_docker, has_gpu, rule
from gpumend.rules.toolkit.toolkit import line
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.reading import Reading, Unread
from gpumend.state.snapshot import NOT_ASKED
from gpumend.text.edits import Edit
from gpumend.text.version import Version, show

CDI_SINCE: Version = (25, 0)  # features.cdi: moby v25.0.0 cmd/dockerd/daemon.go
CDI_BY_DEFAULT: Version = (28, 2)  # moby v28.2.0, commit 4cecce03f6
GPUS_BY_CDI: Version = (29, 2)  # moby PR #50228
VALIDATE_SINCE: Version = (23, 0)  # dockerd --validate; 20.10 answers `unknown flag`
RELOAD, RESTART = ("docker.service", "reload"), ("docker.service", "restart")
# dockerd's flags whose key in daemon.json has another name (moby cmd/dockerd/config.go, config_unix.go). --add-runtime
# is not among them: dockerd merges it with `runtimes` (moby daemon/config skipDuplicates, 19.03 to 29.2).
FLAG_KEYS = {
    "host": "hosts", "exec-opt": "exec-opts", "storage-opt": "storage-opts",
    "label": "labels", "insecure-registry": "insecure-registries", "registry-mirror": "registry-mirrors",
    "cdi-spec-dir": "cdi-spec-dirs", "log-opt": "log-opts", "authorization-plugin": "authorization-plugins",
    "default-ulimit": "default-ulimits", "default-address-pool": "default-address-pools", "feature": "features",
    "dns-opt": "dns-opts", "node-generic-resource": "node-generic-resources",
}  # fmt: skip


# Objects of daemon.json that are one option; the keys of every other (`proxies`) are options of their own (moby
# daemon/config/config.go flatOptions, configValuesSet).
FLAT = {
    "cluster-store-opts",
    "default-network-opts",
    "log-opts",
    "runtimes",
    "default-ulimits",
    "features",
    "builder",
}

# What dockerd takes from both places (daemon/config/config.go skipDuplicates; seen on 20.10, 26.1 and 28.5).
MERGED = {"runtimes"}


def wanted_paths(context: Context) -> tuple[str, ...]:
    """The engine paths that are judged on this host. `auto`: what this Docker has, but --gpus, which excludes mode cdi."""
    docker = context.state.docker
    if not docker.installed or docker.rootless_only:
        return ()
    if context.wanted.docker_paths is not None:
        return context.wanted.docker_paths
    version = docker.version.value
    return ("runtime", "device") if version and version >= CDI_SINCE else ("runtime",)


def up(context: Context) -> bool:
    """Docker is here and dockerd runs, or its silence must be told: what it says of itself can be judged."""
    return has_docker(context) and not context.state.docker.info.absent


def evidence(context: Context, key: str, value: Any) -> Evidence:
    content = context.state.docker.content.value
    number = line(content.data.decode("utf-8", "replace"), key) if content else None
    path = context.state.docker.config_path
    return Evidence(f"{path}:{number}" if number else path, f"{key}: {value}")


def hold_back(context: Context, *keys: str) -> str:
    """Why daemon.json is not changed on this host, or an empty text where it may be."""
    docker = context.state.docker
    if not context.wanted.manage_docker:
        return "docker.manage is false"
    if docker.snap:
        return "Docker is the snap, which keeps its own configuration"
    if not docker.config.known:
        return f"{docker.config_path} cannot be read as it is (GM401)"
    if conflicts(context):
        return "flags and daemon.json are at odds already (GM402)"
    for key in keys:
        for flag in docker.flags:
            if FLAG_KEYS.get(flag, flag) == key and key not in MERGED:
                return f"dockerd is started with --{flag}: the key {key} in the file as well would keep it from starting"
    if docker.info.absent and undefined_default(context):
        return f"default-runtime {undefined_default(context)!r} keeps dockerd from starting (GM419)"
    if docker.info.absent:
        return "dockerd does not run (GM407): nothing could be proven"
    if not docker.info.ok:
        return f"dockerd does not answer (GM407): {docker.info.detail}"
    return ""


def gpus_by_cdi(context: Context) -> bool:
    """Whether --gpus is served by CDI here: from 29.2 on, where nvidia-cdi-hook is there and a spec resolves."""
    from gpumend.rules.cdi.cdi import docker_dirs

    hook = context.state.toolkit.programs["nvidia-cdi-hook"].ok
    since = (context.state.docker.version.value or (0,)) >= GPUS_BY_CDI
    return since and hook and bool(context.state.cdi.resolve(docker_dirs(context)).gpus())


def undefined_default(context: Context) -> str:
    """The default runtime that neither daemon.json nor a flag defines: dockerd does not start then; empty where all is well.
    Raises Unread."""
    docker = context.state.docker
    name = docker.flags.get("default-runtime") or docker.value("default-runtime")
    if not isinstance(name, str) or name in ("", "runc") or "." in name:  # io.containerd.runc.v2: a shim's
        return ""
    added = [word.partition("=")[0] for word in docker.flags.get("add-runtime", "").split(",")]
    runtimes = docker.value("runtimes")
    return "" if name in added or (isinstance(runtimes, dict) and name in runtimes) else name


def restart_switches_store(context: Context) -> str:
    """Why dockerd is not restarted by mend: the restart would switch the image store and hide every image."""
    stores = _stores(context)
    if stores is None or stores[0] == stores[1] or (context.state.docker.version.value or ()) >= (29, 0):
        return ""
    if stores[0]:
        return ""  # GM411 puts the feature back in the same transaction
    return "features.containerd-snapshotter waits for a restart, which would hide every image there is: restart dockerd yourself"


def change(
    context: Context, edits: dict[tuple[str, ...], Any], service: tuple[str, str]
) -> tuple[Change | None, str]:
    """The change that sets keys of daemon.json, or why it is held back."""
    held = hold_back(context, *{keys[0] for keys in edits})
    if not held and service == RESTART:
        held = restart_switches_store(context)
    if held:
        return None, held
    path = context.state.docker.config_path
    return Change(
        Component.DOCKER, tuple(Edit(path, keys, value) for keys, value in edits.items()), service=service
    ), ""


def conflicts(context: Context) -> dict[str, str]:
    """Flags that stand in daemon.json too, with their key there. dockerd then refuses to start."""
    docker = context.state.docker
    keys = set()
    for key, value in (docker.config.value or {}).items():
        keys |= set(value) if isinstance(value, dict) and key not in FLAT else {key}
    keys -= MERGED
    return {flag: FLAG_KEYS.get(flag, flag) for flag in docker.flags if FLAG_KEYS.get(flag, flag) in keys}


@rule("GM401", "daemon.json is readable", "moby daemon/config/config.go; nd#751, nd#1420", applies=has_docker)
def unreadable(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if docker.config.known:
        return
    if docker.content.status.value in ("denied", "timeout") or docker.content.detail == NOT_ASKED:
        docker.config.need()  # unknown, not wrong; NOT_ASKED: another file by --config-file
    running = docker.info.ok
    yield Finding(
        code="GM401",
        status=Status.FAIL,
        summary=f"{docker.config_path}: {docker.config.detail}",
        evidence=(Evidence(docker.config_path, docker.config.detail),),
        cause="Edited by hand."
        + (
            " dockerd still runs with what it read before; it will not start again."
            if running
            else " dockerd cannot start with it."
        ),
        remedy=f"Repair it by hand, and check it with `dockerd --validate --config-file={docker.config_path}` (Docker 23.0 and newer).",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
        symptoms=("unable to configure the Docker daemon with file",),
    )


@rule(
    "GM402",
    "no directive both as flag and in daemon.json",
    "moby daemon/config/config.go findConfigurationConflicts; nd#751, nd#1420",
    applies=has_docker,
)
def flag_conflict(context: Context) -> Iterator[Finding]:
    for flag, key in conflicts(context).items():
        yield Finding(
            code="GM402",
            status=Status.FAIL,
            summary=f"--{flag} is a flag of dockerd, and {key} stands in {context.state.docker.config_path}: dockerd will not start again",
            evidence=(
                Evidence("dockerd's command line", f"--{flag}"),
                evidence(context, key, "set"),
            ),
            cause="dockerd refuses to start when a directive stands in both places, even with one value.",
            remedy=f"Take {key} out of the file, or the flag out of docker.service with a drop-in.",
            refused="which of the two is meant is not ours to guess",
            symptoms=("the following directives are specified both as a flag and in the configuration file",),
        )


@rule(
    "GM403",
    "Docker knows the nvidia runtime",
    "moby daemon/reload_unix.go: SIGHUP suffices; nct#150, nct#378, docker-snap#180",
    applies=has_docker,
)
def runtime(context: Context) -> Iterator[Finding]:
    docker, toolkit = context.state.docker, context.state.toolkit
    if "runtime" not in wanted_paths(context):
        return
    program = toolkit.programs["nvidia-container-runtime"].get()
    configured = docker.value("runtimes", "nvidia") if docker.config.known else None
    path = configured.get("path") if isinstance(configured, dict) else None
    gone = isinstance(path, str) and path.startswith("/") and docker.runtime_paths[path].get() is None
    known = (docker.info.get() or {}).get("Runtimes")
    effective = isinstance(known, dict) and "nvidia" in known
    if (effective or (not docker.info.ok and configured)) and not gone:
        return
    if program is None:
        return  # GM203: there is nothing to register
    if configured is None or gone:
        edits: dict[tuple[str, ...], Any] = {("runtimes", "nvidia", "path"): program.path}
        if configured is None:
            edits[("runtimes", "nvidia", "args")] = []
    else:
        edits = {}
    made, refused = change(context, edits, RELOAD)
    if gone:
        summary, cause = (
            f"the nvidia runtime's path {path} is not there",
            "The toolkit was moved or installed anew.",
        )
    elif configured is not None:
        summary = "daemon.json has the nvidia runtime, the running dockerd does not know it"
        cause = "dockerd was not told: it reads the file at start and on SIGHUP only."
    else:
        summary = "Docker does not know the runtime `nvidia`"
        cause = f"It is not registered in {docker.config_path}, the file that this dockerd reads."
    found = [evidence(context, "runtimes", "no nvidia" if configured is None else configured)]
    if docker.info.ok:
        found.append(Evidence("docker info", f"Runtimes: {', '.join(sorted(known or ()))}"))
    yield Finding(
        code="GM403",
        status=Status.FAIL,
        summary=summary,
        evidence=tuple(found),
        cause=cause,
        remedy=f"Mend registers {program.path} and reloads dockerd: no container is stopped."
        if made
        else "Put that right first.",
        risk=Risk.RELOAD,
        change=made,
        refused=refused,
        symptoms=("unknown or invalid runtime name: nvidia",),
    )


@rule(
    "GM404",
    "Docker's CDI is on",
    "moby v25.0.0, v28.2.0 cmd/dockerd/daemon.go; NixOS/nixpkgs#305312, nct#434",
    applies=has_docker,
)
def cdi_off(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if context.wanted.docker_paths is None:
        docker.version.get()  # `device` is among them by it
    if "device" not in wanted_paths(context):
        return
    version = docker.version.need()
    if version < CDI_SINCE:
        yield Finding(
            code="GM404",
            status=Status.FAIL,
            summary=f"Docker {show(version)} has no CDI: `--device nvidia.com/gpu=` needs 25.0",
            evidence=(Evidence("dockerd --version", show(version)),),
            remedy="Upgrade Docker, or leave `device` out of docker.paths and use the nvidia runtime.",
            refused="Docker is not upgraded by mend",
        )
        return
    feature = docker.value("features", "cdi") if docker.config.known else None
    right = feature is not False if version >= CDI_BY_DEFAULT else feature is True
    on = bool((docker.info.get() or {}).get("CDISpecDirs"))
    if (right and (on or not docker.info.ok)) or not docker.config.known:
        return
    if right and docker.value("cdi-spec-dirs") in ([""], []):
        return  # GM405
    made, refused = change(context, {} if right else {("features", "cdi"): True}, RESTART)
    yield Finding(
        code="GM404",
        status=Status.FAIL,
        summary=f"CDI is off in Docker {show(version)}"
        if not right
        else "daemon.json turns CDI on, the running dockerd has it off",
        evidence=(
            evidence(context, "cdi", feature if feature is not None else "not set"),
            Evidence("docker info", f"CDISpecDirs: {(docker.info.value or {}).get('CDISpecDirs')}"),
        ),
        cause="From 25.0 to 28.1 CDI is off unless features.cdi is true; from 28.2 on it is on unless it is false."
        if not right
        else "dockerd has not been restarted since the file was changed: this feature is read at start only.",
        remedy="Mend sets features.cdi and restarts dockerd." if made else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=('could not select device driver "cdi" with capabilities: []',),
    )


@rule(
    "GM405",
    "Docker reads both spec directories",
    "moby cmd/dockerd/daemon.go; cdi pkg/cdi/spec-dirs.go",
    applies=has_docker,
)
def narrowed(context: Context) -> Iterator[Finding]:
    from gpumend.rules.cdi.cdi import canonical

    docker = context.state.docker
    if (
        "device" not in wanted_paths(context)
        or (docker.version.value or (0,)) < CDI_SINCE
        or not docker.config.known
    ):
        return
    listed = docker.value("cdi-spec-dirs")
    if not isinstance(listed, list):
        return
    have = [canonical(str(item)) for item in listed if item]
    lacking = [directory for directory in DEFAULT_DIRS if directory not in have]
    if not lacking:
        return
    wide = [directory for directory in DEFAULT_DIRS if directory in have or directory in lacking]
    wide += [directory for directory in have if directory not in wide]
    made, refused = change(context, {("cdi-spec-dirs",): wide}, RESTART)
    yield Finding(
        code="GM405",
        status=Status.FAIL if not have else Status.WARN,
        summary=f"cdi-spec-dirs leaves out {', '.join(lacking)}",
        evidence=(evidence(context, "cdi-spec-dirs", listed),),
        cause="Set by hand. nvidia-cdi-refresh (toolkit 1.18) writes to /var/run/cdi, `nvidia-ctk cdi generate` guides to /etc/cdi: "
        "a spec in the directory that is left out is never found.",
        remedy=f"Mend sets it to {wide} and restarts dockerd." if made else "Put that right first.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=("unresolvable CDI devices",),
    )


@rule(
    "GM406",
    "dockerd started after the toolkit",
    "moby daemon/nvidia_linux.go: LookPath at start; nct#854, nd#1034, nd#1243, ragflow#9573; NemoClaw#3575, wolf#386, moby PR#52048",
    applies=up,
)
def started_before(context: Context) -> Iterator[Finding]:
    docker, toolkit = context.state.docker, context.state.toolkit
    version = docker.version.value or ()
    users = [found for found in docker.containers.get() or () if found.uses_gpus_flag()]
    if "gpus" not in wanted_paths(context) and not users:
        return
    started = docker.process.need().start
    names = ["nvidia-container-runtime-hook"] + (["nvidia-cdi-hook"] if version >= GPUS_BY_CDI else [])
    later = [
        meta
        for name in names
        if (meta := toolkit.programs[name].get()) is not None and meta.ctime > started + 1
    ]
    if not later:
        return
    made, refused = change(context, {}, RESTART)
    yield Finding(
        code="GM406",
        status=Status.WARN,
        summary=f"{later[0].path} is newer than the running dockerd: `--gpus` may not be known to it",
        evidence=(
            Evidence("/proc", f"dockerd {docker.process.need().pid} started at {started:.0f}"),
            *(Evidence(meta.path, f"changed at {meta.ctime:.0f}") for meta in later),
        ),
        cause="dockerd looks for these programs once, at its start. (After a mere upgrade it knew them before; that cannot be seen from outside.)",
        remedy="Mend restarts dockerd once." if made else "Restart dockerd once.",
        risk=Risk.RESTART,
        change=made,
        refused=refused,
        symptoms=('could not select device driver "" with capabilities: [[gpu]]', "AMD CDI spec not found"),
    )


@rule("GM407", "dockerd runs", "systemd.exec(5) Result=; design: unknown is never ok", applies=has_docker)
def down(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if docker.process.get() is not None:
        docker.info.need()
        return
    unit = docker.unit.value or {}
    if unit.get("ActiveState") in ("active", "reloading", "deactivating"):
        raise Unread(
            Reading.fail("/proc", f"no dockerd is seen, and docker.service is {unit['ActiveState']}")
        )
    socket_only = unit.get("ActiveState") == "inactive" and unit.get("Result") in ("success", "")
    yield Finding(
        code="GM407",
        status=Status.WARN if socket_only else Status.FAIL,
        summary="dockerd does not run" + (f": {unit.get('Result')}" if unit and not socket_only else ""),
        evidence=(
            Evidence("/proc", "no dockerd"),
            Evidence(
                "systemctl show docker.service",
                f"{unit.get('ActiveState', 'no unit')} ({unit.get('Result', '')})",
            ),
        ),
        cause="It was stopped, or waits for its socket."
        if socket_only
        else "It could not start: GM401 and GM402 say so where its configuration is the reason.",
        remedy="`systemctl start docker`; `journalctl -u docker` has its own words.",
        refused="a stopped daemon is not started unasked",
        symptoms=("Cannot connect to the Docker daemon",),
    )


@rule("GM408", "Docker is not the snap", "nd#1637, docker-snap#180, nct#82", applies=has_docker)
def snap(context: Context) -> Iterator[Finding]:
    if not context.state.docker.snap:
        return
    yield Finding(
        code="GM408",
        status=Status.FAIL,
        summary="Docker is the snap: its confinement hides the host's NVIDIA toolkit",
        evidence=(
            Evidence("/var/snap/docker", "exists"),
            Evidence(context.state.docker.config_path, "its configuration"),
        ),
        remedy="Use the snap's own NVIDIA support (see `snap info docker`), or Docker's packages instead.",
        refused="a snap's configuration is not changed by mend",
        symptoms=("unknown or invalid runtime name: nvidia", "could not select device driver"),
    )


@rule("GM409", "no Docker Desktop in between", "docker/docs#19366; docker/desktop-linux#53", applies=has_gpu)
def desktop(context: Context) -> Iterator[Finding]:
    if context.state.host.wsl2 or not context.state.docker.desktop.need():
        return
    yield Finding(
        code="GM409",
        status=Status.WARN,
        summary="Docker Desktop is here: containers of its context run in a VM without the GPU",
        evidence=(Evidence("/home/*/.docker/desktop", "exists"),),
        remedy="`docker context use default` for users who need the GPU.",
        refused="a user's context is the user's",
    )


def _stores(context: Context) -> tuple[bool, bool] | None:
    """(the running dockerd has the containerd image store, daemon.json asks for it); None where not known."""
    docker = context.state.docker
    info = docker.info.get()
    if info is None or not docker.config.known:
        return None
    status = {
        str(row[0]): str(row[1])
        for row in info.get("DriverStatus") or ()
        if isinstance(row, list) and len(row) == 2
    }
    running = status.get("driver-type", "").startswith("io.containerd.snapshotter")
    return running, docker.value("features", "containerd-snapshotter") is True


@rule(
    "GM411",
    "the next restart keeps Docker's image store",
    "nct EnableCDI (1.17.5-1.20.0), fixed by nct PR#2049; moby daemon/image_store_choice.go (29)",
    applies=up,
)
def store_flip(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    version, stores = docker.version.need(), _stores(context)
    if stores is None or version >= (29, 0):  # from 29 on the choice depends on what is on disk
        return
    running, asked = stores
    if not running or asked or "features" in {FLAG_KEYS.get(flag, flag) for flag in docker.flags}:
        return
    made, refused = change(context, {("features", "containerd-snapshotter"): running}, RELOAD)
    yield Finding(
        code="GM411",
        status=Status.FAIL,
        summary="the next restart of dockerd switches its image store, and with it hides every image and container",
        evidence=(
            Evidence(
                "docker info",
                f"driver {(docker.info.value or {}).get('Driver')}, containerd image store {'on' if running else 'off'}",
            ),
            evidence(context, "features", docker.value("features")),
        ),
        cause="`nvidia-ctk runtime configure --cdi.enabled` of toolkit 1.17.5 to 1.20.0 replaces the whole features object."
        if running
        else "features.containerd-snapshotter was set and dockerd has not been restarted since.",
        remedy="Mend puts features.containerd-snapshotter back to what the running daemon has."
        if made
        else "Put it back by hand.",
        risk=Risk.RELOAD,
        change=made,
        refused=refused,
    )


@rule(
    "GM414",
    "the driver serves the CUDA that containers ask for",
    "nct#152, MauriceNino/dashdot#1226; NVIDIA_REQUIRE_CUDA",
    applies=up,
)
def cuda_requirement(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    if not toolkit.config.known or toolkit.value("disable-require") is True:
        return
    # Only nvidia-container-cli checks requirements, in legacy injection: what the hook does, and mode auto before 1.18.
    legacy_runtime = toolkit.mode() == "legacy" or (
        toolkit.mode() == "auto" and (toolkit.version.get() or (1, 17)) < (1, 18)
    )
    by_cdi = gpus_by_cdi(context)
    for container in context.state.docker.containers.get() or ():
        expression = container.env.get("NVIDIA_REQUIRE_CUDA", "")
        checked = (container.uses_gpus_flag() and not by_cdi) or (container.uses_runtime() and legacy_runtime)
        disabled = container.env.get("NVIDIA_DISABLE_REQUIRE", "").lower() in ("1", "t", "true")
        if not expression or not checked or disabled:
            continue
        serves = context.state.gpus.cuda.need()
        needed = unmet_cuda(expression, serves, context.state.driver.loaded.value)
        if needed is None:
            continue
        yield Finding(
            code="GM414",
            status=Status.WARN,
            summary=f"{container.label()} asks for CUDA {show(needed)}, the driver serves {show(serves)}",
            evidence=(
                Evidence(f"docker inspect {container.name}", f"NVIDIA_REQUIRE_CUDA={expression[:120]}"),
                Evidence("nvidia-smi --version", f"CUDA Version: {show(serves)}"),
            ),
            remedy="Upgrade the driver, or use an image for an older CUDA. NVIDIA_DISABLE_REQUIRE=1 skips the check for "
            "one container; what needs the newer CUDA still fails.",
            refused="a driver upgrade needs a reboot, and is the owner's decision",
            symptoms=("requirement error: unsatisfied condition: cuda>=",),
        )


@rule(
    "GM415",
    "dockerd itself discovers the devices",
    "docker info DiscoveredDevices (moby 28.2, API 1.50)",
    applies=up,
)
def discovered(context: Context) -> Iterator[Finding]:
    from gpumend.rules.cdi.cdi import docker_dirs

    info = context.state.docker.info.need()
    if (
        "device" not in wanted_paths(context)
        or "DiscoveredDevices" not in info
        or not info.get("CDISpecDirs")
    ):
        return
    seen = {str(item.get("ID")) for item in info["DiscoveredDevices"] or () if isinstance(item, dict)}
    expected = set(context.state.cdi.resolve(docker_dirs(context)).gpus())
    lacking = sorted(expected - seen)
    if lacking:
        yield Finding(
            code="GM415",
            status=Status.FAIL,
            summary=f"dockerd does not discover {', '.join(lacking)}, which the specs define",
            evidence=(
                Evidence("docker info", f"DiscoveredDevices: {', '.join(sorted(seen)) or 'none'}"),
                Evidence(", ".join(docker_dirs(context)), ", ".join(sorted(expected))),
            ),
            cause="dockerd cannot load the file (its log says why), or its view of the directory is not the host's.",
            remedy="`journalctl -u docker | grep -i cdi`; a restart of dockerd reads the directories anew.",
            refused="the cause is not known from outside",
        )
