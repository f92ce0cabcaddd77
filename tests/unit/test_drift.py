"""What changes the driver under the host: reboots, kernels, automatic upgrades, holds."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.state.drift import Unattended, apt_settings, kernel_kind, kernel_number, locked
from tests.unit.build import Host, a_directory, container, findings, healthy, outcome, the, unread

UBUNTU = "550.163.01-0ubuntu0.24.04.1"
APT_ON = (
    'APT::Architecture "amd64";\nAcquire::http::Proxy "http://user:s3cr3t@proxy:3128";\n'
    'APT::Periodic::Update-Package-Lists "1";\nAPT::Periodic::Unattended-Upgrade "1";\n'
    'Unattended-Upgrade::Allowed-Origins:: "${distro_id}:${distro_codename}-security";\n'
)


def blacklist(*patterns: str) -> str:
    return APT_ON + "".join(f'Unattended-Upgrade::Package-Blacklist:: "{pattern}";\n' for pattern in patterns)


def host(*packages: str, apt: str = APT_ON, uu: bool = True, **more: Any) -> Host:
    rows = "".join(f"{row}\n" for row in packages) + ("ii \tunattended-upgrades\t2.9\n" if uu else "")
    return healthy().but(
        commands={"dpkg": (0, rows, ""), "apt-config": (0, apt, ""), **more.pop("commands", {})}, **more
    )


DRIVER = f"ii \tlibnvidia-compute-550\t{UBUNTU}"


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(host(DRIVER), "warn", id="on"),
        pytest.param(host(DRIVER, apt=APT_ON.replace('Upgrade "1"', 'Upgrade "0"')), "ok", id="off"),
        pytest.param(host(DRIVER, apt=APT_ON + 'APT::Periodic::Enable "0";\n'), "ok", id="periodic-off"),
        pytest.param(host(DRIVER, uu=False), "ok", id="not-installed"),
        pytest.param(host(), "ok", id="no-driver-packages"),
        pytest.param(host(DRIVER.replace("ii", "hi")), "ok", id="held"),
        pytest.param(host(DRIVER, apt=blacklist("nvidia-", "libnvidia-")), "ok", id="left-out"),
        pytest.param(host(DRIVER, apt=blacklist("nvidia-.*")), "warn", id="left-out-by-half"),
        pytest.param(host(DRIVER, apt=blacklist("compute-550")), "warn", id="matched-from-the-start"),
        pytest.param(host(DRIVER, apt=blacklist("(")), "warn", id="no-expression"),
        pytest.param(
            host(
                DRIVER, units={**(healthy().units or {}), "apt-daily-upgrade.timer": {"LoadState": "masked"}}
            ),
            "ok",
            id="timer-masked",
        ),
        pytest.param(host(DRIVER, commands={"apt-config": unread("timeout")}), "unknown", id="unread"),
    ],
)
def test_gm113_unattended_upgrades(found: Host, expected: str) -> None:
    assert outcome(found, "GM113") == expected
    assert "s3cr3t" not in str(found.answer())


def test_apt_settings() -> None:
    assert apt_settings(blacklist("nvidia-")) == Unattended(True, ("nvidia-",))
    assert apt_settings("") == Unattended(False)


def test_apt_names_are_the_same_in_any_case() -> None:
    """Captured of apt-config 2.6 with these names in a file of its own: it prints them as they were first written."""
    said = """APT::periodic "";
