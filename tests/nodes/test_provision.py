"""A new GPU node: driver and Docker, no container toolkit. Real apt and dpkg, a repository of the test's own with packages
of NVIDIA's names and relations, the toolkit's stand-ins in them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.packages import TOOLKIT
from tests.nodes import gpu, images, toolkit
from tests.nodes.apt import AptLock, Deb, build, serve
from tests.nodes.conftest import Boot
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.faults import Before, fault
from tests.nodes.lab import Lab, Node
from tests.nodes.slot import wait_for
from tests.nodes.toolkit import CONFIG

OLD, NEW = "1.19.1", "1.20.0"
SPEC = "/etc/cdi/nvidia.yaml"
DYNAMIC = "/var/run/cdi/nvidia.yaml"
DAEMON = "/etc/docker/daemon.json"
RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
DEVICE = ("--device", "nvidia.com/gpu=0")
WATCHED = ("/etc", "/usr/bin", "/var/lib/gpumend", "/var/lib/dpkg", "/var/lib/apt", "/var/cache/apt")
INSTALL = {"toolkit": {"install": True}}
LISTED = Deb("apt", "0.1")  # apt knows a list of the distribution's packages: one that has apt itself


@pytest.fixture(scope="module")
def booted(shared_boot: Boot) -> Iterator[Node]:
    node = shared_boot("trixie", None)
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")  # a node of seconds needs no fsync
    gpu.install(node)
    images.import_image(node)
    yield node


@pytest.fixture
def node(booted: Node) -> Node:
    """The same node as it was when it was new."""
    booted.sh('DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge "$@" >/dev/null 2>&1 || true', *TOOLKIT)
    booted.sh(
        'rm -rf /etc/nvidia-container-runtime /etc/cdi /var/run/cdi "$@"', toolkit.LIBRARY, toolkit.SETTINGS
    )
    if booted.exists(DAEMON):
        booted.sh("rm -f /etc/docker/daemon.json; systemctl reset-failed docker.service")
        booted.restart("docker")
    return booted


def provision(lab: Lab, node: Node, dry: bool = False, **wanted: Any) -> Ran:
    """A run of deploys/provision.py, to its end. wanted: keys of `toolkit` that the host's own data has."""
    target = Target(node, wanted={"toolkit": wanted} if wanted else {})
    return start(lab, target, deploy="provision", dry=dry).finish()


def packages_alone(lab: Lab, node: Node, **wanted: Any) -> Ran:
    """A run of deploys/packages.py where the packages are wanted, to its end."""
    target = Target(node, wanted={"toolkit": {"install": True, **wanted}})
    return start(lab, target, deploy="packages").finish()


def sees_gpu(node: Node, options: tuple[str, ...]) -> bool:
    done = node.run(["docker", "run", "--rm", *options, images.BASE, "ls", "/dev/nvidia0"], check=False)
    return done.returncode == 0 and done.stdout == "/dev/nvidia0\n"


def packages(node: Node) -> str:
    """Everything that dpkg knows, traces of removed packages among it."""
    return node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Package} ${Version}\n"]).stdout


def versions(node: Node) -> set[str]:
    """The versions that the toolkit's packages have, those that are there."""
    done = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}${Version}\n", *TOOLKIT], check=False)
    return {row[3:].strip() for row in done.stdout.splitlines() if row[1:2] == "i"}


def apt_install(node: Node, *targets: str) -> None:
    node.run(["apt-get", "install", "-qq", "-y", "--allow-downgrades", *targets])


