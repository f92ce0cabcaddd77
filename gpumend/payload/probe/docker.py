"""What Docker says of itself, its containers and its images, over its unix socket."""

import _socket
import errno
import json
import os
import re
import struct
import threading
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from gpumend.payload.probe.execution import roots_own
from gpumend.payload.probe.files import MAX_FILE_BYTES, Json, digest_of, failure, matches, opened_in
from gpumend.payload.probe.http import MAX_ANSWERS, BadAnswer, Budget, UnixConnection
from gpumend.payload.probe.processes import allowed_env

DOCKER_CONNECTIONS = 4  # dockerd inspects side by side
MAX_ANSWERS_INSIDE = 8 << 20  # of a dockerd in a container, which may be anything
HISTORIES = 50  # images whose layers are asked for
# Keys of `GET /info` that may leave the host: HttpProxy/HttpsProxy (passwords) and RegistryConfig must not.
DOCKER_INFO_KEYS = (
    "ServerVersion", "OperatingSystem", "Driver", "DriverStatus", "CgroupDriver", "CgroupVersion", "Runtimes",
    "DefaultRuntime", "SecurityOptions", "LiveRestoreEnabled", "CDISpecDirs", "DiscoveredDevices",
    "DockerRootDir", "ContainersRunning", "Containers", "Images", "KernelVersion", "Warnings", "Swarm",
)  # fmt: skip
COMPOSE_LABELS = (
    "com.docker.compose.project",
    "com.docker.compose.service",
    "com.docker.compose.project.working_dir",
    "com.docker.compose.project.config_files",
    "com.docker.compose.project.environment_file",
    "com.docker.compose.version",
)
# Those that say where root looks. Compose writes them on containers; an image that has one says it for each container made of it.
LEADS = tuple(
    "com.docker.compose.project." + name for name in ("working_dir", "config_files", "environment_file")
)


def number(text: str) -> int:
    """An integer of JSON. Python takes time that grows with the square of its digits."""
    if len(text) > 32:
        raise ValueError("an integer of %d digits" % len(text))
    return int(text)


class Gone(ValueError):
    """dockerd knows no such thing (any more): HTTP 404."""


def docker_get(connection: UnixConnection, url: str) -> Any:
    """One answer of the Engine API as JSON; raises OSError or ValueError with what went wrong, Gone for HTTP 404."""
    status, body = connection.ask(url)
    if status != 200:
        kind = Gone if status == 404 else ValueError
        raise kind("GET %s: HTTP %d %s" % (url, status, body[:200].decode("utf-8", "replace").strip()))
    try:
        return json.loads(body.decode("utf-8"), parse_int=number)
    except RecursionError:
        raise ValueError("GET %s: JSON of too many levels" % url)


def container(raw: Json) -> Json:
    """What of a container's inspection matters for GPUs and may leave the host."""
    config, host = raw.get("Config") or {}, raw.get("HostConfig") or {}
    labels = config.get("Labels") or {}
    return {
        "id": raw.get("Id", "")[:12],
        "name": raw.get("Name", "").lstrip("/"),
        "image": config.get("Image"),
        "pid": (raw.get("State") or {}).get("Pid"),
        "running": bool((raw.get("State") or {}).get("Running")),
        "started": (raw.get("State") or {}).get("StartedAt"),
        "runtime": host.get("Runtime"),
        "device_requests": [
            {key: request.get(key) for key in ("Driver", "Count", "DeviceIDs", "Capabilities")}
            for request in host.get("DeviceRequests") or ()
        ],
        "devices": [device.get("PathOnHost") for device in host.get("Devices") or ()],
        "privileged": bool(host.get("Privileged")),
        "restart": (host.get("RestartPolicy") or {}).get("Name"),
        "restarts": raw.get("RestartCount") or 0,
        "exit": (raw.get("State") or {}).get("ExitCode") or 0,
        "restarting": bool((raw.get("State") or {}).get("Restarting")),
        "error": ((raw.get("State") or {}).get("Error") or "")[:2000],
        "env": allowed_env(config.get("Env")),
        "mounts": [
            {"source": mount.get("Source"), "target": mount.get("Destination"), "type": mount.get("Type")}
            for mount in raw.get("Mounts") or ()
        ],
        "labels": {key: labels[key] for key in COMPOSE_LABELS if key in labels},
    }


def image(entry: Json, config: Json) -> Json:
    """An image's names and those of its environment values that may leave the host."""
    names = entry.get("RepoTags") or entry.get("RepoDigests") or []
    return {
        "id": entry["Id"].partition(":")[2][:12],
        "names": [name for name in names if not name.startswith("<none>")],
        "env": allowed_env(settings(config).get("Env")),
    }


