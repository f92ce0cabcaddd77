"""GM126 by dnf and zypper: which packages of which distribution, whose module stream, what counts as held, which version is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.payload.change.dnf import listed_streams
from gpumend.payload.change.driver_choice import at_one_version, driver_objection
from gpumend.payload.change.driver_steps import is_locked
from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.packaging import objection
from gpumend.payload.driver import is_driver_package
from gpumend.rules.driver.driver_packages import module_text
from gpumend.rules.driver.driver_wanted import is_lock_of
from gpumend.state.driver_packages import (
    AT_BOOT,
    MODULE_FILE,
    NOUVEAU_OFF,
    ZYPP_LOCKS,
    parse_locks,
    parse_module,
)
from gpumend.state.host_state import besides_of
from tests.unit.build import Host, file, outcome, the
from tests.unit.test_driver_packages import B200, BUS, GB200, H100, P100, TURNED_OFF, steps, wants

EL, SUSE, UEK, AMAZON = "5.14.0-427.13.1.el9_4.x86_64", "6.4.0-150600.23.7-default", "5.15.0-3.60.el9uek.x86_64", "6.12.64-87.122.amzn2023.x86_64"  # fmt: skip
ROCKY = 'ID=rocky\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.4"\n'
TEN = 'ID=almalinux\nID_LIKE="rhel centos fedora"\nVERSION_ID="10.0"\n'
ORACLE = 'ID=ol\nID_LIKE=fedora\nVERSION_ID="9.4"\n'
AL2023 = 'ID=amzn\nID_LIKE=fedora\nVERSION_ID="2023"\n'
FEDORA = "ID=fedora\nVERSION_ID=44\n"
SLES = 'ID=sles\nID_LIKE=suse\nVERSION_ID="15.6"\n'
LEAP = 'ID=opensuse-leap\nID_LIKE="suse opensuse"\nVERSION_ID="15.6"\n'
TUMBLEWEED = 'ID=opensuse-tumbleweed\nID_LIKE="opensuse suse"\nVERSION_ID=20261101\n'
PLUGIN = "python3-dnf-plugin-versionlock"
VERSIONLOCK = "/etc/dnf/plugins/versionlock.list"
WHOLE = (
    "nvidia-driver-cuda=580.95.05-1.el9",
    "kmod-nvidia-open-dkms=580.95.05-1.el9",
    f"{PLUGIN}=4.3.0-1.el9",
)
LOCKED = (
    "# Added lock on Sun\nnvidia-driver-cuda-3:580.95.05-1.el9.*\nkmod-nvidia-open-dkms-3:580.95.05-1.el9.*\n"
)


def rpm(
    *packages: str,
    system: str = ROCKY,
    kernel: str = EL,
    device: int = H100,
    files: dict[str, Any] | None = None,
    wanted: dict[str, Any] | None = None,
    **commands: Any,
) -> Host:
    """A host whose packages are rpm's, with a GPU on its bus."""
    rows = "".join(
        f"{name}\t(none):{version}\n" for name, _, version in (each.partition("=") for each in packages)
    )
    suse = "suse" in system
    return Host(
        files={
            "/etc/os-release": system,
            "/etc/modprobe.d/a.conf": "# nothing\n",
            f"{BUS}/vendor": "0x10de\n",
            f"{BUS}/class": "0x030200\n",
            f"{BUS}/uevent": f"PCI_CLASS=30200\nPCI_ID=10DE:{device:04X}\n",
            "/var/lib/rpm/rpmdb.sqlite": file(),
            **(files or {}),
        },
        programs={
            "zypper" if suse else "dnf": f"/usr/bin/{'zypper' if suse else 'dnf'}",
            "rpm": "/usr/bin/rpm",
        },
        commands={
            "rpm": (0, f"bash\t(none):5.2-1\n{rows}", ""),
            "modinfo": (1, "", "modinfo: ERROR: Module nvidia not found.\n"),
            **commands,
        },
        units={"docker.service": None},
        system={"kernel": kernel, "machine": "x86_64", "uid": 0},
        besides=besides_of(wanted or wants()),
    )


def made(*packages: str, files: dict[str, Any] | None = None, **more: Any) -> Host:
    """That host once it has the driver, as mend leaves it."""
    kernel = more.get("kernel", EL)
    there = {
        **TURNED_OFF,
        f"/lib/modules/{kernel}/build/Makefile": file(),
        VERSIONLOCK: LOCKED,
        **(files or {}),
    }
    return rpm(*(packages or WHOLE), files=there, modinfo=(0, "580.95.05\n", ""), **more)


