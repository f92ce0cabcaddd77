"""GM610, GM611, GM612: the CUDA toolkit that is wanted is there, nothing of CUDA's pulls a driver, no tree is without an owner."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.change import InstallCuda
from gpumend.rules.cuda.releases import dotted
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.rules.wanted import CudaToolkit
from gpumend.state.cuda import Tree
from gpumend.text.record import Record
from gpumend.text.version import package_version, parse_version

# Flavour -> packages by what stands before the release (NVIDIA CUDA installation guide, Meta Packages; public dpkg -l lists).
# None of them depends on a driver: `cuda`, `cuda-X-Y` and `cuda-runtime-X-Y` do.
FLAVOURS = {
    "libraries": ("cuda-libraries",),
    "libraries-dev": ("cuda-libraries-dev", "cuda-cudart-dev"),
    "build": ("cuda-minimal-build", "cuda-libraries-dev"),
    "toolkit": ("cuda-toolkit",),
}
CUPTI = {"": (), "runtime": ("cuda-cupti",), "dev": ("cuda-cupti", "cuda-cupti-dev")}
METAPACKAGES = ("cuda-libraries", "cuda-libraries-dev", "cuda-minimal-build", "cuda-toolkit")
PULLS_A_DRIVER = re.compile(r"cuda(?:-\d+(?:-\d+)?)?|cuda-(?:runtime|demo-suite)(?:-\d+-\d+)?")
COMPILER = ("build", "toolkit")
GUIDE = "NVIDIA CUDA installation guide for Linux"


class Job(Record):
    """What is missing of the wanted toolkit, in words, and what brings it. refused: why that is not done; by_hand: what a person does
    then."""

    lacks: tuple[str, ...] = ()
    action: InstallCuda | None = None
    refused: str = ""
    by_hand: str = ""


def names(wanted: CudaToolkit, manager: str) -> tuple[str, ...]:
    """The packages of a flavour. RPMs are called -devel, and cuda-cupti has the headers with it."""
    parts = FLAVOURS[wanted.flavour] + (() if wanted.flavour == "toolkit" else CUPTI[wanted.cupti])
    if manager != "apt":
        parts = tuple(name.replace("-dev", "-devel") for name in parts if name != "cuda-cupti-dev")
    return tuple(f"{name}-{wanted.release.replace('.', '-')}" for name in parts)


def pinned(name: str, pin: str) -> str:
    """A target of a package manager."""
    bare = re.sub(r"-\d+-\d+$", "", name).replace("-devel", "-dev")
    return f"{name}={pin}" if pin and bare in METAPACKAGES else name


def fits(version: str, pin: str) -> bool:
    """Whether an installed version is the pinned one; a pin without a revision stands for each of its revisions."""
    bare = version.rpartition(":")[2]
    return bare == pin or ("-" not in pin and bare.rpartition("-")[0] == pin)


def path_of(release: str) -> str:
    """The directory of a toolkit, as NVIDIA's packages and its runfile have it."""
    return f"/usr/local/cuda-{release}"


def tree_of(context: Context, release: str) -> Tree | None:
    return next((tree for tree in context.state.cuda.trees if tree.path == path_of(release)), None)


def by_packages(context: Context, wanted: CudaToolkit, manager: str) -> Job:
    """What brings the packages to what is wanted of them. Raises Unread."""
    state = context.state.packages
    have = state.installed.get() or {}
    wants = names(wanted, manager)
    missing = [name for name in wants if name not in have]
    targets = tuple(pinned(name, wanted.pin) for name in wants)
    other = [
        name
        for name, target in zip(wants, targets)
        if name in have and "=" in target and not fits(have[name], wanted.pin)
    ]
    down = any(package_version(have[name]) > package_version(wanted.pin) for name in other)
    hold = tuple(name for name in wants if name not in state.held) if wanted.hold else ()
    changes = bool(missing or other)
    return Job(
        tuple(f"no package {name}" for name in missing)
        + tuple(f"{name} is {have[name]}, not {wanted.pin}" for name in other)
        + tuple(f"{name} is not held" for name in hold if name in have),
        InstallCuda(
            wanted.release,
            path_of(wanted.release),
            manager,
            "downgrade" if down else "install",
            targets if changes else (),
            wants,
            hold=hold,
            compiler=wanted.flavour in COMPILER,
        ),
    )


