"""The codes of what is judged in Dockerfiles. gpumend/rules/compose/images.py puts them into the one table of rules."""

from __future__ import annotations

# code, what is true when all is well, source
CODES: tuple[tuple[str, str, str], ...] = (
    (
        "GM951",
        "a Dockerfile can be built from",
        "moby/buildkit frontend/dockerfile/parser, instructions/parse.go",
    ),
    (
        "GM952",
        "what COPY and ADD name is in the build's context",
        "docs.docker.com/build/concepts/context; moby/patternmatcher: .dockerignore is root-anchored, the last match counts",
    ),
    (
        "GM953",
        "what a container runs is in its image",
        "report 002: uvicorn expert_worker.main:app, and no COPY of expert_worker; docs.python.org/3/library/sys_path_init.html",
    ),
    (
        "GM954",
        "the final stage is no -devel image",
        "report 004, strategy 3: nvidia/cuda 12.4.0 runtime 1.5 GB, devel 4.5 GB; NVIDIA's CUDA images: base, runtime, devel",
    ),
    (
        "GM955",
        "the host's driver runs the image's CUDA",
        "CUDA release notes Table 3, CUDA compatibility guide; nct: the CDI modes do not check NVIDIA_REQUIRE_CUDA",
    ),
    (
        "GM956",
        "no compat library of an image is found before the host's driver",
        "CUDA compatibility guide: error 803; measured on an H100: compat 580.95.05 first on driver 580.159.04 gives 803",
    ),
    (
        "GM957",
        "an image that was built with CUPTI has its library",
        "report 004, strategy 5: CMake finds cupti.h, the profiler does not find libcupti.so; NVIDIA's packages cuda-cupti-X-Y",
    ),
    (
        "GM958",
        "an image takes from CUDA what it needs, and not all of it",
        "report 004, strategy 4: 2 to 3 GB that nobody uses; NVIDIA's CUDA images",
    ),
    (
        "GM959",
        "the loader finds the libraries that are copied into the image",
        "ld.so(8), ldconfig(8): /usr/local/lib and CUDA's directories are found through a cache that ldconfig makes",
    ),
    (
        "GM960",
        "no link stub stands in the driver's place",
        "NVIDIA CUDA programming guide: lib64/stubs is for linking where there is no driver; its libcuda answers with an error",
    ),
)
