"""GM203, GM212, GM213: the toolkit's packages, on what real apt, dpkg and dnf print about packages of NVIDIA's names and
relations (tests/fixtures/toolkit)."""

from __future__ import annotations

import hashlib
import os
import re
from typing import Any

import pytest

from gpumend.payload.change import managers, packaging, progress, toolkit_version, zypper
from gpumend.plan.plan import plan
from gpumend.plan.step import ToolkitProof, WrittenByPackage
from gpumend.plan.transaction import Transaction
from gpumend.rules.finding import Component
from gpumend.rules.rule import Context
from gpumend.rules.toolkit import packages
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.packages import REQUEST, TOOLKIT, parse_dpkg, parse_held, parse_policy, parse_rpm
from gpumend.state.snapshot import Output
from gpumend.text.version import upstream
from tests.unit.build import (
    CONFIG,
    DYNAMIC,
    TODAY,
    Host,
    config,
    container,
    findings,
    fixture,
    healthy,
    outcome,
    the,
    verdict,
)

# The captures are of releases below the security floor.
INSTALL: dict[str, Any] = {"toolkit": {"install": True, "insist": True}}
SAFE: dict[str, Any] = {"toolkit": {"install": True}}
PROGRAMS = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-cdi-hook")
LIST = "/etc/apt/sources.list.d/nvidia-container-toolkit.list"
LIST_TEXT = "deb [signed-by=/k.gpg] https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH) /\n"


def captured(name: str) -> str:
    return fixture(f"toolkit/{name}.txt")


def offers(*versions: str, others: tuple[str, ...] | None = None, fetched: bool = True) -> str:
    """`apt-cache policy` in apt's own form: the toolkit in these versions, newest first; `others` of the other three."""

    def block(name: str, found: tuple[str, ...]) -> str:
        rows = "".join(f"     {version} 500\n        500 https://repo ./ Packages\n" for version in found)
        return f"{name}:\n  Installed: (none)\n  Candidate: {(found or ('(none)',))[0]}\n  Version table:\n{rows}"

    told = [
        block(name, versions if name == TOOLKIT[0] or others is None else others)
        for name in TOOLKIT
        if versions
    ]
    return "".join(told) + (block("apt", ("3.0.3",)) if fetched else "")


def dpkg(versions: dict[str, str], held: tuple[str, ...] = ()) -> str:
    rows = (f"{'hi' if name in held else 'ii'} \t{name}\t{version}\n" for name, version in versions.items())
    return "ii \tdocker.io\t28.5.2\n" + "".join(rows)


def fresh(policy: str | None = None, sources: bool = False) -> Host:
    """A new node: driver and Docker, apt, no toolkit. policy: what `apt-cache policy` says; None where nobody asked."""
    bare = healthy().but(
        files={
            CONFIG: None,
            DYNAMIC: None,
            "/usr/bin/nvidia-container-runtime": None,
            LIST: LIST_TEXT if sources else None,
        },
        programs={**dict.fromkeys(PROGRAMS), "apt-get": "/usr/bin/apt-get"},
        commands={"nvidia-ctk": None, "dpkg": (1, dpkg({}), "")},
    )
    return bare if policy is None else bare.but(commands={"apt-offers": (0, policy, "")})


def packaged(
    versions: dict[str, str] | str, held: tuple[str, ...] = (), rpm: bool = False, **more: Any
) -> Host:
    """A healthy host whose toolkit came by these packages."""
    version = "1.18.1"
    if isinstance(versions, str):
        version = versions.partition("-")[0]
        versions = dict.fromkeys(TOOLKIT, versions)
    host = healthy(toolkit=version, **more).but(programs={"dnf" if rpm else "apt-get": "/usr/bin/manager"})
    if not rpm:
        return host.but(commands={"dpkg": (1, dpkg(versions, held), "")})
    rows = "".join(f"{name}\t(none):{found}\n" for name, found in versions.items())
    return host.but(commands={"dpkg": None, "rpm": (0, rows, "")})


def transaction(host: Host, wanted: dict[str, Any]) -> Transaction | None:
    """What is planned for the packages."""
    context = Context(host.state(), parse_wanted(wanted), "gpu1", TODAY)
    return plan(context, verdict(host, wanted).findings).get(Component.PACKAGES)