def test_a_bare_rocky_gets_the_stream_the_open_driver_and_all_that_goes_with_it() -> None:
    assert steps(rpm()) == [
        "the initramfs is kept in step with what follows",
        f"dnf module enable nvidia-driver:580-open, where repositories have that module ({MODULE_FILE})",
        f"dnf install nvidia-driver-cuda kmod-nvidia-open-dkms {PLUGIN} "
        f"kernel-devel-matched-{EL}|kernel-devel-{EL}|kernel-uek-devel-{EL}",
        f"{NOUVEAU_OFF} is written",
        f"{AT_BOOT} is written",
        "update-initramfs -u -k all",
        "systemctl enable nvidia-persistenced.service",
        "dnf versionlock add each package of the driver",
        "prove it by what rpm says, and modinfo of the module for the running kernel",
    ]
    assert steps(made()) == [], "once it is so, nothing is left to do"
    assert outcome(made(), "GM126", wants()) == "ok"


def test_a_bare_sles_gets_the_signed_module_and_builds_nothing() -> None:
    found = steps(rpm(system=SLES, kernel=SUSE))
    assert found[1:2] == [
        "zypper install nvidia-open-driver-G06-signed-cuda-kmp-default nvidia-compute-utils-G06 nvidia-persistenced"
    ]
    assert found[-2:] == [
        "zypper addlock each package of the driver",
        "prove it by what rpm says, and modinfo of the module for the running kernel",
    ]
    there = tuple(f"{name}=580.95.05-1" for name in found[1].split()[2:])
    locks = "".join(
        f"type: package\nmatch_type: glob\nsolvable_name: {name.partition('=')[0]}\n\n" for name in there
    )
    assert steps(made(*there, system=SLES, kernel=SUSE, files={ZYPP_LOCKS: locks})) == []
    assert "zypper addlock each package of the driver" in steps(made(*there, system=SLES, kernel=SUSE))


@pytest.mark.parametrize(
    ("system", "kernel", "branch", "device", "words"),
    [
        (ROCKY, EL, "580", P100, "nvidia-driver-cuda kmod-nvidia-latest-dkms"),
        (ROCKY, EL, "570", B200, "nvidia-fabric-manager|nvidia-fabricmanager nvlsm"),
        (ROCKY, EL, "580", B200, "nvidia-fabricmanager|nvidia-fabric-manager nvlsm"),
        (ROCKY, EL, "570", GB200, "nvidia-imex-570|nvidia-imex"),
        (TEN, EL, "580", H100, PLUGIN),
        (ORACLE, UEK, "580", H100, f"kernel-uek-devel-{UEK}"),
        (AL2023, AMAZON, "580", H100, f"|kernel6.12-devel-{AMAZON} kernel-modules-extra-{AMAZON}|"),
        (FEDORA, EL, "590", H100, f"dnf install nvidia-driver-cuda kmod-nvidia-open-dkms kernel-devel-matched-{EL}|kernel-devel-{EL}"),
        (LEAP, SUSE, "590", H100, "nvidia-open-driver-G07-signed-cuda-kmp-default nvidia-compute-utils-G07"),
    ],
)  # fmt: skip
def test_names_by_distribution(system: str, kernel: str, branch: str, device: int, words: str) -> None:
    wanted = wants(branch=branch)
    found = steps(rpm(system=system, kernel=kernel, device=device, wanted=wanted), wanted)
    assert any(words in text for text in found), found
    assert any("module enable" in text for text in found) == (system not in (FEDORA, LEAP))
    assert any(PLUGIN in text for text in found) == (system not in (FEDORA, LEAP)), "dnf 5 locks by itself"


@pytest.mark.parametrize(
    ("host", "wanted", "words"),
    [
        (rpm(files={MODULE_FILE: module_text("570-open").decode()}), {}, "nvidia-driver:570-open is enabled"),
        (rpm(files={MODULE_FILE: "[nvidia-driver]\nname=nvidia-driver\nstream=\nstate=disabled\n"}), {}, "nvidia-driver is disabled"),
        (made("nvidia-driver-cuda=570.195.03-1.el9"), {}, "driver.replace is false"),
        (rpm(files={"/usr/bin/nvidia-uninstall": file()}), {}, "came from NVIDIA's runfile"),
        (rpm(mokutil=(0, "SecureBoot enabled\n", "")), {}, "the key with which this host's DKMS signs"),
        (rpm(system=SLES, kernel=SUSE, device=P100), {}, "the table has no proprietary modules"),
        (rpm(system=TUMBLEWEED, kernel=SUSE), {}, "the table has no packages"),
        (rpm(system=SLES, kernel=SUSE, device=GB200), {}, "this bus calls for imex"),
        (rpm(), {"origin": "distribution"}, "the table has no packages"),
        (rpm(), {"install": False}, "driver.install is false"),
    ],
)  # fmt: skip
def test_held_back(host: Host, wanted: dict[str, Any], words: str) -> None:
    found = the(host, "GM126", wants(**wanted))
    assert found.change is None and words in found.refused, found
    assert found.remedy


