"""GM601: does this host's driver run the CUDA that is wanted of it; if not, why, and what helps."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpumend.rules.cuda.decision import (
    CAUSE_35,
    HOOK_SINCE,
    Case,
    Decision,
    case_of,
    decide,
    driver_evidence,
    least_driver,
)
from gpumend.rules.cuda.releases import (
    RELEASES,
    dotted,
    dropped,
    noted,
    paired_branch,
    served,
    windows_driver,
    windows_served,
)
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.text.version import show


def wants_cuda(context: Context) -> bool:
    """Whether there is a GPU, and CUDA releases are wanted of this host."""
    return has_gpu(context) and bool(context.wanted.cuda)


@rule(
    "GM601",
    "the driver runs the wanted CUDA",
    "NVIDIA CUDA release notes Table 3, CUDA compatibility guide; rules/data; reports 000 and 003",
    applies=wants_cuda,
)
def wanted_release(context: Context) -> Iterator[Finding]:
    for wanted in context.wanted.cuda:
        case = case_of(context, wanted)
        row = decide(case)
        finding = EXPLAIN[row.action](context, case, row) if row.action in EXPLAIN else None
        if finding is not None:
            yield finding


def _finding(
    context: Context, case: Case, row: Decision, status: Status, summary: str, **more: object
) -> Finding:
    evidence = (
        *driver_evidence(context),
        Evidence(
            "decision", f"row {row.number} for CUDA {dotted(case.wanted)}, needs {case.needs}: {row.source}"
        ),
    )
    return Finding("GM601", status, summary, evidence, **more)  # type: ignore[arg-type]


def _windows(context: Context, case: Case, row: Decision) -> Finding | None:
    details = context.state.gpus.details.need()
    needed = windows_driver(case.wanted)
    serves = max(filter(None, (windows_served(details.driver), details.cuda)), default=None)
    if (needed is not None and details.driver >= needed) or (
        serves is not None and serves >= case.wanted[:2]
    ):
        return None
    least = f" to {show(needed)} or newer" if needed else f" to one that serves CUDA {dotted(case.wanted)}"
    older = f"an image for CUDA <= {dotted(serves)}" if serves else "an image for an older CUDA"
    same_major = serves is not None and serves[0] == case.wanted[0] and case.needs == "runtime"
    return _finding(
        context,
        case,
        row,
        Status.WARN if same_major else Status.FAIL,
        f"the Windows driver {show(details.driver)} serves CUDA {dotted(serves) if serves else 'not known'}, "
        f"wanted is {dotted(case.wanted)}",
        cause="This is WSL2: the driver is Windows's, so no Linux driver and no cuda-compat package can help."
        + (
            " Programs of the same CUDA major start; newer functions and PTX of the newer toolkit fail."
            if same_major
            else ""
        )
        + f" {CAUSE_35} A library that was built for a newer CUDA major than the driver's (an unpinned TensorRT) is the second.",
        remedy=f"Update the Windows driver{least}, or use {older}.",
        risk=Risk.REBOOT,
        refused="the driver is Windows's",
        symptoms=(
            "CUDA initialization failure with error: 35",
            "CUDA driver version is insufficient for CUDA runtime version",
        ),
    )


def _vendor(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"this is a Jetson: whether it runs CUDA {dotted(case.wanted)} is JetPack's matter",
        remedy="Use the CUDA and the compat package that NVIDIA's JetPack documents name for this L4T release.",
        refused="Jetson systems are the vendor's to manage",
    )


def _reboot(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"whether CUDA {dotted(case.wanted)} runs is judged after a reboot",
        cause=f"{case.reboot[0].upper()}{case.reboot[1:]}. Programs may see error 803 or 804 meanwhile.",
        remedy="Reboot, then run this audit again. Nothing around CUDA is changed before.",
        risk=Risk.REBOOT,
        refused=case.reboot,
        symptoms=("system has unsupported display driver / cuda driver combination",),
    )


def _no_driver(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"CUDA {dotted(case.wanted)} is wanted, and no driver is loaded",
        cause="Error 35 means just this here: no driver. A cuda-compat package does not help.",
        remedy=f"Put GM102 right first, with driver {least_driver(case)}.",
        risk=Risk.REBOOT,
        refused="the driver is not installed by mend",
        symptoms=("CUDA driver version is insufficient for CUDA runtime version",),
    )


def _unknown_release(context: Context, case: Case, row: Decision) -> Finding:
    paired = paired_branch(case.wanted)
    say = f"; it goes with driver branch {paired}" if paired else ""
    note = noted(case.wanted, case.branch, case.notes)
    return _finding(
        context,
        case,
        row,
        Status.UNKNOWN,
        f"which driver CUDA {dotted(case.wanted)} needs is not in the tables{say}",
        cause="The release is newer than this gpumend, brings no Linux driver of its own (13.4 and newer), or does not exist "
        "(there is no CUDA 12.7). Nothing is guessed."
        + (f" The ELF note of its compat library accepts branch {case.branch}." if note else ""),
        remedy="See docs/adding-a-cuda-release.md; or ask the compat library itself: "
        "`readelf -p .note.cuda.fwd_compatibility /usr/local/cuda-X.Y/compat/libcuda.so.*`.",
        refused="not guessed",
    )


def _old_gpu(context: Context, case: Case, row: Decision) -> Finding:
    older = max((found[0][:2] for found in RELEASES if found[0][0] < case.wanted[0]), default=(0, 0))
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"CUDA {dotted(case.wanted)} does not support this host's {case.old_gpu()} GPU",
        cause=f"CUDA {case.wanted[0]} has no code for {', '.join(dropped(case.wanted[0]))}; no driver and no package changes that.",
        remedy=f"Stay on CUDA {older[0]}.x ({dotted(older)} is the last).",
        refused="the GPU is too old for it",
        symptoms=("no kernel image is available for execution on the device",),
    )


def _containers(context: Context, case: Case, row: Decision) -> Finding | None:
    toolkit = context.state.toolkit.version.get()
    if case.all_features() or (toolkit is not None and toolkit >= HOOK_SINCE):
        return None
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"containers for CUDA {dotted(case.wanted)} need NVIDIA Container Toolkit {show(HOOK_SINCE)} or newer here",
        cause="Images bring their own compat libraries; the toolkit's hook puts them on the path where the driver calls for it.",
        remedy=f"Upgrade nvidia-container-toolkit to {show(HOOK_SINCE)} or newer. The host needs no cuda-compat package.",
        refused="the toolkit is not upgraded by mend",
    )


def _opt_in(context: Context, case: Case, row: Decision) -> Finding | None:
    if case.accept_note:
        return None  # GM602
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"cuda-compat-{case.wanted[0]}-{case.wanted[1]} accepts driver branch {case.branch}, and NVIDIA does not support that",
        cause="The library's ELF note lists the branch; the documents list only branches that are kept up.",
        remedy="Upgrade the driver to a listed branch; or set cuda.accept_note = true and answer for it.",
        refused="cuda.accept_note is false",
    )


def _refuse(context: Context, case: Case, row: Decision) -> Finding:
    why = (
        case.unfit
        or f"no list has driver branch {case.branch} for cuda-compat-{case.wanted[0]}-{case.wanted[1]}"
    )
    newest = served(case.driver) if case.driver else None
    older = f", or use CUDA {dotted(newest)} or older" if newest else ", or use an older CUDA"
    runs = case.runs()
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"driver {show(case.driver or ())} does not run CUDA {dotted(case.wanted)}"
        + (f" with what is needed of it ({case.needs})" if runs else ""),
        cause=f"A compat package is refused: {why}. "
        + ("PTX of a newer toolkit and its new functions need the newer driver." if runs else CAUSE_35),
        remedy=f"Upgrade the driver to {least_driver(case)}{older}.",
        risk=Risk.REBOOT,
        refused=why,
        symptoms=("CUDA driver version is insufficient for CUDA runtime version",)
        if not runs
        else ("the provided PTX was compiled with an unsupported toolchain",),
    )


EXPLAIN: dict[str, Callable[[Context, Case, Decision], Finding | None]] = {
    "windows": _windows,
    "vendor": _vendor,
    "reboot": _reboot,
    "no_driver": _no_driver,
    "unknown_release": _unknown_release,
    "old_gpu": _old_gpu,
    "containers": _containers,
    "opt_in": _opt_in,
    "refuse": _refuse,
}
