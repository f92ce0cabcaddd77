"""Each node's own document: its files, what stands in them, and names of hosts that are none of files."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from gpumend import schemas
from gpumend.reports.handover import NOT_NOTED, UNPROVEN, file_name, installed, written
from gpumend.run.outcome import Outcome
from gpumend.run.record import Run
from gpumend.state.repositories import OF_DNF, ZYPP_HISTORY
from tests.unit.build import file, healthy
from tests.unit.farm import record, run
from tests.unit.test_judge import SICK
from tests.unit.test_repositories import BINARY, GOOD, KEYRING, MIRROR, MIRRORED, SOURCE, debian


def test_each_node_has_its_own_and_nobody_elses(tmp_path: Path) -> None:
    first, second = record("gpu1", healthy()), record("gpu2", SICK)
    first.proof = Outcome("changed", "proven in a container: runtime, device")
    found = written(run([first, second]), True, str(tmp_path / "made"))
    assert [Path(path).name for path in found] == ["gpu1.json", "gpu1.html", "gpu2.json", "gpu2.html"]
    assert all(stat.S_IMODE(Path(path).stat().st_mode) == 0o600 for path in found)
    told = json.loads(Path(found[0]).read_text())
    jsonschema.validate(told, schemas.load("report"))
    assert list(told["hosts"]) == ["gpu1"] and told["exit"] == 0, "another node's state is not this one's"
    assert told["hosts"]["gpu1"]["proof"]["detail"] == "proven in a container: runtime, device"
    assert told["hosts"]["gpu1"]["facts"]["toolkit"] and told["hosts"]["gpu1"]["facts"]["driver"]
    page = Path(found[1]).read_text()
    assert "gpu1" in page and "gpu2" not in page


def test_two_names_that_make_one_of_a_file_are_two_files(tmp_path: Path) -> None:
    names = ["a/b", "a_b", "a_b_"]
    found = written(run([record(name, healthy()) for name in names]), True, str(tmp_path))
    told = [list(json.loads(Path(path).read_text())["hosts"]) for path in found if path.endswith("json")]
    assert sorted(told) == [[name] for name in names] and len(set(found)) == 6


POLICY = f"""nvidia-container-toolkit:
  Installed: 1.20.0-1
  Candidate: 1.20.0-1
  Version table:
 *** 1.20.0-1 700
        500 {MIRROR}  Packages
        100 /var/lib/dpkg/status
     1.19.1-1 700
        500 {MIRROR}  Packages
docker.io:
  Installed: 26.1.5
  Candidate: 26.1.5
  Version table:
 *** 26.1.5 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
        100 /var/lib/dpkg/status
runc:
  Installed: 1.3.6
  Candidate: 1.3.6
  Version table:
 *** 1.3.6 100
        100 /var/lib/dpkg/status
podman:
  Installed: (none)
  Candidate: 5.4
  Version table:
     5.4 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
"""


def provisioned(directory: Path, **wanted: Any) -> Run:
    """A run of what installs, over a node whose desired state names a directory."""
    wants = {**MIRRORED, "handover": str(directory), **wanted}
    files = {SOURCE: f"Types: deb\nURIs: {MIRROR}/\nSuites: /\nSigned-By: {KEYRING}\n", KEYRING: file(BINARY)}
    host = debian(wants, files=files, commands={"origins": (0, POLICY, "")})
    found = run([record("gpu1", host, wanted=wants)])
    found.hands_over = True
    return found


def test_a_node_is_told_what_it_has_from_where_and_by_which_key(tmp_path: Path) -> None:
    found = written(provisioned(tmp_path / "nodes"), True, "")
    told = json.loads(Path(found[0]).read_text())
    jsonschema.validate(told, schemas.load("report"))
    node = told["hosts"]["gpu1"]
    assert [(row["name"], row["version"], row["from"], row["fingerprints"]) for row in node["installed"]] == [
        ("docker.io", "26.1.5", "http://deb.debian.org/debian trixie/main", []),
        ("nvidia-container-toolkit", "1.20.0-1", f"{MIRROR} /", [GOOD]),
        ("runc", "1.3.6", "no repository of this host has it", []),
    ]
    assert node["proof"] == {"status": "not proven", "detail": UNPROVEN}
    page = Path(found[1]).read_text()
    assert f"nvidia-container-toolkit 1.20.0-1 from {MIRROR} /, key {GOOD}" in page and UNPROVEN in page


RPMS = "nvidia-container-toolkit\t(none):1.20.0-1\ncuda-libraries-devel-12-4\t(none):12.4.1-1\ndocker-ce\t3:29.1.0-1\nrunc\t(none):1.3.6-1\n"
NOTED = {  # as each manager notes it: dnf 4.24 by OF_DNF, zypper 1.14.101
    "dnf": "nvidia-container-toolkit\t1.19.1-1\told\nnvidia-container-toolkit\t1.20.0-1\tgpumend-toolkit\n"
    "nvidia-container-toolkit\t1.20.0-1\t@System\ncuda-libraries-devel-12-4\t12.4.1-1\tgpumend-cuda\ndocker-ce\t29.1.0-1\tgone\n",
    "zypper": "# a comment\n2026-11-29 18:24:55|command|root@vm|'zypper' 'install' 'runc'|\n"
    "2026-11-29 18:24:55|install|nvidia-container-toolkit|1.20.0-1|x86_64|root@vm|gpumend-toolkit|44d7|\n"
    "2026-11-29 18:24:56|install|cuda-libraries-devel-12-4|12.4.1-1|x86_64||gpumend-cuda|44d7|\n"
    "2026-11-29 18:24:57|install|docker-ce|29.1.0-1|x86_64||gone|44d7|\n",
}
REPO = f"""[gpumend-toolkit]
name=toolkit (gpumend)
baseurl={MIRROR}
enabled=1
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-toolkit
repo_gpgcheck=1
gpgcheck=0

