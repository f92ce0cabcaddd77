"""GM230 to GM233: wanted repositories, their keys and their sources; keys made by gpg 2.2.40 (tests/fixtures/keys)."""

from __future__ import annotations

import re
from typing import Any

import pytest

from gpumend.plan.plan import plan
from gpumend.plan.step import IndexDirectory, RemoveFile, SetMode, TryRepository, WriteFile
from gpumend.reports.diff import diff
from gpumend.rules.data import load
from gpumend.rules.finding import Component, Finding
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.host_state import besides_of, request
from gpumend.state.packages import TOOLKIT
from gpumend.text.openpgp import public_keys
from tests.unit.build import FIXTURES, TODAY, Host, file, fixture, healthy, outcome, the, verdict

GOOD = "C7DE6CE1B81D8E17D7395AE700A488121D86F7A7"
EXPIRED = "E4F6D7D0B013E510C9FE64E25FEC8BEC86D6BC3E"
SHA1 = "9FC42B4F536EDC84B6AB2E03B9B5FD102F4E41F7"
KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"
SOURCE = "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"
PIN = "/etc/apt/preferences.d/gpumend-nvidia-container-toolkit.pref"
MIRROR = "https://mirror.example.org/lnc"
BINARY = (FIXTURES / "keys/good.gpg").read_bytes()
CUDA = "https://developer.download.nvidia.com/compute/cuda/repos"
SQV = {"/usr/bin/sqv": file("")}


def release(name: str, version: str) -> str:
    return f'ID={name}\nPRETTY_NAME="{name} {version}"\nVERSION_ID="{version}"\n'


def wants(name: str = "toolkit", **entry: Any) -> dict[str, Any]:
    return {"repositories": {name: entry}}


MIRRORED = wants(uri=MIRROR, fingerprint=GOOD, key=fixture("keys/good.asc"))


def debian(wanted: dict[str, Any], version: str = "13", name: str = "debian", **files: Any) -> Host:
    """A healthy host of dpkg's packages, asked for what this desired state calls for."""
    base = {
        "/etc/os-release": release(name, version),
        "/etc/apt/sources.list": "deb http://deb.debian.org/debian trixie main\n",
    }
    programs = {"apt-get": "/usr/bin/apt-get", **files.pop("programs", {})}
    host = healthy().but(files={**base, **files.pop("files", {})}, programs=programs, **files)
    return Host(**{**vars(host), "besides": besides_of(wanted)})


def steps(host: Host, wanted: dict[str, Any]) -> list[Any]:
    state = host.state()
    context = Context(state, parse_wanted(wanted), "gpu1", TODAY)
    made = plan(context, verdict(host, wanted).findings)
    assert made.blocked == {}
    found = made.get(Component.REPOSITORIES)
    return list(found.steps) if found else []


def after(host: Host, wanted: dict[str, Any]) -> Host:
    """The host once its plan was carried out."""
    files: dict[str, Any] = {}
    for step in steps(host, wanted):
        if isinstance(step, WriteFile):
            files[step.path] = file(step.data)
        elif isinstance(step, RemoveFile):
            files[step.path] = None
    return host.but(files=files)


# --- keys


@pytest.mark.parametrize(
    ("name", "fingerprint", "expires", "weak"),
    [
        ("good.asc", GOOD, None, False),
        ("good.gpg", GOOD, None, False),
        ("expired.asc", EXPIRED, 1738281600, False),
        ("sha1.asc", SHA1, None, True),
    ],
)
def test_a_key_is_read_as_gpg_reads_it(name: str, fingerprint: str, expires: int | None, weak: bool) -> None:
    [key] = public_keys((FIXTURES / "keys" / name).read_bytes())
    assert (key.fingerprint, key.expires, key.weak, key.revoked) == (fingerprint, expires, weak, False)