def targets(host: Host, wanted: dict[str, Any]) -> tuple[str, ...]:
    """manager, action and targets of the planned step, or nothing."""
    found = transaction(host, wanted)
    return (found.steps[0].manager, found.steps[0].verb, *found.steps[0].targets) if found else ()


def each(version: str) -> tuple[str, ...]:
    return tuple(f"{name}={version}" for name in TOOLKIT)


# --- what apt, dpkg and rpm say


def test_the_host_and_the_controller_know_the_same_packages() -> None:
    assert (toolkit_version.TOOLKIT, toolkit_version.NEVER) == (TOOLKIT, packages.NEVER)
    for version in ("1:1.17.8-1", "1.17.8-1", "1.17.8", "1.18.0~rc.1-1", "1.17.8-0ubuntu1"):
        assert toolkit_version.upstream(version) == upstream(version)


def test_policy() -> None:
    found = parse_policy(Output(captured("apt/policy"), "", 0))
    assert set(found) == set(TOOLKIT), "apt itself is known by dpkg alone there: no distribution's list"
    for name in TOOLKIT:
        assert found[name].candidate == "1.18.0-1"
        assert found[name].versions == ("1.18.0-1", "1.17.8-1", "1.17.7-1", "1.17.6-1")


def test_policy_with_pins() -> None:
    found = parse_policy(Output(captured("apt/policy_pinned"), "", 0))
    assert found[TOOLKIT[0]].candidate == "1.17.7-1", "a pin above 1000 holds it"
    assert found["libnvidia-container1"].versions == ("1.17.8-1", "1.17.7-1", "1.17.6-1"), (
        "a pin below 0 forbids it"
    )


def test_dpkg_and_rpm() -> None:
    libraries = {"libnvidia-container-tools": "1.17.7-1", "libnvidia-container1": "1.17.8-1"}
    toolkit = {"nvidia-container-toolkit": "1.17.7-1", "nvidia-container-toolkit-base": "1.17.7-1"}
    assert parse_dpkg(Output(captured("apt/dpkg_mixed"), "", 0)) == libraries | toolkit
    assert parse_held(Output(captured("apt/dpkg_held"), "", 0)) == {"libnvidia-container1"}
    mixed = parse_rpm(Output(captured("dnf/rpm_mixed"), "", 0))
    assert {name: mixed[name] for name in TOOLKIT} == libraries | toolkit


@pytest.mark.parametrize(
    ("err", "told"),
    [
        (
            "E: Failed to fetch http://m/lnc/a.deb  404  File not found [IP: 127.0.0.1 8080]\n"
            "E: Unable to fetch some archives, maybe run apt-get update or try with --fix-missing?\n",
            "E: Failed to fetch http://m/lnc/a.deb  404  File not found [IP: 127.0.0.1 8080]",
        ),
        (
            "E: Can not write log (Is /dev/pts mounted?) - posix_openpt (19: No such device)\n"
            "dpkg: error processing archive /var/cache/apt/archives/a.deb (--unpack):\n"
            " cannot copy extracted data for './usr/a' to '/usr/a.dpkg-new': failed to write (No space left on device)\n"
            "Errors were encountered while processing:\n a\nE: Sub-process /usr/bin/dpkg returned an error code (1)\n",
            "dpkg: error processing archive /var/cache/apt/archives/a.deb (--unpack): cannot copy extracted data for './usr/a' "
            "to '/usr/a.dpkg-new': failed to write (No space left on device)",
        ),
        ("W: no sandbox\nE: Unable to locate package a\n", "E: Unable to locate package a"),
        ("E: Sub-process /usr/bin/dpkg returned an error code (1)\n", "E: Sub-process /usr/bin/dpkg returned an error code (1)"),
        ("Error: one\nError: two\n", "Error: two"),
        (
            "Error: \n Problem: conflicting requests\n  - nothing provides dkms >= 3.1.8 needed by kmod-nvidia-open-dkms-3:575.57.08-1.el9.noarch\n",
            "Error: Problem: conflicting requests - nothing provides dkms >= 3.1.8 needed by "
            "kmod-nvidia-open-dkms-3:575.57.08-1.el9.noarch",
        ),
    ],
)  # fmt: skip
def test_of_a_failure_the_reason_is_told(err: str, told: str) -> None:
    """apt 3.0's and dpkg's own words, of which the last never says why; dnf 4's (stackhpc/ansible-slurm-appliance pull 703)."""
    assert managers.last_line({"status": "ok", "rc": 100, "out": "", "err": err}) == told


