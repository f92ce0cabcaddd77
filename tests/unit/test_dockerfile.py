"""Dockerfiles and their contexts: sound ones stay silent, each planted fault is found with its file and line."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from gpumend.reports import outputs, working_copy
from gpumend.rules.dockerfile import program
from gpumend.rules.dockerfile import target as targets
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.image import Mount
from gpumend.rules.dockerfile.program import Running
from gpumend.rules.dockerfile.rules import CHECKS, Service
from gpumend.rules.finding import Finding, Status
from gpumend.run.record import Run
from gpumend.text import dockerignore
from tests.unit.test_report_documents import fits

SERVICE = {
    "app/__init__.py": "",
    "app/main.py": "",
    "requirements.txt": "fastapi==0.115.0\nuvicorn[standard]>=0.30\n",
}
# report 002: three packages, of which the Dockerfile copied two
MOE = {
    **SERVICE,
    "moe_router/__init__.py": "",
    "moe_router/route.py": "",
    "expert_worker/__init__.py": "",
    "expert_worker/main.py": "",
}
PROJECT = {
    "pyproject.toml": '[project]\nname = "serve"\nversion = "1"\ndependencies = ["uvicorn", "torch"]\n[project.scripts]\nserve = "serve.cli:main"\n',
    "src/serve/__init__.py": "", "src/serve/cli.py": "", "src/serve/api.py": "", "uv.lock": "",
}  # fmt: skip
TRAIN = {
    "train.py": "",
    "lib/model/__init__.py": "",
    "lib/model/net.py": "",
    "scripts/start.sh": '#!/bin/sh\nset -e\ncd /work\nexec torchrun --standalone --nproc_per_node 4 train.py "$@"\n',
}
DJANGO = {
    "manage.py": "",
    "site1/__init__.py": "",
    "site1/wsgi.py": "",
    "site1/settings.py": "",
    "site1/celery.py": "",
}


@dataclass(frozen=True)
class Case:
    """A context, a Dockerfile, and the findings: (code, status, line, words of the summary)."""

    name: str
    text: str
    files: Mapping[str, str] = field(default_factory=dict)
    found: tuple[tuple[str, str, int, str], ...] = ()
    ignore: str = ""
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)


def context(files: Mapping[str, str], ignore: str = "") -> Files:
    return Files(frozenset(files), files.get, dockerignore.parse(ignore))


AS_IT_IS = Service()


def judged(
    case: Case, hosts: tuple[targets.Target, ...] = (), service: Service = AS_IT_IS
) -> tuple[Finding, ...]:
    files = context(case.files, case.ignore)
    return audit(case.text, files, "Dockerfile", "", service, case.target, case.arguments, hosts)


def line_of(finding: Finding) -> int:
    match = re.fullmatch(r"Dockerfile:(\d+)", finding.evidence[0].source)
    assert match, finding.evidence
    return int(match[1])


SOUND = (
    Case("report 002, as it was mended", """\
FROM python:3.11-slim
WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app/ ./app/
COPY moe_router/ ./moe_router/
COPY expert_worker/ ./expert_worker/
CMD ["uvicorn", "expert_worker.main:app", "--host", "0.0.0.0", "--port", "8000"]
""", MOE),
    Case("everything copied, with a .dockerignore", """\
FROM python:3.12
WORKDIR /app
COPY . .
RUN pip install -r requirements.txt
CMD uvicorn app.main:app --host 0.0.0.0 --workers 2
""", SERVICE, ignore="**/__pycache__\n.git\n*.md\n"),
    Case(".dockerignore of everything but", """\
FROM python:3.12
WORKDIR /app
COPY . .
RUN pip install -r requirements.txt
CMD ["python", "-m", "uvicorn", "app.main:app"]
""", SERVICE, ignore="*\n!app\n!requirements.txt\n"),
    Case("a virtual environment of a builder", """\
# syntax=docker/dockerfile:1.7
ARG PYTHON=3.12
FROM python:${PYTHON}-slim AS builder
WORKDIR /build
RUN python -m venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
COPY pyproject.toml uv.lock ./
COPY src ./src
RUN --mount=type=cache,target=/root/.cache/pip pip install .

FROM python:${PYTHON}-slim
COPY --from=builder /opt/venv /opt/venv
ENV PATH="/opt/venv/bin:$PATH"
USER 1000
ENTRYPOINT ["serve"]
""", PROJECT),
    Case("uv, not editable, console script behind tini", """\
FROM ghcr.io/astral-sh/uv:python3.12-bookworm-slim AS builder
WORKDIR /app
COPY . .
RUN uv sync --frozen --no-editable