@pytest.mark.parametrize(
    "data",
    [b"", b"hello", b"<html>404</html>", BINARY[:-1], BINARY[:1], b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n!!\n-----END PGP PUBLIC KEY BLOCK-----\n",
     bytes([BINARY[0] & 0xC3 | 5 << 2]) + BINARY[1:]],
    ids=["empty", "text", "page", "cut", "head", "armour", "secret"],
)  # fmt: skip
def test_what_is_no_keyring_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        public_keys(data)


def test_a_keyring_of_any_bytes_ends_in_an_answer() -> None:
    for at in range(len(BINARY)):
        for byte in (0x00, 0x7F, 0xFF):
            damaged = BINARY[:at] + bytes([byte]) + BINARY[at + 1 :]
            try:
                public_keys(damaged)
            except ValueError as error:
                assert str(error)


# --- what is asked and what is added


def test_nothing_is_asked_or_judged_unless_it_is_wanted() -> None:
    assert besides_of({}) == "" and "engine-offers" not in request()["commands"]
    for code in ("GM230", "GM231", "GM232", "GM233"):
        assert code in verdict(healthy()).inapplicable
    asked = request(True, besides_of({**MIRRORED, "engine": "podman", "compose": {"paths": ["/a/b.yaml"]}}))
    assert "/etc/apt/preferences.d/*" in [spec["pattern"] for spec in asked["globs"]]
    assert (
        asked["compose"] == ["/a/b.yaml"]
        and "apt-offers" in asked["commands"]
        and "engine-offers" in asked["commands"]
    )


def test_a_mirror_with_its_own_key_is_added_and_then_left_alone() -> None:
    host = debian(MIRRORED, files=SQV)
    found = the(host, "GM230", MIRRORED)
    assert GOOD in found.cause and MIRROR in found.cause
    made = {step.path: step for step in steps(host, MIRRORED) if isinstance(step, WriteFile)}
    assert set(made) == {KEYRING, SOURCE, PIN}
    assert made[KEYRING].data == BINARY, "apt takes what is called .gpg without armour alone"
    assert re.fullmatch(
        rf"{KEYRING} is written: \d+ bytes that are no text, SHA-256 [0-9a-f]{{64}}", diff(made[KEYRING])
    )
    text = made[SOURCE].data.decode()
    assert f"URIs: {MIRROR}/\nSuites: /\nSigned-By: {KEYRING}\n" in text and "Trusted" not in text
    assert b'Pin: origin "mirror.example.org"\nPin-Priority: 700\n' in made[PIN].data
    [last] = [step for step in steps(host, MIRRORED) if isinstance(step, TryRepository)]
    assert steps(host, MIRRORED)[-1] == last and (last.key, last.local, last.index) == (BINARY, "", "")
    done = after(host, MIRRORED)
    assert [outcome(done, code, MIRRORED) for code in ("GM230", "GM231")] == ["ok", "ok"]
    assert steps(done, MIRRORED) == []


def test_the_table_s_own_address_and_fingerprint() -> None:
    wanted = wants(key=fixture("keys/good.asc"))
    found = the(debian(wanted), "GM230", wanted)
    assert found.change is None and "C95B321B61E88C1809C4F759DDCAE044F796ECB0 alone" in found.summary
    assert found.evidence[0].text.startswith("https://nvidia.github.io/libnvidia-container/stable/deb/amd64")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        pytest.param({"uri": MIRROR, "fingerprint": GOOD}, "has no key for https://mirror.example.org/lnc", id="no-key"),
        pytest.param({"uri": MIRROR, "key": fixture("keys/good.asc")}, "fingerprint of the key of https://mirror", id="no-fingerprint"),
        pytest.param({"uri": MIRROR, "fingerprint": SHA1, "key": fixture("keys/good.asc")}, f"has the key {GOOD}", id="another-key"),
        pytest.param(
            {"uri": MIRROR, "fingerprint": GOOD, "key": fixture("keys/good.asc") + fixture("keys/sha1.asc")},
            f"has the key {SHA1}", id="one-key-too-many",
        ),
        pytest.param({"uri": MIRROR, "fingerprint": EXPIRED, "key": fixture("keys/expired.asc")}, "has expired", id="expired"),
        pytest.param({"uri": MIRROR, "fingerprint": SHA1, "key": fixture("keys/sha1.asc")}, "SHA-1", id="sha1"),
        pytest.param({"directory": "/srv/debs"}, "has no package", id="empty-directory"),
        pytest.param({"directory": "/srv/debs", "key": "x"}, "has no InRelease", id="unsigned-directory"),
    ],
)  # fmt: skip
def test_what_is_not_trusted_is_not_added(entry: dict[str, Any], words: str) -> None:
    wanted = wants(**entry)
    host = debian(wanted, files=SQV)
    found = the(host, "GM230", wanted)
    assert found.change is None and words in found.refused and found.remedy
    assert steps(host, wanted) == []


