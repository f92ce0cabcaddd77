"""What a rule over a Dockerfile is, and what it is given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gpumend.rules.dockerfile.codes import CODES
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.image import Image, Mount
from gpumend.rules.dockerfile.stages import Stage
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.evidence import place
from gpumend.rules.finding import Evidence, Finding


@dataclass(frozen=True)
class Service:
    """How a container of the image is started, where that is not the image's own word (compose, docker run). None: as it is."""

    command: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    workdir: str | None = None
    env: Mapping[str, str | None] | None = None
    mounts: tuple[Mount, ...] = ()
    said: str = ""


@dataclass(frozen=True)
class Build:
    """One Dockerfile with its context. name: as reports call it; prefix: how the context's files are called there. stages: up
    to the one that is built, which is the last. hosts: that the image is for."""

    name: str
    prefix: str
    stages: tuple[Stage, ...]
    files: Files
    service: Service = Service()
    hosts: tuple[Target, ...] = ()

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    @property
    def image(self) -> Image:
        return Image(self.final, self.files, self.service.mounts)

    def used(self) -> tuple[Stage, ...]:
        """The stages that the built one needs, itself last."""
        needed = {self.final.number}
        for stage in reversed(self.stages):
            if stage.number in needed:
                needed.update(link.number for link in stage.chain)
                needed.update(step.stage.number for step in stage.copies() if step.stage is not None)
        return tuple(stage for stage in self.stages if stage.number in needed)

    def at(self, line: int, text: str) -> Evidence:
        return Evidence(place(self.name, line), text)

    def file(self, name: str, line: int | None = None) -> str:
        return place(f"{self.prefix}{name}", line)


Check = Callable[[Build], Iterator[Finding]]
CHECKS: dict[str, Check] = {}


def dockerfile_rule(code: str) -> Callable[[Check], Check]:
    """Register a check of Dockerfiles under a code of gpumend/rules/dockerfile/codes.py. Raises ValueError for one that is not there."""

    def registered(check: Check) -> Check:
        if code not in {row[0] for row in CODES} or code in CHECKS:
            raise ValueError(f"{code} has no row in codes.py, or two checks")
        CHECKS[code] = check
        return check

    return registered
