"""A probe's answer as readings: what is not as the probe writes it is no answer, or is left out where it says nothing."""

from __future__ import annotations

from typing import Any

import pytest

from gpumend.payload.probe import look
from gpumend.state import snapshot
from gpumend.state.snapshot import MAX_FILE_BYTES, AnswerError, Snapshot
from tests.unit.build import Host, container, file, healthy, state, verdict
from tests.unit.fuzz import put, seeds


def test_a_packed_answer_is_marked_as_the_probe_marks_it() -> None:
    assert snapshot.PACKED == look.PACKED


def test_what_several_subsystems_ask_for_is_made_once() -> None:
    made = []

    def parse(of: Snapshot) -> str:
        made.append(of)
        return "made"

    first, second = Snapshot({}), Snapshot({})
    assert [first.once(parse), first.once(parse), second.once(parse)] == ["made"] * 3
    assert made == [first, second]


def test_a_deep_answer_is_no_answer() -> None:
    with pytest.raises(AnswerError):
        Snapshot.from_output('{"gpumend": 1, "a": ' + "[" * 100_000)


def test_a_file_that_the_probe_would_not_send_is_not_read() -> None:
    found = Snapshot({"files": {"/x": file(b"x" * (MAX_FILE_BYTES + 1))}}).file("/x")
    assert (found.status, found.detail) == ("failed", f"larger than {MAX_FILE_BYTES} bytes")


@pytest.mark.parametrize("data", [b"", b"mode = 1\n", b"a\0b", b"\x7f", "caf\u00e9".encode(), b"\xff\x00"])
def test_a_files_bytes_come_as_they_are(data: bytes) -> None:
    found = Snapshot({"files": {"/x": file(data)}}).file("/x").value
    assert found is not None and found.data == data


@pytest.mark.parametrize(
    "item",
    [
        {"data": "caf\u00e9"},
        {"data": "\ud800"},
        {"data": "====", "base64": True},
        {"data": "caf\u00e9", "base64": True},
        {"base64": True},
        {},
    ],
)
def test_what_the_probe_would_not_send_of_a_file_is_no_content(item: dict[str, object]) -> None:
    found = Snapshot({"files": {"/x": {"status": "ok", "kind": "file", **item}}}).file("/x")
    assert (found.status, found.detail) == ("failed", "no content in the probe's answer")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("processes", "processes", 0, "env"), -85),
        (("units", "units", "docker.service"), ["LoadState"]),
    ],
    ids=["environment", "unit"],
)
def test_an_answer_of_the_wrong_shape_is_no_answer(path: tuple[object, ...], wrong: object) -> None:
    """Where a rule would have raised, and the host had no report."""
    with pytest.raises(AnswerError):
        state(put(seeds()["outer"], path, wrong))


def test_a_mount_that_is_no_object_leaves_the_containers_unread() -> None:
    """a rule of storage raised over it."""
    found = state(put(seeds()["outer"], ("docker", "containers", 0, "mounts"), [None]))
    assert found.docker.containers.status == "failed" and found.docker.info.ok


UNIT = "docker.service"


def unit(**properties: Any) -> Host:
    """A healthy host with a container; docker.service has these properties besides."""
    host = healthy()
    assert host.docker is not None and host.units is not None
    docker = {**host.docker, "containers": [container("job", gpus=True)]}
    return host.but(units={UNIT: {**(host.units[UNIT] or {}), **properties}}, docker=docker, processes=())


@pytest.mark.parametrize("wrong", [None, 1, ["x"], {"x": "y"}], ids=repr)
def test_a_units_property_that_is_no_text_is_not_one(wrong: object) -> None:
    """`ExecStart` of null made an AnswerError of a host whose other facts were all there; of others a rule raised."""
    host = unit(ExecStart=wrong, FragmentPath=wrong, ActiveState="active")
    found = Snapshot(host.answer()).unit(UNIT)
    assert found.ok and found.need()["ActiveState"] == "active"
    assert not {"ExecStart", "FragmentPath"} & found.need().keys()
    assert verdict(host).findings == verdict(unit(ActiveState="active")).findings
