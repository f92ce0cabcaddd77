"""systemd asked over its own socket: so much of D-Bus (dbus.freedesktop.org, D-Bus Specification) as it takes to read properties,
which systemctl does by its thousand and for one question a process. org.freedesktop.systemd1(5) has the properties. Whatever goes
wrong raises OSError or ValueError: systemctl is then asked."""

import _socket
import os
import struct
import time
from typing import Any, Dict, List, Optional, Sequence, Tuple

from gpumend.payload.probe.http import BoundedSocket, Budget

PRIVATE = "/run/systemd/private"  # root's alone; systemctl speaks there, too (systemd src/systemctl, bus_connect_transport_systemd)
SERVICE, TOP = "org.freedesktop.systemd1", "/org/freedesktop/systemd1"
PROPERTIES = "org.freedesktop.DBus.Properties"
MAX_MESSAGE = 4 << 20  # bytes: a thousand units are 300 KB
MAX_REPLIES = 32 << 20  # of all
MAX_LEVELS = 16
AT_A_TIME = 100  # questions that are sent before their answers are read
RETURN, ERROR = 2, 3
SIZES = {"y": "B", "b": "I", "n": "h", "q": "H", "i": "i", "u": "I", "x": "q", "t": "Q", "d": "d", "h": "I"}

FIELDS: Dict[Tuple[int, str], bytes] = {}  # of heads, as often as they are the same

Question = Tuple[str, str, str, str, bytes]  # path, interface, member, signature, body


def aligned(data: bytes, to: int = 8) -> bytes:
    return data + b"\0" * (-len(data) % to)


def bus_text(value: str) -> bytes:
    data = value.encode("utf-8")
    return struct.pack("<I", len(data)) + data + b"\0"


def head_field(code: int, kind: bytes, value: str) -> bytes:
    """A field of a message's head, aligned for the next."""
    known = FIELDS.get((code, value))
    if known is None:
        known = FIELDS[code, value] = aligned(struct.pack("<BB", code, 1) + kind + b"\0" + bus_text(value))
    return known


def message(serial: int, question: Question) -> bytes:
    """A method call (Message Format)."""
    path, interface, member, signature, body = question
    text = signature.encode("ascii")
    fields = b"".join(
        (
            head_field(1, b"o", path),
            head_field(2, b"s", interface),
            head_field(3, b"s", member),
            head_field(6, b"s", SERVICE),
            b"\x08\1g\0" + struct.pack("<B", len(text)) + text + b"\0",
        )
    )
    return aligned(struct.pack("<cBBBIII", b"l", 1, 0, 1, len(body), serial, len(fields)) + fields) + body


def wanted_property(path: str, interface: str, name: str) -> Question:
    """The question for one property."""
    return path, PROPERTIES, "Get", "ss", aligned(bus_text(SERVICE + "." + interface), 4) + bus_text(name)