def test_a_sha1_bound_key_is_fit_where_apt_still_takes_it() -> None:
    wanted = wants(uri=MIRROR, fingerprint=SHA1, key=fixture("keys/sha1.asc"))
    assert steps(debian(wanted, version="12"), wanted) != []
    refused = the(debian(wanted, files=SQV), "GM230", wanted)
    assert "Do not widen Sequoia's policy" in refused.remedy and "uri, key, fingerprint" in refused.remedy


def test_of_a_fingerprint_that_is_known_by_its_end_alone_nothing_is_trusted() -> None:
    wanted = wants("cuda", key=fixture("keys/good.asc"))
    found = the(debian(wanted), "GM230", wanted)
    assert "only its end is known, 8793F200" in found.refused
    wrong = wants("cuda", key=fixture("keys/good.asc"), fingerprint=GOOD)
    assert "does not end with 8793F200" in the(debian(wrong), "GM230", wrong).refused
    mirrored = wants("cuda", uri=MIRROR, key=fixture("keys/good.asc"), fingerprint=GOOD)
    assert the(debian(mirrored), "GM230", mirrored).change, "a mirror may sign with a key of its own"


@pytest.mark.parametrize(
    ("name", "version", "machine", "path"),
    [
        ("ubuntu", "22.04", "x86_64", "ubuntu2204/x86_64"), ("ubuntu", "24.04", "aarch64", "ubuntu2404/sbsa"),
        ("debian", "12", "x86_64", "debian12/x86_64"), ("debian", "13", "x86_64", "debian13/x86_64"),
        ("ubuntu", "26.04", "x86_64", ""), ("debian", "13", "riscv64", ""), ("gentoo", "2", "x86_64", ""),
    ],
)  # fmt: skip
def test_the_cuda_repository_of_each_release(name: str, version: str, machine: str, path: str) -> None:
    wanted = wants("cuda")
    found = the(debian(wanted, version, name, system={"machine": machine}), "GM230", wanted)
    assert found.change is None
    assert found.evidence[0].text == (f"{CUDA}/{path} /" if path else "not known")
    assert path or f"the table has no cuda repository for {name} {version} on {machine}" in found.refused


def test_every_row_has_its_source_and_a_whole_fingerprint_or_an_end() -> None:
    table = load("repositories")
    for row in table["repositories"]:
        assert row["source"] and (("fingerprint" in row) != ("ends" in row)), row
        assert len(row.get("fingerprint", "0" * 40)) == 40 and len(row.get("ends", "0" * 8)) == 8
    assert all(row["source"] for part in ("places", "pins", "engines") for row in table[part])


# --- what was there before


OLD = "/etc/apt/sources.list.d/libnvidia-container.list"
LINE = f"deb [signed-by=/etc/apt/keyrings/old.gpg] {MIRROR} /\n"


def test_a_source_with_another_key_is_moved_away_with_the_same_transaction() -> None:
    host = debian(MIRRORED, files={OLD: LINE})
    found = the(host, "GM231", MIRRORED)
    assert "Conflicting values set for option Signed-By" in found.symptoms
    assert RemoveFile(OLD, host.state().repositories.sources.need()[OLD].sha256) in steps(host, MIRRORED)
    done = after(host, MIRRORED)
    assert outcome(done, "GM231", MIRRORED) == outcome(done, "GM230", MIRRORED) == "ok"


