"""The GPU itself: what the judge says of public reports (tests/cases), of more of their kind, and of healthy twins."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.rules.data import load
from gpumend.rules.driver.gpus import chip
from gpumend.rules.finding import Component, Finding
from gpumend.state.gpu import address_of
from tests.cases import (
    device_modes,
    gpu_count,
    hmm,
    lxc_mismatch,
    lxc_uvm_file,
    mig_empty,
    mig_no_instances,
    no_gpu_initialises,
    smi_fails,
    vgpu_unlicensed,
)
from tests.cases.base import AUTO, SMI_Q, smiq
from tests.unit.build import (
    DYNAMIC,
    Host,
    Item,
    a_directory,
    absent,
    file,
    findings,
    healthy,
    node,
    outcome,
    process,
    spec,
    the,
    unread,
    verdict,
)
from tests.unit.test_cuda import smi, wsl_host

UUID = "GPU-ddcfa932-2616-cecb-a95e-350855afb5ab"
LINE = f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {UUID})\n"
BUS = "/sys/bus/pci/devices"
PROPRIETARY = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.159.04  Release Build\n"


def told(found: Finding) -> str:
    """Everything that a finding says."""
    return "\n".join(
        (found.summary, found.cause, found.remedy, *(f"{row.source} {row.text}" for row in found.evidence))
    )


def drift(host: Host, wanted: Any = None) -> list[tuple[str, str]]:
    return [
        (found.code, str(found.status)) for found in verdict(host, wanted).findings if found.code != "GM221"
    ]


def changes(host: Host, wanted: Any = None) -> set[Component]:
    return {found.change.component for found in verdict(host, wanted).findings if found.change}


def on_bus(address: str, device: int, driver: str | None = "nvidia") -> dict[str, Any]:
    """A display controller of NVIDIA's as /sys has it. driver: None where nothing has it."""
    line = f"DRIVER={driver}\n" if driver else ""
    return {
        f"{BUS}/{address}/vendor": "0x10de\n",
        f"{BUS}/{address}/class": "0x030200\n",
        f"{BUS}/{address}/uevent": f"{line}PCI_CLASS=30200\nPCI_ID=10DE:{device:04X}\nPCI_SLOT_NAME={address}\n",
    }


def mute(host: Host, words: str = "No devices were found\n", rc: int = 6) -> Host:
    return host.but(commands={"nvidia-smi": (rc, words, ""), "nvidia-smi-query": (rc, words, "")})


def log(*lines: str) -> dict[str, Any]:
    return {"kernel-log": (0, "".join(f"{line}\n" for line in lines), "")}


# --- GM107: nvidia-smi fails, hangs, or lists fewer GPUs


@pytest.mark.parametrize("name", smi_fails.HOSTS)
def test_an_nvidia_smi_that_fails_is_a_failure_in_its_own_words(name: str) -> None:
    host = smi_fails.HOSTS[name]
    found = the(host, "GM107")
    said = host.answer()["commands"]["nvidia-smi"]
    assert found.status == "fail"
    if said["status"] == "timeout":
        assert "timeout" in found.summary
    else:
        last = next(line.strip() for line in said["out"].splitlines() if "UUID" not in line)
        assert last in found.summary
    judged = verdict(host)
    assert not judged.unknown, "nobody is asked to make nvidia-smi readable"
    assert changes(host) == set(), "nothing is generated and no mode switched"


WARNING = "WARNING: infoROM is corrupted at gpu 0000:00:06.0\n"  # gpu-operator#285: exit status 14, and the GPU works


@pytest.mark.parametrize(("out", "err"), [(LINE + WARNING, ""), (LINE, WARNING), (WARNING + LINE, "")])
def test_a_warning_of_nvidia_smi_is_a_note_and_holds_nothing_back(out: str, err: str) -> None:
    host = healthy().but(commands={"nvidia-smi": (14, out, err)}, files={DYNAMIC: None})
    found = the(host, "GM107")
    assert (found.status, found.change) == ("note", None) and "infoROM is corrupted" in found.summary
    assert Component.CDI in changes(host), "the GPU answers: a spec is made"
    assert drift(healthy().but(commands={"nvidia-smi": (14, out, err)})) == [("GM107", "note")]


def test_a_warning_beside_a_gpu_that_is_missing() -> None:
    host = healthy().but(commands={"nvidia-smi": (14, LINE + WARNING, "")}, files={**BOTH, **SECOND})
    found = the(host, "GM107")
    assert found.status == "fail" and "0000:00:07.0 is missing" in found.summary


WORDS = [
    ("Unable to determine the device handle for GPU0: 0000:00:06.0: GPU requires reset\n", {}, "waits for a reset", "--gpu-reset"),
    ("NVIDIA-SMI couldn't find libnvidia-ml.so library in your system. Please make sure that the NVIDIA Display Driver is properly installed\n", {}, "library", "ldconfig"),
    ("Failed to initialize NVML: Insufficient Permissions\n", {}, "may not open", "GM109"),
    ("Failed to initialize NVML: Unknown Error\n", {"/run/systemd/container": "lxc"}, "this container may not open", "lxc.cgroup2.devices.allow"),
    ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", {"/run/systemd/container": "lxc"}, "this container may not open", "lxc.cgroup2.devices.allow"),
]  # fmt: skip


@pytest.mark.parametrize(("said", "files", "cause", "remedy"), WORDS, ids=[row[0][:40] for row in WORDS])
def test_nvidia_smis_words_lead_to_their_cause(
    said: str, files: dict[str, Any], cause: str, remedy: str
) -> None:
    found = the(mute(healthy().but(files=files), said, 255), "GM107")
    assert said.split(".")[0].strip() in found.summary
    assert cause in found.cause and remedy in found.remedy
    assert "only the open kernel modules" not in told(found)


def test_an_nvidia_smi_that_dies_says_by_which_signal() -> None:
    found = the(mute(healthy(), "", -11), "GM107")
    assert "signal 11" in found.summary