def stored_configs(root: str, driver: str, idents: Sequence[str]) -> List[Optional[Json]]:
    """Of each image its configuration as Docker stores it (moby image/fs.go), which spares dockerd 500 inspections of half a
    millisecond: {} where it names nothing of NVIDIA's, CUDA's or Compose's, None where it is not there, as in the containerd store, and
    where others than root could have put it there, as with user namespaces (`userns-remap`)."""
    directory = "%s/image/%s/imagedb/content/sha256" % (root, driver)
    handle = roots_own(directory)
    if handle is None:
        return [None] * len(idents)
    try:
        return [stored_config(handle, directory, ident) for ident in idents]
    finally:
        os.close(handle)


def stored_config(handle: int, directory: str, ident: str) -> Optional[Json]:
    """As `stored_configs`, of one image in the store on whose directory that is a handle."""
    digest = ident.partition(":")[2]
    data = opened_in(handle, "%s/%s" % (directory, digest), MAX_FILE_BYTES)[1]
    if data is None or ident != "sha256:" + digest_of(data):
        return None
    known = (b"NVIDIA_", b"CUDA_VERSION", b"com.docker.compose.project.")
    try:
        return json.loads(data.decode("utf-8")) if any(word in data for word in known) else {}
    except ValueError:
        return None


def ask_all(
    path: str,
    urls: List[str],
    deadline: float,
    refused: Optional[List[str]] = None,
    budget: Optional[Budget] = None,
) -> List[Any]:
    """Answers to many questions, in their order, over a few connections; None where dockerd knows no such thing any more,
    or gives an error of its own for it, which `refused` (a list) then has. Raises what one of the connections raised;
    socket.timeout where the time was over before the last answer."""
    found: List[Any] = [None] * len(urls)
    failed: List[Exception] = []
    todo = list(enumerate(urls))

    def work() -> None:
        connection = UnixConnection(path, max(0.1, deadline - time.monotonic()), deadline, budget)
        try:
            while not failed:
                try:
                    number, url = todo.pop()
                except IndexError:
                    return
                if time.monotonic() > deadline:
                    raise _socket.timeout("%d of %d answers in time" % (len(urls) - len(todo) - 1, len(urls)))
                try:
                    found[number] = docker_get(connection, url)
                except Gone:
                    pass  # it was removed between the list and the look
                except ValueError as error:
                    if refused is not None:
                        refused.append(str(error))
        except Exception as error:  # of a thread: told by the one that waits for it
            failed.append(error)
        finally:
            connection.close()

    # One connection needs no thread: a reader's would take of its memory.
    wide = budget is None or budget.wide
    threads = [
        threading.Thread(target=work, daemon=True)
        for _ in range(min(DOCKER_CONNECTIONS, len(urls)) if wide else 0)
    ]
    for thread in threads:
        thread.start()
    if not wide:
        work()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return found


def images_of(
    path: str, info: Json, listed: List[Json], deadline: float, own: bool, refused: List[str], budget: Budget
) -> Tuple[List[Json], List[Json], Dict[str, Json]]:
    """The images whose environment is NVIDIA's or names a CUDA version; the size of every image, with the sizes of
    its layers from the lowest up for the HISTORIES largest: they are for a prediction only; and by id an image's labels. own: it is the host's Docker,
    whose store can be read. refused: what dockerd could not tell of one, as text."""
    root, driver = info.get("DockerRootDir", ""), info.get("Driver", "")
    idents = [entry["Id"] for entry in listed]
    configs = stored_configs(root, driver, idents) if own and root else [None] * len(idents)
    asked = [number for number, config in enumerate(configs) if config is None]
    urls = ["/images/%s/json" % listed[number]["Id"] for number in asked]
    answers = ask_all(path, urls, deadline, refused, budget)
    for number, config in zip(asked, answers):
        configs[number] = config
    there = [(entry, config) for entry, config in zip(listed, configs) if config is not None]
    found = [image(entry, config) for entry, config in there]
    large = sorted((entry for entry, _ in there), key=lambda entry: -(entry.get("Size") or 0))[:HISTORIES]
    steps = ask_all(path, ["/images/%s/history" % entry["Id"] for entry in large], deadline, None, budget)
    layers = {
        entry["Id"]: [step.get("Size") or 0 for step in reversed(history) if step.get("Size")]
        for entry, history in zip(large, steps)
        if history is not None
    }
    sizes = [
        dict(id=item["id"], names=item["names"], size=entry.get("Size") or 0, layers=layers.get(entry["Id"]))
        for item, (entry, _) in zip(found, there)
    ]
    ours = [i for i in found if "CUDA_VERSION" in i["env"] or any(n.startswith("NVIDIA_") for n in i["env"])]
    labels = {entry["Id"]: settings(config).get("Labels") or {} for entry, config in there}
    return ours, sizes, labels


def settings(config: Json) -> Json:
    """What an image gives each container made of it."""
    return config.get("config") or config.get("Config") or {}


