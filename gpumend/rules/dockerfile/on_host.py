"""What is wrong with the images that the services of a host's compose projects with a GPU build, as far as their Dockerfiles left it:
what they take of CUDA. What lies in a build's context did not, so what needs it is judged in a working copy alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from gpumend.rules.compose.compose_rule import asking
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.builds import Built, HiddenError, built
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.rules import CHECKS
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context
from gpumend.state.compose import HostProject

IN_A_CONTEXT = (UNREADABLE, "GM952", "GM953")
NO_FILES = Files(whole=False)


def target_of(context: Context) -> Target:
    """The host as an image sees it."""
    state = context.state
    toolkit = state.toolkit.version.value or ()
    return Target(context.host, state.driver.loaded, toolkit, state.gpus.details, state.host.wsl2)


def images(found: HostProject) -> Iterator[Built]:
    """What the services of a project build that have a container, or whose file the desired state names."""
    for service, _ in asking(found.project):
        if found.named or service.name in found.containers:
            try:
                image = built(service)
            except HiddenError:
                continue  # its container has its image
            if image is not None:
                yield image


@lru_cache(maxsize=64)  # each rule asks for the findings of its code
def judged(
    text: str, path: str, target: str, arguments: tuple[tuple[str, str], ...], host: Target
) -> tuple[Finding, ...]:
    """All that is wrong with one image on one host."""
    codes = CHECKS.keys() - IN_A_CONTEXT
    return audit(text, NO_FILES, path, target=target, arguments=dict(arguments), hosts=(host,), codes=codes)


def findings(context: Context, code: str) -> Iterator[Finding]:
    """Those of one code on a host."""
    for found in context.state.compose.projects:
        for image in images(found):
            text = found.project.dockerfiles.get(image.path)
            if code == UNREADABLE and image.path in found.project.unread:
                yield Finding(
                    code=code,
                    status=Status.UNKNOWN,
                    summary=f"{image.path}: {found.project.unread[image.path]}",
                    evidence=(Evidence(image.path, found.project.unread[image.path]),),
                    remedy="Nothing of the image was judged.",
                )
            if text is None or code in IN_A_CONTEXT:
                continue
            arguments = tuple(sorted(image.arguments.items()))
            every = judged(text, image.path, image.target, arguments, target_of(context))
            yield from (each for each in every if each.code == code)
