from tests.cases.base import *

SOURCE = "NVIDIA/gpu-operator#220, #628; Azure/aks-gpu#90"
EXPECT = "warn: vGPU License Status: Unlicensed (performance is throttled, CUDA stops)"
HOST = healthy("28.5.2", "1.18.2", mode="auto").but(
    commands={
        "nvidia-smi-query": (
            0,
            SMI_Q
            + "    vGPU Software Licensed Product\n        License Status                    : Unlicensed (Restricted)\n",
            "",
        )
    }
)
WANTED = AUTO
