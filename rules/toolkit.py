"""GM2xx: the NVIDIA Container Toolkit and its config.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from facts.docker import Container
from facts.toolkit import CONFIG
from facts.version import show
from rules.edits import Edit
from rules.finding import Change, Component, Evidence, Finding, Status
from rules.rule import Context, has_gpu, has_toolkit, rule

MODES = ("auto", "legacy", "csv", "cdi")  # of every toolkit; jit-cdi besides from 1.18.0
CAPABILITIES = {"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}
# api/config/v1: keys the programs read, and the type that unmarshalling insists on (a wrong one is fatal at create)
TYPES: dict[tuple[str, ...], type] = {
    ("disable-require",): bool,
    ("accept-nvidia-visible-devices-envvar-when-unprivileged",): bool,
    ("accept-nvidia-visible-devices-as-volume-mounts",): bool,
    ("supported-driver-capabilities",): str,
    ("swarm-resource",): str,
    ("nvidia-container-cli", "root"): str,
    ("nvidia-container-cli", "path"): str,
    ("nvidia-container-cli", "environment"): list,
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
    ("nvidia-container-runtime-hook", "path"): str,
    ("nvidia-container-runtime-hook", "skip-mode-detection"): bool,
    ("nvidia-ctk", "path"): str,
}


def line(text: str, key: str) -> int | None:
    """The number of the line that sets a key, from 1, or None."""
    for number, content in enumerate(text.splitlines(), 1):
        if re.match(rf"\s*\"?{re.escape(key)}\"?\s*[=:]", content):
            return number
    return None


def config_evidence(context: Context, key: str, value: Any) -> Evidence:
    """`file:line` and the value as it stands in config.toml."""
    content = context.state.toolkit.content.value
    number = line(content.data.decode("utf-8", "replace"), key) if content else None
    return Evidence(f"{CONFIG}:{number}" if number else CONFIG, f"{key} = {value!r}")


def readable(context: Context) -> bool:
    """The toolkit is here, and GM208 has no say: what config.toml holds can be judged."""
    return has_toolkit(context) and context.state.toolkit.config.known


def change(context: Context, *keys: str, value: Any) -> Change | None:
    """The change that sets a key of config.toml, or None where policy leaves the file alone."""
    if not context.wanted.manage_runtime:
        return None
    return Change(Component.TOOLKIT, (Edit(CONFIG, keys, value),))


def unmanaged(context: Context) -> str:
    return "" if context.wanted.manage_runtime else "runtime.manage is false"


def expected_ldconfig(context: Context) -> str:
    """api/config/v1/cli.go normalize(): `.real` exactly where it exists. Ubuntu's /sbin/ldconfig is a wrapper script."""
    return "@/sbin/ldconfig.real" if context.state.toolkit.ldconfig_real.need() else "@/sbin/ldconfig"


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
    if value == expected:
        return
    version = toolkit.version.value or ()
    in_container = not value.startswith("@")
    permitted = bool(toolkit.value("features", "allow-ldconfig-from-container"))
    if in_container and permitted:
        status, cause = (
            Status.WARN,
            (
                "Without `@` the container's own ldconfig runs, which features.allow-ldconfig-from-container permits: an image "
                "can so run its code with the hook's rights (CVE-2024-0136)."
            ),
        )
    elif in_container:
        fatal = version >= (1, 17, 3)
        status, cause = (
            (Status.FAIL if fatal or not version else Status.WARN),
            (
                "Without `@` the path would be the container's. Toolkit 1.17.3 and newer refuse it in every mode."
            ),
        )
    elif version and version >= (1, 15):
        status, cause = (
            Status.WARN,
            (
                f"{value[1:]} is not this host's ldconfig. Toolkit {show(version)} corrects that by itself on each use; older ones do not, and "
                "fail in legacy mode."
            ),
        )
    else:
        status, cause = (
            Status.FAIL,
            (
                f"{value[1:]} is not this host's ldconfig, and toolkits before 1.15.0 use the path as it stands."
            ),
        )
    yield Finding(
        code="GM201",
        status=status,
        summary=f"ldconfig = {value!r}, on this host it is {expected!r}",
        evidence=(
            config_evidence(context, "ldconfig", value),
            Evidence("/sbin/ldconfig.real", "exists" if toolkit.ldconfig_real.value else "not there"),
            Evidence("/sbin/ldconfig", "a script" if toolkit.ldconfig_wrapper.value else "a program"),
        ),
        cause=cause,
        remedy=f"Mend sets it to {expected!r}. It is read at every container start: nothing is restarted.",
        change=change(context, "nvidia-container-cli", "ldconfig", value=expected),
        refused=unmanaged(context),
        symptoms=(
            "ldcache error: open failed: /sbin/ldconfig.real",
            "is not host-relative (does not start with a '@')",
        ),
    )


