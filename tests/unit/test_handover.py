"""Each node's own document: its files, what stands in them, and names of hosts that are none of files."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import jsonschema
import pytest

from gpumend import schemas
from gpumend.reports.handover import file_name, written
from gpumend.run.outcome import Outcome
from tests.unit.build import healthy
from tests.unit.farm import record, run
from tests.unit.test_judge import SICK


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
