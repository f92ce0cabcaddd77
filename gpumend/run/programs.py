"""The programs as they go to a host: a payload's source and the call with its data."""

from __future__ import annotations

import getpass
import json
import socket
from collections.abc import Mapping
from functools import cache
from typing import Any

from gpumend.payload.source import change_source, probe_source
from gpumend.run import audit_program
from gpumend.state.host_state import request


def _source(asked: Mapping[str, Any]) -> str:
    """The probe's source, as far as a request needs it."""
    return probe_source("allocations" in asked)


@cache
def probe_program(ask_cuda: bool = True, besides: str = "") -> str:
    """The program that goes over stdin: the probe and the call with this request."""
    asked = request(ask_cuda, besides)
    return f"{_source(asked)}\nmain(json.loads({json.dumps(asked)!r}))\n"


@cache
def installed_program(ask_cuda: bool = True, besides: str = "") -> str:
    """The same as a file for the hosts: what `deploys/audit_rule.py` installs."""
    asked = request(ask_cuda, besides)
    return audit_program.text(_source(asked), asked)


@cache
def audit_identity(ask_cuda: bool = True, besides: str = "") -> str:
    """What an installed audit program of this version says that it is."""
    asked = request(ask_cuda, besides)
    return audit_program.identity(_source(asked), asked)


def change_program(wanted: dict[str, Any], ask_cuda: bool = True, besides: str = "") -> str:
    """The program that goes over stdin: it runs the transaction, probes again and prints both."""
    return f"{change_source()}\n{change_call(wanted, ask_cuda, besides)}"


def change_call(wanted: dict[str, Any], ask_cuda: bool = True, besides: str = "") -> str:
    """What of it is a host's own: `change_source` comes before it."""
    look = json.dumps(request(ask_cuda, besides))
    return f"main_transaction(json.loads({json.dumps(wanted)!r}), lambda: probe(json.loads({look!r})))\n"


def who() -> str:
    """user@controller, for the lock and the journal on the host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "uid unknown"
    return f"{user}@{socket.gethostname()}"
