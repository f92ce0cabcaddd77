"""`gpumend mend --reboot` on booted nodes that reboot by themselves: who is rebooted, what holds it back, and what is proven."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes import images
from tests.nodes.apt import serve
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.drive import ROOT, Target, carry_out, planned, result_of
from tests.nodes.driver_packages import BRANCH, INITRAMFS, debs, plug_in
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

pytestmark = pytest.mark.exhaustive  # a reboot, and a run over SSH before and after it
SECONDS = 240.0
WANTED = {
    "driver": {"branch": "580", "install": True, "origin": "nvidia"},
    "repositories": {"cuda": {"uri": "file:/srv/repository"}},
}
BOOT_ID = "/proc/sys/kernel/random/boot_id"
RUN = "20261129T000000Z-4eb0"
NEXT_KERNEL = "/lib/modules/99.1-fc-v595/kernel"


def with_a_driver(node: Node) -> Node:
    """The driver is installed, and waits for the next boot."""
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    node.write("/usr/sbin/update-initramfs", INITRAMFS, 0o755)
    plug_in(node)
    serve(node, *debs())
    # The repository is a directory here: who signs it is another test's.
    made = planned(node, Component.DRIVER_PACKAGES, RUN, WANTED)
    assert result_of(carry_out(node, made))["status"] == "changed"
    return node


@pytest.fixture
def node(boot: Boot) -> Iterator[Node]:
    yield with_a_driver(boot(SUITE, None))


def gpumend(
    lab: Lab, directory: Path, *words: str, nodes: tuple[Node, ...]
) -> tuple[int, dict[str, Any], str]:
    """(exit status, report, what it said) of `gpumend mend --reboot` over these nodes."""
    hosts, report = directory / "hosts.toml", directory / "report.json"
    wanted = {key: value for key, value in WANTED.items() if key == "driver"}
    hosts.write_text(
        f'[defaults]\nuser = "root"\nkey = "{lab.key}"\nknown_hosts = "{lab.known_hosts}"\ngpumend = {{ restart_watch = 0 }}\n'
        + "".join(Target(node, wanted=wanted).toml() for node in nodes)
    )
    report.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "gpumend.cli.main", "mend", "--yes", "--reboot", "--hosts", str(hosts), "--report", str(report), *words],
        cwd=directory, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    return (
        done.returncode,
        json.loads(report.read_text()) if report.exists() else {},
        done.stdout + done.stderr,
    )


def boot_id(node: Node) -> str:
    return node.read(BOOT_ID).decode().strip()


def test_a_host_that_has_to_is_rebooted_proven_and_not_rebooted_again(
    node: Node, lab: Lab, tmp_path: Path
) -> None:
    before, log = boot_id(node), tmp_path / "log"
    around = ("--before", f"echo before >>{log}", "--after", f"echo after $GPUMEND_STATUS >>{log}")
    with node.reboots_by_itself() as boots:
        _, report, said = gpumend(lab, tmp_path, *around, nodes=(node,))
    host = report["hosts"][node.name]
    assert host["rebooted"]["status"] == "changed" and "proven" in host["rebooted"]["detail"], said
    assert len(boots) == 1 and boot_id(node) != before
    assert host["facts"]["driver"] == BRANCH and "reboot" not in host
    assert not {"GM102", "GM126", "GM127"} & {found["code"] for found in host["findings"]}
    assert [line.split()[0] for line in log.read_text().splitlines()] == ["before", "after"]
    runs = node.run(["ls", f"/var/lib/gpumend/runs/{report['run']}"]).stdout.split()
    assert "host.rebooted" in runs
    after = boot_id(node)
    with node.reboots_by_itself() as boots:
        _, report, said = gpumend(lab, tmp_path, nodes=(node,))
    assert "rebooted" not in report["hosts"][node.name] and boots == [] and boot_id(node) == after, said


@pytest.mark.parametrize(
    "what", ["a container runs", "somebody has the GPU open", "the next kernel has no module"]
)
def test_what_holds_a_reboot_back_leaves_the_host_as_it_is(
    node: Node, lab: Lab, tmp_path: Path, what: str
) -> None:
    status, words = "pending", "it would stop"
    if what == "a container runs":
        images.import_image(node)
        node.run(["docker", "run", "-d", "--name", "job", images.BASE, "sleep", "100000"])
    elif what == "somebody has the GPU open":
        node.sh("mknod -m 666 /dev/nvidia0 c 1 3")
        node.run(
            [
                "systemd-run",
                "--quiet",
                "--unit=job",
                "sh",
                "-c",
                "exec 3</dev/nvidia0; touch /run/job; exec sleep 1000",
            ]
        )
        wait_for("the job has it open", lambda: node.exists("/run/job"), 30)
    else:
        node.run(["mkdir", "-p", NEXT_KERNEL])
        status, words = "refused", "99.1-fc-v595, which boots next, has no nvidia module"
    before = boot_id(node)
    with node.reboots_by_itself() as boots:
        rc, report, said = gpumend(lab, tmp_path, nodes=(node,))
    told = report["hosts"][node.name]["rebooted"]
    assert told["status"] == status and words in told["detail"], said
    assert rc == (4 if status == "refused" else 3) and boots == [] and boot_id(node) == before


def test_the_first_host_that_is_not_as_it_has_to_be_ends_the_run(
    boot: Boot, lab: Lab, tmp_path: Path
) -> None:
    first, second = (with_a_driver(boot(SUITE, None)) for _ in range(2))
    before = boot_id(second)
    first.run(
        ["systemctl", "disable", "--quiet", "gpumend-standin-driver.service"]
    )  # the module does not load
    with first.reboots_by_itself() as boots, second.reboots_by_itself() as others:
        rc, report, said = gpumend(lab, tmp_path, nodes=(first, second))
    told = report["hosts"][first.name]["rebooted"]
    assert told["status"] == "broken" and "a reboot is still required" in told["detail"], said
    assert (
        rc == 5
        and report["stopped"]["left"] == [second.name]
        and "rebooted" not in report["hosts"][second.name]
    )
    assert len(boots) == 1 and others == [] and boot_id(second) == before


def test_a_host_that_does_not_come_back_in_time_is_told(node: Node, lab: Lab, tmp_path: Path) -> None:
    rc, report, said = gpumend(lab, tmp_path, "--reboot-wait", "15", nodes=(node,))  # nobody starts it again
    told = report["hosts"][node.name]["rebooted"]
    assert (rc, told["status"]) == (5, "lost") and "did not come back in time" in told["detail"], said
