"""Entries in systemd's journal, with fields that can be asked for: `journalctl GPUMEND_CODE=GM301`.

The native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one datagram an entry.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import uuid
from collections.abc import Mapping

from gpumend.text.mask import mask

SOCKET = "/run/systemd/journal/socket"
# Of the UUIDs of version 5 whose name is a code: the same in every version of gpumend.
NAMESPACE = uuid.UUID("6c1f0d0c-0d1b-5f5e-9a3a-7d9c2b1f4e55")
PRIORITY = {"fail": 3, "warn": 4, "unknown": 4, "note": 6, "gone": 5}


def message_id(code: str) -> str:
    """MESSAGE_ID of a code's entries: 32 hexadecimal digits."""
    return uuid.uuid5(NAMESPACE, code).hex


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "replace")
    if b"\n" not in data:
        return name.encode("ascii") + b"=" + data + b"\n"
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"


def entry(fields: Mapping[str, str]) -> bytes:
    """One entry as a datagram."""
    return b"".join(_field(name, value[:4096]) for name, value in fields.items())


def told(text: str, status: str, code: str = "", **more: str) -> None:
    """The journal has the entry, masked and printable: everybody in the group `adm` reads it. Where there is no journal, nothing is
    said."""
    fields = {"MESSAGE": mask(text), "PRIORITY": str(PRIORITY.get(status, 6)), "SYSLOG_IDENTIFIER": "gpumend"}
    if code:
        fields.update(MESSAGE_ID=message_id(code), GPUMEND_CODE=code)
    fields.update(
        GPUMEND_STATUS=status, **{f"GPUMEND_{name.upper()}": mask(value) for name, value in more.items()}
    )
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.settimeout(1)
        out.sendto(entry(fields), SOCKET)