class Unmarshalled:
    """Values read from a message's bytes, one after another. Raises ValueError where they are none."""

    def __init__(self, data: bytes, order: str, at: int = 0) -> None:
        self.data, self.order, self.at = data, order, at

    def align(self, to: int) -> None:
        self.at += -self.at % to

    def take(self, size: int) -> bytes:
        if size < 0 or self.at + size > len(self.data):
            raise ValueError("a message of D-Bus broke off")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, form: str) -> Any:
        size = struct.calcsize("=" + form)
        self.align(size)
        return struct.unpack(self.order + form, self.take(size))[0]

    def string(self, length: str) -> str:
        found = self.take(self.number(length)).decode("utf-8", "replace")
        self.take(1)
        return found

    def value(self, signature: str, at: int = 0, level: int = 0) -> Tuple[Any, int]:
        """(The value of the complete type that begins at a place of a signature, where the next begins)."""
        kind = signature[at : at + 1]
        if level > MAX_LEVELS or not kind:
            raise ValueError("no signature of D-Bus: %r" % signature[:40])
        if kind in SIZES:
            found = self.number(SIZES[kind])
            return bool(found) if kind == "b" else found, at + 1
        if kind in "so":
            return self.string("I"), at + 1
        if kind == "g":
            return self.string("B"), at + 1
        if kind == "v":
            return self.value(self.string("B"), 0, level + 1)[0], at + 1
        if kind in "({":
            self.align(8)
            parts, at = [], at + 1
            while signature[at : at + 1] not in (")", "}"):
                part, at = self.value(signature, at, level + 1)
                parts.append(part)
            return tuple(parts), at + 1
        if kind != "a":
            raise ValueError("no type of D-Bus: %r" % kind)
        end = self.number("I")
        self.align(8 if signature[at + 1 : at + 2] in ("x", "t", "d", "(", "{") else 1)
        end += self.at
        if end > len(self.data):
            raise ValueError("a message of D-Bus broke off")
        items: List[Any] = []
        while self.at < end:
            before = self.at
            item, behind = self.value(signature, at + 1, level + 1)
            items.append(item)
            if self.at == before:
                raise ValueError("a list of nothing")
        return items, behind if items else after_type(signature, at + 1)

    def fields(self, end: int) -> Tuple[int, str]:
        """(The serial of what a message answers, the signature of its body), of the fields of its head (Header Fields)."""
        serial, signature = 0, ""
        while self.at < end:
            self.align(8)
            code, kind = self.number("B"), self.string("B")
            found = self.value(kind)[0]
            serial = found if code == 5 and kind == "u" else serial
            signature = found if code == 8 and kind == "g" else signature
        return serial, signature


def after_type(signature: str, at: int) -> int:
    """Where the type ends that begins at a place of a signature."""
    while signature[at : at + 1] == "a":
        at += 1
    depth = 0
    while True:
        kind = signature[at : at + 1]
        if not kind:
            raise ValueError("no signature of D-Bus: %r" % signature[:40])
        depth += (kind in "({") - (kind in ")}")
        at += 1
        if depth <= 0:
            return at


class Bus:
    """A connection to systemd as root. All has to be said within some seconds."""

    def __init__(self, seconds: float, path: str = PRIVATE) -> None:
        self.sock = BoundedSocket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.sock.budget = Budget(MAX_REPLIES)
        self.sock.until(time.monotonic() + seconds)
        self.data, self.serial = b"", 0
        try:
            self.sock.hurry()
            self.sock.connect(path)
            uid = str(os.geteuid()).encode("ascii").hex()
            self.sock.send_all(b"\0AUTH EXTERNAL " + uid.encode("ascii") + b"\r\nBEGIN\r\n")
            while b"\r\n" not in self.data:
                self.more()
            line, _, self.data = self.data.partition(b"\r\n")
            if not line.startswith(b"OK "):
                raise ValueError("systemd says %r" % line[:80])
        except BaseException:
            self.sock.close()
            raise

    def close(self) -> None:
        self.sock.close()

    def more(self) -> None:
        data = self.sock.received()
        if not data:
            raise ValueError("systemd has closed its socket")
        self.data += data

    def exactly(self, size: int) -> bytes:
        while len(self.data) < size:
            self.more()
        found, self.data = self.data[:size], self.data[size:]
        return found

    def reply(self) -> Tuple[int, int, Any]:
        """(Its kind, the serial of what it answers, its first value) of the next message."""
        head = self.exactly(16)
        order = {b"l": "<", b"B": ">"}.get(head[:1])
        if order is None:
            raise ValueError("no message of D-Bus")
        size, _, fields = struct.unpack(order + "III", head[4:])
        if size > MAX_MESSAGE or fields > MAX_MESSAGE:
            raise ValueError("a message of %d bytes" % (size + fields))
        rest, body = self.exactly(fields + -fields % 8), self.exactly(size)
        if head[1] not in (RETURN, ERROR):  # systemd tells everybody of every unit that comes or goes
            return head[1], 0, None
        answers, signature = Unmarshalled(head + rest, order, 16).fields(16 + fields)
        value = Unmarshalled(body, order).value(signature)[0] if signature else None
        return head[1], answers, value

    def ask(self, questions: Sequence[Question]) -> List[Optional[Any]]:
        """The first value of each question's answer, None where systemd has none: it knows no such property of a unit."""
        found: List[Optional[Any]] = []
        for start in range(0, len(questions), AT_A_TIME):
            part = questions[start : start + AT_A_TIME]
            first, waiting = self.serial + 1, len(part)
            self.sock.send_all(b"".join(message(first + at, each) for at, each in enumerate(part)))
            self.serial += len(part)
            answers: List[Optional[Any]] = [None] * len(part)
            while waiting:
                kind, serial, value = self.reply()
                if kind in (RETURN, ERROR) and 0 <= serial - first < len(part):
                    waiting -= 1
                    answers[serial - first] = value if kind == RETURN else None
            found.extend(answers)
        return found


