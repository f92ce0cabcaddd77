"""All that is wrong with one Dockerfile: the one place where its rules run."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from gpumend.rules.dockerfile import cuda, libraries, modules
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.rules import CHECKS, Build, Service, dockerfile_rule
from gpumend.rules.dockerfile.stages import stages
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.evidence import place
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.text.dockerfile import DockerfileError, TooLargeError, parse

__all__ = ["audit", "cuda", "libraries", "modules"]


UNREADABLE = "GM951"  # with which nothing else of a file is judged


@dockerfile_rule("GM951")
def readable(_: Build) -> Iterator[Finding]:
    return iter(())  # what cannot be read never gets as far as a Build: _unreadable


def _unreadable(name: str, line: int, text: str) -> Finding:
    return Finding(
        code="GM951",
        status=Status.FAIL,
        summary=f"no image can be built: {text}",
        evidence=(Evidence(place(name, line), text),),
        remedy="Correct that line; nothing else of this file was judged.",
        symptoms=("failed to solve: dockerfile parse error", "failed to read dockerfile"),
    )


def audit(
    text: str,
    files: Files,
    name: str = "Dockerfile",
    prefix: str = "",
    service: Service = Service(),  # noqa: B008 - frozen
    target: str = "",
    arguments: Mapping[str, str] | None = None,
    hosts: Sequence[Target] = (),
    codes: Collection[str] = CHECKS,
) -> tuple[Finding, ...]:
    """What is wrong with a Dockerfile's text. files: its context. target: the stage that is built; empty: the last. arguments: what
    `--build-arg` gives. service: how a container of it is started, where not as the image says. codes: of the checks that are made."""
    try:
        parsed = parse(text)
    except TooLargeError as error:
        return (
            Finding(
                code="GM951",
                status=Status.UNKNOWN,
                summary=f"nothing of this file was judged: {error}",
                evidence=(Evidence(place(name, error.line), str(error)),),
                remedy="Look at it by hand.",
            ),
        )
    except DockerfileError as error:
        return (_unreadable(name, error.line, str(error)),)
    found = stages(parsed, files, arguments or {})
    if target:
        numbers = [stage.number for stage in found if target.lower() in (stage.name, str(stage.number))]
        if not numbers:
            return (_unreadable(name, 1, f"target stage {target!r} could not be found"),)
        found = found[: numbers[-1] + 1]
    build = Build(name, prefix, found, files, service, tuple(hosts))
    return tuple(
        finding for code, check in sorted(CHECKS.items()) if code in codes for finding in check(build)
    )
