"""GM4xx: Docker, and the three ways in which containers ask it for GPUs.

runtime   --runtime=nvidia and NVIDIA_VISIBLE_DEVICES      nvidia-container-runtime, in its mode
device    --device nvidia.com/gpu=0                        Docker's own CDI
gpus      --gpus all, compose reservations                 the hook; CDI first from Docker 29.2
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpumend.rules.driver.driver import unmet_cuda
from gpumend.rules.engines.docker_config import (
    CDI_BY_DEFAULT,
    CDI_SINCE,
    FLAG_KEYS,
    GPUS_BY_CDI,
    RELOAD,
    RESTART,
    change,
    conflicts,
    evidence,
    gpus_by_cdi,
    spec_directories,
    stores,
    up,
    wanted_paths,
)
from gpumend.rules.engines.spec_directories import lacking, widened
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_docker, has_gpu, rule
from gpumend.state.docker import DAEMON_JSON
from gpumend.state.reading import Reading, Unread
from gpumend.text.version import show


@rule("GM401", "daemon.json is readable", "moby daemon/config/config.go; nd#751, nd#1420", applies=has_docker)
def unreadable(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if docker.config.known:
        return
    if docker.unread:
        docker.config.need()  # unknown, not wrong: dockerd may well read what we could not
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
    "no directive is both a flag and in daemon.json",
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


def _by_flag(context: Context) -> bool:
    """Whether dockerd has the runtime from elsewhere than a daemon.json that we see: a flag, the snap, a virtual machine."""
    docker = context.state.docker
    return "nvidia=" in docker.flags.get("add-runtime", "") or docker.snap


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
    forgotten = effective and docker.config.known and configured is None and not _by_flag(context)
    if (effective or (not docker.info.ok and configured)) and not gone and not forgotten:
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
    elif forgotten:
        summary = (
            "the running dockerd knows the nvidia runtime, daemon.json does not: its next start is without it"
        )
        cause = (
            f"It was taken out of {docker.config_path} after dockerd had read it, and dockerd was not told."
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
        remedy=f"Mend registers {program.path} and {_told(context)}." if made else "Put that right first.",
        risk=Risk.RELOAD,
        change=made,
        refused=refused,
        symptoms=("unknown or invalid runtime name: nvidia",),
    )


def _told(context: Context) -> str:
    """How dockerd is told of its runtimes: where it is restarted for CDI, no reload comes before that."""
    try:
        restarts = any(found.change for found in cdi_off(context))
    except Unread:  # it is told as unknown
        restarts = False
    if restarts:
        return "restarts dockerd, once, for this and for GM404"
    return "reloads dockerd: no container is stopped"


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
    if on and docker.content.absent and "config-file" in docker.flags:
        return  # what it was started with is not there any more: what it says of itself counts
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
            Evidence("docker info", f"CDISpecDirs: {(docker.info.value or {}).get('CDISpecDirs')}")
            if docker.info.ok
            else Evidence("docker info", "dockerd gave no answer: what it has now is not known"),
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
    have = [str(item) for item in listed if item]
    missing, wide = lacking(have), widened(have)
    if not missing:
        return
    made, refused = change(context, {("cdi-spec-dirs",): wide}, RESTART)
    yield Finding(
        code="GM405",
        status=Status.FAIL if not have else Status.WARN,
        summary=f"cdi-spec-dirs leaves out {', '.join(missing)}",
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


@rule(
    "GM412",
    "dockerd takes daemon.json at its next start",
    "moby cmd/dockerd/daemon.go: --validate ends before anything is written (23.0 and newer)",
    applies=has_docker,
)
def refused_file(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    said = docker.validated.get()
    if not said or docker.config_path != DAEMON_JSON or not docker.config.known:
        return  # 20.10 cannot say; what is no JSON is GM401's
    yield Finding(
        code="GM412",
        status=Status.FAIL,
        summary="dockerd refuses daemon.json at its next start"
        + (": it still runs" if docker.info.ok else ""),
        evidence=(Evidence(f"dockerd --validate --config-file={DAEMON_JSON}", said),),
        cause="dockerd reads this file at start and ends at a key or value that it does not know.",
        remedy=f"Put right in {DAEMON_JSON} what dockerd names, before anything restarts it.",
        symptoms=(
            "unable to configure the Docker daemon with file /etc/docker/daemon.json",
            "the following directives don't match any configuration option",
        ),
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
    named = [] if docker.config.known else ["GM401"]
    named += ["GM402"] if conflicts(context) else []
    why = f"; {' and '.join(named)} {'say' if named[1:] else 'says'} why" if named else ""
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
            *(
                Evidence("journalctl -u docker.service", text)
                for text in (docker.last_words.value or ())[-3:]
            ),
        ),
        cause="It was stopped, or waits for its socket."
        if socket_only
        else f"It could not start: its own last words are above, or in the journal{why}.",
        remedy="`systemctl start docker`; `journalctl -u docker` has its own words.",
        refused="a stopped daemon is not started unasked",
        symptoms=("Cannot connect to the Docker daemon",),
    )


@rule(
    "GM408",
    "the Docker snap's own NVIDIA support works",
    "nd#1637, docker-snap#180, #357 and README (29.2.0), nct#82",
    applies=has_docker,
)
def snap(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    if not docker.snap:
        return
    # The snap brings the toolkit with it and registers its runtime by itself (docker-snap README); from 29.2.0 on it fails
    # where the toolkit's own packages are on the host (docker-snap#357).
    knows = "nvidia" in ((docker.info.value or {}).get("Runtimes") or {})
    beside = (docker.version.value or (0,)) >= GPUS_BY_CDI and context.state.toolkit.installed
    if knows and not beside:
        return
    yield Finding(
        code="GM408",
        status=Status.FAIL,
        summary="Docker is the snap, and the toolkit's packages on this host are in its way"
        if beside
        else "Docker is the snap, and its own NVIDIA support does not work"
        if docker.info.ok
        else "Docker is the snap, and does not answer: whether its own NVIDIA support works cannot be seen",
        evidence=(
            Evidence(docker.config_path, "its configuration"),
            Evidence("docker info", "knows the runtime nvidia" if knows else "no runtime nvidia"),
            *([Evidence("PATH", "nvidia-ctk or nvidia-container-runtime")] if beside else []),
        ),
        cause="From 29.2.0 on the snap cannot set up its own toolkit beside them."
        if beside
        else "The snap's confinement hides the host's NVIDIA toolkit, and its own was not set up.",
        remedy="Remove the nvidia-container-toolkit packages, then `snap restart docker`."
        if beside
        else "`snap connections docker` must show the NVIDIA interfaces connected, then `snap restart docker`; or use Docker's "
        "packages instead.",
        refused="a snap's configuration is not changed by mend",
        symptoms=("unknown or invalid runtime name: nvidia", "could not select device driver"),
    )


@rule(
    "GM409",
    "there is no Docker Desktop in between",
    "docker/docs#19366; docker/desktop-linux#53",
    applies=has_gpu,
)
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


@rule(
    "GM411",
    "the next restart keeps Docker's image store",
    "nct EnableCDI (1.17.5-1.20.0), fixed by nct PR#2049; moby daemon/image_store_choice.go (29)",
    applies=up,
)
def store_flip(context: Context) -> Iterator[Finding]:
    docker = context.state.docker
    version, found = docker.version.need(), stores(context)
    if found is None or version >= (29, 0):  # from 29 on the choice depends on what is on disk
        return
    running, asked = found
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
    info = context.state.docker.info.need()
    if (
        "device" not in wanted_paths(context)
        or "DiscoveredDevices" not in info
        or not info.get("CDISpecDirs")
    ):
        return
    seen = {str(item.get("ID")) for item in info["DiscoveredDevices"] or () if isinstance(item, dict)}
    expected = set(context.state.cdi.resolve(spec_directories(context)).gpus())
    unseen = sorted(expected - seen)
    if unseen:
        yield Finding(
            code="GM415",
            status=Status.FAIL,
            summary=f"dockerd does not discover {', '.join(unseen)}, which the specs define",
            evidence=(
                Evidence("docker info", f"DiscoveredDevices: {', '.join(sorted(seen)) or 'none'}"),
                Evidence(", ".join(spec_directories(context)), ", ".join(sorted(expected))),
            ),
            cause="dockerd cannot load the file (its log says why), or its view of the directory is not the host's.",
            remedy="`journalctl -u docker | grep -i cdi`; a restart of dockerd reads the directories anew.",
            refused="the cause is not known from outside",
        )