# apt-get -s install of a package whose dependency, or the dependency's own, nobody has: apt 2.8 (Ubuntu 24.04), 3.0 (Debian 13), 3.1 (sid)
BLOCK = """Reading package lists...
Some packages could not be installed. This may mean that you have
requested an impossible situation or if you are using the unstable
The following information may help to resolve the situation:

The following packages have unmet dependencies:
 {}

"""
HELD = "E: Unable to correct problems, you have held broken packages.\n"
SOLVER = """E: Unable to satisfy dependencies. Reached two conflicting assignments:
   1. needs-newer:amd64 is selected for install because:
      1. three:amd64=1-1 is selected for install
      2. three:amd64 Depends needs-newer
   2. needs-newer:amd64 Depends libc6 (>= 9)
      but none of the choices are installable:
      [no choices]
"""


@pytest.mark.parametrize(
    ("block", "err", "told"),
    [
        ("libnvidia-compute-580-server : Depends: ocl-icd-libopencl1 but it is not installable", HELD,
         "libnvidia-compute-580-server: Depends: ocl-icd-libopencl1 but it is not installable"),
        ("needs-newer : Depends: libc6 (>= 9) but 2.41-12+deb13u5 is to be installed", HELD + SOLVER,
         "needs-newer: Depends: libc6 (>= 9) but 2.41-12+deb13u5 is to be installed"),
        ("three : Depends: needs-newer but it is not going to be installed", SOLVER,
         "needs-newer:amd64 Depends libc6 (>= 9), which cannot be had"),
        ("two : Conflicts: one but 1-1 is to be installed", HELD, "two: Conflicts: one but 1-1 is to be installed"),
    ],
    ids=["2.8", "3.0", "3.1", "conflict"],
)  # fmt: skip
def test_the_relation_that_nobody_meets_is_told(block: str, err: str, told: str) -> None:
    found = {"status": "ok", "rc": 100, "out": BLOCK.format(block), "err": err}
    assert managers.last_line(found) == told


@pytest.mark.parametrize("rc", [-9, 2])
def test_a_dpkg_that_was_killed_or_failed_gave_no_list(rc: int) -> None:
    """dpkg-query ends with 1 where a pattern matches nothing, and with 2 for an error; a signal is negative."""
    rows = captured("apt/dpkg_mixed")
    assert parse_dpkg(Output(rows, "", 1)) == parse_dpkg(Output(rows, "", 0))
    with pytest.raises(ValueError, match=f"exit status {rc}"):
        parse_dpkg(Output(rows[:40], "", rc))


def test_an_rpm_without_its_database_is_not_asked_and_not_taken_for_no_packages() -> None:
    """Debian's rpm has none. A host that has nothing but rpm has one, if in a place that we do not know."""
    assert "/var/lib/rpm/rpmdb.sqlite" in REQUEST.commands["rpm"].needs_one
    debian = healthy().but(programs={"rpm": "/usr/bin/rpm"}, commands={"rpm": None})
    assert debian.state().packages.installed.ok
    assert debian.but(commands={"dpkg": None}).state().packages.installed.status == "failed"
    neither = healthy().but(programs={"rpm": None}, commands={"rpm": None, "dpkg": None})
    assert neither.state().packages.installed.absent


def test_an_rpm_without_a_version_is_not_installed() -> None:
    """`(none):` alone was a package of an empty version, which no rule can compare."""
    rows = "nvidia-container-toolkit\t(none):\nlibnvidia-container1\t(none):1.17.8-1\ncuda-toolkit\t\nnvidia-driver\n"
    assert parse_rpm(Output(rows, "", 0)) == {"libnvidia-container1": "1.17.8-1"}


# --- GM203: a new node


def test_nothing_is_installed_unless_it_is_wanted() -> None:
    found = the(fresh(offers("1.17.8-1")), "GM203")
    assert found.change is None and found.refused == "" and "deploys/provision.py" in found.remedy
    assert transaction(fresh(offers("1.17.8-1")), {}) is None


