"""GM201-GM211: the toolkit and its config.toml."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.rules.change import RemoveFiles
from gpumend.rules.finding import Component, Finding
from tests.unit.build import (
    CONFIG,
    DYNAMIC,
    REFRESH,
    STATIC,
    Host,
    a_directory,
    besides_its_age,
    config,
    container,
    edits_of,
    file,
    findings,
    fixture,
    h100,
    healthy,
    mended,
    outcome,
    process,
    the,
    unread,
    verdict,
)

REAL, PLAIN = "@/sbin/ldconfig.real", "@/sbin/ldconfig"


def configured(text: Any, toolkit: str = "1.18.1", docker: str = "28.5.2", layout: str = "ubuntu") -> Host:
    return healthy(docker, toolkit, layout=layout).but(files={CONFIG: text})


# --- GM201: ldconfig

LDCONFIG: list[tuple[str | None, str, dict[str, str]]] = [
    # value, layout, outcome by toolkit version
    (REAL, "ubuntu", {"1.14.6": "ok", "1.15.0": "ok", "1.17.3": "ok", "1.18.1": "ok"}),
    (PLAIN, "debian", {"1.14.6": "ok", "1.15.0": "ok", "1.17.3": "ok", "1.18.1": "ok"}),
    (None, "ubuntu", {"1.14.6": "ok", "1.18.1": "ok"}),
    ("", "ubuntu", {"1.14.6": "ok", "1.18.1": "ok"}),
    # the other layout's: used as it stands before 1.15.0, corrected on use from there
    (
        PLAIN,
        "ubuntu",
        {"1.13.5": "fail", "1.14.6": "fail", "1.15.0": "warn", "1.17.8": "warn", "1.20.0": "warn"},
    ),
    (
        REAL,
        "debian",
        {"1.13.5": "fail", "1.14.6": "fail", "1.15.0": "warn", "1.17.8": "warn", "1.20.0": "warn"},
    ),
    # without @: the container's own; refused from 1.17.3
    ("/sbin/ldconfig", "debian", {"1.14.6": "warn", "1.17.2": "warn", "1.17.3": "fail", "1.18.1": "fail"}),
    (
        "/sbin/ldconfig.real",
        "ubuntu",
        {"1.14.6": "warn", "1.17.2": "warn", "1.17.3": "fail", "1.20.0": "fail"},
    ),
    ("/usr/sbin/ldconfig", "debian", {"1.17.3": "fail"}),
    # nothing normalises what is not /sbin/ldconfig
    ("@/opt/glibc/ldconfig", "debian", {"1.14.6": "fail", "1.17.8": "fail", "1.20.0": "fail"}),
]


@pytest.mark.parametrize(
    ("value", "layout", "toolkit", "expected"),
    [
        pytest.param(value, layout, toolkit, expected, id=f"{value}-{layout}-{toolkit}")
        for value, layout, outcomes in LDCONFIG
        for toolkit, expected in outcomes.items()
    ],
)
def test_gm201(value: str | None, layout: str, toolkit: str, expected: str) -> None:
    host = configured(config("cdi", value), toolkit, layout=layout)
    assert outcome(host, "GM201") == expected
    if expected != "ok":
        right = REAL if layout == "ubuntu" else PLAIN
        assert edits_of(findings(host, "GM201")) == {"nvidia-container-cli.ldconfig": right}


def test_gm201_the_h100s_wrapper_script_is_no_fault() -> None:
    """lab.md: /sbin/ldconfig is a 387-byte script there, and ldconfig.real exists."""
    host = configured(config("cdi", REAL))
    state = host.state()
    assert state.toolkit.ldconfig_wrapper.value is True and state.toolkit.ldconfig_real.value is True
    assert outcome(host, "GM201") == "ok"


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        (file("#!/bin/sh\n", 0o755), True),
        (file(b"\x7fELF#!", 0o755), False),
        (None, None),
        ({"status": "denied", "error": "Permission denied"}, None),
    ],
    ids=["script", "program", "absent", "denied"],
)
def test_what_ldconfig_is(item: dict[str, Any] | None, expected: bool | None) -> None:
    host = configured(config("cdi", REAL)).but(files={"/sbin/ldconfig": item})
    assert host.state().toolkit.ldconfig_wrapper.value is expected


def test_gm201_evidence_names_the_line() -> None:
    found = the(configured(config("cdi", PLAIN)), "GM201")
    number = config("cdi", PLAIN).splitlines().index(f'ldconfig = "{PLAIN}"') + 1
    assert found.evidence[0].source == f"{CONFIG}:{number}"


@pytest.mark.parametrize(
    ("permit", "expected"), [("true", "warn"), ("false", "fail")], ids=["permitted", "not-permitted"]
)
def test_gm201_allow_ldconfig_from_container(permit: str, expected: str) -> None:
    text = config("cdi", "/sbin/ldconfig", f"\n[features]\nallow-ldconfig-from-container = {permit}\n")
    assert outcome(configured(text), "GM201") == expected


@pytest.mark.parametrize(
    ("wanted", "expected", "changes"),
    [
        ({"runtime": {"ldconfig": "keep"}}, "ok", False),
        ({"runtime": {"ldconfig": "auto"}}, "warn", True),
        ({"runtime": {"manage": False}}, "warn", False),
    ],
)
def test_gm201_wanted(wanted: dict[str, Any], expected: str, changes: bool) -> None:
    host = configured(config("cdi", PLAIN))
    assert outcome(host, "GM201", wanted) == expected
    assert bool(edits_of(findings(host, "GM201", wanted))) is changes


# --- GM203: installed


HOOK = "nvidia-container-runtime-hook"


@pytest.mark.parametrize(
    ("gone", "wanted", "words"),
    [
        pytest.param(("nvidia-ctk", "nvidia-container-runtime", HOOK), {}, "is not installed", id="all"),
        pytest.param(("nvidia-ctk",), {}, "not whole: nvidia-ctk missing", id="ctk"),
        pytest.param(
            ("nvidia-container-runtime",), {}, "not whole: nvidia-container-runtime missing", id="runtime"
        ),
        pytest.param(
            ("nvidia-container-runtime",), {"docker": {"paths": ["device"]}}, "", id="runtime-not-needed"
        ),
        # nvidia-container-toolkit-base has no hook: only --gpus and mode legacy need it
        pytest.param((HOOK,), {}, "", id="hook-not-needed"),
        pytest.param(
            (HOOK,), {"docker": {"paths": ["gpus"]}}, f"not whole: {HOOK} missing", id="hook-for-gpus"
        ),
        pytest.param(
            (HOOK,), {"runtime": {"mode": "legacy"}}, f"not whole: {HOOK} missing", id="hook-for-legacy"
        ),
    ],
)
def test_gm203(gone: tuple[str, ...], wanted: dict[str, Any], words: str) -> None:
    host = healthy().but(
        programs=dict.fromkeys(gone), commands={"nvidia-ctk": None} if "nvidia-ctk" in gone else {}
    )
    found = findings(host, "GM203", wanted)
    assert [words in finding.summary and finding.change is None for finding in found] == (
        [True] if words else []
    )


def test_gm203_unread() -> None:
    assert outcome(healthy().but(programs={"nvidia-ctk": unread("denied")}), "GM203") == "unknown"


# --- GM204-GM207: the mode

USER = container("trainer", gpus=True, project="shop")


def moded(
    mode: str | None, toolkit: str = "1.18.1", docker: str = "28.5.2", *users: Any, more: str = ""
) -> Host:
    return configured(config(mode, REAL, more), toolkit, docker).with_containers(*users)


Wants = dict[str, Any]
CDI: Wants = {"runtime": {"mode": "cdi"}}
AUTO: Wants = {"runtime": {"mode": "auto"}}
LEGACY: Wants = {"runtime": {"mode": "legacy"}}
KEEP: Wants = {"runtime": {"mode": "keep"}}
BREAK: Wants = {"runtime": {"mode": "cdi"}, "allow_breaking_gpus_flag": True}
GPUS: Wants = {"runtime": {"mode": "keep"}, "docker": {"paths": ["gpus"]}}

# present mode, toolkit, docker, who uses --gpus, wanted -> findings by code, and what mend sets the mode to
MODES: dict[str, tuple[Host, Wants, dict[str, str], str | None]] = {
    "as-wanted": (moded("cdi"), CDI, {}, None),
    "auto-1.17": (moded("auto", "1.17.8"), CDI, {"GM204": "warn"}, "cdi"),
    "auto-1.18": (moded("auto"), CDI, {}, None),
    "auto-1.20": (moded("auto", "1.20.0"), CDI, {}, None),
    "no-mode-is-auto": (moded(None), CDI, {}, None),
    "no-mode-is-auto-1.17": (moded(None, "1.17.8"), CDI, {"GM204": "warn"}, "cdi"),
    "legacy": (moded("legacy"), CDI, {"GM204": "warn"}, "auto"),
    "legacy-1.17": (moded("legacy", "1.17.8"), CDI, {"GM204": "warn"}, "cdi"),
    "csv": (moded("csv"), CDI, {"GM204": "warn"}, "auto"),
    "jit-cdi-1.18": (moded("jit-cdi"), CDI, {}, None),
    "jit-cdi-1.18-wants-auto": (moded("jit-cdi"), AUTO, {"GM204": "warn"}, "auto"),
    "cdi-wants-legacy": (moded("cdi"), LEGACY, {"GM204": "warn"}, "legacy"),
    "keep-auto": (moded("auto"), KEEP, {}, None),
    "keep-cdi": (moded("cdi"), KEEP, {}, None),
    # promise 7: --gpus goes through the hook, which takes legacy only, on Docker before 29.2
    "user-28": (moded("auto", "1.17.8", "28.5.2", USER), CDI, {"GM204": "warn"}, None),
    "user-20": (moded("auto", "1.17.8", "20.10.24", USER), CDI, {"GM204": "warn"}, None),
    "user-29.1": (moded("auto", "1.17.8", "29.1.3", USER), CDI, {"GM204": "warn"}, None),
    "user-29.2": (moded("auto", "1.17.8", "29.2.0", USER), CDI, {"GM204": "warn"}, "cdi"),
    "user-opted-in": (moded("auto", "1.17.8", "28.5.2", USER), BREAK, {"GM204": "warn"}, "cdi"),
    "stopped-user-counts": (
        moded("auto", "1.17.8", "28.5.2", container("old", gpus=True, running=False)), CDI, {"GM204": "warn"}, None,
    ),
    "user-of-device": (moded("auto", "1.17.8", "28.5.2", container(cdi="nvidia.com/gpu=0")), CDI, {"GM204": "warn"}, "cdi"),
    "user-of-runtime": (moded("auto", "1.17.8", "28.5.2", container(runtime="nvidia")), CDI, {"GM204": "warn"}, "cdi"),
    "user-wants-legacy": (moded("auto", "1.18.1", "28.5.2", USER), LEGACY, {"GM204": "warn"}, "legacy"),
    # GM205: it is broken already
    "broken-user": (moded("cdi", "1.18.1", "28.5.2", USER), CDI, {"GM205": "fail"}, None),
    "broken-user-wants-auto": (
        moded("cdi", "1.18.1", "28.5.2", USER), AUTO, {"GM204": "warn", "GM205": "fail"}, "auto",
    ),
    "jit-cdi-user": (moded("jit-cdi", "1.18.1", "28.5.2", USER), KEEP, {"GM205": "fail"}, None),
    "no-broken-user-29.2": (moded("cdi", "1.18.1", "29.2.0", USER), CDI, {}, None),
    "path-gpus-28": (moded("cdi"), GPUS, {"GM205": "fail"}, None),
    "path-gpus-29.2": (moded("cdi", "1.18.1", "29.2.0"), GPUS, {}, None),
    "path-gpus-auto": (moded("auto"), GPUS, {}, None),
    # 1.18.0 alone: cdi breaks `cdi generate`
    "1.18.0-auto": (moded("auto", "1.18.0"), CDI, {}, None),
    "1.18.0-cdi": (moded("cdi", "1.18.0"), CDI, {"GM206": "fail"}, "auto"),
    "1.18.0-cdi-wants-auto": (moded("cdi", "1.18.0"), AUTO, {"GM204": "warn"}, "auto"),
    "1.18.0-cdi-keep": (moded("cdi", "1.18.0"), KEEP, {"GM206": "fail"}, None),
    "1.18.1-cdi": (moded("cdi", "1.18.1"), CDI, {}, None),
    # GM207: modes that are none
    "banana": (moded("banana"), AUTO, {"GM207": "fail"}, "auto"),
    "banana-wants-legacy": (moded("banana"), LEGACY, {"GM207": "fail"}, "legacy"),
    "jit-cdi-1.17": (moded("jit-cdi", "1.17.8"), AUTO, {"GM207": "fail"}, "auto"),
    "case-counts": (moded("CDI"), AUTO, {"GM207": "fail"}, "auto"),
}  # fmt: skip


@pytest.mark.parametrize(("host", "wanted", "expected", "becomes"), MODES.values(), ids=MODES.keys())
def test_modes(host: Host, wanted: Wants, expected: dict[str, str], becomes: str | None) -> None:
    found = [
        finding
        for finding in verdict(host, wanted).findings
        if finding.code in ("GM204", "GM205", "GM206", "GM207")
    ]
    assert {finding.code: str(finding.status) for finding in found} == expected
    assert edits_of(found).get("nvidia-container-runtime.mode") == becomes
    assert all(finding.change or finding.refused for finding in found), "held back, and nobody is told why"


def test_gm204_names_who_would_break() -> None:
    found = the(moded("auto", "1.17.8", "28.5.2", USER, container("b", gpus=True)), "GM204")
    assert "b, trainer (compose project shop)" in found.refused
    assert [item.text for item in found.evidence if item.source == "docker inspect"] == [
        "trainer (compose project shop): --gpus",
        "b: --gpus",
    ]


def test_gm204_unknown_while_dockers_containers_are_not_known() -> None:
    host = moded("auto", "1.17.8").but(docker=unread("denied"))
    assert outcome(host, "GM204") == "unknown"


def test_gm204_a_stopped_docker_may_hold_users_of_gpus() -> None:
    """Promise 7: who uses --gpus is looked up first. A dockerd that does not run cannot be asked, so nothing is switched."""
    host = moded("auto", "1.17.8").but(docker=None, processes=())
    found = the(host, "GM204")
    assert found.change is None and found.refused


def test_gm204_is_held_back_where_no_spec_resolves_and_none_can_be_made() -> None:
    host = moded("auto").but(
        files={DYNAMIC: None}, programs={"nvidia-ctk": None}, commands={"nvidia-ctk": None}
    )
    assert the(host, "GM204").change is None


def skipping(mode: str, *users: Any, toolkit: str = "1.18.1") -> Host:
    text = config(mode, REAL).replace("skip-mode-detection = false", "skip-mode-detection = true")
    return configured(text, toolkit).with_containers(*users)


def test_skip_mode_detection_lets_gpus_work() -> None:
    assert outcome(skipping("cdi", USER), "GM205") == "ok"
    assert edits_of(findings(skipping("auto", USER, toolkit="1.17.8"), "GM204")) == {
        "nvidia-container-runtime.mode": "cdi"
    }


def test_gm204_skip_mode_detection_does_not_make_specs() -> None:
    """It concerns the hook; the runtime in mode cdi needs a spec all the same."""
    host = skipping("auto").but(
        files={DYNAMIC: None}, programs={"nvidia-ctk": None}, commands={"nvidia-ctk": None}
    )
    assert the(host, "GM204").change is None


def test_gm204_the_remedy_fits_what_holds_it_back() -> None:
    found = the(moded("auto", "1.17.8"), "GM204", {"runtime": {"manage": False}})
    assert found.change is None and found.refused == "runtime.manage is false"
    assert "Recreate those containers" not in found.remedy


def test_gm206_and_gm204_do_not_set_one_key_to_two_values() -> None:
    host = moded("cdi", "1.18.0")
    values = {
        edit.value
        for finding in verdict(host, LEGACY).findings
        if finding.change
        for edit in finding.change.edits
        if edit.keys[-1] == "mode"
    }
    assert len(values) == 1, values


def test_gm207_keep_is_kept() -> None:
    """The schema: keep means that the mode is left."""
    assert edits_of(findings(moded("banana"), "GM207", KEEP)) == {}


def test_unknown_toolkit_version_is_unknown() -> None:
    host = moded("auto").but(commands={"nvidia-ctk": unread("timeout")})
    assert outcome(host, "GM204") == "unknown"


# --- after a mend, no finding that carried a change remains (promise 5)

FIXPOINTS: dict[str, tuple[Host, Wants]] = {
    **{f"modes-{name}": (host, wanted) for name, (host, wanted, _, _) in MODES.items()},
    "1.18.0-cdi-wants-legacy": (moded("cdi", "1.18.0"), LEGACY),
    "banana-wants-cdi": (moded("banana"), CDI),
    "jit-cdi-1.17-wants-cdi": (moded("jit-cdi", "1.17.8"), CDI),
    "ldconfig": (configured(config("cdi", "/sbin/ldconfig")), CDI),
    "no-cgroups": (configured(config().replace("#no-cgroups = false", "no-cgroups = true")), CDI),
    "empty-file": (configured(""), CDI),
    "no-file": (configured(None), CDI),
    "tables-missing": (configured('[nvidia-container-cli]\nldconfig = "/x"\n'), CDI),
    "dotted": (configured('nvidia-container-runtime.mode = "auto"\n'), CDI),
    "inline": (configured('nvidia-container-runtime = {mode = "auto"}\n'), CDI),
    "crlf": (configured(config("auto").replace("\n", "\r\n")), CDI),
}


@pytest.mark.parametrize(("host", "wanted"), FIXPOINTS.values(), ids=FIXPOINTS.keys())
def test_one_mend_is_enough(host: Host, wanted: Wants) -> None:
    before = verdict(host, wanted)
    after = verdict(mended(host, before), wanted)
    left = [finding for finding in after.findings if finding.change]
    assert [(finding.code, finding.summary) for finding in left] == []


@given(
    mode=st.sampled_from(["auto", "legacy", "csv", "cdi", "jit-cdi", "banana", None]),
    ldconfig=st.sampled_from([REAL, PLAIN, "/sbin/ldconfig", "@/opt/ldconfig", None]),
    toolkit=st.sampled_from(["1.14.6", "1.17.8", "1.18.0", "1.18.1", "1.20.0"]),
    docker=st.sampled_from(["20.10.24", "26.1.5", "28.5.2", "29.2.0"]),
    layout=st.sampled_from(["ubuntu", "debian"]),
    wanted=st.sampled_from([CDI, AUTO, LEGACY, KEEP, BREAK]),
    users=st.lists(st.sampled_from([USER, container(runtime="nvidia")]), max_size=1),
)
def test_one_mend_is_enough_whatever_the_file(
    mode: str | None,
    ldconfig: str | None,
    toolkit: str,
    docker: str,
    layout: str,
    wanted: Wants,
    users: list[Any],
) -> None:
    host = configured(config(mode, ldconfig), toolkit, docker, layout).with_containers(*users)
    after = verdict(mended(host, verdict(host, wanted)), wanted)
    assert [(finding.code, finding.summary) for finding in after.findings if finding.change] == []


# --- GM208: a file that cannot be read as TOML

BROKEN: dict[str, tuple[Any, str]] = {
    "unterminated": ('mode = "x\n', "line 1"),
    "not-toml": ("this is not toml", "line 1"),
    "key-twice": ("a = 1\na = 2\n", "Cannot overwrite a value"),
    "not-utf-8": (b'mode = "\xff"\n', "not UTF-8 at byte 8"),
    "nul-bytes": (b"\x00\x00\x00", "line 1"),
    "directory": (a_directory(), "a dir, not a file"),
}


@pytest.mark.parametrize(("content", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_gm208(content: Any, words: str) -> None:
    judged = verdict(configured(content))
    found = [finding for finding in judged.findings if finding.code == "GM208"]
    assert [str(finding.status) for finding in found] == ["fail"]
    assert words in found[0].summary and found[0].change is None and found[0].refused
    assert not [
        finding
        for finding in judged.findings
        if finding.change and finding.change.component is Component.TOOLKIT
    ]


@pytest.mark.parametrize("content", [None, "", "# only a comment\n", "unknown = 1\n[unknown-table]\nx = 1\n"])
def test_gm208_absent_empty_and_unknown_keys_are_fine(content: Any) -> None:
    assert outcome(configured(content), "GM208") == "ok"


@pytest.mark.parametrize("status", ["denied", "timeout", "failed"])
def test_gm208_unread_is_unknown(status: str) -> None:
    assert outcome(configured(unread(status)), "GM208") == "unknown"


def test_the_captured_configurations_are_readable() -> None:
    """nct's own output of files with removed features keys (captures/toolkit/config-probes.txt)."""
    text = fixture("toolkit/config-probes.txt")
    old = re.findall(r"(?ms)^\[features\]\n.*?^mode = \"auto\"\n", text)[0]
    assert tomllib.loads(old)["features"] == {"gds": True, "mofed": True}
    assert {found.code for found in verdict(configured(old), AUTO).findings} <= {"GM221"}


