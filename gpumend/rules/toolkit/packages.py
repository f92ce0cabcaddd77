"""GM203, GM212, GM213: the NVIDIA Container Toolkit's packages are there, of one version, and of the wanted one.

Nothing is installed unless the wanted state says so (`toolkit.install`; deploys/provision.py does). No repository is
added: which ones a host trusts is its owner's decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gpumend.rules.cdi.spec import CDI_HOOK, hook_gone
from gpumend.rules.change import InstallPackages
from gpumend.rules.data import load
from gpumend.rules.engines.containerd_config import serves_pods
from gpumend.rules.engines.docker_config import GPUS_BY_CDI, wanted_paths
from gpumend.rules.engines.injection import is_legacy, lost_at_reload, wants_cdi
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.managers import is_described, operators_toolkit, plugin_injects
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.rules.toolkit.versions import Floor, floors
from gpumend.state.packages import TOOLKIT, Offer
from gpumend.text.record import Record
from gpumend.text.version import package_version, parse_version, show, upstream

NEVER = (
    "1.18.0"  # nct#1376: `nvidia-ctk cdi generate` and nvidia-cdi-refresh fail in mode cdi; in this tag alone
)
GUIDE = "NVIDIA Container Toolkit install guide (1.20)"
# What the guide has an operator run where no repository has the packages. sh, as root.
LINES = {
    "apt": (
        "curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey | gpg --dearmor -o /usr/share/keyrings/nvidia-container-toolkit-keyring.gpg",
        "curl -fsSL https://nvidia.github.io/libnvidia-container/stable/deb/nvidia-container-toolkit.list | sed 's#deb https://#deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg] https://#g' >/etc/apt/sources.list.d/nvidia-container-toolkit.list",
        "apt-get update",
    ),
    "dnf": (
        "curl -fsSL https://nvidia.github.io/libnvidia-container/stable/rpm/nvidia-container-toolkit.repo -o /etc/yum.repos.d/nvidia-container-toolkit.repo",
    ),
    # Without --gpg-auto-import-keys, which takes whatever key a repository brings along.
    "zypper": (
        "zypper ar https://nvidia.github.io/libnvidia-container/stable/rpm/nvidia-container-toolkit.repo",
    ),
}
INSIST = "Want {} or newer; where another version has to be, toolkit.version names it and toolkit.insist = true has it installed."
NEXT = "then it judges anew what depends on it: the CDI spec, config.toml, Docker's runtime and its CDI."


class Job(Record):
    """What is to be done about the packages. action: `install` or `downgrade`; targets: `NAME` or `NAME=VERSION`; version:
    the upstream one that comes of it, empty where the host's package manager chooses. refused: why it is not done, and
    by_hand what a person does then."""

    action: str = "install"
    targets: tuple[str, ...] = ()
    version: str = ""
    least: str = ""
    broken: tuple[str, ...] = ()
    refused: str = ""
    by_hand: str = ""


def installed(context: Context) -> dict[str, str]:
    """The toolkit's packages that are here, with their versions. Raises Unread where the database could not be read."""
    found = context.state.packages.installed.get() or {}
    return {name: found[name] for name in TOOLKIT if name in found}


def lacking(context: Context) -> list[str]:
    """The toolkit's programs that this host needs and has not. Raises Unread."""
    paths = wanted_paths(context)
    toolkit, docker = context.state.toolkit, context.state.docker
    # nvidia-container-toolkit-base has all but the hook, which only --gpus and legacy injection need.
    needed = ["nvidia-ctk"]
    needed += ["nvidia-container-runtime"] if "runtime" in paths else []
    # From 29.2 on dockerd serves --gpus with either; before, with the runtime's hook alone (moby daemon/nvidia_linux.go).
    either = (docker.version.value or (0,)) >= GPUS_BY_CDI and toolkit.programs["nvidia-cdi-hook"].ok
    used = any(found.uses_gpus_flag() for found in docker.containers.value or ()) and not either
    hook = "gpus" in paths or context.wanted.mode == "legacy" or used
    needed += ["nvidia-container-runtime-hook"] if hook else []
    # What the hook calls: without it legacy injection fails.
    stays = (
        toolkit.config.known
        and is_legacy(context)
        and not (wants_cdi(context) and context.wanted.manage_runtime)
    )
    if (
        toolkit.installed
        and toolkit.config.known
        and ((stays and "runtime" in paths) or (hook and not either))
    ):
        named = toolkit.value("nvidia-container-cli", "path")
        needed += [] if named else ["nvidia-container-cli"]
    gone = [name for name in needed if toolkit.programs[name].get() is None]
    by_cdi = context.wanted.mode != "legacy" or "device" in paths
    return [*gone, *([CDI_HOOK] if toolkit.installed and by_cdi and hook_gone(context) else [])]


