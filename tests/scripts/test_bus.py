"""systemd asked over its own socket: what was sent to and came from systemd 257.13 of a booted Debian 13 node, byte by byte
(tests/fixtures/systemd/private-257.json), and what is no answer of systemd's."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.probe import bus, systemd
from gpumend.payload.probe.bus import SERVICE, TOP, Bus, bus_text, unit_path, wanted_property

CAPTURE = json.loads(
    (Path(__file__).parents[1] / "fixtures" / "systemd" / "private-257.json").read_text(encoding="utf-8")
)
SENT, RECEIVED = (base64.b64decode(CAPTURE[key]) for key in ("sent", "received"))
UNIT = unit_path("docker.service")
PATTERNS = struct.pack("<II", 0, len(bus_text("docker.*"))) + bus_text("docker.*")
QUESTIONS = [
    wanted_property(TOP, "Manager", "Version"),
    wanted_property(UNIT, "Unit", "After"),
    wanted_property(UNIT, "Service", "ExecStart"),
    wanted_property(UNIT, "Service", "NoSuchProperty"),
    wanted_property(UNIT, "Service", "Delegate"),
    wanted_property(UNIT, "Service", "LimitNOFILESoft"),
    wanted_property(unit_path("no-such@1.service"), "Unit", "LoadState"),
    (TOP, SERVICE + ".Manager", "ListUnitsByPatterns", "asas", PATTERNS),
]
HELLO = RECEIVED.partition(b"\r\n")[0] + b"\r\n"


@contextlib.contextmanager
def saying(directory: Path, data: bytes, at_a_time: int = 1 << 20, expects: bytes = b"") -> Iterator[str]:
    """Where somebody listens who says that, so many bytes at a time, and hangs up once all that he expects has come."""
    path = directory / "private"
    heard = b""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            nonlocal heard
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.settimeout(5)
                for start in range(0, len(data), at_a_time):
                    peer.sendall(data[start : start + at_a_time])
                while len(heard) < len(expects):
                    heard += peer.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield str(path)
        thread.join(10)
    assert heard == expects


@pytest.mark.parametrize("at_a_time", [1 << 20, 7, 1])
def test_what_systemd_257_was_asked_and_said(tmp_path: Path, at_a_time: int) -> None:
    uid = str(os.geteuid()).encode().hex().encode()  # the capture is root's
    with saying(tmp_path, RECEIVED, at_a_time, SENT.replace(b"EXTERNAL 30", b"EXTERNAL " + uid)) as path:
        asked = Bus(10, path)
        found: list[Any] = asked.ask(QUESTIONS)
        asked.close()
    version, after, start, none, delegate, limit, load, units = found
    assert version == "257.13-1~deb13u1" and none is None and delegate is True and limit == 1024
    assert after[:3] == ["basic.target", "system.slice", "network-online.target"] and load == "not-found"
    command = "/usr/sbin/dockerd -H fd:// --containerd=/run/containerd/containerd.sock $DOCKER_OPTS"
    assert bus.printed(start) == f"{{ path=/usr/sbin/dockerd ; argv[]={command} ; ignore_errors=no }}"
    assert [(unit[0], unit[2:5]) for unit in units] == [
        ("docker.socket", ("loaded", "active", "running")),
        ("docker.service", ("loaded", "active", "running")),
    ]


def test_the_units_that_systemd_257_told_of(tmp_path: Path) -> None:
    """Of one that is not there nothing more is asked."""
    capture = json.loads(
        (Path(__file__).parents[1] / "fixtures" / "systemd" / "private-257-units.json").read_text("utf-8")
    )
    sent, received = (base64.b64decode(capture[key]) for key in ("sent", "received"))
    uid = str(os.geteuid()).encode().hex().encode()
    names = ["docker.service", "nvidia-persistenced.service", "docker.socket"]
    properties = ("LoadState", "ActiveState", "UnitFileState", "Result", "FragmentPath", "SubState", "After")
    with saying(tmp_path, received, 99, sent.replace(b"EXTERNAL 30", b"EXTERNAL " + uid)) as path:
        asked = Bus(10, path)
        told = systemd.units_told(asked, names, properties)
        asked.close()
    assert told["status"] == "ok" and list(told["units"]) == names
    assert told["units"]["nvidia-persistenced.service"] == {
        "Id": "nvidia-persistenced.service",
        "LoadState": "not-found",
        "ActiveState": "inactive",
    }
    docker = told["units"]["docker.service"]
    assert docker.pop("After").split()[:2] == ["basic.target", "containerd.service"]
    assert docker == {
        "Id": "docker.service",
        "LoadState": "loaded",
        "ActiveState": "active",
        "SubState": "running",
        "UnitFileState": "enabled",
        "Result": "success",
        "FragmentPath": "/usr/lib/systemd/system/docker.service",
    }


def test_units_that_systemd_does_not_list_are_asked_of_its_programs(tmp_path: Path) -> None:
    """As before systemd 230, which knows no such question."""
    error = b"l\3\1\1" + struct.pack("<III", 0, 1, 8) + b"\5\1u\0" + struct.pack("<I", 1)
    hello = b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\nBEGIN\r\n"
    question = bus.message(1, bus.units_wanted(["docker.service"]))
    with saying(tmp_path, HELLO + error, expects=hello + question) as path:
        asked = Bus(10, path)
        with pytest.raises(ValueError, match="does not list"):
            systemd.units_told(asked, ["docker.service"], ())
        asked.close()


def test_what_systemd_tells_everybody_is_passed_over(tmp_path: Path) -> None:
    """A signal (type 4) for each unit that comes or goes: its body is not taken apart, so that it may be anything."""
    signal = b"l\4\1\1" + struct.pack("<III", 5, 7, 8) + b"\xff" * 8 + b"\xff" * 5
    uid = str(os.geteuid()).encode().hex().encode()
    sent = SENT.replace(b"EXTERNAL 30", b"EXTERNAL " + uid)
    with saying(tmp_path, HELLO + signal + RECEIVED[len(HELLO) :] + signal, expects=sent) as path:
        asked = Bus(10, path)
        found = asked.ask(QUESTIONS)
        asked.close()
    assert found[0] == "257.13-1~deb13u1" and len(found) == len(QUESTIONS)


def broken(*changed: tuple[int, bytes]) -> bytes:
    data = bytearray(RECEIVED)
    for at, value in changed:
        data[len(HELLO) + at : len(HELLO) + at + len(value)] = value
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"REJECTED EXTERNAL\r\n",
        HELLO,
        RECEIVED[:-1],
        RECEIVED[: len(HELLO) + 9],
        broken((0, b"x")),
        broken((4, b"\xff\xff\xff\xff")),
        broken((12, b"\xff\xff\xff\x7f")),
        broken((12, b"\xff\xff\x00\x00")),
        broken((17, b"\xff")),
        HELLO + b"l\2\1\1" + struct.pack("<III", 8, 1, 0) + bytes(8),  # an answer to nothing, again and again
    ],
)
def test_what_is_none_of_systemds_is_an_error_and_comes_to_an_end(tmp_path: Path, data: bytes) -> None:
    began = time.monotonic()
    with saying(tmp_path, data) as path, pytest.raises((OSError, ValueError, struct.error)):
        asked = Bus(2, path)
        try:
            asked.ask(QUESTIONS)
        finally:
            asked.close()
    assert time.monotonic() - began < 5


def test_nobody_who_says_nothing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "private"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)
        with pytest.raises(socket.timeout):
            Bus(0.2, str(path))


@pytest.mark.parametrize(
    ("signature", "data"),
    [
        ("a" * 40 + "y", b"".join(struct.pack("<I", 4 * (98 - at)) for at in range(99))),
        ("v", b"\1v\0" * 100),
        ("(" * 40, bytes(400)),
        ("z", b"abc"),
        ("", b""),
        ("as", struct.pack("<I", 1 << 30)),
        ("a()", struct.pack("<II", 8, 0) + bytes(8)),
        ("s", struct.pack("<I", 50) + b"short\0"),
        ("(su", struct.pack("<I", 0) + b"\0" * 12),
    ],
)
def test_a_message_that_lies_of_itself_is_an_error(signature: str, data: bytes) -> None:
    with pytest.raises(ValueError):
        bus.Unmarshalled(data, "<").value(signature)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("docker.service", "docker_2eservice"),
        ("snap.microk8s.daemon-containerd.service", "snap_2emicrok8s_2edaemon_2dcontainerd_2eservice"),
        ("0.service", "_30_2eservice"),
        ("a_b@1.service", "a_5fb_401_2eservice"),
        ("", "_"),
    ],
)
def test_a_units_object(name: str, path: str) -> None:
    """As busctl tree org.freedesktop.systemd1 lists them."""
    assert unit_path(name) == f"{TOP}/unit/{path}"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (True, "yes"),
        (False, "no"),
        (7, "7"),
        ((1 << 64) - 1, "infinity"),
        ([], ""),
        (["a.service", "b.service"], "a.service b.service"),
        ("text", "text"),
        ([("/a", ["/a", "b"], True), ("/c", ["/c"], False)],
         "{ path=/a ; argv[]=/a b ; ignore_errors=yes } ExecStart={ path=/c ; argv[]=/c ; ignore_errors=no }"),
    ],
)  # fmt: skip
def test_values_read_as_systemctl_prints_them(value: Any, text: str) -> None:
    assert bus.printed(value) == text


def test_whose_property_is_whose() -> None:
    assert systemd.owner_of("docker.service", "After") == ("Unit", "After")
    assert systemd.owner_of("docker.service", "MainPID") == ("Service", "MainPID")
    assert systemd.owner_of("apt-daily-upgrade.timer", "Result") == ("Timer", "Result")


def test_without_systemds_socket_its_programs_are_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(systemd, "PRIVATE", str(tmp_path / "none"))
    assert systemd.ask_systemd({"commands": {}, "units": ["a.service"]}, [], {}) == {"commands": {}}
