"""GM101-GM105 and the driver's facts."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gpumend.rules.change import Action, MakeControlNodes, RefreshLinkerCache, RunModprobe
from gpumend.rules.driver.driver import unmet_cuda
from gpumend.state.driver import ldconfig_cache, proc_flavour, proc_version, uvm_major
from gpumend.text.version import Version, parse_version
from tests.unit.build import (
    Host,
    a_directory,
    absent,
    besides_its_age,
    capture,
    file,
    findings,
    fixture,
    h100,
    healthy,
    link,
    outcome,
    process,
    the,
    unread,
    verdict,
)

LIB = "/usr/local/nvidia/lib64"
DEBIAN_LIB = "/usr/lib/x86_64-linux-gnu"


def samples() -> list[Any]:
    """Every NVRM line of the collected samples, with the compiler's line that follows it and the number by eye:
    the one word of the line that is two or three numbers with dots."""
    lines = fixture("proc_driver_version_samples.txt").splitlines()
    found = []
    for number, line in enumerate(lines):
        if not line.startswith("NVRM version:"):
            continue
        follows = lines[number + 1] if number + 1 < len(lines) else ""
        text = line + "\n" + (follows + "\n" if follows.startswith("GCC") else "")
        words = [word for word in line.split() if re.fullmatch(r"\d+\.\d+(\.\d+)?", word)]
        flavour = "open" if " Open " in line else "proprietary"
        found.append(
            pytest.param(text, parse_version(words[0]), flavour, id=f"{words[0]}-{flavour}-line{number + 1}")
        )
    return found


def test_all_samples_are_here() -> None:
    assert len(samples()) == 17


@pytest.mark.parametrize(("text", "version", "flavour"), samples())
def test_proc_version(text: str, version: Version, flavour: str) -> None:
    assert proc_version(text) == version
    assert proc_flavour(text) == flavour


@pytest.mark.parametrize("text", ["", "GCC version:  gcc version 12.3.0 (Ubuntu)\n", "NVRM version: \n"])
def test_proc_version_takes_no_other_number(text: str) -> None:
    with pytest.raises(ValueError, match="no driver version"):
        proc_version(text)


def test_ldconfig_cache_of_the_h100() -> None:
    cache = ldconfig_cache(capture("h100/ldconfig.txt"))
    assert cache["libcuda.so.1"] == (f"{LIB}/libcuda.so.1", "/lib/libcuda.so.1")
    assert cache["libnvidia-ml.so.1"] == (f"{LIB}/libnvidia-ml.so.1", "/lib/libnvidia-ml.so.1")


def test_ldconfig_cache_leaves_32_bit_libraries_out() -> None:
    assert ldconfig_cache("\tlibcuda.so.1 (libc6) => /lib/i386-linux-gnu/libcuda.so.1\n") == {}
    assert ldconfig_cache("\tlibcuda.so.1 (libc6,AArch64) => /lib/libcuda.so.1\n") == {
        "libcuda.so.1": ("/lib/libcuda.so.1",)
    }


@pytest.mark.parametrize(
    ("text", "major"),
    [("195 nvidia\n195 nvidiactl\n238 nvidia-uvm\n", 238), ("Character devices:\n510 nvidia-uvm\n", 510)],
)
def test_uvm_major(text: str, major: int) -> None:
    assert uvm_major(text) == major


def test_uvm_major_without_uvm() -> None:
    with pytest.raises(ValueError, match="nvidia-uvm"):
        uvm_major("195 nvidia\n")


# --- the captured H100


def test_the_h100_as_captured() -> None:
    driver = h100().state().driver
    assert driver.loaded.value == (580, 159, 4)
    assert driver.flavour.value == "open"
    assert driver.userspace().value == (580, 159, 4)
    assert driver.userspace().source == f"{LIB}/libnvidia-ml.so.1"
    assert driver.module_on_disk.absent, "there is no modinfo"
    assert driver.char_links.value == (), "there is no /dev/char"
    assert driver.persistenced.absent and driver.fabricmanager.absent, "there is no systemd"
    assert driver.uvm_major.value == 238
    assert driver.modules.value == ("nvidia_uvm", "nvidia")
    assert {path: reading.value.rdev for path, reading in driver.nodes.items() if reading.value} == {
        "/dev/nvidia0": (195, 0),
        "/dev/nvidiactl": (195, 255),
        "/dev/nvidia-uvm": (238, 0),
        "/dev/nvidia-uvm-tools": (238, 1),
    }
    assert driver.nodes["/dev/nvidia-modeset"].absent


def test_the_only_finding_on_the_h100_is_the_missing_toolkit() -> None:
    assert [(found.code, str(found.status)) for found in besides_its_age(verdict(h100()).findings)] == [
        ("GM203", "fail")
    ]


# --- GM101: module and libraries


def with_library(host: Host, version: str, directory: str = LIB, cached: bool = True) -> Host:
    """The host with driver libraries of a version in one directory, and none besides."""
    files: dict[str, Any] = {
        path: None for path in host.files if re.search(r"/lib(cuda|nvidia-ml)\.so", path)
    }
    rows = ""
    for name in ("libcuda", "libnvidia-ml"):
        real = f"{directory}/{name}.so.{version}"
        files[real] = file("")
        files[f"{directory}/{name}.so.1"] = link(f"{name}.so.{version}", file(""), real)
        seen = directory.removeprefix("/usr") if directory == DEBIAN_LIB else directory
        rows += f"\t{name}.so.1 (libc6,x86-64) => {seen}/{name}.so.1\n"
    return host.but(
        files=files,
        commands={"ldconfig": (0, rows if cached else "\tlibc.so.6 (libc6,x86-64) => /lib/libc.so.6\n", "")},
    )


@pytest.mark.parametrize(
    ("library", "directory", "expected"),
    [
        pytest.param("580.159.04", LIB, "ok", id="same"),
        pytest.param("580.159.04", DEBIAN_LIB, "ok", id="same-merged-usr"),
        pytest.param("580.142", LIB, "fail", id="older-two-parts"),
        pytest.param("590.48.01", LIB, "fail", id="newer"),
        pytest.param("590.48.01", DEBIAN_LIB, "fail", id="newer-merged-usr"),
        pytest.param("580.159.03", LIB, "fail", id="last-part-only"),
    ],
)
def test_gm101_module_against_library(library: str, directory: str, expected: str) -> None:
    host = with_library(h100(), library, directory)
    assert outcome(host, "GM101") == expected
    if expected == "fail":
        found = the(host, "GM101")
        assert library in found.summary and "580.159.04" in found.summary
        assert found.change is None and found.risk == "reboot"


def test_gm101_the_library_that_the_linker_names_counts_not_the_newest_file() -> None:
    host = h100().but(files={f"{DEBIAN_LIB}/libnvidia-ml.so.590.48.01": ""})
    assert outcome(host, "GM101") == "ok"


def test_gm101_debian_alternatives() -> None:
    """Debian: the linker's name is a link through /etc/alternatives into nvidia/current."""
    real = f"{DEBIAN_LIB}/nvidia/current/libnvidia-ml.so.550.163.01"
    host = with_library(h100(), "580.159.04", DEBIAN_LIB).but(
        files={
            real: "",
            f"{DEBIAN_LIB}/libnvidia-ml.so.580.159.04": None,
            f"{DEBIAN_LIB}/libnvidia-ml.so.1": link("/etc/alternatives/x", file(""), real),
        }
    )
    assert host.state().driver.userspace().value == (550, 163, 1)
    assert outcome(host, "GM101") == "fail"