BLOCKED = (
    "Failed to initialize NVML: GPU access blocked by the operating system\n"  # microsoft/WSL#9938, #14339
)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((255, BLOCKED + BLOCKED.replace("initialize", "properly shut down"), ""), "GPU access blocked"),
        ((6, "No devices were found\n", ""), "No devices were found"),
        (unread("timeout"), "hangs"),
    ],
    ids=["blocked", "none", "hangs"],
)
def test_nvidia_smi_fails_on_wsl2(answer: Any, words: str) -> None:
    host = wsl_host().but(commands={"nvidia-smi-wsl": answer})
    found = the(host, "GM107", AUTO)
    assert found.status == "fail" and words in found.summary
    assert "wsl --update" in found.remedy and "kernel modules" not in told(found)
    assert [f.code for f in verdict(host, AUTO).findings if f.status == "unknown"] == []
    fine = (0, smi("GeForce", "Ada Lovelace", "581.57", "13.0"), "")
    assert outcome(wsl_host().but(commands={"nvidia-smi-wsl": fine}), "GM107", AUTO) == "ok"


def test_without_a_driver_nobody_is_asked_to_make_nvidia_smi_readable() -> None:
    """GM102 or GM103 tells all there is to tell."""
    gone = {"/proc/driver/nvidia/version": None, "/proc/modules": "", "/sys/module/nvidia/version": None}
    said = (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", "")
    host = healthy().but(
        files={**gone, **on_bus("0000:00:06.0", 0x2330, None)}, commands={"nvidia-smi": said}
    )
    assert [code for code, _ in drift(host)] == ["GM102"]


def test_one_lost_gpu_is_named_by_its_address() -> None:
    for name in ("one of two lost", "rc0 one of two lost"):
        assert "0000:00:07.0" in the(smi_fails.HOSTS[name], "GM107").summary


def test_what_is_held_back_says_why() -> None:
    host = smi_fails.HOSTS["mode auto, JIT, no spec; No devices"]
    legacy = {"runtime": {"mode": "legacy"}}
    assert {code: "GM107" in the(host, code, legacy).refused for code in ("GM204", "GM301")} == {
        "GM204": True,
        "GM301": True,
    }


def test_no_gpu_initialises() -> None:
    host = no_gpu_initialises.HOST
    assert drift(host, AUTO) == [("GM107", "fail")]
    found = the(host, "GM107", AUTO)
    assert "No devices were found" in found.summary and "readable" not in told(found)
    assert "open kernel modules" in found.remedy, "which chip it is was not read: both ways out are told"


@pytest.mark.parametrize(
    ("version", "device", "words"),
    [
        pytest.param(PROPRIETARY, 0x2B85, "open kernel modules only", id="rtx-5090-proprietary"),
        pytest.param(PROPRIETARY, 0x2901, "open kernel modules only", id="b200-proprietary"),
        pytest.param(PROPRIETARY, 0x2342, "open kernel modules only", id="gh200-proprietary"),
        pytest.param(None, 0x1BB3, "proprietary kernel modules only", id="p4-open"),
        pytest.param(
            PROPRIETARY.replace("580.159.04", "595.71.05"),
            0x1C81,
            "580 is the last branch",
            id="gtx-1050-595",
        ),
        pytest.param(PROPRIETARY.replace("580.159.04", "590.48.01"), 0x1DB6, "Volta", id="v100-590"),
    ],
)
def test_the_wrong_module_for_the_chip_is_the_cause(version: str | None, device: int, words: str) -> None:
    files = on_bus("0000:00:06.0", device)
    host = mute(
        healthy().but(files={**files, **({"/proc/driver/nvidia/version": version} if version else {})})
    )
    assert words in the(host, "GM107").cause


@pytest.mark.parametrize(
    ("version", "device"),
    [
        pytest.param(None, 0x2330, id="h100-open"),
        pytest.param(PROPRIETARY, 0x2330, id="h100-proprietary"),
        pytest.param(None, 0x2B85, id="rtx-5090-open"),
        pytest.param(PROPRIETARY, 0x1BB3, id="p4-580-proprietary"),
        pytest.param(PROPRIETARY, 0x3FFF, id="a-chip-that-is-not-in-the-table"),
    ],
)
def test_the_right_module_for_the_chip_is_no_cause(version: str | None, device: int) -> None:
    files = on_bus("0000:00:06.0", device)
    host = healthy().but(files={**files, **({"/proc/driver/nvidia/version": version} if version else {})})
    assert drift(host) == []
    assert "only" not in the(mute(host), "GM107").cause


KERNEL = {  # public reports: open-gpu-kernel-modules#862, NVSentinel#155, pop-os/cosmic-epoch#3411, nixos-hardware#1880
    "open": (
        "[    5.559842] NVRM: The NVIDIA GPU 0000:00:06.0 (PCI ID: 10de:2c58)",
        "               NVRM: installed in this system requires use of the NVIDIA open kernel modules.",
        "[    5.559858] NVRM: GPU 0000:00:06.0: RmInitAdapter failed! (0x22:0x56:884)",
    ),
    "79": (
        "[  900.1] NVRM: Xid (PCI:0000:00:06): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
    ),
    "bus": (
        "[ 1843.308145] NVRM: The NVIDIA GPU 0000:00:06.0",
        "               NVRM: (PCI ID: 10de:26b5) installed in this system has",
        "               NVRM: fallen off the bus and is not responding to commands.",
    ),
    "gsp": (
        "[   60.058486] NVRM: The NVIDIA GPU 0000:00:06.0 (PCI ID: 10de:1d16)",
        "               NVRM: installed in this system is not supported by open",
        "               NVRM: nvidia.ko because it does not include the required GPU",
        "               NVRM: System Processor (GSP).",
    ),
    "legacy": (
        "[    8.1] NVRM: The NVIDIA NVIDIA GeForce GTX 1050 GPU installed in this system is",
        "               NVRM:  supported through the NVIDIA 580.xx Legacy drivers. Please",
        "               NVRM:  information.  The 595.71.05 NVIDIA driver will ignore",
        "[    8.2] NVRM: No NVIDIA GPU found.",
    ),
    "init": ("[  903.609564] NVRM: GPU 0000:00:06.0: RmInitAdapter failed! (0x62:0x65:1792)",),
}


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("open", "open kernel modules only"),
        ("79", "Xid 79"),
        ("bus", "fallen off the bus"),
        ("gsp", "proprietary kernel modules only"),
        ("legacy", "580 is the last branch"),
        ("init", "cannot initialise"),
    ],
)
def test_the_kernels_lines_name_the_cause(lines: str, words: str) -> None:
    other = "[    1.0] eth0: link up, secret=1"
    host = mute(healthy()).but(commands=log(other, *KERNEL[lines]))
    found = the(host, "GM107")
    assert words in found.cause
    assert "dmesg" in {row.source for row in found.evidence} and "secret" not in told(found)
    assert drift(healthy().but(commands=log(*KERNEL[lines]))) == [], "alone they are no finding: it works now"


