"""`gpumend compose fix`: another form for a request, the same GPUs, and no other byte."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.rules.compose.rewrite import DEVICES, FORMS, RESERVATION, RUNTIME, Rewrite, form_for, rewrite
from gpumend.rules.compose.where import NOWHERE, Where
from gpumend.state.compose_files import Project, project
from gpumend.state.compose_request import grant, requests
from tests.unit.build import FIXTURES
from tests.unit.test_compose import AUTO, HOST, ONE, REPORT, Files, files_of, reserved, service

SHAPES = {path.stem: path.read_bytes() for path in sorted((FIXTURES / "compose").glob("*.yml"))}
EXPECTED: Mapping[str, Mapping[str, str]] = json.loads(
    (FIXTURES / "compose/expected.json").read_text("utf-8")
)
# Where every form works: by CDI a service is given all that its requests name.
NEW = Where(host="h", docker=(29, 2, 1), compose=(2, 40, 3), mode="auto", cdi=True, runtime=True)


def rewritten(
    text: str | bytes | Files, form: str, where: Where = NOWHERE, given: tuple[str, ...] = ("compose.yml",)
) -> tuple[Project, Rewrite, Project]:
    """The project, what the rewrite says, and the project of the new texts."""
    files = files_of(text)

    def opener(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    found = project(given, opener)
    done = rewrite(found, opener, form, where)
    files |= done.texts
    return found, done, project(given, opener)


def grants(found: Project) -> dict[str, str]:
    given = {name: grant(each) for name, each in found.services.items() if requests(each)}
    return {name: "?" if each.unknown else each.shown for name, each in given.items()}


def after(text: str, form: str, where: Where = NOWHERE) -> str:
    _, done, _ = rewritten(text, form, where)
    assert done.refused == ()
    return done.texts["compose.yml"].decode()


# --- shapes


def test_there_are_sixty_shapes_and_more() -> None:
    assert len(SHAPES) >= 60
    assert set(SHAPES) == set(EXPECTED)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_asks_for_what_it_is_known_to(name: str) -> None:
    found, _, _ = rewritten(SHAPES[name], DEVICES)
    assert [problem for problem in found.problems if problem.wrong] == []
    nodes = {
        each
        for each in found.services
        if all(request.way == "node" for request in requests(found.services[each]))
    }
    assert {key: text for key, text in grants(found).items() if key not in nodes} == EXPECTED[name]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_rewrite_grants_the_same_and_a_second_one_changes_nothing(name: str, form: str) -> None:
    before, done, now = rewritten(SHAPES[name], form, NEW)
    assert grants(now) == grants(before)
    _, second, _ = rewritten(done.texts.get("compose.yml", SHAPES[name]), form, NEW)
    assert second.texts == {}
    assert {each.service for each in second.refused} == {each.service for each in done.refused}
    assert set(done.changed) | {each.service for each in done.refused} <= set(before.services)


# Shapes of which nothing is rewritten, and why: each has its reason in the refusal.
STAY = {
    "count-0": "count: 0", "options": "options", "runtime-image": "image's",
    "runtime-env-file": "env_file", "variable": "GPU_ID", "variable-default": "GPU_ID", "variable-count": "GPUS",
    "uuid": "GPU-18a3", "mig-uuid": "MIG-41b3",
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name, given in EXPECTED.items() if given and name != "cdi-driver"])
def test_every_shape_gets_cdi_devices_or_says_why_not(name: str) -> None:
    _, done, now = rewritten(SHAPES[name], DEVICES, NEW)
    if name in STAY:
        assert STAY[name] in done.refused[0].why
        assert done.texts == {}
    else:
        assert done.refused == ()
        ways = {request.cdi for each in now.services.values() for request in requests(each)}
        assert ways == {True}


def lost(kept: list[bytes], new: list[bytes]) -> list[bytes]:
    """The lines that are not in the new text in their order, but for a last line's missing end."""
    left = iter(line.rstrip(b"\r\n") for line in new)
    return [line for line in kept if line.strip() and not any(line.rstrip(b"\r\n") == each for each in left)]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_no_request_stays_byte_for_byte(name: str, form: str) -> None:
    """Every line of the file that is still there is as it was, in its order; and no comment is lost."""
    _, done, _ = rewritten(SHAPES[name], form, NEW)
    if "compose.yml" not in done.texts:
        return
    old, new = SHAPES[name].splitlines(True), done.texts["compose.yml"].splitlines(True)
    words = (
        b"gpu nvidia NVIDIA deploy resources reservations devices runtime environment driver count device_ids capabilities "
        b"source: target: permissions"
    )  # fmt: skip
    kept = [
        line for line in old if not any(word in line for word in (*words.split(), b'"0"', b"- '1'", b'- "2"'))
    ]
    assert lost(kept, new) == []
    comments = [
        word
        for line in old
        for word in line.split()
        if word in (b"one", b"three", b"seven", b"eight", b"nine")
    ]
    assert [word for word in comments if word not in done.texts["compose.yml"].split()] == []
    ends = {line[len(line.rstrip(b"\r\n")) :] for line in old[:-1]}
    assert {line[len(line.rstrip(b"\r\n")) :] for line in new[:-1]} <= ends
    assert new[-1].endswith(b"\n") == old[-1].endswith(b"\n")


