"""`mend --reboot`: who is rebooted, what holds it back, how many at once, what ends it, and what the report says."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from click.testing import CliRunner

from gpumend import schemas
from gpumend.cli.mend import command
from gpumend.deploy.rollout import Rollout, in_turn
from gpumend.payload.change.files import Refused
from gpumend.payload.change.reboot import held_back, reboot
from gpumend.reports import terminal
from gpumend.reports.document import Exit, document, exit_of, word_of
from gpumend.rules.driver.reboot import AT_BOOT_CODES, lost_at_boot, next_kernel
from gpumend.rules.rule import RULES, Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.outcome import Outcome
from gpumend.run.record import Record, Run, judged
from gpumend.run.remote.reboot import due, is_controller, own_boot
from tests.unit.build import TODAY, Host, file, unread
from tests.unit.farm import RUN, STARTED, run
from tests.unit.test_driver_packages import KERNEL, installed, wants

BOOT = "/proc/sys/kernel/random/boot_id"
HOSTS = ["gpu1", "gpu2", "gpu3", "gpu4"]
THERE = {
    f"/lib/modules/{KERNEL}/kernel": file(),
    f"/lib/modules/{KERNEL}/modules.dep": "updates/dkms/nvidia.ko:\n",
}


def record(host: Host, name: str = "gpu1") -> Record:
    found = judged(host.state(), parse_wanted(wants()), name)
    return Record(name, before=found, now=found)


def against(host: Host) -> tuple[str, ...]:
    found = judged(host.state(), parse_wanted(wants()), "gpu1")
    return lost_at_boot(found.context, found.verdict.findings)


# --- who


def test_only_hosts_whose_report_says_so_are_due() -> None:
    assert due(record(installed(files=THERE))) != ()
    assert due(record(installed(loaded="580.95.05", files=THERE))) == ()
    assert due(Record("gone", error="no answer")) == ()


def test_never_the_controller() -> None:
    assert is_controller("@local", Record("@local"))
    assert own_boot(), "this machine has one"
    assert is_controller("gpu1", record(installed(files={BOOT: f"{own_boot()}\n"}))), (
        "by another name, or from a container on it"
    )
    assert not is_controller("gpu1", record(installed(files={BOOT: "b5a4\n"})))
    assert not is_controller("gpu1", record(installed()))


# --- what has to hold at the next boot


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (installed(files=THERE), ()),
        (installed(files={**THERE, "/lib/modules/6.12.57+deb13-amd64/kernel": file()}), ("6.12.57+deb13-amd64, which boots next",)),
        (installed(files={**THERE, "/lib/modules/6.12.57+deb13-cloud-amd64/kernel": file()}), ()),
        (installed(files={**THERE, f"/lib/modules/{KERNEL}/modules.dep": "kernel/a.ko:\n"}), (f"kernel {KERNEL}",)),
        (installed(files=THERE, commands={"mokutil": (0, "SecureBoot enabled\n", ""), "modinfo-signer": (0, "\n", "")}), ("GM120",)),
        (installed(files=THERE, globs={"/lib/modules/*/kernel": unread("denied")}), ("not known",)),
    ],
)  # fmt: skip
def test_what_would_not_come_back_is_not_rebooted(host: Host, words: tuple[str, ...]) -> None:
    found = against(host)
    assert len(found) == len(words), found
    assert all(word in text for word, text in zip(words, found, strict=True))


def test_the_codes_are_rules_and_a_host_without_a_driver_of_its_own_has_no_module_to_lose() -> None:
    assert set(AT_BOOT_CODES) <= set(RULES)
    state = installed(files=THERE).but(files={"/etc/nv_tegra_release": file()}).state()
    assert next_kernel(Context(state, parse_wanted({}), "gpu1", TODAY)) == ""


# --- how many, and what ends it


@pytest.mark.parametrize(
    ("batch", "bad", "begun", "most"), [(1, "", 4, 1), (1, "gpu2", 2, 1), (2, "", 4, 2), (2, "gpu1", 2, 2)]
)
def test_one_by_one_or_in_batches_until_one_is_not_proven(
    batch: int, bad: str, begun: int, most: int
) -> None:
    import gevent  # as pyinfra's loop has it

    names: list[str] = []
    at_work: list[str] = []
    seen: list[int] = []
    stopped: list[str] = []

    def ended(name: str) -> str:
        names.append(name)
        at_work.append(name)
        seen.append(len(at_work))
        gevent.sleep(0)
        at_work.remove(name)
        if name == bad:
            stopped.append(name)
        return "failed" if name == bad else ""

    how = Rollout.of({"reboot": True, "batch": batch})
    in_turn(HOSTS, how, ended, stopped.append, lambda: bool(stopped))
    assert (len(names), max(seen)) == (begun, most)


# --- what is said


@pytest.mark.parametrize(
    ("status", "exit_status", "word"),
    [
        ("changed", Exit.DRIFT, "drift"),
        ("pending", Exit.DRIFT, "drift"),
        ("refused", Exit.PUT_BACK, "refused"),
        ("lost", Exit.BROKEN, "change failed, NOT put back"),
        ("broken", Exit.BROKEN, "change failed, NOT put back"),
    ],
)
def test_the_report_says_it(status: str, exit_status: Exit, word: str) -> None:
    found = record(installed(files=THERE))
    found.rebooted = Outcome(status, "it says why")
    assert exit_of(found) is exit_status and word_of(found) == word
    told = document(run([found]), executed=True)
    assert told["hosts"]["gpu1"]["rebooted"] == {"status": status, "detail": "it says why"}
    assert told["hosts"]["gpu1"]["reboot"] == ["driver 580.95.05 is installed and not loaded"]
    jsonschema.Draft202012Validator(schemas.load("report")).validate(json.loads(json.dumps(told)))
    text = terminal.render(told)
    assert f"{status}: it says why" in text and "required: driver 580.95.05" in text


def test_who_was_not_begun_is_named() -> None:
    hosts = {name: record(installed(files=THERE), name) for name in HOSTS}
    hosts["gpu1"].rebooted = Outcome("lost", "it did not come back")
    this = Run(RUN, STARTED, hosts, stopped="gpu1 was rebooted, and is not as it has to be", reboots=True)
    for each in hosts.values():
        each.done = (
            [(transaction, Outcome("changed")) for transaction in each.now.plan.transactions]
            if each.now
            else []
        )
    assert this.left(executed=True) == HOSTS[1:]


def test_options_that_go_with_it_alone() -> None:
    for words in (["--batch", "2"], ["--reboot-wait", "60"]):
        done = CliRunner().invoke(command, ["--yes", *words])
        assert done.exit_code == 2 and "go with --reboot" in done.output


# --- on the host


def fails() -> list[str]:
    raise OSError("no answer")


@pytest.mark.parametrize(
    ("policy", "look", "holder", "words"),
    [
        ("idle", list, "", ""),
        ("idle", lambda: ["2 running: a, b", "what has the GPU open: python3 (7)"], "", "it would stop 2 running: a, b; what has the GPU"),
        ("idle", fails, "", "whether containers run is not known: no answer"),
        ("allow", fails, "", ""),
        ("never", list, "", "restarts is `never`"),
        ("allow", list, "process 12 (apt-get)", "packages are being changed by process 12"),
    ],
)  # fmt: skip
def test_what_holds_a_reboot_back(policy: str, look: Any, holder: str, words: str) -> None:
    found = held_back(policy, holder, look)
    assert words in found and bool(found) == bool(words)


def test_another_boot_than_was_judged_is_not_rebooted() -> None:
    with pytest.raises(Refused, match="rebooted since") as caught:
        reboot({"boot": "another", "restarts": "allow"})
    assert caught.value.status == "moved"
