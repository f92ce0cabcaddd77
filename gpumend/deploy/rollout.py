"""A mend host by host: some first, few at a time, no more failures than are allowed, commands of the operator's around each; and
only what a plan has that somebody approved.

pyinfra's own ways (all at once, one by one) know no end before the last host; here each host has all its operations, and the next
one begins when it may.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import gevent
from pyinfra.api.operations import run_host_op
from pyinfra.api.state import StateStage
from pyinfra.context import ctx_host, ctx_state

from gpumend.plan.wire import digest
from gpumend.reports.document import OPEN, Exit, exit_of, word_of
from gpumend.reports.names import some
from gpumend.run import record as run
from gpumend.run.outcome import Outcome
from gpumend.run.remote import component, reboot

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

FAILED = (Exit.PUT_BACK, Exit.BROKEN)
LAST = 300  # characters of a command's last line


@dataclass(frozen=True)
class Rollout:
    """serial: one host at a time. canary: so many hosts first, and the others only where none of these failed. max_failures:
    no more hosts than this fail; 0 is no limit. before, after: commands of this machine, around each host's changes.
    plan: what may be changed, by host and component (plan/wire.py digest); None is everything.
    reboot: hosts of which the report says that a reboot is required are rebooted once they are changed, `batch` at a time, and
    nothing more is begun after one that is not back as it has to be within `reboot_wait` seconds."""

    serial: bool = False
    canary: int = 0
    max_failures: int = 0
    before: str = ""
    after: str = ""
    plan: Mapping[str, Mapping[str, str]] | None = None
    reboot: bool = False
    batch: int = 1
    reboot_wait: int = 900

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Rollout:
        return cls(**{item.name: said[item.name] for item in fields(cls) if item.name in said})


def held(record: run.Record, plan: Mapping[str, Mapping[str, str]]) -> str:
    """Why nothing is changed on this host: it is not as it was when the plan was made; empty where it is."""
    assert record.now is not None
    if record.name not in plan:
        return "it is not in the plan"
    wanted = plan[record.name]
    found = {str(each.component): digest(each) for each in record.now.plan.transactions}
    if found == wanted:
        return ""
    parts = [f"{name} is not in the plan" for name in found if name not in wanted]
    parts += [
        f"{name} would be changed otherwise"
        for name in found
        if wanted.get(name, "") not in ("", found[name])
    ]
    parts += [f"{name} is not to be changed any more" for name in wanted if name not in found]
    return f"it has changed since the plan was made: {'; '.join(parts)}"


def refuse_changed(this: run.Run, plan: Mapping[str, Mapping[str, str]]) -> None:
    """Hosts that are not as the plan has them are refused, with the reason; of the others only what the plan has is changed."""
    for record in this.records.values():
        if record.now is None or not record.now.plan.transactions:
            continue
        record.approved = frozenset(plan.get(record.name, ()))
        why = held(record, plan)
        if why:
            _refused(record, f"{why}; nothing was changed")


def _refused(record: run.Record, why: str) -> None:
    assert record.now is not None
    record.done += [(each, Outcome("refused", why)) for each in record.now.plan.transactions]


def run_all(state: State, how: Rollout) -> None:
    """Every host on which something planned may be changed has had its operations, or the run was stopped (Run.stopped)."""
    this = run.current(state.inventory)
    this.reboots = how.reboot
    state.current_stage, state.is_executing = StateStage.Execute, True
    hosts = {
        host.name: host
        for host in state.inventory
        if host in state.active_hosts
        and (now := this.record(host.name).now)
        and (now.plan.transactions or (how.reboot and reboot.due(this.record(host.name))))
    }

    def ended(name: str) -> str:
        _one(state, hosts[name], how)
        record = this.record(name)
        if record.rebooted is not None and record.rebooted.status in ("lost", "broken"):
            stop(f"{name} was rebooted, and is not as it has to be")
        return fault_of(record)

    def stop(why: str) -> None:
        this.stopped = this.stopped or why

    with ctx_state.use(state):
        in_turn(
            [name for name in hosts if not this.record(name).done],
            how,
            ended,
            stop,
            lambda: bool(this.stopped),
        )


def fault_of(record: run.Record) -> str:
    """What is wrong with how a host's changes ended, as others wait for it; empty where they are known to have ended well."""
    if record.error or exit_of(record) in FAILED:
        return "failed"
    if record.unseen or any(outcome.status in OPEN for _, outcome in record.done):
        return "was not seen to end well"
    return ""


