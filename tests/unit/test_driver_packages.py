"""GM126, GM127: which packages a wanted driver is, what holds it back, what is planned, and when a reboot is required."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.payload.change.driver_choice import driver_objection, one_branch
from gpumend.payload.change.managers import Unfit
from gpumend.payload.driver import driver_number, has_driver_number, is_driver_package
from gpumend.plan.plan import plan
from gpumend.plan.step import DriverPackages, WriteFile
from gpumend.rules.data import load
from gpumend.rules.data.check import problems
from gpumend.rules.driver.driver_packages import TEXTS
from gpumend.rules.driver.reboot import required
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.drift import apt_settings
from gpumend.state.driver_packages import AT_BOOT, LEFT_ALONE, NOUVEAU_OFF, enrolled, names, parse_origins
from gpumend.state.host_state import besides_of
from gpumend.state.snapshot import Output
from tests.unit.build import TODAY, Host, file, findings, healthy, outcome, the, unread, verdict

KERNEL = "6.12.48+deb13-amd64"
NVIDIA = "https://developer.download.nvidia.com/compute/cuda/repos/debian13/x86_64"
UBUNTU = "http://archive.ubuntu.com/ubuntu"
BUS = "/sys/bus/pci/devices/0000:01:00.0"
H100, B200, GB200, P100, NEW = 0x2330, 0x2901, 0x2941, 0x15F8, 0x3FFF
TURNED_OFF = {path: file(text) for path, text in TEXTS.items()}
WHOLE = (
    "nvidia-driver-cuda=580.95.05-1",
    "nvidia-kernel-open-dkms=580.95.05-1",
    "nvidia-persistenced=580.95.05-1",
    "nvidia-driver-pinning-580=580-1",
)


def policy(**offers: tuple[str, str]) -> str:
    """`apt-cache policy` of packages (`_` for `-`): (versions, newest first, their address)."""
    text = ""
    for name, (versions, site) in offers.items():
        first, *_ = versions.split()
        text += f"{name.replace('_', '-')}:\n  Installed: (none)\n  Candidate: {first}\n  Version table:\n"
        text += "".join(f"     {version} 500\n        500 {site}  Packages\n" for version in versions.split())
    return text


CUDA_REPOSITORY = policy(
    nvidia_driver_cuda=("580.95.05-1", NVIDIA),
    nvidia_kernel_open_dkms=("580.95.05-1", NVIDIA),
    nvidia_kernel_dkms=("580.95.05-1", NVIDIA),
    nvidia_persistenced=("580.95.05-1", NVIDIA),
    nvidia_driver_pinning_580=("580-1", NVIDIA),
    nvidia_fabricmanager_580=("580.95.05-1", NVIDIA),
    nvidia_imex_580=("580.95.05-1", NVIDIA),
    nvlsm=("2025.03.9-1", NVIDIA),
)


def wants(**driver: Any) -> dict[str, Any]:
    return {"driver": {"branch": "580", "install": True, **driver}}


def bare(
    *packages: str,
    device: int = H100,
    offers: str = CUDA_REPOSITORY,
    wanted: dict[str, Any] | None = None,
    system: str = 'ID=debian\nPRETTY_NAME="Debian 13"\nVERSION_ID="13"\n',
    files: dict[str, Any] | None = None,
    **changes: Any,
) -> Host:
    """A Debian with a GPU on its bus and no driver, with these packages (NAME=VERSION, `+` before one that is held)."""
    rows = [name.partition("=") for name in packages]
    dpkg = "ii \tapt\t3.0.3\n" + "".join(
        f"{'hi' if name[0] == '+' else 'ii'} \t{name.lstrip('+')}\t{version}\n" for name, _, version in rows
    )
    bus = {
        f"{BUS}/vendor": "0x10de\n",
        f"{BUS}/class": "0x030200\n",
        f"{BUS}/uevent": f"PCI_CLASS=30200\nPCI_ID=10DE:{device:04X}\n",
    }
    commands = {
        "dpkg": (0, dpkg, ""),
        "driver-offers": (0, offers, ""),
        "header-names": (0, f"linux-headers-{KERNEL}\n", ""),
        "module-names": (0, "", ""),
        "modinfo": (1, "", "modinfo: ERROR: Module nvidia not found.\n"),
        "apt-config": (0, "", ""),
        **changes.pop("commands", {}),
    }
    return Host(
        files={"/etc/os-release": system, "/etc/modprobe.d/a.conf": "# nothing\n", **bus, **(files or {})},
        programs={"apt-get": "/usr/bin/apt-get"},
        commands=commands,
        units=changes.pop("units", {"docker.service": None}),
        system={"kernel": KERNEL, "machine": "x86_64", "uid": 0},
        besides=besides_of(wanted or wants()),
        **changes,
    )


def installed(*packages: str, loaded: str = "", held: bool = True, **more: Any) -> Host:
    """That host once it has the driver, as mend leaves it. loaded: the driver in the kernel."""
    files = {**TURNED_OFF, f"/lib/modules/{KERNEL}/build/Makefile": file(), **more.pop("files", {})}
    if loaded:
        files["/proc/driver/nvidia/version"] = (
            f"NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {loaded}  Release Build\n"
        )
    rows = [f"{'+' if held else ''}{each}" for each in packages or WHOLE]
    commands = {"modinfo": (0, "580.95.05\n", ""), **more.pop("commands", {})}
    return bare(*rows, files=files, commands=commands, **more)


def steps(host: Host, wanted: dict[str, Any] | None = None) -> list[str]:
    raw = wanted or wants()
    context = Context(host.state(), parse_wanted(raw), "gpu1", TODAY)
    made = plan(context, verdict(host, raw).findings)
    assert made.blocked == {}
    found = made.get(Component.DRIVER_PACKAGES)
    return [step.describe() for step in found.steps] if found else []


# --- which packages


def test_a_bare_debian_gets_the_open_driver_and_all_that_goes_with_it() -> None:
    assert steps(bare()) == [
        "the initramfs is kept in step with what follows",
        "apt install nvidia-driver-pinning-580; then apt install nvidia-driver-cuda nvidia-kernel-open-dkms "
        f"nvidia-persistenced linux-headers-{KERNEL}",
        f"{NOUVEAU_OFF} is written",
        f"{AT_BOOT} is written",
        f"{LEFT_ALONE} is written",
        "update-initramfs -u -k all",
        "systemctl enable nvidia-persistenced.service",
        "apt-mark hold each package of the driver",
        "prove it by what dpkg says, and modinfo of the module for the running kernel",
    ]
    assert steps(installed()) == [], "once it is so, nothing is left to do"
    assert outcome(installed(), "GM126", wants()) == "ok"


@pytest.mark.parametrize(
    ("device", "wanted", "kinds"),
    [
        (H100, {}, {"nvidia-kernel-open-dkms"}),
        (H100, {"flavour": "proprietary"}, {"nvidia-kernel-dkms"}),
        (P100, {}, {"nvidia-kernel-dkms"}),
        (B200, {}, {"nvidia-kernel-open-dkms", "nvidia-fabricmanager-580", "nvlsm"}),
        (GB200, {}, {"nvidia-kernel-open-dkms", "nvidia-imex-580"}),
        (NEW, {"flavour": "open"}, {"nvidia-kernel-open-dkms"}),
    ],
)
def test_flavour_and_fabric_by_the_device_id(device: int, wanted: dict[str, Any], kinds: set[str]) -> None:
    [text] = [each for each in steps(bare(device=device), wants(**wanted)) if "then apt install" in each]
    assert set(text.split()) & {
        "nvidia-kernel-open-dkms", "nvidia-kernel-dkms", "nvidia-fabricmanager-580", "nvidia-imex-580", "nvlsm"
    } == kinds  # fmt: skip


def test_a_fabric_manager_where_switches_are_on_the_bus() -> None:
    switch = {
        "/sys/bus/pci/devices/0000:07:00.0/vendor": "0x10de\n",
        "/sys/bus/pci/devices/0000:07:00.0/class": "0x068000\n",
    }
    assert "nvidia-fabricmanager-580" in steps(bare(files=switch))[1]
    assert "systemctl enable nvidia-persistenced.service nvidia-fabricmanager.service" in steps(
        bare(files=switch)
    )


@pytest.mark.parametrize(
    ("system", "branch", "offers", "text"),
    [
        ("ID=ubuntu\nID_LIKE=debian\n", "580", policy(nvidia_utils_580_server=("580.95.05-0ubuntu0.24.04.1", UBUNTU)),
         "apt install nvidia-headless-no-dkms-580-server-open nvidia-utils-580-server "
         f"linux-modules-nvidia-580-server-open-{KERNEL}"),
        ("ID=ubuntu\nID_LIKE=debian\n", "580", policy(libnvidia_compute_580=("580.95.05-0ubuntu1", NVIDIA)),
         "apt install nvidia-driver-pinning-580; then apt install libnvidia-compute-580 nvidia-utils-580 "
         f"nvidia-compute-utils-580 nvidia-dkms-580-open linux-headers-{KERNEL}"),
        ("ID=ubuntu\nID_LIKE=debian\n", "590", policy(nvidia_open=("590.48.01-1", NVIDIA)),
         f"apt install nvidia-driver-pinning-590; then apt install nvidia-open linux-headers-{KERNEL}"),
        ("ID=debian\n", "550", policy(libcuda1=("550.163.01-2", "http://deb.debian.org/debian")),
         f"apt install libcuda1 nvidia-smi nvidia-kernel-dkms linux-headers-{KERNEL}"),
    ],
)  # fmt: skip
def test_names_by_distribution_and_repository(system: str, branch: str, offers: str, text: str) -> None:
    wanted = wants(branch=branch)
    assert steps(bare(system=system, offers=offers, wanted=wanted), wanted)[1] == text


def test_what_apt_does_not_know_is_in_a_component_of_the_archive() -> None:
    """noble-updates, 2026-11-29: 595-server is in multiverse, which a server's sources need not have."""
    version = ("580.178.04-0ubuntu0.24.04.1", UBUNTU)
    has = policy(nvidia_utils_580_server=version, nvidia_headless_no_dkms_580_server_open=version)
    system = 'ID=ubuntu\nID_LIKE=debian\nPRETTY_NAME="Ubuntu 24.04.3 LTS"\n'
    for branch, said in (("580", []), ("595", ["restricted and multiverse"])):
        wanted = wants(branch=branch, origin="distribution")
        found = the(bare(system=system, offers=has, wanted=wanted), "GM126", wanted)
        told = [row.text for row in found.evidence if "knows no" in row.text]
        assert told == [
            f"knows no nvidia-headless-no-dkms-{branch}-server-open: Ubuntu 24.04.3 LTS has its drivers in {each}"
            for each in said
        ]
    wanted = wants(origin="nvidia")
    assert not any("knows no" in row.text for row in the(bare(wanted=wanted), "GM126", wanted).evidence)


