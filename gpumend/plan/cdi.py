"""The CDI spec: written anew, where need be, before anything is taken away."""

from __future__ import annotations

import re

from gpumend.plan.changes import of_kind
from gpumend.plan.step import GenerateFile, RemoveFile, SetMode, Step, TriggerFile, WriteFile, seen
from gpumend.plan.transaction import Proof, Transaction
from gpumend.rules.cdi import additions
from gpumend.rules.cdi import spec as cdi
from gpumend.rules.cdi.stale import is_good
from gpumend.rules.change import GenerateSpec, RemoveFiles
from gpumend.rules.change import SetMode as ModeOf
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.cdi import REFRESH_ENV


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    files = {file.path: file for file in context.state.cdi.files.need()}
    target = cdi.target(context)
    removals = of_kind(changes, RemoveFiles)
    static_goes = RemoveFiles((cdi.STATIC,)) in removals
    dynamic_goes = RemoveFiles((cdi.DYNAMIC,)) in removals
    # Nothing is taken away before what replaces it is there.
    generates = (
        bool(of_kind(changes, GenerateSpec))
        or (target not in files and static_goes and cdi.uses_refresh(context))
        or (dynamic_goes and not is_good(context, target))
    )
    steps: list[Step] = _generate(context, target) if generates else []
    if generates and cdi.persists(context) and target == cdi.STATIC and cdi.DYNAMIC in files:
        # nothing would keep that one true
        steps.append(RemoveFile(cdi.DYNAMIC, seen(files[cdi.DYNAMIC])))
    for change in changes:
        action = change.action
        if isinstance(action, RemoveFiles):
            steps.extend(RemoveFile(path, seen(files.get(path))) for path in action.paths)
        elif isinstance(action, ModeOf) and not (action.path == target and generates):
            steps.append(SetMode(action.path, seen(files.get(action.path))))
    info = context.state.docker.info.value or {}
    # dockerd's own watch of the directories lags a moment behind a rename: wait until it has seen the spec.
    sees = generates and bool(info.get("CDISpecDirs")) and "DiscoveredDevices" in info
    proofs = (Proof(("DiscoveredDevices",)),) if sees else ()
    return Transaction(Component.CDI, codes, tuple(dict.fromkeys(steps)), proofs=proofs)


def _generate(context: Context, target: str) -> list[Step]:
    """The spec is written by whoever writes it here: nvidia-cdi-refresh, or this transaction."""
    before = seen(next((file for file in context.state.cdi.files.need() if file.path == target), None))
    if cdi.uses_refresh(context):
        argv: tuple[str, ...] = ("systemctl", "restart", "nvidia-cdi-refresh.service")
        return [*_refresh_environment(context), TriggerFile(target, before, argv)]
    old = next((file.spec.value for file in cdi.gpu_files(context) if file.path == target), None)
    argv = ("nvidia-ctk", "cdi", "generate", *(f"--feature-flag={flag}" for flag in cdi.flags(context)))
    if old is None:
        return [GenerateFile(target, before, argv)]
    added = tuple(dict.fromkeys(found.text for found in additions.additions(old)))
    names = tuple(f"--device-name-strategy={name}" for name in additions.strategies(old))
    return [GenerateFile(target, before, (*argv, *names), additions.kept(context, old), added)]


def _refresh_environment(context: Context) -> list[WriteFile]:
    """The lines in nvidia-cdi-refresh.env that keep its feature flags, where an old engine needs them, and its output file,
    where the spec has to outlive a reboot."""
    content, before = context.state.cdi.refresh_env_file.value, context.state.cdi.refresh_env.get()
    key, text = "NVIDIA_CTK_CDI_GENERATE_FEATURE_FLAGS", before or ""
    set_now = re.search(rf"(?m)^{key}=(.*)$", text)
    flags = [flag for flag in (set_now.group(1) if set_now else "").strip("\"' ").split(",") if flag]
    lacking = [flag for flag in cdi.flags(context) if flag not in flags]
    if lacking:
        text = _assigned(text, key, ",".join((*flags, *lacking)))
    if cdi.persists(context):
        text = _assigned(text, "NVIDIA_CTK_CDI_OUTPUT_FILE_PATH", cdi.target(context))
    return [] if text == (before or "") else [WriteFile.over(REFRESH_ENV, content, text.encode())]


def _assigned(text: str, key: str, value: str) -> str:
    """An environment file's text with this assignment, in the place of the key's own."""
    line = f"{key}={value}"
    if set_now := re.search(rf"(?m)^{key}=.*$", text):
        return text[: set_now.start()] + line + text[set_now.end() :]
    return text + ("\n" if text and not text.endswith("\n") else "") + line + "\n"