FROM python:3.12-slim
COPY --from=builder /app/.venv /app/.venv
ENTRYPOINT ["tini", "--", "/app/.venv/bin/serve"]
""", PROJECT),
    Case("uv, editable, with its source where it was", """\
FROM ghcr.io/astral-sh/uv:python3.12-bookworm-slim AS builder
WORKDIR /app
COPY . .
RUN uv sync --frozen

FROM python:3.12-slim
COPY --from=builder /app /app
CMD ["/app/.venv/bin/uvicorn", "serve.api:app"]
""", PROJECT),
    Case("PYTHONPATH for a src layout", """\
FROM python:3.12
WORKDIR /app
ENV PYTHONPATH=/app/src
COPY src/ src/
RUN pip install uvicorn torch
CMD ["uvicorn", "serve.api:app"]
""", PROJECT),
    Case("--app-dir", """\
FROM python:3.12
WORKDIR /app
COPY src /app/src
RUN pip install uvicorn
CMD ["uvicorn", "--app-dir", "src", "serve.api:create", "--factory"]
""", PROJECT),
    Case("gunicorn and Django, shell form with cd", """\
FROM python:3.12
COPY . /code
RUN pip install django gunicorn
CMD cd /code && exec gunicorn --workers 3 -b 0.0.0.0:8000 site1.wsgi
""", DJANGO),
    Case("celery from a parent directory", """\
FROM python:3.12
WORKDIR /code
COPY manage.py ./
COPY site1 site1
RUN pip install celery django
CMD ["celery", "-A", "site1", "worker", "-l", "info"]
""", DJANGO),
    Case("torchrun in an entry script", """\
