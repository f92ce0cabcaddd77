"""A driver's packages for nodes: NVIDIA's names and relations on Debian, stand-ins inside; and a bus with a GPU that has none."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from tests.nodes import gpu
from tests.nodes.apt import Deb
from tests.nodes.lab import Node

KERNEL = os.uname().release  # the node's, too
BRANCH, NEWER, NEXT = "580.95.05", "580.105.08", "590.48.01"
MODULE = f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko"
CALLS = "/run/initramfs.calls"
BUS = "/var/lib/gpumend-bus"

# What Linux shows of an H100 that no driver has; and no longer that this is a container: the node stands for a machine.
BUS_UP = f"""#!/bin/sh
# STAND-IN for tests: a bus with a GPU on it.
set -eu
rm -f /run/systemd/container
mountpoint -q /sys/bus/pci/devices || mount --bind {BUS}/devices /sys/bus/pci/devices
"""
BUS_UNIT = f"""[Unit]
Description=Stand-in of a bus with a GPU (tests)
DefaultDependencies=no
After=local-fs.target
Before=sysinit.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {BUS}/up.sh
[Install]
WantedBy=sysinit.target
"""
PERSISTENCED = """[Unit]
Description=Stand-in of nvidia-persistenced (tests)
ConditionPathExists=/dev/nvidiactl
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""
INITRAMFS = f'#!/bin/sh\n# STAND-IN for tests\necho "$* $(cat /etc/modprobe.d/gpumend-nouveau.conf 2>/dev/null | wc -l)" >>{CALLS}\n'


def plug_in(node: Node, device: int = 0x2330) -> None:
    """The node has a GPU on its bus, now and after it reboots, and no driver."""
    place = f"{BUS}/devices/{gpu.BUS}"
    node.write(f"{place}/vendor", "0x10de\n")
    node.write(f"{place}/class", "0x030200\n")
    node.write(f"{place}/uevent", f"PCI_CLASS=30200\nPCI_ID=10DE:{device:04X}\nPCI_SLOT_NAME={gpu.BUS}\n")
    node.write(f"{BUS}/up.sh", BUS_UP, 0o755)
    node.write("/etc/systemd/system/gpumend-standin-bus.service", BUS_UNIT)
    node.sh("systemctl daemon-reload; systemctl enable --now --quiet gpumend-standin-bus.service")


def module(version: str, licence: str) -> bytes:
    """An object that modinfo reads as the module of that version; no kernel would load it."""
    with tempfile.TemporaryDirectory(prefix="gpumend-ko-") as scratch:
        source, target = Path(scratch) / "nvidia.c", Path(scratch) / "nvidia.ko"
        text = f"name=nvidia\\0version={version}\\0license={licence}\\0vermagic={KERNEL}\\0"
        source.write_text(f'const char info[] __attribute__((section(".modinfo"))) = "{text}";\n')
        subprocess.run(["gcc", "-c", "-o", str(target), str(source)], check=True, capture_output=True)
        return target.read_bytes()


