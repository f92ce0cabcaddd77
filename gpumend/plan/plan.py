"""From findings to transactions: what exactly is done on a host, one transaction a component.

Audit shows a plan and mend sends it: they cannot disagree.
"""

from __future__ import annotations

import hashlib
import re

from gpumend.plan.transaction import InnerDaemon, Plan, Proof, Step, Transaction
from gpumend.rules.cdi import spec as cdi
from gpumend.rules.cuda import compat as cuda_compat
from gpumend.rules.engines import containerd_config, crio, grit, injection, podman
from gpumend.rules.engines import docker_config as docker
from gpumend.rules.finding import Change, Component, Finding
from gpumend.rules.rule import Context
from gpumend.rules.storage import inner as storage
from gpumend.rules.storage.restarts import restart_gate
from gpumend.rules.toolkit import packages
from gpumend.state.cdi import REFRESH_ENV
from gpumend.state.cuda import NOTE
from gpumend.state.driver import CHAR_RULE
from gpumend.state.reading import Unread
from gpumend.state.snapshot import FileContent
from gpumend.state.storage import FUSE_BOOT, OUR_DROPIN
from gpumend.state.toolkit import CONFIG
from gpumend.text.edits import Edit, EditError, apply, apply_lines
from gpumend.text.version import show


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


def _write(path: str, content: FileContent | None, data: bytes) -> Step:
    """The step that gives a file these bytes, where the plan saw `content`; None where there was no file."""
    before, was = (content.sha256, content.data) if content else (None, None)
    return Step("write", path, before=before, data=data, was=was)


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
    if "char-links" in actions:
        # Of the nodes that are there: --create-all takes the GPUs from PCI, and makes none where it sees none there.
        steps.append(Step("run", argv=("nvidia-ctk", "system", "create-dev-char-symlinks")))
        old, data = context.state.driver.char_rule.get(), injection.UDEV_TEXT.encode()
        if old is None or old.data != data:
            steps.append(_write(CHAR_RULE, old, data))
    return Transaction(Component.DRIVER, codes, tuple(steps))