def test_a_file_that_names_more_than_that_stays() -> None:
    host = debian(MIRRORED, files={OLD: LINE + "deb http://other.example.org stable main\n"})
    found = the(host, "GM230", MIRRORED)
    assert found.change is None and f"{OLD} names http://other.example.org besides" in found.refused


def test_a_guide_s_own_file_with_the_right_key_is_enough() -> None:
    guide = "/etc/apt/sources.list.d/nvidia-container-toolkit.list"
    wanted = wants(uri=MIRROR, fingerprint=GOOD, pin=False)
    host = debian(wanted, files={guide: f"deb [signed-by={KEYRING}] {MIRROR}/ /\n", KEYRING: file(BINARY)})
    assert outcome(host, "GM230", wanted) == outcome(host, "GM231", wanted) == "ok"
    wrong = host.but(files={KEYRING: file(fixture("keys/sha1.asc"))})
    assert f"has the key {SHA1}" in the(wrong, "GM230", wanted).refused


def test_two_files_that_are_there_with_two_keys_leave_one() -> None:
    host = after(debian(MIRRORED), MIRRORED).but(files={OLD: LINE})
    found = the(host, "GM231", MIRRORED)
    assert found.change and outcome(host, "GM230", MIRRORED) == "ok"
    assert [step.path for step in steps(host, MIRRORED)] == [OLD]


def test_a_keyring_that_apt_s_user_cannot_read() -> None:
    host = after(debian(MIRRORED), MIRRORED).but(files={KEYRING: file(BINARY, mode=0o640)})
    found = the(host, "GM231", MIRRORED)
    assert "0640" in found.summary and "NO_PUBKEY" in found.symptoms
    assert SetMode(KEYRING, file(BINARY)["sha256"]) in steps(host, MIRRORED)


def test_of_two_with_the_right_key_the_one_in_its_own_place_stays() -> None:
    other = "/etc/apt/keyrings/other.asc"
    more = {OLD: LINE.replace("/etc/apt/keyrings/old.gpg", other), other: fixture("keys/good.asc")}
    host = after(debian(MIRRORED), MIRRORED).but(files={**more, KEYRING: file(BINARY, mode=0o640)})
    assert {step.where for step in steps(host, MIRRORED)} == {OLD, KEYRING}


def test_the_list_of_another_release_goes_where_the_right_one_comes() -> None:
    wrong = "/etc/apt/sources.list.d/cuda-ubuntu2204-x86_64.list"
    text = f"deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] {CUDA}/ubuntu2204/x86_64/ /\n"
    wanted = wants("cuda", key=fixture("keys/good.asc"))
    host = debian(wanted, "24.04", "ubuntu", files={wrong: text})
    found = the(host, "GM232", wanted)
    assert "ubuntu2204" in found.summary and found.change is None, (
        "the right one cannot be trusted: its key is another"
    )
    mirrored = wants("cuda", uri=MIRROR, fingerprint=GOOD, key=fixture("keys/good.asc"))
    host = debian(mirrored, "24.04", "ubuntu", files={wrong: text})
    assert the(host, "GM232", mirrored).change is not None
    assert [step.path for step in steps(host, mirrored) if isinstance(step, RemoveFile)] == [wrong]
    done = after(host, mirrored)
    assert outcome(done, "GM232", mirrored) == outcome(done, "GM230", mirrored) == "ok"
    more = host.but(files={wrong: text + "deb http://other.example.org stable main\n"})
    assert "names other repositories, too" in the(more, "GM232", mirrored).refused


# --- a directory


DEB = file("x" * 1234)