def unit_path(name: str) -> str:
    """A unit's object (systemd src/basic/bus-label.c: what is no letter or digit, and a digit at the beginning, as _XX)."""
    kept = [
        chr(byte) if (chr(byte).isalpha() and byte < 128) or (48 <= byte < 58 and at) else "_%02x" % byte
        for at, byte in enumerate(name.encode("utf-8"))
    ]
    return TOP + "/unit/" + ("".join(kept) or "_")


def printed(value: Any) -> str:
    """A property as `systemctl show` prints it, but for times and exit statuses of what a unit executes."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return "infinity" if value == (1 << 64) - 1 else str(value)
    if isinstance(value, list) and value and isinstance(value[0], tuple):  # ExecStart: a(sasbttttuii)
        return " ExecStart=".join(
            "{ path=%s ; argv[]=%s ; ignore_errors=%s }" % (each[0], " ".join(each[1]), printed(each[2]))
            for each in value
        )
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def properties_of(bus: Bus, wanted: Dict[str, List[Tuple[str, str]]]) -> Dict[str, Dict[str, str]]:
    """By unit, the values of some (interface, property)s of it as text; without those that it does not have."""
    asked = [(unit, interface, name) for unit, listed in wanted.items() for interface, name in listed]
    values = bus.ask([wanted_property(unit_path(unit), interface, name) for unit, interface, name in asked])
    found: Dict[str, Dict[str, str]] = {unit: {} for unit in wanted}
    for (unit, _, name), value in zip(asked, values):
        if value is not None:
            found[unit][name] = printed(value)
    return found


def limited_scope(pid: int, name: str, limits: Dict[str, int]) -> Question:
    """The question for a scope of that name with some limits, which has a process in it."""
    listed: List[Tuple[str, bytes, bytes]] = [("PIDs", b"au", struct.pack("<II", 4, pid))]
    listed.extend((key, b"t", struct.pack("<Q", limit)) for key, limit in limits.items())
    parts = b""
    for key, kind, value in listed:
        parts = aligned(parts) + bus_text(key) + struct.pack("<B", len(kind)) + kind + b"\0"
        parts = aligned(parts, 8 if kind == b"t" else 4) + value
    body = aligned(bus_text(name), 4) + bus_text("fail")
    body = aligned(aligned(body, 4) + struct.pack("<I", len(parts))) + parts
    body = aligned(aligned(body, 4) + struct.pack("<I", 0))  # no units besides
    return TOP, SERVICE + ".Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))", body


def text_list(values: Sequence[str]) -> bytes:
    parts = b""
    for value in values:
        parts = aligned(parts, 4) + bus_text(value)
    return struct.pack("<I", len(parts)) + parts


def services_loaded() -> Question:
    """The question for all services that systemd has in memory (systemd 230)."""
    body = text_list([]) + text_list(["*.service"])
    return TOP, SERVICE + ".Manager", "ListUnitsByPatterns", "asas", body


def units_wanted(names: Sequence[str]) -> Question:
    """The question for some units, in their order, whether they are there or not (systemd 230)."""
    return TOP, SERVICE + ".Manager", "ListUnitsByNames", "as", text_list(names)
