"""GM905 to GM910: whether what a compose service asks for works on this host, and gives the GPUs that it means."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.compose.compose_rule import asking, compose_rule, evidence
from gpumend.rules.compose.where import Where
from gpumend.rules.engines.docker_config import CDI_SINCE, GPUS_BY_CDI
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.state.compose_files import Project, Service
from gpumend.state.compose_request import (
    CUDA_VISIBLE,
    NOTHING,
    VISIBLE,
    Grant,
    Request,
    grant,
    requested,
    requests,
    visible,
)
from gpumend.text.version import show

HOOK_REFUSES = "invoking the NVIDIA Container Runtime Hook directly is not supported"
OTHER_WAYS = "`runtime: nvidia` with NVIDIA_VISIBLE_DEVICES, or `devices: [nvidia.com/gpu=...]`"
FIX = "`gpumend compose fix` rewrites it"


def _fault(request: Request, where: Where) -> tuple[Status, str, str, str] | None:
    """(how bad, what happens, error text, what to do) where this host does not serve a request."""
    docker = where.docker_text
    if request.way == "runtime":
        if where.runtime is False:
            return (
                Status.FAIL,
                f"{docker} does not know the runtime nvidia",
                "unknown or invalid runtime name: nvidia",
                "GM403",
            )
        return _undefined(request, where) if where.mode == "cdi" else None
    if (
        request.driver in ("nvidia.cdi", "nvidia.runtime-hook")
        and where.docker
        and where.docker < GPUS_BY_CDI
    ):
        since = show(GPUS_BY_CDI)
        text = f"{docker} does not know driver {request.driver}, which came with {since}"
        return Status.FAIL, text, "could not select device driver", f"`driver: nvidia`, or Docker {since}."
    if request.cdi or request.driver == "nvidia.cdi":
        loads = where.loads_cdi
        if loads is None:
            text = "whether dockerd loads CDI specs is not known"
            return Status.UNKNOWN, text, "", "An audit of the host says it: GM404."
        if not loads:
            old = where.docker is not None and where.docker < CDI_SINCE
            text = f"{docker} knows no CDI devices" if old else f"CDI is off in {docker}"
            return Status.FAIL, text, 'could not select device driver "cdi" with capabilities: []', "GM404"
        return _undefined(request, where)
    if where.by_hook is None:
        return (
            Status.UNKNOWN,
            "which way it takes depends on Docker's version, which is not known",
            "",
            "`--docker` says it.",
        )
    if where.by_hook and where.refuses(where.mode):
        text = f"{docker} serves it by the hook, which refuses in mode {where.mode!r}"
        return Status.FAIL, text, HOOK_REFUSES, f"{OTHER_WAYS}: {FIX}. Or mode `auto`."
    if where.by_hook and not where.mode:
        return (
            Status.UNKNOWN,
            "it is served by the hook, and the mode of nvidia-container-runtime is not known",
            "",
            "",
        )
    if not where.by_hook and where.refuses(where.mode):
        return _undefined(request, where)  # CDI, and no way back to the hook
    return None


def _undefined(request: Request, where: Where) -> tuple[Status, str, str, str] | None:
    missing = sorted(set(request.ids) - (where.names or frozenset(request.ids)))
    if where.names is None or not missing:
        return None
    text = f"no CDI spec{where.on} defines {', '.join(missing)}; defined are {', '.join(sorted(where.names))}"
    return (
        Status.FAIL,
        text,
        "unresolvable CDI devices",
        "`nvidia-ctk cdi list` names what there is; GM301, GM304.",
    )


@compose_rule(
    "GM905",
    "the host serves a service's request for a GPU",
    "moby PR#50228 (29.2.0), daemon/devices.go; nct assertModeIsLegacy; report of `libnvidia-ml.so.1` in CDI mode",
)
def served(project: Project, where: Where) -> Iterator[Finding]:
    if not where.host:
        return
    for service, found in asking(project):
        for request in found:
            if request.faults or request.unknown or request.broken:
                continue
            if (fault := _fault(request, where)) is None:
                continue
            status, text, symptom, remedy = fault
            yield Finding(
                code="GM905",
                status=status,
                summary=f"{service.name}: {text}",
                evidence=(evidence(request),),
                remedy=f"`gpumend explain {remedy}`." if re.fullmatch(r"GM\d{3}", remedy) else remedy,
                symptoms=(symptom,) if symptom else (),
            )


@compose_rule(
    "GM906",
    "a service keeps its GPU in the wanted mode",
    "nct assertModeIsLegacy; report of `libnvidia-ml.so.1` in CDI mode, fix 3; dstack#2306",
)
def kept(project: Project, where: Where) -> Iterator[Finding]:
    if not where.refuses(where.wanted) or where.refuses(where.mode) or where.by_hook is False:
        return
    for service, found in asking(project):
        for request in found:
            if request.cdi or request.way == "runtime" or request.faults or request.driver == "nvidia.cdi":
                continue
            yield Finding(
                code="GM906",
                status=Status.WARN,
                summary=f"{service.name}: mode {where.wanted!r} would take its GPU away: the hook refuses there"
                + ("" if where.docker else " under Docker before 29.2"),
                evidence=(evidence(request),),
                remedy=f"{OTHER_WAYS}: {FIX} before the mode is switched.",
                symptoms=(HOOK_REFUSES,),
            )


def _indices(text: str) -> list[int] | None:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [int(part) for part in parts] if parts and all(part.isdecimal() for part in parts) else None


def _cuda(service: Service, given: Grant) -> Iterator[Finding]:
    seen = visible(service, CUDA_VISIBLE)
    indices = _indices(seen.text) if seen.text is not None else None
    if indices is None or given.unknown or "all" in given.devices or not given.devices:
        return
    beyond = [index for index in indices if index >= len(given.devices)]
    if beyond:
        yield Finding(
            code="GM907",
            status=Status.WARN,
            summary=f"{service.name}: {CUDA_VISIBLE}={seen.text}, and it is given {len(given.devices)} GPU"
            f"{'s' if len(given.devices) > 1 else ''} ({given.shown}): CUDA counts them from 0 on",
            evidence=(Evidence(seen.at, f"{CUDA_VISIBLE}: {seen.text}"),),
            cause="Inside the container the GPUs are numbered anew. CUDA ends its list at the first number that is none.",
            remedy=f"Take {CUDA_VISIBLE} out: the request says which GPUs there are.",
            symptoms=("no CUDA-capable device is detected",),
        )


@compose_rule(
    "GM907",
    "the environment names the GPUs that the service asks for",
    "nct cmd/nvidia-container-runtime-hook; CUDA C++ Programming Guide, CUDA_VISIBLE_DEVICES; report of `libnvidia-ml.so.1`, fix 3",
)
def agrees(project: Project, where: Where) -> Iterator[Finding]:
    for service, found in asking(project):
        given = grant(service)
        yield from _cuda(service, given)
        seen = visible(service, VISIBLE)
        beside = requested(service)
        given = beside if beside is not None else given
        alone = beside is None and any(request.way == "runtime" for request in found)
        if seen.text is None or given.unknown or alone:
            continue
        named = frozenset(part.strip() for part in seen.text.split(",") if part.strip())
        if named != given.devices and seen.text not in NOTHING:
            yield Finding(
                code="GM907",
                status=Status.NOTE,
                summary=f"{service.name} asks for {given.shown}, and says {VISIBLE}={_shown(seen.text)}",
                evidence=(Evidence(seen.at, f"{VISIBLE}: {_shown(seen.text)}"), *map(evidence, found)),
                cause="Docker before 29.2 gives those of the request, for it sets the variable; later ones give both."
                if beside is not None
                else "Docker sets the variable by the request. With `runtime: nvidia` in its place the variable would count, "
                "and other GPUs would be given.",
                remedy=f"Let {VISIBLE} say the same as the request; `gpumend compose fix` does.",
            )


def _shown(text: str) -> str:
    return text if re.fullmatch(r"[\w:,./=-]{1,60}", text, re.ASCII) else "..."


@compose_rule(
    "GM908",
    "a service makes one request for GPUs",
    "docs.docker.com compose-file/13-merge (sequences append); moby daemon/nvidia_linux.go, daemon/devices_nvidia_linux.go",
)
def one_request(project: Project, where: Where) -> Iterator[Finding]:
    for service, found in asking(project):
        several = [request for request in found if request.way in ("reservation", "gpus") and not request.cdi]
        if len(several) < 2 or where.by_hook is False:
            continue
        last = several[-1]
        yield Finding(
            code="GM908",
            status=Status.WARN,
            summary=f"{service.name} has {len(several)} requests: Docker before 29.2 gives what the last one says"
            f" ({', '.join(last.ids) or 'all'}), later ones all of them",
            evidence=tuple(map(evidence, several)),
            cause="Lists of several files are put one behind the other. The hook is told by one variable, which the last sets; "
            "CDI gives the union.",
            remedy="One request with all device_ids; in an override file `devices: !override` takes the place of the list.",
            refused="which of them is meant is not ours to guess",
        )


@compose_rule(
    "GM909",
    "a request asks for one GPU at least",
    "moby daemon/nvidia_linux.go at v27.2, v27.3, v29.2: a request of count 0",
)
def counted(project: Project, where: Where) -> Iterator[Finding]:
    for service, found in asking(project):
        for request in found:
            if request.count != 0 or request.ids:
                continue
            becomes = "up to Docker 27.2 the image decides, from 27.3 on no GPU is given"
            if where.docker:
                becomes = (
                    "the image's environment decides" if where.docker < (27, 3) else "no GPU is given"
                ) + f" by {where.docker_text}"
            yield Finding(
                code="GM909",
                status=Status.WARN,
                summary=f"{service.name} asks for 0 GPUs: {becomes}",
                evidence=(evidence(request),),
                remedy="`count: 1`, `count: all`, or no request at all.",
                refused="how many were meant is not ours to guess",
            )


@compose_rule(
    "GM910",
    "a service of the nvidia runtime says which GPUs it sees",
    "nct cmd/nvidia-container-runtime-hook: NVIDIA_VISIBLE_DEVICES of the image; NVIDIA's CUDA images set all",
)
def says_which(project: Project, where: Where) -> Iterator[Finding]:
    for service in project.services.values():
        found = [request for request in requests(service) if request.way != "node"]
        seen = visible(service, VISIBLE)
        alone = [request.way for request in found] == ["runtime"] and not found[0].unknown
        if alone and seen.text is None and not seen.unknown:
            yield Finding(
                code="GM910",
                status=Status.NOTE,
                summary=f"{service.name} runs under runtime nvidia and does not say {VISIBLE}: the image decides, and most say all",
                evidence=(evidence(found[0]),),
                remedy=f'`{VISIBLE}: "0"` (or all) under `environment:`.',
            )
        elif not found and seen.text is not None and seen.text not in NOTHING and seen.value is not None:
            yield Finding(
                code="GM910",
                status=Status.NOTE,
                summary=f"{service.name} says {VISIBLE}={_shown(seen.text)} and asks for no GPU: it counts only where nvidia is the "
                "default runtime",
                evidence=(Evidence(seen.at, f"{VISIBLE}: {_shown(seen.text)}"),),
                remedy="`runtime: nvidia`, where a GPU is meant.",
            )