def watched(state: State) -> None:
    """No daemon of any host is watched any more, and each was looked at after its last change, as far as the hosts answer
    (gpumend/run/remote/component.py)."""
    this = run.current(state.inventory)
    due = [
        name
        for name, record in this.records.items()
        if record.unseen or any(each.status == "watching" for _, each in record.done)
    ]
    hosts = [host for name in due if (host := state.inventory.get_host(name)) is not None]
    gevent.joinall([gevent.spawn(component.watched, host) for host in hosts])


def in_turn(
    names: list[str],
    how: Rollout,
    ended: Callable[[str], str],
    stop: Callable[[str], None],
    stopped: Callable[[], bool],
) -> None:
    """`ended` has been called for each name, in order and as many at a time as may be, until `stopped`: it says what is wrong with
    how that host ended. `stop` is told why no more may follow."""
    left = list(names)
    failed: list[str] = []
    first = set(names[: how.canary])
    at_work: dict[gevent.Greenlet, str] = {}
    while True:
        room = 1 if how.serial else how.batch if how.reboot else len(names)
        if how.max_failures:
            room = min(room, how.max_failures - len(failed))
        while left and not stopped() and len(at_work) < room:
            if left[0] not in first and first.intersection(at_work.values()):
                break  # the first ones are not done yet
            name = left.pop(0)
            at_work[gevent.spawn(ended, name)] = name
        if not at_work:
            return
        for job in gevent.wait(list(at_work), count=1):
            name = at_work.pop(job)
            wrong = job.get()
            if not wrong:
                continue
            failed.append(name)
            if name in first:
                stop(f"{name} {wrong}, one of the first {how.canary}")
            elif how.max_failures and len(failed) >= how.max_failures:
                stop(f"{len(failed)} failed: {some(failed)}")


def _one(state: State, host: Host, how: Rollout) -> None:
    """All of one host's operations, between the two commands."""
    this = run.current(state.inventory)
    record = this.record(host.name)
    if how.before:
        record.busy = "--before"
        why = _command(how.before, host, record)
        record.busy = ""
        if why:
            _refused(record, f"--before {why}; nothing was changed")
            return
    with ctx_host.use(host):
        for operation in state.get_op_order():
            if operation in state.ops[host] and not run_host_op(state, host, operation):
                break
    component.watched(host)
    if how.reboot and not this.stopped:
        _rebooted(host, record, how)
    if how.after:
        if exit_of(record) is Exit.BROKEN:
            record.after = "--after was not run: look at this host first"
            return
        record.busy = "--after"
        why = _command(how.after, host, record)
        record.busy = ""
        record.after = f"--after {why}" if why else ""


def _rebooted(host: Host, record: run.Record, how: Rollout) -> None:
    """The host was rebooted where that is required, unless something failed there before."""
    if record.error or exit_of(record) in FAILED or not reboot.due(record):
        return
    record.busy, record.doing, record.since = "reboot", "reboots", time.monotonic()
    try:
        record.rebooted = reboot.rebooted(host, record, how.reboot_wait)
    finally:
        record.busy = ""


def _command(command: str, host: Host, record: run.Record) -> str:
    """A command of the operator's has run here; why it failed, else nothing. It knows the host by its environment alone: no
    shell parses a name. It is not interrupted by the terminal's Ctrl-C."""
    about = {
        "GPUMEND_HOST": host.name,
        "GPUMEND_ADDRESS": str(host.data.get("ssh_hostname") or host.name),
        "GPUMEND_STATUS": word_of(record),
        "GPUMEND_EXIT": str(int(exit_of(record))),
    }
    done = subprocess.run(
        ["/bin/sh", "-c", command],
        env={**os.environ, **about},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    if not done.returncode:
        return ""
    last = ([row.strip() for row in done.stdout.splitlines() if row.strip()] or [""])[-1][:LAST]
    return f"ended with exit status {done.returncode}{f': {last}' if last else ''}"