def built(name: str, version: str, licence: str, fails: bool = False) -> Deb:
    """A package of the kernel's modules. Its script stands for DKMS: the module is there once it has run; fails: it ends as one
    whose build failed. From the next boot on the driver is loaded."""
    up = (gpu.STANDINS / "gpu_up.sh").read_bytes()
    state, share = gpu.STATE, f"/usr/share/standin-{name}"
    script = f"""#!/bin/sh
# STAND-IN for tests
set -e
{"echo 'Error! Bad return status for module build on kernel' >&2; exit 10" if fails else ""}
mkdir -p {os.path.dirname(MODULE)}
cp {share}/nvidia.ko {MODULE}
touch /lib/modules/{KERNEL}/modules.order /lib/modules/{KERNEL}/modules.builtin
mkdir -p /lib/modules/{KERNEL}/kernel
depmod {KERNEL}
systemctl enable --quiet gpumend-standin-driver.service
"""
    gone = f"""#!/bin/sh
# STAND-IN for tests
[ "$1" = remove ] || [ "$1" = purge ] || exit 0
rm -f {MODULE}
depmod {KERNEL} || true
rm -f /etc/systemd/system/sysinit.target.wants/gpumend-standin-driver.service
"""
    files = {
        f"{share}/nvidia.ko": (module(version, licence), 0o644),
        f"{state}/gpu_up.sh": (up, 0o755),
        f"{state}/proc-driver/nvidia/version": (
            gpu.proc_version(version, licence != "NVIDIA").encode(),
            0o444,
        ),
        f"{state}/proc-driver/nvidia/gpus/{gpu.BUS}/information": (
            gpu.proc_information(version).encode(),
            0o444,
        ),
        f"{state}/sys-module/nvidia/version": (f"{version}\n".encode(), 0o444),
        "/usr/lib/systemd/system/gpumend-standin-driver.service": (gpu.UNIT.encode(), 0o644),
    }
    return Deb(name, f"{version}-1", conflicts="nvidia-kernel-dkms" if "open" in name else "nvidia-kernel-open-dkms",
               files=files, scripts={"postinst": script, "postrm": gone})  # fmt: skip


def libraries(version: str) -> Deb:
    """nvidia-driver-cuda: nvidia-smi and the libraries, of the stand-ins for GPUs."""
    made = gpu.built(version)
    files = {
        f"{gpu.LIBRARIES}/{name}.{version}": ((made / name).read_bytes(), 0o644)
        for name in ("libcuda.so", "libnvidia-ml.so")
    }
    files["/usr/bin/nvidia-smi"] = ((made / "nvidia-smi").read_bytes(), 0o755)
    modules = f"nvidia-kernel-open-dkms (= {version}-1) | nvidia-kernel-dkms (= {version}-1)"
    return Deb("nvidia-driver-cuda", f"{version}-1", modules, files=files,
               scripts={"postinst": "#!/bin/sh\nldconfig\n", "postrm": "#!/bin/sh\nldconfig\n"})  # fmt: skip


def pinning(branch: str = "580") -> Deb:
    """As NVIDIA's: a preference, and nothing else (NVIDIA driver installation guide, Version Locking)."""
    text = f"Package: nvidia-driver-cuda nvidia-kernel-open-dkms nvidia-kernel-dkms nvidia-persistenced\nPin: version {branch}.*\nPin-Priority: 1000\n"
    path = f"/etc/apt/preferences.d/nvidia-driver-pinning-{branch}"
    return Deb(f"nvidia-driver-pinning-{branch}", f"{branch}-1", files={path: (text.encode(), 0o644)})


def debs(fails: bool = False) -> list[Deb]:
    """NVIDIA's repository for Debian, as far as a driver goes: two branches, of which the newer is what apt would take."""
    found = [pinning(), pinning("590")]
    for version in (BRANCH, NEXT):
        found += [
            libraries(version),
            built("nvidia-kernel-open-dkms", version, "Dual MIT/GPL", fails),
            built("nvidia-kernel-dkms", version, "NVIDIA", fails),
            Deb("nvidia-persistenced", f"{version}-1",
                files={"/usr/lib/systemd/system/nvidia-persistenced.service": (PERSISTENCED.encode(), 0o644)}),
        ]  # fmt: skip
    found += [Deb("nvidia-fabricmanager-580", f"{version}-1") for version in (BRANCH, NEWER)]
    found.append(Deb("nvlsm", "2025.03.9-1"))
    return [*found, headers()]


def headers() -> Deb:
    path = f"/usr/lib/modules/{KERNEL}/build/Makefile"
    return Deb(f"linux-headers-{KERNEL}", "1.0-1", files={path: (b"# STAND-IN for tests\n", 0o644)})


NAMES = (
    "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "nvidia-persistenced", "nvidia-fabricmanager-580",
    "nvlsm", "nvidia-driver-pinning-580", "nvidia-driver-pinning-590", f"linux-headers-{KERNEL}",
)  # fmt: skip
