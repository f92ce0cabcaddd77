"""The proof in a container, where the wanted state names an image for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.context import host as context_host

from gpumend.plan.trials import Trial, trials
from gpumend.rules.finding import Component
from gpumend.rules.wanted import Wanted
from gpumend.run import record as run
from gpumend.run.attempt import settle
from gpumend.run.outcome import Outcome
from gpumend.run.programs import who
from gpumend.run.remote import assessment
from gpumend.run.remote.component import watched
from gpumend.run.remote.connection import AuditOnly, RemoteError
from gpumend.run.remote.exchange import send
from gpumend.state.reading import Unread
from gpumend.state.snapshot import AnswerError
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

# Driver API: cuInit(0) is 0 exactly when a CUDA program could start (CUDA driver API reference, CUresult).
CU_INIT = (
    "import ctypes, sys; r = ctypes.CDLL('libcuda.so.1').cuInit(0); "
    "print('cuInit:', r); sys.exit(0 if r == 0 else 1)"
)


def containers() -> Generator[FunctionCommand, None, None]:
    """After a change, a container on each wanted engine path calls cuInit and gets 0; else the whole run is undone."""
    record = run.current(context_host.inventory).records.get(context_host.name)
    if record is None or record.now is None or not record.now.wanted.prove_image:
        return
    planned = record.now.plan.transactions or any(
        outcome.status in ("changed", "watching") for outcome in record.outcomes.values()
    )
    hands = run.current(context_host.inventory).hands_over and record.now.wanted.handover
    planned = planned or bool(hands)  # its document says what is now, not what was when something changed
    failed = [component for component, outcome in record.outcomes.items() if not outcome.good]
    if failed and planned:
        # It would undo all of the run for the want of what failed already.
        context_host.noop(f"not proven: {', '.join(failed)} failed")
    elif planned:  # the paths are those of the host as it is then
        yield FunctionCommand(_prove, (), {})
    else:
        context_host.noop("nothing was changed")


def _entry(trial: Trial, wanted: Wanted, command: tuple[str, ...], fresh: bool) -> dict[str, Any]:
    """A trial as the program's JSON. fresh: an engine came in this run."""
    image = wanted.prove_image or ""
    found = {
        "path": trial.path,
        "engine": trial.engine,
        "must": trial.must,
        "image": image,
        "archive": wanted.prove_archive,
        "fresh": fresh,
        "options": list(trial.options),
        "command": list(command),
    }
    if trial.engine == "docker":
        run_words = ("run", "--rm", "--pull=never", "--network=none", *trial.options)
        found["argv"] = [*run_words, "--entrypoint", command[0], image, *command[1:]]
    return found


def _prove(state: State, host: Host) -> bool:
    record = run.current(host.inventory).record(host.name)
    if record.unseen:  # which paths there are is known of the host as it is now
        watched(host)
    found = tried(host, record)
    if found.status == "unchanged":
        return True
    record.proof = found
    log = logger.info if record.proof.good else logger.error
    log(f"{host.print_prefix}proof: {record.proof.status}: {mask(record.proof.detail)}")
    return record.proof.good


def tried(host: Host, record: run.Record, alone: bool = False) -> Outcome:
    """How the proof went. alone: where it fails, nothing is undone."""
    assert record.now is not None
    wanted = record.now.context.wanted
    try:
        paths = trials(record.now.context)
    except Unread as error:  # which paths there are is not known: nothing is proven
        return Outcome("refused", f"what to prove is not known: {error}")
    if not paths:
        return Outcome("unchanged", "no engine has a path to prove")
    came = record.outcomes.get(Component.ENGINE)
    fresh = came is not None and came.status == "changed"
    command = wanted.prove_command or ("python3", "-c", CU_INIT)
    this = run.current(host.inventory)
    data = {
        "verb": "containers",
        "run": this.id,
        "who": who(),
        "restarts": wanted.restarts,
        "alone": alone,
        "containers": [_entry(trial, wanted, command, fresh) for trial in paths],
    }
    try:
        outcome, snapshot = send(host, data)
        settle(record, outcome.watched)
        assessment.take(host, record, snapshot)
        return outcome
    except AuditOnly as error:
        return Outcome("refused", str(error))
    except (RemoteError, AnswerError) as error:
        return Outcome("lost", str(error))