# --- GM209: no-cgroups


def cgroups(value: str, mode: str = "cdi", toolkit: str = "1.18.1", **more: Any) -> Host:
    text = config(mode).replace("#no-cgroups = false", f"no-cgroups = {value}")
    return configured(text, toolkit).but(**more)


ROOTLESS = (process("/usr/bin/dockerd", "-H", "fd://"), process("/usr/bin/dockerd", "--rootless", uid=1000))


@pytest.mark.parametrize(
    ("host", "wanted", "expected", "changes"),
    [
        pytest.param(cgroups("false"), {}, "ok", False, id="false"),
        pytest.param(cgroups("true"), {}, "warn", True, id="mode-cdi-does-not-mind"),
        pytest.param(cgroups("true", mode="legacy"), LEGACY, "fail", True, id="legacy"),
        pytest.param(cgroups("true", mode="auto", toolkit="1.17.8"), AUTO, "fail", True, id="auto-1.17"),
        pytest.param(cgroups("true", mode="auto"), AUTO, "warn", True, id="auto-1.18"),
        pytest.param(cgroups("true", processes=ROOTLESS), {}, "warn", False, id="rootless-beside"),
        pytest.param(cgroups("true", files={"/home/ann/.config/docker/daemon.json": "{}"}), {}, "warn", False, id="rootless-set-up"),
        pytest.param(
            cgroups("true", processes=ROOTLESS), {"allow_disabling_no_cgroups": True}, "warn", True, id="rootless-opted-in",
        ),
        pytest.param(
            cgroups(
                "true",
                docker=None,
                processes=(process("/usr/bin/dockerd", uid=1000),),
                commands={"dockerd": None},
                units={"docker.service": None},
            ),
            {}, "ok", False, id="rootless-alone",
        ),
    ],
)  # fmt: skip
def test_gm209(host: Host, wanted: Wants, expected: str, changes: bool) -> None:
    assert outcome(host, "GM209", wanted) == expected
    assert bool(edits_of(findings(host, "GM209", wanted))) is changes