def kept_elsewhere(context: Context) -> bool:
    """Whether containers of this host get the GPU without the toolkit's packages: the operator's directory, the system's own
    description, or the snap has what it takes."""
    state = context.state
    if state.host.distribution.value == "bottlerocket":
        return True  # what its image has, and no more
    if state.toolkit.installed:
        return False
    if plugin_injects(context):
        return True
    snap = state.docker.snap and not serves_pods(context) and state.podman.version.absent
    return snap or is_described(context) or operators_toolkit(state)


def floor() -> Floor:
    """The newest floor of the toolkit's: no version below it is without a known advisory."""
    return floors("toolkit", (0,))[0]


def broken_releases() -> tuple[str, ...]:
    return tuple(row["version"] for row in load("security_floors")["broken_toolkits"])


def unsafe(version: str) -> str:
    """Why a version is not to be installed; empty where it may be."""
    least = floor()
    if package_version(version) < package_version(show(least.minimum)):
        return f"it is below the security floor {show(least.minimum)}, which fixes {', '.join(least.fixes)} ({least.source})"
    rows = (row for row in load("security_floors")["broken_toolkits"] if row["version"] == version)
    return next((f"it is a broken release: {row['what']} ({row['source']})" for row in rows), "")


def choice(offers: Mapping[str, Offer], names: tuple[str, ...], wanted: str, insist: bool = True) -> str:
    """The upstream version to install, of those that all these packages are offered in: the wanted one; else the candidate,
    which is what the host's pins say; else the newest. Empty where there is none. Release candidates and releases that
    are known to be broken only where they are wanted by name, 1.18.0 never; those below the security floor where somebody
    insists."""
    first, *others = (offers.get(name, Offer(None, ())) for name in names)
    elsewhere = [{upstream(version) for version in offer.versions} for offer in others]
    common = [
        found
        for version in first.versions
        if (found := upstream(version)) != NEVER and all(found in versions for versions in elsewhere)
    ]
    if wanted:
        return wanted if wanted in common else ""
    broken = broken_releases()
    released = [found for found in common if "~" not in found and "rc" not in found and found not in broken]
    released = [found for found in released if insist or not unsafe(found)]
    candidate = upstream(first.candidate) if first.candidate else ""
    return candidate if candidate in released else next(iter(released), "")


def older_candidate(offers: Mapping[str, Offer], names: tuple[str, ...]) -> str:
    """The candidate's upstream version where a repository has a newer one: somebody has chosen it. Empty where not."""
    offer = offers.get(names[0])
    if offer is None or not offer.candidate or not offer.versions:
        return ""
    candidate = upstream(offer.candidate)
    return candidate if candidate != upstream(offer.versions[0]) else ""


def in_version(offers: Mapping[str, Offer], name: str, version: str) -> str:
    """A target: the package in its newest revision of an upstream version."""
    exact = (found for found in offers[name].versions if upstream(found) == version)
    return f"{name}={next(exact)}"


def obstacle(context: Context, have: Mapping[str, str]) -> tuple[str, str]:
    """(why nothing can be installed here, what a person does then), or two empty texts."""
    state = context.state
    packages = state.packages
    if state.host.tegra:
        return "on a Jetson the toolkit is JetPack's", "Install it as NVIDIA's JetPack documents say."
    if packages.manager not in packages.managers:
        known = next((name for name in packages.managers if name in LINES), "")
        lines = "".join(f"\n{line}" for line in LINES.get(known, ()))
        return (
            "mend installs with apt, dnf and zypper only",
            f"Install {TOOLKIT[0]} with this host's own package manager"
            + (f" ({GUIDE}):{lines}" if lines else "."),
        )
    programs = [state.toolkit.programs[name].value for name in ("nvidia-ctk", "nvidia-container-runtime")]
    strays = [found.path for found in programs if found] if not have else []
    if strays:
        return (
            f"{' and '.join(strays)} came without a package",
            "Remove what was installed by hand, then run this again.",
        )
    if have and (lost := lost_at_reload(context)):
        return (
            f"its scripts reload systemd, and these lose the GPU then: {', '.join(lost)}",
            "Stop them, or drain the node (gpumend explain GM509), then run it again.",
        )
    held = sorted(packages.held & set(have))
    if held:
        return f"on hold: {', '.join(held)}", f"Take the hold off: apt-mark unhold {' '.join(held)}"
    return "", ""


