from tests.cases.base import *

SOURCE = "nct#210, nct#268/nd#1608 (Gentoo, openSUSE: 0660 root:video), Gentoo nvidia.conf (NVreg_DeviceFileMode=432 in decimal)"
EXPECT = "warn: /dev/nvidia* are not 0666: rootless engines and users other than root get 'NVML: Insufficient Permissions'; cause NVreg_DeviceFileMode in /proc/driver/nvidia/params, /etc/modprobe.d"
HOST = healthy("28.5.2", "1.18.2", mode="auto").but(
    files={
        p: {**node(a, b), "mode": 0o660, "gid": 44}
        for p, a, b in (("/dev/nvidia0", 195, 0), ("/dev/nvidiactl", 195, 255), ("/dev/nvidia-uvm", 238, 0))
    },
    commands={"podman": (0, "podman version 5.4.2\n", "")},
)
WANTED = AUTO