def without_leads(found: Json, labels: Json) -> None:
    """A container has no label that says where root looks from its image alone: who makes images is nobody's root."""
    for name in LEADS:
        if name in labels and found["labels"].get(name) == labels[name]:
            del found["labels"][name]


def log_of(connection: UnixConnection, ident: str, keep: str) -> List[str]:
    """Of a container's last log lines those that a pattern finds, the newest last. The rest stays on the host."""
    try:
        status, body = connection.ask("/containers/%s/logs?stdout=1&stderr=1&tail=200" % ident)
    except BadAnswer as error:
        raise ValueError("GET logs: %s" % error)
    # Removed; or a log driver that cannot be read back (docs.docker.com, dual logging).
    if status in (404, 409, 501):
        return []
    if status != 200:
        raise ValueError("GET logs of %s: HTTP %d" % (ident[:12], status))
    text, at = b"", 0
    # Without a terminal each chunk has a header of 8 bytes (Engine API, ContainerAttach, stream format).
    while body[at : at + 1] in (b"\1", b"\2") and body[at + 1 : at + 4] == b"\0\0\0":
        (size,) = struct.unpack_from(">I", body, at + 4)
        text += body[at + 8 : at + 8 + size]
        at += 8 + size
    return [line[-500:] for line in matches(keep, (text + body[at:]).decode("utf-8", "replace"))][-20:]


def docker_info_of(info: Json) -> Json:
    """What of Docker's account of itself matters, without the list of each runtime's features: 3 KB a runtime."""
    found = {key: info[key] for key in DOCKER_INFO_KEYS if key in info}
    if info.get("Runtimes"):
        found["Runtimes"] = {
            name: {key: runtime[key] for key in runtime if key != "status"}
            for name, runtime in info["Runtimes"].items()
        }
    return found


def docker_version_of(version: Json) -> Json:
    """What of Docker's versions matters: its own, and those of the parts that it works with."""
    found: Json = {key: version.get(key) for key in ("Version", "ApiVersion", "MinAPIVersion")}
    parts = {str(part.get("Name")): part.get("Version") for part in version.get("Components") or ()}
    found["Components"] = {
        name: parts[name] for name in ("containerd", "runc") if re.match(r"v?\d", str(parts.get(name)))
    }
    return found


def docker(path: str, running: bool, timeout: float, keep: str = "", own: bool = False) -> Json:
    """Docker's own account of itself and of all its containers, over its socket.

    Stopped ones count: they break at their next start, and a restart policy may start them any time.

    keep: what of the log of privileged containers may leave the host; an empty text reads no log. own: it is the host's.
    `unread` of the answer: containers and images that dockerd lists and cannot tell of (HTTP 500).
    `running` (is a dockerd alive?) guards the connect: docker.socket would otherwise start a stopped daemon.
    """
    if not running:
        return {"status": "absent", "error": "no dockerd runs"}
    deadline = time.monotonic() + timeout
    budget = Budget(MAX_ANSWERS if own else MAX_ANSWERS_INSIDE, own)
    connection = UnixConnection(path, timeout, deadline, budget)
    try:
        info = docker_get(connection, "/info")
        version = docker_get(connection, "/version")
        containers: List[Json] = []
        made_of: List[Optional[str]] = []
        lost: List[str] = []
        unseen: List[str] = []
        listed = [entry["Id"] for entry in docker_get(connection, "/containers/json?all=1")]
        for raw in ask_all(path, ["/containers/%s/json" % ident for ident in listed], deadline, lost, budget):
            if raw is None:
                continue
            found = container(raw)
            containers.append(found)
            made_of.append(raw.get("Image"))
            if found["privileged"] and keep:
                try:
                    found["log"] = log_of(connection, raw["Id"], keep)
                except ValueError as error:
                    lost.append(str(error))
        entries = docker_get(connection, "/images/json")
        images, sizes, labels = images_of(path, info, entries, deadline, own, unseen, budget)
        for found, ident in zip(containers, made_of):
            without_leads(found, labels.get(ident or "", {}))
        return {
            "status": "ok",
            "images": images,
            "sizes": sizes,
            "info": docker_info_of(info),
            "version": docker_version_of(version),
            "containers": containers,
            "unread": {"containers": lost[:3], "images": unseen[:3]},
        }
    except _socket.timeout as error:
        said = str(error) if "answers" in str(error) else "no answer"
        return {"status": "timeout", "error": "dockerd gave %s within %g s" % (said, timeout)}
    except OSError as error:
        return failure(error) if error.errno != errno.ENOENT else {"status": "failed", "error": "no " + path}
    except ValueError as error:
        return {"status": "failed", "error": str(error)}
    except (AttributeError, LookupError, TypeError) as error:
        return {"status": "failed", "error": "its answer is no dockerd's: %s" % error}
    finally:
        connection.close()