# --- the report


def test_the_report_s_file_becomes_what_its_fix_should_have_been() -> None:
    assert (
        after(REPORT, RUNTIME)
        == REPORT[: REPORT.index("    deploy:")].replace("=all", "=0") + "    runtime: nvidia\n"
    )
    assert (
        after(REPORT, DEVICES)
        == REPORT[: REPORT.index("    deploy:")] + "    devices:\n      - nvidia.com/gpu=0\n"
    )


@pytest.mark.parametrize(
    ("where", "form"),
    [
        (HOST, DEVICES),  # 29.1.3
        (Where(host="h", docker=(28, 1, 1), compose=(2, 40, 3)), RUNTIME),
        (Where(host="h", docker=(29, 1, 3), compose=(2, 26, 1)), RUNTIME),
        (Where(host="h", docker=(29, 1, 3)), RUNTIME),
        (Where(host="h", docker=(29, 1, 3), compose=(2, 40, 3), cdi=False), RUNTIME),
    ],
)
def test_the_form_is_by_the_versions(where: Where, form: str) -> None:
    assert form_for(where) == form


# --- refusals

SHARED = "x-gpu: &gpu\n  gpus: all\nservices:\n  a:\n    <<: *gpu\n    image: x\n  b:\n    <<: *gpu\n    image: y\n"


@pytest.mark.parametrize(
    ("text", "form", "where", "why"),
    [
        (reserved(ONE + "\n" + ONE.replace('"0"', '"1"')), DEVICES, AUTO, "several requests"),
        (service("gpus: all\nruntime: runc"), RUNTIME, NEW, "runtime 'runc'"),
        (service("gpus: all"), DEVICES, Where(host="h", docker=(24, 0, 0)), "does not load CDI"),
        (
            service("gpus: all"),
            DEVICES,
            Where(host="h", docker=(29, 0, 0), compose=(2, 26, 1)),
            "--to runtime",
        ),
        (service("devices: [nvidia.com/gpu=0]"), RESERVATION, HOST, "refuses in mode 'cdi'"),
        (service("gpus: all\nenvironment: {NVIDIA_VISIBLE_DEVICES: '${X}'}"), RUNTIME, NEW, "a variable's"),
        (
            reserved(ONE.replace('"0"', '"7"')),
            DEVICES,
            NEW._replace(names=frozenset("01")),
            "define 7",
        ),
        (SHARED + "    runtime: runc\n", RUNTIME, NEW, "runtime 'runc'"),
        (service("a: 1\na: 2\ngpus: all"), RUNTIME, NEW, "stands twice"),
    ],
)
def test_what_would_grant_something_else_stays(text: str, form: str, where: Where, why: str) -> None:
    _, done, _ = rewritten(text, form, where)
    assert done.texts == {}
    assert any(why in each.why for each in done.refused), done.refused


def test_an_anchor_s_users_are_named_and_all_get_the_same_or_none() -> None:
    _, done, _ = rewritten(SHARED, DEVICES, NEW)
    assert done.texts["compose.yml"].decode() == SHARED.replace(
        "  gpus: all\n", "  devices:\n    - nvidia.com/gpu=all\n"
    )
    assert done.shared == (("compose.yml:2", ("a", "b")),)
    _, done, _ = rewritten(SHARED + "    runtime: runc\n", RUNTIME, NEW)
    assert {each.service for each in done.refused} == {"a", "b"}
    assert any("shared with b" in each.why for each in done.refused)