def test_a_log_that_may_not_be_read_is_said_and_changes_nothing() -> None:
    host = mute(healthy()).but(
        commands={"kernel-log": (1, "", "dmesg: read kernel buffer failed: Operation not permitted\n")}
    )
    assert "Operation not permitted" in told(the(host, "GM107"))
    assert drift(healthy().but(commands={"kernel-log": unread("denied")})) == []


@pytest.mark.parametrize("name", gpu_count.HOSTS)
def test_a_gpu_of_the_bus_that_nvidia_smi_lacks(name: str) -> None:
    found = the(gpu_count.HOSTS[name], "GM107")
    assert found.status == "fail" and "0000:00:07.0" in found.summary and "0000:00:06.0" not in found.summary
    stale = gpu_count.HOSTS[name].but(files={DYNAMIC: None})
    assert Component.CDI not in changes(stale)


BOTH = {**on_bus("0000:00:06.0", 0x2330), **on_bus("0000:00:07.0", 0x2330)}
SECOND = {
    "/proc/driver/nvidia/gpus/0000:00:07.0/information": "Model: \t NVIDIA H100\nGPU UUID: \t GPU-2\nDevice Minor: \t 1\nGPU Excluded:\t No\n"
}


@pytest.mark.parametrize(
    ("files", "commands", "expected"),
    [
        pytest.param(BOTH, {}, "fail", id="the-second-is-not-listed"),
        pytest.param({**BOTH, **SECOND}, {}, "fail", id="the-module-knows-it"),
        pytest.param(
            {**BOTH, **on_bus("0000:00:07.0", 0x2330, None)}, {}, "fail", id="nothing-has-the-second"
        ),
        pytest.param(on_bus("0000:00:06.0", 0x2330), {}, "ok", id="one"),
        pytest.param(
            {**BOTH, **on_bus("0000:00:07.0", 0x2330, "vfio-pci")},
            {},
            "ok",
            id="the-second-is-a-virtual-machine's",
        ),
        pytest.param(
            {**BOTH, f"{BUS}/0000:00:07.0/physfn": a_directory()},
            {},
            "ok",
            id="the-second-is-a-virtual-function",
        ),
        pytest.param(
            {
                **BOTH,
                **{path: text.replace("Excluded:\t No", "Excluded:\t Yes") for path, text in SECOND.items()},
            },
            {},
            "ok",
            id="the-second-is-excluded",
        ),
        pytest.param(
            {**BOTH, **SECOND},
            {"nvidia-smi": (0, LINE + "GPU 1: NVIDIA H100 (UUID: GPU-2)\n", "")},
            "ok",
            id="both-are-listed",
        ),
        pytest.param(
            {**BOTH, **SECOND, "/run/systemd/container": "lxc"}, {}, "ok", id="a-container-with-one-of-two"
        ),
        pytest.param(
            {**BOTH, **SECOND, "/run/systemd/container": "lxc", "/dev/nvidia1": node(195, 1)},
            {},
            "fail",
            id="a-container-with-both-nodes",
        ),
    ],
)
def test_gpus_are_counted_against_the_bus(
    files: dict[str, Any], commands: dict[str, Any], expected: str
) -> None:
    host = healthy().but(files=files, commands=commands)
    assert outcome(host, "GM107") == expected
    if expected == "fail":
        assert "0000:00:07.0" in the(host, "GM107").summary


def test_without_the_bus_or_the_modules_list_it_is_not_known() -> None:
    for pattern in (f"{BUS}/*/vendor", "/proc/driver/nvidia/gpus/*/information"):
        assert outcome(healthy().but(globs={pattern: unread("denied")}), "GM107") == "unknown"
    assert outcome(healthy().but(commands={"nvidia-smi": unread("denied")}), "GM107") == "unknown"
    assert outcome(healthy().but(commands={"nvidia-smi": None}), "GM107") == "ok", "nobody to ask"


def test_a_waiver_of_the_loss_lets_the_rest_go_on() -> None:
    host = gpu_count.HOSTS["bus 2, /proc 2, nvidia-smi 1"].but(files={DYNAMIC: None})
    waiver = {"code": "GM107", "reason": "sent in", "owner": "ops", "until": "2027-01-01"}
    assert Component.CDI in changes(host, {"waivers": [waiver]})


@pytest.mark.parametrize("minor", ["9" * 6000, "-1", "\u00b2", ""])
def test_a_minor_that_is_no_number_is_not_one(minor: str) -> None:
    path = "/proc/driver/nvidia/gpus/0000:00:06.0/information"
    known = healthy().but(files={path: f"Model: \t X\nDevice Minor: \t {minor}\n"}).state().gpus.known.value
    assert known and known["0000:00:06.0"].minor is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("00000000:00:06.0", "0000:00:06.0"),
        ("00000001:0A:00.0", "0001:0a:00.0"),
        ("00010000:17:00.0", "10000:17:00.0"),
    ],
)
def test_an_address_as_the_kernel_writes_it(text: str, address: str) -> None:
    assert address_of(text) == address


