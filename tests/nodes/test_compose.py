"""The stack of incident report 002 on a booted host (one for all tests here): it fails in mode cdi, its file is rewritten, its containers are made anew when
that is allowed, and have the GPU after a reboot."""

from __future__ import annotations

import json
from typing import Any

from gpumend.rules.finding import Component
from tests.nodes import toolkit
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, mend
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.unit.test_compose import REPORT

FILE = "/srv/moe/docker-compose.yml"
SECRET = "hunter2-of-the-stack"
WORKER = """\
  worker-{0}:
    image: base:1
    command: ["sleep", "100000"]   # uvicorn expert_worker.main:app
    network_mode: none
    init: true
    restart: always
    env_file: secrets.env
"""
WORKER += REPORT[REPORT.index("    environment:") :]  # it asks as the report's does
STACK = "# the stack of the report\nservices:\n" + WORKER.format(0) + WORKER.format(1)
AFTER = "    deploy:" + WORKER.partition("    deploy:")[2]
REPORTED = "invoking the NVIDIA Container Runtime Hook directly"
FORM: dict[str, Any] = {"compose": {"form": "auto"}}


def has_gpu(node: Node, name: str) -> bool:
    done = node.run(["docker", "exec", f"moe-{name}-1", "ls", "/dev/nvidia0"], check=False)
    return done.returncode == 0 and done.stdout == "/dev/nvidia0\n"


def ident(node: Node, name: str) -> str:
    return str(node.run(["docker", "inspect", "-f", "{{.Id}} {{.State.StartedAt}}", f"moe-{name}-1"]).stdout)


def test_the_stack_of_the_report_is_rewritten_told_and_made_anew(shared_boot: Boot, lab: Lab) -> None:
    node = shared_boot("trixie+compose", scenario="healthy", toolkit="1.17.8")
    toolkit.write_config(node, mode="legacy")
    node.write(FILE, STACK)
    node.write("/srv/moe/secrets.env", f"TOKEN={SECRET}\nNVIDIA_DRIVER_CAPABILITIES=compute\n")
    up = "cd /srv/moe && docker compose up -d"
    node.sh(f"{up} worker-0")
    assert has_gpu(node, "worker-0")
    running = ident(node, "worker-0")
    toolkit.write_config(node, mode="cdi")
    failed = node.run(["sh", "-c", f"{up} worker-1"], check=False)
    assert failed.returncode != 0 and REPORTED in failed.stderr, "the report's error must be seen first"

    before = node.tree("/srv", "/etc")
    found = audit(lab, Target(node, wanted=FORM))
    assert node.tree("/srv", "/etc") == before, "an audit writes nothing"
    assert {"GM905", "GM912"} <= set(found.codes(node)), found.said
    [wrong] = [each for each in found.host(node)["findings"] if each["code"] == "GM905"][:1]
    assert wrong["evidence"][0]["source"] == f"{FILE}:17"

    done = mend(lab, Target(node, wanted=FORM))
    assert done.statuses(node) == {Component.COMPOSE: "changed"}, done.said
    assert node.read(FILE).decode() == STACK.replace(AFTER, "    runtime: nvidia\n").replace("=all", "=0")
    assert ident(node, "worker-0") == running, "what runs stays as it is"
    pending = [each for each in done.host(node)["findings"] if each["code"] == "GM911"]
    pending.sort(key=lambda each: str(each["summary"]))
    assert [each["summary"].partition(" (")[0] for each in pending] == [
        "pending: docker compose up -d worker-0",
        "pending: docker compose up -d worker-1",
    ]
    command = f"cd /srv/moe && docker compose --project-directory /srv/moe -p moe -f {FILE} up -d worker-0"
    assert command in pending[0]["remedy"]
    assert mend(lab, Target(node, wanted=FORM)).statuses(node) == {}, "a second run changes nothing"

    again = mend(lab, Target(node, wanted={"compose": {"form": "auto", "recreate": "allow"}}))
    assert again.statuses(node) == {Component.COMPOSE: "changed"}, again.said
    assert again.rc == 0, again.said
    assert ident(node, "worker-0") != running
    assert has_gpu(node, "worker-0") and has_gpu(node, "worker-1")
    journals = node.run(["grep", "-rlF", SECRET, "/var/lib/gpumend"], check=False).stdout
    assert (
        SECRET
        not in json.dumps([found.report, done.report, again.report]) + found.said + done.said + journals
    )
    node.reboot()
    wait_for(
        "the stack comes up by itself",
        lambda: has_gpu(node, "worker-0") and has_gpu(node, "worker-1"),
        60,
        0.5,
    )
    assert audit(lab, Target(node, wanted=FORM)).rc == 0


def test_a_file_that_a_user_chose_is_read_no_further_than_he_could_and_not_written(
    shared_boot: Boot, lab: Lab
) -> None:
    node = shared_boot("trixie+compose", scenario="healthy", toolkit="1.17.8")
    toolkit.write_config(node, mode="legacy")
    node.write("/srv/ops/docker-compose.yml", STACK.replace("    env_file: secrets.env\n", ""))
    node.write(
        "/srv/private.yml", f"services:\n  worker-0:\n    gpus: all\n{SECRET}: 1\n{SECRET}: 2\n", 0o600
    )
    node.sh("chown -R ops: /srv/ops; cd /srv/ops && docker compose -p ops up -d worker-0")
    held = audit(lab, Target(node, wanted=FORM))
    assert "as the owner of /srv/ops/docker-compose.yml" in held.finding(node, "GM912")["refused"]
    node.sh("cd /srv/ops && rm docker-compose.yml && ln -s /srv/private.yml docker-compose.yml")
    before = node.tree("/srv")
    done = mend(lab, Target(node, wanted=FORM))
    assert done.statuses(node) == {} and node.tree("/srv") == before
    assert SECRET not in json.dumps(done.report) + done.said
