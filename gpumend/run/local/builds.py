"""The images that a compose project of this machine builds, judged with what its services make of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpumend.rules.compose.compose_rule import asking
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.builds import Built, HiddenError, built
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.evidence import place
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.run.local import working_copy
from gpumend.run.local.working_copy import WorkingCopyError
from gpumend.state.compose_files import Project

Read = Callable[[str], bytes]


def of_project(project: Project, read: Read, hosts: Sequence[Target] = ()) -> Iterator[Finding]:
    """What is wrong with the images that services with a GPU build. read: opens a file of the working copy; raises OSError."""
    for service, _ in asking(project):
        build = service.value.get("build")
        try:
            if (found := built(service)) is not None:
                yield from _judged(found, read, hosts)
        except (HiddenError, OSError, WorkingCopyError) as error:
            assert build is not None
            yield Finding(
                code=UNREADABLE,
                status=Status.UNKNOWN,
                summary=f"the image of {service.name}: not known, {error}",
                evidence=(Evidence(place(build.source.path, build.line), "build"),),
                remedy="Make it readable, or give the variable a value in .env.",
            )


def _judged(found: Built, read: Read, hosts: Sequence[Target]) -> tuple[Finding, ...]:
    text = found.inline or read(found.path).decode("utf-8", "replace")
    return audit(
        text,
        working_copy.context(Path(found.directory), Path(found.path)),
        found.path,
        "" if found.directory == "." else f"{found.directory}/",
        found.started,
        found.target,
        found.arguments,
        hosts,
    )