@pytest.mark.parametrize(
    ("device", "architecture"),
    [
        (0x13BA, "Maxwell"), (0x15F8, "Pascal"), (0x1DB6, "Volta"), (0x1E04, "Turing"), (0x20B0, "Ampere"), (0x2204, "Ampere"),
        (0x2330, "Hopper"), (0x26B9, "Ada"), (0x2B8C, "Blackwell"), (0x2BB5, "Blackwell"), (0x2C58, "Blackwell"),
        (0x2DD8, "Blackwell"), (0x2E12, "Blackwell"), (0x2F58, "Blackwell"), (0x3182, "Blackwell"), (0x31C2, "Blackwell"),
        (0x1613, "Maxwell"), (0x174D, "Maxwell"), (0x179C, "Maxwell"), (0x15C2, "Pascal"), (0x2082, "Ampere"), (0x2414, "Ampere"),
    ],
)  # fmt: skip
def test_chips_by_device_id(device: int, architecture: str) -> None:
    """Ids of NVIDIA's supported-gpus.json, of pci.ids and of public reports."""
    row = chip(device)
    assert row is not None and row["architecture"] == architecture


def test_ids_that_are_in_no_range() -> None:
    assert chip(None) is None and chip(0x1180) is None and chip(0xFFFF) is None
    assert chip(0x22A3) is None, "an NVSwitch, between the ids of GA102 and of GH100"
    assert len(load("gpu_chips")["chips"]) > 20


# --- GM115, GM116: MIG

MIG_LIST = LINE + "  MIG 3g.40gb     Device  0: (UUID: MIG-1111)\n"
CAPS = {f"/dev/nvidia-caps/nvidia-cap{n}": {**node(241, n), "mode": 0o444} for n in (1, 2, 30, 31)}


def split(host: Host, query: str = smiq(mig="Enabled")) -> Host:
    return host.but(commands={"nvidia-smi": (0, MIG_LIST, ""), "nvidia-smi-query": (0, query, "")})


def test_mig_on_without_an_instance() -> None:
    host = mig_empty.HOSTS["MIG on, no instance"]
    assert drift(host) == [("GM115", "fail")]
    assert "mig -i 0 -cgi" in the(host, "GM115").remedy
    waits = mig_empty.HOSTS["MIG pending (needs GPU reset)"]
    assert drift(waits) == [("GM115", "warn")] and "reset" in the(waits, "GM115").remedy
    assert drift(mig_empty.HOSTS["off"]) == []


def test_mig_without_instances_holds_generation_back() -> None:
    host = mig_no_instances.HOST
    found = {finding.code: finding for finding in verdict(host, AUTO).findings}
    assert found["GM115"].status == "fail"
    assert changes(host, AUTO) == set()
    assert all("GM115" in found[code].refused for code in ("GM301", "GM310"))


@pytest.mark.parametrize(
    ("unit", "words"),
    [
        (None, "no such unit"),
        ({"LoadState": "loaded", "ActiveState": "failed"}, "failed"),
        ({"LoadState": "loaded", "ActiveState": "active"}, "active"),
    ],
)
def test_who_makes_instances_at_boot_is_told(unit: dict[str, str] | None, words: str) -> None:
    host = mig_empty.HOSTS["MIG on, no instance"].but(units={"nvidia-mig-manager.service": unit})
    rows = {row.source: row.text for row in the(host, "GM115").evidence}
    assert rows["systemctl show nvidia-mig-manager.service"] == words


def test_the_second_gpu_alone_has_mig_on() -> None:
    second = smiq(mig="Enabled").split("GPU 00000000:00:06.0", 1)[1]
    query = SMI_Q + "GPU 00000000:00:07.0" + second
    two = {
        "nvidia-smi": (0, LINE + "GPU 1: NVIDIA H100 (UUID: GPU-2)\n", ""),
        "nvidia-smi-query": (0, query, ""),
    }
    found = the(healthy().but(files={**BOTH, **SECOND}, commands=two), "GM115")
    assert found.summary.startswith("GPU 1 has MIG on")


def test_mig_with_instances_and_their_nodes_is_fine() -> None:
    host = split(healthy()).but(files=CAPS)
    assert outcome(host, "GM115") == "ok" and outcome(host, "GM116") == "ok"


def test_mig_devices_without_capability_nodes() -> None:
    assert outcome(split(healthy()), "GM116") == "fail"
    two = {path: CAPS[path] for path in list(CAPS)[:2]}
    assert outcome(split(healthy()).but(files=two), "GM116") == "fail", "configuration and monitoring alone"
    assert outcome(healthy(), "GM116") == "ok", "no MIG"
    assert Component.CDI not in changes(split(healthy())), "a new spec would lack them, too"
    assert Component.CDI in changes(split(healthy()).but(files=CAPS)), "the spec has no MIG device"


MIG_SPEC = """cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: MIG-1111
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
%s
containerEdits: {}
"""


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ("", "fail"),
        ("    - path: /dev/nvidia-caps/nvidia-cap30\n    - path: /dev/nvidia-caps/nvidia-cap31\n", "ok"),
    ],
)
def test_capability_nodes_in_a_spec(nodes: str, expected: str) -> None:
    host = split(healthy()).but(files={**CAPS, DYNAMIC: MIG_SPEC % nodes})
    assert outcome(host, "GM116") == expected


# --- GM117: CUDA itself


def asked(
    host: Host, number: int, devices: int = -1, library: str = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"
) -> Host:
    return host.but(commands={"cuinit": (0, f"{number} {devices} {library}\n", "")})


def test_hmm_where_cuda_was_asked() -> None:
    assert drift(hmm.HOST) == [], "without asking nothing can be said"
    found = the(asked(hmm.HOST, 3), "GM117")
    assert found.status == "fail" and "3 (CUDA_ERROR_NOT_INITIALIZED)" in found.summary
    assert "uvm_disable_hmm=1" in found.remedy and "HMM" in found.cause
    off = hmm.HOST.but(files={"/sys/module/nvidia_uvm/parameters/uvm_disable_hmm": "Y\n"})
    assert "uvm_disable_hmm" not in the(asked(off, 3), "GM117").remedy, "it is off already"
    closed = hmm.HOST.but(files={"/proc/driver/nvidia/version": PROPRIETARY})
    assert "uvm_disable_hmm" not in the(asked(closed, 3), "GM117").remedy


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (34, "stub"),
        (46, "exclusive mode"),
        (100, "GM109"),
        (101, "GM116"),
        (802, "GM106 and GM124"),
        (803, "libcuda"),
        (804, "data-centre"),
        (999, "suspend"),
        (719, "CUresult"),
    ],
)
def test_each_number_is_explained(number: int, words: str) -> None:
    found = the(asked(healthy(), number), "GM117")
    assert found.status == "fail" and str(number) in found.summary and words in told(found)
    assert not found.change


