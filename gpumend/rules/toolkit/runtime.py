"""GM204 to GM207: the mode of nvidia-container-runtime, and who a switch of it would break."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.cdi.spec import resolvable_after_mend
from gpumend.rules.engines.docker_config import GPUS_BY_CDI
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.toolkit.toolkit import change, config_evidence, readable, unmanaged
from gpumend.state.compose_request import requests
from gpumend.state.docker import Container
from gpumend.state.gpus_flag import starts_by_itself

MODES = ("auto", "legacy", "csv", "cdi")  # of every toolkit; jit-cdi besides from 1.18.0
# Toolkit 1.18.0 alone hands the runtime's mode to the spec generator, which knows none of these (nct#1376,
# pkg/nvcdi/mode.go).
BROKEN_IN_1180 = ("cdi", "legacy", "jit-cdi")
JIT_SINCE = (1, 18)  # nct internal/info/auto.go v1.18.0: auto makes CDI in memory at each start
SWARM_BY_CDI = (1, 19)  # nct#1599, PR#1600: before, only the legacy hook looks at swarm-resource


def is_known(context: Context, mode: str) -> bool:
    """Whether the installed runtime takes a mode. An unknown toolkit version is given the benefit of jit-cdi."""
    version = context.state.toolkit.version.value or (1, 18)
    return mode in MODES or (mode == "jit-cdi" and version >= (1, 18))


def injects_by_cdi(context: Context, mode: str) -> bool:
    """Whether the installed runtime gives a container the GPU through CDI in this mode; raises Unread."""
    if mode == "auto":
        return (context.state.toolkit.version.get() or (1, 17)) >= JIT_SINCE
    return mode in ("cdi", "jit-cdi")


def meets(context: Context, mode: str) -> bool:
    """Whether a mode does what is wanted of this host; raises Unread."""
    wanted = context.wanted.mode
    if wanted == "cdi":
        # A Jetson's auto is csv, and there is no other way there.
        return injects_by_cdi(context, mode) or (context.state.host.tegra and mode in ("auto", "csv"))
    return wanted == "keep" or mode == ("cdi" if wanted == "cdi-only" else wanted)


def switches_to(context: Context) -> str:
    """The mode that gives what is wanted with the least change: from 1.18 on `auto` is CDI too, needs no spec that has to be
    there when the engines start, and leaves --gpus alone. Raises Unread."""
    if context.wanted.mode == "cdi":
        return "auto" if injects_by_cdi(context, "auto") else "cdi"
    return "cdi" if context.wanted.mode == "cdi-only" else context.wanted.mode


def swarm_resources(context: Context) -> tuple[str, ...]:
    """Names of the environment variables by which Swarm assigns GPUs to a container here."""
    text = context.state.toolkit.value("swarm-resource")
    return tuple(word for word in re.split(r"[,\s]+", text) if word) if isinstance(text, str) else ()


def is_1180(context: Context) -> bool:
    return (context.state.toolkit.version.value or ())[:3] == (1, 18, 0)


def hook_refuses(context: Context) -> bool:
    """Whether --gpus of this Docker goes through the hook, which refuses every mode but legacy (assertModeIsLegacy)."""
    docker = context.state.docker
    skips = context.state.toolkit.value("nvidia-container-runtime-hook", "skip-mode-detection")
    return docker.installed and not skips and (docker.version.value or (0,)) < GPUS_BY_CDI


def gpus_flag_users(context: Context) -> tuple[Container, ...] | None:
    """Containers, running or not, that use --gpus; None where dockerd does not run and nobody knows.

    Raises Unread where dockerd runs and does not tell.
    """
    containers = context.state.docker.containers.get()
    if containers is None:
        return None
    return tuple(found for found in containers if found.uses_gpus_flag())


def hidden_users(context: Context) -> tuple[Evidence, ...]:
    """Who else uses --gpus: what cron, systemd, CI and people start, and no `docker ps` shows."""
    found = tuple(Evidence(path, text) for path, text in context.state.gpus_flag.found)
    known = {each.source for each in found}
    return found + tuple(
        each for each in compose_users(context) if each.source.rpartition(":")[0] not in known
    )


def compose_users(context: Context) -> Iterator[Evidence]:
    """The services of compose projects that ask as --gpus does, and have no container now."""
    for project in context.state.compose.projects:
        for name, service in project.project.services.items():
            asked = [
                each for each in requests(service) if each.way in ("reservation", "gpus") and not each.cdi
            ]
            if name not in project.containers and asked and asked[0].driver in ("", "nvidia"):
                yield Evidence(asked[0].place, f"service {name}: {asked[0].shown}")


def switch_refused(context: Context, target: str) -> tuple[str, tuple[Evidence, ...]]:
    """Why the mode is not switched to `target` on this host (promise 7: never break a path that works), with evidence."""
    wanted = context.wanted
    if unmanaged(context):
        return unmanaged(context), ()
    if context.state.host.tegra:
        return (
            "this is a Tegra system: its containers are served in mode csv, which `auto` finds by itself",
            (),
        )
    if is_1180(context) and target in BROKEN_IN_1180:
        return (
            f"mode {target!r} keeps toolkit 1.18.0 from generating specs (nct#1376); never on that version",
            (),
        )
    if (names := swarm_resources(context)) and injects_by_cdi(context, target):
        version = context.state.toolkit.version.get() or (1, 17)
        if version < SWARM_BY_CDI and not injects_by_cdi(context, context.state.toolkit.mode()):
            return (
                f"swarm-resource is served by the hook alone before toolkit 1.19 (nct#1599): through CDI every container "
                f"would ignore {', '.join(names)}",
                (config_evidence(context, "swarm-resource", ",".join(names)),),
            )
    if target != "cdi":
        return "", ()
    if hook_refuses(context) and not wanted.allow_breaking_gpus_flag:
        users = gpus_flag_users(context)
        if users is None:
            return (
                "dockerd does not run: whether containers use --gpus, which mode `cdi` refuses, is not known",
                (),
            )
        hidden = hidden_users(context)
        if users or hidden:
            who = ", ".join(sorted(found.label() for found in users) + [found.source for found in hidden])
            evidence = tuple(Evidence("docker inspect", f"{found.label()}: --gpus") for found in users)
            return (
                f"containers on this host use --gpus, which the hook refuses in mode `cdi` under Docker before 29.2: {who}",
                (*evidence, *hidden),
            )
        if unread := context.state.gpus_flag.unread:
            return (
                f"whether something started from {unread.source} uses --gpus, which mode `cdi` refuses, is not known: "
                f"{unread.detail or unread.status}",
                (),
            )
    if not resolvable_after_mend(context):
        return (
            "in mode `cdi` every container of the nvidia runtime needs a spec; this host has none and cannot make one",
            (),
        )
    return "", ()


@rule(
    "GM204",
    "nvidia-container-runtime.mode is the wanted one",
    "nct internal/info/auto.go, cmd/nvidia-container-runtime-hook assertModeIsLegacy; nct#1376 (1.18.0); moby PR#50228 (29.2.0)",
    applies=readable,
)
def mode(context: Context) -> Iterator[Finding]:
    wanted = context.wanted
    current = context.state.toolkit.mode()
    if context.state.host.tegra and current in ("auto", "csv"):
        return  # what serves there; and nobody could follow the advice to have another
    if wanted.mode == "keep" or not is_known(context, current) or meets(context, current):  # not known: GM207
        return
    context.state.toolkit.version.get()
    if is_1180(context) and current in BROKEN_IN_1180 and wanted.mode != "auto":
        return  # GM206
    target = switches_to(context)
    refused, evidence = switch_refused(context, target)
    takes = target == "cdi" and hook_refuses(context)
    yield Finding(
        code="GM204",
        status=Status.WARN,
        summary=f"nvidia-container-runtime.mode is {current!r}, wanted is {wanted.mode!r}"
        + (": mode 'cdi' takes `docker run --gpus` away (Docker before 29.2)" if takes else ""),
        evidence=(config_evidence(context, "mode", current), *evidence),
        cause="auto means legacy injection up to toolkit 1.17, and CDI made at each start from 1.18 on."
        if current == "auto"
        else "",
        remedy=_remedy(target, refused, bool(evidence)),
        change=None if refused else change(context, "nvidia-container-runtime", "mode", value=target),
        refused=refused,
    )


def _remedy(target: str, refused: str, has_users: bool) -> str:
    if not refused:
        return f"Mend sets mode = {target!r}. It is read at every container start: nothing is restarted."
    if has_users:
        return (
            "Recreate those containers with `runtime: nvidia` or `devices: [nvidia.com/gpu=...]`, set "
            '`allow_breaking_gpus_flag`, or want `runtime.mode = "auto"`.'
        )
    return "Put that right first, or want another `runtime.mode`."


@rule(
    "GM205",
    "--gpus works in the present mode",
    "nct assertModeIsLegacy; dstack#2306, nct#1246, jetson-containers#1703, TensorRT-LLM#799",
    applies=readable,
)
def gpus_flag(context: Context) -> Iterator[Finding]:
    current = context.state.toolkit.mode()
    csv = context.state.host.tegra and current == "auto"  # nct internal/info/auto.go; jetson-containers#1577
    works = current in ("auto", "legacy") and not csv
    if works or not is_known(context, current) or not hook_refuses(context):
        return
    users, hidden = gpus_flag_users(context) or (), hidden_users(context)
    if not users and not hidden and "gpus" not in (context.wanted.docker_paths or ()):
        return
    names = ", ".join(sorted(found.label() for found in users) + [found.source for found in hidden])
    accepted = context.wanted.allow_breaking_gpus_flag
    # A script or a compose file that lies somewhere harms nobody until somebody runs it.
    due = users or "gpus" in (context.wanted.docker_paths or ())
    due = due or any(starts_by_itself(found.source) for found in hidden)
    yield Finding(
        code="GM205",
        status=Status.WAIVED if accepted else Status.FAIL if due else Status.NOTE,
        summary=f"`--gpus` is refused in mode {current!r}"
        + (", which is csv on Tegra" if csv else "")
        + (f": {names}" if names else ""),
        evidence=(
            config_evidence(context, "mode", current),
            *(Evidence("docker inspect", f"{found.label()}: --gpus") for found in users),
            *hidden,
        ),
        cause="Docker before 29.2 serves --gpus through nvidia-container-runtime-hook, which works in legacy mode only.",
        remedy="Recreate them with `--runtime nvidia` and NVIDIA_VISIBLE_DEVICES, which csv serves."
        if csv
        else "Recreate them with `runtime: nvidia` and NVIDIA_VISIBLE_DEVICES, or with `devices: [nvidia.com/gpu=...]`; "
        'or want `runtime.mode = "auto"`, which from toolkit 1.18 on is CDI too; or upgrade Docker to 29.2.',
        refused="accepted: allow_breaking_gpus_flag is set"
        if accepted
        else "a container is not recreated by mend"
        if csv
        else "which of the three is a decision of the host's owner",
        symptoms=("invoking the NVIDIA Container Runtime Hook directly",),
    )


@rule(
    "GM206",
    "the mode is none that breaks toolkit 1.18.0",
    "nct#1376; pkg/nvcdi/mode.go at v1.18.0",
    applies=readable,
)
def broken_1180(context: Context) -> Iterator[Finding]:
    context.state.toolkit.version.get()
    current = context.state.toolkit.mode()
    if not is_1180(context) or current not in BROKEN_IN_1180 or context.wanted.mode == "auto":
        return  # with auto wanted it is GM204's
    refused = "runtime.mode is `keep`" if context.wanted.mode == "keep" else unmanaged(context)
    yield Finding(
        code="GM206",
        status=Status.FAIL,
        summary=f"mode = {current!r} on toolkit 1.18.0: no CDI spec can be generated",
        evidence=(config_evidence(context, "mode", current), Evidence("nvidia-ctk --version", "1.18.0")),
        cause="Toolkit 1.18.0 alone takes the runtime's mode for the generator's: invalid discovery mode.",
        remedy='Mend sets mode = "auto", which on 1.18 injects CDI too. Upgrade to 1.18.1 or newer for other modes.',
        change=None if refused else change(context, "nvidia-container-runtime", "mode", value="auto"),
        refused=refused,
        symptoms=("invalid discovery mode: cdi",),
    )


@rule(
    "GM207", "the mode is one that the runtime knows", "nct internal/config: invalid mode", applies=readable
)
def known_mode(context: Context) -> Iterator[Finding]:
    current, wanted = context.state.toolkit.mode(), context.wanted
    if is_known(context, current):
        return
    # auto is right for every toolkit; the wanted mode is, unless a switch to it would be refused.
    fits = wanted.mode != "keep" and context.state.toolkit.version.known
    target = switches_to(context) if fits else "auto"
    good = target if not switch_refused(context, target)[0] else "auto"
    refused = "runtime.mode is `keep`" if wanted.mode == "keep" else unmanaged(context)
    yield Finding(
        code="GM207",
        status=Status.FAIL,
        summary=f"mode = {current!r} is none that the runtime knows",
        evidence=(config_evidence(context, "mode", current),),
        cause="`nvidia-ctk config --set` writes any text; the runtime then refuses every container.",
        remedy=f"Mend sets mode = {good!r}."
        if not refused
        else "Known are auto, legacy, csv, cdi, and jit-cdi from 1.18 on.",
        change=None if refused else change(context, "nvidia-container-runtime", "mode", value=good),
        refused=refused,
        symptoms=(f'invalid mode "{current}"',),
    )