def test_all_four_in_one_version_and_what_depends_on_it() -> None:
    host = fresh(offers("1.17.8-1", "1.17.7-1"))
    found = the(host, "GM203", INSTALL)
    assert targets(host, INSTALL) == ("apt", "install", *each("1.17.8-1"))
    assert all(
        word in found.remedy for word in (*TOOLKIT, "1.17.8", "CDI spec", "config.toml", "Docker's runtime")
    )
    [step, proof] = transaction(host, INSTALL).steps  # type: ignore[union-attr]
    assert (step.do, step.keeps) == ("package", WrittenByPackage(CONFIG, None))
    assert proof == ToolkitProof("apt", "1.17.8")


@pytest.mark.parametrize(
    ("policy", "version", "chosen"),
    [
        pytest.param(captured("apt/policy"), "", "1.17.8-1", id="1.18.0-never"),
        pytest.param(captured("apt/policy"), "1.17.6", "1.17.6-1", id="named"),
        pytest.param(captured("apt/policy_pinned"), "", "1.17.7-1", id="the-pinned-one"),
        pytest.param(offers("1.19.0~rc.2-1", "1.18.2-1"), "", "1.18.2-1", id="no-release-candidate"),
        pytest.param(
            offers("1.18.2-1", "1.18.1-1", others=("1.18.1-1",)), "", "1.18.1-1", id="one-that-all-have"
        ),
        pytest.param(
            offers("1.18.1-0ubuntu2", "1.18.1-0ubuntu1"), "1.18.1", "1.18.1-0ubuntu2", id="ubuntus-own"
        ),
        pytest.param(offers("1.18.0-1"), "", "", id="1.18.0-alone"),
        pytest.param(offers("1.18.1-1"), "1.17.8", "", id="named-and-not-there"),
        pytest.param(offers("1.18.1-1", others=()), "", "", id="others-missing"),
    ],
)
def test_which_version(policy: str, version: str, chosen: str) -> None:
    wanted = {"toolkit": {**INSTALL["toolkit"], **({"version": version} if version else {})}}
    host = fresh(policy)
    if chosen:
        assert targets(host, wanted) == ("apt", "install", *each(chosen))
    else:
        found = the(host, "GM203", wanted)
        assert (
            found.change is None
            and "not offered for each of" in found.refused
            and "toolkit.version" in found.remedy
        )


def test_a_revision_of_its_own_for_each_package() -> None:
    policy = offers("1.18.1-1", others=("1.18.1-3",))
    assert targets(fresh(policy), INSTALL)[2:4] == (f"{TOOLKIT[0]}=1.18.1-1", f"{TOOLKIT[1]}=1.18.1-3")


def test_no_repository_has_it_and_none_is_added() -> None:
    found = the(fresh(offers()), "GM203", INSTALL)
    assert found.change is None and "none is added" in found.refused
    told, *lines = found.remedy.split("\n")
    assert "install guide" in told
    assert lines[0].startswith(
        "curl -fsSL https://nvidia.github.io/libnvidia-container/gpgkey | gpg --dearmor -o "
    )
    assert re.search(r"signed-by=/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg", lines[1])
    assert lines[-1] == "apt-get update"


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(fresh(offers(), sources=True), id="its-list-was-never-fetched"),
        pytest.param(fresh(offers(fetched=False)), id="no-list-was-ever-fetched"),
        pytest.param(fresh(), id="not-asked"),
    ],
)
def test_what_is_not_known_yet_the_host_finds_out(host: Host) -> None:
    assert targets(host, INSTALL) == ("apt", "install", *TOOLKIT)
    assert "the newest version that apt has" in the(host, "GM203", INSTALL).remedy
    named = {"toolkit": {**INSTALL["toolkit"], "version": "1.17.8"}}
    assert targets(host, named) == ("apt", "install", *each("1.17.8"))


@pytest.mark.parametrize(
    ("policy", "version", "words"),
    [
        (offers("1.17.8-1", "1.17.7-1"), "", "1.17.8 is the newest that this host's repositories have, and it is below the security floor 1.19.1"),
        (offers("1.20.0-1", "1.17.8-1"), "1.17.8", "1.17.8 is not installed: it is below the security floor 1.19.1, which fixes CVE-2026-24260"),
        (offers("1.20.0-1", "1.19.0-1"), "1.19.0", "1.19.0 is not installed: it is below the security floor"),
        (offers("1.20.0-1", "1.17.8-1").replace("Candidate: 1.20.0-1", "Candidate: 1.17.8-1"), "", "a pin of this host chooses 1.17.8"),
    ],
)  # fmt: skip
def test_a_version_below_the_security_floor_is_not_installed_unless_somebody_insists(
    policy: str, version: str, words: str
) -> None:
    named = {"version": version} if version else {}
    found = the(fresh(policy), "GM203", {"toolkit": {"install": True, **named}})
    assert found.change is None and words in found.refused, found.refused
    assert "toolkit.insist = true" in found.remedy
    insisted = the(fresh(policy), "GM203", {"toolkit": {**INSTALL["toolkit"], **named}})
    assert insisted.change is not None and "(below 1.19.1" in insisted.remedy


