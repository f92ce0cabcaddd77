"""Storage of Dockers: the outer daemon's own, and that of those in containers."""

from __future__ import annotations

import hashlib

from gpumend.plan.changes import edited, edits_of, of_kind
from gpumend.plan.docker import validator
from gpumend.plan.step import DirectoryTrial, DropIn, FuseReady, Step, WriteFile
from gpumend.plan.transaction import InnerDaemon, Proof, Transaction
from gpumend.rules.change import FuseDevice, InnerStorage
from gpumend.rules.engines import docker_config as docker
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.rules.storage import inner as storage
from gpumend.state.storage import FUSE_BOOT, OUR_DROPIN, Inner
from gpumend.text.edits import EditError

PROVED = {"storage-driver": "Driver", "data-root": "DockerRootDir"}  # keys of daemon.json, of `docker info`


def build_outer(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """The outer daemon's own storage: all or nothing. A restart that waits would leave a switch for the next boot, where
    nobody proves it and nobody puts it back."""
    edits = edits_of(changes)
    return Transaction(
        Component.DOCKER_STORAGE,
        codes,
        edited(context.state.docker.config_path, context.state.docker.content.get(), edits),
        service=docker.RESTART,
        validate=validator(context),
        proofs=tuple(
            Proof((PROVED[edit.keys[0]],), needs="restart", value=str(edit.value)) for edit in edits
        ),
        must_restart=True,
    )


def build_inner(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    """What each inner daemon gets: its directory, tried by a real mount; /dev/fuse; a drop-in of the unit that starts it."""
    found = {known.name: known for known in context.state.storage.inners}
    mended = [found[action.container] for action in of_kind(changes, InnerStorage)]
    remedies = [(inner, storage.remedy(context, inner)) for inner in mended]
    steps: list[Step] = []
    if of_kind(changes, FuseDevice) or any(remedy.kind == "fuse-overlayfs" for _, remedy in remedies):
        steps.extend(_fuse(context))
    daemons = []
    for inner, remedy in remedies:
        more, daemon = _given(inner, remedy)
        steps.extend(more)
        daemons.append(daemon)
    settle = (("systemctl", "daemon-reload"),) if any(daemon.unit for daemon in daemons) else ()
    return Transaction(Component.STORAGE, codes, tuple(steps), settle=settle, inner=tuple(daemons))


def _fuse(context: Context) -> list[Step]:
    """/dev/fuse is there, now and at every boot."""
    boot, steps = context.state.storage.fuse_boot, list[Step]()
    if boot.get() != "fuse\n":
        was = (boot.value or "").encode() if boot.ok else None
        before = hashlib.sha256(was).hexdigest() if was is not None else None
        steps.append(WriteFile(FUSE_BOOT, before, b"fuse\n", was))
    return [*steps, FuseReady()]


def _given(inner: Inner, remedy: storage.Remedy) -> tuple[list[Step], InnerDaemon]:
    """What gives one inner daemon its storage, and what proves it. Raises EditError."""
    steps: list[Step] = []
    if remedy.directory:
        steps.append(DirectoryTrial(remedy.directory, 0o710))  # as dockerd makes its own root
    if compose := inner.compose:
        if not compose.ours:
            data = storage.override_text(inner, compose.service, remedy).encode()
            steps.append(WriteFile(compose.override, None, data))
        how = f"start it anew by `docker compose up -d {compose.service}` in {compose.directory}"
        return steps, InnerDaemon("", inner.name, remedy.drivers, how)
    if inner.unit is None:
        raise EditError(f"{inner.name}: no unit starts it")
    path = f"{inner.unit.path}.d/{OUR_DROPIN}"
    steps.append(DropIn(path, inner.unit.path, inner.name, remedy.options))
    return steps, InnerDaemon(inner.unit.name, inner.name, remedy.drivers)
