"""From findings to transactions: what exactly is done on a host, one transaction a component.

Audit shows a plan and mend sends it: they cannot disagree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from facts.reading import Unread
from rules import cdi, docker
from rules.edits import Edit, EditError, apply
from rules.finding import Change, Component, Finding, Risk
from rules.rule import Context


@dataclass(frozen=True)
class Step:
    """One thing done to one path, or one command.

    do: `write` (data), `generate` (argv's standard output becomes the file), `trigger` (argv writes the file itself),
    `remove`, `mode` (only permission bits) or `run` (argv, no file).
    before: SHA-256 of the bytes the plan was made from; None where there was no file. The host refuses the step when
    it finds others.
    """

    do: str
    path: str = ""
    before: str | None = None
    data: bytes | None = None
    mode: int = 0o644
    argv: tuple[str, ...] = ()
    was: bytes | None = None

    @property
    def changes_bytes(self) -> bool:
        return self.do != "mode" and self.do != "run"


@dataclass(frozen=True)
class Proof:
    """What the host must show afterwards. path: keys into `docker info`; wanted: a key or value that must be there.
    needs: whether it can only come true after a `reload` or a `restart`."""

    path: tuple[str, ...]
    needs: str = ""


@dataclass(frozen=True)
class Transaction:
    """All of one component's change on one host. service: (unit, reload|restart); gate: why a restart would wait now.

    codes: the findings it puts right. validate: argv with `{staged}` for the staged file, judged by its exit status.
    """

    component: Component
    codes: tuple[str, ...]
    steps: tuple[Step, ...] = ()
    service: tuple[str, str] | None = None
    gate: str = ""
    validate: tuple[str, ...] = ()
    proofs: tuple[Proof, ...] = ()
    journals: tuple[str, ...] = ()

    @property
    def risk(self) -> Risk:
        return Risk(self.service[1]) if self.service else Risk.NONE


@dataclass(frozen=True)
class Plan:
    """Transactions in the order they run; blocked: components that cannot be planned, with the reason."""

    transactions: tuple[Transaction, ...] = ()
    blocked: Mapping[Component, str] = field(default_factory=dict)

    def get(self, component: Component) -> Transaction | None:
        return next((found for found in self.transactions if found.component is component), None)


def plan(context: Context, findings: tuple[Finding, ...]) -> Plan:
    """The transactions that put the findings' changes into effect. Pure; raises nothing."""
    transactions, blocked = [], {}
    # An interrupted run is put back first, by itself: what the others would change is known only after it.
    recover = any(f.change and f.change.component is Component.RECOVER for f in findings)
    for component in Component:
        mine = [finding for finding in findings if finding.change and finding.change.component is component]
        if not mine or (recover and component is not Component.RECOVER):
            continue
        changes = [finding.change for finding in mine if finding.change]
        codes = tuple(dict.fromkeys(finding.code for finding in mine))
        try:
            transactions.append(BUILDERS[component](context, codes, changes))
        except (EditError, Unread) as error:
            blocked[component] = str(error)
    return Plan(tuple(transactions), blocked)


def restart_gate(context: Context) -> str:
    """Why a restart of dockerd would have to wait on this host now, or an empty text."""
    state, policy = context.state.docker, context.wanted.restarts
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    if not state.running or (state.info.value or {}).get("LiveRestoreEnabled") is True:
        return ""
    running = [found.label() for found in state.containers.value or () if found.running]
    return f"it would stop {len(running)} running: {', '.join(sorted(running))}" if running else ""


def _remove(context: Context, path: str) -> Step:
    file = next((found for found in context.state.cdi.files.need() if found.path == path), None)
    return Step("remove", path, before=file.sha256 if file else None, was=file.data if file else None)


def _recover(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    return Transaction(Component.RECOVER, codes, journals=tuple(dict.fromkeys(c.action for c in changes)))


def _driver(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    steps = []
    actions = {change.action for change in changes}
    if "ldconfig" in actions:
        steps.append(Step("run", argv=("ldconfig",)))
    if "modprobe" in actions:
        count = max(len(context.state.gpus.proc.value or ()), 1)
        minors = tuple(word for minor in (*range(count), 255) for word in ("-c", str(minor)))
        # With -u its -c counts nvidia-uvm's own nodes: two calls (nvidia-modprobe(1)).
        steps.append(Step("run", argv=("nvidia-modprobe", *minors)))
        steps.append(Step("run", argv=("nvidia-modprobe", "-u", "-c", "0", "-c", "1")))
    if "nodes" in actions:
        argv = ("nvidia-ctk", "system", "create-device-nodes", "--control-devices", "--load-kernel-modules")
        steps.append(Step("run", argv=argv))
    return Transaction(Component.DRIVER, codes, tuple(steps))


def _apt(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    sources = context.state.toolkit.sources
    paths = [path for change in changes for path in change.action.removeprefix("remove:").split(":")]
    return Transaction(
        Component.APT,
        codes,
        tuple(Step("remove", path, before=sources[path].sha256, was=sources[path].data) for path in paths),
    )


def _cdi(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    files = {file.path: file for file in context.state.cdi.files.need()}
    actions = list(dict.fromkeys(change.action for change in changes))
    steps: list[Step] = []
    target = cdi.target(context)
    if target not in files and any(action.startswith("remove:") for action in actions):
        actions.insert(0, "generate")  # nothing is taken away before what replaces it is there
        actions = list(dict.fromkeys(actions))
    if "generate" in actions:
        path = target
        old = files.get(path)
        before, was = (old.sha256, old.data) if old else (None, None)
        if cdi.uses_refresh(context):
            steps.extend(_refresh_environment(context))
            argv = ("systemctl", "restart", "nvidia-cdi-refresh.service")
            steps.append(Step("trigger", path, before=before, was=was, argv=argv))
        else:
            flags = tuple(f"--feature-flag={flag}" for flag in cdi.flags(context))
            steps.append(
                Step("generate", path, before=before, was=was, argv=("nvidia-ctk", "cdi", "generate", *flags))
            )
    for action in actions:
        verb, _, paths = action.partition(":")
        if verb == "remove":
            steps.extend(_remove(context, path) for path in paths.split(":"))
        elif verb == "mode" and not (paths == target and "generate" in actions):
            old = files.get(paths)
            steps.append(Step("mode", paths, before=old.sha256 if old else None, mode=0o644))
    info = context.state.docker.info.value or {}
    # dockerd's own watch of the folders lags a moment behind a rename: wait until it has seen the spec.
    sees = bool(info.get("CDISpecDirs")) and "DiscoveredDevices" in info and "generate" in actions
    return Transaction(
        Component.CDI, codes, tuple(steps), proofs=(Proof(("DiscoveredDevices",)),) if sees else ()
    )


def _refresh_environment(context: Context) -> list[Step]:
    """The line in nvidia-cdi-refresh.env that keeps its feature flags, where an old engine needs them."""
    from facts.cdi import REFRESH_ENV

    content, before = context.state.cdi.refresh_env_file.value, context.state.cdi.refresh_env.get()
    key, text = "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS", before or ""
    set_now = re.search(rf"(?m)^{key}=(.*)$", text)
    flags = [flag for flag in (set_now.group(1) if set_now else "").strip("\"' ").split(",") if flag]
    lacking = [flag for flag in cdi.flags(context) if flag not in flags]
    if not lacking:
        return []
    line = f"{key}={','.join((*flags, *lacking))}"
    if set_now:
        text = text[: set_now.start()] + line + text[set_now.end() :]
    else:
        text += ("\n" if text and not text.endswith("\n") else "") + line + "\n"
    return [
        Step(
            "write",
            REFRESH_ENV,
            before=content.sha256 if content else None,
            data=text.encode(),
            was=content.data if content else None,
        )
    ]


def _edited(path: str, was: bytes | None, sha256: str | None, edits: list[Edit]) -> tuple[Step, ...]:
    """The write step that gives the edited bytes; none where they are the old ones."""
    data = apply(path, was, edits)
    return () if data == was else (Step("write", path, before=sha256, data=data, was=was),)


def _toolkit(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    content = context.state.toolkit.content.get()
    edits = [edit for change in changes for edit in change.edits]
    path = edits[0].path
    steps = _edited(path, content.data if content else None, content.sha256 if content else None, edits)
    return Transaction(Component.TOOLKIT, codes, steps)


def _docker(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    state = context.state.docker
    content = state.content.get()
    edits = [edit for change in changes for edit in change.edits]
    steps = (
        _edited(
            state.config_path, content.data if content else None, content.sha256 if content else None, edits
        )
        if edits
        else ()
    )
    services = [change.service for change in changes if change.service]
    service = docker.RESTART if docker.RESTART in services else docker.RELOAD
    proofs = []
    if "runtime" in docker.wanted_paths(context) and "GM403" in codes:
        proofs.append(Proof(("Runtimes", "nvidia"), needs="reload"))
    if "GM404" in codes or "GM405" in codes:
        proofs.append(Proof(("CDISpecDirs",), needs="restart"))
    validates = bool(steps) and (state.version.value or (0,)) >= docker.VALIDATE_SINCE
    return Transaction(
        Component.DOCKER,
        codes,
        steps,
        service=service,
        gate=restart_gate(context) if service == docker.RESTART else "",
        validate=("dockerd", "--validate", "--config-file", "{staged}") if validates else (),
        proofs=tuple(proofs),
    )


BUILDERS = {
    Component.RECOVER: _recover,
    Component.DRIVER: _driver,
    Component.APT: _apt,
    Component.CDI: _cdi,
    Component.TOOLKIT: _toolkit,
    Component.DOCKER: _docker,
}
