"""The images that a compose project builds are judged with the command, directory and mounts that its services give them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from gpumend.rules.finding import Finding
from gpumend.run.local import builds
from gpumend.state.compose_files import project

# Report 002, fixes 3 and 4: the worker's module was in no COPY.
DOCKERFILE = """\
FROM python:3.11-slim
WORKDIR /srv
COPY app/ ./app/
COPY moe_router/ ./moe_router/
RUN pip install fastapi uvicorn
CMD ["uvicorn", "app.main:app"]
"""
FILES = {
    f"{name}/{part}.py": ""
    for name in ("app", "moe_router", "expert_worker")
    for part in ("__init__", "main")
}
GPU = "    gpus: all\n"


def judged(
    path: Path, compose: str, files: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> list[Finding]:
    for name, text in {"compose.yaml": compose, **FILES, **files}.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(text)
    monkeypatch.chdir(path)

    def read(name: str) -> bytes:
        return Path(name).read_bytes()

    return list(builds.of_project(project(("compose.yaml",), read), read))


WORKER = "services:\n  worker:\n    build: .\n    command: uvicorn expert_worker.main:app --port 8001\n"
CASES = [
    # what compose says, further files, (code, status, first evidence)
    ("services:\n  router:\n    build: .\n" + GPU, {}, []),
    (WORKER + GPU, {}, [("GM953", "fail", "compose.yaml:4")]),
    (WORKER, {}, []),  # no GPU is asked for
    (WORKER + "    volumes: ['.:/srv']\n" + GPU, {}, []),
    (WORKER + "    volumes: ['./expert_worker:/srv/expert_worker:ro', '${CACHE:-/tmp}:/cache', 'models:/models']\n" + GPU, {}, []),
    (WORKER + "    volumes: ['code:/srv']\n" + GPU, {}, [("GM953", "unknown", "compose.yaml:4")]),
    (WORKER + "    working_dir: /opt\n    environment: {PYTHONPATH: /srv}\n" + GPU, {}, [("GM953", "fail", "compose.yaml:4")]),
    ("services:\n  a:\n    build: {context: ., dockerfile: gpu.Dockerfile, target: prod}\n" + GPU,
     {"gpu.Dockerfile": DOCKERFILE.replace("slim", "slim AS prod") + "FROM python:3.12\nCMD [\"python\", \"-m\", \"nothing\"]\n"}, []),
    ("services:\n  a:\n    build:\n      context: .\n      args: [TAG=12.4.1-devel-ubuntu22.04]\n" + GPU,
     {"Dockerfile": "ARG TAG\nFROM nvidia/cuda:${TAG}\n"}, [("GM954", "note", "Dockerfile:2")]),
    ("services:\n  a:\n    build: ./gone\n" + GPU, {}, [("GM951", "unknown", "compose.yaml:3")]),
    ("services:\n  a:\n    build: ${WHERE}\n" + GPU, {}, [("GM951", "unknown", "compose.yaml:3")]),
    ("services:\n  a:\n    build: https://github.com/x/y.git\n" + GPU, {}, [("GM951", "unknown", "compose.yaml:3")]),
    ("services:\n  a:\n    build: .\n    entrypoint: [python, -m, expert_worker.main]\n" + GPU, {}, [("GM953", "fail", "compose.yaml:4")]),
    ("services:\n  a:\n    image: x\n" + GPU, {}, []),
]  # fmt: skip


@pytest.mark.parametrize(("compose", "files", "expected"), CASES)
def test_builds(
    compose: str,
    files: dict[str, str],
    expected: list[tuple[str, str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = judged(tmp_path, compose, {"Dockerfile": DOCKERFILE, **files}, monkeypatch)
    assert [(item.code, str(item.status), item.evidence[0].source) for item in found] == expected, found
