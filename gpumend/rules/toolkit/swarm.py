"""GM214: Swarm's assignment of GPUs reaches the containers."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.finding import Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.toolkit.runtime import SWARM_BY_CDI, injects_by_cdi, is_known, swarm_resources
from gpumend.rules.toolkit.toolkit import config_evidence, readable
from gpumend.text.version import show


@rule(
    "GM214",
    "swarm-resource is heeded",
    "nct#1599, PR#1600 (1.19.0); internal/modifier/cdi.go at v1.17.8-v1.18.2 does not know it",
    applies=readable,
)
def ignored(context: Context) -> Iterator[Finding]:
    names, mode = swarm_resources(context), context.state.toolkit.mode()
    swarm = (context.state.docker.info.value or {}).get("Swarm")
    inactive = isinstance(swarm, dict) and swarm.get("LocalNodeState") == "inactive"
    if not names or not context.state.docker.installed or inactive or not is_known(context, mode):
        return
    version = context.state.toolkit.version.need()
    if version >= SWARM_BY_CDI or not injects_by_cdi(context, mode):
        return
    yield Finding(
        code="GM214",
        status=Status.FAIL,
        summary=f"swarm-resource is ignored in mode {mode!r} on toolkit {show(version)}: services do not get the GPUs that "
        "Swarm gives them",
        evidence=(
            config_evidence(context, "swarm-resource", ",".join(names)),
            config_evidence(context, "mode", mode),
        ),
        cause="Before 1.19 only the legacy hook looks at these variables; CDI injection takes NVIDIA_VISIBLE_DEVICES of the "
        "image: all GPUs, or none.",
        remedy='Upgrade the toolkit to 1.19, or want `runtime.mode = "legacy"`.',
        refused="which of the two is a decision of the host's owner",
        symptoms=("containers of a Swarm service see all GPUs",),
    )
