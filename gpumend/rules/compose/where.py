"""What is known of the host that a compose file is judged for; nothing, where it is judged alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumend.rules.engines.docker_config import CDI_BY_DEFAULT, CDI_SINCE, GPUS_BY_CDI
from gpumend.text.version import Version, show, told_version

# Compose: docker/compose PR #12184 (long `gpus:`, CDI names in `devices:`); `gpus: all` from 2.33.0 on.
COMPOSE_CDI: Version = (2, 30)
COMPOSE_GPUS_ALL: Version = (2, 33)


@dataclass(frozen=True)
class Where:
    """host: its name; empty without one. docker, compose, toolkit: versions; None where not known. mode, wanted: of
    nvidia-container-runtime, now and as it is to be; empty where not known. cdi: whether dockerd loads CDI specs; names: the GPUs
    that its specs define, without the kind; runtime: whether it knows the runtime nvidia; hook: whether Docker's --gpus is served
    by the hook, with `skips` where that takes any mode. Each None where not known."""

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


def from_report(document: Any) -> tuple[Where, ...]:
    """The hosts of a report that gave an answer: of an audit or a mend what it has of each at a glance, of facts much more.
    Raises ValueError for anything else."""
    if not isinstance(document, Mapping) or not isinstance(document.get("hosts"), Mapping):
        raise ValueError("no report of gpumend's")
    kind, hosts = document.get("kind"), document["hosts"]
    if kind not in ("audit", "mend", "facts"):
        raise ValueError(
            f"a report of {kind!r} does not say what hosts have; one of audit, mend or facts does"
        )
    reader = _of_facts if kind == "facts" else _of_audit
    return tuple(
        reader(name, found)
        for name, found in hosts.items()
        if isinstance(found, Mapping) and not found.get("error")
    )


def _of_audit(name: str, host: Mapping[str, Any]) -> Where:
    facts = host.get("facts") or {}
    return Where(
        host=name,
        docker=told_version(facts.get("docker")),
        toolkit=told_version(facts.get("toolkit")),
        mode=str(facts.get("mode") or ""),
    )


def _at(found: Any, *path: str) -> Any:
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _of_facts(name: str, host: Mapping[str, Any]) -> Where:
    docker, config = _at(host, "docker"), _at(host, "toolkit", "config")
    info = _at(docker, "info")
    version = told_version(_at(docker, "version"))
    known = isinstance(info, Mapping) and "unread" not in info
    found = _at(info, "DiscoveredDevices")
    names = (
        {str(_at(each, "ID")).partition("=")[2] for each in found if _at(each, "ID")}
        if isinstance(found, list)
        else set()
    )
    mode = _at(config, "nvidia-container-runtime", "mode")
    there = isinstance(config, Mapping) and "unread" not in config
    switch = _at(docker, "config", "features", "cdi")
    cdi = bool(_at(info, "CDISpecDirs")) if known and version and version >= CDI_SINCE else switch
    return Where(
        host=name,
        docker=version,
        toolkit=told_version(_at(host, "toolkit", "version")),
        mode=str(mode or "auto") if there else "",
        cdi=cdi if isinstance(cdi, bool) else None,
        names=frozenset(names) or None,
        runtime="nvidia" in (_at(info, "Runtimes") or {}) if known else None,
        skips=_at(config, "nvidia-container-runtime-hook", "skip-mode-detection") is True,
    )