def test_a_directory_without_an_index_gets_one_elsewhere() -> None:
    wanted = wants(directory="/srv/debs")
    host = debian(wanted, files={"/srv/debs/a_1_all.deb": DEB})
    made = steps(host, wanted)
    index = "/var/lib/gpumend/repositories/toolkit/Packages"
    assert IndexDirectory(index, None, "/srv/debs") == made[0]
    [source] = [step.data.decode() for step in made if isinstance(step, WriteFile) and step.path == SOURCE]
    assert "URIs: file:/\nSuites: var/lib/gpumend/repositories/toolkit/\nTrusted: yes\n" in source
    assert KEYRING not in [step.where for step in made]
    done = after(host, wanted).but(
        files={index: "Package: a\nFilename: ./srv/debs/a_1_all.deb\nSize: 1234\n"}
    )
    assert outcome(done, "GM230", wanted) == "ok" and steps(done, wanted) == []
    more = done.but(files={"/srv/debs/b_1_all.deb": DEB})
    assert [type(step) for step in steps(more, wanted)] == [IndexDirectory, TryRepository]


def test_a_directory_with_a_signed_index_keeps_it() -> None:
    wanted = wants(directory="/srv/debs", key=fixture("keys/good.asc"), fingerprint=GOOD)
    host = debian(wanted, files={"/srv/debs/Packages": "", "/srv/debs/InRelease": ""})
    [source] = [
        step.data.decode()
        for step in steps(host, wanted)
        if isinstance(step, WriteFile) and step.path == SOURCE
    ]
    assert f"URIs: file:/srv/debs/\nSuites: ./\nSigned-By: {KEYRING}\n" in source


# --- dnf


def test_dnf_s_file_checks_what_the_vendor_signs() -> None:
    host = debian(
        MIRRORED, files={"/etc/os-release": release("rocky", "9.4"), "/var/lib/rpm/rpmdb.sqlite": ""}
    )
    host = host.but(
        commands={"dpkg": None, "rpm": (0, "bash\t(none):5.1-1\n", "")},
        programs={"dnf": "/usr/bin/dnf", "apt-get": None},
    )
    made = {step.path: step.data.decode() for step in steps(host, MIRRORED) if isinstance(step, WriteFile)}
    assert set(made) == {
        "/etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-toolkit",
        "/etc/yum.repos.d/gpumend-toolkit.repo",
    }
    text = made["/etc/yum.repos.d/gpumend-toolkit.repo"]
    assert f"baseurl={MIRROR}\n" in text and "repo_gpgcheck=1\ngpgcheck=0\n" in text
    assert outcome(after(host, MIRRORED), "GM230", MIRRORED) == "ok"


def suse(*programs: str) -> Host:
    host = debian(
        MIRRORED, files={"/etc/os-release": release("sles", "16.0"), "/var/lib/rpm/rpmdb.sqlite": ""}
    )
    host = host.but(
        commands={"dpkg": None, "rpm": (0, "bash\t(none):5.1-1\n", "")},
        programs={"apt-get": None, **{name: f"/usr/bin/{name}" for name in programs}},
    )
    return host


def test_where_there_is_no_manager_that_mend_knows_nothing_is_added() -> None:
    found = the(suse(), "GM230", MIRRORED)
    assert found.change is None and "apt, dnf and zypper only" in found.refused


@pytest.mark.parametrize("programs", [("zypper",), ("zypper", "dnf")])
def test_zypper_gets_a_repository_whose_index_has_to_be_signed(programs: tuple[str, ...]) -> None:
    """openSUSE has a dnf, too, and installs with zypper."""
    host = suse(*programs)
    [*writes, asked] = steps(host, MIRRORED)
    made = {step.path: step.data.decode() for step in writes}
    source = "/etc/zypp/repos.d/gpumend-toolkit.repo"
    assert set(made) == {"/etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-toolkit", source}
    assert f"baseurl={MIRROR}\n" in made[source]
    assert "gpgcheck=1\nrepo_gpgcheck=1\npkg_gpgcheck=0\n" in made[source]
    assert asked.as_data()["fingerprint"] == GOOD and asked.manager == "zypper"
    assert outcome(after(host, MIRRORED), "GM230", MIRRORED) == "ok"


