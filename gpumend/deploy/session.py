"""What every deploy shares: the host is read and judged, the report is told, the exit status is right."""

from __future__ import annotations

import errno
import inspect
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from pyinfra.api.state import BaseStateCallback
from pyinfra.context import host as context_host
from pyinfra.context import state as context_state

from gpumend.deploy import interrupt, screen
from gpumend.deploy.hosts import call
from gpumend.places import PROJECT
from gpumend.reports import handover, outputs, terminal
from gpumend.reports.document import Exit, document, worst
from gpumend.reports.fleet import one_line
from gpumend.run import record as run
from gpumend.run.concern import CONCERNS
from gpumend.run.remote import assessment
from gpumend.run.remote.connection import NobodyToAsk, RemoteError
from gpumend.schemas.wanted import WantedError
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

REPORT_KEY = "report"  # a file for the JSON
OUTPUT_KEY = "output"  # FORMAT=PATH, or a list of them
DETAILS_KEY = "details"
HANDOVER_KEY = "handover"  # a directory for each host's own document
QUIET_KEY = "quiet"
TERMINAL = outputs.Output("text", outputs.STDOUT)  # what is shown anyway


class Enter:
    """Standard input where there is no terminal: every prompt of pyinfra gets its Enter. Nothing asks questions."""

    def readline(self, *_: object) -> str:
        return "\n"

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise NobodyToAsk("there is no terminal")  # getpass asks for it


def without_prompts(state: State) -> None:
    """No prompt without a terminal, and none about failed hosts at all: one host's failure never stops the others."""
    if sys.stdin is None or not sys.stdin.isatty():
        sys.stdin = Enter()
    if (
        state.should_raise_failed_hosts is not None
    ):  # pyinfra's own prompt; a --fail-percent of the user's stays
        state.should_raise_failed_hosts = lambda _: False


def known_source(filename: str) -> None:
    """`inspect` takes a deploy's file for one of a module. pyinfra looks at the whole call stack for each operation, and
    for a file of no module `inspect` goes through all modules each time: 4 ms, 60 ms a host that is mended."""
    inspect.modulesbyfile.setdefault(str(Path(filename).absolute()), __name__)


class Reporter(BaseStateCallback):
    """Tells the report when the last host is let go, and gives pyinfra our exit status.

    Raising SystemExit in host_disconnect is the way out that pyinfra leaves: it is called last, on every way to the
    end, and gevent hands the exit to the main greenlet (pyinfra 3.10 pyinfra_cli/cli.py, measured).
    """

    def __init__(self, finish: Callable[[State], Exit]) -> None:
        self.finish = finish
        self.usage_error = ""
        self.gone: set[str] = set()

    def host_disconnect(self, state: State, host: Host) -> None:  # type: ignore[override]  # pyinfra calls the instance's
        self.gone.add(host.name)
        if len(self.gone) < len(state.activated_hosts):
            return
        screen.stop()
        if self.usage_error:
            raise SystemExit(int(Exit.USAGE))
        status = self.finish(state)
        if status is not Exit.OK:
            raise SystemExit(int(status))


def finish(state: State) -> Exit:
    """Print the report, write it where and how it is asked for, and return the exit status."""
    this = run.current(state.inventory)
    unreached(state, this)
    for found in state.inventory:
        if state.is_host_in_limit(found) and (record := this.record(found.name)).before is None:
            record.error = record.error or "was not read: the run ended before it"
    executed = state.is_executing
    told = document(this, executed)
    status = Exit(told["exit"])
    try:
        handover.written(this, executed, str(state.inventory.get_override_data().get(HANDOVER_KEY, "")))
    except OSError as error:
        click.echo(f"gpumend: the hand-over could not be written: {error}", err=True)
        status = worst((Exit.UNREAD, status))
    if target_of(state) != "-" and (executed or not this.shown):
        show(state, told, executed)
    return write(state, told, status)


FINISH = finish  # `begin` has its own by this name


