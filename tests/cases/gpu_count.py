"""microsoft/pai#4344, eks-node-monitoring-agent#94, NVSentinel#155: fewer GPUs in nvidia-smi than on the bus (one failed RmInitAdapter or fell off)"""

from tests.unit.build import *

h = healthy()
TWO = {
    "/sys/bus/pci/devices/0000:00:06.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:00:06.0/class": "0x030200\n",
    "/sys/bus/pci/devices/0000:00:07.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:00:07.0/class": "0x030200\n",
}
info = h.files["/proc/driver/nvidia/gpus/0000:00:06.0/information"]
HOSTS = {
    "bus 2, /proc 2, nvidia-smi 1": h.but(
        files={
            **TWO,
            "/proc/driver/nvidia/gpus/0000:00:07.0/information": info.replace("0000:00:06.0", "0000:00:07.0"),
        }
    ),
    "bus 2, /proc 1 (probe failed), nvidia-smi 1": h.but(files=TWO),
}
