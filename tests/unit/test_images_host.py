"""GM951 to GM960 on a host: the images that its compose projects build, from masked Dockerfiles."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from gpumend.payload.probe.builds import masked_dockerfile
from gpumend.payload.probe.compose import builds, compose_project, masked_compose
from gpumend.rules.dockerfile.audit import audit
from gpumend.rules.dockerfile.codes import CODES
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.on_host import IN_A_CONTEXT
from tests.unit.build import findings
from tests.unit.test_compose_host import REPORT, SECRET, host
from tests.unit.test_dockerfile import FAULTY, SOUND, Case, judged
from tests.unit.test_dockerfile_field import CASES

ON_HOSTS = {code for code, _, _ in CODES} - set(IN_A_CONTEXT)
PATH = "/srv/moe/worker/Dockerfile"
BUILT = REPORT.replace(
    "    image: moe-worker\n",
    "    build:\n      context: ./worker\n      args:\n        CUDA_VERSION: 13.0.1\n",
)
IMAGE = "ARG CUDA_VERSION=12.4.1\nFROM nvidia/cuda:${CUDA_VERSION}-base-ubuntu24.04\n"


@pytest.mark.parametrize("case", [*SOUND, *FAULTY, *CASES], ids=lambda case: case.name)
def test_a_masked_dockerfile_is_judged_as_the_file_itself(case: Case) -> None:
    masked = masked_dockerfile(case.text)
    assert len(masked) == len(case.text)
    found = audit(masked, Files(whole=False), target=case.target, arguments=case.arguments, codes=ON_HOSTS)
    assert [(each.code, each.status, each.evidence[0].source) for each in found if each.code in ON_HOSTS] == [
        (each.code, each.status, each.evidence[0].source) for each in judged(case) if each.code in ON_HOSTS
    ]


@pytest.mark.parametrize(
    "line",
    [
        f"ARG API_TOKEN={SECRET}", f"ARG IMAGE_KEY={SECRET}", f"ENV DB={SECRET} LD_LIBRARY_PATH=/x", f"ENV DB {SECRET} a", f"RUN echo {SECRET}",
        f"RUN curl https://u:{SECRET}@h/cuda.deb", f"ADD https://u:{SECRET}@h/x /x", f"CMD [\"a\", \"{SECRET}\"]", f"LABEL a=\"{SECRET}\"",
        f"# {SECRET}", f"RUN <<EOF\n{SECRET}\nEOF", f"COPY <<EOF /x\n{SECRET}\nEOF", f"RUN a \\\n  # {SECRET}\n  {SECRET} \\\n\n  {SECRET}",
        f"HEALTHCHECK CMD curl {SECRET}", f"SHELL [\"/bin/bash\", \"{SECRET}-long\"]", f"ENTRYPOINT {SECRET}", f"USER {SECRET}",
        f"ONBUILD RUN {SECRET}", f"ENV LD_LIBRARY_PATH=/a \\\n DB={SECRET}",
    ],
)  # fmt: skip
def test_no_other_word_leaves_the_host(line: str) -> None:
    assert SECRET not in masked_dockerfile(f"FROM x\n{line}\n")


@pytest.mark.parametrize(
    "text", ["RUN " + "a" * 130_000, "ENV " + "A=1 " * 30_000, "ARG " + "CUDA" * 30_000 + "=1", "FROM " + "a/" * 60_000, "RUN <<a\n" * 15_000,
             "RUN " + "cuda" * 30_000 + "@", "COPY " + "[" * 120_000, "RUN \\\n" * 20_000, "#" * 120_000],
)  # fmt: skip
def test_no_dockerfile_holds_the_probe(text: str) -> None:
    began = time.process_time()
    assert len(masked_dockerfile(text)) == len(text)
    assert time.process_time() - began < 5


def answer(text: str = BUILT, image: dict[str, Any] | None = None) -> Any:
    found = host(text).answer()
    item = image if image is not None else {"status": "ok", "dockerfile": masked_dockerfile(IMAGE)}
    found["compose"][PATH] = {**item, "followed": True, "builds": True}
    return found


def test_a_word_alone_in_its_line_stays() -> None:
    """A compose file may call any file a Dockerfile; one with a passphrase has one word in it."""
    assert (
        masked_dockerfile(f"correcthorse\n  Tr0ub4dor {SECRET}\nfrom x\n")
        == "xxxxxxxxxxxx\n  xxxxxxxxx xxxxxxx\nfrom x\n"
    )


def test_an_image_s_cuda_is_judged_by_the_host_s_driver() -> None:
    (found,) = findings(answer(BUILT.replace("13.0.1", "99.0.1")), "GM955")
    assert found.evidence[0].source == f"{PATH}:2"
    assert findings(answer(BUILT.replace("        CUDA_VERSION: 13.0.1\n", "        A: b\n")), "GM955") == []
    other = answer(BUILT.replace("./worker", "./other").replace("13.0.1", "99.0.1"))
    assert findings(other, "GM955") == [], "nobody builds that Dockerfile"


def test_a_dockerfile_that_is_there_and_cannot_be_read_is_unknown() -> None:
    (found,) = findings(answer(image={"status": "denied", "error": "Permission denied"}), "GM951")
    assert (str(found.status), found.evidence[0].source) == ("unknown", PATH)
    assert findings(host(BUILT).answer(), "GM951") == [], "its container has its image"


def test_what_a_compose_file_says_of_builds_and_nothing_else_leaves_the_host() -> None:
    text = (
        f"services:\n  a:\n    build: {{context: ./a, dockerfile: d/GPU.Dockerfile, args: {{TOKEN: {SECRET}, CUDA_VERSION: 12.4.1}}}}\n"
        f"  b:\n    build: https://u:{SECRET}@h/x.git\n  c:\n    build:\n      context: c # {SECRET}\n      target: run\n"
    )
    masked = masked_compose(text)
    assert SECRET not in masked
    for kept in (
        "context: ./a,",
        "dockerfile: d/GPU.Dockerfile,",
        "CUDA_VERSION: 12.4.1",
        "context: c ",
        "target: run",
    ):
        assert kept in masked
    assert {"./a/d/GPU.Dockerfile", "c/Dockerfile"} <= set(builds(text))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("    build: .\n", ["./Dockerfile"]),
        ("    build:\n      context: .\n", ["./Dockerfile"]),
        ("    image: x\n", []),
        ("    develop:\n      dockerfile: x\n", []),
    ],
)
def test_what_is_built_in_the_project_s_own_directory(text: str, found: list[str]) -> None:
    assert builds(f"services:\n  x:\n{text}") == found


def test_the_probe_finds_the_dockerfiles_of_a_project(tmp_path: Path) -> None:
    for name, text in (
        ("compose.yml", BUILT),
        ("worker/Dockerfile", f"{IMAGE}ENV K={SECRET}\n"),
        ("Dockerfile", "FROM x\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = compose_project((f"{tmp_path}/compose.yml",), str(tmp_path), ())
    assert SECRET not in json.dumps(found)
    assert found[f"{tmp_path}/worker/Dockerfile"]["dockerfile"].startswith(IMAGE)