def test_what_is_there_below_the_floor_is_made_whole_all_the_same() -> None:
    """Four packages of one version are as safe as two of it."""
    assert targets(packaged(MIXED), SAFE) == targets(packaged(MIXED), INSTALL) != ()
    assert outcome(packaged("1.17.8-1"), "GM213", SAFE) == "ok", "nothing is upgraded unasked"


def test_the_host_holds_to_the_floor_where_nobody_knows_the_version_yet() -> None:
    [step, _] = transaction(fresh(), SAFE).steps  # type: ignore[union-attr]
    assert (step.least, "1.19.0" in step.broken) == ("1.19.1", True)
    assert (
        step.as_data()["least"] == "1.19.1"
        and "least" not in transaction(fresh(), INSTALL).steps[0].as_data()
    )  # type: ignore[union-attr]
    for version in ("1.19.1", "1.20.0", "1.20.0~rc.1", "1.100.0"):
        toolkit_version.safe_version(version, step.least, step.broken)
    for version in ("1.19.0", "1.17.8", "1.19.1~rc.1", "1.9.9"):
        with pytest.raises(managers.Unfit, match="security floor"):
            toolkit_version.safe_version(version, step.least, step.broken)
    with pytest.raises(managers.Unfit, match="broken release"):
        toolkit_version.safe_version("1.21.0", step.least, ("1.21.0",))


def rpm_host(*managers: str) -> Host:
    return fresh().but(
        programs={"apt-get": None, **{name: f"/usr/bin/{name}" for name in managers}},
        commands={"dpkg": None, "rpm": (0, "dnf\t(none):4.14-1\n", "")},
    )


@pytest.mark.parametrize("manager", ["dnf", "zypper"])
def test_they_are_asked_by_mend_alone(manager: str) -> None:
    assert targets(rpm_host(manager), INSTALL) == (manager, "install", *TOOLKIT)


SUMMARY = """<?xml version='1.0'?>
<stream>
<message type="info">Resolving package dependencies...</message>
<install-summary download-size="13264" space-usage-diff="0" packages-to-change="2" need-restart="0" need-reboot="0">
<{section}>
<solvable type="package" name="libnvidia-container1" edition="1.20.0-1" arch="noarch" repository="gpumend-toolkit" edition-old="1.19.1-1" arch-old="noarch" summary="s">
<description>s</description></solvable>
<solvable type="package" name="nvidia-container-toolkit" edition="1.20.0-1" arch="noarch" repository="gpumend-toolkit" edition-old="1.19.1-1" arch-old="noarch" summary="s">
<description>s</description></solvable>
</{section}>
</install-summary>
<prompt id="0"><text>Continue?</text></prompt>
</stream>
"""
UNSOLVED = """<?xml version='1.0'?>
<stream>
<prompt id="1">
<description>Problem: 1: Detailed information:
- nothing provides the requested &apos;glibc&apos;
</description>
<text>Choose the above solution using &apos;1&apos; or cancel using &apos;c&apos;</text>
</prompt>
</stream>
"""


@pytest.mark.parametrize(
    ("section", "what", "version"),
    [
        ("to-install", "install", "1.20.0-1"), ("to-upgrade", "upgrade", "1.20.0-1"), ("to-downgrade", "downgrade", "1.20.0-1"),
        ("to-remove", "remove", None), ("to-something-new", "remove", None),
    ],
)  # fmt: skip
def test_what_zypper_would_do(section: str, what: str, version: str | None) -> None:
    """zypper 1.14.101 --xmlout --dry-run."""
    found = zypper.zypper_changes(SUMMARY.format(section=section))
    assert found == [(what, name, version) for name in ("libnvidia-container1", "nvidia-container-toolkit")]