def test_what_mend_does_not_is_a_line_to_type() -> None:
    assert (
        "dnf module enable nvidia-driver:580-open" in the(rpm(), "GM126", wants(origin="distribution")).remedy
    )
    found = the(rpm(system=SLES, kernel=SUSE, device=P100), "GM126", wants())
    assert "zypper install nvidia-driver-G06" in found.remedy


def test_another_stream_becomes_this_one_by_opt_in_and_the_same_is_not_written() -> None:
    other = rpm(files={MODULE_FILE: module_text("570-open").decode()})
    assert "nvidia-driver:580-open" in steps(other, wants(replace=True))[1]
    same = rpm(files={MODULE_FILE: module_text("580-open").decode()})
    assert not any("module enable" in text for text in steps(same))
    reset = rpm(files={MODULE_FILE: "[nvidia-driver]\nname=nvidia-driver\nstream=\nprofiles=\nstate=\n"})
    assert "module enable" in steps(reset)[1], "as `dnf module reset` leaves it"


def test_a_signed_module_asks_nothing_of_dkms() -> None:
    secure = rpm(system=SLES, kernel=SUSE, mokutil=(0, "SecureBoot enabled\n", ""))
    assert the(secure, "GM126", wants()).change is not None


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (LOCKED, True),
        (LOCKED.replace("kmod-nvidia-open-dkms", "kmod-nvidia"), False),
        ("", False),
        ('version = "1.0"\n[[packages]]\nname = "nvidia-driver-cuda"\n[[packages]]\nname = "kmod-nvidia-open-dkms"\n', True),
    ],
)  # fmt: skip
def test_what_counts_as_held(text: str, held: bool) -> None:
    asked = "dnf versionlock add each package of the driver" in steps(made(files={VERSIONLOCK: text}))
    assert asked is not held
    for name in ("nvidia-driver-cuda", "kmod-nvidia-open-dkms"):
        assert is_locked(name, text) or not held
    assert not is_locked("nvidia-driver", text), "a longer name is another package"


def test_a_driver_that_is_there_gets_what_holds_it() -> None:
    host = made(*WHOLE[:2], files={VERSIONLOCK: None})
    assert steps(host) == [
        f"dnf install {PLUGIN}",
        "systemctl enable nvidia-persistenced.service",
        "dnf versionlock add each package of the driver",
        "prove it by what rpm says, and modinfo of the module for the running kernel",
    ]
    assert steps(host, wants(hold=False)) == []


def test_a_lock_of_a_longer_name_is_not_of_the_shorter_one() -> None:
    assert is_lock_of("nvidia-imex", "nvidia-imex-0:580.95.05-1.*") and is_lock_of(
        "nvidia-imex", "nvidia-imex"
    )
    for pattern in ("nvidia-imex-570-0:570.211.01-1.*", "nvidia-imex-devel-0:580.95.05-1.*"):
        assert not is_lock_of("nvidia-imex", pattern) and not is_locked("nvidia-imex", pattern)


def test_firmware_of_the_kernel_is_not_held() -> None:
    """Fedora's linux-firmware.spec: nvidia-gpu-firmware requires linux-firmware-whence = VERSION-RELEASE. Locked, it keeps all of
    linux-firmware at its version."""
    assert not is_driver_package("nvidia-gpu-firmware")
    host = made(*WHOLE, "nvidia-gpu-firmware=20260916-5.fc44")
    assert "dnf versionlock add each package of the driver" not in steps(host)
    upgrade = [("upgrade", "nvidia-gpu-firmware", "20261001-1.fc44")]
    assert "it would upgrade nvidia-gpu-firmware" in driver_objection(upgrade, True)


def test_texts_of_dnf_and_zypp() -> None:
    assert parse_module(module_text("580-open").decode()) == ("enabled", "580-open")
    assert parse_module("[nvidia-driver]\nname=nvidia-driver\nstream=\nprofiles=\nstate=\n") == ("", "")
    assert parse_locks(
        "\ntype: package\nmatch_type: glob\ncase_sensitive: on\nsolvable_name: nvidia*\n\n"
    ) == ("nvidia*",)