# --- GM210: APT sources

DIRECTORY = "/etc/apt/sources.list.d"
URI = "https://nvidia.github.io/libnvidia-container/stable/deb/$(ARCH)"
OLD_URI = "https://nvidia.github.io/libnvidia-container/stable/ubuntu18.04/$(ARCH)"
KEY = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"


def apt(**sources: str) -> Host:
    return healthy().but(
        files={
            f"{DIRECTORY}/{name.replace('__', '.').replace('_', '-')}": text for name, text in sources.items()
        }
    )


APT: dict[str, tuple[Host, str]] = {
    "one": (apt(nvidia_container_toolkit__list=f"deb [signed-by={KEY}] {URI} /\n"), "ok"),
    "none": (apt(docker__list="deb https://download.docker.com/linux/ubuntu noble stable\n"), "ok"),
    "same-key-twice": (
        apt(a__list=f"deb [signed-by={KEY}] {OLD_URI} /\n", b__list=f"deb [signed-by={KEY}] {OLD_URI} /\n"), "ok",
    ),
    "commented-out": (apt(a__list=f"deb [signed-by={KEY}] {URI} /\n", b__list=f"# deb {URI} /\n"), "ok"),
    # lnc#194, nct#170: the same source, with and without a key
    "same-source-two-keys": (apt(nvidia_container_toolkit__list=f"deb [signed-by={KEY}] {OLD_URI} /\n", nvidia_docker__list=f"deb {OLD_URI} /\n"), "fail"),
    "same-new-source-two-keys": (apt(nvidia_container_toolkit__list=f"deb [signed-by={KEY}] {URI} /\n", libnvidia_container__list=f"deb {URI} /\n"), "fail"),
    "arch-option-beside": (
        apt(a__list=f"deb [arch=amd64 signed-by={KEY}] {OLD_URI} /\n", b__list=f"deb [arch=amd64] {OLD_URI} /\n"), "fail",
    ),
    "deb822-against-list": (
        apt(
            nvidia__sources=f"Types: deb\nURIs: {URI}\nSuites: /\nSigned-By: /etc/apt/keyrings/other.gpg\n",
            nvidia__list=f"deb [signed-by={KEY}] {URI} /\n",
        ),
        "fail",
    ),
    # apt compares the keys of one source only: these two never conflict
    "different-sources": (
        apt(nvidia_container_toolkit__list=f"deb [signed-by={KEY}] {URI} /\n", nvidia_docker__list=f"deb {OLD_URI} /\n"), "ok",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("host", "expected"), APT.values(), ids=APT.keys())
def test_gm210(host: Host, expected: str) -> None:
    assert outcome(host, "GM210") == expected


def test_gm210_removes_the_old_file_of_one_source() -> None:
    found = the(APT["same-source-two-keys"][0], "GM210")
    assert found.change and found.change.action == RemoveFiles((f"{DIRECTORY}/nvidia-docker.list",))


@pytest.mark.parametrize(
    "host",
    [
        pytest.param(healthy().but(files={f"{DIRECTORY}/nvidia.list": unread("denied")}), id="file"),
        pytest.param(healthy().but(globs={f"{DIRECTORY}/*.list": unread("denied")}), id="directory"),
    ],
)
def test_gm210_unread_is_unknown(host: Host) -> None:
    assert outcome(host, "GM210") == "unknown"


# --- GM211: types

TYPES: list[tuple[str, str]] = [
    ("disable-require", 'disable-require = "no"\n'),
    ("load-kmods", '[nvidia-container-cli]\nload-kmods = "yes"\n'),  # captures/toolkit/config-probes.txt
    ("no-cgroups", '[nvidia-container-cli]\nno-cgroups = "false"\n'),
    ("ldconfig", "[nvidia-container-cli]\nldconfig = true\n"),
    ("environment", '[nvidia-container-cli]\nenvironment = "A=1"\n'),
    ("runtimes", '[nvidia-container-runtime]\nruntimes = "runc"\n'),
    ("debug", "[nvidia-container-runtime]\ndebug = 1\n"),
    ("spec-dirs", '[nvidia-container-runtime.modes.cdi]\nspec-dirs = "/etc/cdi"\n'),
    ("skip-mode-detection", "[nvidia-container-runtime-hook]\nskip-mode-detection = 1\n"),
]


@pytest.mark.parametrize(("key", "text"), TYPES, ids=[key for key, _ in TYPES])
def test_gm211_a_wrong_type(key: str, text: str) -> None:
    found = [finding for finding in findings(configured(text), "GM211") if key in finding.summary]
    assert len(found) == 1 and found[0].status == "fail" and found[0].change is None
    number = next(n for n, line in enumerate(text.splitlines(), 1) if line.startswith(key))
    assert found[0].evidence[0].source == f"{CONFIG}:{number}"


# Of container-toolkit.md 2.1, and fatal in the same way.
MORE_TYPES = [
    "nvidia-container-cli = 1\n",
    'nvidia-container-runtime = "x"\n',
    '[nvidia-container-runtime]\nmodes = "x"\n',
    "[nvidia-container-cli]\ndebug = 1\n",
    "[nvidia-container-cli]\nldcache = 1\n",
    "[nvidia-container-cli]\nenvironment = [1]\n",
    "[nvidia-container-runtime]\nruntimes = [1]\n",
    "[nvidia-container-runtime.modes.csv]\nmount-spec-path = 1\n",
    "[nvidia-container-runtime.modes.legacy]\ncuda-compat-mode = 1\n",
    '[features]\nallow-ldconfig-from-container = "yes"\n',
    '[features]\ndisable-imex-channel-creation = "yes"\n',
]


@pytest.mark.parametrize("text", MORE_TYPES, ids=[text.replace("\n", " ").strip() for text in MORE_TYPES])
def test_gm211_every_key_of_the_reference(text: str) -> None:
    assert [str(finding.status) for finding in findings(configured(text), "GM211")] == ["fail"]


def test_gm211_the_default_file_is_right() -> None:
    assert findings(configured(fixture("config.default.toml")), "GM211") == []


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("compat32,compute,display,graphics,ngx,utility,video", "ok"),
        ("all", "ok"),
        ("", "ok"),
        ("compute,utility", "ok"),
        ("compute,gpu", "fail"),
        ("compute, utility", "ok"),
    ],
)
def test_gm211_capabilities(value: str, expected: str) -> None:
    text = re.sub(
        r"(?m)^supported-driver-capabilities = .*$", f'supported-driver-capabilities = "{value}"', config()
    )
    assert outcome(configured(text), "GM211") == expected


