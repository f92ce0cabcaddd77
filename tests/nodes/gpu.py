"""Gives a node a GPU that is not there: what programs see of a loaded driver, and stand-in libraries.

After `install(node)` the node looks as one with an H100 and that driver does: /proc/driver/nvidia,
/sys/module/nvidia, device nodes, libcuda and libnvidia-ml in the ldconfig cache, nvidia-smi. It stays so as
long as the node runs and after it reboots (a unit puts it back before any service starts, as a driver would
be loaded).
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
from pathlib import Path

from tests.nodes.base import CACHE, locked
from tests.nodes.lab import LabError, Node

STANDINS = Path(__file__).parent / "standins"
STATE = "/var/lib/gpumend-standin"  # on the node
LIBRARIES = f"/usr/lib/{platform.machine()}-linux-gnu"
DEFAULT_DRIVER = "550.163.01"

NAME = "NVIDIA H100 80GB HBM3"
UUID = "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"
BUS = "0000:01:00.0"
DEVICE_NODES = {  # name in /dev: (major, minor), as on the captured H100
    "nvidia0": (195, 0),
    "nvidiactl": (195, 255),
    "nvidia-modeset": (195, 254),
    "nvidia-uvm": (238, 0),
    "nvidia-uvm-tools": (238, 1),
}
CUDA_OF_DRIVER = {  # the CUDA version that a driver branch itself brings
    "470": "11.4", "515": "11.7", "520": "11.8", "525": "12.0", "530": "12.1", "535": "12.2", "545": "12.3",
    "550": "12.4", "555": "12.5", "560": "12.6", "565": "12.7", "570": "12.8", "575": "12.9", "580": "13.0",
    "590": "13.1", "595": "13.2",
}  # fmt: skip

UNIT = f"""# STAND-IN for tests: a driver that is loaded at boot.
[Unit]
Description=Stand-in NVIDIA driver (tests)
DefaultDependencies=no
After=local-fs.target systemd-remount-fs.service
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {STATE}/gpu_up.sh
[Install]
WantedBy=sysinit.target
"""


def proc_version(version: str, open_module: bool = True) -> str:
    """The text of /proc/driver/nvidia/version (formats: reference/data/proc_driver_version_samples.txt)."""
    if open_module:
        machine = platform.machine()
        module = f"NVIDIA UNIX Open Kernel Module for {machine}  {version}  Release Build  (root@build)  "
    else:
        module = f"NVIDIA UNIX {platform.machine()} Kernel Module  {version}  Tue Apr  8 12:41:17 UTC 2025"
    return f"NVRM version: {module}\nGCC version:  gcc version 12.2.0 (Debian 12.2.0-14) \n"


def proc_information(version: str) -> str:
    """The text of /proc/driver/nvidia/gpus/BUS/information (as in captures/h100/proc.txt)."""
    return (
        f"Model: \t\t {NAME}\nIRQ:   \t\t 41\nGPU UUID: \t {UUID}\nVideo BIOS: \t 96.00.da.00.0c\n"
        "Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\n"
        f"Bus Location: \t {BUS}\nDevice Minor: \t 0\nGPU Firmware: \t {version}\nGPU Excluded:\t No\n"
    )


def built(version: str) -> Path:
    """A directory with libcuda.so, libnvidia-ml.so and nvidia-smi of that driver, compiled once a machine."""
    cuda = CUDA_OF_DRIVER.get(version.split(".")[0])
    if cuda is None:
        raise LabError(f"no CUDA version known for driver {version}; add its branch to CUDA_OF_DRIVER")
    sources = sorted(STANDINS.glob("*.c"))
    digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    target = CACHE.parent / "standins" / f"{version}-{digest}"
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f"{target.name}.lock")):  # the workers of one run begin at the same moment
        if not target.exists():
            _compile(version, cuda, target)
    return target


def _compile(version: str, cuda: str, target: Path) -> None:
    major, minor = cuda.split(".")
    defines = [
        f"-DCUDA_VERSION={int(major) * 1000 + int(minor) * 10}", f'-DCUDA_NAME="{cuda}"',
        f'-DDRIVER_VERSION="{version}"', f'-DGPU_NAME="{NAME}"', f'-DGPU_UUID="{UUID}"', f'-DGPU_BUS="{BUS}"',
        f"-DUVM_MAJOR={DEVICE_NODES['nvidia-uvm'][0]}",
    ]  # fmt: skip
    scratch = target.with_name(f".{target.name}")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name, how in {
        "libcuda.so": ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", str(STANDINS / "cuda.c")],
        "libnvidia-ml.so": ["-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", str(STANDINS / "nvml.c")],
        "nvidia-smi": ["-static", str(STANDINS / "nvidia_smi.c")],
    }.items():
        argv = ["gcc", "-O1", "-Wall", *defines, *how, "-o", str(scratch / name)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"{name} stand-in does not compile:\n{done.stderr}")
    scratch.rename(target)


def set_kernel_driver(node: Node, version: str) -> None:
    """The loaded module says it is `version`; the user-space side stays what it is."""
    # The node's /proc/driver and /sys/module are binds of these directories: new content shows at once.
    node.write(f"{STATE}/proc-driver/nvidia/version", proc_version(version), 0o444)
    node.write(f"{STATE}/proc-driver/nvidia/gpus/{BUS}/information", proc_information(version), 0o444)
    node.write(f"{STATE}/sys-module/nvidia/version", f"{version}\n", 0o444)


def set_user_space(node: Node, version: str) -> None:
    """libcuda, libnvidia-ml and nvidia-smi are those of `version` and no other; ldconfig knows them."""
    remove_user_space(node)
    directory = built(version)
    for library in ("libcuda.so", "libnvidia-ml.so"):
        node.write(f"{LIBRARIES}/{library}.{version}", (directory / library).read_bytes(), 0o644)
    node.write("/usr/bin/nvidia-smi", (directory / "nvidia-smi").read_bytes(), 0o755)
    node.sh(
        'cd "$1"; for name in libcuda libnvidia-ml; do ln -sf $name.so.1 $name.so; done; /sbin/ldconfig',
        LIBRARIES,
    )


def remove_user_space(node: Node) -> None:
    """No driver library and no nvidia-smi is installed."""
    node.sh('rm -f "$1"/libcuda.so* "$1"/libnvidia-ml.so* /usr/bin/nvidia-smi; /sbin/ldconfig', LIBRARIES)


def set_driver(node: Node, version: str) -> None:
    """The node has driver `version` all through, as after an upgrade and a reboot; specs stay as they are."""
    set_kernel_driver(node, version)
    set_user_space(node, version)


def install(node: Node, version: str = DEFAULT_DRIVER) -> None:
    """The node has one GPU and driver `version`."""
    node.write(f"{STATE}/gpu_up.sh", (STANDINS / "gpu_up.sh").read_bytes(), 0o755)
    set_driver(node, version)
    node.write("/etc/systemd/system/gpumend-standin-driver.service", UNIT)
    node.sh("systemctl daemon-reload; systemctl enable --now --quiet gpumend-standin-driver.service")


def unload(node: Node) -> None:
    """The driver is installed but not loaded: no /proc/driver/nvidia, no module, no device nodes."""
    node.sh(
        "systemctl disable --now --quiet gpumend-standin-driver.service; "
        "umount /proc/driver /sys/module; rm -f /dev/nvidia* /dev/char/195:* /dev/char/238:*"
    )


def remove(node: Node) -> None:
    """The node has no GPU and never seems to have had one."""
    unload(node)
    remove_user_space(node)
    node.sh('rm -rf "$1" /etc/systemd/system/gpumend-standin-driver.service; systemctl daemon-reload', STATE)
