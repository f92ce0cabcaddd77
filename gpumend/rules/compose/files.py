"""GM901 to GM904: whether compose files can be read, and whether Compose makes of them what they say."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.compose.compose_rule import asking, compose_rule, evidence
from gpumend.rules.compose.where import COMPOSE_CDI, COMPOSE_GPUS_ALL, Where
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.state.compose_files import Problem, Project
from gpumend.state.compose_request import VISIBLE, Request, visible
from gpumend.text.pattern import Pattern
from gpumend.text.version import show
from gpumend.text.yaml_nodes import Value


def _place(problem: Problem) -> str:
    return f"{problem.path}:{problem.line}" if problem.line else problem.path


@compose_rule(
    "GM901",
    "a compose file is one that Compose reads",
    "docs.docker.com compose-file; go-yaml v3: tabs, keys that stand twice; compose-go loader",
)
def readable(project: Project, where: Where) -> Iterator[Finding]:
    for problem in project.problems:
        if problem.wrong:
            yield Finding(
                code="GM901",
                status=Status.FAIL,
                summary=f"{_place(problem)}: {problem.text}",
                evidence=(Evidence(_place(problem), problem.text),),
                cause="Compose refuses the whole project for it.",
                remedy="Put that right in the file; `docker compose config -q` says whether Compose takes it.",
                refused="what was meant is not ours to guess",
            )


@compose_rule(
    "GM902",
    "what a service asks for is known",
    "docs.docker.com compose-file/12-interpolation, 14-include; compose-go template",
)
def known(project: Project, where: Where) -> Iterator[Finding]:
    for problem in project.problems:
        if not problem.wrong:
            yield Finding(
                code="GM902",
                status=Status.UNKNOWN,
                summary=f"{_place(problem)}: {problem.text}",
                evidence=(Evidence(_place(problem), problem.text),),
                remedy="What it brings was not judged.",
            )
    for service, found in asking(project):
        for request in found:
            why = ""
            if request.unknown:
                why = f"{', '.join(f'${{{name}}}' for name in request.unknown)} has no value here"
            elif request.way == "runtime":
                why = visible(service, VISIBLE).unknown
            if why:
                yield Finding(
                    code="GM902",
                    status=Status.UNKNOWN,
                    summary=f"{service.name}: which GPUs it asks for is not known: {why}",
                    evidence=(evidence(request),),
                    remedy="Set the variable in .env or in the file, or give it a default: `${NAME:-0}`."
                    if request.unknown
                    else f"Say {VISIBLE} under `environment:`, where everybody sees it.",
                )


@compose_rule(
    "GM903",
    "a request for a GPU is one that Compose takes",
    "docs.docker.com compose-file/deploy (devices); compose-go schema: capabilities, count, device_ids",
)
def taken(project: Project, where: Where) -> Iterator[Finding]:
    for service in project.services.values():
        for way in MISPLACED:
            lost = service.value.get(*way)
            if lost is None or not GPU.search(_words(lost)):
                continue
            yield Finding(
                code="GM903",
                status=Status.FAIL,
                summary=f"{service.name}: a request for a GPU does not stand under {'.'.join(way)}",
                evidence=(Evidence(f"{lost.source.path}:{lost.line}", ".".join(way)),),
                cause="Compose refuses the whole project for a key that it does not know there.",
                remedy="`deploy:`, `resources:`, `reservations:`, `devices:`, each below the one before.",
                refused="what was meant is not ours to guess",
                symptoms=(f"additional properties '{way[-1]}' not allowed",),
            )
    for service, found in asking(project):
        for request in found:
            for fault in request.faults:
                yield Finding(
                    code="GM903",
                    status=Status.FAIL,
                    summary=f"{service.name}: {fault}",
                    evidence=(evidence(request),),
                    cause="Compose refuses the whole project for it.",
                    remedy='`capabilities: [gpu]`, and either `count: 1` (or `all`) or `device_ids: ["0"]`.',
                    refused="which GPUs were meant is not ours to guess",
                    symptoms=(
                        "missing property 'capabilities'",
                        '"count" and "device_ids" attributes are exclusive',
                        "device_ids.0 must be a string",
                    ),
                )


# Places where people put `devices`, and where Compose's schema has none.
MISPLACED = (
    ("resources",),
    ("reservations",),
    ("deploy", "reservations"),
    ("deploy", "devices"),
    ("deploy", "resources", "devices"),
    ("deploy", "resources", "limits", "devices"),
)
GPU = Pattern(r"\b(?:nvidia|gpu)\b")


def _words(value: Value) -> str:
    if value.kind == "scalar":
        return value.text
    return " ".join(map(_words, value.items or tuple(value.entries.values())))


def _lost(request: Request, where: Where) -> tuple[Status, str, str] | None:
    """(how bad, what becomes of the request, what to do) where Compose does not hand it on as it is meant."""
    if request.broken:
        return (
            Status.FAIL,
            f"Compose takes {request.ids[0]!r} for a path and its place in the container: no GPU is given",
            f"The long form: `source: nvidia.com/gpu={request.ids[0]}` and the same as `target:`.",
        )
    everything = request.way == "gpus" and request.value.kind == "scalar"
    if request.way not in ("gpus", "devices"):
        return None
    since = COMPOSE_GPUS_ALL if everything else COMPOSE_CDI
    what = (
        "`gpus: all`" if everything else "`gpus:`" if request.way == "gpus" else "a CDI name under `devices:`"
    )
    becomes = (
        "is taken for a path"
        if request.way == "devices"
        else "is refused, or gives no GPU with exit status 0"
    )
    remedy = f"Compose {show(since)} or newer; or a reservation under `deploy.resources`."
    if where.compose is None:
        status = Status.UNKNOWN if where.host else Status.NOTE
        return (
            status,
            f"{what} needs Compose {show(since)}: before, it {becomes}",
            f"{remedy} `--compose` says which it is.",
        )
    if where.compose < since:
        return Status.FAIL, f"Compose {show(where.compose)} does not know {what}: it {becomes}", remedy
    return None


@compose_rule(
    "GM904",
    "Compose hands a request on as it is meant",
    "docker/compose PR #12184; Compose 2.26.1 and 2.40.3 against a recording socket",
)
def handed_on(project: Project, where: Where) -> Iterator[Finding]:
    for service, found in asking(project):
        for request in found:
            if request.faults or (lost := _lost(request, where)) is None:
                continue
            status, text, remedy = lost
            yield Finding(
                code="GM904",
                status=status,
                summary=f"{service.name}: {text}",
                evidence=(evidence(request),),
                remedy=remedy,
            )
