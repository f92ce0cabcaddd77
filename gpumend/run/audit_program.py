"""The audit as a file of the host's own: the one command that a sudo rule can list and that gives nothing else away.

Sent over stdin, the probe runs under `python3 -`, and whoever may run that as root may run anything. This file is the
same probe with the same request in it. It takes no argument and reads no input, so a rule that pins its SHA-256 allows
the audit alone (docs/sudo.md). Where it is not this version's, its answer says so by its `program`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DIRECTORY = "/usr/local/lib/gpumend"
PATH = f"{DIRECTORY}/audit"
AGENT = f"{DIRECTORY}/agent"  # beside it: the host's own agent (gpumend/agent)
RULE = "/etc/sudoers.d/gpumend-audit"
# Host data key: `audit` where sudo gives us the installed audit program and nothing else (hosts.toml: sudo = "audit").
SUDO = "gpumend_sudo"
AUDIT = "audit"
# How it is said that such a host was to be changed.
AUDIT_ONLY = 'sudo on this host allows the audit and nothing else (sudo = "audit")'

# -I -S -B as gpumend/run/remote/connection.py has them; a `#!` line takes one word.
HEAD = "#!/usr/bin/python3 -ISB\n# gpumend's audit: prints what it reads, takes no input, writes nothing. See docs/sudo.md.\n"
CALL = """

read = probe


def probe(request):
    return dict(read(request), program={identity!r})


main(json.loads({request!r}))
"""


def identity(source: str, request: Mapping[str, Any]) -> str:
    """What the program is a version of: the hash of the probe's text and of what it is asked."""
    return hashlib.sha256(f"{source}\n{json.dumps(request)}".encode("ascii")).hexdigest()[:16]


def text(source: str, request: Mapping[str, Any]) -> str:
    """The file's text, of the probe's source and the request of all subsystems."""
    return HEAD + source + CALL.format(request=json.dumps(request), identity=identity(source, request))