def test_gm101_shows_the_module_that_would_load_next() -> None:
    host = with_library(healthy(), "590.48.01").but(commands={"modinfo": (0, "590.48.01\n", "")})
    assert [str(found.text) for found in the(host, "GM101").evidence][-1] == "module on disk 590.48.01"


# --- GM102, GM103: not loaded, nouveau

NO_MODULE: dict[str, Any] = {
    "/proc/driver/nvidia/version": None,
    "/proc/driver/nvidia/gpus/0000:00:06.0/information": None,
    "/sys/module/nvidia/version": None,
    "/proc/modules": "ext4 1048576 1 - Live 0x0\n",
    "/sys/bus/pci/devices/0000:00:06.0/vendor": "0x10de\n",
    "/sys/bus/pci/devices/0000:00:06.0/class": "0x030200\n",
    "/dev/nvidia0": None,
    "/dev/nvidiactl": None,
    "/dev/nvidia-uvm": None,
    "/dev/nvidia-uvm-tools": None,
}
NOUVEAU = {
    **NO_MODULE,
    "/proc/modules": "nouveau 2727936 1 - Live 0x0\n",
    "/sys/bus/pci/drivers/nouveau/0000:00:06.0": a_directory(),
}


def unloaded(files: dict[str, Any] = NO_MODULE, **more: Any) -> Host:
    commands = {"nvidia-smi": None, "nvidia-smi-version": None, **more.pop("commands", {})}
    return healthy().but(files=files, commands=commands, **more)