def job(context: Context) -> Job:
    """What brings this host's packages to what is wanted of them. Raises Unread."""
    have, packages = installed(context), context.state.packages
    refused, by_hand = obstacle(context, have)
    if refused:
        return Job(refused=refused, by_hand=by_hand)
    names = TOOLKIT if not have or lacking(context) else tuple(have)
    wanted = context.wanted.toolkit_version
    versions = sorted({upstream(version) for version in have.values()}, key=package_version)
    version = wanted or (versions[-1] if versions and versions[-1] != NEVER else "")
    # What is there already stays as safe as it is.
    insist = context.wanted.toolkit_insist or version in versions
    if version and not insist and (why := unsafe(version)):
        return Job(refused=f"{version} is not installed: {why}", by_hand=INSIST.format(show(floor().minimum)))
    least = ("", ()) if insist else (show(floor().minimum), broken_releases())
    action = (
        "downgrade"
        if wanted and any(package_version(found) > package_version(wanted) for found in versions)
        else "install"
    )
    if not packages.offers.ok:  # not asked: the host looks for it when it is done
        return Job(action, tuple(f"{name}={version}" if version else name for name in names), version, *least)
    offers = packages.offers.need()
    pinned = older_candidate(offers, names)
    if not version and not insist and pinned and (why := unsafe(pinned)):
        return Job(
            refused=f"a pin of this host chooses {pinned}: {why}",
            by_hand=f"Look for it: apt-cache policy {names[0]}. " + INSIST.format(show(floor().minimum)),
        )
    chosen = choice(offers, names, version, insist)
    if chosen:
        return Job(action, tuple(in_version(offers, name, chosen) for name in names), chosen, *least)
    if (newest := choice(offers, names, version)) and not insist:
        return Job(
            refused=f"{newest} is the newest that this host's repositories have, and {unsafe(newest)}",
            by_hand="Add a repository that has a newer one (repositories.toolkit). "
            + INSIST.format(show(floor().minimum)),
        )
    if not any(name in offers for name in names):
        forbidden = sorted(name for name in names if name in packages.forbidden)
        if forbidden:
            return Job(
                refused=f"a pin of this host forbids {', '.join(forbidden)}",
                by_hand=f"Look for it: grep -rn Pin /etc/apt/preferences /etc/apt/preferences.d; apt-cache policy {forbidden[0]}",
            )
        named = bool(context.state.toolkit.sources.value) or bool(context.wanted.repositories)
        if packages.fetched and not named:
            lines = "".join(f"\n{line}" for line in LINES["apt"])
            return Job(
                refused=f"no repository of this host has {TOOLKIT[0]}, and none is added",
                by_hand=f"Run this, and then gpumend again ({GUIDE}):{lines}",
            )
        return Job(action, tuple(f"{name}={version}" if version else name for name in names), version, *least)
    seen = list(
        dict.fromkeys(upstream(found) for name in names if name in offers for found in offers[name].versions)
    )
    return Job(
        refused=f"{version or 'a version that is fit'} is not offered for each of {', '.join(names)}; there is {', '.join(seen[:6])}",
        by_hand="Name one that is there in toolkit.version, or add a repository that has all of them.",
    )


def decided(context: Context) -> tuple[Change | None, str, Job]:
    """(change, why there is none, the job)."""
    if not context.wanted.toolkit_install:
        return None, "toolkit.install is false", Job()
    found = job(context)
    if found.refused:
        return None, found.refused, found
    install = InstallPackages(found.action, found.targets, found.version, found.least, found.broken)
    return Change(Component.PACKAGES, install), "", found


def offered(context: Context) -> tuple[Evidence, ...]:
    """What apt has of the toolkit, where it was asked."""
    offers = context.state.packages.offers.value
    if offers is None:
        return ()
    found = offers.get(TOOLKIT[0])
    return (Evidence(f"apt-cache policy {TOOLKIT[0]}", ", ".join(found.versions[:6]) if found else "none"),)


