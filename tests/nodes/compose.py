"""The real Compose against a socket that is no Docker: what a compose file really asks for, call by call.

`docker compose config` that accepts a file proves nothing about what is granted: Compose 2.26.1 takes `gpus: all`, asks for no GPU
and exits 0.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.nodes.base import base

SUITES = ("trixie+compose", "sid+compose")  # Compose 2.26.1 and 2.40.3
PLUGIN = "usr/libexec/docker/cli-plugins/docker-compose"
ID = "c" * 64


@dataclass(frozen=True)
class Asked:
    """What one container was to have, as Compose asked the Engine API."""

    requests: tuple[tuple[str, int, tuple[str, ...]], ...]  # driver, count, ids
    devices: tuple[str, ...]
    runtime: str
    visible: str

    def grant(self) -> frozenset[str]:
        """The GPUs by name, as Docker 29.1 gives them where all requests are met (moby daemon/devices_linux.go, cdi.go)."""
        found: set[str] = set()
        for driver, count, ids in self.requests:
            if driver not in ("", "nvidia", "cdi"):
                continue
            names = [name.removeprefix("nvidia.com/gpu=") for name in ids]
            found |= set(names or (["all"] if count < 0 else map(str, range(count))))
        if self.runtime == "nvidia" and self.visible not in ("", "void", "none"):
            found |= set(self.visible.split(","))
        return frozenset({"all"} if "all" in found else found)


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    created: dict[str, dict[str, Any]]
    network: dict[str, Any] | None


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def address_string(self) -> str:
        return "compose"

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: Any, code: int = 200) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        headers = {"Content-Type": "application/json", "Api-Version": "1.52", "Ostype": "linux"}
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def body(self) -> Any:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or ""):
            return json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"null")
        data = b""
        while size := int(self.rfile.readline().strip(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return json.loads(data or b"null")

    def do_HEAD(self) -> None:
        self.answer("OK")

    def do_DELETE(self) -> None:
        self.answer({})

    def do_GET(self) -> None:
        path = re.sub(r"^/v[\d.]+", "", self.path)
        network = self.server.network
        info = {
            "ID": "x",
            "ServerVersion": "29.1.3",
            "OSType": "linux",
            "Architecture": "x86_64",
            "Plugins": {},
        }
        container = {
            "Id": ID,
            "Name": "/a",
            "Config": {"Labels": {}},
            "State": {"Status": "created"},
            "HostConfig": {},
        }
        answers: tuple[tuple[str, Any], ...] = (
            ("/_ping", "OK"),
            ("/version", {"Version": "29.1.3", "ApiVersion": "1.52", "MinAPIVersion": "1.44", "Os": "linux"}),
            ("/info", {**info, "Swarm": {"LocalNodeState": "inactive"}, "RegistryConfig": {}}),
            ("/containers/json", []),
            ("/images/json", []),
            ("/images/", {"Id": "sha256:" + "a" * 64, "Config": {}, "Os": "linux", "RepoTags": ["x:latest"]}),
            ("/networks/", network),
            ("/networks", [network] if network else []),
            ("/volumes", {"Volumes": []}),
            ("/containers/", {**container, "NetworkSettings": {"Networks": {}}}),
        )
        found = next((body for start, body in answers if path.startswith(start) and body is not None), None)
        self.answer(
            found if found is not None else {"message": "not here"}, 200 if found is not None else 404
        )

    def do_POST(self) -> None:
        path, body = re.sub(r"^/v[\d.]+", "", self.path), self.body()
        if path.startswith("/containers/create"):
            self.server.created[body["Labels"]["com.docker.compose.service"]] = body
            self.answer({"Id": ID, "Warnings": []}, 201)
        elif path.startswith("/networks/create"):
            self.server.network = {
                "Name": body["Name"],
                "Id": "n" * 64,
                "Driver": "bridge",
                "Labels": body.get("Labels"),
            }
            self.answer({"Id": "n" * 64}, 201)
        else:
            self.answer({})


@contextmanager
def recording(path: str) -> Iterator[_Server]:
    server = _Server(path, _Handler)
    server.created, server.network = {}, None
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


@dataclass(frozen=True)
class Ran:
    rc: int
    err: str
    asked: Mapping[str, Asked]


def run(suite: str, files: Mapping[str, bytes], given: tuple[str, ...] = ("compose.yml",)) -> Ran:
    """`docker compose -f ... create` of these files by this suite's Compose, with what it asked for by service."""
    tree = base(suite)
    with tempfile.TemporaryDirectory(prefix="gpumend-compose-") as scratch:
        for name, data in files.items():
            target = Path(scratch) / "p" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
        socket = f"{scratch}/s"
        with recording(socket) as server:
            done = subprocess.run(
                [
                    str(tree / "usr/lib64/ld-linux-x86-64.so.2"),
                    "--library-path",
                    str(tree / "usr/lib/x86_64-linux-gnu"),
                    str(tree / PLUGIN),
                    "--profile=*",
                    *(word for name in given for word in ("-f", name)),
                    "create",
                    "--pull=never",
                    "--no-build",
                ],
                cwd=f"{scratch}/p",
                env={"PATH": "/usr/bin:/bin", "HOME": scratch, "DOCKER_HOST": f"unix://{socket}"},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            return Ran(
                done.returncode, done.stderr, {name: _asked(body) for name, body in server.created.items()}
            )


def _asked(body: Mapping[str, Any]) -> Asked:
    host = body["HostConfig"]
    environment = dict(item.partition("=")[::2] for item in body.get("Env") or ())
    return Asked(
        tuple(
            (found["Driver"], found.get("Count") or 0, tuple(found.get("DeviceIDs") or ()))
            for found in host.get("DeviceRequests") or ()
        ),
        tuple(f"{found['PathOnHost']}:{found['PathInContainer']}" for found in host.get("Devices") or ()),
        host.get("Runtime") or "",
        environment.get("NVIDIA_VISIBLE_DEVICES", ""),
    )
