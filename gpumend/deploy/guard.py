"""pyinfra, as a run of ours needs it: all that can be known to be wrong is said before a host is connected to, nobody is asked
without a terminal, one host's failure never ends the others' run, and there is a report whatever happens.

pyinfra has callbacks for hosts and operations, and none for a run. What a run passes through on every way is the state's
`set_stage` and `fail_hosts` (pyinfra 3.10 pyinfra_cli/cli.py, api/connect.py): both are this module's on the one state of the
process.
"""

from __future__ import annotations

import atexit
import gc
import logging
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatch
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from pyinfra.api import connectors
from pyinfra.api.arguments import all_argument_meta
from pyinfra.api.exceptions import ConnectError, PyinfraError
from pyinfra.api.state import BaseStateCallback, StateStage
from pyinfra.context import config as context_config
from pyinfra.context import state as context_state
from pyinfra_cli.exceptions import UnexpectedInternalError

from gpumend import schemas
from gpumend.deploy import (
    agent_report,
    bundle_report,
    early,
    facts_report,
    interrupt,
    keep_bytecode,
    keys,
    large_inventory,
    parity_report,
    rollout,
    runs_report,
    screen,
    session,
    undo,
)
from gpumend.deploy.hosts import DESCRIPTORS_A_HOST, Hosts, call, check_group_data
from gpumend.places import PROJECT
from gpumend.reports import refused, terminal
from gpumend.reports.document import Exit, document
from gpumend.reports.fleet import hosts_text
from gpumend.reports.names import nobody, some
from gpumend.reports.outputs import OutputError
from gpumend.rules.rule import RULES
from gpumend.rules.wanted import HOSTS_KEY
from gpumend.run import record as run
from gpumend.run.audit_program import SUDO
from gpumend.run.remote import reboot, ssh
from gpumend.run.remote.asking import ask_ahead
from gpumend.run.remote.connection import RemoteError
from gpumend.run.remote.layers import KEY
from gpumend.run.remote.refusal import why
from gpumend.schemas.wanted import WantedError, check, meant, not_json
from gpumend.text.mask import mask

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

# Deploys whose report is not session.finish's; those that are not here have none.
FINISH: dict[str, Callable[[State], Exit] | None] = {
    "facts": facts_report.finish,
    "parity": parity_report.finish,
    "rollback": undo.finish,
    "acknowledge": undo.acknowledged,
    "runs": runs_report.finish,
    "bundle": bundle_report.finish,
    "audit_rule": None,
    "agent": agent_report.finish,
}
ROOM, NAMED = (
    40,
    20,
)  # columns for names of hosts in a line of progress; hosts of which the names say anything
OURSELVES = "is the machine that gpumend runs on, which would end before it could say how"
# `--data KEY`: what our own deploys read
DATA = (
    KEY,
    session.REPORT_KEY,
    parity_report.POOL_KEY,
    "run",
    bundle_report.KEY,
    "audit_user",
    "agent_verb",
    SUDO,
    "output",
    "details",
    "quiet",
    session.HANDOVER_KEY,
)


def deploys(arguments: Iterable[str]) -> list[str]:
    """The names of our deploys among a command line's words: `gpu_host`."""
    paths = (Path(word) for word in arguments if word.endswith(".py"))
    return [path.stem for path in paths if path.resolve().parent == PROJECT / "deploys"]


