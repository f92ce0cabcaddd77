"""GM002 and the facts of GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.state.gpu import Gpu, smi_cuda, smi_list
from tests.unit.build import Host, absent, capture, h100, healthy, outcome, unread, verdict

UUID = "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"
MIG = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-1111)
  MIG 3g.20gb     Device  1: (UUID: MIG-2222)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
"""


def test_smi_list_of_the_h100() -> None:
    assert smi_list(capture("h100/smi_L.txt")) == (Gpu(0, "NVIDIA H100 80GB HBM3", UUID),)


def test_smi_list_with_mig() -> None:
    assert smi_list(MIG) == (
        Gpu(0, "NVIDIA A100-SXM4-40GB", "GPU-aaaa", ("MIG-1111", "MIG-2222")),
        Gpu(1, "NVIDIA A100-SXM4-40GB", "GPU-bbbb"),
    )


@pytest.mark.parametrize("text", ["", "No devices were found\n", "  MIG 1g.5gb Device 0: (UUID: MIG-1)\n"])
def test_smi_list_without_gpu_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no GPU in"):
        smi_list(text)


@pytest.mark.parametrize(
    ("text", "version"),
    [("CUDA Version        : 13.0\n", (13, 0)), ("NVML version : 580.159\nCUDA Version: 12.10\n", (12, 10))],
)
def test_smi_cuda(text: str, version: tuple[int, ...]) -> None:
    assert smi_cuda(text) == version


def test_the_cuda_of_an_nvidia_smi_that_knows_no_version_option() -> None:
    """The -q of driver 450.66 as MatthiasSchinzel/sysmon#12 has it, and what its like say of an option."""
    said = """Driver Version                            : 450.66
CUDA Version                              : 11.0
GPU 00000000:01:00.0
    Product Name                          : GeForce GTX 780
    Product Brand                         : GeForce
    MIG Mode
        Current                           : N/A
        Pending                           : N/A
"""
    old = (2, "ERROR: Option --version is not recognized. Please run 'nvidia-smi -h'.\n", "")
    host = healthy().but(commands={"nvidia-smi-version": old, "nvidia-smi-query": (0, said, "")})
    assert host.state().gpus.cuda.value == (11, 0)
    assert host.but(commands={"nvidia-smi-query": unread("timeout")}).state().gpus.cuda.status == "failed"
    silent = said.replace("CUDA Version", "Vendor")
    hangs = host.but(commands={"nvidia-smi-version": unread("timeout"), "nvidia-smi-query": (0, silent, "")})
    assert hangs.state().gpus.cuda.status == "timeout"


def test_a_lost_gpu_is_not_left_out_of_the_list() -> None:
    """NVIDIA/dcgm-exporter#604, open-gpu-kernel-modules#387: what nvidia-smi says of one that fell off the bus."""
    text = "GPU 0: NVIDIA A30 (UUID: GPU-1)\nUnable to determine the device handle for GPU0000:17:00.0: Unknown Error\n"
    with pytest.raises(ValueError, match="0000:17:00"):
        smi_list(text)


def test_smi_cuda_without_it() -> None:
    with pytest.raises(ValueError, match="no CUDA Version"):
        smi_cuda("NVIDIA-SMI version : 470.1\n")


def test_the_h100_as_captured() -> None:
    gpus = h100().state().gpus
    assert gpus.proc.value == {"0000:00:06.0": "NVIDIA H100 80GB HBM3"}
    assert gpus.pci.value == (), "the capture has no PCI bus"
    assert gpus.cuda.value == (13, 0)
    assert gpus.present().value is True


def pci(vendor: str, kind: str) -> dict[str, Any]:
    base = "/sys/bus/pci/devices/0000:01:00.0"
    return {f"{base}/vendor": f"{vendor}\n", f"{base}/class": f"{kind}\n"}


BARE = Host(files={"/etc/os-release": "ID=debian\n"})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(healthy(), "ok", id="h100"),
        pytest.param(BARE, "fail", id="no-pci-no-proc"),
        pytest.param(BARE.but(files=pci("0x10de", "0x030000")), "ok", id="vga"),
        pytest.param(BARE.but(files=pci("0x10de", "0x030200")), "ok", id="3d-controller"),
        pytest.param(BARE.but(files=pci("0x10de", "0x040300")), "fail", id="its-sound-device"),
        pytest.param(BARE.but(files=pci("0x10de", "0x068000")), "fail", id="nvswitch-alone"),
        pytest.param(BARE.but(files=pci("0x1002", "0x030000")), "fail", id="amd"),
        pytest.param(BARE.but(files={"/dev/dxg": ""}, system={"kernel": "x-microsoft-y"}), "ok", id="wsl2"),
        pytest.param(BARE.but(files={"/etc/nv_tegra_release": ""}), "ok", id="tegra"),
    ],
)
def test_gm002_a_gpu(host: Host, expected: str) -> None:
    assert outcome(host, "GM002") == expected


def test_without_gpu_nothing_that_needs_one_is_judged() -> None:
    judged = verdict(BARE.but(docker=healthy().docker, processes=healthy().processes))
    assert [found.code for found in judged.findings] == ["GM002"]
    assert judged.ok == 7 and judged.skipped > 30


def test_gm002_unknown_where_neither_bus_nor_proc_could_be_read() -> None:
    host = BARE.but(
        globs={
            "/sys/bus/pci/devices/*/vendor": unread("denied"),
            "/proc/driver/nvidia/gpus/*/information": unread("denied"),
        }
    )
    assert outcome(host, "GM002") == "unknown"


def test_gm002_a_bus_that_could_not_be_read_is_not_an_empty_bus() -> None:
    """The module is not loaded, so /proc has no GPU whether there is one or not: only the bus could tell."""
    host = BARE.but(globs={"/sys/bus/pci/devices/*/vendor": unread("denied")})
    assert outcome(host, "GM002") == "unknown"


def test_a_device_whose_class_could_not_be_read_is_not_passed_over() -> None:
    files = {**pci("0x10de", "0x030000"), "/sys/bus/pci/devices/0000:01:00.0/class": unread("failed")}
    assert BARE.but(files=files).state().gpus.pci.status == "failed"


def test_nvswitches_are_counted() -> None:
    assert BARE.but(files=pci("0x10de", "0x068000")).state().gpus.nvswitches.value == 1
    assert BARE.but(files=pci("0x10de", "0x030200")).state().gpus.nvswitches.value == 0


@pytest.mark.parametrize("item", [absent(), unread("timeout"), (9, "", "NVIDIA-SMI has failed\n")])
def test_gpus_are_known_without_nvidia_smi(item: Any) -> None:
    state = healthy().but(commands={"nvidia-smi": item}).state()
    assert state.gpus.present().value is True
    assert state.gpus.listed.value is None
