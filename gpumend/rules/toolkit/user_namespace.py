"""GM215: legacy injection in a user namespace leaves the device cgroup alone."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.engines.injection import is_legacy, wants_cdi
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.toolkit.runtime import hook_refuses
from gpumend.rules.toolkit.toolkit import change, config_evidence, readable, unmanaged
from gpumend.state.manager import UID_MAP


@rule(
    "GM215",
    "no-cgroups is true in a user namespace",
    "lnc#154, nct#290; blakeblackshear/frigate#8652; user_namespaces(7)",
    applies=readable,
)
def cgroups(context: Context) -> Iterator[Finding]:
    toolkit, docker = context.state.toolkit, context.state.docker
    traces, version = context.state.manager, toolkit.version.value
    if not traces.user_namespace or not docker.installed or version is None:
        return
    if toolkit.value("nvidia-container-cli", "no-cgroups") is True:
        return
    users = [found.label() for found in docker.containers.get() or () if found.uses_gpus_flag()]
    by_hook = users if hook_refuses(context) else []
    stays = is_legacy(context) and not (wants_cdi(context) and context.wanted.manage_runtime)
    if not by_hook and not stays:
        return
    rows = traces.uid_map.value or ()
    refused = unmanaged(context)
    yield Finding(
        code="GM215",
        status=Status.FAIL,
        summary="no-cgroups is not true in a user namespace: legacy injection fails"
        + (f" for {', '.join(sorted(by_hook))}" if by_hook else ""),
        evidence=(
            config_evidence(context, "no-cgroups", toolkit.value("nvidia-container-cli", "no-cgroups")),
            Evidence(UID_MAP, "; ".join(" ".join(map(str, row)) for row in rows)),
            *([Evidence("/run/systemd/container", traces.container.value)] if traces.container.value else []),
        ),
        cause="Root of a user namespace (an unprivileged LXC) may not set device rules, and nvidia-container-cli fails where "
        "it tries to.",
        remedy="Mend sets no-cgroups = true. It is read at every container start: nothing is restarted."
        if not refused
        else "Set no-cgroups = true, or inject through CDI.",
        change=None if refused else change(context, "nvidia-container-cli", "no-cgroups", value=True),
        refused=refused,
        symptoms=(
            "failed to add device rules",
            "bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",
        ),
    )