# --- what is taken of it


def table_of(pin: int, *found: str) -> str:
    """`apt-cache policy` of apt 3.0 for the toolkit's packages, at this priority."""
    candidate = found[0] if pin > 0 else "(none)"
    rows = "".join(f"     {version} {pin}\n        500 {MIRROR} ./ Packages\n" for version in found)
    heads = (
        f"{name}:\n  Installed: (none)\n  Candidate: {candidate}\n  Version table:\n{rows}"
        for name in TOOLKIT
    )
    return (
        "".join(heads)
        + "apt:\n  Installed: 3.0\n  Candidate: 3.0\n  Version table:\n     3.0 500\n        500 http://d trixie/main\n"
    )


def without_toolkit(text: str) -> Host:
    gone = ("nvidia-ctk", "nvidia-container-runtime", "nvidia-container-runtime-hook", "nvidia-cdi-hook")
    host = debian(MIRRORED, programs={**dict.fromkeys(gone), "apt-get": "/usr/bin/apt-get"})
    return host.but(
        commands={"apt-offers": (0, text, ""), "nvidia-ctk": None, "dpkg": (0, "ii \tbash\t5.2\n", "")}
    )


def test_a_pin_that_forbids_the_toolkit_is_named() -> None:
    wanted = {**MIRRORED, "toolkit": {"install": True}}
    found = the(without_toolkit(table_of(-1, "1.20.0-1")), "GM203", wanted)
    assert (
        found.change is None
        and "a pin of this host forbids" in found.refused
        and "preferences.d" in found.remedy
    )


@pytest.mark.parametrize(
    ("offered", "words"),
    [(("1.20.0-1", "1.19.0-1"), "all in version 1.20.0,"), (("1.19.0-1", "1.17.8-1"), "all in version 1.17.8 (below 1.19.1, which fixes CVE-2026-24260)")],
)  # fmt: skip
def test_a_release_that_is_known_to_be_broken_is_not_chosen(offered: tuple[str, ...], words: str) -> None:
    wanted = {**MIRRORED, "toolkit": {"install": True, "insist": True}}
    found = the(without_toolkit(table_of(500, *offered)), "GM203", wanted)
    assert found.change is not None and words in found.remedy


# --- an engine


def policy(*names: str) -> tuple[int, str, str]:
    rows = "".join(
        f"{name}:\n  Installed: (none)\n  Candidate: 1-1\n  Version table:\n     1-1 500\n        500 https://repo ./ Packages\n"
        for name in names
    )
    return 0, rows, ""


def bare(engine: str, *offered: str) -> Host:
    """A host with GPUs and no Docker."""
    host = debian({"engine": engine}, docker=None, processes=())
    return host.but(
        programs=dict.fromkeys(("dockerd", "docker", "containerd")),
        units={"docker.service": None},
        commands={"dockerd": None, "dpkg": (0, "ii \tbash\t5.2\n", ""), "engine-offers": policy(*offered)},
    )


def engine_of(host: Host, engine: str) -> Finding:
    return the(host, "GM233", {"engine": engine})


def test_an_engine_is_installed_where_there_is_none() -> None:
    found = engine_of(bare("docker.io", "docker.io", "docker-cli"), "docker.io")
    assert found.change and "docker.io, docker-cli" in found.remedy
    older = engine_of(bare("docker.io", "docker.io"), "docker.io")
    assert older.change and "docker-cli" not in older.remedy, "bookworm's docker.io has its client"
    assert "no repository of this host has docker-ce" in engine_of(bare("docker-ce"), "docker-ce").refused


@pytest.mark.parametrize("engine", ["docker.io", "docker-ce"])
def test_a_docker_that_is_there_stays(engine: str) -> None:
    host = debian({"engine": engine})
    assert outcome(host, "GM233", {"engine": engine}) == "ok"
