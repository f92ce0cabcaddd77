"""A host is rebooted, and is known to be as it has to be once it is back: or the outcome says why not."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import gevent

from gpumend.payload.probe.processes import boot_id
from gpumend.rules.driver.reboot import lost_at_boot
from gpumend.rules.finding import Status
from gpumend.rules.judge import Verdict
from gpumend.run import record as run
from gpumend.run.budget import JUDGING, OverBudget, within
from gpumend.run.outcome import Outcome
from gpumend.run.programs import who
from gpumend.run.record import Record
from gpumend.run.remote import assessment, proof
from gpumend.run.remote.asking import answer_of
from gpumend.run.remote.connection import AuditOnly, RemoteError, run_program
from gpumend.run.remote.exchange import send
from gpumend.state.snapshot import AnswerError

if TYPE_CHECKING:
    from pyinfra.api.host import Host

EVERY = 1.0  # seconds between two looks for a host that is down
LOOK_TIMEOUT = 20  # seconds, for one look
# What systemd says once nothing of a boot is waited for any more (systemctl(1), is-system-running).
UP = ("running", "degraded", "maintenance")
LOOK = """
import json, subprocess
try:
    state = subprocess.run(["systemctl", "is-system-running"], stdout=subprocess.PIPE, timeout=10).stdout.decode().strip()
except (OSError, subprocess.TimeoutExpired):
    state = ""
with open("/proc/sys/kernel/random/boot_id") as handle:
    print(json.dumps([handle.read().strip(), state]))
"""


def own_boot() -> str:
    """This machine's boot id; empty where it has none to read (no Linux)."""
    try:
        return boot_id()
    except OSError:
        return ""


def is_controller(name: str, record: Record) -> bool:
    """Whether a host is the machine that this runs on, or the one below its container."""
    boot = record.now.context.state.machine.boot.value if record.now else None
    return name.startswith("@local") or (bool(boot) and boot == own_boot())


def due(record: Record) -> tuple[str, ...]:
    """Why a host has to be rebooted, as far as it is known; nothing where it has not."""
    return record.now.reboot if record.now is not None else ()


def rebooted(host: Host, record: Record, wait: float) -> Outcome:
    """The host was rebooted, is back within `wait` seconds with another boot id, and is proven; or `pending` (what runs there
    waits), `refused` (it would not come back whole), `lost`, `broken`."""
    assert record.now is not None
    context, verdict = record.now.context, record.now.verdict
    whole = record.now.whole or record.now
    if against := lost_at_boot(context, whole.verdict.findings):
        return Outcome(
            "refused", f"not rebooted, what the next boot needs is not there: {'; '.join(against)}"
        )
    boot = context.state.machine.boot.value
    if not boot:
        return Outcome(
            "refused", "not rebooted: its boot id could not be read, so that nothing would show that it was"
        )
    this = run.current(host.inventory)
    data = {"verb": "reboot", "run": this.id, "who": who(), "restarts": context.wanted.restarts, "boot": boot}
    began = time.monotonic()
    try:
        outcome, _ = send(host, data)
    except AuditOnly as error:
        return Outcome("refused", str(error))
    except (RemoteError, AnswerError):
        outcome = Outcome("changed")  # it may have gone down before its answer was here: its boot id says it
    if outcome.status == "pending":
        return Outcome("pending", f"not rebooted: {outcome.detail}")
    if outcome.status != "changed":
        return Outcome("refused", f"not rebooted: {outcome.detail}")
    if why := _back(host, boot, began + wait):
        return Outcome("lost", why)
    seconds = time.monotonic() - began
    if why := _not_proven(host, record, verdict):
        return Outcome("broken", f"back after {seconds:.0f} s, and not as it has to be: {why}")
    more = " ".join(sorted({finding.code for finding in record.now.verdict.findings if finding.change}))
    then = f"; a mend now has more to do: {more}" if more else ""
    return Outcome("changed", f"back after {seconds:.0f} s with another boot id, and proven{then}")


def _back(host: Host, boot: str, deadline: float) -> str:
    """Another boot of the host answers, and has settled; why not, where the time is over."""
    seen = "it gave no answer"
    while time.monotonic() < deadline:
        gevent.sleep(EVERY)
        try:
            now, state = _look(host)
        except Exception as error:  # whatever paramiko says of a host that goes down, or comes up
            seen = f"it gave no answer ({error})" if str(error) else seen
            _forget(host)
            continue
        if now == boot:
            seen = "it did not go down"
        elif state in UP:
            return ""
        else:
            seen = f"it is back, and its systemd is still {state or 'silent'}"
    return f"it did not come back in time: {seen}"


def _look(host: Host) -> tuple[str, str]:
    """(boot id, what systemd says of the boot)."""
    if not host.connected:
        # Not the one that begins nothing more once the run was stopped: this host was begun.
        again: Any = getattr(host.connector, "connect_again", host.connector.connect)
        again()
        host.connected = True
    text = run_program(host, LOOK, timeout=LOOK_TIMEOUT)
    try:
        now, state = json.loads(text)
    except ValueError:
        raise AnswerError("no answer of ours") from None
    return str(now), str(state)


def _forget(host: Host) -> None:
    """The connection is closed, as far as there is one. Not `host.disconnect()`, which tells the report that the host is done."""
    client: Any = getattr(host.connector, "client", None)
    with suppress(Exception):  # whatever a dead connection says
        if client is not None:
            client.close()
    host.connected = False


def _not_proven(host: Host, record: Record, before: Verdict) -> str:
    """Why the host that is back is not as it has to be; empty where it is: read and judged anew, no reboot required any more,
    nothing of the driver that fails and did not before, nothing that was well and is not, and containers proven where the desired
    state asks for it. What could not be judged before, a driver being new, is a mend's to put right."""
    try:
        with within(JUDGING):
            assessment.take(host, record, answer_of(host))
    except (RemoteError, AnswerError) as error:
        return f"it could not be read: {error}"
    except OverBudget as over:
        return f"judging it {over}"
    assert record.now is not None
    if still := due(record):
        return f"a reboot is still required: {'; '.join(still)}"
    had = {finding.code for finding in before.with_status(Status.FAIL, Status.UNKNOWN)}
    worse = [
        finding
        for finding in record.now.verdict.with_status(Status.FAIL, Status.UNKNOWN)
        if finding.code in before.passed or (finding.code.startswith("GM1") and finding.code not in had)
    ]
    if worse:
        return "; ".join(f"{finding.code} {finding.summary}" for finding in worse[:4])
    if not record.now.context.wanted.prove_image:
        return ""
    found = proof.tried(host, record, alone=True)
    record.proof = None if found.status == "unchanged" else found
    return "" if found.good and found.status != "pending" else f"proof: {found.detail}"
