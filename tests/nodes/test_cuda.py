"""cuda-compat on booted nodes: real apt and dpkg, a repository of the test's own, stand-in libraries with the real note."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gpumend.rules.finding import Component
from tests.nodes import apt, cuda, gpu
from tests.nodes.apt import AptLock, Deb, serve
from tests.nodes.conftest import Boot
from tests.nodes.cuda import DIRECTORY, PACKAGE, CompatDeb, compat, cu_init
from tests.nodes.drive import Target, audit, carry_out, mend, planned, result_of, start
from tests.nodes.faults import Before, fault, healed
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

DRIVER = "570.195.03"
NEXT = "580.159.04"
UNIT = "/etc/systemd/system/jobs.service"
DROPIN = f"{UNIT}.d/90-gpumend-cuda-compat.conf"
SEEN = "/run/jobs.seen"
WATCHED = ("/etc", "/usr/local", "/var/lib/gpumend", "/var/lib/dpkg/info")


def installed(node: Node) -> bool:
    return apt.installed(node, PACKAGE)


def wants(**more: Any) -> dict[str, Any]:
    return {"cuda": {"wanted": ["13.0"], "services": ["jobs.service"], **more}}


def ready(boot: Boot, *debs: Deb, **more: Any) -> Node:
    """A node with driver 570, a service that will look for CUDA, and these packages to be had."""
    node = boot("trixie", "healthy", driver=DRIVER)
    command = f'python3 -c "{cuda.CU_INIT}" >{SEEN}'
    node.write("/usr/local/bin/jobs", f"#!/bin/sh\n{command}\n", 0o755)
    node.write(
        UNIT,
        "[Unit]\nDescription=jobs\n[Service]\nType=oneshot\nEnvironment=TOKEN=s3cr3t\nExecStart=/usr/local/bin/jobs\n",
    )
    node.run(["systemctl", "daemon-reload"])
    serve(node, *(debs or (compat(),)), **more)
    return node


def job(node: Node) -> str:
    """What the service sees of CUDA when it is started now."""
    node.run(["systemctl", "restart", "jobs.service"])
    return node.read(SEEN).decode().strip()


def test_installed_activated_proven_and_a_second_run_changes_nothing(boot: Boot, lab: Lab) -> None:
    node = ready(boot)
    target = Target(node, wanted=wants())
    assert cu_init(node) == "0 0 12080" and job(node) == "0 0 12080"

    tree = node.tree(*WATCHED)
    found = audit(lab, target)
    assert found.rc == 3 and found.codes(node) == ["GM602"], found.said
    assert node.tree(*WATCHED) == tree, "an audit writes nothing"
    assert found.sessions[node.name] == 1
    assert "s3cr3t" not in str(found.report)

    done = mend(lab, target)
    assert done.rc == 0 and done.codes(node) == [], done.said
    change = done.change(node, Component.CUDA)
    assert change["status"] == "changed"
    assert (
        "without: cuInit 0, CUDA 12.8" in change["detail"]
        and f"with {DIRECTORY}: cuInit 0, CUDA 13.0" in change["detail"]
    )
    assert installed(node) and job(node) == "0 0 13000"
    assert cu_init(node) == "0 0 12080", "nobody but the service has it"
    assert done.sessions[node.name] <= 3

    tree = node.tree(*WATCHED)
    again = mend(lab, target)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    assert again.sessions[node.name] == 1
    assert node.tree(*WATCHED) == tree


def test_lists_that_were_never_fetched_are(boot: Boot, lab: Lab) -> None:
    node = ready(boot, update=False)
    done = mend(lab, Target(node, wanted=wants()))
    assert done.rc == 0 and installed(node), done.said


@pytest.mark.parametrize(
    ("debs", "words"),
    [
        pytest.param(
            (compat(depends="libnvidia-compute-580"), Deb("libnvidia-compute-580")),
            "libnvidia-compute-580",
            id="a-driver-library",
        ),
        pytest.param(
            (compat(depends="cuda-drivers-580"), Deb("cuda-drivers-580")), "cuda-drivers-580", id="the-driver"
        ),
        pytest.param((compat(conflicts="cron"),), "remove cron", id="a-removal"),
        pytest.param((Deb("other"),), "Unable to locate package", id="not-to-be-had"),
    ],
)
def test_refused_before_anything_is_done(boot: Boot, lab: Lab, debs: tuple[Deb, ...], words: str) -> None:
    node = ready(boot, *debs)
    before = node.run(["dpkg-query", "-W"]).stdout
    tree = node.tree(*WATCHED)
    done = mend(lab, Target(node, wanted=wants()))
    assert done.rc == 4, done.said
    change = done.change(node, Component.CUDA)
    assert change["status"] == "refused" and words in change["detail"], change
    assert node.run(["dpkg-query", "-W"]).stdout == before
    assert node.tree(*WATCHED) == tree and job(node) == "0 0 12080"


@pytest.mark.parametrize(
    ("deb", "words"),
    [
        pytest.param(
            compat(branches=(535, 550)),
            "is not for driver 570.195.03: its note lists the branches 535, 550",
            id="note",
        ),
        pytest.param(CompatDeb(), f"there is no libcuda in {DIRECTORY}", id="no-library"),
        pytest.param(
            CompatDeb(library="570.26", version="570.26-1"), "is not newer than the loaded driver", id="older"
        ),
    ],
)
def test_a_package_that_does_not_fit_is_removed_again(boot: Boot, lab: Lab, deb: Deb, words: str) -> None:
    node = ready(boot, deb)
    packages = node.run(["dpkg-query", "-W"]).stdout
    with fault("proof that fails"):
        before = Before.of(node, UNIT, DROPIN)
        done = mend(lab, Target(node, wanted=wants()))
        assert done.rc == 4, done.said
        change = done.change(node, Component.CUDA)
        assert change["status"] == "put_back" and words in change["detail"], change
        assert not installed(node) and node.run(["dpkg-query", "-W"]).stdout == packages
        assert not node.exists(f"{UNIT}.d") and not node.exists(DIRECTORY) and job(node) == "0 0 12080"
        before.check()
        before.check_ran(done)


def test_rollback_takes_the_package_and_the_drop_in_away(boot: Boot, lab: Lab) -> None:
    node = ready(boot)
    data = planned(node, Component.CUDA, "20261123T000000Z-cccc", wants())
    assert result_of(carry_out(node, data))["status"] == "changed"
    assert installed(node) and job(node) == "0 0 13000"
    undo = {"verb": "rollback", "run": "20261123T000000Z-cccc", "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert not installed(node) and not node.exists(f"{UNIT}.d") and job(node) == "0 0 12080"


def test_a_run_that_was_killed_after_its_package_came_is_put_back(boot: Boot, lab: Lab) -> None:
    node = ready(boot)
    run = "20261123T000000Z-dead"
    data = planned(node, Component.CUDA, run, wants())
    with fault("kill -9"):
        before = Before.of(node, UNIT, DROPIN)
        killed = carry_out(
            node,
            data,
            extra="def check_note(*_): os.kill(os.getpid(), signal.SIGKILL)",  # the next step; not part of the shipped program
        )
        assert killed.returncode != 0 and installed(node) and not node.exists(DROPIN)
        before.check()
        journal = f"/var/lib/gpumend/runs/{run}/{Component.CUDA}/journal.json"
        recover = {"verb": "recover", "journals": [journal], "run": run, "who": "test", "restarts": "idle"}
        assert result_of(carry_out(node, recover))["status"] == "changed"
        assert not installed(node) and not node.exists(f"{UNIT}.d") and job(node) == "0 0 12080"
        done = before.check_next(lab, Target(node, wanted=wants()))
        assert done.rc == 0 and job(node) == "0 0 13000", done.said


@pytest.mark.parametrize("activate", ["service", "host"])
def test_what_the_driver_has_outgrown_is_taken_away(boot: Boot, lab: Lab, activate: str) -> None:
    node = ready(boot)
    target = Target(node, wanted=wants(activate=activate))
    done = mend(lab, target)
    assert done.rc == 0 and installed(node), done.said
    if activate == "host":
        assert cu_init(node) == "0 0 13000"

    gpu.set_driver(node, NEXT)  # as after an upgrade and a reboot
    node.sh("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    assert job(node) == "803 0 13000", "the fault must be seen first"
    found = audit(lab, target)
    assert found.rc == 3 and {"GM603", "GM604"} <= set(found.codes(node)), found.said
    assert "803" in found.finding(node, "GM603")["summary"]

    done = mend(lab, target)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert not installed(node) and not node.exists(DROPIN)
    assert job(node) == "0 0 13000" and cu_init(node) == "0 0 13000", "by the driver itself"
    assert mend(lab, target).statuses(node) == {}


def test_a_compat_directory_that_somebody_put_on_everybodys_path_is_taken_off(boot: Boot, lab: Lab) -> None:
    """The captured H100: compat of a toolkit image, older than the driver. Nobody asked gpumend to manage CUDA."""
    node = ready(boot)
    node.run(["apt-get", "install", "-qq", "-y", PACKAGE])
    gpu.set_driver(node, NEXT)
    node.sh("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml")
    node.write("/etc/ld.so.conf.d/000_admin.conf", f"# ours\n{DIRECTORY}\n/opt/lib\n")
    node.run(["ldconfig"])
    assert cu_init(node).startswith("803 ")
    done = mend(lab, Target(node))
    assert "GM604" in done.codes(node, "note") and done.codes(node) == [], done.said
    assert node.read("/etc/ld.so.conf.d/000_admin.conf") == b"# ours\n/opt/lib\n"
    assert cu_init(node) == "0 0 13000" and installed(node), "what somebody installed is left to them"


def test_apts_lock_is_waited_for_and_said(boot: Boot, lab: Lab) -> None:
    node = ready(boot)
    with AptLock(node) as lock:
        running = start(lab, Target(node, wanted=wants()))

        def waiting() -> bool:
            """Who holds gpumend's own lock sleeps (proc(5), wchan), which it does between two looks at apt's and nowhere before."""
            where = node.run(
                ["sh", "-c", "cat /proc/$(sed 's/.*pid //' /run/gpumend.lock)/wchan"], check=False
            )
            return "nanosleep" in where.stdout

        wait_for("the transaction waits for apt's lock", waiting, 60.0)
        assert not installed(node)
        lock.release()
        done = running.finish()
    assert done.rc == 0 and installed(node), done.said
    detail = done.change(node, Component.CUDA)["detail"]
    assert re.search(r"waited \d+ s for apt's lock, which process \d+ \(python3[\d.]*\) held", detail), detail


def test_apts_lock_that_stays_is_reported_and_nothing_done(boot: Boot, lab: Lab) -> None:
    node = ready(boot)
    target = Target(node, wanted=wants(lock_wait=1))
    with healed("another tool at work", lab, target):
        tree = node.tree(*WATCHED)
        with AptLock(node):
            done = mend(lab, target)
        assert done.rc == 4, done.said
        change = done.change(node, Component.CUDA)
        assert change["status"] == "refused"
        assert re.search(
            r"apt's lock is held by process \d+ \(python3[\d.]*\); waited 1 s for it", change["detail"]
        ), change
        assert not installed(node) and node.tree(*WATCHED) == tree


def test_a_package_that_could_not_be_had_again_is_kept_or_not_removed(boot: Boot, lab: Lab) -> None:
    """Seen on a real machine: no repository had it, a later proof failed, and the run ended in exit 5."""
    node = ready(boot)
    target = Target(node, wanted=wants())
    assert mend(lab, target).rc == 0 and installed(node)
    gpu.set_driver(node, NEXT)
    node.sh("nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml; apt-get clean")
    offered = planned(node, Component.CUDA, "20261123T000000Z-cccc", wants())
    serve(node, Deb("other"))
    found = audit(lab, target)
    assert "neither a repository nor apt's cache" in found.finding(node, "GM604")["refused"], found.said
    refused = result_of(carry_out(node, offered))
    assert refused["status"] == "refused" and "no way back" in refused["detail"], refused
    done = mend(lab, target)
    assert done.rc == 0 and installed(node) and job(node) == "0 0 13000", "off the path, and left there"

    archive = f"{PACKAGE}_{cuda.LIBRARY}-0ubuntu1_all.deb"
    node.write(f"/var/cache/apt/archives/{archive}", apt.build(compat()))
    data = planned(node, Component.CUDA, "20261123T000000Z-dddd", wants())
    assert result_of(carry_out(node, data))["status"] == "changed" and not installed(node)
    node.sh("apt-get clean")
    undo = {"verb": "rollback", "run": "20261123T000000Z-dddd", "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert installed(node) and node.exists(DIRECTORY)

    serve(node, compat())
    data = planned(node, Component.CUDA, "20261123T000000Z-eeee", wants())
    assert result_of(carry_out(node, data))["status"] == "changed" and not installed(node)
    serve(node, Deb("other"))
    undo["run"] = "20261123T000000Z-eeee"
    assert result_of(carry_out(node, undo))["status"] == "changed" and installed(node), (
        "kept from the repository"
    )