[gpumend-cuda]
baseurl = file:///srv/packages/
gpgcheck=0
"""


# dnf 4.24's own tables, as far as they are read.
DNF_TABLES = """
CREATE TABLE repo (id INTEGER PRIMARY KEY, repoid TEXT NOT NULL);
CREATE TABLE trans_item (id INTEGER PRIMARY KEY AUTOINCREMENT, trans_id INTEGER, item_id INTEGER, repo_id INTEGER, action INTEGER NOT NULL);
CREATE TABLE rpm (item_id INTEGER UNIQUE NOT NULL, name TEXT NOT NULL, epoch INTEGER NOT NULL, version TEXT NOT NULL, release TEXT NOT NULL,
    arch TEXT NOT NULL);
INSERT INTO repo VALUES (1, 'gpumend-toolkit'), (2, '@System');
INSERT INTO rpm VALUES (1, 'podman', 0, '5.4.0', '1', 'x86_64'), (2, 'bash', 0, '5.2', '1', 'x86_64');
INSERT INTO trans_item VALUES (1, 1, 1, 1, 1), (2, 1, 2, 1, 1), (3, 2, 1, 2, 8);
"""


def test_dnfs_notes_are_read_and_nothing_is_written_beside_them(tmp_path: Path) -> None:
    path = tmp_path / "history.sqlite"
    with closing(sqlite3.connect(path)) as base:
        base.executescript(DNF_TABLES)
    argv = [sys.executable, "-I", "-S", "-B", "-c", OF_DNF, str(path), "podman", "runc"]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    assert said == "podman\t5.4.0-1\tgpumend-toolkit\npodman\t5.4.0-1\t@System\n"
    assert [each.name for each in tmp_path.iterdir()] == ["history.sqlite"]


@pytest.mark.parametrize("manager", NOTED)
def test_a_node_of_rpms_is_told_what_its_manager_has_noted(tmp_path: Path, manager: str) -> None:
    wants = {"handover": str(tmp_path), "cuda_toolkit": {"version": "12.4"}}
    files: dict[str, Any] = {
        "/etc/yum.repos.d/gpumend.repo" if manager == "dnf" else "/etc/zypp/repos.d/gpumend.repo": REPO,
        "/etc/pki/rpm-gpg/RPM-GPG-KEY-gpumend-toolkit": file(BINARY),
        **({ZYPP_HISTORY: NOTED["zypper"]} if manager == "zypper" else {}),
    }
    commands = {
        "rpm": (0, RPMS, ""),
        "dpkg": None,
        **({"dnf-history": (0, NOTED["dnf"], "")} if manager == "dnf" else {}),
    }
    host = debian(
        wants, files=files, commands=commands, programs={manager: f"/usr/bin/{manager}", "apt-get": None}
    )
    rows = installed(record("gpu1", host, wanted=wants))
    assert [(row["name"], row["version"], row["from"], row["fingerprints"]) for row in rows] == [
        ("cuda-libraries-devel-12-4", "12.4.1-1", "directory /srv/packages", []),
        ("docker-ce", "3:29.1.0-1", "repository gone, which this host has no more", []),
        ("nvidia-container-toolkit", "1.20.0-1", MIRROR, [GOOD]),
        ("runc", "1.3.6-1", NOT_NOTED, []),
    ]


def test_the_document_comes_without_being_asked_for_again_where_it_is_wanted(tmp_path: Path) -> None:
    this = provisioned(tmp_path / "nodes")
    assert written(this, False, "") == [], "an audit hands nothing over unasked"
    assert len(written(this, True, "")) == 2
    this.hands_over = False
    assert written(this, True, "") == [], "nor does what installs nothing"
    assert len(written(this, True, str(tmp_path / "asked"))) == 2


def test_a_runfile_is_told_with_its_sum(tmp_path: Path) -> None:
    runfile = {"file": "/srv/cuda.run", "sha256": "a" * 64}
    wanted = {"version": "12.4", "method": "runfile", "flavour": "toolkit", "runfile": runfile}
    rows = installed(provisioned(tmp_path, cuda_toolkit=wanted).records["gpu1"])
    assert rows[-1]["from"] == f"/srv/cuda.run, SHA-256 {'a' * 64}"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("gpu1.example.org", "gpu1.example.org"),
        ("@local", "_local"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("..", "_"),
    ],
)
def test_a_name_stays_in_the_directory(host: str, name: str) -> None:
    assert file_name(host) == name
