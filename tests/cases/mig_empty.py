"""MIG mode on, no GPU instance made (A100/H100 after a reboot): CUDA says no CUDA-capable device / error 100 or 46; nvidia-smi -L lists the GPU without MIG devices"""

from tests.unit.build import *

Q = """
==============NVSMI LOG==============
Driver Version                            : 580.159.04
CUDA Version                              : 13.0
Attached GPUs                             : 1
GPU 00000000:00:06.0
    Product Name                          : NVIDIA H100 80GB HBM3
    Product Brand                         : NVIDIA
    Product Architecture                  : Hopper
    MIG Mode
        Current                           : %s
        Pending                           : %s
    FB Memory Usage
        Total                             : 81559 MiB
"""


def q(c, p):
    return healthy().but(commands={"nvidia-smi-query": (0, Q % (c, p), "")})


HOSTS = {
    "MIG on, no instance": q("Enabled", "Enabled"),
    "MIG pending (needs GPU reset)": q("Disabled", "Enabled"),
    "off": q("Disabled", "Disabled"),
}
