"""GM223: WSL2, where Windows has the driver and Linux must not."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.cdi.spec import gpu_specs_in_use
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.text.pattern import Pattern

WSL = "/usr/lib/wsl/"
DRIVER_PACKAGE = Pattern(
    r"libnvidia-(?:compute|gl|cfg1|encode|decode|extra|fbc|ml)\b.*|nvidia-(?:driver|utils|compute-utils|dkms|headless|open)\b.*"
    r"|nvidia-kernel-.*|cuda-drivers\b.*|xserver-xorg-video-nvidia.*|libcuda1|libnvidia-ml1|kmod-nvidia.*|linux-modules-nvidia-.*"
)


def is_wsl(context: Context) -> bool:
    return context.state.host.wsl2


@rule(
    "GM223",
    "WSL2 has no Linux driver of its own",
    "nd#1551, nct#289, nd#1542, microsoft/WSL#12272; docs.nvidia.com/cuda/wsl-user-guide; nct pkg/nvcdi/driver-wsl.go",
    applies=is_wsl,
)
def linux_driver(context: Context) -> Iterator[Finding]:
    packages = context.state.packages.installed.value or {}
    installed = sorted(name for name in packages if DRIVER_PACKAGE.fullmatch(name))
    libraries = [
        found.path for found in context.state.driver.libraries.value or () if not found.path.startswith(WSL)
    ]
    if installed or libraries:
        yield Finding(
            code="GM223",
            status=Status.FAIL,
            summary="a Linux driver is installed in this WSL distribution: "
            + ", ".join(installed[:4] or libraries[:2]),
            evidence=(
                *(Evidence("dpkg, rpm", f"{name} {packages[name]}") for name in installed[:6]),
                *(Evidence(path, f"beside {WSL}lib, which Windows provides") for path in libraries[:4]),
            ),
            cause="Windows has the driver, and gives Linux its libraries in /usr/lib/wsl/lib. Those of a Linux driver are found "
            "first and do not work there.",
            remedy=f"`apt-get purge {' '.join(installed[:6])}`, then `ldconfig`; take packages of CUDA from the wsl-ubuntu "
            "repository, which has no driver."
            if installed
            else f"Take {', '.join(libraries[:2])} away, which no package owns, then `ldconfig`.",
            refused="packages of the driver are not removed by mend",
            symptoms=(
                "libnvidia-ml.so.1: file exists",
                "Failed to initialize NVML: Driver/library version mismatch",
                "nvml error: driver not loaded",
            ),
        )
    for file, spec in gpu_specs_in_use(context):
        if not any(host.endswith("/libdxcore.so") for host, _ in spec.edits.mounts):
            yield Finding(
                code="GM223",
                status=Status.FAIL,
                summary=f"{file.path} has no libdxcore.so: in containers CUDA finds no GPU",
                evidence=(Evidence(file.path, "no mount of /usr/lib/wsl/lib/libdxcore.so"),),
                cause="It was made for a Linux driver, or while the library was not in the linker's cache.",
                remedy="`ldconfig`, then `nvidia-ctk cdi generate --mode=wsl --output=" + file.path + "`.",
                refused="which driver the file was made for is not known",
                symptoms=("no CUDA-capable device is detected",),
            )
