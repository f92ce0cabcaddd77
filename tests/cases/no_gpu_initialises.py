from tests.cases.base import *

SOURCE = "NVIDIA/open-gpu-kernel-modules#862, #872; Start9Labs/start-technologies#3465 (Blackwell + proprietary module); nd#1553 (GPU lost)"
EXPECT = "fail: the module is loaded, the GPU does not initialise. nvidia-smi's own words as the cause; proprietary module + Blackwell -> open module; 'GPU is lost' -> Xid 79, reset/reboot. Not 'make nvidia-smi readable'"
HOST = healthy("28.5.2", "1.18.2", mode="auto").but(
    files={
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release Build\n"
    },
    commands={
        "nvidia-smi": (6, "No devices were found\n", ""),
        "nvidia-smi-query": (6, "No devices were found\n", ""),
    },
)
WANTED = AUTO