def show(state: State, told: dict[str, Any], executed: bool) -> None:
    """The report on standard output, and a line of what the run was not about; with `--data quiet=true` the run's one line."""
    this = run.current(state.inventory)
    given = state.inventory.get_override_data()
    if given.get(QUIET_KEY):
        text = terminal.summary(told) + "\n"
    else:
        text = terminal.render(told, diffs=not this.shown, details=bool(given.get(DETAILS_KEY)))
    click.echo(text, nl=False, color=terminal.colored())
    this.shown = True
    rest = {name: record.now.rest for name, record in this.records.items() if record.now and record.now.rest}
    if rest and not given.get(QUIET_KEY):
        codes = sorted({finding.code for findings in rest.values() for finding in findings})
        about = ", ".join(dict.fromkeys(concern.name for concern in this.concern))
        click.echo(
            f"Not about {about}, and neither shown nor changed here: {' '.join(codes)}"
            f"{f' on {len(rest)} hosts' if len(rest) > 1 else ''}; `gpumend audit` shows all."
        )


def write(state: State, told: dict[str, Any], status: Exit) -> Exit:
    """The report is where `--data report=FILE` and `--data output=FORMAT=PATH` want it; a file that cannot be written is
    told, the others are written all the same, and it is at least exit 1."""
    screen.told()
    for output in outputs_of(state):
        if output == TERMINAL:
            continue
        try:
            outputs.write(told, output)
        except OSError as error:
            click.echo(f"gpumend: the report could not be written: {error}", err=True)
            status = worst((Exit.UNREAD, status))
    return status


def writable(target: str) -> None:
    """A report can be written there. Raises OSError, and leaves nothing there."""
    if not target or target == "-":
        return
    path = Path(target)
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with tempfile.NamedTemporaryFile(prefix=f".{path.name[:100]}.", dir=path.parent):
        pass


def unreached(state: State, this: run.Run) -> None:
    """Hosts that pyinfra gave up before ours began have a record that says so."""
    for found in state.failed_hosts:
        record = this.record(found.name)
        if record.before is None and not record.error:
            record.error = "could not be reached"


def outputs_of(state: State) -> tuple[outputs.Output, ...]:
    """What `--data report=FILE` (JSON) and `--data output=FORMAT=PATH` (or a JSON list of them) ask for. Raises OutputError."""
    given = state.inventory.get_override_data()
    report, output = given.get(REPORT_KEY, ""), given.get(OUTPUT_KEY, ())
    texts = [str(item) for item in (output if isinstance(output, list) else [output] if output else [])]
    return outputs.parse_all(([f"json={report}"] if report != "" else []) + texts)


def target_of(state: State) -> str:
    """`-` where standard output belongs to a report in another format than the terminal's, else an empty text."""
    taken = any(found.path == outputs.STDOUT and found != TERMINAL for found in outputs_of(state))
    return outputs.STDOUT if taken else ""


def reporter(state: State, finish: Callable[[State], Exit]) -> Reporter:
    """This run's reporter, registered once however many deploys are loaded. finish: tells the report at the end."""
    for handler in state.callback_handlers:
        if isinstance(handler, Reporter):
            return handler
    handler = Reporter(finish)
    state.add_callback_handler(handler)
    without_prompts(state)
    known_source(state.current_exec_filename or __file__)
    return handler


