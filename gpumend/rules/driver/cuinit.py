"""GM117: CUDA itself works. nvidia-smi asks the driver another way, and may be fine where CUDA is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from gpumend.rules.driver.driver import loaded
from gpumend.rules.driver.gpus import empty
from gpumend.rules.driver.nodes import numbers, present
from gpumend.rules.finding import Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.fabric import waiting
from gpumend.text.version import show

Told = tuple[str, str]  # cause, remedy

# CUDA driver API, CUresult (docs.nvidia.com/cuda/cuda-driver-api, Data types)
NAMES = {
    3: "CUDA_ERROR_NOT_INITIALIZED",
    34: "CUDA_ERROR_STUB_LIBRARY",
    46: "CUDA_ERROR_DEVICE_UNAVAILABLE",
    100: "CUDA_ERROR_NO_DEVICE",
    101: "CUDA_ERROR_INVALID_DEVICE",
    304: "CUDA_ERROR_OPERATING_SYSTEM",
    802: "CUDA_ERROR_SYSTEM_NOT_READY",
    803: "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH",
    804: "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE",
    999: "CUDA_ERROR_UNKNOWN",
}

# open-gpu-kernel-modules#797, #901, #947, ollama#11593; CUDA 13 release notes, known issues: Disable HMM for UVM
HMM_CURE = (
    "Write `options nvidia_uvm uvm_disable_hmm=1` to /etc/modprobe.d/nvidia-uvm.conf, and with no CUDA program running "
    "`modprobe -r nvidia_uvm && modprobe nvidia_uvm`, or reboot."
)


def _three(context: Context) -> Told:
    """3: unified memory cannot start: with HMM on (open-gpu-kernel-modules#901: EL 9.6, 570 to 580)."""
    hmm, flavour = context.state.cuinit.hmm_off, context.state.driver.flavour.value
    if hmm.value is False and flavour == "open":
        return (
            "nvidia_uvm of the open kernel modules has HMM on, which this kernel does not take.",
            HMM_CURE,
        )
    return (
        "The driver's unified memory module does not start, or the driver is older than the library.",
        "`dmesg | grep -i -e nvidia-uvm -e NVRM`; load nvidia_uvm anew, or reboot.",
    )


def _split(context: Context) -> Told | None:
    indices = empty(context)
    if not indices:
        return None
    return (
        f"GPU {', '.join(map(str, indices))} has MIG on and no instance.",
        "See GM115: make instances, or switch MIG off.",
    )


def _unavailable(context: Context) -> Told:
    return _split(context) or (
        "Every GPU is taken: by a program in exclusive mode, or by one that holds it for a reset.",
        "`nvidia-smi -q -d COMPUTE`; `nvidia-smi -c DEFAULT`, or end who holds it (`fuser -v /dev/nvidia*`).",
    )


def _none(context: Context) -> Told:
    return _split(context) or (
        "libcuda finds no GPU that it may use: nodes that may not be opened, or a GPU that this driver's CUDA does not know.",
        "Look at GM108 and GM109 (device nodes), `nvidia-smi -q | grep -e Compute -e Addressing`, and `dmesg`.",
    )


def _invalid(context: Context) -> Told:
    return _split(context) or (
        "A GPU or MIG instance went away after CUDA's list of them was made, or its capability node may not be opened.",
        "Look at GM116 (nodes of MIG), and make the instances anew.",
    )


def _fabric(context: Context) -> Told:
    away = waiting(context.state.gpus)
    return (
        f"{len(away)} GPUs are not registered with their fabric."
        if away
        else "The NVLink fabric is not set up.",
        "See GM106 and GM124: fabric manager, rack or hypervisor.",
    )


def _mismatch(context: Context) -> Told:
    loaded_version, libraries = context.state.driver.loaded.value, context.state.driver.userspace().value
    if loaded_version and libraries and loaded_version != libraries:
        return (
            f"The loaded driver is {show(loaded_version)}, its libraries are {show(libraries)}.",
            "See GM101.",
        )
    return (
        "libcuda is not of the loaded driver: a compat library, or one that an upgrade left.",
        "`ldconfig -p | grep libcuda`; take cuda-compat off the linker's path (GM602, GM603), or reboot after an upgrade.",
    )


def _compat(context: Context) -> Told:
    told = _mismatch(context)
    return (f"{told[0]} Newer libraries than the driver work on data-centre GPUs only.", told[1])


def _unknown(context: Context) -> Told:
    wrong = [path for path, meta in present(context).items() if meta.kind != "char"]
    majors = context.state.nodes.majors.value or {}
    for path, meta in present(context).items():
        right = numbers(path, majors)
        if right is not None and meta.rdev is not None and meta.rdev != right:
            wrong.append(path)
    if wrong:
        return (f"{', '.join(wrong)} is not the kernel's device.", "See GM108.")
    return (
        "As a rule nvidia_uvm did not come through a suspend, or was loaded anew under a running program.",
        "With no CUDA program running `modprobe -r nvidia_uvm && modprobe nvidia_uvm`; against the next time, "
        "NVreg_PreserveVideoMemoryAllocations=1 with nvidia-suspend and nvidia-resume services. Where that does not help, reboot.",
    )


def _stub(_: Context) -> Told:
    return (
        "The library is the toolkit's stub for linking (.../lib64/stubs), not the driver's.",
        "Take the stubs directory out of /etc/ld.so.conf.d, and run ldconfig.",
    )


EXPLAINED: dict[int, Callable[[Context], Told]] = {
    3: _three,
    34: _stub,
    46: _unavailable,
    100: _none,
    101: _invalid,
    802: _fabric,
    803: _mismatch,
    804: _compat,
    999: _unknown,
}


@rule(
    "GM117",
    "CUDA itself works",
    "CUDA driver API, CUresult; open-gpu-kernel-modules#797, #901, #947, ollama#11593; pytorch#49081, #88639; nct#1934",
    applies=loaded,
)
def works(context: Context) -> Iterator[Finding]:
    answer, gpus = context.state.cuinit.answer, context.state.gpus
    if answer.absent:
        return  # it was not asked; what hindered it has a finding of its own
    got = answer.need()
    listed = gpus.listed.value or ()
    if got.number == 0 and (got.devices >= len(listed) or any(gpu.mig for gpu in listed) or empty(context)):
        return
    evidence = [
        Evidence(
            f"cuInit of {got.library}",
            f"{got.number}, {got.devices} devices" if got.number == 0 else str(got.number),
        ),
        Evidence("nvidia-smi -L", f"{len(listed)} GPUs" if gpus.listed.ok else str(gpus.listed.status)),
    ]
    hmm, flavour = context.state.cuinit.hmm_off, context.state.driver.flavour.value
    if got.number == 3 and hmm.value is not None:
        evidence.append(Evidence(hmm.source, f"{'Y' if hmm.value else 'N'}; {flavour} kernel modules"))
    if got.number == 0:
        cause, remedy = (
            "CUDA leaves GPUs out that the driver has: of an architecture that this CUDA does not know, or broken ones.",
            "`dmesg | grep NVRM`, `nvidia-smi -q`: which GPU has errors, or another architecture?",
        )
        summary = f"CUDA counts {got.devices} of {len(listed)} GPUs"
    else:
        name = NAMES.get(got.number, "see CUresult")
        summary = f"cuInit fails: {got.number} ({name}), although nvidia-smi works"
        explain = EXPLAINED.get(got.number)
        cause, remedy = (
            explain(context)
            if explain
            else (
                "CUDA's own list has no more of it (CUDA driver API, CUresult).",
                "`dmesg | grep -e NVRM -e nvidia-uvm`; reboot.",
            )
        )
    yield Finding(
        code="GM117",
        status=Status.FAIL,
        summary=summary,
        evidence=tuple(evidence),
        cause=cause,
        remedy=remedy,
        risk=Risk.REBOOT,
        refused="kernel modules are not loaded anew by mend",
        symptoms=(
            "cuInit returns 999 (CUDA_ERROR_UNKNOWN) although nvidia-smi works",
            "CUDA initialization error 3: initialization error",
            "CUDA unknown error - this may be due to an incorrectly set up environment",
            "no CUDA-capable device is detected",
            "cudaErrorSystemNotReady",
        ),
    )