def test_a_new_node_is_audited_installed_mended_and_then_left_alone(node: Node, lab: Lab) -> None:
    serve(node, *toolkit.debs(OLD), *toolkit.debs(NEW), LISTED)
    assert not sees_gpu(node, RUNTIME) and not sees_gpu(node, DEVICE), "the fault must be seen first"

    node.sh("rm -f /var/cache/apt/*.bin")  # as on a new node: apt-cache would write them
    tree = node.tree(*WATCHED)
    found = provision(lab, node, dry=True)
    assert found.rc == 3 and found.codes(node, "fail") == ["GM203", "GM404"], found.said
    finding = found.finding(node, "GM203")
    assert finding["mends"] == Component.PACKAGES
    assert all(word in finding["remedy"] for word in (*TOOLKIT, NEW, "CDI spec", "config.toml"))
    assert f"apt install {' '.join(f'{name}={NEW}-1' for name in TOOLKIT)}" in found.stdout
    assert node.tree(*WATCHED) == tree and versions(node) == set(), "an audit writes and installs nothing"
    assert found.sessions[node.name] == 1

    kept = provision(lab, node, dry=True, install=False).host(node)["plan"]
    assert Component.PACKAGES not in [part["component"] for part in kept], (
        "what the host says itself counts more"
    )

    done = provision(lab, node)
    assert done.rc == 0 and done.codes(node) == [], done.said
    assert done.statuses(node)[Component.PACKAGES] == "changed"
    assert f"nvidia-ctk answers as {NEW}" in done.change(node, Component.PACKAGES)["detail"]
    assert versions(node) == {f"{NEW}-1"}
    assert sees_gpu(node, RUNTIME) and sees_gpu(node, DEVICE)
    assert done.sessions[node.name] <= 1 + 2 * len(done.statuses(node))

    tree, pid = node.tree(*WATCHED, SPEC), node.main_pid("docker.service")
    again = provision(lab, node)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    assert again.sessions[node.name] == 1
    assert node.tree(*WATCHED, SPEC) == tree and node.main_pid("docker.service") == pid


@pytest.mark.parametrize(
    ("debs", "words"),
    [
        pytest.param(
            [
                *toolkit.debs(NEW, depends="libnvidia-compute-580"),
                Deb("libnvidia-compute-580", "580.95.05-1"),
            ],
            "it would install the driver's libnvidia-compute-580",
            id="a-driver-library",
        ),
        pytest.param(toolkit.debs(NEW, conflicts="cron"), "it would remove cron", id="a-removal"),
    ],
)
def test_refused_before_anything_is_done(node: Node, lab: Lab, debs: list[Deb], words: str) -> None:
    serve(node, *debs)
    before, tree = packages(node), node.tree("/etc", "/usr/bin", "/var/lib/gpumend")
    done = provision(lab, node)
    assert done.rc == 4, done.said
    change = done.change(node, Component.PACKAGES)
    assert change["status"] == "refused" and words in change["detail"], change
    assert packages(node) == before and not sees_gpu(node, RUNTIME)
    changed = {path for path, entry in node.tree("/etc", "/usr/bin").items() if tree.get(path) != entry}
    assert not any("nvidia" in path for path in changed)


def test_below_the_security_floor_nothing_is_installed_unless_somebody_insists(node: Node, lab: Lab) -> None:
    unsafe = "1.17.8"
    serve(node, *toolkit.debs(unsafe), LISTED)
    found = packages_alone(lab, node)
    assert found.rc == 3 and found.statuses(node) == {}, found.said
    assert "below the security floor 1.19.1" in found.finding(node, "GM203")["refused"]
    # Where the lists are not there the host sees it itself.
    node.sh("rm -rf /var/lib/apt/lists/*")
    done = packages_alone(lab, node)
    change = done.change(node, Component.PACKAGES)
    assert change["status"] == "refused" and "below the security floor 1.19.1" in change["detail"], done.said
    assert versions(node) == set()
    done = packages_alone(lab, node, insist=True)
    assert done.statuses(node) == {Component.PACKAGES: "changed"} and versions(node) == {f"{unsafe}-1"}


def test_no_repository_has_it_and_the_lines_to_run_are_shown(node: Node, lab: Lab) -> None:
    serve(node, LISTED)
    sources = node.tree("/etc/apt")
    done = packages_alone(lab, node)
    assert done.rc == 3 and done.statuses(node) == {}, done.said
    finding = done.finding(node, "GM203")
    assert "none is added" in finding["refused"]
    lines = finding["remedy"].splitlines()[1:]
    assert lines[-1] == "apt-get update" and all(f"             {line}\n" in done.stdout for line in lines)
    assert node.tree("/etc/apt") == sources and versions(node) == set()


