"""GM951 to GM960: images. On a host those that the services of its compose projects with a GPU build, as far as their Dockerfiles
left it: what they take of CUDA. What lies in a build's context did not, so what needs it is judged in a working copy alone."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.compose.builds import Built, HiddenError, built
from gpumend.rules.compose.compose_rule import asking
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.codes import CODES
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Check, Context, rule
from gpumend.state.compose import HostProject

IN_A_CONTEXT = (UNREADABLE, "GM952", "GM953")
NO_FILES = Files(whole=False)


def has_images(context: Context) -> bool:
    return any(found.project.dockerfiles or found.project.unread for found in context.state.compose.projects)


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


def _check(code: str) -> Check:
    def on_host(context: Context) -> Iterator[Finding]:
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
                yield from (
                    each
                    for each in audit(
                        text,
                        NO_FILES,
                        image.path,
                        target=image.target,
                        arguments=image.arguments,
                        hosts=(target_of(context),),
                        codes=(code,),
                    )
                    if each.code == code
                )

    return on_host


for _code, _title, _source in CODES:
    rule(_code, _title, _source, applies=has_images)(_check(_code))