# --- the whole


def test_nothing_of_the_file_is_changed_where_it_is_not_managed() -> None:
    host = configured(config("legacy", "/sbin/ldconfig").replace("#no-cgroups = false", "no-cgroups = true"))
    judged = verdict(host, {"runtime": {"manage": False}})
    mine = [finding for finding in judged.findings if finding.code in ("GM201", "GM204", "GM209")]
    assert len(mine) == 3 and all(finding.change is None and finding.refused for finding in mine)


def test_changes_of_config_toml_need_no_service() -> None:
    """container-toolkit.md section 2: it is read at every container create."""
    judged = verdict(configured(config("legacy", "/sbin/ldconfig")))
    changes: list[Finding] = [finding for finding in judged.findings if finding.change]
    assert {finding.code for finding in changes} == {"GM201", "GM204"}
    assert all(
        finding.change and finding.change.service is None and finding.risk == "none" for finding in changes
    )


def test_no_toolkit_nothing_of_it_is_judged() -> None:
    judged = besides_its_age(verdict(h100()).findings)
    assert [finding.code for finding in judged if finding.code.startswith("GM2")] == ["GM203"]


def test_a_config_without_programs_is_not_judged() -> None:
    assert outcome(h100().but(files={CONFIG: "x = [\n"}), "GM208") == "ok"


def test_the_static_spec_of_an_old_toolkit() -> None:
    host = healthy(toolkit="1.17.8")
    assert host.files.get(STATIC) and not (host.units or {}).get(REFRESH)
    assert file("x")["status"] == "ok"