def _apt(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    sources = context.state.toolkit.sources.need()
    paths = [path for change in changes for path in change.action.removeprefix("remove:").split(":")]
    return Transaction(
        Component.APT,
        codes,
        tuple(Step("remove", path, before=sources[path].sha256, was=sources[path].data) for path in paths),
    )


def _packages(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The toolkit's packages, all in one version; proven by what its programs say. Their scripts write config.toml."""
    found, manager = packages.job(context), context.state.packages.manager
    content = context.state.toolkit.content.get()
    before, was = (content.sha256, content.data) if content else (None, None)
    steps = (
        Step("package", CONFIG, before=before, was=was, argv=(manager, found.action, *found.targets)),
        Step("toolkit", argv=(manager, found.version)),
    )
    return Transaction(Component.PACKAGES, codes, steps, package_wait=context.wanted.toolkit_lock_wait)


def _cdi(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    files = {file.path: file for file in context.state.cdi.files.need()}
    actions = list(dict.fromkeys(change.action for change in changes))
    steps: list[Step] = []
    target = cdi.target(context)
    if target not in files and f"remove:{cdi.STATIC}" in actions and cdi.uses_refresh(context):
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
    # dockerd's own watch of the directories lags a moment behind a rename: wait until it has seen the spec.
    sees = bool(info.get("CDISpecDirs")) and "DiscoveredDevices" in info and "generate" in actions
    return Transaction(
        Component.CDI, codes, tuple(steps), proofs=(Proof(("DiscoveredDevices",)),) if sees else ()
    )


def _refresh_environment(context: Context) -> list[Step]:
    """The line in nvidia-cdi-refresh.env that keeps its feature flags, where an old engine needs them."""
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
    return [_write(REFRESH_ENV, content, text.encode())]


def _edited(path: str, content: FileContent | None, edits: list[Edit]) -> tuple[Step, ...]:
    """The write step that gives the edited bytes; none where they are the old ones."""
    was = content.data if content else None
    data = apply(path, was, edits)
    return () if data == was else (_write(path, content, data),)


def _toolkit(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    content = context.state.toolkit.content.get()
    edits = [edit for change in changes for edit in change.edits]
    path = edits[0].path
    steps = _edited(path, content, edits)
    return Transaction(Component.TOOLKIT, codes, steps)


def _docker(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    state = context.state.docker
    content = state.content.get()
    edits = [edit for change in changes for edit in change.edits]
    steps = _edited(state.config_path, content, edits) if edits else ()
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


def _cuda(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """Off the path what harms, then out what is outgrown, then in and on the path what is wanted; proven by cuInit.

    A package comes before the files that name its directory, and goes after the files that named it.
    """
    actions = {change.action for change in changes}
    release = cuda_compat.compat_release(context) if "compat" in actions else None
    files, away = cuda_compat.files(context, actions, release)
    steps: list[Step] = []
    manager = context.state.packages.manager
    if release is not None:
        directory, package = cuda_compat.directory_of(release), cuda_compat.package_of(release)
        if not any(found.directory == directory for found in context.state.cuda.compats):
            steps.append(Step("package", argv=(manager, "install", package)))
        driver = show(context.state.driver.loaded.need())
        steps.append(Step("note", argv=(directory, NOTE, driver)))
    for path, data in files.items():
        old = context.state.cuda.linker_files.get(path) or context.state.cuda.dropins.get(path)
        before, was = (old.sha256, old.data) if old else (None, None)
        do = "write" if data is not None else "remove"
        steps.append(Step(do, path, before=before, data=data, was=was))
    settle: list[tuple[str, ...]] = []
    if any(path.startswith("/etc/systemd/") for path in files):
        settle.append(("systemctl", "daemon-reload"))
    if any(path.startswith("/etc/ld.so.conf") for path in files):
        settle.append(("ldconfig",))
    steps.extend(Step("run", argv=argv) for argv in settle)
    if release is not None:
        kind = "host" if context.wanted.cuda_activate == "host" else "with"
        number = str(release[0] * 1000 + release[1] * 10)
        steps.append(Step("cuda", argv=(kind, cuda_compat.directory_of(release), number)))
    else:
        steps.append(Step("cuda", argv=("plain", "", "0")))
    if "remove" in actions:
        steps.extend(Step("package", argv=(manager, "remove", name)) for name in away)
    return Transaction(
        Component.CUDA,
        codes,
        tuple(steps),
        settle=tuple(settle),
        package_wait=context.wanted.cuda_lock_wait,
    )


def _grit(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    content = context.state.grit.content.get()
    edits = [edit for change in changes for edit in change.edits]
    path = edits[0].path
    was = content.data if content else None
    data = apply_lines(path, was, edits)
    steps = () if data == was else (_write(path, content, data),)
    return Transaction(Component.GRIT, codes, steps)


def _containerd(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The edited files, and beside them the whole configuration as it will be, for containerd itself to read first."""
    if any(change.action == "template" for change in changes):
        return _k3s_template(context, codes)
    state = context.state.containerd
    edits: dict[str, list[Edit]] = {}
    for edit in dict.fromkeys((edit.path, edit.keys) for change in changes for edit in change.edits):
        same = [e for change in changes for e in change.edits if (e.path, e.keys) == edit]
        edits.setdefault(edit[0], []).append(same[-1])
    steps, new = [], {}
    for path, mine in edits.items():
        content = state.files[path].get()
        was = content.data if content else None
        new[path] = apply_lines(path, was, mine)
        if new[path] != was:
            steps.append(_write(path, content, new[path]))
    tree = containerd_config.staged_tree(context, new) if steps else ()
    return Transaction(
        Component.CONTAINERD,
        codes,
        tuple(steps),
        service=containerd_config.RESTART,
        proofs=tuple(
            Proof(keys, needs="restart", engine="crictl")
            for keys in containerd_config.shown_by_crictl(mine for each in edits.values() for mine in each)
        ),
        gate="restarts is `never`" if context.wanted.restarts == "never" else "",
        validate=("containerd", "--config", "{tree}/config.toml", "config", "dump") if tree else (),
        tree=tree,
        expect=containerd_config.expected_dump(mine for each in edits.values() for mine in each)
        if tree
        else (),
    )


def _k3s_template(context: Context, codes: tuple[str, ...]) -> Transaction:
    """The template alone: k3s' own containerd reads first what k3s will make of it. Nothing is restarted."""
    k3s = containerd_config.embedded(context)
    assert k3s is not None
    path, text, made = grit.template(context)
    old = k3s.templates[path].get()
    return Transaction(
        Component.CONTAINERD,
        codes,
        (_write(path, old, text.encode()),),
        validate=(k3s.flavour.program, "--config", "{tree}/config.toml", "config", "dump"),
        tree=(("config.toml", made.encode()),),
        expect=(r"(?m)^\s*\[plugins\..*\.runtimes\.grit\]",),
    )


def _crio(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The edited drop-ins, and beside them the whole configuration as it will be, for `crio config` to read first."""
    files = context.state.crio.files
    edits = {(edit.path, edit.keys): edit for change in changes for edit in change.edits}
    by_path: dict[str, list[Edit]] = {}
    for edit in edits.values():
        by_path.setdefault(edit.path, []).append(edit)
    new = crio.planned_files(context, by_path)
    found = {path: files[path].get() if path in files else None for path in new}
    return Transaction(
        Component.CRIO,
        codes,
        tuple(_write(path, found[path], data) for path, data in new.items()),
        service=crio.RESTART,
        proofs=tuple(
            Proof(keys, needs="restart", value=str(edit.value), engine="crio")
            for (_, keys), edit in edits.items()
            if keys[:3] == crio.RUNTIMES and keys[-1] == "runtime_path"
        ),
        gate="restarts is `never`" if context.wanted.restarts == "never" else "",
        validate=("crio", "--config", "", "--config-dir", "{tree}", "config") if new else (),
        tree=crio.staged_tree(context, new) if new else (),
        expect=crio.expected_dump({edit.keys: edit.value for edit in edits.values()}) if new else (),
    )


def _podman(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    return Transaction(Component.PODMAN, codes, (Step("write", podman.DROP_IN, data=podman.TEXT.encode()),))


def _docker_storage(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The outer daemon's own storage: all or nothing. A restart that waits would leave a switch for the next boot, where
    nobody proves it and nobody puts it back."""
    content = context.state.docker.content.get()
    edits = [edit for change in changes for edit in change.edits]
    proved = {"storage-driver": "Driver", "data-root": "DockerRootDir"}
    validates = (context.state.docker.version.value or (0,)) >= docker.VALIDATE_SINCE
    return Transaction(
        Component.DOCKER_STORAGE,
        codes,
        _edited(context.state.docker.config_path, content, edits),
        service=docker.RESTART,
        validate=("dockerd", "--validate", "--config-file", "{staged}") if validates else (),
        proofs=tuple(
            Proof((proved[edit.keys[0]],), needs="restart", value=str(edit.value)) for edit in edits
        ),
        must_restart=True,
    )


def _storage(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """What each inner daemon gets: its directory, tried by a real mount; /dev/fuse; a drop-in of the unit that starts it."""
    steps: list[Step] = []
    inner = []
    names = list(dict.fromkeys(change.action for change in changes))
    found = {known.name: known for known in context.state.storage.inners}
    remedies = {name: storage.remedy(context, found[name]) for name in names if name != "fuse"}
    if "fuse" in names or any(remedy.kind == "fuse-overlayfs" for remedy in remedies.values()):
        boot = context.state.storage.fuse_boot
        if boot.get() != "fuse\n":
            was = (boot.value or "").encode() if boot.ok else None
            before = hashlib.sha256(was).hexdigest() if was is not None else None
            steps.append(Step("write", FUSE_BOOT, before=before, data=b"fuse\n", was=was))
        steps.append(Step("fuse"))
    for name, remedy in remedies.items():
        unit, compose = found[name].unit, found[name].compose
        if remedy.directory:
            steps.append(Step("directory", remedy.directory, mode=0o710))  # as dockerd makes its own root
        if compose is not None:
            if not compose.ours:
                data = storage.override_text(found[name], compose.service, remedy).encode()
                steps.append(Step("write", compose.override, data=data))
            how = f"start it anew by `docker compose up -d {compose.service}` in {compose.directory}"
            inner.append(InnerDaemon("", name, remedy.drivers, how))
            continue
        if unit is None:
            raise EditError(f"{name}: no unit starts it")
        path = f"{unit.path}.d/{OUR_DROPIN}"
        steps.append(Step("dropin", path, argv=(unit.path, name, *remedy.options)))
        inner.append(InnerDaemon(unit.name, name, remedy.drivers))
    settle = (("systemctl", "daemon-reload"),) if any(found.unit for found in inner) else ()
    return Transaction(Component.STORAGE, codes, tuple(steps), settle=settle, inner=tuple(inner))


BUILDERS = {
    Component.RECOVER: _recover,
    Component.APT: _apt,
    Component.PACKAGES: _packages,
    Component.DRIVER: _driver,
    Component.CUDA: _cuda,
    Component.CDI: _cdi,
    Component.TOOLKIT: _toolkit,
    Component.GRIT: _grit,
    Component.CONTAINERD: _containerd,
    Component.CRIO: _crio,
    Component.PODMAN: _podman,
    Component.DOCKER: _docker,
    Component.DOCKER_STORAGE: _docker_storage,
    Component.STORAGE: _storage,
}
