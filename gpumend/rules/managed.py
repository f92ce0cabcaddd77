"""GM010 to GM012: what somebody else keeps on this host is whole."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.cdi.spec import gpu_specs_in_use
from gpumend.rules.cdi.stale import staleness
from gpumend.rules.engines.containerd_config import cri, pods_readable
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.managers import operators_toolkit
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.cdi import DEFAULT_DIRS, KIND
from gpumend.state.containerd import ConfigError
from gpumend.state.manager import OPERATOR_CONFIG, OPERATOR_PROGRAMS, OPERATOR_TOOLKIT
from gpumend.state.reading import Unread


@rule(
    "GM010",
    "the programs of the engines' runtimes are there",
    "gpu-operator#1109, #401 (leftovers after an uninstall); containerd runtime v2 shim: OCI runtime create failed",
    applies=has_gpu,
)
def default_gone(context: Context) -> Iterator[Finding]:
    gone = tuple(defaults(context))
    for engine, name, program in gone:
        operators = program.startswith(f"{OPERATOR_TOOLKIT}/")
        yield Finding(
            code="GM010",
            status=Status.FAIL,
            summary=f"{engine}'s default runtime {name!r} is {program}, which is not there: no container starts",
            evidence=(Evidence(program, "not there"), Evidence(engine, f"default runtime {name}")),
            cause="The GPU Operator was uninstalled, and its drop-in stayed behind."
            if operators
            else "The toolkit was removed or moved, and the engine's configuration still names it.",
            remedy=f"Take the runtime and the default out of {engine}'s configuration (of the operator's drop-in "
            "99-nvidia.toml all), and restart it; or install what it names again.",
            refused="whether the toolkit is to come back is the owner's decision",
            symptoms=(
                f"{program}: no such file or directory",
                "OCI runtime create failed: unable to retrieve OCI",
            ),
        )
    if not gone and (left := leftovers(context)):
        program = left[0].partition(": ")[2]
        yield Finding(
            code="GM010",
            status=Status.FAIL,
            summary=f"containerd's runtimes lead to programs that are not there, and pods of their classes do not start: {', '.join(left)}",
            evidence=tuple(Evidence("containerd's runtimes", text) for text in left),
            cause="The GPU Operator was uninstalled, and its drop-in stayed behind.",
            remedy="Take the operator's drop-in (99-nvidia.toml) or these runtimes out of containerd's configuration, and restart it.",
            refused="whether the toolkit is to come back is the owner's decision",
            symptoms=(f"{program}: no such file or directory",),
        )


def leftovers(context: Context) -> list[str]:
    """Runtimes that are not the default and whose program was the GPU Operator's, of whose toolkit nothing is here."""
    if operators_toolkit(context.state):
        return []  # GM011's
    try:
        if not pods_readable(context):
            return []
        settings = cri(context)
    except (ConfigError, Unread):  # GM501's
        return []
    binaries = context.state.containerd.binaries
    return [
        f"{name}: {found.binary}"
        for name, found in sorted(settings.runtimes.items())
        if name != settings.default
        and found.binary.startswith(f"{OPERATOR_TOOLKIT}/")
        and (meta := binaries.get(found.binary)) is not None
        and meta.absent
    ]


def defaults(context: Context) -> Iterator[tuple[str, str, str]]:
    """(engine, its default runtime, the program) where that program is gone."""
    state = context.state
    try:
        if pods_readable(context):
            settings = cri(context)
            found = settings.runtimes.get(settings.default)
            meta = state.containerd.binaries.get(found.binary) if found else None
            if found and meta is not None and meta.absent:
                yield "containerd", settings.default, found.binary
    except (ConfigError, Unread):  # GM501's
        pass
    docker = state.docker
    if not docker.installed or not docker.config.known:
        return
    name = (docker.info.value or {}).get("DefaultRuntime") or docker.value("default-runtime")
    runtimes = docker.value("runtimes")
    table = runtimes.get(str(name)) if isinstance(runtimes, dict) else None
    path = str(table.get("path")) if isinstance(table, dict) else ""
    meta = docker.runtime_paths.get(path)
    # With the toolkit here it is GM403's, which can put it right.
    if meta is not None and meta.absent and not state.toolkit.programs["nvidia-container-runtime"].ok:
        yield "dockerd", str(name), path


