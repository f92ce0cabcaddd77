"""What came to no end on a host, and what its next start will make of what lies there."""

from __future__ import annotations

import json

import pytest

from gpumend.rules.finding import Status
from tests.unit.build import NOW, file, findings, healthy

RUNS = "/var/lib/gpumend/runs"
EARLIER, LATER = "20261101T000000Z-aaaa", "20261102T000000Z-bbbb"


def journal(run: str, component: str, state: str) -> dict[str, str]:
    text = json.dumps({"run": run, "component": component, "state": state, "files": []})
    return {f"{RUNS}/{run}/{component}/journal.json": text}


def test_gm003_tells_a_watch_from_what_was_never_proven() -> None:
    path = f"{RUNS}/{EARLIER}/docker.daemon_config/journal.json"
    record = {"run": EARLIER, "component": "docker.daemon_config", "state": "working", "files": []}
    told = []
    for found in (record, {**record, "watch": {"unit": "docker.service"}}):
        text = json.dumps(found, indent=1, sort_keys=True)
        [finding] = findings(healthy().but(files={path: text}), "GM003")
        assert finding.change is not None and finding.change.component == "runs.recovered"
        told.append((finding.summary, finding.remedy, finding.evidence[0].text))
    (worked, puts_back, state), (watched, watches, watching) = told
    assert worked == f"run {EARLIER} was interrupted in docker.daemon_config"
    assert watched == f"run {EARLIER} was interrupted while it watched the daemon of docker.daemon_config"
    assert "puts the files of that run back" in puts_back and "the change stays" in watches
    assert (state, watching) == ("state working: no file", "state watching: no file")


@pytest.mark.parametrize(
    ("files", "told"),
    [
        pytest.param(journal(EARLIER, "docker.daemon_config", "broken"), True, id="broken"),
        pytest.param(journal(EARLIER, "docker.daemon_config", "put_back"), False, id="undone"),
        pytest.param(
            journal(EARLIER, "docker.daemon_config", "broken") | {f"{RUNS}/{EARLIER}/acknowledged": ""},
            False,
            id="acknowledged",
        ),
        pytest.param(
            journal(EARLIER, "docker.daemon_config", "broken")
            | journal(LATER, "docker.daemon_config", "done"),
            False,
            id="the same component ended well since",
        ),
        pytest.param(
            journal(EARLIER, "docker.daemon_config", "broken") | journal(LATER, "cdi.spec_current", "done"),
            True,
            id="another component ended well since",
        ),
        pytest.param(
            journal(EARLIER, "docker.daemon_config", "done")
            | journal(LATER, "docker.daemon_config", "broken"),
            True,
            id="it had ended well before",
        ),
    ],
)
def test_gm007(files: dict[str, str], told: bool) -> None:
    """A package change that failed was exit 5, exit 5, and then exit 0 with packages half-configured."""
    assert [found.status for found in findings(healthy().but(files=files), "GM007")] == [Status.FAIL] * told


