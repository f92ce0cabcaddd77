"""The compose projects of a host's containers: their files as far as they leave the host (gpumend/payload/probe/compose.py), and the
container of each service."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from errno import ENOENT
from os import strerror
from typing import Any

from gpumend.state.compose_files import Project, project
from gpumend.state.compose_request import requests
from gpumend.state.docker import Container, containers_of, whole
from gpumend.state.request import Request
from gpumend.state.snapshot import Snapshot
from gpumend.text.record import Record
from gpumend.text.version import Version, told_version

LABEL = "com.docker.compose."
KEY = "compose"  # of the desired state
REQUEST = Request()  # the files are found through the labels of containers, and through the desired state


def request(raw: Any) -> dict[str, Any]:
    """What the probe is asked for the files that a desired state names (`compose.paths`)."""
    paths = raw.get("paths") if isinstance(raw, Mapping) else None
    return {"compose": [str(path) for path in paths]} if paths else {}


class HostProject(Record):
    """name, directory: as Compose wrote them down. given: its files. containers: by service, those that want a GPU. sha256: of the
    real bytes of each file that was read, the included and the extended too. others: who besides root could have chosen what lies
    at a path; empty for nobody.
    compose: the version that made the containers; None where not known. asks: the ways in which the files have each service ask.
    named: whether it is here for its file alone, which the desired state names."""

    name: str
    directory: str
    given: tuple[str, ...]
    project: Project
    containers: Mapping[str, tuple[Container, ...]]
    sha256: Mapping[str, str]
    others: Mapping[str, str]
    compose: Version | None
    asks: Mapping[str, tuple[str, ...]]
    named: bool = False

    @property
    def readable(self) -> bool:
        """Whether all that its containers were made of is known."""
        return not self.project.problems and set(self.containers) <= set(self.project.services)

    def up(self, services: tuple[str, ...]) -> tuple[str, ...]:
        """The command that makes the containers of these services anew."""
        files = tuple(word for path in self.given for word in ("-f", path))
        files += tuple(word for path in self.project.env_files for word in ("--env-file", path))
        return (
            "docker",
            "compose",
            "--project-directory",
            self.directory,
            "-p",
            self.name,
            *files,
            "up",
            "-d",
            *services,
        )


class Compose(Record):
    """projects: those with containers that want a GPU, and those of files that the desired state names; by name."""

    projects: tuple[HostProject, ...] = ()


def parse(snapshot: Snapshot) -> Compose:
    containers = whole(snapshot.docker, "containers").map(containers_of).value or ()
    found: dict[tuple[str, str, str], list[Container]] = {}
    for each in containers:
        files = each.labels.get(f"{LABEL}project.config_files", "")
        if each.project and files and (each.wants_gpu() or _asks(each)):
            key = (each.project, each.labels.get(f"{LABEL}project.working_dir", ""), files)
            found.setdefault(key, []).append(each)
    used = {path for _, _, files in found for path in files.split(",")}
    for path in snapshot.compose_paths():
        if path not in used:
            directory = path.rpartition("/")[0]
            found[directory.rpartition("/")[2], directory, path] = []
    return Compose(tuple(_project(snapshot, *key, users) for key, users in sorted(found.items())))


def _asks(found: Container) -> bool:
    return bool(found.requests) or any("nvidia" in path for path in found.devices)


def _text(path: str, item: Mapping[str, Any]) -> str:
    """A file as far as it left its host. Of .env the variables that are asked for: what is set to something that stayed there is made
    of itself, which is no value. Raises OSError."""
    if item.get("status") == "absent":
        raise FileNotFoundError(ENOENT, strerror(ENOENT))
    if isinstance(variables := item.get("variables"), Mapping):
        return "".join(
            f"{name}='{value}'\n" if isinstance(value, str) else f"{name}=${{{name}}}\n"
            for name, value in variables.items()
        )
    if "text" not in item:
        raise OSError(0, str(item.get("error") or "not read"))
    return str(item["text"])


def _project(
    snapshot: Snapshot,
    name: str,
    directory: str,
    files: str,
    users: list[Container],
) -> HostProject:
    given = tuple(path for path in files.split(",") if path)
    env_files = next(
        (text.split(",") for each in users if (text := each.labels.get(f"{LABEL}project.environment_file"))),
        [],
    )
    read: dict[str, Mapping[str, Any]] = {}

    def opener(path: str) -> bytes:
        if not path.startswith("/"):
            raise OSError(0, "not read on a host: it is relative to where Compose was called")
        item = snapshot.compose(path)
        if item.get("status") != "absent":
            read[path] = item
        return _text(path, item).encode("utf-8")

    services: dict[str, list[Container]] = {}
    for each in users:
        services.setdefault(each.labels.get(f"{LABEL}service", ""), []).append(each)
    versions = [text for each in users if (text := each.labels.get(f"{LABEL}version"))]
    images = {path: snapshot.compose(path) for path in snapshot.dockerfiles()}
    base = directory or given[0].rpartition("/")[0]
    named = [posixpath.join(base, path) for path in env_files if path]
    made = project(given, opener, directory=base, env_files=named)._replace(
        dockerfiles={path: str(item["dockerfile"]) for path, item in images.items() if "dockerfile" in item},
        unread={path: str(item["error"]) for path, item in images.items() if "error" in item},
    )
    return HostProject(
        name,
        directory,
        given,
        made,
        {service: tuple(found) for service, found in services.items()},
        {path: str(item["sha256"]) for path, item in read.items() if "sha256" in item},
        {path: str(item.get("others", "")) for path, item in read.items()},
        told_version(versions[0]) if versions else None,
        {service: tuple(sorted(_asked(made, service))) for service in services},
        named=not users,
    )


def ways(found: Container) -> frozenset[str]:
    """The ways in which a container was made to ask: reservation, devices (CDI), runtime."""
    said = set()
    if found.uses_gpus_flag():
        said.add("reservation")
    if any(name.startswith("nvidia.com/") for _, ids, _ in found.requests for name in ids):
        said.add("devices")
    if found.runtime.startswith("nvidia"):
        said.add("runtime")
    return frozenset(said)


def _asked(made: Project, service: str) -> frozenset[str]:
    ways_of = {
        "reservation": "reservation",
        "gpus": "reservation",
        "devices": "devices",
        "runtime": "runtime",
    }
    found = made.services.get(service)
    said = [each for each in requests(found) if each.way in ways_of] if found else []
    return frozenset("devices" if each.cdi else ways_of[each.way] for each in said)