# --- what stays, and what is held back


@pytest.mark.parametrize(
    ("host", "wanted", "words"),
    [
        (bare(), {"install": False}, "driver.install is false"),
        (bare(files={"/usr/bin/nvidia-uninstall": file()}), {}, "came from NVIDIA's runfile"),
        (installed("nvidia-ctk=1", loaded="580.95.05"), {}, "no package has it"),
        (installed("nvidia-driver-cuda=570.195.03-1", loaded="570.195.03", commands={"modinfo": (0, "570.195.03\n", "")}),
         {}, "driver.replace is false"),
        (installed(loaded="580.95.05"), {"flavour": "proprietary"}, "removal of packages"),
        (bare(device=P100), {"flavour": "open"}, "Pascal takes the proprietary modules alone"),
        (bare(device=B200), {"flavour": "proprietary"}, "Blackwell takes the open modules alone"),
        (bare(device=P100), {"branch": "590"}, "no driver after branch 580"),
        (bare(device=NEW), {}, "PCI device id 3fff"),
        (bare(commands={"mokutil": (0, "SecureBoot enabled\n", "")}), {}, "the key with which this host's DKMS signs"),
        (bare(commands={"header-names": (0, "linux-headers-6.1.0-9-amd64\n", "")}), {}, f"no repository has linux-headers-{KERNEL}"),
        (bare(device=B200, offers=CUDA_REPOSITORY.replace("nvlsm", "other")), {}, "no repository has nvlsm"),
        (bare(offers=CUDA_REPOSITORY.replace(NVIDIA, UBUNTU)), {"origin": "nvidia"}, "and driver.origin is nvidia"),
        (bare(files={"/run/systemd/container": "lxc"}), {}, "this is a container (lxc)"),
        (bare(system="ID=arch\n"), {}, "the table has no packages"),
    ],
)  # fmt: skip
def test_held_back(host: Host, wanted: dict[str, Any], words: str) -> None:
    found = the(host, "GM126", wants(**wanted))
    assert found.change is None and words in found.refused, found
    assert found.remedy