@rule(
    "GM011",
    "the GPU Operator's toolkit is whole",
    "gpu-operator assets/state-container-toolkit; nct cmd/nvidia-ctk-installer (.real beside each wrapper)",
    applies=lambda context: has_gpu(context) and operators_toolkit(context.state),
)
def operator_whole(context: Context) -> Iterator[Finding]:
    operator = context.state.manager.operator
    needed = [
        path
        for path in OPERATOR_PROGRAMS
        if path.rpartition("/")[2] in ("nvidia-container-runtime", "nvidia-ctk")
    ]
    gone = [path for path in needed if operator[path].get() is None]
    config = context.state.manager.operator_config
    if gone:
        yield Finding(
            code="GM011",
            status=Status.FAIL,
            summary=f"the GPU Operator's toolkit is not whole: {', '.join(gone)} missing",
            evidence=tuple(Evidence(path, "not there") for path in gone),
            cause="Its container was stopped while it installed them, or they were deleted by hand.",
            remedy="Delete the node's pod nvidia-container-toolkit-daemonset: it installs them anew.",
            refused="NVIDIA's GPU Operator keeps these files",
            symptoms=("nvidia-container-runtime: no such file or directory",),
        )
    if config.status.value in ("denied", "timeout"):
        config.get()
    if not config.known:
        yield Finding(
            code="GM011",
            status=Status.FAIL,
            summary=f"{OPERATOR_CONFIG}: {config.detail}",
            evidence=(Evidence(OPERATOR_CONFIG, config.detail),),
            cause="The operator's runtime cannot read its configuration, and refuses every container.",
            remedy="Delete the node's pod nvidia-container-toolkit-daemonset: it writes the file anew.",
            refused="NVIDIA's GPU Operator keeps this file",
            symptoms=("failed to load config",),
        )


@rule(
    "GM012",
    "NixOS' and Guix' own CDI spec is there and true",
    "NixOS/nixpkgs#337873, #322400, #420638; nixos/modules/services/hardware/nvidia-container-toolkit",
    applies=lambda context: (
        has_gpu(context)
        and context.state.host.distribution.value in ("nixos", "guix")
        and not context.state.toolkit.installed
    ),
)
def described_spec(context: Context) -> Iterator[Finding]:
    nixos = context.state.host.distribution.value == "nixos"
    if not context.state.cdi.resolve(DEFAULT_DIRS).gpus():
        yield Finding(
            code="GM012",
            status=Status.FAIL,
            summary=f"no CDI spec defines {KIND}, and this system's own module makes it",
            evidence=tuple(Evidence(directory, "no spec") for directory in DEFAULT_DIRS),
            cause="hardware.nvidia-container-toolkit is not enabled, or nvidia-container-toolkit-cdi-generator.service failed."
            if nixos
            else "What makes it at boot is not in the description, or failed.",
            remedy="NixOS: `hardware.nvidia-container-toolkit.enable = true;` and `nixos-rebuild switch`, or "
            "`systemctl restart nvidia-container-toolkit-cdi-generator`."
            if nixos
            else "Guix System: a service in the description that calls `nvidia-ctk cdi generate` at boot, and `guix system "
            "reconfigure`; its log is in /var/log."
            if context.state.host.distribution.value == "guix"
            else "This system's own settings for the GPU, by its API; then reboot.",
            refused="this system is made from its own description",
            symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
        )
    for file, spec in gpu_specs_in_use(context):
        evidence, cause, symptom = staleness(context, spec)
        if evidence:
            yield Finding(
                code="GM012",
                status=Status.FAIL,
                summary=f"{file.path} is stale: {evidence[0].text}",
                evidence=evidence,
                cause=cause,
                remedy="`systemctl restart nvidia-container-toolkit-cdi-generator`; after a driver update reboot first."
                if nixos
                else "Start what makes it at boot again; after a driver update reboot first.",
                refused="this system is made from its own description",
                symptoms=(symptom,),
            )