def test_streams_of_a_module() -> None:
    """As RHEL 8 shows them (NVIDIA/yum-packaging-precompiled-kmod issue 52); dnf 5 has nothing to say where there is no module."""
    text = (
        "cuda-rhel8-x86_64\nName                 Stream                Profiles                Summary\n"
        "nvidia-driver        latest [e]            default [d], fm, ks, src  Nvidia driver for latest branch\n"
        "nvidia-driver        latest-dkms           default [d], fm, ks       Nvidia driver for latest-dkms branch\n"
        "nvidia-driver        open-dkms [d]         default [d], fm, ks, src  Nvidia driver for open-dkms branch\n\n"
        "Hint: [d]efault, [e]nabled, [x]disabled, [i]nstalled\n"
    )
    assert listed_streams("nvidia-driver", text) == ["latest", "latest-dkms", "open-dkms"]
    assert listed_streams("nvidia-driver", "") == []


KMP = "nvidia-open-driver-G06-signed-cuda-kmp-default"


@pytest.mark.parametrize(
    ("targets", "versions", "kept", "found"),
    [
        (["a", "b"], {"a": ["580.95.05-1.el9", "580.105.08-1.el9", "590.48.01-1.el9"], "b": ["580.95.05-1.el9", "590.48.01-1.el9"]},
         [], ["a=580.95.05-1.el9", "b=580.95.05-1.el9"]),
        (["a"], {"a": ["580.95.05-1", "580.105.08-1"]}, [(580, 95, 5)], ["a=580.95.05-1"]),
        (["a"], {"a": ["580.95.05-9", "580.95.05-10"]}, [], ["a=580.95.05-10"]),
        ([KMP, "u"], {KMP: ["580.95.05_k6.4.0_150600.21-1.1", "580.95.05_k6.4.0_150600.9-1.1"], "u": ["580.95.05-1", "580.105.08-1"]},
         [], [f"{KMP}=580.95.05_k6.4.0_150600.21-1.1", "u=580.95.05-1"]),
        (["a", "x|y"], {"a": ["580.95.05-1"], "x": ["570.211.01-1"], "y": ["580.95.05-1"]}, [], ["a=580.95.05-1", "y=580.95.05-1"]),
        ([PLUGIN], {PLUGIN: ["4.3.0-1.el9"]}, [(580, 95, 5)], [PLUGIN]),
        (["a", "nvlsm"], {"a": ["580.95.05-1"], "nvlsm": ["2025.06.11-1"]}, [], ["a=580.95.05-1", "nvlsm"]),
    ],
)  # fmt: skip
def test_one_version_is_asked_for(
    targets: list[str], versions: dict[str, list[str]], kept: list[tuple[int, ...]], found: list[str]
) -> None:
    assert at_one_version(targets, versions, 580, "", kept) == found


@pytest.mark.parametrize(
    ("versions", "exact", "kept", "words"),
    [
        ({"a": ["590.48.01-1"], "b": ["590.48.01-1"]}, "", [], "one version of branch 580"),
        ({"a": ["580.95.05-1"], "b": ["580.105.08-1"]}, "", [], "one version of branch 580"),
        ({"a": ["580.95.05-1"], "b": ["580.95.05-1"]}, "580.105.08", [], "all packages in 580.105.08"),
        ({"a": ["580.95.05-1"], "b": ["580.95.05-1"]}, "", [(580, 82, 7)], "one version of branch 580"),
        ({"a": ["580.95.05-1"]}, "", [], "no repository has b"),
    ],
)
def test_what_cannot_be_had_in_one_version(
    versions: dict[str, list[str]], exact: str, kept: list[tuple[int, ...]], words: str
) -> None:
    with pytest.raises(Unfit, match=words):
        at_one_version(["a", "b"], versions, 580, exact, kept)


def test_parts_of_the_kernel_that_runs_are_no_other_kernel() -> None:
    mine = "1:6.12.64-87.122.amzn2023"
    assert driver_objection([("install", "kernel6.12-modules-extra", mine)], False, AMAZON) == ""
    for change in (
        ("install", "kernel6.12", "1:6.12.70-90.1.amzn2023"),
        ("upgrade", "kernel6.12-modules-extra", mine),
    ):
        assert "which kernel boots" in driver_objection([change], False, AMAZON)
    assert "which kernel boots" in driver_objection([("install", "kernel-core", "5.14.0-427.13")], False, EL)
    matched = ("upgrade", "kernel-devel-matched", "5.14.0-427.13.1.el9_4")
    assert driver_objection([matched], False, EL) == ""
    assert "it would upgrade kernel-devel-matched" in driver_objection([matched], False, AMAZON)


def test_headers_of_one_kernel_go_without_those_of_another() -> None:
    gone = [("remove", "kernel-devel", "1:5.14.0-427.13.1.el9_4")]
    assert objection(gone, "remove", ["kernel-devel-5.14.0-427.13.1.el9_4"], driver=True) == ""
    assert "it would remove" in objection(gone, "remove", ["kernel-devel-5.14.0-503.el9"], driver=True)
