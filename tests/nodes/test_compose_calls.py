"""What two real Composes ask Docker for, before a rewrite and after it: the same GPUs.

Compose 2.26.1 (trixie) and 2.40.3 (sid) differ, and the expectations are by what each does: the first knows neither `gpus:` nor CDI
names under `devices:`, gives no GPU for them and exits 0. So what a file says (gpumend/state/compose_request.py) is held to what
reaches the Engine API.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from gpumend.rules.compose.rewrite import DEVICES, RUNTIME
from gpumend.rules.compose.where import Where
from gpumend.state.compose_request import grant, requests
from tests.nodes.compose import SUITES, Ran, run
from tests.unit.test_compose import ONE, reserved, service
from tests.unit.test_compose_field import EXPECTED as FIELD_EXPECTED
from tests.unit.test_compose_field import FIELD
from tests.unit.test_compose_fix import EXPECTED, NEW, SHAPES, rewritten

TRIXIE, SID = SUITES
# The form that each serves: with the old one only the runtime is left.
FORM = {TRIXIE: RUNTIME, SID: DEVICES}
# Shapes that Compose refuses, or of which the grant is not the file's to say.
REFUSED = {"cdi-driver"}
# Shapes that are rewritten in ways of their own; the others differ in what Compose never sees.
REWRITTEN = [
    *(name for name in SHAPES if name.startswith(("report", "alias", "merge", "mig", "flow", "shared", "anchor"))),
    "count-2", "two-ids", "limits-too", "devices-there", "cdi-two", "tpu-and-gpu", "quoted-keys", "crlf-bom", "runtime-list",
    "comments",
]  # fmt: skip
# Of what people write: parts of projects, what needs an env_file or a variable, and what Compose refuses.
UNLIKE = {
    "frigate-tensorrt", "gpus-docs", "immich-hwaccel", "immich-nvenc", "invokeai", "jellyfin-linuxserver", "ollama-readme",
    "runtime-env-file", "text-generation-webui", "vllm-openai",
}  # fmt: skip
PROJECT = {
    "compose.yml": "include: [sub/c.yml]\n" + reserved(ONE).replace("image: cuda", "image: x"),
    "sub/c.yml": service("runtime: nvidia\nenvironment: {NVIDIA_VISIBLE_DEVICES: '1:2'}", "b"),
    "more.yml": reserved(ONE.replace('"0"', '"1"')),
    "instead.yml": reserved(ONE.replace('"0"', '"1"')).replace("devices:", "devices: !override"),
    "base.yml": reserved(ONE).replace("  a:", "  base:"),
    "extends.yml": "services: {a: {extends: {file: base.yml, service: base}}}\n",
}
GIVEN = [("compose.yml",), ("compose.yml", "more.yml"), ("compose.yml", "instead.yml"), ("extends.yml",)]


def run_all(suite: str, many: Mapping[str, bytes]) -> dict[str, Ran]:
    """Each file by itself, a few at a time."""
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda data: run(suite, {"compose.yml": data}), many.values())
        return dict(zip(many, found, strict=True))


def asked(ran: Ran) -> dict[str, str]:
    """What each service that asks for anything is granted."""
    found = {name: ", ".join(sorted(each.grant())) for name, each in ran.asked.items()}
    return {name: text for name, text in found.items() if text}


def test_every_shape_asks_the_api_for_what_gpumend_reads_in_it() -> None:
    """Compose 2.40.3. What gpumend does not know (`?`) is not compared."""
    ran = run_all(SID, SHAPES)
    wrong = {}
    for name, expected in EXPECTED.items():
        if name in REFUSED or "?" in expected.values():
            continue
        known = {each: text.replace("nvidia.com/gpu=", "") for each, text in asked(ran[name]).items()}
        if ran[name].rc or known != dict(expected):
            wrong[name] = (ran[name].rc, ran[name].err[-200:], known, expected)
    assert wrong == {}, wrong


def test_what_people_write_asks_the_api_for_what_gpumend_reads_in_it() -> None:
    """Compose 2.40.3; without what needs a file or a variable beside it."""
    given = {
        name: expected for name, (expected, _) in FIELD_EXPECTED.items() if name not in UNLIKE and expected
    }
    ran = run_all(SID, {name: FIELD[name] for name in given})
    assert len(given) > 20
    assert {name: (found.rc, asked(found)) for name, found in ran.items()} == {
        name: (0, expected) for name, expected in given.items()
    }


@pytest.mark.parametrize("suite", SUITES)
def test_a_rewritten_file_asks_for_the_same(suite: str) -> None:
    before, after, texts = {}, {}, {}
    for name in REWRITTEN:
        found, done, _ = rewritten(SHAPES[name], FORM[suite], NEW)
        if done.texts and name not in REFUSED:
            before[name], texts[name] = found, done.texts["compose.yml"]
    after = run_all(suite, texts)
    assert len(texts) > 20
    wrong = {}
    for name, found in before.items():
        expected = {each: grant(what).shown for each, what in found.services.items() if requests(what)}
        expected = {each: text for each, text in expected.items() if text not in ("none",)}
        if suite == TRIXIE:  # knows the runtime, and none of what was left as it was
            expected = {
                each: text
                for each, text in expected.items()
                if after[name].asked.get(each) and after[name].asked[each].runtime
            }
        known = {each: text.replace("nvidia.com/gpu=", "") for each, text in asked(after[name]).items()}
        if after[name].rc or not expected or known != expected:
            wrong[name] = (after[name].rc, after[name].err[-200:], known, expected)
    assert wrong == {}, wrong


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("suite", SUITES)
def test_a_project_of_several_files_asks_for_the_same(suite: str, given: tuple[str, ...]) -> None:
    where = NEW._replace(compose=(2, 26, 1) if suite == TRIXIE else (2, 40, 3))
    files = {name: text.encode() for name, text in PROJECT.items()}
    found, done, _ = rewritten(PROJECT, FORM[suite], where, given)
    assert done.refused == () and done.texts
    before, after = run(suite, files, given), run(suite, {**files, **done.texts}, given)
    assert (before.rc, after.rc) == (0, 0), before.err + after.err
    expected = {name: grant(each).shown for name, each in found.services.items()}
    assert asked(before) == expected
    assert asked(after) == expected


@pytest.mark.parametrize(
    ("text", "by_trixie", "by_sid"),
    [
        (service("gpus: all"), {}, {"a": "all"}),
        (service("gpus: [{count: 1}]"), {}, {"a": "0"}),
        (service("devices: [nvidia.com/gpu=0]"), {}, {"a": "0"}),
        (service("devices: ['nvidia.com/gpu=1:2']"), {}, {}),
        (
            service("devices: [{source: 'nvidia.com/gpu=1:2', target: 'nvidia.com/gpu=1:2'}]"),
            {},
            {"a": "1:2"},
        ),
        (reserved(ONE.replace('"0"', "1:2")), {"a": "1:2"}, {"a": "1:2"}),
        (reserved("- driver: nvidia\n  capabilities: [gpu]"), {"a": "all"}, {"a": "all"}),
    ],
)
def test_what_each_compose_makes_of_a_request(
    text: str, by_trixie: dict[str, str], by_sid: dict[str, str]
) -> None:
    """GM904's table: all of these exit 0."""
    found = {suite: run(suite, {"compose.yml": text.encode()}) for suite in SUITES}
    assert [each.rc for each in found.values()] == [0, 0]
    assert (asked(found[TRIXIE]), asked(found[SID])) == (by_trixie, by_sid)


@pytest.mark.parametrize("suite", SUITES)
def test_a_count_of_0_reaches_docker_as_0(suite: str) -> None:
    """So Docker's version decides what it means (GM909), and it is never rewritten."""
    ran = run(suite, {"compose.yml": SHAPES["count-0"]})
    assert ran.asked["a"].requests == (("nvidia", 0, ()),)
    assert (
        rewritten(SHAPES["count-0"], FORM[suite], Where(host="h", docker=(29, 2, 1), compose=(2, 40, 3)))[
            1
        ].texts
        == {}
    )


@pytest.mark.parametrize("suite", SUITES)
@pytest.mark.parametrize(
    "text",
    [
        reserved("- driver: nvidia\n  count: 1"),
        reserved(ONE + "\n  count: 1"),
        reserved(ONE.replace('"0"', "0")),
        service("devices: [{source: nvidia.com/gpu=0}]"),
        service("resources: {reservations: {devices: [{capabilities: [gpu]}]}}"),
        "services:\n\ta: {}\n",
        service("tty: true\ntty: true"),
    ],
)
def test_what_gpumend_says_is_refused_is_refused(suite: str, text: str) -> None:
    assert run(suite, {"compose.yml": text.encode()}).rc != 0