def told(context: Context, found: Job) -> str:
    """What mend does, for the remedy."""
    names = ", ".join(target.partition("=")[0] for target in found.targets)
    newest = f"in the newest version that {context.state.packages.manager} has"
    which = f"all in version {found.version}" if found.version else newest
    low = floors("toolkit", parse_version(found.version)) if found.version else ()
    which += f" (below {show(low[0].minimum)}, which fixes {', '.join(low[0].fixes)})" if low else ""
    return f"Mend asks {context.state.packages.manager} to {found.action} {names}, {which}, if that touches no driver package and removes nothing;"


@rule(
    "GM203",
    "the NVIDIA Container Toolkit is installed",
    "nct install guide; nct#854, nd#1034",
    applies=has_gpu,
)
def missing(context: Context) -> Iterator[Finding]:
    absent = lacking(context)
    if not absent or kept_elsewhere(context):
        return
    change, refused, found = decided(context)
    if change is not None:
        remedy = f"{told(context, found)} {NEXT}"
    elif context.wanted.toolkit_install:
        remedy = found.by_hand
    else:
        remedy = f"Install the package {TOOLKIT[0]} (deploys/provision.py does, and toolkit.install = true), then run this again."
    yield Finding(
        code="GM203",
        status=Status.FAIL,
        summary="the NVIDIA Container Toolkit is not installed"
        if not context.state.toolkit.installed
        else f"the NVIDIA Container Toolkit is not whole: {', '.join(absent)} missing",
        evidence=(*(Evidence("PATH", f"no {name}") for name in absent), *offered(context)),
        cause="Nothing else of the toolkit, and no CDI spec, is judged or made before it is there."
        if not context.state.toolkit.installed
        else "",
        remedy=remedy,
        change=change,
        refused=refused if context.wanted.toolkit_install else "",
        symptoms=(
            'could not select device driver "" with capabilities: [[gpu]]',
            "AMD CDI spec not found",
            "couldn't find binary",
        ),
    )


@rule(
    "GM212",
    "the toolkit's packages are of one version",
    "nct#1091 (pytorch's CI lost the GPU in every container), nct PR#1100; install guide: all four in one version",
    applies=has_gpu,
)
def mixed(context: Context) -> Iterator[Finding]:
    have = installed(context)
    versions = sorted({upstream(version) for version in have.values()}, key=package_version)
    if len(versions) < 2:
        return
    change, refused, found = decided(context)
    yield Finding(
        code="GM212",
        status=Status.WARN,
        summary=f"the toolkit's packages are of different versions: {', '.join(versions)}",
        evidence=tuple(Evidence("dpkg, rpm", f"{name} {version}") for name, version in have.items()),
        cause="They are released together and made for each other. Before 1.18 their dependencies allow newer libraries, and "
        "where one is named to apt or dnf alone, the others go their own way.",
        remedy=f"{told(context, found)} the newest that is installed is kept, none is downgraded unless toolkit.version says so."
        if change
        else found.by_hand or "Install all of them in one version.",
        change=change,
        refused=refused,
        symptoms=("nvidia-container-cli: unrecognized option", "symbol lookup error: nvidia-container-cli"),
    )


@rule(
    "GM213",
    "the toolkit is of the wanted version",
    "nct#1376: 1.18.0 is never right; `toolkit.version` in the wanted state",
    applies=has_gpu,
)
def version_wanted(context: Context) -> Iterator[Finding]:
    wanted = context.wanted.toolkit_version
    if not wanted and not context.wanted.toolkit_install:
        return
    have = installed(context)
    versions = {upstream(version) for version in have.values()}
    if not have and context.state.toolkit.installed:
        versions = {show(context.state.toolkit.version.need())}
    if len(versions) != 1 or lacking(context):
        return  # GM212, GM203
    [version] = versions
    if version == wanted or (not wanted and version != NEVER):
        return
    change, refused, found = decided(context)
    yield Finding(
        code="GM213",
        status=Status.WARN,
        summary=f"toolkit {version} is installed"
        + (f", wanted is {wanted}" if wanted else ", which is never right"),
        evidence=tuple(Evidence("dpkg, rpm", f"{name} {text}") for name, text in have.items())
        or (Evidence("nvidia-ctk --version", version),),
        cause=""
        if wanted
        else "In 1.18.0 alone `nvidia-ctk cdi generate` and nvidia-cdi-refresh fail in mode cdi.",
        remedy=f"{told(context, found)} its programs then have to answer as that."
        if change
        else found.by_hand or f"Install {wanted or 'another version'} of {', '.join(have) or TOOLKIT[0]}.",
        change=change,
        refused=refused,
        symptoms=() if wanted else ("invalid discovery mode: cdi",),
    )