def test_secure_boot_is_said_beforehand() -> None:
    for said, text in (
        ("SecureBoot disabled\n", "off"),
        ("SecureBoot enabled\n", "on, and the firmware does not"),
    ):
        found = the(bare(commands={"mokutil": (0, said, "")}), "GM126", wants())
        assert any(f"Secure Boot: {text}" in row.text for row in found.evidence)
    key = bare(
        files={"/var/lib/dkms/mok.pub": file()},
        commands={
            "mokutil": (0, "SecureBoot enabled\n", ""),
            "mok-enrolled": (1, "/var/lib/dkms/mok.pub is already enrolled\n", ""),
        },
    )
    assert the(key, "GM126", wants()).change is not None, "the firmware knows DKMS' key"


def test_a_driver_of_other_package_names_stays() -> None:
    host = installed("nvidia-driver-580-open=580.95.05-0ubuntu0.24.04.1", loaded="580.95.05")
    assert outcome(host, "GM126", wants()) == "ok"


def test_report_only_judges_the_packages_alone() -> None:
    there = installed(held=False, files=dict.fromkeys(TEXTS))
    assert outcome(there, "GM126", {"driver": {"branch": "580"}}) == "ok"
    found = the(there, "GM126", wants())
    assert found.change is not None and "is not held" not in found.summary
    assert steps(there)[-2:] == [
        "apt-mark hold each package of the driver",
        "prove it by what dpkg says, and modinfo of the module for the running kernel",
    ]


