"""The part of the program on a host that talks to its Docker: stdlib only, Python 3.6 or newer."""

import json
from typing import Any, Dict, Optional

from gpumend.payload.probe.files import Json
from gpumend.payload.probe.http import BadAnswer, UnixConnection

SOCKET = "/run/docker.sock"


class Absent(ValueError):
    """Docker knows nothing of that name."""


def docker_call(url: str, method: str = "GET", timeout: float = 10) -> Any:
    """Docker's answer as JSON (None for an empty one). Raises OSError or ValueError, Absent where it is a 404."""
    connection = UnixConnection(SOCKET, timeout)
    try:
        status, body = connection.ask(url, method)
    except BadAnswer as error:  # an answer that broke off
        raise OSError("%s %s: %s" % (method, url, error))
    finally:
        connection.close()
    if status >= 400:
        said = "%s %s: HTTP %d %s" % (method, url, status, body[:200].decode("utf-8", "replace"))
        raise Absent(said) if status == 404 else ValueError(said)
    return json.loads(body.decode("utf-8")) if body else None


def docker_info() -> Optional[Json]:
    """`docker info`, or None while dockerd does not answer."""
    try:
        info: Optional[Json] = docker_call("/info")
        return info
    except (OSError, ValueError):
        return None


def running_containers() -> Dict[str, str]:
    """Ids and names of running containers. Raises OSError or ValueError where dockerd does not answer."""
    return {entry["Id"]: entry["Names"][0].lstrip("/") for entry in docker_call("/containers/json")}