def test_files_of_one_project_are_each_rewritten_where_they_ask() -> None:
    files = {
        "compose.yml": "include: [sub/c.yml]\n" + reserved(ONE),
        "sub/c.yml": service("gpus: all", "b"),
        "more.yml": reserved(ONE.replace('"0"', '"1"')),
    }
    before, done, now = rewritten(files, DEVICES, NEW, ("compose.yml", "more.yml"))
    assert done.refused == ()
    assert set(done.texts) == set(files)
    assert grants(now) == grants(before) == {"a": "0, 1", "b": "all"}
    files["more.yml"] = files["more.yml"].replace("devices:", "devices: !override")
    before, done, now = rewritten(files, DEVICES, NEW, ("compose.yml", "more.yml"))
    assert b"devices: !override\n" in done.texts["more.yml"]
    assert grants(now) == grants(before) == {"a": "1", "b": "all"}


def test_capabilities_beyond_gpu_are_the_driver_s_with_the_runtime() -> None:
    found = after(SHAPES["capabilities"].decode(), RUNTIME)
    assert 'NVIDIA_DRIVER_CAPABILITIES: "utility,compute"' in found


# --- a property: what is put in is granted, and every form of it leaves the rest of the file alone

FORMATS = {
    DEVICES: ("devices:", "  - nvidia.com/gpu={}"),
    RUNTIME: ("runtime: nvidia", ""),
    "gpus": ("gpus:", "  - driver: nvidia", "    device_ids: {}"),
    "flow": ("gpus: [{{device_ids: {}}}]",),
    RESERVATION: (
        "deploy:", "  resources:", "    reservations:", "      devices:", "      - driver: nvidia", "        device_ids: {}",
        "        capabilities: [gpu]",
    ),
}  # fmt: skip


def block_services(data: bytes) -> list[tuple[str, int, int]]:
    """(name, offset of the first entry's line, its column) of the services in block style that ask for nothing."""
    found = rewritten(data, DEVICES)[0]
    places = []
    for name, each in found.services.items():
        first = (
            each.value.node.value[0][0].start_mark
            if each.value.kind == "map" and not each.value.flow
            else None
        )
        busy = {"deploy", "devices", "gpus", "runtime", "environment", "extends"} & set(each.value.entries)
        if first is not None and not busy and each.value.node.value[0][0].value != "<<":
            places.append((name, first.index - first.column, first.column))
    return places


HOLDERS = [data for data in SHAPES.values() if block_services(data)]


@st.composite
def requested(draw: st.DrawFn) -> tuple[bytes, bytes, bytes, str, str]:
    """A shape's bytes before and behind a request at a random service, the request, the service and the grant."""
    data = draw(st.sampled_from(HOLDERS))
    text = data.decode("utf-8")
    bom = text.startswith("\ufeff")
    name, at, column = draw(st.sampled_from(block_services(data)))
    at += bom
    ids = draw(st.sampled_from([("0",), ("1", "3"), ("1:2",), ("0:0", "1:1"), ("7",)]))
    way = draw(st.sampled_from(sorted(FORMATS)))
    quote = draw(st.sampled_from(['"', "'"]))
    rows = []
    for row in FORMATS[way]:
        if way == DEVICES and "{}" in row:
            for each in ids:
                full = f"nvidia.com/gpu={each}"
                rows += (
                    [f"  - source: {full}", f"    target: {full}"]
                    if ":" in each
                    else [f"  - {quote}{full}{quote}"]
                )
        elif row:
            rows.append(row.format(f"[{', '.join(f'{quote}{each}{quote}' for each in ids)}]"))
    if way == RUNTIME:
        rows += ["environment:", f"  NVIDIA_VISIBLE_DEVICES: {quote}{','.join(ids)}{quote}"]
    newline = "\r\n" if "\r\n" in text else "\n"
    request = "".join(f"{' ' * column}{row}{newline}" for row in rows)
    parts = [part.encode("utf-8") for part in (text[:at], request, text[at:])]
    return parts[0], parts[1], parts[2], name, ", ".join(ids)


@given(requested(), st.lists(st.sampled_from(FORMS), min_size=1, max_size=3))
def test_a_request_at_any_place_goes_through_the_forms_and_the_file_stays(
    request: tuple[bytes, bytes, bytes, str, str], forms: list[str]
) -> None:
    before, asked, behind, name, granted = request
    data = before + asked + behind
    assert grants(rewritten(data, DEVICES)[0])[name] == granted
    for form in forms:
        found, done, now = rewritten(data, form, NEW)
        assert grants(now) == grants(found)
        data = done.texts.get("compose.yml", data)
    taken_out = rewritten(before + behind, DEVICES)[0]
    others = {key: text for key, text in grants(now).items() if key != name}
    assert others == grants(taken_out)
    if not grants(
        taken_out
    ):  # nothing else was rewritten: what stands before and behind the request is as it was
        assert data.startswith(before) and data.endswith(behind)
