"""What a user passes off as a daemon or a tool of the host's, tried on a whole audit and a whole mend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from gpumend.run.programs import probe_program
from gpumend.state.host_state import parse
from gpumend.state.snapshot import Snapshot
from tests.hostile.attacks import UNGUARDED, add, as_user, counted, probed, program
from tests.nodes.conftest import Boot
from tests.nodes.drive import audit, mend
from tests.nodes.lab import Lab, Node

USER = "nosudo"
TEMPLATE = "/var/lib/rancher/k3s/agent/etc/containerd/config.toml.tmpl"


BELIEVING = add("impostor = lambda name, entry: None")
TRUSTING = add("distrust = lambda path: None")


def answer(node: Node) -> Snapshot:
    return Snapshot.from_output(node.run(["python3", "-I", "-S", "-B", "-"], input=probe_program()).stdout)


@contextmanager
def false_dockerd(node: Node, arguments: str) -> Iterator[int]:
    """The user runs su, which is root's and setuid, under the name dockerd; it waits for a password."""
    script = f"(sleep 300 | bash -c 'exec -a dockerd su root -- {arguments}') >/dev/null 2>&1 & echo $!"
    shell = as_user(node, script).stdout.strip()
    deadline = time.monotonic() + 10
    found = ""
    while not found and time.monotonic() < deadline:
        rows = node.run(["ps", "-eo", "pid=,euid=,args="]).stdout.splitlines()
        found = next((row.split()[0] for row in rows if row.split()[1:4] == ["0", "dockerd", "root"]), "")
    assert found, node.run(["ps", "-eo", "pid,euid,ruid,args"]).stdout
    yield int(found)
    node.run(["kill", found], check=False)
    node.run(["pkill", "-P", shell], check=False)


@counted("a user", "su under the name dockerd, and a file that is not Docker's")
def test_a_false_dockerd_is_told_and_its_file_is_not_written(lab: Lab, boot: Boot) -> None:
    """`exec -a dockerd su root -- --config-file=PATH`: Docker's JSON came to lie in k3s' template for containerd."""
    node = boot("trixie", "healthy")
    node.sh('mkdir -p "$(dirname "$1")"', TEMPLATE)
    with false_dockerd(node, f"--config-file={TEMPLATE} --data-root=/root") as pid:
        node.restart("docker")  # from now on the false one comes first in /proc
        if UNGUARDED:
            believed = probed(node, program(None, BELIEVING)).answer
            assert (
                "/root" in believed["listings"] and parse(Snapshot(believed)).docker.config_path == TEMPLATE
            )
            return
        before = node.main_pid("docker.service")
        ran, mended = audit(lab, node), mend(lab, node)
        assert not node.exists(TEMPLATE), node.read(TEMPLATE)
        assert node.main_pid("docker.service") == before, "nor was anything restarted"
        finding = ran.finding(node, "GM006")
        assert finding["status"] == "warn" and finding["mends"] is None, ran.said
        assert f"process {pid} calls itself dockerd" in finding["summary"]
        assert mended.codes(node, "warn", "fail") == ran.codes(node, "warn", "fail") == ["GM006"], mended.said
        seen = answer(node)
        assert "/root" not in seen.answer["listings"], "what only root may list"
        assert seen.docker.ok, "the host's own answers"
    assert "GM006" not in audit(lab, node).codes(node)


@counted("a user", "su under the name dockerd, where Docker is stopped on purpose")
def test_a_false_dockerd_starts_no_docker(lab: Lab, boot: Boot) -> None:
    """docker.service is stopped on purpose, docker.socket is up: whoever connects starts it."""
    node = boot("trixie", "healthy")
    node.sh("systemctl start docker.socket; systemctl stop docker.service")
    assert node.is_active("docker.socket")
    with false_dockerd(node, "--data-root=/root"):
        if UNGUARDED:
            probed(node, program(None, BELIEVING))
            assert node.is_active("docker.service")
            return
        probed(node, program()).bounds()
        ran = audit(lab, node)
        assert not node.is_active("docker.service")
        assert "GM006" in ran.codes(node, "warn"), ran.said
        assert answer(node).docker.absent


@counted("a user", "nvcc in a user's home")
def test_nvcc_in_a_users_home_is_not_executed_by_root(lab: Lab, boot: Boot) -> None:
    """/usr/local/cuda -> /home/USER/cuda-12.4, as people do who have no place elsewhere."""
    node = boot("trixie", "healthy")
    home = f"/home/{USER}"
    version = json.dumps({"cuda": {"name": "CUDA SDK", "version": "12.4.1"}})
    node.write(f"{home}/cuda-12.4/version.json", version)
    node.write(
        f"{home}/cuda-12.4/bin/nvcc", "#!/bin/sh\nid >/tmp/pwned\necho release 12.4, V12.4.131\n", 0o755
    )
    node.sh(f"chown -R {USER}: {home}; ln -sfn {home}/cuda-12.4 /usr/local/cuda")
    if UNGUARDED:
        probed(node, program(None, TRUSTING))
        assert node.exists("/tmp/pwned")
        return
    ran = audit(lab, node)
    assert not node.exists("/tmp/pwned"), ran.said
    told = answer(node).command("nvcc")
    assert (told.status, told.detail) == (
        "failed",
        f"not executed: {home} belongs to uid {node.run(['id', '-u', USER]).stdout.strip()}",
    )
    mend(lab, node)
    assert not node.exists("/tmp/pwned")
    # The same, where root put it.
    node.sh(
        f"mkdir -p /opt/cuda-12.4; cp -r {home}/cuda-12.4/. /opt/cuda-12.4; chown -R root: /opt/cuda-12.4; ln -sfn /opt/cuda-12.4 /usr/local/cuda"
    )
    assert answer(node).command("nvcc").ok
    assert node.exists("/tmp/pwned")