def test_mixed_versions_are_brought_together_and_config_toml_keeps_its_bytes(node: Node, lab: Lab) -> None:
    serve(node, *toolkit.debs(OLD), *toolkit.debs(NEW))
    apt_install(node, *(f"{name}={OLD}-1" for name in TOOLKIT))
    config = b"# ours, see ticket 4711\n" + node.read(CONFIG)
    node.write(CONFIG, config)
    # As in nct#1091: somebody names a library, and the others stay where they are.
    apt_install(node, "libnvidia-container-tools", "libnvidia-container1")
    assert versions(node) == {f"{OLD}-1", f"{NEW}-1"}, "the fault must be seen first"

    judged = start(lab, node, dry=True).finish()
    assert judged.rc == 3 and judged.finding(node, "GM212")["refused"] == "toolkit.install is false", (
        judged.said
    )
    assert Component.PACKAGES not in [part["component"] for part in judged.host(node)["plan"]], "nobody asked"

    done = packages_alone(lab, node)
    assert done.statuses(node) == {Component.PACKAGES: "changed"}, done.said
    assert versions(node) == {f"{NEW}-1"} and node.read(CONFIG) == config
    # Down only where it is named, and then without a question.
    done = packages_alone(lab, node, version=OLD)
    assert done.statuses(node) == {Component.PACKAGES: "changed"}, done.said
    assert versions(node) == {f"{OLD}-1"} and node.read(CONFIG) == config
    tree = node.tree(*WATCHED)
    assert packages_alone(lab, node).statuses(node) == {} and node.tree(*WATCHED) == tree, (
        "an installed version stays"
    )


@pytest.mark.parametrize(
    ("debs", "words"),
    [
        pytest.param(
            toolkit.debs(NEW, says="1.16.2"),
            f"nvidia-ctk says it is 1.16.2, its packages are {NEW}",
            id="proof",
        ),
        pytest.param(toolkit.debs(NEW, postinst="echo no >&2; exit 1"), "apt install", id="script"),
    ],
)
@pytest.mark.parametrize("was", ["", OLD], ids=["new", "upgrade"])
def test_what_is_not_proven_is_put_back(node: Node, lab: Lab, was: str, debs: list[Deb], words: str) -> None:
    serve(node, *toolkit.debs(OLD), *debs)
    if was:
        apt_install(node, *(f"{name}={was}-1" for name in TOOLKIT))
        node.write(CONFIG, b"# ours\n" + node.read(CONFIG))
    before, config = packages(node), node.tree(CONFIG).get(CONFIG)
    with fault("proof that fails"):
        seen = Before.of(node, CONFIG, DAEMON, SPEC)
        ran = packages_alone(lab, node, version=NEW)
        assert ran.rc == 4, ran.said
        change = ran.change(node, Component.PACKAGES)
        assert change["status"] == "put_back" and words in change["detail"], change
        assert packages(node) == before
        assert node.tree(CONFIG).get(CONFIG) == config, "bytes, mode, owner and times"
        assert node.exists("/usr/bin/nvidia-ctk") == bool(was)
        seen.check()
        seen.check_ran(ran)


def test_what_could_not_be_put_back_is_not_changed(node: Node) -> None:
    serve(node, *toolkit.debs(OLD))
    apt_install(node, *(f"{name}={OLD}-1" for name in TOOLKIT))
    serve(node, *toolkit.debs(NEW))  # a repository that keeps the newest alone
    before, tree = packages(node), node.tree("/etc/nvidia-container-runtime", "/var/lib/gpumend")
    wanted = {"toolkit": {"install": True, "version": NEW}}
    result = result_of(carry_out(node, planned(node, Component.PACKAGES, "20261123T000000Z-cccc", wanted)))
    assert result["status"] == "refused", result
    assert "there would be no way back: apt no longer has" in result["detail"] and OLD in result["detail"]
    assert packages(node) == before
    assert node.tree("/etc/nvidia-container-runtime", "/var/lib/gpumend") == tree


def test_a_run_that_was_killed_after_its_packages_came_is_put_back(node: Node, lab: Lab) -> None:
    serve(node, *toolkit.debs(NEW), update=False)
    before, run = packages(node), "20261123T000000Z-dead"
    data = planned(node, Component.PACKAGES, run, INSTALL)
    with fault("kill -9"):
        # The packages' own scripts write config.toml: neither old nor of bytes that anybody knew before.
        seen = Before.of(node, DAEMON, SPEC)
        killed = carry_out(
            node,
            data,
            extra="def prove_toolkit(*_): os.kill(os.getpid(), signal.SIGKILL)",  # the next step; not part of the shipped program
        )
        assert killed.returncode != 0 and versions(node) == {f"{NEW}-1"}, "lists that were never fetched are"
        seen.check()
        journal = f"/var/lib/gpumend/runs/{run}/{Component.PACKAGES}/journal.json"
        recover = {"verb": "recover", "journals": [journal], "run": run, "who": "test", "restarts": "idle"}
        assert result_of(carry_out(node, recover))["status"] == "changed"
        assert packages(node) == before and not node.exists(CONFIG)
        seen.check_ran(packages_alone(lab, node))
        assert versions(node) == {f"{NEW}-1"}