def by_runfile(context: Context, wanted: CudaToolkit) -> Job:
    tree = tree_of(context, wanted.release)
    path = path_of(wanted.release)
    there = tree is not None and tree.nvcc and tree.version == parse_version(wanted.release)
    action = InstallCuda(wanted.release, path, runfile=None if there else wanted.runfile, compiler=True)
    return Job(() if there else (f"no toolkit in {path}",), action)


def obstacle(context: Context, wanted: CudaToolkit, method: str) -> tuple[str, str]:
    """(why it cannot be installed this way here, what a person does), or two empty texts. Raises Unread."""
    state, tree = context.state, tree_of(context, wanted.release)
    if state.host.tegra:
        return "on a Jetson CUDA is JetPack's", "Install it as NVIDIA's JetPack documents say."
    if method == "runfile":
        if wanted.runfile is None:
            return (
                "no runfile is named",
                "Name its path and its SHA-256: cuda_toolkit.runfile = {file, sha256}.",
            )
        if wanted.flavour != "toolkit":
            return "a runfile has the whole toolkit alone", "Want flavour toolkit, or packages."
        if wanted.hold or wanted.pin:
            return (
                "a runfile is of one version, and nobody upgrades it",
                "Leave out cuda_toolkit.pin and hold.",
            )
        if tree and tree.how in ("packages", "both"):
            return (
                f"packages have {tree.path}",
                "Remove them first, or want the packages: two ways in one directory break each other.",
            )
        if tree and (not tree.nvcc or tree.version != parse_version(wanted.release)):
            return (
                f"{tree.path} is there, and is not CUDA {wanted.release} whole",
                f"Look at it, then remove {tree.path}.",
            )
        return "", ""
    if method not in state.packages.managers:
        packages = " ".join(names(wanted, method))
        line = f"{method} install {packages}" if method else f"Install {packages}"
        return "mend installs with apt, dnf and zypper only, of those that the host has", f"{line} ({GUIDE})."
    if tree and tree.how in ("runfile", "both"):
        return (
            f"the runfile has {tree.path}",
            f"Run {tree.path}/bin/cuda-uninstaller first, or want method runfile.",
        )
    if tree and tree.how == "unowned":
        return (
            f"{tree.path} is there, and no package owns it",
            f"Look whose it is, then move it away: `dpkg -S {tree.path}/bin/nvcc`.",
        )
    if wanted.hold and method != "apt":
        return (
            "holds are apt's",
            "Use `dnf versionlock add` or `zypper addlock`, and leave out cuda_toolkit.hold.",
        )
    return "", ""


def job(context: Context, wanted: CudaToolkit) -> Job:
    """What is missing of the wanted toolkit, and what brings it. Raises Unread."""
    cuda, method = context.state.cuda, wanted.method
    if method == "auto":
        method = context.state.packages.manager or next(iter(context.state.packages.managers), "")
    found = by_runfile(context, wanted) if method == "runfile" else by_packages(context, wanted, method)
    assert found.action is not None
    cuda.looked.get()
    path, active = found.action.path, cuda.active.get()
    lead = wanted.default and (active != path or bool(cuda.dangling))
    lacks = found.lacks + (
        (f"/usr/local/cuda leads to {active or cuda.dangling or 'nothing'}",) if lead else ()
    )
    if not lacks:
        return Job()
    refused, by_hand = obstacle(context, wanted, method)
    if refused:
        return Job(lacks, None, refused, by_hand)
    return Job(lacks, found.action._replace(default=lead))