@pytest.mark.parametrize(
    ("rows", "status"),
    [
        ("ii \tnvidia-container-toolkit\t1.18.1-1\n", None),
        ("rc \tdocker.io\t26.1.5\nun \tdocker-ce\t\n", None),
        ("iF \tnvidia-container-toolkit\t1.18.1-1\n", Status.FAIL),
        ("iU \tdocker.io\t26.1.5\n", Status.FAIL),
        ("iHR\tlibnvidia-container1\t1.18.1-1\n", Status.FAIL),
        ("iF \tman-db\t2.13\n", Status.WARN),
        ("it \tlibc-bin\t2.41\n", Status.WARN),
        ("iF \tman-db\t2.13\niW \tcontainerd\t1.7.24\n", Status.FAIL),
    ],
)
def test_gm008(rows: str, status: Status | None) -> None:
    found = findings(healthy().but(commands={"dpkg": (0, rows, "")}), "GM008")
    assert [each.status for each in found] == ([status] if status else [])
    assert all("dpkg --configure" in each.remedy and each.change is None for each in found)


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("nvidia-container-toolkit\t(none):1.17.8-1\n", []),
        ("nvidia-container-toolkit\t(none):1.17.8-1\nnvidia-container-toolkit\t(none):1.17.7-1\n", ["nvidia-container-toolkit"]),
        ("containerd.io\t(none):1.7.27-3.1.el9\ncontainerd.io\t(none):1.7.28-1.el9\n", ["containerd.io"]),
        ("kmod-nvidia\t3:580.1-1\nkmod-nvidia\t3:580.2-1\n", []),
        ("runc\t1:1.2-1\nrunc\t1:1.2-1\n", []),
    ],
)  # fmt: skip
def test_gm008_of_rpm(rows: str, told: list[str]) -> None:
    """rpm has no half-installed state: what an upgrade leaves that broke off are two versions."""
    found = findings(healthy().but(commands={"dpkg": None, "rpm": (0, rows, "")}), "GM008")
    assert [each.summary.split()[0] for each in found] == told
    assert all(each.status is Status.FAIL and each.change is None for each in found)


REFUSED = (
    "unable to configure the Docker daemon with file /etc/docker/daemon.json: the following directives don't match any "
    "configuration option: bogus\n"
)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((0, "configuration OK\n", ""), False),
        ((1, "", REFUSED), True),
        ((125, "", "unknown flag: --validate\nSee 'dockerd --help'.\n"), False),
        (None, False),
    ],
    ids=["it takes it", "it refuses it", "20.10 cannot say", "no dockerd"],
)
def test_gm412(answer: tuple[int, str, str] | None, told: bool) -> None:
    host = healthy().but(
        commands={"dockerd-validate": answer},
        files={"/etc/docker/daemon.json": file('{"bogus": 1}\n', ctime=NOW)},  # edited since dockerd started
    )
    found = findings(host, "GM412")
    assert [each.status for each in found] == [Status.FAIL] * told
    assert all("bogus" in each.evidence[0].text for each in found)


def test_a_runtime_that_only_the_running_dockerd_has_is_gone_at_its_next_start() -> None:
    """After a rollback: exit 0, and a failure at the next restart."""
    host = healthy().but(files={"/etc/docker/daemon.json": '{"features": {"cdi": true}}\n'})
    (found,) = findings(host, "GM403")
    assert found.status is Status.FAIL and found.change is not None
    assert "next start" in found.summary


@pytest.mark.parametrize(
    ("said", "locks", "told"),
    [
        ("ops@desk, run {run}, pid 4711\n", "1: FLOCK  ADVISORY  WRITE 4711 00:1a:23 0 EOF\n", False),
        ("ops@desk, run {run}, pid 4711\n", "1: FLOCK  ADVISORY  WRITE 4712 00:1a:23 0 EOF\n", True),
        ("ops@desk, run {run}, pid 4711\n", "1: POSIX  ADVISORY  WRITE 4711 00:1a:23 0 EOF\n", True),
        ("ops@desk, run another, pid 4711\n", "1: FLOCK  ADVISORY  WRITE 4711 00:1a:23 0 EOF\n", True),
        ("", "", True),
    ],
    ids=[
        "at work",
        "its process has ended",
        "another kind of lock",
        "another run is at work",
        "nobody holds it",
    ],
)
def test_a_run_that_is_at_work_was_not_interrupted(said: str, locks: str, told: bool) -> None:
    """Two controllers at once: the second one put back what the first was in the middle of, and failed at it."""
    files = journal(EARLIER, "docker.daemon_config", "working") | {
        "/run/gpumend.lock": said.format(run=EARLIER),
        "/proc/locks": locks,
    }
    found = findings(healthy().but(files=files), "GM003")
    assert [each.status for each in found] == [Status.FAIL] * told
    noted = findings(healthy().but(files=files), "GM009")
    assert [each.status for each in noted] == [Status.NOTE] * (
        "pid 4711" in said and "WRITE 4711" in locks and "FLOCK" in locks
    )
