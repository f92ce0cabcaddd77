"""open-gpu-kernel-modules#797,#901,#947, ollama#11593: open module 570-580 with HMM: nvidia-smi fine, cuInit error 3; cure options nvidia_uvm uvm_disable_hmm=1"""

from tests.unit.build import *

HOST = healthy().but(
    files={
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build  (dvs-builder@U22)\nGCC version:  gcc version 14.2.1\n",
        "/sys/module/nvidia_uvm/parameters/uvm_disable_hmm": "N\n",
    },
    system={"kernel": "5.14.0-570.23.1.el9_6.x86_64"},
)
