"""GM605, GM607, GM608: what of CUDA is installed on a host (toolkits, CUPTI, libraries), and whether it fits together."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.cuda.decision import CAUSE_35, driver_evidence
from gpumend.rules.cuda.releases import dotted, served, windows_served
from gpumend.rules.driver.drift import reboot_pending
from gpumend.rules.driver.gpus import fault
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.cuda import Tree
from gpumend.state.cupti import Cupti
from gpumend.text.version import Version, parse_version

CUPTI_WORDS = {
    "header_only": "has the header alone, and no libcupti.so",
    "dangling": "has links to a libcupti.so that is not there",
    "wrong_version": "has a libcupti.so of another CUDA major",
    "not_in_loader_path": "is where the dynamic linker does not look",
}
CUPTI_CAUSES = {
    "header_only": "The header came with a development package or a copy; the library is a package of its own. CMake finds cupti.h and "
    "projects that look no further (CUPTI_INCLUDE_DIR) build their profiler; its programs stop when they load the library. With "
    "find_package(CUDAToolkit) there is no target CUDA::cupti, and -lcupti is not found.",
    "dangling": "The link's package is there, the library's is not, or it was removed by hand. A build stops at -lcupti; what was "
    "built before does not start.",
    "wrong_version": "The loader goes by the soname, which has the CUDA major: programs of this toolkit do not find theirs.",
    "not_in_loader_path": "The runfile puts it into extras/CUPTI/lib64, which no file of the linker's names. Programs find it only "
    "with LD_LIBRARY_PATH; PyTorch's wheels bring their own.",
}


@rule(
    "GM605",
    "CUPTI is more than its header",
    "report 004, strategy 5; NVIDIA's packages cuda-cupti-X-Y and cuda-cupti-dev-X-Y; measured with Debian's libcupti11.8, libcupti12",
    applies=has_gpu,
)
def cupti(context: Context) -> Iterator[Finding]:
    for found in context.state.cuda.cupti:
        release = _cupti_release(context, found)
        state = found.state(release[0] if release else None)
        if state == "header_only":
            context.state.cuda.looked.get()  # the library may be where we could not look
        if state not in CUPTI_WORDS or (state == "not_in_loader_path" and found.instead):
            continue
        harmless = state == "not_in_loader_path"
        where = found.tree or "the distribution's directories"
        yield Finding(
            code="GM605",
            status=Status.NOTE if harmless else Status.WARN,
            summary=f"CUPTI in {where} {CUPTI_WORDS[state]}",
            evidence=tuple(
                Evidence(path, text)
                for paths, text in (
                    (found.headers, "header"),
                    (found.libraries, "library"),
                    (found.dangling, "leads nowhere"),
                )
                for path in paths
            ),
            cause=CUPTI_CAUSES[state],
            remedy=_cupti_remedy(found, release, state),
            refused="" if harmless else "toolkit packages are not installed by mend",
            symptoms=(f"libcupti.so.{release[0] if release else 12}: cannot open shared object file",),
        )
    context.state.cuda.looked.get()


def _cupti_release(context: Context, found: Cupti) -> Version | None:
    """The CUDA release that a place is of, where it is of one."""
    trees = {tree.path: tree.version for tree in context.state.cuda.trees}
    if found.kind == "hpc_sdk" and (match := re.search(r"/(\d+\.\d+)$", found.tree)):
        return parse_version(match.group(1))
    return trees.get(found.tree)


def _cupti_remedy(found: Cupti, release: Version | None, state: str) -> str:
    if state == "not_in_loader_path":
        directory = found.libraries[0].rpartition("/")[0]
        return f"Where a program needs it: LD_LIBRARY_PATH={directory} for that program alone."
    if found.kind == "distribution":
        package = "the distribution's library (libcupti12 on Debian 13, libcupti11.8 on Debian 12: `apt-cache search libcupti`)"
    elif found.kind == "wheel":
        return "Install the wheel again: pip install --force-reinstall nvidia-cuda-cupti-cu12 (or the one that is there)."
    elif found.kind == "conda":
        package = "conda's cuda-cupti"
    elif found.kind == "hpc_sdk":
        return "Install the HPC SDK again, or leave the profiler out of the build (-DUSE_CUPTI=OFF)."
    else:
        package = (
            f"cuda-cupti-{release[0]}-{release[1]}" if release else "cuda-cupti-X-Y of the toolkit's release"
        )
    return f"Install {package}, or leave the profiler out of the build (-DUSE_CUPTI=OFF)."


@rule(
    "GM607",
    "each CUDA toolkit was installed one way, and says which it is",
    "NVIDIA CUDA installation guide, Conflicting Installation Methods",
    applies=has_gpu,
)
def toolkits(context: Context) -> Iterator[Finding]:
    cuda = context.state.cuda
    if cuda.dangling:
        yield Finding(
            code="GM607",
            status=Status.WARN,
            summary=f"/usr/local/cuda leads to {cuda.dangling}, which is not there",
            evidence=(Evidence("/usr/local/cuda", f"-> {cuda.dangling}"),),
            remedy="`update-alternatives --config cuda`, or renew the link to a toolkit that is installed.",
            refused="which toolkit is the host's is its owner's decision",
        )
    for tree in cuda.trees:
        told = re.search(r"/cuda-(\d+\.\d+)$", tree.path)
        if tree.how == "both":
            yield _toolkit(
                tree,
                f"CUDA {dotted(tree.version or ())} in {tree.path} was installed by packages and by the runfile",
                "The two overwrite each other's files, and removing one breaks the other.",
                f"Run {tree.path}/bin/cuda-uninstaller and install the packages again, or remove the packages.",
            )
        elif told and tree.version and tree.version != parse_version(told.group(1)):
            yield _toolkit(
                tree,
                f"{tree.path} holds CUDA {dotted(tree.version)}",
                "A toolkit was copied or installed into another one's directory.",
                "Install it into a directory of its own name.",
            )
    cuda.looked.get()


def _toolkit(tree: Tree, summary: str, cause: str, remedy: str) -> Finding:
    return Finding(
        code="GM607",
        status=Status.WARN,
        summary=summary,
        evidence=(
            Evidence(tree.version_source, f"CUDA {dotted(tree.version or ())}"),
            Evidence(
                f"{tree.path}/bin/cuda-uninstaller",
                "there" if tree.how in ("both", "runfile") else "not there",
            ),
        ),
        cause=cause,
        remedy=remedy,
        refused="toolkits are not removed by mend",
    )


@rule(
    "GM608",
    "libraries on the host were built for a CUDA that the driver runs",
    "report 000: unpinned libnvinfer10 +cuda13.0 on a 12.6 driver; measured: cudart 13 refuses a 12.x driver",
    applies=has_gpu,
)
def built_for(context: Context) -> Iterator[Finding]:
    state = context.state
    if state.host.tegra or reboot_pending(context):
        return
    if state.host.wsl2:
        details = state.gpus.details.get() if fault(context) is None else None  # GM107 tells
        newest = (
            max(filter(None, (windows_served(details.driver), details.cuda)), default=None)
            if details
            else None
        )
    else:
        driver = state.driver.loaded.get()
        newest = served(driver) if driver else None
    if newest is None:
        return
    # cuDNN and NCCL say a major alone at times: a major is what cudart's own check goes by, too.
    wrong = [
        found
        for found in state.cuda.of_role("built_for", "toolkit", "library", "distro_toolkit")
        if found.cuda and found.cuda[0] > newest[0]
    ]
    if not wrong:
        return
    compat = [
        found
        for found, _ in state.cuda.active_compats()
        if found.cuda and found.cuda[0] >= max(p.cuda[0] for p in wrong if p.cuda)
    ]
    if compat or any(wanted[0] > newest[0] for wanted in context.wanted.cuda):
        return  # served by compat, or GM601's
    libraries = [found for found in wrong if found.role == "built_for"]
    first = (libraries or wrong)[0]
    yield Finding(
        code="GM608",
        status=Status.WARN,
        summary=f"{first.name} {first.version} is of CUDA {dotted(first.cuda or ())}, the driver serves {dotted(newest)}"
        + (f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""),
        evidence=(
            *(Evidence("dpkg, rpm", f"{found.name} {found.version}") for found in wrong[:6]),
            *driver_evidence(context),
        ),
        cause=f"A CUDA runtime of a newer major than the driver's refuses to start. {CAUSE_35}",
        remedy=f"Pin the library to a build for CUDA {newest[0]} (its version ends in +cuda{newest[0]}.x), or upgrade the driver.",
        refused="which of the two is the owner's decision",
        symptoms=(
            "CUDA initialization failure with error: 35",
            "CUDA driver version is insufficient for CUDA runtime version",
        ),
    )
