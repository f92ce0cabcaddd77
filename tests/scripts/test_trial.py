"""gpumend/payload/change/trial.py: what of a proof is told where an engine has not the image for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.change.program import containers
from gpumend.payload.probe import execution

IMAGE = "cuda:12.4"
# As Docker 20.10 and 28 and podman 5 answer; `load` brings the image where the archive has it.
DOCKER = """#!/bin/sh
echo "docker $*" >>{log}
case "$*" in
  "image inspect "*) [ -e {there} ] || {{ echo "Error response from daemon: No such image: {image}" >&2; exit 1; }} ;;
  "load "*) [ "$(cat "$4")" = {image} ] && touch {there} || {{ echo "open: invalid tar header" >&2; exit 1; }} ;;
  "run "*) [ -e {there} ] || {{ echo "Unable to find image '{image}' locally" >&2; exit 125; }} ;;
esac
"""
PODMAN = """#!/bin/sh
echo "podman $*" >>{log}
case "$*" in
  "image exists "*) [ -e {there} ] ;;
  "load "*) touch {there} ;;
esac
"""
CTR = """#!/bin/sh
echo "ctr $*" >>{log}
case "$*" in
  "namespaces ls -q") echo default ;;
  *" images ls -q") [ ! -e {there} ] || echo docker.io/library/{image} ;;
  *" images import "*) touch {there} ;;
esac
"""


@pytest.fixture
def engines(programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clients of engines that have no image, which note what they are asked. Returns the directory of their notes."""
    for name, text in {"docker": DOCKER, "podman": PODMAN, "ctr": CTR}.items():
        path = programs / name
        path.write_text(text.format(log=tmp_path / "log", there=tmp_path / "there", image=IMAGE))
        path.chmod(0o755)
    monkeypatch.setattr(execution, "PATH", f"{programs}:{execution.PATH}")
    return tmp_path


def entry(engine: str = "docker", must: bool = True, **more: Any) -> dict[str, Any]:
    argv = ["run", "--rm", "--pull=never", "--entrypoint", "true", IMAGE]
    return {
        **{"path": f"{engine} device", "engine": engine, "must": must, "image": IMAGE, "options": []},
        **{"command": ["true"], "argv": argv, "archive": "", "fresh": False, **more},
    }


def asked(*entries: dict[str, Any]) -> dict[str, Any]:
    return containers({"verb": "containers", "run": "r", "alone": True, "containers": list(entries)})


def test_an_engine_that_came_just_now_has_no_image_and_nothing_failed(engines: Path) -> None:
    found = asked(entry(fresh=True))
    assert found["status"] == "pending", found
    assert found["detail"].startswith("not proven: docker device: docker has no image cuda:12.4")
    assert "docker pull cuda:12.4" in found["detail"] and "prove.archive" in found["detail"]


def test_an_engine_that_was_there_fails_without_the_image_that_was_named(engines: Path) -> None:
    found = asked(entry())
    assert found["status"] == "broken" and "docker has no image cuda:12.4" in found["detail"], found


@pytest.mark.parametrize("engine", ["docker", "podman", "containerd"])
def test_the_image_is_taken_out_of_its_archive_once(engines: Path, programs: Path, engine: str) -> None:
    archive = programs / "cuda.tar"
    archive.write_text(IMAGE)
    for _ in range(2):
        found = asked(entry(engine, archive=str(archive), fresh=True))
        assert found == {"status": "changed", "detail": f"proven in a container: {engine} device"}
    log = (engines / "log").read_text().splitlines()
    assert len([row for row in log if str(archive) in row]) == 1, log


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_text("no archive"), "invalid tar header"),
        (lambda path: path.unlink(), "No such file"),
        (lambda path: path.chmod(0o666), "writable by everybody"),
    ],
)
def test_an_archive_that_cannot_be_taken_is_named(
    engines: Path, programs: Path, spoil: Any, words: str
) -> None:
    archive = programs / "cuda.tar"
    archive.write_text(IMAGE)
    spoil(archive)
    found = asked(entry(archive=str(archive), fresh=True))
    assert found["status"] == "pending" and str(archive) in found["detail"] and words in found["detail"], (
        found
    )


def test_nothing_that_was_tried_is_nothing_that_is_proven(engines: Path) -> None:
    found = asked(entry("podman", must=False), entry("containerd", must=False))
    assert found["status"] == "pending" and found["detail"].startswith("not proven: podman device: "), found
