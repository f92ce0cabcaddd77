"""GM2xx: the NVIDIA Container Toolkit and its config.toml."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gpumend.rules.change import SetValues
from gpumend.rules.evidence import standing
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.state.toolkit import CONFIG
from gpumend.text.edits import Edit
from gpumend.text.version import show

CAPABILITIES = {"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}
# api/config/v1: keys the programs read, and the type that unmarshalling insists on (a wrong one is fatal at create)
TYPES: dict[tuple[str, ...], type] = {
    ("nvidia-container-cli",): dict,
    ("nvidia-container-runtime",): dict,
    ("nvidia-container-runtime-hook",): dict,
    ("nvidia-ctk",): dict,
    ("features",): dict,
    ("nvidia-container-runtime", "modes"): dict,
    ("disable-require",): bool,
    ("accept-nvidia-visible-devices-envvar-when-unprivileged",): bool,
    ("accept-nvidia-visible-devices-as-volume-mounts",): bool,
    ("supported-driver-capabilities",): str,
    ("swarm-resource",): str,
    ("nvidia-container-cli", "root"): str,
    ("nvidia-container-cli", "path"): str,
    ("nvidia-container-cli", "environment"): list,
    ("nvidia-container-cli", "debug"): str,
    ("nvidia-container-cli", "ldcache"): str,
    ("nvidia-container-cli", "load-kmods"): bool,
    ("nvidia-container-cli", "no-cgroups"): bool,
    ("nvidia-container-cli", "user"): str,
    ("nvidia-container-cli", "ldconfig"): str,
    ("nvidia-container-runtime", "debug"): str,
    ("nvidia-container-runtime", "log-level"): str,
    ("nvidia-container-runtime", "mode"): str,
    ("nvidia-container-runtime", "runtimes"): list,
    ("nvidia-container-runtime", "modes", "cdi", "spec-dirs"): list,
    ("nvidia-container-runtime", "modes", "cdi", "default-kind"): str,
    ("nvidia-container-runtime", "modes", "cdi", "annotation-prefixes"): list,
    ("nvidia-container-runtime", "modes", "csv", "mount-spec-path"): str,
    ("nvidia-container-runtime", "modes", "legacy", "cuda-compat-mode"): str,
    ("nvidia-container-runtime-hook", "path"): str,
    ("nvidia-container-runtime-hook", "skip-mode-detection"): bool,
    ("nvidia-ctk", "path"): str,
    ("features", "allow-cuda-compat-libs-from-container"): bool,
    ("features", "allow-ldconfig-from-container"): bool,
    ("features", "allow-unknown-oci-spec-fields"): bool,
    ("features", "disable-cuda-compat-lib-hook"): bool,
    ("features", "disable-imex-channel-creation"): bool,
    ("features", "ignore-imex-channel-requests"): bool,
    ("features", "no-additional-gids-for-device-nodes"): bool,
}


def config_evidence(context: Context, key: str, value: Any) -> Evidence:
    """`file:line` and the value as it stands in config.toml."""
    return standing(CONFIG, context.state.toolkit.content.value, key, f"{key} = {value!r}")


def readable(context: Context) -> bool:
    """The toolkit is here, and GM208 does not apply: what config.toml holds can be judged."""
    return has_toolkit(context) and context.state.toolkit.config.known


def change(context: Context, *keys: str, value: Any) -> Change | None:
    """The change that sets a key of config.toml, or None where policy leaves the file alone."""
    if unmanaged(context):
        return None
    return Change(Component.TOOLKIT, SetValues((Edit(CONFIG, keys, value),)))


def unmanaged(context: Context) -> str:
    """Why config.toml is not changed on this host, or an empty text."""
    content = context.state.toolkit.content.value
    if not context.wanted.manage_runtime:
        return "runtime.manage is false"
    if context.state.toolkit.dangling is not None:
        return f"{CONFIG} is a link to nowhere (GM208): what it was meant to say is not ours to guess"
    if content is not None and content.data.startswith(b"\xef\xbb\xbf"):
        return f"{CONFIG} begins with a byte order mark: take that away first"
    return ""


def expected_ldconfig(context: Context) -> str | None:
    """api/config/v1/cli.go normalize(): `.real` exactly where it exists. Ubuntu's /sbin/ldconfig is a wrapper script.
    None on a host that has no /sbin/ldconfig at all (NixOS)."""
    toolkit = context.state.toolkit
    if toolkit.ldconfig_real.need():
        return "@/sbin/ldconfig.real"
    return "@/sbin/ldconfig" if toolkit.ldconfig_there.need() else None


def _ldconfig_cause(context: Context, value: str) -> tuple[Status, str]:
    """How bad a wrong ldconfig is for the installed toolkit, and why."""
    toolkit = context.state.toolkit
    version = toolkit.version.value
    if not value.startswith("@"):
        if toolkit.value("features", "allow-ldconfig-from-container"):
            return Status.WARN, (
                "Without `@` the container's own ldconfig runs, which features.allow-ldconfig-from-container permits: "
                "an image can so run its code with the hook's rights (CVE-2024-0136)."
            )
        fatal = version is None or version >= (1, 17, 3)
        return Status.FAIL if fatal else Status.WARN, (
            "Without `@` the path would be the container's. Toolkit 1.17.3 and newer refuse it in every mode."
        )
    if value[1:].removesuffix(".real") not in ("/sbin/ldconfig", "/usr/sbin/ldconfig"):
        return (
            Status.FAIL,
            f"{value[1:]} is none of the usual places of ldconfig, and no toolkit corrects that.",
        )
    if version is None:
        return (
            Status.FAIL,
            f"{value[1:]} is not this host's ldconfig. Toolkits before 1.15.0 fail with it in legacy mode.",
        )
    if version >= (1, 15):
        return Status.WARN, (
            f"{value[1:]} is not this host's ldconfig. Toolkit {show(version)} corrects that by itself on each use; "
            "older ones do not, and fail in legacy mode."
        )
    return (
        Status.FAIL,
        f"{value[1:]} is not this host's ldconfig, and toolkits before 1.15.0 use the path as it stands.",
    )


@rule(
    "GM201",
    "nvidia-container-cli.ldconfig names this host's ldconfig",
    "nct api/config/v1/cli.go normalize() (1.15.0); nct#830, PR#812 (1.17.3); nd#587, nd#1399, nd#914, nct#147, enroot#128",
    applies=readable,
)
def ldconfig(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    value = toolkit.ldconfig()
    if value is None or context.wanted.ldconfig == "keep":
        return
    expected = expected_ldconfig(context)
    # /usr/sbin and /sbin are one directory on merged-usr systems: the same program under its other name.
    if value == expected or (
        expected and toolkit.merged_sbin and value == expected.replace("/sbin", "/usr/sbin")
    ):
        return
    status, cause = _ldconfig_cause(context, value)
    refused = (
        unmanaged(context) if expected else "this host has no /sbin/ldconfig: which one is right is not known"
    )
    yield Finding(
        code="GM201",
        status=status,
        summary=f"ldconfig = {value!r}, on this host it is {expected or 'elsewhere'!r}",
        evidence=(
            config_evidence(context, "ldconfig", value),
            Evidence("/sbin/ldconfig.real", "exists" if toolkit.ldconfig_real.value else "not there"),
            Evidence("/sbin/ldconfig", _kind_of_ldconfig(context)),
        ),
        cause=cause,
        remedy=f"Mend sets it to {expected!r}. It is read at every container start: nothing is restarted."
        if not refused
        else "Name this host's ldconfig, with `@` before it.",
        change=None if refused else change(context, "nvidia-container-cli", "ldconfig", value=expected),
        refused=refused,
        symptoms=(
            "ldcache error: open failed: /sbin/ldconfig.real",
            "is not host-relative (does not start with a '@')",
        ),
    )


def _kind_of_ldconfig(context: Context) -> str:
    toolkit = context.state.toolkit
    if toolkit.ldconfig_there.value is False:
        return "not there"
    if toolkit.ldconfig_wrapper.value is None:
        return "not read"
    return "a script" if toolkit.ldconfig_wrapper.value else "a program"


@rule(
    "GM208",
    "config.toml is readable",
    "nct api/config/v1/config.go; captures of `nvidia-ctk config`",
    applies=has_toolkit,
)
def unreadable(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    if toolkit.dangling is not None:
        yield Finding(
            code="GM208",
            status=Status.WARN,
            summary=f"{CONFIG} is a link to {toolkit.dangling}, which does not exist: the built-in defaults hold",
            evidence=(Evidence(CONFIG, f"-> {toolkit.dangling}"),),
            cause="The programs take a file that is not there for an empty one: containers start, with none of its settings.",
            remedy=f"Put the file there, or remove the link and write the defaults: `nvidia-ctk config --output={CONFIG}`.",
            refused="what this file was meant to say is not ours to guess: it is left as it is",
        )
    if toolkit.config.known:
        return
    if toolkit.unread:
        toolkit.config.need()  # unknown, not wrong: the runtime may well read what we could not
    yield Finding(
        code="GM208",
        status=Status.FAIL,
        summary=f"{CONFIG}: {toolkit.config.detail}",
        evidence=(Evidence(CONFIG, toolkit.config.detail),),
        cause="Every container of the nvidia runtime fails while the runtime cannot read its configuration.",
        remedy=f"Repair it by hand, or move it away and write the defaults: `nvidia-ctk config --output={CONFIG}`.",
        refused="what this file was meant to say is not ours to guess: it is left as it is",
        symptoms=("unable to create config: failed to load specified config file",),
    )


@rule(
    "GM209",
    "no-cgroups is false for rootful Docker",
    "nct#580; in a user namespace it has to be true: lnc#154, nct#290",
    applies=readable,
)
def no_cgroups(context: Context) -> Iterator[Finding]:
    toolkit, docker = context.state.toolkit, context.state.docker
    if toolkit.value("nvidia-container-cli", "no-cgroups") is not True or not docker.installed:
        return
    if docker.rootless_only:  # there it is right for --gpus: nct#85, nct#1487
        return
    traces = context.state.manager
    if traces.user_namespace or (traces.user_namespace is None and traces.lxc):
        return  # root in a user namespace may not set device rules: `true` is right here (lnc#154, nct#290)
    rootless = [f"uid {uid}" for uid in docker.rootless_users] + list(docker.rootless_configs.value or ())
    refused = unmanaged(context)
    for reading in (docker.process, docker.rootless_configs):
        if not reading.known and not rootless and not context.wanted.allow_disabling_no_cgroups:
            refused = (
                refused
                or f"whether a rootless Docker is set up here is not known: {reading.source} could not be read"
            )
    if rootless and not context.wanted.allow_disabling_no_cgroups and not refused:
        refused = f"a rootless Docker is set up here ({', '.join(rootless)}), which may need it"
    version = toolkit.version.value or (1, 17)
    injects = toolkit.mode() == "legacy" or (toolkit.mode() == "auto" and version < (1, 18))
    yield Finding(
        code="GM209",
        status=Status.FAIL if injects else Status.WARN,
        summary="no-cgroups = true: legacy injection leaves containers of the rootful Docker without the GPU",
        evidence=(config_evidence(context, "no-cgroups", True),),
        cause="A rootless set-up guide was followed; the setting holds for the whole host.",
        remedy="Mend sets no-cgroups = false. Rootless engines should use CDI, which needs no such setting."
        if not refused
        else "Move the rootless Docker to CDI, then set `allow_disabling_no_cgroups`.",
        change=None if refused else change(context, "nvidia-container-cli", "no-cgroups", value=False),
        refused=refused,
        symptoms=("Failed to initialize NVML: Unknown Error",),
    )


@rule(
    "GM211",
    "the values in config.toml are of the right type",
    "nct api/config/v1 (unmarshal); captures/config-probes",
    applies=readable,
)
def types(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    for keys, kind in TYPES.items():
        value = toolkit.value(*keys)
        texts = (
            all(isinstance(item, str) for item in value) if isinstance(value, list) else True
        )  # each list is of texts
        if value is not None and not (isinstance(value, kind) and texts):
            yield Finding(
                code="GM211",
                status=Status.FAIL,
                summary=f"{'.'.join(keys)} = {value!r} is a {type(value).__name__}, not a {kind.__name__}"
                + (" of texts" if kind is list else ""),
                evidence=(config_evidence(context, keys[-1], value),),
                cause="The runtime cannot read its configuration, and refuses every container.",
                remedy="Correct it by hand.",
                refused="what it was meant to be is not ours to guess",
                symptoms=("failed to unmarshal config",),
            )
    listed = toolkit.value("supported-driver-capabilities")
    named = {word.strip() for word in listed.split(",")} - {"", "all"} if isinstance(listed, str) else set()
    wrong = sorted(named - CAPABILITIES)
    if wrong:
        yield Finding(
            code="GM211",
            status=Status.FAIL,
            summary=f"supported-driver-capabilities names unknown ones: {', '.join(wrong)}",
            evidence=(config_evidence(context, "supported-driver-capabilities", listed),),
            cause="The hook panics on them: exit status 1 and no message at all.",
            remedy="Take them out; known are " + ", ".join(sorted(CAPABILITIES)) + ".",
            refused="what it was meant to be is not ours to guess",
        )