@pytest.mark.parametrize(
    ("modinfo", "words"),
    [
        pytest.param((0, "580.159.04\n", ""), "modprobe nvidia", id="on-disk"),
        pytest.param(
            (1, "", "modinfo: ERROR: Module nvidia not found.\n"), "kernel headers", id="not-on-disk"
        ),
        pytest.param(None, "Look with `modinfo nvidia`", id="no-modinfo"),
    ],
)
def test_gm102_says_whether_a_module_is_there(modinfo: Any, words: str) -> None:
    found = the(unloaded(commands={"modinfo": modinfo}), "GM102")
    assert found.status == "fail" and words in found.remedy and found.change is None


def test_gm102_secure_boot() -> None:
    found = the(unloaded(commands={"mokutil": (0, "SecureBoot enabled\n", "")}), "GM102")
    assert any("must be signed" in item.text for item in found.evidence)


@pytest.mark.parametrize(
    ("said", "enabled"),
    [
        ("SecureBoot enabled\n", True),
        ("SecureBoot disabled\n", False),
        ("SecureBoot disabled\nPlatform is in Setup Mode\n", False),
        ("SecureBoot enabled\nSecureBoot validation is disabled in shim\n", False),
        ("Cannot determine secure boot state.\n", None),
        ("", None),
    ],
)
def test_secure_boot_as_mokutil_prints_it(said: str, enabled: bool | None) -> None:
    """mokutil src/mokutil.c sb_state_internal, 0.6.0 to 0.7.2. Each ends with status 0."""
    assert unloaded(commands={"mokutil": (0, said, "")}).state().host.secure_boot.value is enabled


def test_gm102_nothing_of_the_loaded_driver_is_judged_without_one() -> None:
    assert {found.code for found in verdict(unloaded()).findings} >= {"GM102"}
    assert not {"GM101", "GM104", "GM105"} & {found.code for found in verdict(unloaded()).findings}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({}, "ok", id="not-loaded"),
        pytest.param(
            {"/proc/modules": "nouveau 1 0 - Live\nnvidia 1 0 - Live\n"}, "ok", id="loaded-beside-nvidia"
        ),
        pytest.param(NOUVEAU, "fail", id="alone"),
        pytest.param(
            {**NOUVEAU, "/sys/bus/pci/drivers/nouveau/0000:00:06.0": None}, "ok", id="holds-nothing"
        ),
        pytest.param(
            {
                "/proc/modules": "nouveau 1 0 - Live\nnvidia 1 0 - Live\n",
                "/sys/bus/pci/drivers/nouveau/0000:00:07.0": a_directory(),
            },
            "fail",
            id="holds-one-of-two",
        ),
    ],
)
def test_gm103_nouveau(files: dict[str, Any], expected: str) -> None:
    assert outcome(healthy().but(files=files), "GM103") == expected