@rule(
    "GM203",
    "the NVIDIA Container Toolkit is installed",
    "nct install guide; nct#854, nd#1034",
    applies=has_gpu,
)
def missing(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    absent = [
        name
        for name in ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-runtime-hook")
        if toolkit.programs[name].get() is None
    ]
    if not absent:
        return
    yield Finding(
        code="GM203",
        status=Status.FAIL,
        summary="the NVIDIA Container Toolkit is not installed"
        if not toolkit.installed
        else f"the NVIDIA Container Toolkit is not whole: {', '.join(absent)} missing",
        evidence=tuple(Evidence("PATH", f"no {name}") for name in absent),
        remedy="Install the package nvidia-container-toolkit, then run this again.",
        symptoms=('could not select device driver "" with capabilities: [[gpu]]',),
    )


def gpus_flag_users(context: Context) -> tuple[Container, ...]:
    """Containers whose --gpus goes through the hook, which refuses any mode but legacy: all on Docker before 29.2.0
    (moby PR #50228 takes CDI first from there). Raises Unread where Docker's containers are not known."""
    docker = context.state.docker
    if not docker.installed or (docker.version.value or (0,)) >= (29, 2):
        return ()
    if docker.containers.absent and docker.process.absent:
        # Installed, not running: who would use --gpus at its next start is not known, and not nobody.
        return ()
    return tuple(found for found in docker.containers.get() or () if found.uses_gpus_flag())


@rule(
    "GM204",
    "nvidia-container-runtime.mode as wanted",
    "nct internal/info/auto.go, cmd/nvidia-container-runtime-hook assertModeIsLegacy; nct#1376 (1.18.0); moby PR#50228 (29.2.0)",
    applies=readable,
)
def mode(context: Context) -> Iterator[Finding]:
    from rules.cdi import resolvable_after_mend

    toolkit, wanted = context.state.toolkit, context.wanted
    current = toolkit.mode()
    if wanted.mode in ("keep", current) or not is_known(context, current):  # the latter is GM207
        return
    version = toolkit.version.get() or ()
    if version[:3] == (1, 18, 0) and wanted.mode == "cdi":
        yield Finding(
            code="GM204",
            status=Status.WARN,
            summary=f"mode is {current!r}; `cdi` is wanted, but breaks toolkit 1.18.0",
            evidence=(config_evidence(context, "mode", current), Evidence("nvidia-ctk --version", "1.18.0")),
            cause='In 1.18.0 alone mode = "cdi" makes `nvidia-ctk cdi generate` and nvidia-cdi-refresh fail: invalid discovery mode: cdi.',
            remedy='Upgrade the toolkit to 1.18.1 or newer, or want `runtime.mode = "auto"`.',
            refused="never on toolkit 1.18.0 (nct#1376)",
        )
        return
    refused, evidence = unmanaged(context), [config_evidence(context, "mode", current)]
    skip = bool(toolkit.value("nvidia-container-runtime-hook", "skip-mode-detection"))
    if wanted.mode != "auto" and wanted.mode != "legacy" and not skip and not refused:
        users = gpus_flag_users(context)
        if users and not wanted.allow_breaking_gpus_flag:
            names = ", ".join(sorted(found.label() for found in users))
            refused = f"containers on this host use --gpus, which the hook refuses in mode {wanted.mode!r} under Docker before 29.2: {names}"
            evidence.extend(Evidence("docker inspect", f"{found.label()}: --gpus") for found in users)
        elif not resolvable_after_mend(context):
            refused = "in mode `cdi` every container of the nvidia runtime needs a spec, and this host has none and cannot make one"
    yield Finding(
        code="GM204",
        status=Status.WARN,
        summary=f"nvidia-container-runtime.mode is {current!r}, wanted is {wanted.mode!r}",
        evidence=tuple(evidence),
        cause="auto means legacy injection up to toolkit 1.17, and CDI made at each start from 1.18 on."
        if current == "auto"
        else "",
        remedy=f"Mend sets mode = {wanted.mode!r}. It is read at every container start: nothing is restarted."
        if not refused
        else 'Recreate those containers with `runtime: nvidia` or `devices: [nvidia.com/gpu=...]`, set `allow_breaking_gpus_flag`, or want `runtime.mode = "auto"`.',
        change=None if refused else change(context, "nvidia-container-runtime", "mode", value=wanted.mode),
        refused=refused,
    )


@rule(
    "GM205",
    "--gpus works in the present mode",
    "nct assertModeIsLegacy; dstack#2306, nct#1246, jetson-containers#1703, TensorRT-LLM#799",
    applies=readable,
)
def gpus_flag(context: Context) -> Iterator[Finding]:
    toolkit, wanted = context.state.toolkit, context.wanted
    current = toolkit.mode()
    if current in ("auto", "legacy") or toolkit.value("nvidia-container-runtime-hook", "skip-mode-detection"):
        return
    users = gpus_flag_users(context)
    asked = "gpus" in (wanted.docker_paths or ()) and (context.state.docker.version.value or (29, 2)) < (
        29,
        2,
    )
    if not users and not asked:
        return
    names = ", ".join(sorted(found.label() for found in users))
    yield Finding(
        code="GM205",
        status=Status.FAIL,
        summary=f"`--gpus` is refused in mode {current!r}" + (f": {names}" if names else ""),
        evidence=(
            config_evidence(context, "mode", current),
            *(Evidence("docker inspect", f"{found.label()}: --gpus") for found in users),
        ),
        cause="Docker before 29.2 serves --gpus through nvidia-container-runtime-hook, which works in legacy mode only.",
        remedy="Recreate them with `runtime: nvidia` and NVIDIA_VISIBLE_DEVICES, or with `devices: [nvidia.com/gpu=...]`; "
        'or want `runtime.mode = "auto"`; or upgrade Docker to 29.2.',
        refused="which of the three is a decision of the host's owner",
        symptoms=("invoking the NVIDIA Container Runtime Hook directly",),
    )


@rule("GM206", "no mode that breaks toolkit 1.18.0", "nct#1376", applies=readable)
def broken_1180(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    version = toolkit.version.get() or ()
    if version[:3] != (1, 18, 0) or toolkit.mode() != "cdi":
        return
    keep = context.wanted.mode == "keep"
    yield Finding(
        code="GM206",
        status=Status.FAIL,
        summary='mode = "cdi" on toolkit 1.18.0: no CDI spec can be generated',
        evidence=(config_evidence(context, "mode", "cdi"), Evidence("nvidia-ctk --version", "1.18.0")),
        cause="Toolkit 1.18.0 alone takes the runtime's mode for the generator's: invalid discovery mode: cdi.",
        remedy='Mend sets mode = "auto", which on 1.18 injects CDI too. Upgrade to 1.18.1 or newer for mode = "cdi".',
        change=None if keep else change(context, "nvidia-container-runtime", "mode", value="auto"),
        refused="runtime.mode is `keep`" if keep else unmanaged(context),
        symptoms=("invalid discovery mode: cdi",),
    )


def is_known(context: Context, mode: str) -> bool:
    """Whether the installed runtime takes a mode. An unknown toolkit version is given the benefit of jit-cdi."""
    return mode in MODES or (
        mode == "jit-cdi" and (context.state.toolkit.version.value or (1, 18)) >= (1, 18)
    )


@rule("GM207", "a mode that the runtime knows", "nct internal/config: invalid mode", applies=readable)
def known_mode(context: Context) -> Iterator[Finding]:
    current = context.state.toolkit.mode()
    if is_known(context, current):
        return
    # No container of the runtime starts now, so nothing can break; auto is right unless cdi is wanted and can work.
    good = context.wanted.mode if context.wanted.mode in ("auto", "legacy") else "auto"
    yield Finding(
        code="GM207",
        status=Status.FAIL,
        summary=f"mode = {current!r} is none that the runtime knows",
        evidence=(config_evidence(context, "mode", current),),
        cause="`nvidia-ctk config --set` writes any text; the runtime then refuses every container.",
        remedy=f"Mend sets mode = {good!r}.",
        change=change(context, "nvidia-container-runtime", "mode", value=good),
        refused=unmanaged(context),
        symptoms=(f'invalid mode "{current}"',),
    )


@rule(
    "GM208",
    "config.toml is readable",
    "nct api/config/v1/config.go; captures of `nvidia-ctk config`",
    applies=has_toolkit,
)
def unreadable(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    if toolkit.config.known:
        return
    if not toolkit.content.ok and toolkit.content.status.value in ("denied", "timeout"):
        toolkit.config.need()  # unknown, not wrong
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


@rule("GM209", "no-cgroups = false for rootful Docker", "nct#580", applies=readable)
def no_cgroups(context: Context) -> Iterator[Finding]:
    toolkit, docker = context.state.toolkit, context.state.docker
    if toolkit.value("nvidia-container-cli", "no-cgroups") is not True or not docker.installed:
        return
    if context.state.docker.rootless_users and not context.wanted.allow_disabling_no_cgroups:
        refused = (
            "a rootless dockerd runs here (uid "
            + ", ".join(map(str, docker.rootless_users))
            + "), which may need it"
        )
    else:
        refused = unmanaged(context)
    yield Finding(
        code="GM209",
        status=Status.FAIL,
        summary="no-cgroups = true: containers of the rootful Docker are denied the GPU",
        evidence=(config_evidence(context, "no-cgroups", True),),
        cause="A rootless set-up guide was followed; the setting holds for the whole host.",
        remedy="Mend sets no-cgroups = false. Rootless engines should use CDI, which needs no such setting."
        if not refused
        else "Move the rootless Docker to CDI, then set `allow_disabling_no_cgroups`.",
        change=None if refused else change(context, "nvidia-container-cli", "no-cgroups", value=False),
        refused=refused,
        symptoms=("Failed to initialize NVML: Unknown Error",),
    )


@rule("GM210", "one APT source for the toolkit", "lnc#194, nct#170", applies=has_gpu)
def apt_sources(context: Context) -> Iterator[Finding]:
    sources = {
        path: found.data.decode("utf-8", "replace") for path, found in context.state.toolkit.sources.items()
    }
    signed: dict[str, str] = {}
    for path, text in sources.items():
        for match in re.finditer(r"(?m)^\s*deb\s+(?:\[([^\]]*)\]\s+)?(\S*nvidia\.github\.io\S*)", text):
            key = re.search(r"signed-by=(\S+)", match.group(1) or "")
            signed[path] = key.group(1) if key else ""
    if len(set(signed.values())) < 2:
        return
    new = [path for path in signed if "/libnvidia-container/stable/deb" in sources[path]]
    old = sorted(path for path in signed if path not in new)
    one = len(new) == 1 and bool(old)
    yield Finding(
        code="GM210",
        status=Status.FAIL,
        summary=f"{len(signed)} APT source files name NVIDIA's repository with different keys: apt-get update fails",
        evidence=tuple(Evidence(path, f"signed-by={key or 'none'}") for path, key in sorted(signed.items())),
        cause="The repository's list file was renamed over the years, and the old one stayed.",
        remedy=f"Mend removes {', '.join(old)} (kept in the run's backup)."
        if one
        else "Remove all but one of them.",
        change=Change(Component.APT, action="remove:" + ":".join(old)) if one else None,
        refused="" if one else "which of them is the right one is not clear",
        symptoms=("Conflicting values set for option Signed-By",),
    )


@rule(
    "GM211",
    "config.toml values of the right type",
    "nct api/config/v1 (unmarshal); captures/config-probes",
    applies=readable,
)
def types(context: Context) -> Iterator[Finding]:
    toolkit = context.state.toolkit
    for keys, kind in TYPES.items():
        value = toolkit.value(*keys)
        if value is not None and not isinstance(value, kind):
            yield Finding(
                code="GM211",
                status=Status.FAIL,
                summary=f"{'.'.join(keys)} = {value!r} is a {type(value).__name__}, not a {kind.__name__}",
                evidence=(config_evidence(context, keys[-1], value),),
                cause="The runtime cannot read its configuration, and refuses every container.",
                remedy="Correct it by hand.",
                refused="what it was meant to be is not ours to guess",
                symptoms=("failed to unmarshal config",),
            )
    listed = toolkit.value("supported-driver-capabilities")
    if isinstance(listed, str) and listed not in ("", "all") and not set(listed.split(",")) <= CAPABILITIES:
        wrong = sorted(set(listed.split(",")) - CAPABILITIES)
        yield Finding(
            code="GM211",
            status=Status.FAIL,
            summary=f"supported-driver-capabilities names unknown ones: {', '.join(wrong)}",
            evidence=(config_evidence(context, "supported-driver-capabilities", listed),),
            cause="The hook panics on them: exit status 1 and no message at all.",
            remedy="Take them out; known are " + ", ".join(sorted(CAPABILITIES)) + ".",
            refused="what it was meant to be is not ours to guess",
        )