@pytest.mark.parametrize("number", [46, 100, 101])
def test_mig_without_an_instance_explains_the_number(number: int) -> None:
    assert "GM115" in the(asked(mig_empty.HOSTS["MIG on, no instance"], number), "GM117").remedy


def test_999_with_a_wrong_node() -> None:
    host = healthy().but(files={"/dev/nvidia-uvm": node(510, 0)})
    assert "GM108" in the(asked(host, 999), "GM117").remedy


def test_where_cuda_works_or_was_not_asked_nothing_is_said() -> None:
    assert drift(asked(healthy(), 0, 1)) == []
    why = {"status": "absent", "error": "not asked: only root may open /dev/nvidia0"}
    assert drift(healthy().but(commands={"cuinit": why})) == []


def test_cuda_counts_fewer() -> None:
    two = {"nvidia-smi": (0, LINE + "GPU 1: NVIDIA H100 (UUID: GPU-2)\n", "")}
    host = healthy().but(files={**BOTH, **SECOND}, commands=two)
    assert "1 of 2" in the(asked(host, 0, 1), "GM117").summary
    assert outcome(asked(host, 0, 2), "GM117") == "ok"
    assert outcome(asked(split(healthy()).but(files=CAPS), 0, 1), "GM117") == "ok"


@pytest.mark.parametrize(
    "item",
    [unread("timeout"), unread("failed"), (1, "", "OSError: libcuda.so.1: cannot open\n"), (0, "x\n", "")],
)
def test_no_answer_is_unknown(item: Any) -> None:
    assert outcome(healthy().but(commands={"cuinit": item}), "GM117") == "unknown"


# --- GM108, GM109: device nodes


def test_a_file_in_the_place_of_a_node() -> None:
    host = lxc_uvm_file.HOST
    found = the(host, "GM108", lxc_uvm_file.WANTED)
    assert found.status == "fail" and "/dev/nvidia-uvm" in found.summary and "a regular file" in found.summary
    assert "outer host" in found.cause and "nvidia-uvm" in found.cause
    inside = the(host.but(files={"/run/systemd/container": "lxc"}), "GM108", lxc_uvm_file.WANTED)
    assert inside.remedy.startswith("On the outer host")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"/dev/nvidia-uvm": a_directory()}, "fail", id="a-directory"),
        pytest.param({"/dev/nvidia0": file("")}, "fail", id="the-gpu's-own"),
        pytest.param({"/dev/nvidia-uvm": node(510, 0)}, "fail", id="last-boot's-major"),
        pytest.param({"/dev/nvidia0": node(195, 1)}, "fail", id="another-gpu's-minor"),
        pytest.param({"/dev/nvidia-uvm-tools": node(238, 0)}, "fail", id="tools-as-uvm"),
        pytest.param(
            {"/dev/nvidia1": node(195, 1), "/dev/nvidia-modeset": node(195, 254)}, "ok", id="more-of-them"
        ),
        pytest.param(
            {"/proc/devices": "Character devices:\n195 nvidia-frontend\n238 nvidia-uvm\n"},
            "ok",
            id="older-drivers",
        ),
        pytest.param(
            {
                "/proc/devices": "Character devices:\n195 nvidia\n195 nvidiactl\n238 nvidia-uvm\n\nBlock devices:\n  8 sd\n"
            },
            "ok",
            id="newer-drivers",
        ),
        pytest.param({"/proc/devices": "Character devices:\n195 nvidia\n"}, "ok", id="uvm-is-not-loaded"),
        pytest.param({"/proc/devices": unread("denied")}, "unknown", id="denied"),
    ],
)
def test_nodes_are_devices_with_the_kernels_numbers(files: dict[str, Any], expected: str) -> None:
    assert outcome(healthy().but(files=files), "GM108") == expected


def narrow(mode: int, gid: int = 44, **paths: Any) -> dict[str, Item]:
    rows = (("/dev/nvidia0", 195, 0), ("/dev/nvidiactl", 195, 255), ("/dev/nvidia-uvm", 238, 0))
    return {path: {**node(a, b), "mode": mode, "gid": gid} for path, a, b in rows}


def params(mode: int) -> dict[str, str]:
    return {"/proc/driver/nvidia/params": f"ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileMode: {mode}\n"}


@pytest.mark.parametrize(
    "node_there",
    [node(511, 0), a_directory(), file("")],
    ids=["another-major", "directory", "file"],
)
def test_a_wrong_node_is_not_taken_over_into_a_spec(node_there: Item) -> None:
    """The spec had the kernel's numbers, and containers worked by them."""
    host = healthy().but(files={"/dev/nvidia-uvm": node_there})
    assert outcome(host, "GM108") == "fail"
    assert Component.CDI not in changes(host)
    gone = host.but(files={DYNAMIC: None})
    assert "GM108" in the(gone, "GM301").refused


def test_a_spec_is_not_made_without_a_gpus_node() -> None:
    gone: dict[str, Any] = {
        "nvidia-smi": None,
        "nvidia-smi-query": None,
    }  # it would make them: an audit does not ask
    host = healthy().but(files={"/dev/nvidia0": None}, commands=gone)
    assert the(host, "GM105").change is None, "nothing here makes a GPU's own node"
    assert "GM105" in the(host, "GM304").refused and Component.CDI not in changes(host)
    with_it = host.but(programs={"nvidia-modprobe": "/usr/bin/nvidia-modprobe"})
    assert changes(with_it) == {Component.DRIVER, Component.CDI}


