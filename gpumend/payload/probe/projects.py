"""Which compose projects of a host ask for a GPU, and what is kept of them."""

import os
from typing import Iterable, List, Set, Tuple

from gpumend.payload.probe.files import Json

MAX_COMPOSE_FILES = 40
LABEL = "com.docker.compose.project."
FILES_LABEL = LABEL + "config_files"
Project = Tuple[Tuple[str, ...], str, Tuple[str, ...]]  # a project's files, its directory, its .env files


def keep_project(kept: Json, given: Tuple[str, ...], found: Json) -> None:
    """What was found of one project is among what is known of all: a file that one has given is no other's that it follows."""
    if "status" in found:
        found = {path: dict(found) for path in given}
    for path, item in found.items():
        before = kept.get(path, {})
        if "variables" in before and "variables" in item:
            before["variables"].update(item["variables"])
        elif not before or ("followed" in before and "followed" not in item):
            kept[path] = item


def wants_gpu(found: Json) -> bool:
    """Whether a container may ask for a GPU."""
    asks = found["device_requests"] or any("nvidia" in (path or "") for path in found["devices"])
    return bool(
        asks or (found["runtime"] or "").startswith("nvidia") or "NVIDIA_VISIBLE_DEVICES" in found["env"]
    )


def compose_projects(containers: Iterable[Json], named: Iterable[str] = ()) -> List[Project]:
    """The projects of containers that may ask for a GPU, as Compose itself wrote them down, then files that are named, each as a
    project of its own."""
    found: List[Project] = []
    count = 0
    used: Set[str] = set()
    for each in containers:
        labels = each["labels"]
        listed = (labels.get(FILES_LABEL) or "").split(",")
        given = tuple(path for path in listed if path.startswith("/"))
        directory = labels.get(LABEL + "working_dir") or (os.path.dirname(given[0]) if given else "")
        env = tuple(path for path in (labels.get(LABEL + "environment_file") or "").split(",") if path)
        project = (given, directory, env)
        if not given or not wants_gpu(each) or project in found or count + len(given) > MAX_COMPOSE_FILES:
            continue
        count += len(given)
        used.update(given)
        found.append(project)
    for path in [path for path in named if path.startswith("/") and path not in used][:MAX_COMPOSE_FILES]:
        found.append(((path,), os.path.dirname(path), ()))
    return found