def test_what_zypper_does_not_say_whole_is_not_done() -> None:
    assert zypper.zypper_changes(UNSOLVED) is None
    assert (
        zypper.zypper_changes(SUMMARY.format(section="to-install").replace('change="2"', 'change="3"'))
        is None
    )
    assert zypper.zypper_changes("<stream></stream>") == [], "nothing is to be done"
    told = managers.last_line({"status": "ok", "rc": 4, "out": UNSOLVED, "err": ""})
    assert told.startswith("Problem: 1: Detailed information: - nothing provides")
    gone = '<stream><message type="error">No provider of &apos;a&apos; found.</message></stream>'
    assert "No provider of" in managers.last_line({"status": "ok", "rc": 104, "out": gone, "err": ""})


@pytest.mark.parametrize(
    ("host", "words", "line"),
    [
        pytest.param(rpm_host(), "apt, dnf and zypper only", "", id="none"),
        pytest.param(
            fresh(offers("1.17.8-1")).but(programs={"nvidia-ctk": "/usr/local/bin/nvidia-ctk"}),
            "/usr/local/bin/nvidia-ctk came without a package",
            "",
            id="by-hand",
        ),
        pytest.param(
            fresh(offers("1.17.8-1")).but(files={"/etc/nv_tegra_release": "# R36\n"}),
            "JetPack",
            "",
            id="jetson",
        ),
    ],
)
def test_what_holds_it_back(host: Host, words: str, line: str) -> None:
    found = the(host, "GM203", INSTALL)
    assert found.change is None and words in found.refused and found.remedy
    assert line in found.remedy.partition("\n")[2]


def test_an_audit_that_could_not_ask_says_so() -> None:
    host = fresh(offers("1.17.8-1")).but(commands={"dpkg": {"status": "denied", "error": "no"}})
    assert outcome(host, "GM203", INSTALL) == "unknown"
    assert outcome(host, "GM203") == "fail", "without the wish to install nothing of it is needed"


# --- GM212: one version


MIXED = parse_dpkg(Output(captured("apt/dpkg_mixed"), "", 0))


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (dict.fromkeys(TOOLKIT, "1.17.8-1"), "ok"),
        (MIXED, "warn"),
        ({TOOLKIT[1]: "1.17.8-1"}, "ok"),  # -base alone is a way to install it, for CDI
        ({TOOLKIT[0]: "1.17.8-1", TOOLKIT[3]: "1.17.8-2"}, "ok"),  # another revision of the same
        ({TOOLKIT[0]: "1.17.8-1", TOOLKIT[3]: "1:1.17.8-0ubuntu1"}, "ok"),
        ({}, "ok"),
    ],
)
@pytest.mark.parametrize("rpm", [False, True])
def test_gm212(versions: dict[str, str], expected: str, rpm: bool) -> None:
    assert outcome(packaged(versions, rpm=rpm), "GM212") == expected


def test_mixed_versions_are_judged_and_left_unless_it_is_wanted() -> None:
    found = the(packaged(MIXED), "GM212")
    assert found.change is None and found.refused == "toolkit.install is false"
    assert "1.17.7, 1.17.8" in found.summary


@pytest.mark.parametrize(
    ("versions", "version", "action", "expected"),
    [
        pytest.param(MIXED, "", "install", each("1.17.8"), id="up-to-the-newest"),
        pytest.param(MIXED, "1.17.7", "downgrade", each("1.17.7"), id="down-where-it-is-named"),
        pytest.param(MIXED, "1.18.1", "install", each("1.18.1"), id="up-to-the-named"),
        pytest.param({**MIXED, TOOLKIT[3]: "1.18.0-1"}, "", "install", TOOLKIT, id="never-1.18.0"),
        pytest.param(
            {TOOLKIT[1]: "1.17.8-1", TOOLKIT[3]: "1.17.7-1"},
            "",
            "install",
            (f"{TOOLKIT[1]}=1.17.8", f"{TOOLKIT[3]}=1.17.8"),
            id="those-that-are-there",
        ),
        pytest.param(
            {TOOLKIT[0]: "1.9.0-1", TOOLKIT[3]: "1.17.8-1"},
            "",
            "install",
            (f"{TOOLKIT[0]}=1.17.8", f"{TOOLKIT[3]}=1.17.8"),
            id="numbers-not-letters",
        ),
    ],
)
def test_to_which_version(
    versions: dict[str, str], version: str, action: str, expected: tuple[str, ...]
) -> None:
    wanted = {"toolkit": {**INSTALL["toolkit"], **({"version": version} if version else {})}}
    assert targets(packaged(versions), wanted) == ("apt", action, *expected)


