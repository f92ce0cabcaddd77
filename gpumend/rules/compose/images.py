"""GM951 to GM960: images. On a host those that the services of its compose projects with a GPU build."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.dockerfile.codes import CODES
from gpumend.rules.finding import Finding
from gpumend.rules.rule import Check, Context, rule


def has_images(context: Context) -> bool:
    return any(found.project.dockerfiles or found.project.unread for found in context.state.compose.projects)


def _check(code: str) -> Check:
    def on_host(context: Context) -> Iterator[Finding]:
        from gpumend.rules.dockerfile import on_host as images  # only here: most hosts build no image

        yield from images.findings(context, code)

    return on_host


for _code, _title, _source in CODES:
    rule(_code, _title, _source, applies=has_images)(_check(_code))
