"""Asking a host over pyinfra: one exec of the probe, once a run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import gevent
from gevent.lock import BoundedSemaphore

from gpumend.run import audit_program
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.local import nvml
from gpumend.run.programs import audit_identity, probe_program
from gpumend.run.remote.connection import (
    INSTALL,
    RemoteError,
    audit_only,
    run_audit_program,
    run_program,
)
from gpumend.run.remote.layers import asked
from gpumend.state.host_state import HostState, parse
from gpumend.state.snapshot import AnswerError, Snapshot

if TYPE_CHECKING:
    from pyinfra.api.host import Host

AT_ONCE = 64  # hosts that are asked at a time: more answers than are worked off as they come would only lie in memory
TURN = 1  # seconds for which a host waits for its turn at most: others may not answer at all
PROBE_TIMEOUT = 180  # seconds; the probe bounds each of its own waits, this bounds a dead connection

_turns = BoundedSemaphore(AT_ONCE)


@contextmanager
def a_turn() -> Iterator[None]:
    """A host's turn to be asked and worked off."""
    mine = _turns.acquire(timeout=TURN)
    try:
        yield
    finally:
        if mine:
            _turns.release()


def answer_of(host: Host) -> Snapshot:
    """The host's answer, in one exec. Raises RemoteError or AnswerError."""
    request = asked(host)
    if not audit_only(host):
        return Snapshot.from_output(run_program(host, probe_program(*request), timeout=PROBE_TIMEOUT))
    snapshot = Snapshot.from_output(run_audit_program(host, timeout=PROBE_TIMEOUT))
    if snapshot.answer.get("program") != audit_identity(*request):
        raise RemoteError(
            f"{audit_program.PATH} on this host is another version's, or was made for another ask_cuda or other allocations; "
            f"this one's is put there by: {INSTALL}"
        )
    return snapshot


def complete(host: Host, state: HostState) -> HostState:
    """The state of this very machine with what NVML says of its GPUs, where nvidia-smi is not there to be asked."""
    if host.name != "@local" or state.gpus.details.ok:
        return state
    found = nvml.read()
    return state._replace(gpus=state.gpus._replace(details=found)) if found.ok else state


# By inventory and host name: `host` may be pyinfra's context proxy, whose identity says nothing.
_read: WeakKeyDictionary[Any, dict[str, HostState]] = WeakKeyDictionary()
_ahead: WeakKeyDictionary[Any, dict[str, gevent.Greenlet[..., HostState | Exception]]] = WeakKeyDictionary()


def ask_ahead(host: Host, waits: AbstractContextManager[None]) -> None:
    """The host is asked while others are still connected to: its state, or what went wrong, is there for who wants it later. No more
    than AT_ONCE are, as whole states wait to be judged. waits: entered while it is."""
    begun = _ahead.setdefault(host.inventory, {})
    if len(begun) < AT_ONCE:
        begun[host.name] = gevent.spawn(_state_or_error, host, waits)


def _state_or_error(host: Host, waits: AbstractContextManager[None]) -> HostState | Exception:
    try:
        with waits:
            return _asked(host)[0]
    except Exception as error:  # gevent would print what nobody catches here
        return error


def host_state(host: Host) -> HostState:
    """A host's state, read once a run, in one exec. Raises RemoteError, with the host's own words, where it gave none."""
    return host_answer(host)[0]


def host_answer(host: Host) -> tuple[HostState, Snapshot | None]:
    """The same, and the answer of which it was made; None where it was asked for before."""
    known, snapshot = _read.setdefault(host.inventory, {}), None
    if host.name not in known:
        begun = _ahead.get(host.inventory, {}).pop(host.name, None)
        if begun is not None:  # one that has ended is false
            found = begun.get()
            if isinstance(found, Exception):
                raise found
            known[host.name] = found
        else:
            known[host.name], snapshot = _asked(host)
    return known[host.name], snapshot


def _asked(host: Host) -> tuple[HostState, Snapshot]:
    """Ask the host now. Raises RemoteError, with the host's own words, where it gave no answer."""
    try:
        with a_turn():
            snapshot = answer_of(host)
            with within(JUDGING):
                state = parse(snapshot)
        return complete(host, state), snapshot
    except AnswerError as error:
        raise RemoteError(str(error)) from None
    except OverBudget as over:
        raise RemoteError(f"taking this host's answer apart {over}") from None


def forget(host: Host) -> None:
    """The state is let go: whoever asks for it after this has the host asked again."""
    _read.setdefault(host.inventory, {}).pop(host.name, None)


def remember(host: Host, state: HostState) -> None:
    """Take a newer state, as a transaction's answer brings it."""
    _read.setdefault(host.inventory, {})[host.name] = state