def test_a_hold_is_named_and_not_broken() -> None:
    found = the(packaged(MIXED, held=("libnvidia-container1",)), "GM212", INSTALL)
    assert found.change is None and found.refused == "on hold: libnvidia-container1"
    assert found.remedy == "Take the hold off: apt-mark unhold libnvidia-container1"


def test_containers_that_would_lose_the_gpu_hold_it_back() -> None:
    """The packages' scripts reload systemd: GM509."""
    host = packaged(MIXED, mode="auto").but(
        files={f"/dev/char/195:{minor}": None for minor in (0, 254, 255)},
        commands={"nvidia-ctk": (0, "NVIDIA Container Toolkit CLI version 1.17.7\n", "")},
        info={"CgroupDriver": "systemd", "ServerVersion": "26.1.5"},
    )
    host = host.with_containers(container("trainer", gpus=True))
    wanted = {**INSTALL, "runtime": {"mode": "keep"}}
    assert outcome(host, "GM509", wanted) == "warn"
    found = the(host, "GM212", wanted)
    assert found.change is None and "lose the GPU" in found.refused and "GM509" in found.remedy


# --- GM213: the wanted version


@pytest.mark.parametrize(
    ("have", "wanted", "expected", "action"),
    [
        ("1.17.8-1", {"version": "1.17.8"}, "ok", ""),
        ("1.17.8-1", {"install": True}, "ok", ""),
        ("1.17.8-1", {"version": "1.18.1"}, "warn", ""),
        ("1.17.8-1", {"version": "1.18.1", "install": True, "insist": True}, "warn", "install"),
        ("1.17.8-1", {"version": "1.17.7", "install": True, "insist": True}, "warn", "downgrade"),
        ("1.18.0-1", {}, "ok", ""),  # GM206 judges what it breaks
        ("1.18.0-1", {"install": True}, "warn", "install"),
    ],
)
def test_gm213(have: str, wanted: dict[str, Any], expected: str, action: str) -> None:
    host = packaged(have)
    assert outcome(host, "GM213", {"toolkit": wanted}) == expected
    assert targets(host, {"toolkit": wanted})[1:2] == ((action,) if action else ())


def test_a_toolkit_without_packages_is_judged_and_left() -> None:
    host = healthy(toolkit="1.18.1").but(
        programs={"apt-get": "/usr/bin/apt-get"}, commands={"dpkg": (1, dpkg({}), "")}
    )
    found = the(host, "GM213", {"toolkit": {"version": "1.17.8", "install": True}})
    assert found.change is None and "came without a package" in found.refused
    assert findings(host, "GM213", INSTALL) == []


def test_config_toml_is_in_the_plan_as_it_was_seen() -> None:
    host = packaged("1.17.7-1", layout="debian")
    text = config("cdi", "@/sbin/ldconfig").encode()
    [step, _] = transaction(host, {"toolkit": {**INSTALL["toolkit"], "version": "1.17.8"}}).steps  # type: ignore[union-attr]
    assert step.keeps == WrittenByPackage(CONFIG, hashlib.sha256(text).hexdigest())


@pytest.mark.parametrize(
    ("changes", "told"),
    [([("install", "a", "1"), ("install", "b", "1")], "install of 2 packages"), ([], "install of 1 package")],
    ids=["as foreseen", "in a rollback"],
)
def test_how_many_packages_come_is_told(
    monkeypatch: pytest.MonkeyPatch, changes: list[tuple[str, str, str]], told: str
) -> None:
    """A rollback has its targets alone: it told of 0 packages. apt-get is a stand-in that does nothing."""
    done = {"status": "ok", "rc": 0, "out": "", "err": ""}
    monkeypatch.setattr(packaging, "run", lambda argv, timeout: done)
    heard, into = os.pipe()
    monkeypatch.setattr(progress, "HEARD_BY", [into])
    packaging.perform("apt", "install", ["a=1"], changes, 1)
    os.close(into)
    with os.fdopen(heard) as words:
        assert words.read() == f"{told}\n\n"