def wants_toolkit(context: Context) -> bool:
    return context.wanted.cuda_toolkit is not None


@rule(
    "GM610",
    "the CUDA toolkit that is wanted is there",
    "NVIDIA CUDA installation guide, Meta Packages; report 004; `cuda_toolkit` in the wanted state",
    applies=wants_toolkit,
)
def installed(context: Context) -> Iterator[Finding]:
    wanted = context.wanted.cuda_toolkit
    assert wanted is not None
    found = job(context, wanted)
    if not found.lacks:
        return
    change = (
        Change(Component.CUDA_TOOLKIT, found.action) if found.action and context.wanted.manage_cuda else None
    )
    missing = any(text.startswith("no ") for text in found.lacks)
    yield Finding(
        code="GM610",
        status=Status.FAIL if missing else Status.WARN,
        summary=f"CUDA {wanted.release} ({wanted.flavour}) is not installed"
        if missing
        else f"CUDA {wanted.release} is not as it is wanted",
        evidence=tuple(Evidence("cuda_toolkit", text) for text in found.lacks),
        remedy=_told(found.action) if found.action else found.by_hand,
        change=change,
        refused="" if change else found.refused or "cuda.manage is false",
    )


def _told(action: InstallCuda) -> str:
    if action.runfile:
        return f"Mend runs {action.runfile[0]} with --silent --toolkit, if its SHA-256 is right and there is room for it."
    if action.targets:
        return (
            f"Mend asks {action.manager} to {action.verb} {', '.join(action.targets)}, if that touches no driver package and "
            "removes nothing."
        )
    return "Mend sets it: nothing is installed for it."


@rule(
    "GM611",
    "no package of CUDA's is one that pulls a driver along",
    "NVIDIA CUDA installation guide, Meta Packages: cuda and cuda-runtime-X-Y have the driver; report 004",
    applies=has_gpu,
)
def pulls_a_driver(context: Context) -> Iterator[Finding]:
    have = context.state.packages.installed.get() or {}
    found = {name: version for name, version in sorted(have.items()) if PULLS_A_DRIVER.fullmatch(name)}
    if found:
        yield Finding(
            code="GM611",
            status=Status.NOTE,
            summary=f"{', '.join(found)}: {'it brings' if len(found) == 1 else 'they bring'} a driver with each upgrade",
            evidence=tuple(Evidence("dpkg, rpm", f"{name} {version}") for name, version in found.items()),
            remedy="Where the driver is somebody else's to choose: cuda-toolkit-X-Y or cuda-libraries-X-Y instead, which have none.",
        )


@rule(
    "GM612",
    "each CUDA toolkit is owned by a package",
    "report 004, strategies 4 and 6: a copied /usr/local/cuda; NVIDIA CUDA installation guide, Runfile",
    applies=has_gpu,
)
def unowned(context: Context) -> Iterator[Finding]:
    context.state.cuda.packages.get()
    wanted = context.wanted.cuda_toolkit
    named = path_of(wanted.release) if wanted and wanted.method == "runfile" else ""
    for tree in context.state.cuda.trees:
        if (
            tree.how not in ("unowned", "runfile")
            or not tree.path.startswith("/usr/local/")
            or tree.path == named
        ):
            continue
        came = (
            "by the runfile"
            if tree.how == "runfile"
            else "by a copy, or by a runfile whose uninstaller is gone"
        )
        yield Finding(
            code="GM612",
            status=Status.NOTE,
            summary=f"no package owns {tree.path} (CUDA {dotted(tree.version) if tree.version else 'of no known release'})",
            evidence=(Evidence(tree.version_source or tree.path, f"it came {came}"),),
            remedy="No upgrade of packages reaches it: whoever put it there keeps it, or it goes and packages come.",
        )
    context.state.cuda.looked.get()
