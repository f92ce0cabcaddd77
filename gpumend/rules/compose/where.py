"""What is known of the host that a compose file is judged for; nothing, where it is judged alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpumend.rules import told
from gpumend.rules.dockerfile.target import Target, target_of
from gpumend.rules.engines.docker_config import CDI_BY_DEFAULT, CDI_SINCE, GPUS_BY_CDI
from gpumend.text.record import Record
from gpumend.text.version import Version, show, told_version

# Compose: docker/compose PR #12184 (long `gpus:`, CDI names in `devices:`); `gpus: all` from 2.33.0 on.
COMPOSE_CDI: Version = (2, 30)
COMPOSE_GPUS_ALL: Version = (2, 33)


class Where(Record):
    """host: its name; empty without one. docker, compose, toolkit: versions; None where not known. mode, wanted: of
    nvidia-container-runtime, now and as it is to be; empty where not known. cdi: whether dockerd loads CDI specs; names: the GPUs
    that its specs define, without the kind; runtime: whether it knows the runtime nvidia; hook: whether Docker's --gpus is served
    by the hook, with `skips` where that takes any mode. Each None where not known. target: the host as images see it."""

    host: str = ""
    docker: Version | None = None
    compose: Version | None = None
    toolkit: Version | None = None
    mode: str = ""
    wanted: str = ""
    cdi: bool | None = None
    names: frozenset[str] | None = None
    runtime: bool | None = None
    skips: bool = False
    target: Target | None = None

    @property
    def loads_cdi(self) -> bool | None:
        """Whether `--device nvidia.com/gpu=` works as far as Docker's version and switches go."""
        if self.docker is None or self.docker < CDI_SINCE:
            return None if self.docker is None else False
        return self.cdi if self.cdi is not None else True if self.docker >= CDI_BY_DEFAULT else None

    @property
    def by_hook(self) -> bool | None:
        """Whether a request of driver nvidia goes through the hook, and nowhere else."""
        return None if self.docker is None else self.docker < GPUS_BY_CDI

    def refuses(self, mode: str) -> bool:
        """Whether the hook refuses in this mode (nct assertModeIsLegacy)."""
        return mode not in ("", "auto", "legacy") and not self.skips

    @property
    def docker_text(self) -> str:
        return f"Docker {show(self.docker)}" if self.docker else "Docker of an unknown version"

    @property
    def on(self) -> str:
        return f" on {self.host}" if self.host else ""


NOWHERE = Where()


def from_report(document: Any, source: str = "it") -> tuple[Where, ...]:
    """The hosts of a report that gave an answer. Raises ValueError for anything else than a report of hosts."""
    return tuple(
        (_of_facts(host) if host.whole else _of_audit(host))._replace(target=target_of(host))
        for host in told.hosts(document, source)
        if not host.error
    )


def _of_audit(host: told.Told) -> Where:
    return Where(
        host=host.name,
        docker=told_version(host.at("docker")),
        toolkit=told_version(host.at("toolkit")),
        mode=str(host.at("mode") or ""),
    )


def _of_facts(host: told.Told) -> Where:
    version, info, config = (
        told_version(host.at("docker", "version")),
        host.at("docker", "info"),
        host.at("toolkit", "config"),
    )
    known = isinstance(info, Mapping) and "unread" not in info
    found = host.at("docker", "info", "DiscoveredDevices")
    ids = [told.mapping(each).get("ID") for each in found] if isinstance(found, list) else []
    names = {str(each).partition("=")[2] for each in ids if each}
    mode = host.at("toolkit", "config", "nvidia-container-runtime", "mode")
    there = isinstance(config, Mapping) and "unread" not in config
    switch = host.at("docker", "config", "features", "cdi")
    cdi = (
        bool(host.at("docker", "info", "CDISpecDirs"))
        if known and version and version >= CDI_SINCE
        else switch
    )
    skips = host.at("toolkit", "config", "nvidia-container-runtime-hook", "skip-mode-detection")
    return Where(
        host=host.name,
        docker=version,
        toolkit=told_version(host.at("toolkit", "version")),
        mode=str(mode or "auto") if there else "",
        cdi=cdi if isinstance(cdi, bool) else None,
        names=frozenset(names) or None,
        runtime="nvidia" in told.mapping(host.at("docker", "info", "Runtimes")) if known else None,
        skips=skips is True,
    )
