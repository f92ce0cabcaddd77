"""A finding: what is wrong on one host, how that is known, and the change that would put it right."""

from __future__ import annotations

from collections.abc import Sequence

from gpumend.rules.change import Action, SetValues
from gpumend.text.backports import StrEnum
from gpumend.text.edits import Edit
from gpumend.text.record import Record


class Status(StrEnum):
    """How a rule came out on a host. `note`: worth knowing, harms nobody today, carries no change and never changes the exit
    status. `skipped`: it does not apply. `waived`: found, and accepted by a waiver."""

    OK = "ok"
    NOTE = "note"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"
    SKIPPED = "skipped"
    WAIVED = "waived"


class Risk(StrEnum):
    """What putting it right costs the host's users, in rising order."""

    NONE = "none"
    RELOAD = "reload"
    RESTART = "restart"
    REBOOT = "reboot"


class Component(StrEnum):
    """What is changed in one transaction, in the order the transactions run. Named as its operation."""

    RECOVER = "runs.recovered"
    APT = "toolkit.apt_sources"
    REPOSITORIES = "repositories.trusted"
    DRIVER_PACKAGES = "driver.installed"
    ENGINE = "engine.installed"
    PACKAGES = "packages.toolkit_installed"
    DRIVER = "driver.ready"
    CUDA_TOOLKIT = "cuda.toolkit"
    CUDA = "cuda.compat"
    CDI = "cdi.spec_current"
    TOOLKIT = "toolkit.runtime_config"
    GRIT = "grit.config"
    CONTAINERD = "containerd.config"
    CRIO = "crio.config"
    PODMAN = "podman.spec_directories"
    DOCKER = "docker.daemon_config"
    DOCKER_STORAGE = "storage.docker_root"
    STORAGE = "storage.dind"
    ALLOCATIONS = "allocations.reconciled"
    COMPOSE = "compose.requests"


class Evidence(Record):
    """source: a file (with its line, where known) or a command; text: what stands there."""

    source: str
    text: str


class Change(Record):
    """What would put a finding right. The plan merges the changes of one component into one transaction.

    service: (unit, `reload` or `restart`), what must be told about it.
    """

    component: Component
    action: Action
    service: tuple[str, str] | None = None

    @property
    def edits(self) -> tuple[Edit, ...]:
        """The values that it sets in files."""
        return self.action.edits if isinstance(self.action, SetValues) else ()


class Finding(Record):
    """One rule's verdict on one host.

    summary: what is wrong, in one line. cause: why. remedy: what to do, for a person. change: what mend does; None
    where only a person can act or where policy holds it back, and `refused` then says why.
    """

    code: str
    status: Status
    summary: str
    evidence: tuple[Evidence, ...] = ()
    cause: str = ""
    remedy: str = ""
    risk: Risk = Risk.NONE
    change: Change | None = None
    refused: str = ""
    symptoms: Sequence[str] = ()
