"""Dockerfiles as people write them, each with the repository that it is after: what is sound stays silent, what a clone brings
is unknown."""

from __future__ import annotations

import pytest

from tests.unit.test_dockerfile import Case, judged, line_of

REQ = {"requirements.txt": "fastapi\nuvicorn\ngunicorn\n"}
CASES = (
    Case("baolongbk29/mlops-projects: From, a directory above WORKDIR, -devel of a framework", """\
From pytorch/pytorch:1.12.0-cuda11.3-cudnn8-devel

COPY ./ /app
WORKDIR /app
RUN pip install -r requirements_inference.txt
EXPOSE 8000
CMD ["uvicorn", "app:app", "--host", "0.0.0.0", "--port", "8000"]""", {"requirements_inference.txt": "uvicorn\n", "app.py": ""},
         (("GM954", "note", 1, "-devel"),)),
    Case("eskayjj/MLRestApi: the last stage is another image", """\
FROM python:3.10.10-bullseye
WORKDIR /fastapi-docker
COPY ./requirements.txt /fastapi-docker/requirements.txt
RUN pip3 install --no-cache-dir --upgrade -r /fastapi-docker/requirements.txt
COPY ./app /fastapi-docker/app
CMD ["uvicorn", "app.main:app", "--host", "0.0.0.0", "--port", "80"]

FROM nvidia/cuda:12.0.0-devel-ubuntu22.04
CMD nvidia-smi
""", {**REQ, "app/main.py": ""}, (("GM954", "note", 8, "-devel"),)),
    Case("MozDevApps/Qwen-Image-Edit: requirements at the root", """\
FROM nvidia/cuda:12.2.0-base-ubuntu20.04
RUN apt update && apt install -y python3 python3-pip
COPY requirements.txt .
RUN pip3 install -r requirements.txt
COPY . /app
WORKDIR /app
CMD ["uvicorn", "main:app", "--host", "0.0.0.0", "--port", "8000"]
""", {**REQ, "main.py": ""}),
    Case("the same, and main.py in a directory of its own", """\
FROM nvidia/cuda:12.2.0-base-ubuntu20.04
RUN apt update && apt install -y python3 python3-pip
COPY requirements.txt .
RUN pip3 install -r requirements.txt
COPY . /app
WORKDIR /app
CMD ["uvicorn", "main:app", "--host", "0.0.0.0", "--port", "8000"]
""", {**REQ, "src/main.py": ""}, (("GM953", "fail", 7, "main"),)),
    Case("tabs behind a continuation, a comment between", """\
# syntax=docker/dockerfile:1
FROM nvidia/cuda:12.1.1-cudnn8-runtime-ubuntu22.04

ENV PYTHONDONTWRITEBYTECODE=1 \\
\tPYTHONUNBUFFERED=1

RUN apt-get update && apt-get install -y python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements.txt ./
RUN pip install --no-cache-dir -r requirements.txt \\
    # torch of its own index
\t&& pip install --no-cache-dir torch torchvision --index-url https://download.pytorch.org/whl/cu121

COPY . .
# Requires --gpus all at runtime
CMD ["uvicorn", "src.api.main:app", "--host", "0.0.0.0", "--port", "8000"]""", {**REQ, "src/api/main.py": ""}),
    Case("an entry point in a copied directory", """\
FROM nvidia/cuda:11.6.1-cudnn8-runtime-ubuntu20.04

COPY requirements.txt .

RUN apt update && \\
    apt install -y --no-install-recommends python3 python3-pip && \\
    pip install -r requirements.txt && \\
    apt clean && \\
    rm -rf /root/.cache/pip /var/lib/apt/lists/* /requirements.txt

COPY src /src

WORKDIR /src

EXPOSE 9528

ENTRYPOINT ["uvicorn", "app:app" , "--host", "0.0.0.0", "--port", "9528"]""", {**REQ, "src/app.py": ""}),
    Case("cortexlabs: ENV in the old form, options before the module, a variable in the command", """\
FROM nvidia/cuda:10.2-cudnn8-runtime-ubuntu18.04

RUN apt-get update \\
    && apt-get install -y \\
        python3 \\
        python3-pip \\
    && apt-get clean -qq && rm -rf /var/lib/apt/lists/*

ENV LC_ALL=C.UTF-8 LANG=C.UTF-8
ENV PYTHONUNBUFFERED TRUE

COPY app/requirements-gpu.txt /app/requirements.txt
RUN pip3 install --no-cache-dir -r /app/requirements.txt

COPY app /app
WORKDIR /app/
ENV PYTHONPATH=/app

ENV CORTEX_PORT=8080
CMD uvicorn --workers 1 --host 0.0.0.0 --port $CORTEX_PORT main:app
""", {"app/requirements-gpu.txt": "uvicorn\n", "app/main.py": ""}),
    Case("microservice-rca-thesis: python -u and a script", """\
FROM pytorch/pytorch:2.2.2-cuda11.8-cudnn8-runtime
WORKDIR /app
COPY requirements.txt .
RUN pip install --upgrade pip \\
    && pip install --no-cache-dir -r requirements.txt
COPY . .
CMD ["python", "-u", "worker.py"]
""", {**REQ, "worker.py": ""}),
    Case("neuro_operator: an entry point that is a script", """\
FROM pytorch/pytorch:2.4.0-cuda12.1-cudnn9-runtime
WORKDIR /app
COPY requirements.txt /app/requirements.txt
RUN pip install --no-cache-dir -r /app/requirements.txt
COPY app /app
COPY entrypoint.sh /entrypoint.sh
RUN chmod +x /entrypoint.sh
ENTRYPOINT ["/entrypoint.sh"]
""", {**REQ, "app/main.py": "", "entrypoint.sh": "#!/bin/bash\nset -euo pipefail\nexec python -m uvicorn main:app \"$@\"\n"}),
    Case("mteb: an entry point that is python alone", """\
FROM pytorch/pytorch:2.1.0-cuda12.1-cudnn8-devel
COPY requirements.txt ./
ENTRYPOINT [ "python" ]
RUN pip install --no-cache-dir -r requirements.txt
COPY . ./
""", REQ, (("GM954", "note", 1, "-devel"),)),
    Case("sh -c with a default", """\
FROM pytorch/pytorch:2.7.0-cuda12.6-cudnn9-runtime
WORKDIR /app
COPY requirements.txt requirements.txt
RUN pip install --no-cache-dir -r requirements.txt
COPY ./src ./src
ENV PORT 8080
EXPOSE $PORT
ENTRYPOINT [ "sh", "-c", "gunicorn --bind 0.0.0.0:${PORT:-8080} --workers 1 --timeout 0 src.main:app" ]""",
         {**REQ, "src/main.py": ""}),
    Case("gunicorn with its configuration", """\
FROM pytorch/pytorch:1.13.0-cuda11.6-cudnn8-runtime
COPY . /app
WORKDIR /app
RUN pip3 install -r requirements.txt
EXPOSE 5000
ENTRYPOINT ["gunicorn", "--config", "gunicorn_config.py", "run:app"]""", {**REQ, "run.py": "", "gunicorn_config.py": ""}),
    Case("a pattern and an empty CMD", """\
FROM pytorch/pytorch:1.10.0-cuda11.3-cudnn8-runtime

WORKDIR /workspace
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt

COPY *.py .

ENTRYPOINT ["python", "-u", "./entrypoint.py"]
CMD []""", {**REQ, "entrypoint.py": "", "lib.py": ""}),
    Case("gunicorn by the shell, options with quotes", """\
FROM pytorch/pytorch:latest
WORKDIR /app
COPY requirements.txt requirements.txt
RUN pip install -r requirements.txt
COPY . .
CMD gunicorn -w "$GUNICORN_WORKERS" --threads 6 -b 0.0.0.0:6000 --log-level debug app:app""", {**REQ, "app.py": ""}),
    Case("a script that is a shell's, and a COPY in a comment", """\
FROM pytorch/pytorch:1.9.0-cuda10.2-cudnn7-runtime
COPY requirements.txt /tmp/
RUN pip install --requirement /tmp/requirements.txt
WORKDIR /app
# COPY . /app needs to follow symlinks too
COPY . /app
#RUN ls -la /app
EXPOSE 5000/tcp
CMD ["bash", "gunicorn.sh"]""", {**REQ, "gunicorn.sh": "gunicorn -b 0.0.0.0 server:app\n", "server.py": ""}),
    Case("astral-sh/uv-docker-example: mounts of the lock file, and the installed project", """\
FROM ghcr.io/astral-sh/uv:python3.12-bookworm-slim AS builder
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy
ENV UV_PYTHON_DOWNLOADS=0
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/uv \\
    --mount=type=bind,source=uv.lock,target=uv.lock \\
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \\
    uv sync --locked --no-install-project --no-dev
COPY . /app
RUN --mount=type=cache,target=/root/.cache/uv \\
    uv sync --locked --no-dev

FROM python:3.12-slim-bookworm
COPY --from=builder --chown=app:app /app /app
ENV PATH="/app/.venv/bin:$PATH"
WORKDIR /app
CMD ["fastapi", "run", "--host", "0.0.0.0", "src/uv_docker_example"]
""", {"uv.lock": "", "pyproject.toml": "[project]\nname = \"uv-docker-example\"\ndependencies = [\"fastapi[standard]\"]\n",
      "src/uv_docker_example/__init__.py": ""}),
    Case("images by ARG, and a tool copied from an image", """\
# syntax=docker/dockerfile:1.7-labs

ARG BUILD_IMAGE=nvidia/cuda:12.6.3-devel-ubuntu24.04
ARG RUNTIME_IMAGE=nvidia/cuda:12.6.3-base-ubuntu24.04
ARG UV_IMAGE=ghcr.io/astral-sh/uv:0.9.17

# Named stage (workaround for COPY --from not supporting variables)
FROM ${UV_IMAGE} AS uv

FROM ${BUILD_IMAGE} AS builder
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \\
    build-essential \\
    python3-venv \\
 && rm -rf /var/lib/apt/lists/*
COPY --from=uv /uv /uvx /bin/
WORKDIR /app
COPY pyproject.toml uv.lock ./
RUN uv sync --frozen --no-install-project
COPY server ./server

FROM ${RUNTIME_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends python3-minimal && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY --from=builder /app /app
ENV PATH=/app/.venv/bin:$PATH
CMD ["python", "-m", "server.main"]
""", {"pyproject.toml": "[project]\nname = \"server\"\n", "uv.lock": "", "server/__init__.py": "", "server/main.py": ""}),
    Case("vllm-project/vllm: a module of a package that pip brings", """\
ARG CUDA_VERSION=12.4.1
FROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu22.04 AS vllm-base
WORKDIR /vllm-workspace
RUN apt-get update -y && apt-get install -y python3-pip
RUN ldconfig /usr/local/cuda-$(echo $CUDA_VERSION | cut -d. -f1,2)/compat/
RUN --mount=type=cache,target=/root/.cache/pip python3 -m pip install vllm==0.6.3
ENTRYPOINT ["python3", "-m", "vllm.entrypoints.openai.api_server"]
""", {}),
    Case("ggml-org/llama.cpp .devops/cuda.Dockerfile: libraries beside the program", """\
ARG UBUNTU_VERSION=22.04
ARG CUDA_VERSION=12.4.0
ARG BASE_CUDA_DEV_CONTAINER=nvidia/cuda:${CUDA_VERSION}-devel-ubuntu${UBUNTU_VERSION}
ARG BASE_CUDA_RUN_CONTAINER=nvidia/cuda:${CUDA_VERSION}-runtime-ubuntu${UBUNTU_VERSION}

FROM ${BASE_CUDA_DEV_CONTAINER} AS build
ARG CUDA_DOCKER_ARCH=default
RUN apt-get update && \\
    apt-get install -y build-essential cmake python3 python3-pip git libcurl4-openssl-dev libgomp1
WORKDIR /app
COPY . .
RUN if [ "${CUDA_DOCKER_ARCH}" != "default" ]; then \\
    export CMAKE_ARGS="-DCMAKE_CUDA_ARCHITECTURES=${CUDA_DOCKER_ARCH}"; \\
    fi && \\
    cmake -B build -DGGML_CUDA=ON ${CMAKE_ARGS} -DCMAKE_EXE_LINKER_FLAGS=-Wl,--allow-shlib-undefined . && \\
    cmake --build build --config Release -j$(nproc)
RUN mkdir -p /app/lib && \\
    find build -name "*.so" -exec cp {} /app/lib \\;
RUN mkdir -p /app/full \\
    && cp build/bin/* /app/full

FROM ${BASE_CUDA_RUN_CONTAINER} AS base
RUN apt-get update && apt-get install -y libgomp1 curl
COPY --from=build /app/lib/ /app

FROM base AS server
ENV LLAMA_ARG_HOST=0.0.0.0
COPY --from=build /app/full/llama-server /app
WORKDIR /app
HEALTHCHECK CMD [ "curl", "-f", "http://localhost:8080/health" ]
ENTRYPOINT [ "/app/llama-server" ]
""", {"CMakeLists.txt": ""}),
    Case("blakeblackshear/frigate, tensorrt: pip's CUDA found by a file of ld.so.conf.d", """\
FROM debian:12-slim AS wheels
RUN apt-get update && apt-get install -y python3-pip
COPY requirements.txt /requirements.txt
RUN mkdir -p /trt-wheels && pip3 wheel --wheel-dir=/trt-wheels -r /requirements.txt

FROM debian:12-slim
COPY --from=wheels /trt-wheels /deps/trt-wheels
RUN apt-get update && apt-get install -y python3-pip && pip3 install -U /deps/trt-wheels/*.whl --break-system-packages
RUN ln -s libnvrtc.so.11.2 /usr/local/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib/libnvrtc.so && ldconfig
COPY rootfs/ /
ENTRYPOINT ["/init"]
CMD []
""", {**REQ, "rootfs/etc/ld.so.conf.d/cuda_tensorrt.conf": "", "rootfs/init": ""}),
    Case("ComfyUI in a clone of its own", """\
FROM pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime
RUN apt-get update && apt-get install -y git && rm -rf /var/lib/apt/lists/*
RUN git clone --depth 1 https://github.com/comfyanonymous/ComfyUI.git /opt/ComfyUI
WORKDIR /opt/ComfyUI
RUN pip install -r requirements.txt
VOLUME ["/opt/ComfyUI/models"]
CMD ["python", "main.py", "--listen", "0.0.0.0"]
""", {"README.md": ""}, (("GM953", "unknown", 7, "main.py"),)),
    Case("kohya_ss: heredocs and a link of what pip brought", """\
# syntax=docker/dockerfile:1
ARG UID=1000
FROM python:3.10-slim AS build
WORKDIR /app
RUN --mount=type=cache,target=/root/.cache/pip <<EOT
pip install -U torch==2.1.2 --extra-index-url https://download.pytorch.org/whl/cu121
EOT
COPY --link . .

FROM build AS final
RUN ln -s /usr/lib/x86_64-linux-gnu/libnvinfer.so /usr/lib/x86_64-linux-gnu/libnvinfer.so.7
USER ${UID}:0
STOPSIGNAL SIGINT
ENTRYPOINT ["dumb-init", "--"]
CMD ["python3", "kohya_gui.py", "--listen", "0.0.0.0", "--server_port", "7860", "--headless"]
""", {"kohya_gui.py": "", ".dockerignore": ""}),
)  # fmt: skip


def test_there_are_twenty() -> None:
    assert len(CASES) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_people_build_is_judged_right(case: Case) -> None:
    found = judged(case)
    assert [(each.code, str(each.status), line_of(each)) for each in found] == [
        row[:3] for row in case.found
    ], found
    assert all(row[3] in each.summary for each, row in zip(found, case.found, strict=True))
