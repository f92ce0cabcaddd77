"""The agent of a host, from the controller: put there, asked, taken away. One exec each."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import click
from pyinfra.api.command import FunctionCommand
from pyinfra.context import host as context_host

from gpumend.payload.source import probe_source
from gpumend.run import record as run
from gpumend.run.audit_program import AGENT
from gpumend.run.remote.connection import AuditOnly, RemoteError, must_be_whole, run_program
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

TIMEOUT = 300  # seconds; the host's own waits are bounded, this bounds a dead connection
# The file that is there answers for itself, where nobody but root could have put it there (payload/probe/execution.py).
ASK = """
def ask_agent(path, verb):
    if not os.path.lexists(path):
        return print(json.dumps({"installed": False}))
    why = distrust(path)
    if why:
        return print(json.dumps({"error": "its file can be changed by others than root: %s" % why}))
    sys.exit(subprocess.call([sys.executable, "-I", "-S", "-B", path, verb], stdin=subprocess.DEVNULL))


ask_agent(*json.loads(ASKED))
"""
SEND = """
import base64, os, shutil, subprocess, sys, tempfile
directory = tempfile.mkdtemp(prefix="gpumend-agent-", dir="/run")
try:
    path = os.path.join(directory, "agent")
    with open(path, "wb") as out:
        out.write(base64.b64decode({program!r}))
    argv = [sys.executable, "-I", "-S", "-B", path, "install", path]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE)
    child.communicate({config!r})
    sys.exit(child.returncode)
finally:
    shutil.rmtree(directory, ignore_errors=True)
"""


def asked(host: Host, verb: str) -> dict[str, Any]:
    """What the agent of a host says to `status` or `uninstall`; `installed` is false where there is none. Raises RemoteError."""
    call = ASK.replace("ASKED", repr(json.dumps([AGENT, verb])))
    return _parsed(run_program(host, f"{probe_source()}\n{call}", timeout=TIMEOUT))


def _parsed(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise RemoteError("the agent's answer is not one of ours")
    return found


def installed(program: bytes, config: str) -> Generator[FunctionCommand, None, None]:
    """The agent's file and its units are on the host as `config` says, and its timer runs."""
    try:
        found = asked(context_host, "status")
    except RemoteError as error:
        found = {"error": str(error)}
    here = hashlib.sha256(config.encode()).hexdigest()
    if found.get("config") == here and found.get("sound"):
        context_host.noop("the agent is installed as wanted")
        _say(context_host.name, "the agent is installed as wanted")
        return
    _say(context_host.name, f"the agent is to be {'updated' if found.get('installed') else 'installed'}")
    yield FunctionCommand(_install, (program, config), {})


def _install(state: State, host: Host, program: bytes, config: str) -> bool:
    """True where it ended well."""
    try:
        must_be_whole(host)
        text = SEND.format(program=base64.b64encode(program).decode("ascii"), config=config.encode())
        found = _parsed(run_program(host, text, timeout=TIMEOUT))
    except (AuditOnly, RemoteError) as error:
        found = {"error": str(error)}
    if "error" in found:
        return _failed(host, f"not installed: {found['error']}")
    return _say(host.name, "the agent is installed; its first audit comes by itself")


def gone() -> Generator[FunctionCommand, None, None]:
    """No file of the agent is on the host."""
    yield FunctionCommand(_uninstall, (), {})


def _uninstall(state: State, host: Host) -> bool:
    try:
        must_be_whole(host)
        found = asked(host, "uninstall")
    except (AuditOnly, RemoteError) as error:
        found = {"error": str(error)}
    if "error" in found:
        return _failed(host, f"not uninstalled: {found['error']}")
    return _say(
        host.name, "no agent is installed" if found.get("installed") is False else "the agent is gone"
    )


def told() -> None:
    """One line: what is installed here, and how the last audit ended."""
    try:
        found = asked(context_host, "status")
    except RemoteError as error:
        found = {"error": str(error)}
    if "error" in found:
        _failed(context_host, f"no answer: {found['error']}")
    elif not found.get("installed"):
        _say(context_host.name, "no agent is installed")
    else:
        last = found.get("last") or {}
        audit = f"last audit {last['started']}: {last['status']}" if last else "no audit yet"
        sound = "" if found.get("sound") else "; not as it was installed: install it again"
        _say(
            context_host.name,
            f"agent {last.get('version', '')}, every {found['interval']} min; {audit}{sound}",
        )


def _say(name: str, text: str) -> bool:
    """True: it went well. One line, whatever the host says: the next one is another's."""
    click.echo(f"{name}: {' '.join(mask(text).split())}")
    return True


def _failed(host: Host, text: str) -> bool:
    """False: it did not, and the run's end says why."""
    run.current(host.state.inventory).record(host.name).error = text
    return False