def test_a_gpu_without_driver_is_never_passed_over() -> None:
    """nouveau is loaded for another card, or for none: GM102 has it then."""
    host = unloaded({**NOUVEAU, "/sys/bus/pci/drivers/nouveau/0000:00:06.0": None})
    assert outcome(host, "GM102") == "fail"


def test_gm103_instead_of_gm102_and_says_that_the_blacklist_is_there_already() -> None:
    host = unloaded({**NOUVEAU, "/etc/modprobe.d/blacklist-nouveau.conf": "# x\n blacklist nouveau\n"})
    assert findings(host, "GM102") == []
    assert any("initramfs" in item.text for item in the(host, "GM103").evidence)


@pytest.mark.parametrize(
    ("text", "listed"),
    [
        ("blacklist nouveau\n", True),
        ("# blacklist nouveau\n", False),
        ("blacklist nouveaux\n", False),
        ("", False),
    ],
)
def test_the_blacklist(text: str, listed: bool) -> None:
    host = healthy().but(files={"/etc/modprobe.d/x.conf": text})
    assert host.state().driver.nouveau_blacklisted.value is listed


# --- GM104: libraries


def test_gm104_files_in_a_standard_directory_and_not_in_the_cache_are_mended_by_ldconfig() -> None:
    host = with_library(healthy(), "580.159.04", DEBIAN_LIB, cached=False)
    found = findings(host, "GM104")
    assert [finding.change.action for finding in found if finding.change] == [
        RefreshLinkerCache(),
        RefreshLinkerCache(),
    ]


def test_gm104_files_off_the_path_are_reported_only() -> None:
    host = with_library(healthy(), "580.159.04", LIB, cached=False)
    found = findings(host, "GM104")
    assert len(found) == 2 and all(finding.change is None and finding.refused for finding in found)


def test_gm104_nothing_installed() -> None:
    host = healthy().but(
        files={path: None for path in healthy().files if re.search(r"/lib(cuda|nvidia-ml)\.so", path)},
        commands={"ldconfig": (0, "\tlibc.so.6 (libc6,x86-64) => /lib/libc.so.6\n", "")},
    )
    found = findings(host, "GM104")
    assert [finding.summary.split()[0] for finding in found] == ["libnvidia-ml.so.1", "libcuda.so.1"]
    assert all("580.159.04" in finding.remedy and finding.change is None for finding in found)


# --- GM106: NVSwitch


def hgx(
    fabric: str = "Completed",
    status: str = "Success",
    runs: bool = True,
    package: str | None = None,
    **files: Any,
) -> Host:
    """An HGX system: NVSwitches on the bus, GPUs that say what their fabric is, perhaps a fabric manager."""
    base = "/sys/bus/pci/devices/0000:85:00.0"
    smi = fixture("h100/smi_q.txt")
    told = re.sub(
        r"(?m)^([ \t]+Fabric\n[ \t]+State[ \t]*:).*\n([ \t]+Status[ \t]*:).*$",
        rf"\1 {fabric}\n\2 {status}",
        smi,
    )
    assert f"State: {fabric}\n" in re.sub(r"(State)\s*:", r"\1:", told)
    host = healthy().but(
        files={f"{base}/vendor": "0x10de\n", f"{base}/class": "0x068000\n", **files},
        commands={"nvidia-smi-query": (0, told, "")},
    )
    if runs:
        host = host.but(processes=(*host.processes, process("/usr/bin/nv-fabricmanager", "-c", "/x.cfg")))
    if package:
        host = host.but(commands={"dpkg": (0, f"ii \tnvidia-fabricmanager-580\t{package}\n", "")})
    return host


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(healthy(), "ok", id="no-nvswitch"),
        pytest.param(hgx(), "ok", id="registered"),
        pytest.param(hgx("N/A", "N/A"), "ok", id="a100-which-has-no-such-state"),
        pytest.param(hgx(runs=False), "fail", id="no-fabric-manager"),
        pytest.param(hgx("In Progress", "N/A"), "fail", id="not-yet"),
        pytest.param(hgx("Completed", "Insufficient Resources"), "fail", id="not-all-links"),
        pytest.param(hgx("Not Started", "N/A", False, **{"/sys/bus/pci/devices/0000:85:00.0/class": "0x030200"}), "fail", id="by-nvidia-smi-alone"),
        pytest.param(hgx(runs=False, **{"/proc/driver/nvidia/params": "NvLinkDisable: 1\n"}), "ok", id="without-nvlink"),
        pytest.param(hgx(runs=False, **{"/proc/driver/nvidia/params": "NvLinkDisable: 0\n"}), "fail", id="with-nvlink"),
        pytest.param(hgx(runs=False, **{"/sys/bus/pci/devices/0000:85:00.0/class": unread("failed")}), "unknown", id="bus-unread"),
    ],
)  # fmt: skip
def test_gm106(host: Host, expected: str) -> None:
    assert outcome(host, "GM106") == expected