def test_a_rollback_days_later_leaves_nothing_of_the_packages(node: Node) -> None:
    """Not their configuration files, nor the spec that their unit has written meanwhile."""
    serve(node, *toolkit.debs(NEW))
    before, run = packages(node), "20261123T000000Z-bbbb"
    assert result_of(carry_out(node, planned(node, Component.PACKAGES, run, INSTALL)))["status"] == "changed"
    assert versions(node) == {f"{NEW}-1"} and node.exists(CONFIG)
    wait_for("nvidia-cdi-refresh has written its spec", lambda: node.exists(DYNAMIC), 30.0)
    undo = {"verb": "rollback", "run": run, "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert packages(node) == before
    assert not any(node.exists(path) for path in (CONFIG, DYNAMIC, toolkit.REFRESH_ENV))


# --- what is not killed in the middle, and what was

RUN = "20261123T000000Z-aaaa"
JOURNAL = f"/var/lib/gpumend/runs/{RUN}/{Component.PACKAGES}/journal.json"
RECOVER = {"verb": "recover", "journals": [JOURNAL], "run": "next", "who": "test", "restarts": "idle"}
WAITS = "touch /run/began; while [ ! -e /run/go ]; do sleep 0.1; done"


def state_of(node: Node, name: str) -> str:
    """dpkg's letters of a package."""
    return node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}", name], check=False).stdout.strip()


def journal_state(node: Node) -> str:
    return str(json.loads(node.read(JOURNAL))["state"])