APT::periodic::unattended-upgrade "1";
unattended-upgrade "";
unattended-upgrade::package-blacklist "";
unattended-upgrade::package-blacklist:: "nvidia";
"""
    found = host(DRIVER, apt=said).state().drift.unattended
    assert found.value == Unattended(True, ("nvidia",))


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("# c\nnvidia-driver-3:550.54.14-1.el9.*\n!kernel-0:5.1*\n", ("nvidia-driver-3:550.54.14-1.el9.*",)),
        ('version = "1.0"\n\n[[packages]]\nname = "nvidia-driver"\n', ("nvidia-driver",)),
        ("", ()),
    ],
)
def test_versionlock(text: str, names: tuple[str, ...]) -> None:
    assert locked(text) == names


# --- kernels

KERNEL, NEXT = "6.8.0-60-generic", "6.8.0-101-generic"


def kernels(**modules: str | None) -> dict[str, Any]:
    """Installed kernels by release; a text is a line of its modules.dep."""
    files: dict[str, Any] = {}
    for release, line in modules.items():
        files[f"/lib/modules/{release}/kernel"] = a_directory()
        files[f"/lib/modules/{release}/modules.dep"] = f"kernel/fs/ext4/ext4.ko.zst:\n{line or ''}\n"
    return files


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ({KERNEL: "updates/dkms/nvidia.ko.zst:", NEXT: None}, "warn"),
        ({KERNEL: "updates/dkms/nvidia.ko.zst:", NEXT: "kernel/nvidia-550/nvidia.ko: kernel/a.ko"}, "ok"),
        ({KERNEL: "updates/dkms/nvidia-current.ko.xz:", NEXT: "updates/dkms/nvidia-uvm.ko:"}, "warn"),
        ({KERNEL: "extra/nvidia.ko:", "6.8.0-9-generic": None}, "ok"),
        ({KERNEL: "extra/nvidia.ko:", "6.8.0-101-aws": None}, "ok"),
        (
            {KERNEL: None, NEXT: None},
            "ok",
        ),  # the driver is not among the kernel's modules: a container, the driver's own
        ({}, "ok"),
    ],
)
def test_gm112_the_next_kernel(modules: dict[str, str | None], expected: str) -> None:
    assert outcome(healthy().but(files=kernels(**modules)), "GM112") == expected


@pytest.mark.parametrize(
    ("release", "number", "kind"),
    [
        ("6.8.0-60-generic", (6, 8, 0, 60), "generic"),
        ("5.14.0-427.13.1.el9_4.x86_64", (5, 14, 0, 427, 13, 1), "el.x"),
        ("6.12.43+deb13-amd64", (6, 12, 43), "deb.amd"),
        ("6.1.0-37-cloud-amd64", (6, 1, 0, 37), "cloud.amd"),
    ],
)
def test_kernel_releases(release: str, number: tuple[int, ...], kind: str) -> None:
    assert kernel_number(release) == number and kernel_kind(release) == kind


# --- reboots


def test_gm110_the_module_on_disk() -> None:
    found = the(healthy().but(commands={"modinfo": (0, "590.48.01\n", "")}), "GM110")
    assert found.status == "warn" and "590.48.01" in found.summary and found.risk == "reboot"


@pytest.mark.parametrize(
    ("packages", "expected"),
    [
        ((f"ii \tlibnvidia-compute-550\t{UBUNTU}",), "warn"),
        (("ii \tlibnvidia-compute-580\t580.159.04-0ubuntu1",), "ok"),
        (("ii \tlibnvidia-compute-580\t580.159.04-0ubuntu1", f"ii \tnvidia-driver-550\t{UBUNTU}"), "ok"),
        (("ii \tnvidia-settings\t510.47.03-0ubuntu4",), "ok"),
        (("ii \tlinux-modules-nvidia-550-generic\t6.8.0-60.63",), "ok"),
        (("ii \tnvidia-container-toolkit\t1.18.1-1",), "ok"),
        ((), "ok"),
    ],
)
def test_gm111_packages(packages: tuple[str, ...], expected: str) -> None:
    assert outcome(host(*packages, apt=""), "GM111") == expected


def test_gm111_names_the_runfile() -> None:
    found = the(host(DRIVER, apt="", files={"/usr/bin/nvidia-uninstall": ""}), "GM111")
    assert "runfile" in found.cause


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, "ok"),
        ("", "ok"),
        ("libc6\n", "ok"),
        ("linux-image-6.8.0-101-generic\nlinux-base\n", "warn"),
        ("nvidia-driver-550\n", "warn"),
    ],
)
def test_gm114_the_distribution_waits(names: str | None, expected: str) -> None:
    files = (
        {}
        if names is None
        else {"/run/reboot-required": "*** System restart required ***\n", "/run/reboot-required.pkgs": names}
    )
    assert outcome(healthy().but(files=files), "GM114") == expected


def test_gm114_unread_is_unknown() -> None:
    assert outcome(healthy().but(files={"/run/reboot-required": unread("denied")}), "GM114") == "unknown"


def test_a_pending_reboot_takes_away_what_would_make_it_worse() -> None:
    """ldconfig would make the new libraries count for everybody, under the old module."""
    pending = healthy().but(files={"/dev/nvidia-uvm": None}, commands={"modinfo": (0, "590.48.01\n", "")})
    found = the(pending, "GM105")
    assert found.change is None and "reboot is pending" in found.refused
    assert the(pending.but(commands={"modinfo": (0, "580.159.04\n", "")}), "GM105").change is not None


def test_a_pending_reboot_and_running_containers_hold_a_restart_of_docker() -> None:
    broken = healthy("26.1.5").but(commands={"modinfo": (0, "590.48.01\n", "")})
    broken = broken.but(
        files={
            "/etc/docker/daemon.json": '{"runtimes": {"nvidia": {"path": "/usr/bin/nvidia-container-runtime"}}}'
        }
    )
    found = the(broken.with_containers(container(gpus=False)), "GM404", {"restarts": "allow"})
    assert found.change is None and "reboot" in found.refused
    assert the(broken, "GM404", {"restarts": "allow"}).change is not None
    assert findings(broken, "GM101") == []
