"""GM314, GM315: the spec is there when the engines start at the next boot, with what people added to it."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.cdi.additions import additions
from gpumend.rules.cdi.spec import (
    DYNAMIC,
    STATIC,
    becomes_literal,
    goes_auto,
    gpu_files,
    needs_at_boot,
    ordered,
    podman_at_boot,
    regenerate,
    target,
    uses_refresh,
)
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.rules.toolkit.toolkit import change, config_evidence


def writes_to(context: Context) -> str:
    """The file that nvidia-cdi-refresh writes at boot as it is set up now."""
    text = context.state.cdi.refresh_env.value or ""
    rows = [
        row.partition("=")[2].strip("\"' ")
        for row in text.splitlines()
        if row.startswith("NVIDIA_CTK_CDI_OUTPUT")
    ]
    return rows[-1] if rows else DYNAMIC


def lasts(context: Context) -> bool:
    """Whether a true spec is there when dockerd, and podman's services, start at boot. Raises Unread."""
    kept = any(file.directory == "/etc/cdi" for file in gpu_files(context))
    if not uses_refresh(context):
        return kept
    waits = not podman_at_boot(context) and (ordered(context) or not context.state.docker.installed)
    return waits or (kept and writes_to(context).startswith("/etc/cdi/"))


@rule(
    "GM315",
    "what people added to a spec is not written over",
    "nct deployments/systemd (1.18.0): nvidia-cdi-refresh.service writes the whole file; cdi SPEC.md",
    applies=has_toolkit,
)
def written_over(context: Context) -> Iterator[Finding]:
    if not uses_refresh(context):
        return
    for file in gpu_files(context):
        added = additions(file.spec.value) if file.path == target(context) and file.spec.value else []
        if not added:
            continue
        texts = list(dict.fromkeys(found.text for found in added))
        more = f" and {len(texts) - 4} more" if len(texts) > 4 else ""
        yield Finding(
            code="GM315",
            status=Status.NOTE,
            summary=f"nvidia-cdi-refresh will write over what was added to {file.path}: {', '.join(texts[:4])}{more}",
            evidence=(
                *(Evidence(file.path, f"{text}: not nvidia-ctk's") for text in texts[:12]),
                Evidence("nvidia-cdi-refresh.service", "enabled"),
            ),
            cause="The unit makes the whole file anew at each boot and after an update of the driver.",
            remedy="Move it into a spec file of another name and kind, for which containers then ask, too.",
            refused="which containers are to ask for it is the owner's to say",
        )


@rule(
    "GM314",
    "the spec is there when the engines start at boot",
    "nct deployments/systemd v1.18.0-v1.20.0 (no Before=docker.service), nct PR#1638 (1.19.0: After=multi-user.target); "
    "NixOS/nixpkgs#353059, #451912; moby daemon/daemon.go restore; podman-systemd.unit(5)",
    applies=lambda context: (
        has_toolkit(context) and (context.state.docker.installed or bool(podman_at_boot(context)))
    ),
)
def lost_at_boot(context: Context) -> Iterator[Finding]:
    refresh, specs = uses_refresh(context), gpu_files(context)
    docker = context.state.docker.installed and not (refresh and ordered(context))
    users, services = needs_at_boot(context) if docker else (), podman_at_boot(context)
    due = docker and (context.wanted.mode == "cdi-only" or becomes_literal(context))
    if not specs or not (users or services or due) or lasts(context):  # without any spec it is GM301's
        return
    by_runtime = [found for found in users if not found.uses_cdi()]
    if by_runtime and len(by_runtime) == len(users) and not services and goes_auto(context):
        made, refused = change(context, "nvidia-container-runtime", "mode", value="auto"), ""
        remedy = (
            'Mend sets mode = "auto", which from toolkit 1.18 on makes CDI at each start and needs no file.'
        )
    else:
        made, refused = regenerate(context)
        remedy = (
            f"Mend has nvidia-cdi-refresh write {target(context)}, which outlives a reboot, and keeps it current there."
            if refresh
            else f"Mend generates {target(context)}, which outlives a reboot."
        )
    names = ", ".join(sorted((*(found.label() for found in users), *(found.name for found in services))))
    lost = f"made only after {'dockerd starts' if docker else 'they start'}" if refresh else "lost"
    order = "not After=nvidia-cdi-refresh.service" if refresh else "nothing makes the spec at boot"
    yield Finding(
        code="GM314",
        status=Status.FAIL if users or services else Status.WARN,
        summary=f"at the next boot the CDI spec is {lost}"
        + (f", and these stay down: {names}" if names else ": it lies in /var/run/cdi alone"),
        evidence=(
            *(Evidence(file.path, "the spec that is there") for file in specs),
            *(Evidence("docker inspect", f"{found.label()}: restart={found.restart}") for found in users),
            *(
                Evidence(found.path, f"{found.device}, at boot, without a wait for the spec")
                for found in services
            ),
            *([config_evidence(context, "mode", "cdi")] if by_runtime else []),
            *([Evidence("systemctl show docker.service", order)] if docker else []),
        ),
        cause="/var/run is empty after a boot. "
        + (
            "nvidia-cdi-refresh.service has no Before=docker.service, and 1.19.0's even waits for multi-user.target: dockerd and "
            "podman's services start their containers first, once, and leave down what could not start."
            if refresh
            else f"No nvidia-cdi-refresh is enabled that would make it again, and {STATIC} is not there."
        ),
        remedy=remedy if made else "Put that right first.",
        change=made,
        refused=refused,
        symptoms=("unresolvable CDI devices", "Exited (128)"),
    )
