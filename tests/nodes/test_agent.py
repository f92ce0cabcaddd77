"""The agent: a host judges itself by a timer, finds what an operator's audit finds, and leaves no file behind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gpumend.agent.journal import message_id
from tests.nodes import gpu, scenarios
from tests.nodes.conftest import Boot
from tests.nodes.drive import Target, audit, start
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for

PROGRAM = "/usr/local/lib/gpumend/agent"
REPORT = "/var/lib/gpumend/agent/report.json"
MENDED = "/var/lib/gpumend/agent/mended.json"
TEXTFILE = "/var/lib/node-exporter"
WANTED = {"agent": {"interval": 60, "textfile": TEXTFILE}}
# Ten sick hosts, and one that is well.
SICK = (
    "healthy", "report_002", "stale_spec", "duplicate_spec", "wrong_uvm_major", "invalid_daemon_json", "invalid_config_toml",
    "no_docker", "config_dangling_link", "non_utf8_config", "runtime_missing",
)  # fmt: skip


def agent(lab: Lab, node: Node, verb: str, wanted: dict[str, Any] = WANTED) -> str:
    """What `gpumend agent VERB` says of a node; it ended well."""
    flags = ("--dry",) if verb == "status" else ("-y",)
    ran = start(
        lab, Target(node, wanted=wanted), deploy="agent", more=(*flags, "--data", f"agent_verb={verb}")
    ).finish()
    assert ran.rc == 0, ran.said
    return ran.stdout


def found(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    [host] = report["hosts"].values()
    return sorted((f["code"], f["status"], f["summary"]) for f in host["findings"])


def audited(node: Node) -> dict[str, Any]:
    """The report of an audit that the unit makes now."""
    done = node.run(["systemctl", "start", "gpumend-audit.service"], check=False)
    assert done.returncode == 0, node.run(["journalctl", "-u", "gpumend-audit.service"]).stdout
    report: dict[str, Any] = json.loads(node.read(REPORT))
    return report


def files(node: Node, *paths: str) -> dict[str, Any]:
    """What lies below these paths, whenever their directories were last written to, and without what a driver's own
    installation makes."""
    lying = {path: entry for path, entry in node.tree(*paths).items() if path != "/etc/ld.so.cache"}
    return {path: entry[:4] if entry[0] == "directory" else entry for path, entry in lying.items()}


def runs(node: Node) -> str:
    """The run of the last report; empty before the first."""
    return str(json.loads(node.read(REPORT))["run"]) if node.exists(REPORT) else ""


def entries(node: Node, *match: str) -> list[dict[str, str]]:
    said = node.run(["journalctl", "-o", "json", "SYSLOG_IDENTIFIER=gpumend", *match]).stdout
    return [json.loads(line) for line in said.splitlines()]


def test_an_agent_from_its_first_audit_to_its_last_file(lab: Lab, boot: Boot) -> None:
    node = boot("trixie", "healthy")
    node.sh(f"mkdir -p {TEXTFILE} /lib/modules/$(uname -r); touch /lib/modules/$(uname -r)/modules.dep")
    everything = ("/etc", "/usr/local", "/var/lib/gpumend", TEXTFILE)
    before = files(node, *everything)

    assert "the agent is installed" in agent(lab, node, "install")
    assert "installed as wanted" in agent(lab, node, "install"), "again: nothing to do"
    assert node.is_active("gpumend-audit.timer") and node.is_active("gpumend-audit.path")
    node.run(["systemctl", "stop", "gpumend-audit.timer"])  # what comes now comes by the driver's change
    node.run(["systemd-analyze", "verify", "/etc/systemd/system/gpumend-audit.service"])

    first = audited(node)
    assert (first["exit"], first["kind"]) == (0, "audit"), first["hosts"]
    [last] = [row for row in entries(node, f"GPUMEND_RUN={first['run']}") if "GPUMEND_EXIT" in row]
    assert (last["GPUMEND_STATUS"], last["GPUMEND_EXIT"]) == ("ok", "0")
    assert "last audit" in agent(lab, node, "status")

    # A driver is installed: depmod renames modules.dep into place, and the agent looks without waiting for its timer.
    gpu.set_driver(node, "560.35.03")
    node.sh("cd /lib/modules/$(uname -r) && touch modules.new && mv modules.new modules.dep")
    wait_for("the driver's change is looked at", lambda: runs(node) not in ("", first["run"]), 60.0)
    node.run(["systemctl", "start", "gpumend-audit.service"])  # waits for the one that runs
    report = json.loads(node.read(REPORT))
    assert "GM304" in {code for code, _, _ in found(report)}, found(report)
    [row] = entries(node, f"MESSAGE_ID={message_id('GM304')}")
    assert row["GPUMEND_CODE"] == "GM304" and row["GPUMEND_HOST"] == node.name
    metrics = {
        (sample.name, sample.labels.get("code")): sample.value
        for family in text_string_to_metric_families(node.read(f"{TEXTFILE}/gpumend.prom").decode())
        for sample in family.samples
    }
    assert metrics["gpumend_finding", "GM304"] == 1
    assert metrics["gpumend_run_exit_status", None] == 3
    assert node.show("gpumend-audit.service", "Result") == "success"

    assert "is gone" in agent(lab, node, "uninstall")
    assert files(node, *everything) == before, "no file is left"
    assert "no agent is installed" in agent(lab, node, "status")
    assert (
        node.run(
            ["systemctl", "list-units", "--all", "--no-legend", "gpumend-audit*", "gpumend-mend*"]
        ).stdout.strip()
        == ""
    )


def test_what_the_agent_may_change_is_mended_when_the_driver_changes(lab: Lab, boot: Boot) -> None:
    """A new driver makes the CDI spec stale: the agent writes it anew, as an operator would. What it may not change stays."""
    node = boot("trixie", "healthy")
    node.sh("mkdir -p /lib/modules/$(uname -r); touch /lib/modules/$(uname -r)/modules.dep")
    scenarios.write_daemon(node, {"log-driver": "json-file"})
    daemon = node.read(scenarios.DAEMON)
    wanted = {"agent": {"interval": 60, "mend": ["cdi.spec_current"]}}
    agent(lab, node, "install", wanted)
    assert node.is_active("gpumend-mend.timer") and node.is_active("gpumend-mend.path")
    node.run(["systemctl", "stop", "gpumend-mend.timer", "gpumend-audit.timer"])
    stale = node.read(scenarios.SPEC)

    gpu.set_driver(node, "560.35.03")
    node.sh("cd /lib/modules/$(uname -r) && touch modules.new && mv modules.new modules.dep")
    wait_for("the agent has mended", lambda: node.exists(MENDED), 90.0)
    node.run(["systemctl", "start", "gpumend-audit.service"])
    mended = json.loads(node.read(MENDED))
    [host] = mended["hosts"].values()
    assert {change["component"]: change["status"] for change in host["changes"]} == {
        "cdi.spec_current": "changed"
    }
    assert b"560.35.03" in node.read(scenarios.SPEC) and node.read(scenarios.SPEC) != stale
    codes = {code for code, status, _ in found(json.loads(node.read(REPORT))) if status == "fail"}
    assert "GM403" in codes and "GM304" not in codes, codes
    assert node.read(scenarios.DAEMON) == daemon, "Docker's configuration was not allowed"
    [row] = entries(node, "GPUMEND_COMPONENT=cdi.spec_current")
    assert row["MESSAGE"].startswith("cdi.spec_current: changed") and row["GPUMEND_RUN"] == mended["run"]

    # It is a run as any other: an operator rolls it back. And what is not allowed any more is gone.
    ran = start(lab, node, deploy="rollback", more=("-y", "--data", f"run={mended['run']}")).finish()
    assert ran.rc == 0, ran.said
    assert node.read(scenarios.SPEC) == stale
    agent(lab, node, "install")
    assert not node.exists("/etc/systemd/system/gpumend-mend.service")
    assert not node.is_active("gpumend-mend.timer") and node.is_active("gpumend-audit.timer")


@pytest.mark.parametrize("scenario", SICK)
def test_the_hardened_unit_finds_what_an_operator_finds(lab: Lab, boot: Boot, scenario: str) -> None:
    node = boot("trixie", scenario)
    node.sh(f"mkdir -p {TEXTFILE}")
    agent(lab, node, "install")
    operators = audit(lab, Target(node, wanted=WANTED))
    assert found(audited(node)) == found(operators.report)


def test_where_no_systemd_runs_cron_starts_it(lab: Lab, boot: Boot) -> None:
    node = boot("trixie", "healthy")
    node.wait_active("cron.service")
    node.sh("mv /run/systemd/system /run/systemd/system.away")  # what sd_booted(3) looks for
    node.sh(f"mkdir -p {TEXTFILE}")
    wanted = {"agent": {"interval": 1, "textfile": TEXTFILE}}
    agent(lab, node, "install", wanted)
    assert "installed as wanted" in agent(lab, node, "install", wanted)
    assert not node.exists("/etc/systemd/system/gpumend-audit.timer")
    wait_for("cron has started the audit", lambda: node.exists(REPORT), 120.0)
    assert json.loads(node.read(REPORT))["kind"] == "audit"
    wait_for("its metrics are there", lambda: node.exists(f"{TEXTFILE}/gpumend.prom"), 30.0)
    agent(lab, node, "install", {"agent": {"interval": 60}})
    assert not node.exists(f"{TEXTFILE}/gpumend.prom"), "nobody keeps these up any more"
    assert node.sh("stat -c %a /var/lib/gpumend /var/lib/gpumend/agent").stdout.split() == ["700", "700"]
    agent(lab, node, "uninstall")
    assert not node.exists("/etc/cron.d/gpumend-agent") and not node.exists(PROGRAM)


def test_a_file_that_others_could_change_is_not_run(lab: Lab, boot: Boot) -> None:
    """Neither as the agent, nor from a directory of somebody else's."""
    node = boot("trixie", "healthy")
    node.sh(f"mkdir -p {TEXTFILE}")
    agent(lab, node, "install")
    node.sh(f"chmod 0757 {PROGRAM}")
    ran = start(
        lab, Target(node, wanted=WANTED), deploy="agent", more=("--dry", "--data", "agent_verb=status")
    )
    assert "can be changed by others than root" in ran.finish().stdout
    # Whoever owns its directory puts another file there at any moment.
    node.sh(f"chmod 0755 {PROGRAM}; chown daemon /usr/local/lib/gpumend")
    ran = start(
        lab, Target(node, wanted=WANTED), deploy="agent", more=("--dry", "--data", "agent_verb=status")
    )
    assert "can be changed by others than root" in ran.finish().stdout
    ran = start(lab, Target(node, wanted=WANTED), deploy="agent", more=("-y", "--data", "agent_verb=install"))
    said = ran.finish()
    assert said.rc != 0 and "can be changed by others than root" in said.stdout, said.said