def test_at_the_limit_a_package_manager_goes_on_and_keeps_the_hosts_lock(node: Node) -> None:
    """It was killed after 900 s, and left packages half-installed."""
    node.sh("rm -rf /run/began /run/go /var/lib/gpumend")
    serve(node, *toolkit.debs(NEW, postinst=WAITS))
    data = planned(node, Component.PACKAGES, RUN, INSTALL)
    told = result_of(carry_out(node, {**data, "answer_within": 3}))
    assert told["status"] == "running" and "install nvidia-container-toolkit" in told["detail"], told
    assert journal_state(node) == "working"
    other = {**data, "run": "another", "lock_wait": 0}
    held = result_of(carry_out(node, other))
    assert held["status"] == "refused" and f"run {RUN}, pid" in held["detail"], held
    node.sh("touch /run/go")
    undo = {"verb": "rollback", "run": RUN, "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed", (
        "it waits for what goes on, which ended well"
    )
    assert journal_state(node) == "put_back" and versions(node) == set()


def test_a_package_manager_outlives_the_run_and_is_waited_for(node: Node) -> None:
    node.sh("rm -rf /run/began /run/go /var/lib/gpumend")
    serve(node, *toolkit.debs(NEW, postinst=WAITS))
    before = packages(node)
    data = planned(node, Component.PACKAGES, RUN, INSTALL)
    with fault("kill -9"):
        sent = threading.Thread(target=carry_out, args=(node, data))
        sent.start()
        wait_for("the script runs", lambda: node.exists("/run/began"), 60.0)
        node.sh("kill -9 $(sed 's/.*pid //' /run/gpumend.lock)")
        sent.join(60)
        answers: list[dict[str, Any]] = []
        recovering = threading.Thread(target=lambda: answers.append(result_of(carry_out(node, RECOVER))))
        recovering.start()
        wait_for("recovery holds the lock", lambda: b"run next" in node.read("/run/gpumend.lock"), 60.0)
        assert state_of(node, TOOLKIT[1]) == "iF", "it is at work still"
        node.sh("touch /run/go")
        recovering.join(60)
        assert [answer["status"] for answer in answers] == ["changed"], answers
        assert journal_state(node) == "put_back" and packages(node) == before


OURS = "[ ! -e /run/interrupt ]; /usr/sbin/policy-rc.d docker restart || echo held by $? >/run/ours"
FOREIGN = "#!/bin/sh\ntouch /run/foreign; systemctl restart docker\n"
INTERRUPT = """
_perform = perform
def perform(*arguments):
    try:
        _perform(*arguments)
    finally:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_recovery_finishes_its_own_packages_and_nobody_elses(node: Node, lab: Lab) -> None:
    """Ours behind the gate and with services held; another's, whose script restarts docker, stays as it was."""
    node.sh("rm -rf /run/ours /run/foreign /var/lib/gpumend; touch /run/interrupt")
    serve(node, *toolkit.debs(NEW, postinst=OURS))
    data = planned(node, Component.PACKAGES, RUN, INSTALL)
    with fault("kill -9"):
        assert carry_out(node, data, INTERRUPT).returncode == 137
        assert state_of(node, TOOLKIT[1]) == "iF" and journal_state(node) == "working"
        node.write("/root/foreign.deb", build(Deb("foreign", scripts={"postinst": FOREIGN})))
        node.sh("dpkg --unpack /root/foreign.deb; rm /run/interrupt")
        node.run(["docker", "run", "-d", "--name", "trainer", images.BASE, "sleep", "600"])
        pid = node.main_pid("docker.service")
        try:
            waits = result_of(carry_out(node, RECOVER))
            assert waits["status"] == "pending" and "trainer" in waits["detail"], waits
            assert state_of(node, TOOLKIT[1]) == "iF" and journal_state(node) == "working"
        finally:
            node.run(["docker", "rm", "-f", "trainer"])
        done = result_of(carry_out(node, RECOVER))
        assert done["status"] == "changed", done
        assert node.read("/run/ours") == b"held by 101\n", "it was finished, and might have started nothing"
        assert versions(node) == set() and journal_state(node) == "put_back"
        assert state_of(node, "foreign") == "iU" and not node.exists("/run/foreign")
        assert node.main_pid("docker.service") == pid and not node.exists("/usr/sbin/policy-rc.d")
        found = packages_alone(lab, node)
        assert "dpkg --configure foreign" in found.finding(node, "GM008")["remedy"], found.said
        assert versions(node) == set() and state_of(node, "foreign") == "iU", (
            "nor is it finished by an installation"
        )
        assert not node.exists("/run/foreign") and node.main_pid("docker.service") == pid
    node.run(["dpkg", "--purge", "foreign"])


def test_the_lock_of_apts_lists_is_waited_for_like_dpkgs(node: Node) -> None:
    serve(node, *toolkit.debs(NEW), update=False)
    data = planned(node, Component.PACKAGES, RUN, INSTALL)
    with AptLock(node, "/var/lib/apt/lists/lock"):
        told = result_of(carry_out(node, {**data, "package_wait": 1}))
    assert told["status"] == "refused" and "apt's lock is held by process" in told["detail"], told


def test_what_apt_calls_besides_asks_nothing_restarts_nothing_and_is_told(node: Node) -> None:
    """As needrestart's hook would (its apt-pinvoke ends at once with NEEDRESTART_SUSPEND), and another."""
    serve(node, *toolkit.debs(NEW))
    node.write(
        "/usr/lib/needrestart/apt-pinvoke",
        '#!/bin/sh\n[ -n "$NEEDRESTART_SUSPEND" ] || systemctl restart docker\n',
        0o755,
    )
    node.write(
        "/etc/apt/apt.conf.d/99hooks",
        'DPkg::Post-Invoke {"test -x /usr/lib/needrestart/apt-pinvoke && /usr/lib/needrestart/apt-pinvoke || true";};\n'
        'DPkg::Pre-Install-Pkgs {"/usr/sbin/dpkg-preconfigure --apt || true";};\n'
        'DPkg::Pre-Invoke {"env >/run/hook; [ ! -t 0 ] || touch /run/terminal";};\n',
    )
    pid = node.main_pid("docker.service")
    try:
        result = result_of(carry_out(node, planned(node, Component.PACKAGES, RUN, INSTALL)))
        assert result["status"] == "changed", result
        assert "needrestart is held back" in result["detail"] and "debconf asks nothing" in result["detail"]
        assert "a hook of apt's ran besides: env >/run/hook" in result["detail"]
        assert b"DEBIAN_FRONTEND=noninteractive" in node.read("/run/hook") and not node.exists(
            "/run/terminal"
        )
        assert node.main_pid("docker.service") == pid
    finally:
        node.sh("rm -rf /etc/apt/apt.conf.d/99hooks /usr/lib/needrestart /run/hook")
