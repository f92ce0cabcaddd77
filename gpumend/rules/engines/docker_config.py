"""What Docker has and is to have on this host, and how daemon.json is changed. The rules are in gpumend/rules/engines/docker.py."""

from __future__ import annotations

from typing import Any

from gpumend.rules.change import SetValues
from gpumend.rules.engines.spec_directories import named
from gpumend.rules.engines.trial import ALL, DEVICE, Trial
from gpumend.rules.evidence import standing
from gpumend.rules.finding import Change, Component, Evidence
from gpumend.rules.rule import Context, has_docker
from gpumend.text.edits import Edit
from gpumend.text.version import Version

CDI_SINCE: Version = (25, 0)  # features.cdi: moby v25.0.0 cmd/dockerd/daemon.go
CDI_BY_DEFAULT: Version = (28, 2)  # moby v28.2.0, commit 4cecce03f6
GPUS_BY_CDI: Version = (29, 2)  # moby PR #50228: --gpus takes CDI first
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


def spec_directories(context: Context) -> tuple[str, ...]:
    """The directories dockerd reads: as it says itself, else as daemon.json sets them, else the defaults."""
    docker = context.state.docker
    listed = (docker.info.value or {}).get("CDISpecDirs") or (docker.config.value or {}).get("cdi-spec-dirs")
    return named(listed)


def up(context: Context) -> bool:
    """Docker is here and dockerd runs, or its silence must be told: what it says of itself can be judged."""
    return has_docker(context) and not context.state.docker.info.absent


def evidence(context: Context, key: str, value: Any) -> Evidence:
    """`file:line` and the value as it stands in daemon.json."""
    docker = context.state.docker
    return standing(docker.config_path, docker.content.value, key, f"{key}: {value}")


def hold_back(context: Context, *keys: str) -> str:
    """Why daemon.json is not changed on this host, or an empty text where it may be."""
    docker = context.state.docker
    if not context.wanted.manage_docker:
        return "docker.manage is false"
    if docker.snap:
        return "Docker is the snap, which keeps its own configuration"
    if not docker.config_named:
        return (
            f"dockerd was started with --config-file={docker.config_path}, which docker.service does not say"
        )
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
    hook = context.state.toolkit.programs["nvidia-cdi-hook"].ok
    since = (context.state.docker.version.value or (0,)) >= GPUS_BY_CDI
    return since and hook and bool(context.state.cdi.resolve(spec_directories(context)).gpus())


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


def stores(context: Context) -> tuple[bool, bool] | None:
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


def restart_switches_store(context: Context) -> str:
    """Why dockerd is not restarted by mend: the restart would switch the image store and hide every image."""
    found = stores(context)
    if found is None or found[0] == found[1] or (context.state.docker.version.value or ()) >= (29, 0):
        return ""
    if found[0]:
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
        Component.DOCKER,
        SetValues(tuple(Edit(path, keys, value) for keys, value in edits.items())),
        service=service,
    ), ""


def conflicts(context: Context) -> dict[str, str]:
    """Flags that stand in daemon.json too, with their key there. dockerd then refuses to start."""
    docker = context.state.docker
    keys = set()
    for key, value in (docker.config.value or {}).items():
        keys |= set(value) if isinstance(value, dict) and key not in FLAT else {key}
    keys -= MERGED
    return {flag: FLAG_KEYS.get(flag, flag) for flag in docker.flags if FLAG_KEYS.get(flag, flag) in keys}


def loads_specs(context: Context) -> bool:
    """Whether dockerd is to load CDI specs here, and its version is known."""
    return context.state.docker.version.ok and "device" in wanted_paths(context)


def needs_spec(context: Context) -> dict[str, tuple[str, ...]]:
    return {"docker --device": spec_directories(context)} if "device" in wanted_paths(context) else {}


def told_to_systemd(context: Context) -> list[str]:
    return ["docker, CDI and --device"] if context.state.docker.cgroup_driver() == "systemd" else []


TRIALS = {"runtime": ("--runtime=nvidia", *ALL), "device": DEVICE, "gpus": ("--gpus", "all")}


def trials(context: Context, must: bool) -> list[Trial]:
    """Docker is judged wherever it is: what is wanted of it must work."""
    return [Trial(path, "docker", TRIALS[path], True) for path in wanted_paths(context)]