@pytest.mark.parametrize(
    ("package", "cause", "remedy"),
    [
        (None, "not installed", "in the driver's own version, 580.159.04"),
        ("580.95.05-1", "the package is 580.95.05, the driver 580.159.04", "nvidia-fabricmanager-580 in version 580.159.04"),
        ("580.159.04-0ubuntu0.24.04.1", "installed and does not run", "systemctl enable --now"),
    ],
)  # fmt: skip
def test_gm106_says_why_none_runs(package: str | None, cause: str, remedy: str) -> None:
    found = the(hgx(runs=False, package=package), "GM106")
    assert cause in found.cause and remedy in found.remedy and found.change is None


def test_gm106_does_not_call_it_missing_where_no_package_could_be_read() -> None:
    found = the(hgx(runs=False).but(commands={"dpkg": unread("timeout")}), "GM106")
    assert found.status == "fail" and "is not known" in found.cause and "not installed" not in found.cause


def test_the_h100s_own_answer_has_no_fabric() -> None:
    """Captured: a GPU of an HGX board that a virtual machine has alone, with NvLinkDisable: 1."""
    host = healthy().but(commands={"nvidia-smi-query": (0, fixture("h100/smi_q.txt"), "")})
    details = host.state().gpus.details.need()
    assert [gpu.fabric for gpu in details.gpus] == [None]
    assert hgx("In Progress", "N/A").state().gpus.details.need().gpus[0].fabric == ("In Progress", "N/A")


# --- GM105: device nodes


@pytest.mark.parametrize(
    ("gone", "expected"),
    [
        pytest.param((), "ok", id="all-here"),
        pytest.param(("/dev/nvidia-uvm",), "fail", id="no-uvm"),
        pytest.param(("/dev/nvidiactl",), "fail", id="no-ctl"),
        pytest.param(("/dev/nvidia0",), "fail", id="no-gpu"),
        pytest.param(("/dev/nvidia-uvm-tools",), "ok", id="no-uvm-tools"),
    ],
)
def test_gm105_nodes(gone: tuple[str, ...], expected: str) -> None:
    assert outcome(healthy().but(files=dict.fromkeys(gone)), "GM105") == expected


@pytest.mark.parametrize(
    ("toolkit", "modprobe", "gone", "action"),
    [
        ("1.13.5", False, "/dev/nvidia-uvm", None),
        ("1.14.0", False, "/dev/nvidia-uvm", MakeControlNodes()),
        ("1.18.1", False, "/dev/nvidia-uvm", MakeControlNodes()),
        ("1.18.1", False, "/dev/nvidia0", None),
        ("1.18.1", True, "/dev/nvidia0", RunModprobe()),
        ("1.13.5", True, "/dev/nvidia-uvm", RunModprobe()),
    ],
)
def test_gm105_is_mended_by_what_can(toolkit: str, modprobe: bool, gone: str, action: Action | None) -> None:
    """nvidia-ctk makes control nodes from 1.14 on, never a GPU's own; nvidia-modprobe makes both."""
    host = healthy(toolkit=toolkit).but(
        files={gone: None}, programs={"nvidia-modprobe": "/usr/bin/nvidia-modprobe" if modprobe else None}
    )
    found = the(host, "GM105")
    assert (found.change.action if found.change else None) == action
    assert bool(found.refused) is (action is None)