def test_a_service_that_is_off_is_told_and_enabled() -> None:
    off = {"nvidia-persistenced.service": {"LoadState": "loaded", "UnitFileState": "disabled"}}
    assert "systemctl enable nvidia-persistenced.service" in steps(installed(units=off))


def test_unknown_is_never_ok() -> None:
    assert outcome(bare(commands={"modinfo": unread("timeout")}), "GM126", wants()) == "unknown"
    assert outcome(bare(commands={"dpkg": unread("failed")}), "GM126", wants()) == "unknown"


def test_nothing_is_judged_where_no_driver_is_wanted() -> None:
    assert findings(healthy(), "GM126") == findings(healthy(), "GM127") == []


# --- reboot required


def reasons(host: Host, wanted: dict[str, Any]) -> tuple[str, ...]:
    return required(Context(host.state(), parse_wanted(wanted), "gpu1", TODAY))


def test_a_reboot_is_required_once_it_is_installed() -> None:
    assert (
        the(installed(), "GM127", wants()).summary
        == "reboot required: driver 580.95.05 is installed and not loaded"
    )
    assert reasons(installed(), wants()) == ("driver 580.95.05 is installed and not loaded",)
    assert reasons(installed(), {}) == (), "nobody said that it is to be loaded"
    assert reasons(installed(loaded="580.95.05"), wants()) == ()
    assert outcome(installed(loaded="580.95.05"), "GM127", wants()) == "ok"
    assert reasons(bare(), wants()) == ()
    [other] = reasons(installed(loaded="570.195.03"), wants())
    assert "the loaded driver is 570.195.3, the next one is 580.95.5" in other or "580.95" in other
    assert reasons(installed(files={"/run/systemd/container": "lxc"}), wants()) == ()


# --- what the host refuses by itself


@pytest.mark.parametrize(
    ("change", "upgrade", "words"),
    [
        (("remove", "xserver-xorg-video-nouveau", None), True, "it would remove"),
        (("install", "linux-image-6.8.0-99-generic", "6.8"), True, "which kernel boots"),
        (("upgrade", "linux-generic", "6.8"), True, "which kernel boots"),
        (("upgrade", "docker-ce", "29"), True, "it would upgrade docker-ce"),
        (("upgrade", "nvidia-container-toolkit", "1.20"), True, "it would upgrade nvidia-container-toolkit"),
        (("upgrade", "nvidia-driver-cuda", "580.95.05-1"), False, "driver.replace is false"),
        (("install", "cuda-12-4", "12.4.1-1"), True, "more than a driver"),
        (("upgrade", "nvidia-driver-cuda", "580.95.05-1"), True, ""),
        (("install", "dkms", "3.2"), False, ""),
        (("install", "kernel-core", "5.14.0-427.el9"), True, "which kernel boots"),
        (("install", "kernel6.12", "6.12.64-87.amzn2023"), True, "which kernel boots"),
        (("upgrade", "kernel-default", "6.4.0-150600.23"), True, "which kernel boots"),
        (("module", "nvidia-driver", None), True, "change the module stream of nvidia-driver"),
        (("install", "kernel-devel", "5.14.0-427.el9"), False, ""),
        (("upgrade", "kmod-nvidia-open-dkms", "3:580.95.05-1.el9"), True, ""),
        (("install", "linux-headers-6.8.0-60-generic", "6.8"), False, ""),
        (("install", "linux-modules-nvidia-580-server-open-6.8.0-60-generic", "6.8"), False, ""),
    ],
)
def test_what_comes_along_is_refused(change: Any, upgrade: bool, words: str) -> None:
    found = driver_objection([change], upgrade)
    assert words in found and bool(found) == bool(words)