def test_a_spec_with_the_kernels_numbers_is_not_stale() -> None:
    assert findings(healthy().but(files={"/dev/nvidia-uvm": node(511, 0)}), "GM304") == []
    other = {DYNAMIC: spec().replace("major: 238", "major: 511")}
    assert the(healthy().but(files=other), "GM304").change is not None


def test_nodes_for_a_group() -> None:
    found = the(device_modes.HOST, "GM109", device_modes.WANTED)
    assert found.status == "warn" and "0660" in found.summary and "rootless" in found.summary
    assert "Insufficient Permissions" in " ".join(found.symptoms)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        pytest.param({**narrow(0o660), **params(0o660)}, "NVreg_DeviceFileMode", id="the-module's-parameter"),
        pytest.param(
            {
                **narrow(0o1224),
                **params(660),
                "/etc/modprobe.d/nvidia.conf": "options nvidia NVreg_DeviceFileGID=27 NVreg_DeviceFileMode=660\n",
            },
            "read as decimal: it is 1224",
            id="decimal",
        ),
        pytest.param(
            {
                **narrow(0o660),
                **params(438),
                "/usr/lib/udev/rules.d/60-nvidia.rules": 'KERNEL=="nvidia*", GROUP="video", MODE="0660"\n',
            },
            "udev",
            id="udev",
        ),
        pytest.param({**narrow(0o600), **params(438)}, "Somebody or a script", id="by-hand"),
    ],
)
def test_who_narrowed_the_nodes(files: dict[str, Any], words: str) -> None:
    found = the(healthy().but(files=files), "GM109")
    assert words in told(found)


@pytest.mark.parametrize(
    "files",
    [
        params(438),
        {"/dev/nvidia-modeset": {**node(195, 254), "mode": 0o660}},
        {"/etc/modprobe.d/nvidia.conf": "options nvidia NVreg_DeviceFileMode=0666\n"},
        {"/usr/lib/udev/rules.d/60-nvidia.rules": 'KERNEL=="nvidia*", MODE="0666"\n'},
    ],
)
def test_nodes_for_everybody(files: dict[str, Any]) -> None:
    assert drift(healthy().but(files=files)) == []


# --- in a container: the driver is the outer host's


def test_a_container_with_another_drivers_libraries() -> None:
    found = the(lxc_mismatch.HOST, "GM101")
    assert found.status == "fail" and "580.178.04 in this container" in found.remedy
    assert "eboot" not in found.remedy and "outer host" in found.cause and found.risk == "none"
    assert outcome(lxc_mismatch.HOST, "GM107") == "ok", "one finding for one fault"
    bare = lxc_mismatch.HOST.but(files={"/run/systemd/container": None})
    assert "Reboot" in the(bare, "GM101").remedy


def test_a_module_in_a_containers_own_directories_is_not_the_next_one() -> None:
    other = {"modinfo": (0, "590.48.01\n", "")}
    assert outcome(healthy().but(commands=other), "GM110") == "warn"
    inside = healthy().but(commands=other, files={"/run/systemd/container": "systemd-nspawn\n"})
    assert outcome(inside, "GM110") == "ok"


# --- GM118, GM119


def query(*lines: str) -> dict[str, Any]:
    return {"nvidia-smi-query": (0, SMI_Q + "".join(f"    {line}\n" for line in lines), "")}


def test_a_vgpu_without_a_licence() -> None:
    found = the(vgpu_unlicensed.HOST, "GM118", AUTO)
    assert found.status == "warn" and "Unlicensed (Restricted)" in found.summary


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (("    License Status                    : Unlicensed (Unrestricted)",), "warn"),
        (("    License Status                    : Licensed (Expiry: 2027-3-19 7:29:4 GMT)",), "ok"),
        (("    License Status                    : Licensed",), "ok"),
        (("    License Status                    : N/A",), "ok"),
        ((), "ok"),
    ],
)
def test_licences(lines: tuple[str, ...], expected: str) -> None:
    product = (
        "vGPU Software Licensed Product",
        "    Product Name                      : NVIDIA Virtual Compute Server",
    )
    host = healthy().but(commands=query(*product, *lines))
    assert outcome(host, "GM118") == expected
    details = host.state().gpus.details.value
    assert details and details.gpus[0].name == "NVIDIA H100 80GB HBM3", "the software's name is not the GPU's"


@pytest.mark.parametrize(
    ("line", "unit", "expected"),
    [
        ("Disabled", "inactive", "note"),
        ("Disabled", "active", "ok"),
        ("Enabled", "inactive", "ok"),
        ("N/A", "inactive", "ok"),
    ],
)
def test_persistence_is_a_note(line: str, unit: str, expected: str) -> None:
    units = {"nvidia-persistenced.service": {"LoadState": "loaded", "ActiveState": unit}}
    host = healthy().but(commands=query(f"Persistence Mode                  : {line}"), units=units)
    assert outcome(host, "GM119") == expected


# --- GM120 to GM123: module and packages

NOT_LOADED = {"/proc/driver/nvidia/version": None, "/sys/module/nvidia/version": None, "/proc/modules": ""}
SECURE = {"mokutil": (0, "SecureBoot enabled\n", "")}


