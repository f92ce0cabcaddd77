"""The sudo rule for a user who may audit a host and nothing else."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Generator
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.context import host as context_host

from gpumend.payload.source import probe_source
from gpumend.run import record as run
from gpumend.run.audit_program import PATH, RULE
from gpumend.run.outcome import parse_answer
from gpumend.run.programs import change_program as program
from gpumend.run.programs import installed_program, who
from gpumend.run.remote.asking import PROBE_TIMEOUT
from gpumend.run.remote.connection import RemoteError, run_program
from gpumend.run.remote.exchange import TIMEOUT
from gpumend.run.remote.layers import asked as asked_of_host
from gpumend.state.reading import Unread
from gpumend.state.snapshot import AnswerError, FileContent, Snapshot
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

# A user, or a %group. What begins with a capital letter is an alias to sudoers(5), and ALL is everybody.
USER = re.compile(r"%?[a-z_][a-z0-9_.-]*")


def rule_text(user: str, *asked: Any) -> str:
    """The sudo rule, for the program as this version has it. asked: as of `installed_program`. Raises ValueError for what is no user's or group's name."""
    if not USER.fullmatch(user):
        raise ValueError(f"{user!r} is not the name of a user (ops) or of a group (%ops)")
    template = files("gpumend.run.remote").joinpath("sudoers.d", "gpumend-audit").read_text("ascii")
    digest = hashlib.sha256(installed_program(*asked).encode("ascii")).hexdigest()
    return template.replace("@USER@", user).replace("@SHA256@", digest)


def allowed(user: str) -> Generator[FunctionCommand, None, None]:
    """`user` may run the audit as root without a password: the audit program is there, root's and for root alone to
    change, and a sudo rule that pins its SHA-256.

    visudo has read the rule before it counts, and sudo has said afterwards that the user may; else all is as before.
    Fails where somebody but root could change the program that is there now.
    """
    asked = asked_of_host(context_host)
    wanted = {
        PATH: (installed_program(*asked).encode("ascii"), 0o755),
        RULE: (rule_text(user, *asked).encode("ascii"), 0o440),
    }
    try:
        there = _present(context_host)
    except (RemoteError, AnswerError, Unread) as error:
        yield FunctionCommand(_refuse, (str(error),), {})
        return
    program_there = there[PATH]
    if program_there and (program_there.meta.uid != 0 or program_there.meta.mode & 0o022):
        yield FunctionCommand(
            _refuse, (f"{PATH} can be changed by others than root: take it away first",), {}
        )
        return
    steps: list[dict[str, Any]] = []
    for path, (data, mode) in wanted.items():
        found = there[path]
        if found is None or found.data != data:
            step: dict[str, Any] = {
                "do": "write",
                "path": path,
                "before": found.sha256 if found else None,
                "mode": mode,
                "argv": [],
            }
            steps.append({**step, "data": base64.b64encode(data).decode("ascii")})
    if not steps:
        context_host.noop(f"{user} may audit this host")
        return
    if not user.startswith("%"):  # sudo answers for users only
        steps.append({"do": "run", "argv": ["sudo", "-n", "-l", "-U", user, PATH]})
    yield FunctionCommand(_install, (steps, wanted[RULE][0]), {})


def _present(host: Host) -> dict[str, FileContent | None]:
    """The two files as they are, in one exec. Raises RemoteError, AnswerError, or Unread where one is no file."""
    request = json.dumps({"files": [PATH, RULE]})
    source = f"{probe_source()}\nmain(json.loads({request!r}))\n"
    snapshot = Snapshot.from_output(run_program(host, source, timeout=PROBE_TIMEOUT))
    return {path: snapshot.file(path).get() for path in (PATH, RULE)}


def _refuse(state: State, host: Host, reason: str) -> bool:
    logger.error(f"{host.print_prefix}{mask(reason)}")
    return False


def _install(state: State, host: Host, steps: list[dict[str, Any]], rule: bytes) -> bool:
    """One transaction, in one exec; `gpumend rollback` of its run undoes it. True where it ended well."""
    data = {
        "verb": "apply",
        "run": run.current(host.inventory).id,
        "who": who(),
        "component": "audit_rule.allowed",
        "restarts": "never",
        "steps": steps,
        "service": None,
        "validate": ["visudo", "-c", "-f", "{tree}/rule"],
        "tree": [["rule", base64.b64encode(rule).decode("ascii")]],
        "expect": [],
        "proofs": [],
    }
    try:
        outcome, _ = parse_answer(run_program(host, program(data), timeout=TIMEOUT))
    except (RemoteError, AnswerError) as error:
        return _refuse(state, host, str(error))
    log = logger.info if outcome.good else logger.error
    log(f"{host.print_prefix}audit rule: {outcome.status}: {mask(outcome.detail)}".rstrip(": "))
    return outcome.good
