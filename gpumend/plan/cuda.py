"""CUDA forward compatibility: off the path what harms, then out what is outgrown, then in and on the path what is wanted;
proven by cuInit.

A package comes before the files that name its directory, and goes after the files that named it.
"""

from __future__ import annotations

from gpumend.plan.step import CudaCheck, NoteCheck, PackageStep, RemoveFile, RunCommand, Step, WriteFile, seen
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import ActivateCompat, RemoveCompat
from gpumend.rules.cuda import compat
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.cuda import NOTE
from gpumend.text.version import Version, show


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    actions = list(dict.fromkeys(change.action for change in changes))
    release = compat.compat_release(context) if ActivateCompat() in actions else None
    files, away = compat.files(context, actions, release)
    manager = context.state.packages.manager
    steps: list[Step] = []
    if release is not None:
        steps.extend(_arrives(context, release))
    for path, data in files.items():
        old = context.state.cuda.linker_files.get(path) or context.state.cuda.dropins.get(path)
        steps.append(WriteFile.over(path, old, data) if data is not None else RemoveFile(path, seen(old)))
    settle = _settle(files)
    steps.extend(RunCommand(argv) for argv in settle)
    steps.append(_proof(context, release))
    if RemoveCompat() in actions:
        steps.extend(PackageStep(manager, "remove", (name,)) for name in away)
    wait = context.wanted.cuda_lock_wait
    return Transaction(Component.CUDA, codes, tuple(steps), settle=settle, package_wait=wait)


def _arrives(context: Context, release: Version) -> list[Step]:
    """The release's package is there, and its library is for the loaded driver."""
    directory, steps = compat.directory_of(release), list[Step]()
    if not any(found.directory == directory for found in context.state.cuda.compats):
        package = compat.package_of(release)
        steps.append(PackageStep(context.state.packages.manager, "install", (package,)))
    steps.append(NoteCheck(directory, NOTE, show(context.state.driver.loaded.need())))
    return steps


def _settle(files: dict[str, bytes | None]) -> tuple[tuple[str, ...], ...]:
    """The commands after which these files count."""
    found: list[tuple[str, ...]] = []
    if any(path.startswith("/etc/systemd/") for path in files):
        found.append(("systemctl", "daemon-reload"))
    if any(path.startswith("/etc/ld.so.conf") for path in files):
        found.append(("ldconfig",))
    return tuple(found)


def _proof(context: Context, release: Version | None) -> CudaCheck:
    if release is None:
        return CudaCheck()
    how = "host" if context.wanted.cuda_activate == "host" else "with"
    return CudaCheck(how, compat.directory_of(release), release[0] * 1000 + release[1] * 10)