@pytest.mark.parametrize(
    ("files", "commands", "expected"),
    [
        pytest.param(NOT_LOADED, {**SECURE, "modinfo-signer": (0, "\n", "")}, "fail", id="unsigned"),
        pytest.param(
            NOT_LOADED,
            {
                **SECURE,
                "modinfo-signer": (0, "gpu1 Secure Boot Module Signature key\n", ""),
                **log(
                    "[    9.1] Loading of module with unavailable key is rejected",
                    "[    9.1] nvidia: Key was rejected by service",
                ),
            },
            "fail",
            id="the-key-is-not-enrolled",
        ),
        pytest.param(
            NOT_LOADED,
            {
                **SECURE,
                "modinfo-signer": (0, "gpu1 Secure Boot Module Signature key\n", ""),
                **log("[    9.1] Loading of module with unavailable key is rejected"),
            },
            "warn",
            id="the-kernel-does-not-say-whose-key",
        ),
        pytest.param(
            {},
            {
                **SECURE,
                "modinfo-signer": (0, "gpu1 Secure Boot Module Signature key\n", ""),
                "modinfo": (0, "580.200.01\n", ""),
                **log("[    9.1] Loading of module with unavailable key is rejected"),
            },
            "ok",
            id="it-was-another-module",
        ),
        pytest.param(
            NOT_LOADED,
            {
                **SECURE,
                "modinfo-signer": (0, "gpu1 Secure Boot Module Signature key\n", ""),
                "kernel-log": unread("denied"),
            },
            "unknown",
            id="the-log-may-not-be-read",
        ),
        pytest.param(
            NOT_LOADED,
            {**SECURE, "modinfo-signer": (0, "Canonical Ltd. Kernel Module Signing\n", "")},
            "ok",
            id="signed",
        ),
        pytest.param({}, {**SECURE, "modinfo-signer": (0, "\n", "")}, "ok", id="it-is-loaded"),
        pytest.param(
            {},
            {**SECURE, "modinfo-signer": (0, "\n", ""), "modinfo": (0, "580.200.01\n", "")},
            "warn",
            id="the-next-one",
        ),
        pytest.param(
            NOT_LOADED,
            {"mokutil": (0, "SecureBoot disabled\n", ""), "modinfo-signer": (0, "\n", "")},
            "ok",
            id="off",
        ),
        pytest.param(
            {**NOT_LOADED, "/run/systemd/container": "lxc"},
            {**SECURE, "modinfo-signer": (0, "\n", "")},
            "ok",
            id="a-container-loads-none",
        ),
    ],
)
def test_secure_boot(files: dict[str, Any], commands: dict[str, Any], expected: str) -> None:
    if files:  # it is on the disk; without a loaded one nvidia-smi is not asked
        files = {**files, **kernels(runs=True)}
        commands = {"nvidia-smi": absent(), **commands}
    assert outcome(healthy().but(files=files, commands=commands), "GM120") == expected


RUNS, NEXT = "6.8.0-60-generic", "6.8.0-101-generic"
ADDED = {"/var/lib/dkms/nvidia/580.159.04/source": a_directory()}
# pop-os/pop#3811
MAKE_LOG = """DKMS make.log for nvidia-580.159.04 for kernel %s (x86_64)
Wed Jan 14 10:00:00 UTC 2026
make: Entering directory
nvidia/nv-dma.c:123:10: error: implicit declaration of function 'x'
nvidia/nv-mmap.c:1:1: error: another
"""


def kernels(**with_module: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, there in with_module.items():
        release = {"runs": RUNS, "next": NEXT}[name]
        found[f"/lib/modules/{release}/kernel"] = a_directory()
        found[f"/lib/modules/{release}/modules.dep"] = (
            "updates/dkms/nvidia.ko.zst:\n" if there else "kernel/x.ko:\n"
        )
    return found


@pytest.mark.parametrize(
    ("files", "expected", "words"),
    [
        pytest.param(
            {
                **NOT_LOADED,
                **ADDED,
                **kernels(runs=False),
                "/var/lib/dkms/nvidia/580.159.04/build/make.log": MAKE_LOG % RUNS,
            },
            "fail",
            "implicit declaration",
            id="failed-for-the-running-kernel",
        ),
        pytest.param(
            {**NOT_LOADED, **ADDED, **kernels(runs=False)}, "fail", "headers are missing", id="never-built"
        ),
        pytest.param(
            {
                **ADDED,
                **kernels(runs=True, next=False),
                "/var/lib/dkms/nvidia/580.159.04/build/make.log": MAKE_LOG % NEXT,
            },
            "warn",
            "boots next",
            id="failed-for-the-next-kernel",
        ),
        pytest.param({**ADDED, **kernels(runs=True)}, "ok", "", id="built"),
        pytest.param(
            {
                **NOT_LOADED,
                **ADDED,
                f"/var/lib/dkms/nvidia/580.159.04/{RUNS}/x86_64/module/nvidia.ko.zst": file(""),
            },
            "ok",
            "",
            id="built-and-not-loaded",
        ),
        pytest.param({**NOT_LOADED, **kernels(runs=False)}, "ok", "", id="no-dkms"),
    ],
)
def test_dkms(files: dict[str, Any], expected: str, words: str) -> None:
    host = healthy().but(files=files)
    assert outcome(host, "GM121") == expected
    if words:
        found = the(host, "GM121")
        assert words in told(found) and "another" not in told(found)


def dpkg(*rows: str) -> dict[str, Any]:
    return {"dpkg": (1, "".join(f"{row}\n" for row in rows), "")}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (("iF \tnvidia-dkms-580-open\t580.119.02-0ubuntu0.24.04.1",), "fail"),
        (
            (
                "iU \tnvidia-driver-580-open\t580.119.02-0ubuntu0.24.04.1",
                "iF \tnvidia-dkms-580-open\t580.119.02-1",
            ),
            "fail",
        ),
        (("iH \tlibnvidia-compute-580\t580.119.02-0ubuntu0.24.04.1",), "fail"),
        (("ii \tnvidia-dkms-580-open\t580.159.04-0ubuntu0.24.04.1",), "ok"),
        (("rc \tnvidia-dkms-470\t470.1-0ubuntu1",), "ok"),
        (("iF \tdocker-ce\t5:28.5.2-1",), "ok"),
    ],
)
def test_packages_that_are_not_finished(rows: tuple[str, ...], expected: str) -> None:
    assert outcome(healthy().but(commands=dpkg(*rows)), "GM122") == expected