def test_gm105_a_dev_that_could_not_be_listed_is_unknown() -> None:
    host = healthy().but(globs={"/dev/nvidia[0-9]*": unread("denied")})
    assert outcome(host, "GM105") == "unknown"


def test_gm105_without_toolkit_the_node_is_made_by_hand() -> None:
    found = the(h100().but(files={"/dev/nvidia-uvm": None}), "GM105")
    assert found.change is None and "nvidia-modprobe" in found.remedy


# --- WSL2 and Tegra have no driver of their own in the kernel


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(
            h100().but(
                files={**NO_MODULE, "/dev/dxg": file("")},
                system={"kernel": "5.15.153.1-microsoft-standard-WSL2"},
            ),
            id="wsl2",
        ),
        pytest.param(h100().but(files={**NO_MODULE, "/etc/nv_tegra_release": "# R36\n"}), id="tegra"),
    ],
)
def test_no_driver_finding_on_wsl2_and_tegra(host: Host) -> None:
    assert not [found for found in verdict(host).findings if found.code.startswith("GM1")]


def test_a_microsoft_kernel_without_dxg_is_not_wsl2() -> None:
    assert not h100().but(system={"kernel": "6.6.0-microsoft"}).state().host.wsl2


# --- unread


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/proc/driver/nvidia/version", "GM101"),
        ("/proc/driver/nvidia/version", "GM102"),
        ("/proc/driver/nvidia/version", "GM104"),
        ("/proc/driver/nvidia/version", "GM105"),
        ("/proc/modules", "GM103"),
    ],
)
@pytest.mark.parametrize("status", ["denied", "timeout", "failed"])
def test_an_unread_file_is_unknown(path: str, code: str, status: str) -> None:
    assert outcome(healthy().but(files={path: unread(status)}), code) == "unknown"


def test_an_unread_linker_cache_is_unknown() -> None:
    assert outcome(healthy().but(commands={"ldconfig": unread("timeout")}), "GM104") == "unknown"
    assert (
        outcome(healthy().but(commands={"ldconfig": (1, "", "ldconfig: no cache\n")}), "GM104") == "unknown"
    )


def test_libraries_in_a_directory_that_could_not_be_listed_are_unknown() -> None:
    host = healthy().but(globs={f"{LIB}/libnvidia-ml.so.*": unread("denied")})
    assert outcome(host, "GM101") == "unknown"


def test_a_missing_directory_of_libraries_is_knowledge() -> None:
    host = healthy().but(globs={"/usr/lib64/libcuda.so.*": {**absent(), "paths": []}})
    assert host.state().driver.libraries.ok


# --- NVIDIA_REQUIRE_CUDA: what is surely unmet by a driver that serves CUDA 12.4


@pytest.mark.parametrize(
    ("expression", "unmet"),
    [
        ("", None),
        ("driver>=470", None),
        ("cuda>=12.4", None),
        ("cuda>=12.0", None),
        ("cuda>=9", None),
        ("cuda>=12.8", (12, 8)),
        ("cuda>=13", (13,)),
        ("cuda>=12.8 cuda>=12.6", (12, 6)),
        ("cuda>=12.8 cuda>=12.1", None),
        # an image's own: one alternative of the list suffices
        ("cuda>=12.8 brand=tesla,driver>=470,driver<471", (12, 8)),
        ("cuda>=12.8 brand=tesla,driver>=470,driver<471 brand=tesla,driver>=550,driver<551", None),
        ("cuda>=12.8,driver>=550", (12, 8)),
    ],
)
def test_unmet_cuda(expression: str, unmet: Version | None) -> None:
    assert unmet_cuda(expression, (12, 4), (550, 54, 15)) == unmet
