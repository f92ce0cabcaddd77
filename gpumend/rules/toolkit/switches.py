"""GM222, GM224: switches of config.toml that let containers at more than they should, and paths in it to nothing."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.rules.toolkit.toolkit import config_evidence, readable
from gpumend.state.toolkit import OPERATOR_ROOT, PROGRAM_PATHS

MOUNTS = ("accept-nvidia-visible-devices-as-volume-mounts",)
ENVIRONMENT = ("accept-nvidia-visible-devices-envvar-when-unprivileged",)
LDCONFIG = ("features", "allow-ldconfig-from-container")


@rule(
    "GM222",
    "config.toml's switches expose no more than is meant",
    "k8s-device-plugin README (deviceListStrategy, deviceIDStrategy); nct pkg/config: accept-nvidia-visible-devices-*; CVE-2024-0136 (allow-ldconfig-from-container)",
    applies=readable,
)
def exposed(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    serves = context.state.kubernetes.here
    rows = []
    if toolkit.value(*LDCONFIG) is True:
        rows.append(
            (
                LDCONFIG[-1],
                True,
                "an image runs its own ldconfig with the hook's rights (CVE-2024-0136)",
                "false",
            )
        )
    if toolkit.value(*MOUNTS) is True and toolkit.value(*ENVIRONMENT) is not False:
        rows.append(
            (
                MOUNTS[0],
                True,
                "devices are taken from mounts as well as from the environment, which any image sets",
                f"`{ENVIRONMENT[0]} = false` beside it",
            )
        )
    if serves and toolkit.value(*ENVIRONMENT) is True and context.state.kubernetes.plugin:
        rows.append(
            (
                ENVIRONMENT[0],
                True,
                "a pod that asks for no GPU gets all of them by NVIDIA_VISIBLE_DEVICES=all in its image",
                "false, with the device plugin's strategy volume-mounts or CDI",
            )
        )
    for key, value, exposes, better in rows:
        yield Finding(
            code="GM222",
            status=Status.NOTE,
            summary=f"{key} = {str(value).lower()}: {exposes}",
            evidence=(config_evidence(context, key, value),),
            remedy=f"{better[0].upper()}{better[1:]}, where nothing here relies on it.",
            refused="whom this host's containers are trusted by is the owner's decision",
        )


@rule(
    "GM224",
    "config.toml names what is there",
    "nct api/config/v1: nvidia-container-cli.root, path, nvidia-ctk.path, nvidia-container-runtime-hook.path; nd#1711, nct#154; gpu-operator",
    applies=readable,
)
def nowhere(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    for keys in PROGRAM_PATHS:
        value = toolkit.value(*keys)
        if not isinstance(value, str) or not value.startswith("/") or value.startswith(OPERATOR_ROOT):
            continue
        found = toolkit.named.get(value)
        if found is None or not found.absent:
            continue
        root = keys[-1] == "root"
        yield Finding(
            code="GM224",
            status=Status.FAIL,
            summary=f"{'.'.join(keys)} = {value!r}, which is not there",
            evidence=(config_evidence(context, keys[-1], value), Evidence(value, "not there")),
            cause="The driver was in a container once (the GPU Operator's is in /run/nvidia/driver), and is on the host now."
            if root
            else "The toolkit was moved, or installed anew in another place.",
            remedy="Take the line out: the host's own driver is found without it."
            if root
            else f"Take the line out: the program is then found in PATH; or put {value} back.",
            refused="what the line was meant for is not ours to guess",
            symptoms=("load library failed: libnvidia-ml.so.1: cannot open shared object file",)
            if root
            else ("no such file or directory",),
        )