U, N = "580.159.04-0ubuntu0.24.04.1", "580.159.04-1ubuntu1"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ((f"ii \tlibnvidia-compute-580\t{U}", f"ii \tnvidia-utils-580\t{N}"), "warn"),
        (
            (
                f"ii \tlibnvidia-compute-580\t{U}",
                "ii \tnvidia-compute-utils-580\t580.178.04-0ubuntu0.24.04.1",
            ),
            "warn",
        ),
        (
            (
                f"ii \tlibnvidia-compute-580\t{U}",
                f"ii \tnvidia-utils-580\t{U}",
                f"ii \tnvidia-dkms-580-open\t{U}",
            ),
            "ok",
        ),
        ((f"ii \tlibnvidia-compute-580\t{N}", f"ii \tnvidia-utils-580\t{N}"), "ok"),
        ((f"ii \tlibnvidia-compute-580\t{U}", "ii \tlibnvidia-compute-535\t535.1.1-0ubuntu1"), "ok"),
        (
            (
                f"ii \tlibnvidia-compute-580\t{U}",
                "ii \tlinux-modules-nvidia-580-open-6.8.0-60-generic\t6.8.0-60.63+1",
            ),
            "ok",
        ),
    ],
)
def test_packages_of_two_sources(rows: tuple[str, ...], expected: str) -> None:
    assert outcome(healthy().but(commands=dpkg(*rows)), "GM123") == expected


# --- GM124, GM125: the fabric

KVM = {"vm": (0, "kvm\n", "")}
METAL = {"vm": (1, "none\n", "")}


def fabric(product: str, state: str = "In Progress", status: str = "N/A", **commands: Any) -> Host:
    return healthy().but(
        commands={"nvidia-smi-query": (0, smiq(product, state, status), ""), **METAL, **commands}
    )


@pytest.mark.parametrize(
    ("host", "words"),
    [
        pytest.param(fabric("NVIDIA GB200"), "rack", id="gb200"),
        pytest.param(fabric("NVIDIA GB300"), "rack", id="gb300"),
        pytest.param(fabric("NVIDIA B200"), "ib_umad is not loaded", id="b200"),
        pytest.param(fabric("NVIDIA B300 SXM6 AC"), "nvlsm", id="b300"),
        pytest.param(fabric("NVIDIA H100 80GB HBM3", **KVM), "hypervisor", id="a-guest-with-one-gpu"),
        pytest.param(fabric("NVIDIA B200", **KVM), "hypervisor", id="a-guest-with-one-b200"),
        pytest.param(
            fabric("NVIDIA H200").but(
                files={"/usr/share/nvidia/nvswitch/fabricmanager.cfg": "LOG_LEVEL=4\nFABRIC_MODE=1\n"}
            ),
            "FABRIC_MODE=0",
            id="shared-nvswitches",
        ),
    ],
)
def test_gpus_wait_for_their_fabric(host: Host, words: str) -> None:
    found = the(host, "GM124")
    assert found.status == "fail" and words in told(found)
    assert outcome(host, "GM106") == "ok", "one finding for one fault"


def test_b200_with_all_that_it_needs() -> None:
    files = {"/sys/module/ib_umad": a_directory(), "/opt/nvidia/nvlsm/sbin/nvlsm": file("", 0o755)}
    host = fabric("NVIDIA B200").but(files=files)
    host = host.but(processes=(*host.processes, process("/usr/bin/nv-fabricmanager")))
    found = the(host, "GM124")
    assert "all three are there" in found.cause and "journalctl" in found.remedy


def test_hopper_on_bare_metal_is_gm106s() -> None:
    host = fabric("NVIDIA H100 80GB HBM3")
    assert outcome(host, "GM106") == "fail" and outcome(host, "GM124") == "ok"


@pytest.mark.parametrize("product", ["NVIDIA GB200", "NVIDIA B200", "NVIDIA H100 80GB HBM3"])
def test_registered_gpus_are_fine(product: str) -> None:
    for commands in (METAL, KVM):
        assert drift(fabric(product, "Completed", "Success", **commands)) == []
    assert drift(fabric(product, "N/A", "N/A")) == []


def unit(state: str) -> dict[str, dict[str, str]]:
    return {"nvidia-imex.service": {"LoadState": "loaded", "ActiveState": state}}


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(
            fabric("NVIDIA GB200", "Completed", "Success").but(units=unit("failed")), "warn", id="failed"
        ),
        pytest.param(
            fabric("NVIDIA GB200", "Completed", "Success").but(units=unit("inactive")), "ok", id="not-started"
        ),
        pytest.param(
            fabric("NVIDIA H100 80GB HBM3", "N/A").but(units=unit("failed")), "ok", id="not-of-a-rack"
        ),
        pytest.param(
            healthy().but(
                files={
                    "/dev/nvidia-caps-imex-channels/channel0": node(508, 0),
                    "/proc/devices": "Character devices:\n195 nvidia\n234 nvidia-caps-imex-channels\n238 nvidia-uvm\n",
                }
            ),
            "warn",
            id="last-boot's-major",
        ),
        pytest.param(
            healthy().but(
                files={
                    "/dev/nvidia-caps-imex-channels/channel0": node(234, 0),
                    "/proc/devices": "Character devices:\n195 nvidia\n234 nvidia-caps-imex-channels\n238 nvidia-uvm\n",
                }
            ),
            "ok",
            id="right-major",
        ),
    ],
)
def test_imex(host: Host, expected: str) -> None:
    assert outcome(host, "GM125") == expected


# --- healthy hosts stay silent


def test_a_healthy_host_with_everything_read_is_silent() -> None:
    """The H100 with all that these rules read: on the bus, asked, with persistence, on bare metal."""
    query_ = query(
        "Persistence Mode                  : Enabled", "    Reset Required                    : No"
    )
    files = {**on_bus("0000:00:06.0", 0x2330), **params(438), **{path: CAPS[path] for path in list(CAPS)[:2]}}
    host = healthy().but(
        files=files,
        commands={**query_, **METAL, **log("[    1.0] NVRM: loading NVIDIA UNIX Open Kernel Module")},
    )
    assert drift(asked(host, 0, 1)) == []


def test_nothing_is_asked_of_a_wsl2_or_jetson() -> None:
    for files in ({"/dev/dxg": ""}, {"/etc/nv_tegra_release": ""}):
        host = mute(healthy()).but(files=files, system={"kernel": "5.15.0-microsoft-standard-WSL2"})
        assert findings(host, "GM107") == []
