"""nvidia-smi itself fails on an otherwise healthy host (GPU fell off the bus Xid 79, GSP init failure, NVML error): is there any finding?"""

from tests.unit.build import *

h = healthy()


def smi(rc, out, err="", **more):
    return h.but(commands={"nvidia-smi": (rc, out, err), "nvidia-smi-query": (rc, out, err), **more})


HOSTS = {
    "No devices were found (RmInitAdapter failed, proprietary module on Blackwell, GSP)": smi(
        6, "No devices found.\n"
    ),
    "GPU is lost (Xid 79)": smi(
        15,
        "Unable to determine the device handle for GPU0: 0000:00:06.0: GPU is lost.  Reboot the system to recover this GPU\n",
    ),
    "one of two lost": smi(
        255,
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-ddcfa932-2616-cecb-a95e-350855afb5ab)\nUnable to determine the device handle for GPU1: 0000:00:07.0: Unknown Error\n",
    ),
    "rc0 one of two lost": smi(
        0,
        "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-ddcfa932-2616-cecb-a95e-350855afb5ab)\nUnable to determine the device handle for GPU1: 0000:00:07.0: Unknown Error\n",
    ),
    "NVML Unknown Error": smi(255, "Failed to initialize NVML: Unknown Error\n"),
    "hangs": h.but(
        commands={
            "nvidia-smi": unread("timeout"),
            "nvidia-smi-query": unread("timeout"),
            "nvidia-smi-version": unread("timeout"),
        }
    ),
    "mode auto, JIT, no spec; No devices": healthy(mode="auto").but(
        files={DYNAMIC: None},
        commands={
            "nvidia-smi": (6, "No devices found.\n", ""),
            "nvidia-smi-query": (6, "No devices were found\n", ""),
        },
    ),
}
WANTED = None