def begin(
    finish: Callable[[State], Exit] = finish,
    shown: bool = True,
    wanted: Mapping[str, Any] | None = None,
    concern: str | None = None,
    hands_over: bool = False,
) -> bool:
    """Read and judge the host of this context. True where something is planned for it and is to be done: only then are
    operations worth their 1 ms each of pyinfra's own time, which on a thousand hosts would be most of the audit.

    A host that gave no answer is failed, and the others go on. Ends the whole run with exit status 2, before anything is changed, where the wanted state is not valid.
    shown: whether the audit is shown as soon as the last host has answered. wanted: what this deploy wants of every host
    that says nothing else. concern: what it is about (run/concern.py), and its report with it; everything where it says none.
    hands_over: whether each node gets its own document where the desired state names a directory.
    """
    state, host = context_state, context_host
    told = reporter(state, finish)
    this = run.current(state.inventory)
    this.wanted = wanted or this.wanted
    this.hands_over = hands_over or this.hands_over
    if directory := state.inventory.get_override_data().get(HANDOVER_KEY):
        this.wanted = {**this.wanted, "handover": str(directory)}
    try:
        outputs_of(state)
    except outputs.OutputError as error:
        told.usage_error = str(error)
        click.echo(f"gpumend: --data output: {error}", err=True)
        raise SystemExit(int(Exit.USAGE)) from None
    about = CONCERNS[concern] if concern else None
    if about not in this.concerns:
        this.concerns.append(about)
    record, dry = this.record(host.name), "--dry" in sys.argv
    try:
        with interrupt.waits(host.name, RemoteError):
            assessment.assess(host, mends=not dry)
    except WantedError as error:
        told.usage_error = str(error)
        click.echo(f"gpumend: {host.name}: the wanted state is not valid:\n{error}", err=True)
        raise SystemExit(int(Exit.USAGE)) from None
    except RemoteError as error:
        record.error = str(error)
    except Exception as error:  # a fault of ours on one host must not end the others' run
        record.error = f"internal error: {type(error).__name__}: {error}"
    progress(state, shown)
    if record.error:
        click.echo(f"{host.print_prefix}{click.style(one_line(mask(record.error)), fg='red')}", err=True)
        state.fail_hosts({real(host)})
    if record.now is None:
        return False
    wants = record.now.wanted
    hands = this.hands_over and bool(wants.handover)
    goes_on = bool(record.now.plan.transactions) or (hands and bool(wants.prove_image))
    # Another deploy of this run may be about what this one is not.
    planned = bool((record.now.whole or record.now).plan.transactions)
    if (dry or not planned) and done_with(state, told):
        assessment.let_go(host)
    return goes_on and not dry


def done_with(state: State, told: Reporter) -> bool:
    """Whether nobody asks what a host is once it was judged and nothing is to be changed there: not the report, nor a reboot, a
    rollback (`--data run=`) or what is handed over, nor a deploy that is not ours, which may ask for facts."""
    given = state.inventory.get_override_data()
    return (
        told.finish is FINISH
        and only_ours()
        and not run.current(state.inventory).hands_over
        and not (given.get(HANDOVER_KEY) or given.get("run"))
        and not call().get("rollout", {}).get("reboot")
    )


def only_ours() -> bool:
    """Whether what is run are deploys, and each is one of ours."""
    deploys = [Path(word).resolve() for word in sys.argv[2:] if word.endswith(".py")]
    return bool(deploys) and all(path.parent == PROJECT / "deploys" for path in deploys)


def real(host: Any) -> Host:
    """The host behind pyinfra's context proxy: sets of hosts hold the real ones."""
    found: Host = host.inventory.get_host(host.name)
    return found


def progress(state: State, shown: bool) -> None:
    """A line that counts answers on a terminal; and, where pyinfra is about to ask there whether to go on, the audit's
    report as soon as the last host has answered."""
    this = run.current(state.inventory)
    asks = sys.stdin.isatty() and state.check_for_changes
    if not asks and not sys.stderr.isatty():
        return  # nobody watches: for a thousand hosts the counting alone would be a million steps
    answered = sum(1 for record in this.records.values() if record.before or record.error)
    total = len(state.activated_hosts)
    if sys.stderr.isatty() and screen.current() is None:
        click.echo(
            f"\r{answered}/{total} hosts answered" + ("\n" if answered == total else ""), err=True, nl=False
        )
    if shown and asks and answered == total and not this.shown and target_of(state) != "-":
        unreached(state, this)
        show(state, document(this, executed=False), executed=False)