def prepare(found: Hosts) -> None:
    """pyinfra is set for this inventory of ours: all hosts at once as far as file descriptors go, connections without delay,
    group data checked. Called by inventory.py."""
    # What it logs are tracebacks of errors that pyinfra tells in one line.
    logging.getLogger("paramiko").addHandler(logging.NullHandler())
    ssh.use_known_hosts()
    found.data["ssh_paramiko_connect_kwargs"] = {"transport_factory": ssh.nodelay_transport}
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    context_config.PARALLEL = max(1, min(len(found.hosts), (limit - 10) // DESCRIPTORS_A_HOST))
    check_group_data()
    install(context_state)


def install(state: Any) -> None:
    """The state is guarded, once however often this is called. Before `state.init`: it keeps what is set on the instance."""
    if "set_stage" in vars(_real(state)):
        return
    state = _real(state)
    keep_bytecode()  # `gpumend` loads this package before pyinfra's main
    early.little_garbage()
    large_inventory.once_for_all()
    without_debug_log()
    # What is left at the end is searched for garbage to no use: a tenth of a second.
    atexit.register(gc.freeze)
    session.without_prompts(state)
    set_stage, fail_hosts = state.set_stage, state.fail_hosts

    def staged(stage: StateStage) -> None:
        if stage is StateStage.Connect:
            gc.freeze()  # what is loaded by now stays to the end
            run.current(state.inventory).watches = True
            checked(state)
            if call().get("check"):
                told(state)
            interrupt.Interrupts(state, finish_of()).listen()
            if not state.inventory.get_override_data().get(session.QUIET_KEY):
                screen.start(lambda: how_far(state))
        elif stage is StateStage.Execute:
            if run.current(state.inventory).stopped:
                raise SystemExit(int(Exit.DRIFT))  # disconnecting, the report comes with its own
            said = call().get("rollout", {})
            if said.get("reboot"):
                not_ourselves(state)
            if "plan" in said:
                rollout.refuse_changed(run.current(state.inventory), said["plan"])
            if call().get("ask"):
                asked(state, bool(said.get("reboot")))
            how = rollout.Rollout.of(said)
            if how != rollout.Rollout():
                rollout.run_all(state, how)
                raise SystemExit(int(Exit.OK))  # disconnecting, the report comes with its own
        elif stage is StateStage.Disconnect:
            rollout.watched(state)
        set_stage(stage)

    def failed(hosts: set[Host], activated_count: int | None = None) -> None:
        try:
            fail_hosts(hosts, activated_count)
        except PyinfraError:
            if state.current_stage is StateStage.Connect and not state.active_hosts:
                nobody_there(state)
            raise

    state.set_stage, state.fail_hosts = staged, failed


def _real(state: Any) -> Any:
    """The state behind pyinfra's context proxy."""
    return state._get_module() if hasattr(state, "_get_module") else state


def without_debug_log() -> None:
    """An internal error of pyinfra's is told on standard error, and leaves no pyinfra-debug.log in the current directory."""

    def show(self: UnexpectedInternalError, file: Any = None) -> None:
        rows = "".join(traceback.format_exception(self.exception))
        click.echo(
            f"gpumend: internal error: {type(self.exception).__name__}: {self.exception}\n{rows}",
            err=True,
            nl=False,
        )

    UnexpectedInternalError.show = show


class Connections(BaseStateCallback):
    """Keeps why a host could not be connected to, for its report."""

    def host_connect_error(self, state: State, host: Host, error: BaseException) -> None:  # type: ignore[override]
        run.current(state.inventory).record(host.name).error = f"could not be reached: {why(host, error)}"


class Ahead(BaseStateCallback):
    """Each host is asked as soon as it is connected to, and waits for no other: one that is down takes its ten seconds to be given up."""

    def host_connect(self, state: State, host: Host) -> None:  # type: ignore[override]
        ask_ahead(host, interrupt.waits(host.name, RemoteError))


def audits() -> bool:
    """Whether all that is run begins with reading each host, and changes none."""
    return "--dry" in sys.argv and session.only_ours() and finish_of() is session.finish


def checked(state: State) -> None:
    """Ends the run with exit status 2 and a report where it could not be right whatever the hosts say; else each host's
    connection is kept apart from the others'."""
    try:
        for output in session.outputs_of(state):
            session.writable(output.path)
    except OutputError as error:
        click.echo(f"gpumend: --data output: {error}", err=True)
        raise SystemExit(int(Exit.USAGE)) from None
    except OSError as error:
        click.echo(f"gpumend: the report could not be written: {error}", err=True)
        raise SystemExit(int(Exit.USAGE)) from None
    problem = no_host(state) or wrong_data(state) or reboots_itself(state)
    if problem:
        refuse(state, problem)
    state.add_callback_handler(Connections())
    if audits():
        state.add_callback_handler(Ahead())
    for host in state.inventory:
        _contained(host)


def reboots_itself(state: State) -> str:
    """What to say where --reboot is asked for with this very machine among the hosts; else nothing. `not_ourselves` has those that
    are it by another name."""
    if not call().get("rollout", {}).get("reboot"):
        return ""
    ours = [
        host.name
        for host in state.inventory
        if state.is_host_in_limit(host) and host.name.startswith("@local")
    ]
    return f"--reboot: {some(ours)} {OURSELVES}" if ours else ""


def told(state: State) -> NoReturn:
    """`gpumend check`: all that can be known without a connection is right, or is said."""
    wrong = keys.problems(state)
    for line in wrong:
        click.echo(f"gpumend: {mask(line)}", err=True)
    screen.told()
    if not wrong:
        count = len([host for host in state.inventory if state.is_host_in_limit(host)])
        click.echo(
            f"nothing is wrong with what was given for {count} host{'s' * (count != 1)}; none was connected to"
        )
    raise SystemExit(int(Exit.USAGE if wrong else Exit.OK))


def refuse(state: State, text: str) -> NoReturn:
    """Nothing is connected to: said, written where the report goes, and exit status 2."""
    click.echo(f"gpumend: {mask(text)}", err=True)
    named = deploys(sys.argv[1:])
    told = refused.document(
        named[0] if named else "", text, run.current(state.inventory), mend="--dry" not in sys.argv
    )
    session.write(state, told, Exit.USAGE)
    raise SystemExit(int(Exit.USAGE))


def _contained(host: Any) -> None:
    """Whatever goes wrong in connecting to this host is this host's: pyinfra ends the whole run for a key that cannot be read
    (connectors/ssh_util.py), and for whatever paramiko raises that it does not expect."""
    connect = host.connector.connect
    host.connector.connect_again = connect

    def attempt() -> None:
        try:
            this = run.current(host.inventory)
            if this.stopped:
                raise ConnectError(f"{this.stopped}: it was not connected to any more")
            with interrupt.waits(host.name, ConnectError):
                connect()
        except ConnectError:
            raise
        except Exception as error:
            named = "" if isinstance(error, PyinfraError) else f"{type(error).__name__}: "
            raise ConnectError(f"{named}{error}") from error

    host.connector.connect = attempt


def given(option: str, arguments: list[str]) -> list[str]:
    """The values of an option of pyinfra's command line."""
    found = [value for word, value in pairwise(arguments) if word == option]
    return found + [word.partition("=")[2] for word in arguments if word.startswith(f"{option}=")]


def data_words() -> None:
    """Ends a run of ours with exit status 2 where `--data` has no KEY=VALUE: pyinfra 3.10 has a traceback for it
    (pyinfra_cli/cli.py _set_override_data). Called by config.py, which pyinfra runs before."""
    for item in given("--data", sys.argv[1:]) if deploys(sys.argv[1:]) else ():
        if not item.partition("=")[0] or "=" not in item:
            click.echo(f"gpumend: --data {mask(item)}: KEY=VALUE is needed", err=True)
            raise SystemExit(int(Exit.USAGE))


def no_host(state: State) -> str:
    """What to say where the inventory has no host, or a pattern matches none; else nothing."""
    inventory = state.inventory
    hosts = [host.name for host in inventory]
    if not hosts:
        return f"no host: {', '.join(sys.argv[1:2])} names none"
    stems = {Path(word).stem for word in sys.argv[1:]}  # pyinfra makes a group of the file of an inventory
    groups = {name: members for name, members in inventory.groups.items() if members}
    for pattern in given("--limit", sys.argv[1:]):
        if not groups.get(pattern) and not any(fnmatch(name, pattern) for name in hosts):
            return nobody(pattern, hosts, [name for name in groups if name not in (*stems, *hosts, "all")])
    if not any(state.is_host_in_limit(host) for host in inventory):
        return nobody(" ".join(given("--exclude", sys.argv[1:])), hosts, [])
    return ""


def wrong_data(state: State) -> str:
    """What to say where data that was given could not be meant: a key that is nearly one of ours, a wanted state that is not
    valid, a waiver of nothing; else nothing. A waiver that holds for no host here is only told."""
    inventory = state.inventory
    layers: list[Mapping[str, Any]] = [inventory.get_data(), *inventory.group_data.values()]
    layers += [inventory.get_host_data(host.name) for host in inventory]
    override = inventory.get_override_data()
    return wrong_keys(override, layers) or _wrong_wanted(state, [*layers, override])


def wrong_keys(override: Mapping[str, Any], layers: Iterable[Mapping[str, Any]]) -> str:
    """What to say of `--data` whose key nobody reads and that is nearly one that somebody does."""
    theirs: set[str] = {key for layer in layers for key in layer}
    theirs.update(all_argument_meta)
    for connector in connectors.get_all_connectors().values():
        theirs.update(getattr(connector, "data_meta", {}))
    for key in override:
        if key in theirs or key in DATA:
            continue
        if key in schemas.load("wanted")["properties"]:
            return f"--data {key}: it is a key of gpumend: --data gpumend='{{\"{key}\": ...}}'"
        guess = meant(key, DATA)
        if guess:
            return f"--data {key}: unknown key{guess}"
    wanted = override.get(KEY)
    if isinstance(wanted, str):
        return f"--data {KEY}={wanted}: {not_json(wanted)}"
    return ""


def _wrong_wanted(state: State, layers: list[Mapping[str, Any]]) -> str:
    hosts = [host.name for host in state.inventory]
    seen: set[int] = set()
    for layer in layers:
        for key in (KEY, HOSTS_KEY):
            if key not in layer or id(layer[key]) in seen:
                continue
            seen.add(id(layer[key]))
            try:
                check(layer[key])
            except WantedError as error:
                return f"the wanted state is not valid:\n{error}"
            for code, pattern in _waivers(layer[key]):
                if code not in RULES:
                    return f"gpumend.waivers: there is no finding {code}{meant(code, RULES)}"
                if pattern != "*" and not any(fnmatch(name, pattern) for name in hosts):
                    click.echo(
                        f"gpumend: the waiver of {code} for {pattern!r} holds for no host here{meant(pattern, hosts)}",
                        err=True,
                    )
    return ""


def _waivers(wanted: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for waiver in wanted.get("waivers", ()):
        yield waiver["code"], waiver.get("host", "*")


def nobody_there(state: State) -> None:
    """No host could be connected to: pyinfra ends here, before a deploy of ours begins. The report is told all the same."""
    finish = finish_of()
    screen.stop()
    if finish is not None:
        state.is_executing = "--dry" not in sys.argv  # a mend is told as one
        raise SystemExit(int(finish(state)))


def finish_of() -> Callable[[State], Exit] | None:
    """What tells the report of this run; None where it has none."""
    named = [FINISH[name] for name in deploys(sys.argv[1:]) if name in FINISH]
    return named[0] if named else session.finish


def _few(names: list[str]) -> str:
    """Names where there are few; of a thousand hosts a count is made five times a second."""
    return hosts_text(names, ROOM) if len(names) <= NAMED else f"{len(names)} hosts"


def how_far(state: State) -> str:
    """One line: how many hosts are done with what the run is at, and on which it waits."""
    this = run.current(state.inventory)
    hosts = [host.name for host in state.inventory if state.is_host_in_limit(host)]
    busy = [name for name, record in this.records.items() if record.busy]
    if busy:
        count = sum(len(record.done) for record in this.records.values())
        slowest = run.longest([this.records[name] for name in busy], time.monotonic())
        done = f"{count} change{'s' * (count != 1)} done; " if count else ""  # a line of a terminal is short
        return f"{done}at work on {_few(busy)}{slowest}"
    known = {name for name, record in this.records.items() if record.now or record.error}
    if state.current_stage is StateStage.Connect:
        known |= {host.name for host in state.inventory if host.connected}
    left = [name for name in hosts if name not in known]
    what = "connecting" if state.current_stage is StateStage.Connect else "reading"
    if not left:
        return ""
    return f"{what}: {len(hosts) - len(left)} of {len(hosts)} hosts; waiting for {_few(left)}"


def not_ourselves(state: State) -> None:
    """Ends the run with exit status 2, before anything is changed, where a host that could be rebooted is the machine that this
    runs on: the run would end with it, and nobody would see how."""
    this = run.current(state.inventory)
    ours = sorted(name for name, record in this.records.items() if reboot.is_controller(name, record))
    if not ours:
        return
    text = f"--reboot: {some(ours)} {OURSELVES}; nothing was changed"
    click.echo(f"gpumend: {text}", err=True)
    for handler in state.callback_handlers:
        if isinstance(handler, session.Reporter):
            handler.usage_error = text
    raise SystemExit(int(Exit.USAGE))


def asked(state: State, reboots: bool = False) -> None:
    """On a terminal, before anything is changed: what would be, on which hosts, and the one question. Ends the run where
    the answer is no. reboots: whether hosts are rebooted, too."""
    this = run.current(state.inventory)
    due = sorted(name for name, record in this.records.items() if reboots and reboot.due(record))
    planned = sorted(
        name
        for name, record in this.records.items()
        if record.now and record.now.plan.transactions and not record.done
    )
    if not planned and not due:
        return
    session.unreached(state, this)
    told = document(this, executed=False)
    screen.stop()
    with screen.all_seen():
        if session.target_of(state) != "-":
            session.show(state, told, executed=False)
        else:
            click.echo(terminal.render(told), err=True, nl=False)
            this.shown = True
        click.echo(
            f"\nTo be changed: {len(planned)} host{'s' * (len(planned) != 1)}: {some(planned)}", err=True
        )
        if reboots:
            now = some(due) if due else "none as they are now"
            click.echo(f"To be rebooted, where it is required once they are changed: {now}", err=True)
        try:
            with interrupt.answered():
                go_on = click.confirm("Change them as shown above?", err=True)
        except click.Abort:
            go_on = False
    screen.start(lambda: how_far(state))
    if not go_on:
        click.echo("gpumend: nothing was changed", err=True)
        raise SystemExit(int(Exit.DRIFT))  # disconnecting, the report comes with its own
