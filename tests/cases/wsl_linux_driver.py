from tests.cases.base import *

SOURCE = "nd#1551, nct#289, nd#1542, microsoft/WSL#12272: a Linux driver package in the WSL distribution shadows /usr/lib/wsl/lib ('libnvidia-ml.so.1: file exists', version mismatch)"
EXPECT = (
    "fail on WSL2: libnvidia-compute-535 is installed in the distribution; remove it, Windows has the driver"
)
L = "/usr/lib/x86_64-linux-gnu"
HOST = Host(
    files={
        "/dev/dxg": node(10, 125),
        "/usr/lib/wsl/lib/libnvidia-ml.so.1": file(""),
        **{f"{L}/{n}.so.535.309.01": file("") for n in ("libcuda", "libnvidia-ml")},
        CONFIG: cfg(),
    },
    system={"kernel": "6.6.87.2-microsoft-standard-WSL2"},
    programs={
        "nvidia-ctk": "/usr/bin/nvidia-ctk",
        "nvidia-container-runtime": "/usr/bin/nvidia-container-runtime",
    },
    commands={
        "nvidia-ctk": (0, "NVIDIA Container Toolkit CLI version 1.18.2\n", ""),
        "dpkg": (0, "ii \tlibnvidia-compute-535\t535.309.01-0ubuntu1\n", ""),
        "ldconfig": (0, f"\tlibcuda.so.1 (libc6,x86-64) => {L}/libcuda.so.1\n", ""),
    },
)
WANTED = AUTO