FROM nvcr.io/nvidia/cuda:12.4.1-cudnn-runtime-ubuntu22.04
RUN apt-get update && apt-get install -y --no-install-recommends python3-pip && rm -rf /var/lib/apt/lists/*
RUN pip install torch==2.4.0
COPY train.py /work/
COPY lib /work/lib
COPY --chmod=755 scripts/start.sh /usr/local/bin/start.sh
ENTRYPOINT ["/usr/local/bin/start.sh"]
CMD ["--epochs", "3"]
""", TRAIN),
    Case("heredocs, continuations, comments inside", """\
# syntax=docker/dockerfile:1
FROM python:3.12
RUN <<EOF
set -e
pip install uvicorn \\
    fastapi
# COPY nothing /nowhere
FROM scratch
EOF
COPY <<-start.sh /srv/start.sh
\t#!/bin/sh
\texec uvicorn app.main:app "$@"
\tstart.sh
WORKDIR /srv
COPY app \\
  # a comment
  app
CMD ["sh", "start.sh"]
""", SERVICE),
    Case("a module of the base image", """\
FROM vllm/vllm-openai:v0.6.3
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
CMD ["--model", "/models/m"]
""", {}, (("GM953", "note", 2, "vllm.entrypoints"),)),
    Case("a base with a WORKDIR that nobody here knows", """\
FROM registry.example/team/base:3
COPY . .
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE),
    Case("PyTorch's image, whose WORKDIR is known", """\
FROM pytorch/pytorch:2.4.0-cuda12.1-cudnn9-runtime
COPY app /workspace/app
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE),
    Case("a module that the base image may have", """\
FROM registry.example/team/base:3
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM953", "note", 2, "expected of the base image"),)),
    Case("an entry script that a RUN copies from what was copied", """\
FROM ubuntu:22.04
COPY . /src
WORKDIR /src
RUN cp scripts/start.sh /usr/local/bin/start.sh && chmod +x /usr/local/bin/start.sh
ENTRYPOINT ["/usr/local/bin/start.sh"]
""", TRAIN),
    Case("the standard library", """\
FROM python:3.12-alpine
WORKDIR /www
COPY index.html .
CMD ["python", "-m", "http.server", "8000"]
""", {"index.html": ""}),
    Case("a program in C, its library with ldconfig", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
COPY CMakeLists.txt main.cu /src/
RUN cmake -S /src -B /b && cmake --build /b && cmake --install /b
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
COPY --from=build /usr/local/lib/libfast.so.1 /usr/local/lib/
COPY --from=build /usr/local/bin/fast /usr/local/bin/fast
RUN ldconfig
CMD ["fast"]
""", {"CMakeLists.txt": "", "main.cu": ""}),
    Case("a library in a directory of its own, on LD_LIBRARY_PATH", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
RUN git clone https://example.net/fast /src && make -C /src install PREFIX=/opt/fast
FROM nvidia/cuda:12.4.1-base-ubuntu22.04
COPY --from=build /opt/fast/lib/libfast.so /opt/fast/lib/
COPY --from=build /opt/fast/bin /opt/fast/bin
ENV LD_LIBRARY_PATH=/opt/fast/lib:${LD_LIBRARY_PATH}
CMD ["/opt/fast/bin/fast"]
""", {}),
    Case("CUPTI from its package in the final stage", """\
ARG CUDA=12.4.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu22.04 AS build
COPY . /src
RUN cmake -S /src -B /b -DUSE_CUPTI=ON && cmake --build /b --target install
FROM nvidia/cuda:${CUDA}-runtime-ubuntu22.04
RUN apt-get update && apt-get install -y --no-install-recommends cuda-cupti-12-4 && rm -rf /var/lib/apt/lists/*
COPY --from=build /usr/local/bin/prof /usr/local/bin/prof
ENTRYPOINT ["prof"]
""", {"CMakeLists.txt": ""}),
    Case("a -devel image that is meant", """\
FROM nvidia/cuda:12.6.3-devel-ubuntu24.04
WORKDIR /app
COPY kernels.py .
RUN apt-get update && apt-get install -y python3-pip && pip install --break-system-packages triton
CMD ["python3", "kernels.py"]
""", {"kernels.py": ""}, (("GM954", "note", 1, "12.6.3-devel"),)),
    Case("the stub used where it belongs", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
COPY main.cu .
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/local/cuda/lib64/stubs/libcuda.so.1 \\
 && LIBRARY_PATH=/usr/local/cuda/lib64/stubs nvcc main.cu -lcuda -o /fast
FROM nvidia/cuda:12.4.1-base-ubuntu22.04
COPY --from=build /fast /usr/local/bin/fast
CMD ["fast"]
""", {"main.cu": ""}),
    Case("a stage by its number, and one that is not used", """\
FROM python:3.12 AS tests
COPY tests /t
CMD ["pytest", "/t"]
FROM python:3.12
WORKDIR /srv
COPY app app
RUN pip install uvicorn
FROM python:3.12-slim
WORKDIR /srv
COPY --from=1 /usr/local/lib/python3.12/site-packages /usr/local/lib/python3.12/site-packages
COPY --from=1 /usr/local/bin/uvicorn /usr/local/bin/uvicorn
COPY --from=1 /srv /srv
CMD ["uvicorn", "app.main:app"]
""", SERVICE),
    Case("stages on stages, target in the middle", """\
FROM python:3.12 AS base
WORKDIR /srv
COPY requirements.txt .
RUN pip install -r requirements.txt
FROM base AS prod
COPY app app
CMD ["uvicorn", "app.main:app"]
FROM prod AS dev
CMD ["uvicorn", "dev.main:app"]
""", SERVICE, target="prod"),
    Case("wildcards, and a file that may be missing", """\
FROM python:3.12
WORKDIR /srv
COPY pyproject.toml poetry.lock* ./
COPY requirements*.txt ./
RUN pip install -r requirements.txt
COPY app/*.py app/
CMD ["hypercorn", "app.main:app"]
""", {**SERVICE, "pyproject.toml": ""}),
    Case("Windows line ends and a BOM", "\ufeffFROM python:3.12\r\nWORKDIR /srv\r\nCOPY app \\\r\n app\r\nRUN pip install uvicorn\r\nCMD [\"uvicorn\", \\\r\n \"app.main:app\"]\r\n", SERVICE),
    Case("an entry script that a RUN writes", """\
FROM python:3.12
WORKDIR /srv
COPY app app
RUN pip install uvicorn && printf '#!/bin/sh\\nexec "$@"\\n' > /srv/start.sh && chmod +x start.sh
ENTRYPOINT ["/srv/start.sh"]
CMD ["uvicorn", "app.main:app"]
""", SERVICE),
    Case("a mount only for the build", """\
FROM python:3.12
WORKDIR /srv
RUN --mount=type=bind,source=requirements.txt,target=/tmp/r.txt pip install -r /tmp/r.txt
COPY app app
CMD ["python", "-u", "-W", "ignore", "app/main.py"]
""", SERVICE),
)  # fmt: skip


FAULTY = (
    Case("report 002: expert_worker is not copied", """\
FROM python:3.11-slim
WORKDIR /srv
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY app/ ./app/
COPY moe_router/ ./moe_router/
CMD ["uvicorn", "expert_worker.main:app", "--host", "0.0.0.0", "--port", "8000"]
""", MOE, (("GM953", "fail", 7, "no COPY brings expert_worker/"),)),
    Case("the directory's contents, not the directory", """\
FROM python:3.11-slim
WORKDIR /srv
COPY app .
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM953", "fail", 5, "app/ is at /srv"),)),
    Case("another WORKDIR", """\
FROM python:3.11-slim
COPY . /srv
RUN pip install uvicorn
WORKDIR /app
CMD uvicorn app.main:app
""", SERVICE, (("GM953", "fail", 5, "app/ is at /srv/app"),)),
    Case("kept out by .dockerignore", """\
FROM python:3.11-slim
WORKDIR /srv
COPY . .
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM953", "fail", 5, ".dockerignore keeps app/ out"),), ignore="tests\napp\n"),
    Case("COPY of what .dockerignore keeps out", """\
FROM python:3.11-slim
WORKDIR /srv
COPY requirements.txt .
COPY app app
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM952", "fail", 3, ".dockerignore keeps out"),), ignore="*.txt\n"),
    Case("COPY of what is not there", """\
FROM python:3.11-slim
WORKDIR /srv
COPY application ./app
COPY app app
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM952", "fail", 3, "application"),)),
    Case("a module that its package lacks", """\
FROM python:3.11-slim
WORKDIR /srv
COPY app app
RUN pip install gunicorn uvicorn
CMD ["gunicorn", "-k", "uvicorn.workers.UvicornWorker", "app.server:app"]
""", SERVICE, (("GM953", "fail", 5, "/srv/app has no such module"),)),
    Case("editable, and the source stays in the builder", """\
FROM python:3.12 AS builder
WORKDIR /build
RUN python -m venv /opt/venv
COPY . .
RUN /opt/venv/bin/pip install -e .
FROM python:3.12-slim
COPY --from=builder /opt/venv /opt/venv
CMD ["/opt/venv/bin/uvicorn", "serve.api:app"]
""", PROJECT, (("GM953", "fail", 8, "installed editable"),)),
    Case("uv sync without --no-editable", """\
FROM ghcr.io/astral-sh/uv:python3.12-bookworm-slim AS builder
WORKDIR /app
COPY . .
RUN uv sync --frozen
FROM python:3.12-slim
COPY --from=builder /app/.venv /app/.venv
ENTRYPOINT ["/app/.venv/bin/serve"]
""", PROJECT, (("GM953", "fail", 7, "serve runs serve.cli"),)),
    Case("a src layout without PYTHONPATH", """\
FROM python:3.12
WORKDIR /app
COPY . .
RUN pip install uvicorn torch
CMD ["python", "-m", "serve.api"]
""", PROJECT, (("GM953", "fail", 5, "src/serve/ is at /app/src/serve"),)),
    Case("celery's app is not copied", """\
FROM python:3.12
WORKDIR /code
COPY manage.py ./
RUN pip install celery django
CMD ["celery", "--app=site1.celery:app", "worker"]
""", DJANGO, (("GM953", "fail", 5, "no COPY brings site1/"),)),
    Case("torchrun's script is not copied, behind an entry script", """\
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
RUN apt-get update && apt-get install -y python3-pip && pip install torch
COPY lib /work/lib
COPY scripts/start.sh /start.sh
ENTRYPOINT ["/start.sh"]
""", TRAIN, (("GM953", "fail", 5, "no COPY brings train.py"),)),
    Case("a script at another path", """\
FROM python:3.12
COPY . /work
RUN pip install torch
CMD ["accelerate", "launch", "--num_processes", "2", "train.py"]
""", TRAIN, (("GM953", "fail", 4, "train.py is at /work/train.py"),)),
    Case("nobody has the module", """\
FROM python:3.12-slim
WORKDIR /srv
COPY requirements.txt .
RUN pip install -r requirements.txt
COPY app app
CMD ["uvicorn", "srever.main:app"]
""", SERVICE, (("GM953", "fail", 6, "srever.main, which is not in the image"),)),
    Case("PyTorch's image, and the worker is not copied", """\
FROM pytorch/pytorch:2.4.0-cuda12.1-cudnn9-runtime
COPY app ./app
CMD ["uvicorn", "expert_worker.main:app"]
""", MOE, (("GM953", "fail", 3, "no COPY brings expert_worker/"),)),
    Case("a place that only the base image's WORKDIR tells", """\
FROM registry.example/team/base:3
COPY app ./app
CMD ["python", "/srv/app/main.py"]
""", SERVICE, (("GM953", "unknown", 3, "WORKDIR of the base image"),)),
    Case("a COPY hidden by a variable", """\
FROM python:3.12-slim
ARG WHERE
WORKDIR /srv
COPY app ${WHERE}
RUN pip install uvicorn
CMD ["uvicorn", "app.main:app"]
""", SERVICE, (("GM953", "unknown", 6, "WHERE"),)),
    Case("compat first", """\
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
ENV LD_LIBRARY_PATH=/usr/local/cuda/compat:$LD_LIBRARY_PATH
CMD ["nvidia-smi"]
""", {}, (("GM956", "warn", 2, "cuda-compat of CUDA 12.4"),)),
    Case("compat in the linker's files", """\
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
RUN echo /usr/local/cuda-12.4/compat > /etc/ld.so.conf.d/00-compat.conf && ldconfig
""", {}, (("GM956", "warn", 2, "cuda-compat of CUDA 12.4"),)),
    Case("CUPTI's headers alone", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS cuda
FROM ubuntu:22.04
COPY --from=cuda /usr/local/cuda/extras/CUPTI/include /usr/local/cuda/extras/CUPTI/include
COPY CMakeLists.txt /src/
RUN cmake -S /src -B /b && cmake --build /b
""", {"CMakeLists.txt": ""}, (("GM957", "warn", 3, "headers are copied"),)),
    Case("one of CUPTI's headers by its name", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS cuda
FROM ubuntu:22.04
COPY --from=cuda /usr/local/cuda/include/cupti_target.h /usr/include/
COPY CMakeLists.txt /src/
RUN cmake -S /src -B /b && cmake --build /b
""", {"CMakeLists.txt": ""}, (("GM957", "warn", 3, "headers are copied"),)),
    Case("a header of somebody else's below a directory of that name", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS cuda
FROM ubuntu:22.04
COPY --from=cuda /opt/cupti/samples/helper.h /usr/include/
COPY CMakeLists.txt /src/
RUN cmake -S /src -B /b && cmake --build /b
""", {"CMakeLists.txt": ""}, ()),
    Case("built with CUPTI, run without", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
COPY . /src
RUN cmake -S /src -B /b \\
  -DUSE_CUPTI=ON && cmake --build /b --target install
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
COPY --from=build /usr/local/bin/prof /usr/local/bin/prof
ENTRYPOINT ["prof"]
""", {"CMakeLists.txt": ""}, (("GM957", "warn", 3, "its final stage has no libcupti.so"),)),
    Case("the nuclear copy", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
FROM ubuntu:22.04
COPY --from=build /usr/local/cuda /usr/local/cuda
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64
""", {}, (("GM958", "note", 3, "copied whole"),)),
    Case("the nuclear copy, and a link onto the base's", """\
FROM nvidia/cuda:12.4.1-devel-ubuntu22.04 AS build
FROM nvidia/cuda:12.4.1-base-ubuntu22.04
COPY --from=build /usr/local/cuda-12.4 /usr/local/cuda-12.4
RUN ln -s /usr/local/cuda-12.4 /usr/local/cuda
""", {}, (("GM958", "warn", 4, "does not replace"), ("GM958", "note", 3, "copied whole"))),
    Case("a library without ldconfig", """\
FROM debian:12 AS build
RUN apt-get update && make install
FROM debian:12
COPY --from=build /usr/local/lib/libfast.so.1 /usr/local/lib/
COPY --from=build /usr/local/bin/fast /usr/local/bin/fast
CMD ["fast"]
""", {}, (("GM959", "warn", 4, "/usr/local/lib"),)),
    Case("a library nobody looks for", """\
FROM debian:12 AS build
RUN make install
FROM debian:12
COPY --from=build /opt/fast/lib/libfast.so /opt/fast/lib/libfast.so
RUN ldconfig
""", {}, (("GM959", "warn", 4, "/opt/fast/lib"),)),
    Case("the stub in the driver's place", """\
FROM nvidia/cuda:12.4.1-runtime-ubuntu22.04
RUN ln -s /usr/local/cuda/lib64/stubs/libcuda.so /usr/lib/x86_64-linux-gnu/libcuda.so.1
""", {}, (("GM960", "warn", 2, "stub"),)),
    Case("the stubs on the library path", """\
FROM python:3.12
ENV LD_LIBRARY_PATH=/usr/local/cuda/lib64:/usr/local/cuda/lib64/stubs
""", {}, (("GM960", "warn", 2, "stub"),)),
    Case("a heredoc that does not end", "FROM python:3.12\nRUN <<EOF\nls\n", {}, (("GM951", "fail", 2, "unterminated heredoc"),)),
    Case("an instruction that is none", "FROM python:3.12\n\nCOPPY a b\n", {}, (("GM951", "fail", 3, "unknown instruction: COPPY"),)),
    Case("a target that is none", "FROM python:3.12 AS a\n", {}, (("GM951", "fail", 1, "'b' could not be found"),), target="b"),
)  # fmt: skip


def test_there_are_enough_of_both() -> None:
    """Issue 14: at least 20 sound ones, and 20 with one planted fault each."""
    assert len(SOUND) >= 20 and len(FAULTY) >= 20


@pytest.mark.parametrize("case", [*SOUND, *FAULTY], ids=lambda case: case.name)
def test_a_dockerfile_is_judged_right(case: Case) -> None:
    found = [(item.code, str(item.status), line_of(item)) for item in judged(case)]
    assert found == [row[:3] for row in case.found], judged(case)
    for item, row in zip(judged(case), case.found, strict=True):
        assert row[3] in item.summary
        assert item.status in (Status.NOTE, Status.UNKNOWN) or item.remedy


# --- for a host


def report(driver: str | None, toolkit: str = "1.18.1", kernel: str = "6.8.0", **card: str) -> dict[str, Any]:
    cards = (
        [{"name": "NVIDIA H100 80GB HBM3", "brand": "NVIDIA", "architecture": "Hopper", **card}]
        if card.get("name") != ""
        else []
    )
    facts = {"driver": driver, "toolkit": toolkit, "kernel": kernel, "cards": cards}
    return {"kind": "audit", "hosts": {"gpu1": {"error": "", "facts": facts}}}


def told(document: dict[str, Any]) -> tuple[targets.Target, ...]:
    return tuple(targets.hosts(document, "report.json"))


def image(tag: str, more: str = "") -> Case:
    return Case(tag, f"FROM nvidia/cuda:{tag}\n{more}", {})


HOSTS = [
    # image, driver, card, findings
    ("12.4.1-runtime-ubuntu22.04", "550.54.15", {}, []),
    ("12.9.1-runtime-ubuntu24.04", "535.183.01", {}, []),  # minor-version compatibility
    ("13.0.1-runtime-ubuntu24.04", "580.95.05", {}, []),
    ("13.0.1-runtime-ubuntu24.04", "535.183.01", {}, []),  # the image's compat, by the hook of 1.17.8
    ("13.0.1-runtime-ubuntu24.04", "570.133.20", {"brand": "GeForce", "architecture": "Ada Lovelace"}, [("GM955", "fail")]),
    ("13.0.1-runtime-ubuntu24.04", "580.95.05", {"brand": "Tesla", "architecture": "Volta"}, [("GM955", "fail")]),
    ("13.0.1-runtime-ubuntu24.04", "580.95.05", {"name": ""}, [("GM955", "unknown")]),
    ("12.4.1-runtime-ubuntu22.04", None, {}, [("GM955", "fail")]),
]  # fmt: skip


@pytest.mark.parametrize(("tag", "driver", "card", "expected"), HOSTS)
def test_the_drivers_verdict_is_that_of_the_cuda_rules(
    tag: str, driver: str | None, card: dict[str, str], expected: list[tuple[str, str]]
) -> None:
    found = judged(image(tag), told(report(driver, **card)))
    assert [(item.code, str(item.status)) for item in found] == expected
    assert all(item.evidence[0].source == "Dockerfile:1" for item in found)


COMPAT = "ENV LD_LIBRARY_PATH=/usr/local/cuda/compat\n"


@pytest.mark.parametrize(
    ("driver", "expected"),
    [
        ("535.183.01", []),
        ("580.95.05", [("GM956", "fail")]),
        ("590.44.01", [("GM956", "fail")]),
        ("610.43.02", [("GM956", "fail")]),
    ],
)
def test_compat_is_judged_by_the_hosts_driver(driver: str, expected: list[tuple[str, str]]) -> None:
    """The CUDA compatibility guide's table: 12-9 is for 535 and 570, and for no newer branch."""
    found = judged(image("12.9.1-runtime-ubuntu22.04", COMPAT), told(report(driver)))
    assert [(item.code, str(item.status)) for item in found] == expected


def test_a_base_given_from_outside_is_unknown_with_its_name() -> None:
    case = Case("arg", "ARG BASE\nFROM ${BASE}\n", {})
    [found] = judged(case, told(report("550.54.15")))
    assert (found.code, found.status) == ("GM955", Status.UNKNOWN) and "BASE" in found.summary
    given = Case("arg", case.text, {}, arguments={"BASE": "nvidia/cuda:12.4.1-base-ubuntu22.04"})
    assert judged(given, told(report("550.54.15"))) == ()


def test_facts_tell_the_same_as_a_report() -> None:
    facts = {
        "kind": "facts",
        "hosts": {
            "gpu1": {
                "host": {"wsl2": False}, "driver": {"loaded": [580, 95, 5]}, "toolkit": {"version": [1, 18, 1]},
                "gpus": {"details": {"gpus": [{"name": "V100", "brand": "Tesla", "architecture": "Volta"}], "driver": [580, 95, 5], "cuda": [13, 0]}},
            }
        },
    }  # fmt: skip
    [found] = judged(image("13.0.1-base-ubuntu24.04"), told(facts))
    assert found.code == "GM955" and "Volta" in found.cause


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"kind": "runs", "hosts": {}},
        {"kind": "audit", "hosts": {}},
        {"kind": "audit", "hosts": 1},
        None,
    ],
)
def test_what_is_no_report_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match=r"report\.json"):
        told(document)


# --- as compose starts it


def test_the_services_own_command_is_judged() -> None:
    case = FAULTY[0]
    router = Service(command=("uvicorn", "moe_router.route:app"), said="compose.yaml:7")
    assert judged(case, service=router) == ()
    worker = Service(command=("uvicorn", "expert_worker.main:app"), said="compose.yaml:7")
    [found] = judged(case, service=worker)
    assert found.evidence[0].source == "compose.yaml:7"


def test_a_mount_hides_what_copy_brought() -> None:
    """And brings what the directory of the host has."""
    hides = Service(mounts=(Mount("/srv", "moe_router"),))
    assert [item.code for item in judged(SOUND[0], service=hides)] == ["GM953"]
    brings = Service(mounts=(Mount("/srv", ""),))
    assert judged(FAULTY[0], service=brings) == ()
    volume = Service(mounts=(Mount("/srv", None),))
    assert [item.status for item in judged(SOUND[0], service=volume)] == [Status.UNKNOWN]


def test_a_context_that_was_not_listed_whole_is_unknown() -> None:
    files = Files(frozenset({"requirements.txt"}), {}.get, whole=False)
    found = audit(SOUND[0].text, files)
    assert [(item.code, item.status) for item in found] == [("GM953", Status.UNKNOWN)]


# --- what a command runs

RUNS = [
    ("python -m a.b", [("module", "a.b")]),
    ("python3 -u -X dev x/y.py --z", [("script", "/srv/x/y.py")]),
    ("python -c 'import a'", []),
    ("uvicorn --host 0.0.0.0 --port 80 a.b:app --workers 2", [("module", "a.b")]),
    ("gunicorn -w 4 --chdir web -k uvicorn.workers.UvicornWorker 'a:create_app()'", [("module", "a")]),
    ("python -m gunicorn proj.wsgi", [("module", "proj.wsgi")]),
    ("celery --workdir /x -A proj.celery beat", [("module", "proj.celery")]),
    ("flask --app web/app.py run", [("script", "/srv/web/app.py")]),
    ("FLASK_APP=web flask run", [("module", "web")]),
    ("dramatiq tasks.main -p 2", [("module", "tasks.main")]),
    ("arq jobs.main.Settings", [("module", "jobs.main")]),
    ("torchrun --nproc-per-node=2 --standalone -m a.train --lr 1", [("module", "a.train")]),
    ("torchrun --nnodes 1 --nproc_per_node 4 train.py --lr 1", [("script", "/srv/train.py")]),
    ("python -m torch.distributed.run --nproc_per_node 4 train.py", [("script", "/srv/train.py")]),
    ("accelerate launch --multi_gpu --num_processes 4 t.py", [("script", "/srv/t.py")]),
    ("deepspeed --num_gpus 2 t.py", [("script", "/srv/t.py")]),
    ("mpirun -np 4 python t.py", [("script", "/srv/t.py")]),
    ("exec tini -g -- env -u A B=1 timeout 5 uvicorn a:b", [("module", "a")]),
    ("gosu nobody python -m a", [("module", "a")]),
    ("poetry run uvicorn a:b", [("module", "a")]),
    ("uv run --no-sync --extra x uvicorn a:b", [("module", "a")]),
    ("conda run -n env --no-capture-output python -m a", [("module", "a")]),
    ("cd web && python -m a", [("module", "a")]),
    ("streamlit run ui.py --server.port 80", [("script", "/srv/ui.py")]),
    ("sh -c 'exec python -m a'", [("module", "a")]),
    ("nvidia-smi -L", [("console", "nvidia-smi")]),
    ("", []),
]  # fmt: skip


@pytest.mark.parametrize(("text", "expected"), RUNS)
def test_a_command_names_what_it_runs(text: str, expected: list[tuple[str, str]]) -> None:
    running = Running("/srv", {}, lambda _: None)
    assert [(found.kind, found.name) for found in program.lines(text, running)] == expected


def test_cd_and_chdir_say_where_python_looks() -> None:
    running = Running("/srv", {}, lambda _: None)
    for text in ("cd web && python -m a", "gunicorn --chdir web a:b", "uvicorn --app-dir=web a:b"):
        assert [found.first for found in program.lines(text, running)] == [("/srv/web",)]


# --- the reports


@pytest.fixture(scope="module")
def told_of_files() -> dict[str, Any]:
    cases = [
        next(case for case in FAULTY if case.name == name)
        for name in ("report 002: expert_worker is not copied", "a COPY hidden by a variable")
    ]
    cases += [SOUND[0], next(case for case in SOUND if case.name == "a -devel image that is meant")]
    cases.append(next(case for case in FAULTY if case.name == "a heredoc that does not end"))
    found = {
        f"d{number}/Dockerfile": [moved(item, number) for item in judged(case)]
        for number, case in enumerate(cases)
    }
    run = Run("20261129T010203Z-00ff", time.time())
    return working_copy.document(run, found, CHECKS, {"gone": "Permission denied"}, UNREADABLE)


def moved(finding: Finding, number: int) -> Finding:
    first, *rest = finding.evidence
    return finding._replace(evidence=(first._replace(source=f"d{number}/{first.source}"), *rest))


def test_files_have_an_audits_report(told_of_files: dict[str, Any]) -> None:
    fits(told_of_files)
    assert (told_of_files["kind"], told_of_files["files"], told_of_files["exit"]) == ("audit", True, 1)
    assert [len(host["passed"]) for host in told_of_files["hosts"].values()] == [9, 9, 10, 9, 0, 0]
    assert [host["exit"] for host in told_of_files["hosts"].values()] == [3, 1, 0, 0, 3, 1]


@pytest.mark.parametrize("name", sorted(outputs.known()))
def test_every_format_shows_them(name: str, told_of_files: dict[str, Any]) -> None:
    assert "d0/Dockerfile" in outputs.known()[name].render(told_of_files)


def test_editors_and_ci_get_file_and_line(told_of_files: dict[str, Any]) -> None:
    run = json.loads(outputs.known()["sarif"].render(told_of_files))["runs"][0]
    places = [
        result["locations"][0]["physicalLocation"] for result in run["results"] if result["ruleId"] == "GM953"
    ]
    assert places[0] == {"artifactLocation": {"uri": "d0/Dockerfile"}, "region": {"startLine": 7}}
    assert run["originalUriBaseIds"] == {}
    github = outputs.known()["github"].render(told_of_files)
    assert "::error file=d0/Dockerfile,line=7,title=GM953::" in github
    text = outputs.known()["text"].render(told_of_files)
    assert text.split()[:3] == ["FILE", "STATE", "FINDINGS"]
    assert "6 files: 1 not known, 1 no answer, 2 drift, 2 as wanted" in " ".join(text.split())


# --- what nobody writes

FULL = 120_000  # characters: just below what is judged
HOSTILE = [
    ("quotes", "RUN " + '"' * FULL),
    ("brackets", "RUN " + "(" * FULL),
    ("git without clone", "RUN " + "git " * (FULL // 4)),
    ("braces that do not end", "ENV A=" + "${A:-" * (FULL // 5) + "x"),
    ("a value that doubles", "ENV A=x\n" + "ENV A=$A$A\n" * 60),
    ("compat without ld.so.conf", "RUN " + "/usr/local/cuda/compat " * (FULL // 23)),
    ("stubs", "RUN " + "ln stubs/libcuda.so" * (FULL // 20)),
    ("continuations", "RUN a" + " \\\n b" * (FULL // 6)),
    ("copies", "COPY . b\n" * 900),
    ("heredocs", "RUN " + "<<A " * 1000 + "\n" + "A\n" * 1000),
]


@pytest.mark.parametrize(("name", "text"), HOSTILE)
def test_a_hostile_file_takes_no_time(name: str, text: str) -> None:
    """Each took minutes, or for ever, before its pattern was bounded."""
    found = judged(Case(name, f"FROM python:3.12\n{text}\nCMD python -m app.main\n", SERVICE))
    assert "GM951" not in {item.code for item in found}


@pytest.mark.parametrize("text", ["# x\n" * 40_000, "FROM a\n" * 200, "FROM a\n" + "RUN b\n" * 2000])
def test_a_file_that_is_too_large_is_unknown(text: str) -> None:
    [found] = judged(Case("large", text))
    assert (found.code, found.status) == (UNREADABLE, Status.UNKNOWN)