@pytest.mark.parametrize(
    ("versions", "exact", "words"),
    [
        ({"nvidia-driver-570-server-open": "580.95.05-0ubuntu0.24.04.1"}, "", ""),
        ({"nvidia-driver-580-server-open": "590.48.01-0ubuntu0.24.04.1"}, "", "not of branch 580"),
        (
            {"nvidia-driver-cuda": "580.95.05-1", "nvidia-fabricmanager-580": "580.105.08-1"},
            "",
            "different versions",
        ),
        ({"nvidia-driver-cuda": "580.95.05-1"}, "580.105.08", "not 580.105.08"),
        ({"nvidia-driver-pinning-580": "580-1", "nvidia-modprobe": "590.1-1"}, "", "none of the packages"),
    ],
)
def test_one_version_of_one_branch(versions: dict[str, str], exact: str, words: str) -> None:
    if words:
        with pytest.raises(Unfit, match=words):
            one_branch(versions, 580, exact)
    else:
        assert one_branch(versions, 580, exact) == "580.95.05"


def test_what_is_held_and_left_alone_is_the_driver_and_not_the_toolkit() -> None:
    settings = apt_settings(
        'APT::Periodic::Unattended-Upgrade "1";\n'
        + "".join(
            f'Unattended-Upgrade::Package-Blacklist:: "{row.strip()[1:-2]}";\n'
            for row in TEXTS[LEFT_ALONE].splitlines()
            if row.startswith("  ")
        )
    )
    driver = ("nvidia-driver-cuda", "libnvidia-compute-580", "libcuda1", "cuda-drivers-580", "nvidia-fabricmanager-580",
              "linux-modules-nvidia-580-server-open-6.8.0-60-generic")  # fmt: skip
    toolkit = (
        "nvidia-container-toolkit",
        "nvidia-container-toolkit-base",
        "libnvidia-container1",
        "libnvidia-container-tools",
    )
    for name in driver:
        assert settings.covers(name) and is_driver_package(name), name
    for name in (*toolkit, "cuda-toolkit-12-4", "linux-image-6.8.0-60-generic", "nvidia-cuda-toolkit"):
        assert not is_driver_package(name), name
    assert not any(settings.covers(name) for name in toolkit)


# --- tables and texts


def test_apt_is_asked_for_each_package_of_the_table() -> None:
    for row in load("drivers")["packages"]:
        if row["id"] not in ("debian", "ubuntu"):
            continue
        branch = str(min(max(row["first"], 580), row["last"]))
        parts = [
            *row["open"],
            *row["proprietary"],
            *row["besides"],
            row["pinning"],
            *row["fabric"],
            *row["imex"],
            *row["subnet"],
        ]
        asked = {name.format(branch=branch, kernel="") for name in parts if "{kernel}" not in name and name}
        assert asked <= set(names(branch)), asked - set(names(branch))
    assert problems() == []


def test_each_flavour_has_a_package_with_the_drivers_own_version() -> None:
    for row in load("drivers")["packages"]:
        for kind in ("open", "proprietary"):
            found = [name.format(branch="580", kernel=KERNEL, variant="default") for name in row[kind]]
            assert not found or any(has_driver_number(name) for name in found)


def test_texts_of_apt_and_mokutil() -> None:
    found = parse_origins(Output(policy(nvlsm=("2.0-1 1.0-1", NVIDIA)), "", 0))
    assert found == {"nvlsm": {"2.0-1": (NVIDIA,), "1.0-1": (NVIDIA,)}}
    assert enrolled(Output("/var/lib/dkms/mok.pub is not enrolled\n", "", 0)) is False
    with pytest.raises(ValueError, match="EFI"):
        enrolled(Output("", "EFI variables are not supported on this system\n", 1))
    assert driver_number("1:580.95.05-0ubuntu1") == (580, 95, 5) and driver_number("20240109-1") == ()


def test_the_transaction_carries_what_the_host_needs() -> None:
    context = Context(
        bare().state(), parse_wanted({**wants(replace=True), "restarts": "allow"}), "gpu1", TODAY
    )
    made = plan(context, verdict(bare(), {**wants(replace=True), "restarts": "allow"}).findings).get(
        Component.DRIVER_PACKAGES
    )
    assert made is not None and made.package_wait == 120
    [step] = [each for each in made.steps if isinstance(each, DriverPackages)]
    assert (step.upgrade, step.in_use, step.branch, step.pinning) == (
        True,
        "allow",
        580,
        "nvidia-driver-pinning-580",
    )
    written = {each.path for each in made.steps if isinstance(each, WriteFile)}
    assert written == set(TEXTS)
