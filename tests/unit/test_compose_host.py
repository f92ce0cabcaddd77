"""GM903 to GM912 on a host: the projects of its containers, from masked files to the change that is sent."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from gpumend.deploy.facts_report import as_json
from gpumend.payload.change.file_steps import EditFile as Edited
from gpumend.payload.probe.compose import asked, compose_project, masked_compose
from gpumend.payload.probe.projects import compose_projects
from gpumend.plan.plan import plan
from gpumend.plan.step import EditFile, RunCommand
from gpumend.plan.transaction import Transaction
from gpumend.reports.diff import diff
from gpumend.rules.finding import Component, Status
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.state.compose_files import project
from gpumend.state.compose_request import requests
from gpumend.state.host_state import besides_of, request
from tests.unit.build import TODAY, Host, absent, container, file, findings, healthy, state, verdict
from tests.unit.build import _compose as compose_item
from tests.unit.test_compose import REPORT
from tests.unit.test_compose_fix import NEW, SHAPES, rewritten

PATH = "/srv/moe/docker-compose.yml"
SECRET = "hunter2"
TEXT = REPORT + f"      # {SECRET}\n    labels:\n      key: {SECRET}\n    env_file: {SECRET}.env\n"
FORM: dict[str, Any] = {"compose": {"form": "auto"}}
RECREATE: dict[str, Any] = {"compose": {"form": "auto", "recreate": "allow"}}


def labels(service: str = "worker", path: str = PATH, version: str = "2.40.3") -> dict[str, str]:
    prefix = "com.docker.compose."
    found = {
        "project": "moe",
        "service": service,
        "project.working_dir": "/srv/moe",
        "project.config_files": path,
    }
    return {f"{prefix}{key}": text for key, text in {**found, "version": version}.items()}


def host(text: str | None = TEXT, docker: str = "28.5.2", mode: str = "auto", **more: Any) -> Host:
    """A host with the report's stack: its worker runs, by a reservation of GPU 0."""
    asks = [{"Driver": "nvidia", "Count": 0, "DeviceIDs": ["0"], "Capabilities": [["gpu"]]}]
    made = container(
        "moe-worker-1", **{"device_requests": asks, "labels": labels(), "restart": "always", **more}
    )
    found = healthy(docker, "1.18.1", mode).with_containers(made)
    return found.but(files={PATH: None if text is None else file(text)})


def of(found: Host, wanted: dict[str, Any] | None = None) -> list[str]:
    return [
        f"{each.code} {each.status}"
        for each in verdict(found, wanted).findings
        if each.code.startswith("GM9")
    ]


def transaction(found: Host, wanted: dict[str, Any]) -> Transaction | None:
    judged = verdict(found, wanted)
    context = Context(found.state(), parse_wanted(wanted), "gpu1", TODAY)
    return plan(context, judged.findings).get(Component.COMPOSE)


# --- what leaves the host


@pytest.mark.parametrize("name", SHAPES)
def test_a_masked_file_asks_for_the_same_at_the_same_places(name: str) -> None:
    text = SHAPES[name].decode()
    masked = masked_compose(text)
    assert len(masked) == len(text)

    def read(data: str) -> list[Any]:
        def opener(path: str) -> bytes:
            if path != "c":
                raise FileNotFoundError(2, "No such file or directory")
            return data.encode()

        found = project(("c",), opener)
        return [
            found.problems,
            {
                key: [
                    (each.shown, each.value.start, each.capabilities, each.unknown, each.faults)
                    for each in requests(service)
                ]
                for key, service in found.services.items()
            },
        ]

    assert read(masked) == read(text)


@pytest.mark.parametrize(
    "line",
    [
        f"password: {SECRET}", f"- DB={SECRET}", f"- 'DB={SECRET}'", f'"DB": "{SECRET}"', f"url: postgres://u:{SECRET}@h/db", f"# {SECRET}",
        f"a: b # {SECRET}", f"x: |\n      {SECRET}: 1\n      NVIDIA {SECRET}", f"- >-\n      {SECRET}\n      k: {SECRET}", f"a: p${SECRET}",
        f"a: p$${SECRET}", f"a: ${{X:-{SECRET}}}", f"a: [{SECRET}, '{SECRET}']", f"a: {{b: {SECRET}}}", f"a: \"\\\"{SECRET}\"", f"a: it's {SECRET}",
        f"a: 'x'' {SECRET}'", f"a: &x {SECRET}", f"command: sh -c \"{SECRET}\"", f"a: \"open\n      {SECRET}\"",
    ],
)  # fmt: skip
def test_no_value_leaves_the_host(line: str) -> None:
    masked = masked_compose(f"services:\n  a:\n    image: x\n    {line}\n    gpus: all\n")
    assert SECRET not in masked
    assert "    gpus: all\n" in masked


@pytest.mark.parametrize(
    "text", ["-" * 250_000 + " x", "'" * 250_001, '"a' * 120_000, "$A" * 120_000, ": " * 120_000, "&a " * 80_000, " " * 250_000 + "x", "{a" * 120_000,
             "include: [" + "a.yml, " * 35_000, "gpus: " + "$A " * 80_000, "path: " + "a" * 250_000, "count: '" + "a/" * 120_000,
             "include:\n" + "- a.yml\n" * 30_000, "file: a.yml\n" * 20_000]
)  # fmt: skip
def test_no_file_holds_the_probe(text: str) -> None:
    began = time.process_time()
    assert len(masked_compose(text)) == len(text)
    asked(text)
    assert time.process_time() - began < 5


def test_only_files_of_containers_that_ask_for_a_gpu_are_read() -> None:
    web = container("web", labels=labels("web", "/srv/web/compose.yml"))
    mine = container("a", gpus=True, labels=labels("a", f"{PATH},relative.yml,-"))
    assert [given for given, _, _ in compose_projects([web, mine])] == [(PATH,)]


# --- judged


def test_a_healthy_project_is_told_as_its_file_alone_is() -> None:
    assert of(host()) == ["GM907 note"]


def test_in_mode_cdi_the_file_and_line_are_named_beside_the_refused_switch() -> None:
    assert of(host(mode="cdi")) == ["GM905 fail", "GM907 note"]
    (found,) = findings(host(mode="cdi"), "GM905")
    assert found.evidence[0].source == f"{PATH}:12"
    switch = {"runtime": {"mode": "cdi-only"}}
    assert of(host(), switch) == ["GM906 warn", "GM907 note"]
    (refused,) = findings(host(), "GM204", switch)
    assert "moe-worker-1 (compose project moe)" in refused.refused


def test_a_file_that_cannot_be_read_says_nothing() -> None:
    assert of(host(None)) == []
    assert of(host("services: [\n")) == []


def test_a_container_made_before_the_file_was_changed_is_pending() -> None:
    text = TEXT[: TEXT.index("    deploy:")] + "    devices:\n      - nvidia.com/gpu=0\n"
    assert of(host(text)) == ["GM907 note", "GM911 note"]
    (found,) = findings(host(text), "GM911", FORM)
    assert "pending: docker compose up -d worker" in found.summary
    assert (
        f"cd /srv/moe && docker compose --project-directory /srv/moe -p moe -f {PATH} up -d worker"
        in found.remedy
    )
    assert found.change is None


def test_docker_s_default_runtime_is_no_other_request() -> None:
    assert of(host(runtime="nvidia").but(info={"DefaultRuntime": "nvidia"})) == ["GM907 note"]
    assert of(host(runtime="nvidia")) == ["GM907 note", "GM911 note"]


# --- changed


def test_the_wanted_form_is_written_by_edits_that_hold_no_text_of_the_file() -> None:
    found = transaction(host(), FORM)
    assert found is not None and found.codes == ("GM912",) and found.settle == ()
    (step,) = found.steps
    assert isinstance(step, EditFile)
    assert SECRET not in str(step.as_data()) + diff(step)
    assert "+      - nvidia.com/gpu=0" in diff(step)


@pytest.mark.parametrize(
    "name", [name for name in SHAPES if rewritten(SHAPES[name], "devices", NEW)[1].texts]
)
@pytest.mark.parametrize("form", ["devices", "runtime"])
def test_edits_made_from_a_masked_file_give_what_the_file_itself_would(
    name: str, form: str, tmp_path: Any
) -> None:
    text = SHAPES[name].decode()
    _, masked, _ = rewritten(masked_compose(text), form, NEW)
    _, whole, _ = rewritten(text, form, NEW)
    if not whole.texts:
        assert masked.texts == {}
        return
    path = tmp_path / "compose.yml"
    path.write_bytes(SHAPES[name])
    step = EditFile(str(path), None, masked.edits["compose.yml"])
    assert Edited(step.as_data()).new_bytes() == whole.texts["compose.yml"]


def test_with_recreate_the_service_runs_again_and_again_where_it_is_undone() -> None:
    found = transaction(host(), RECREATE)
    assert found is not None
    argv = ("docker", "compose", "--project-directory", "/srv/moe", "-p", "moe", "-f", PATH, "up", "-d")
    argv += ("--no-deps", "--no-build", "--pull", "never", "worker")
    assert found.settle == (argv,)
    assert [type(step) for step in found.steps] == [EditFile, RunCommand]


def test_a_pending_service_is_made_anew_where_that_is_allowed() -> None:
    text = TEXT[: TEXT.index("    deploy:")] + "    devices:\n      - nvidia.com/gpu=0\n"
    found = transaction(host(text), RECREATE)
    assert found is not None and [type(step) for step in found.steps] == [RunCommand]


@pytest.mark.parametrize("wanted", [FORM, RECREATE])
def test_what_a_user_could_have_chosen_is_not_written_to(wanted: dict[str, Any]) -> None:
    item = {**file(TEXT), "others": "/srv/moe belongs to uid 1000"}
    found = host().but(files={PATH: item})
    assert transaction(found, wanted) is None
    (refused,) = findings(found, "GM912", wanted)
    assert "uid 1000" in refused.refused and "gpumend compose fix" in refused.refused


def test_what_includes_more_than_is_known_is_not_written_to() -> None:
    found = host(f"include: [other.yml]\n{TEXT}")
    assert transaction(found, FORM) is None
    assert transaction(host(f"include: ['https://x.example/{SECRET}.yml']\n{TEXT}"), FORM) is None


# --- what a project is made of besides


def made(files: dict[str, str], others: str = "", **more: Any) -> Host:
    """The report's host with these files below its project's directory."""
    lying = {f"/srv/moe/{name}": {**file(text), "others": others} for name, text in files.items()}
    found = host(files.get("docker-compose.yml", TEXT), **more)
    return found.but(files={path: item for path, item in lying.items() if path != PATH})


GPU = TEXT.replace('["0"]', '["${WORKER}"]').replace("      - CUDA_VISIBLE_DEVICES=0\n", "")


@pytest.mark.parametrize(
    ("env", "ids", "unknown"),
    [
        ("WORKER=0\n", ("0",), ()),
        ("export WORKER='1:2' # mig\nDB=" + SECRET, ("1:2",), ()),
        ("WORKER=0\nWORKER=GPU-1a2b3c4d5e\n", ("GPU-1a2b3c4d5e",), ()),
        (f"WORKER={SECRET}\n", (), ("WORKER",)),
        (f'TEXT="\nWORKER=3\n{SECRET}"\n', (), ("WORKER",)),
        ("WORKER=$OTHER\n", (), ("WORKER",)),
        ("", (), ("WORKER",)),
    ],
)
def test_what_env_sets_for_a_request_is_known_and_nothing_else(
    env: str, ids: tuple[str, ...], unknown: tuple[str, ...]
) -> None:
    found = made({"docker-compose.yml": GPU, ".env": env})
    assert SECRET not in json.dumps(found.answer())
    (project_,) = found.state().compose.projects
    (request_,) = requests(project_.project.services["worker"])
    assert (request_.unknown or request_.ids) == (unknown or ids)


def test_a_default_does_not_count_where_env_sets_what_stays_on_the_host() -> None:
    text = GPU.replace("${WORKER}", "${WORKER:-0}")
    for env, unknown in ((f"WORKER={SECRET}", ("WORKER",)), ("OTHER=1", ()), ("WORKER=", ())):
        (found,) = made({"docker-compose.yml": text, ".env": env}).state().compose.projects
        assert requests(found.project.services["worker"])[0].unknown == unknown
    assert rows_of(made({"docker-compose.yml": text, ".env": f"WORKER={SECRET}"}), "GM902") == [
        "worker: which GPUs it asks for is not known: ${WORKER} has no value here"
    ]


def rows_of(found: Host, code: str) -> list[str]:
    return [each.summary for each in findings(found, code)]


def test_included_and_extended_files_are_judged_and_written_with_the_project() -> None:
    files = {
        "docker-compose.yml": "include:\n  - sub/gpu.yml\nservices:\n  worker:\n    extends:\n      file: base.yaml\n      service: gpu\n",
        "sub/gpu.yml": f"services:\n  other:\n    image: {SECRET}\n    gpus: all\n",
        "base.yaml": TEXT.replace("  worker:", "  gpu:"),
    }
    found = made(files, mode="cdi")
    assert SECRET not in json.dumps(found.answer())
    assert [each.evidence[0].source for each in findings(found, "GM905")] == ["/srv/moe/base.yaml:12"]
    done = transaction(made(files), FORM)
    assert done is not None and sorted(step.path for step in done.steps if isinstance(step, EditFile)) == [
        "/srv/moe/base.yaml",
        "/srv/moe/sub/gpu.yml",
    ]
    theirs = made(files, others="/srv/moe/base.yaml belongs to uid 1000")
    assert transaction(theirs, FORM) is None
    (refused,) = findings(theirs, "GM912", FORM)
    assert "uid 1000" in refused.refused


def test_a_project_whose_env_is_another_s_is_not_made_anew() -> None:
    found = made({"docker-compose.yml": TEXT, ".env": "A=1"}, others="/srv/moe/.env belongs to uid 1000")
    assert transaction(found, FORM) is not None
    assert transaction(found, RECREATE) is None


@pytest.mark.parametrize(
    ("include", "why"),
    [
        ("https://x.example/a/compose.yml", "elsewhere"),
        ("git@github.com:x/y.git", "elsewhere"),
        ("oci://x.example/y", "elsewhere"),
        ("${STACK}/gpu.yml", "${STACK}"),
        ("gone.yml", "No such file"),
    ],
)
def test_an_include_that_is_not_read_says_why(include: str, why: str) -> None:
    (found,) = host(f"include:\n  - {include}\n{TEXT}").state().compose.projects
    assert [why in each.text for each in found.project.problems] == [True]
    assert not found.readable


def test_env_files_that_were_named_are_asked_and_told() -> None:
    more = {"com.docker.compose.project.environment_file": "/srv/moe/gpu.env"}
    found = made({"docker-compose.yml": GPU, "gpu.env": "WORKER=0"}, labels={**labels(), **more})
    (project_,) = found.state().compose.projects
    assert requests(project_.project.services["worker"])[0].ids == ("0",)
    assert project_.up(("worker",))[-6:] == (PATH, "--env-file", "/srv/moe/gpu.env", "up", "-d", "worker")


def test_the_probe_reads_a_project_as_far_as_it_is_made_of(tmp_path: Any) -> None:
    files = {
        "compose.yml": "include: [sub/c.yml, 'sub/c.yml']\n" + GPU,
        "sub/c.yml": "services: {b: {gpus: [{device_ids: ['$ID']}], extends: {file: ../compose.yml, service: worker}}}\n",
        "sub/.env": f"ID=1\nTOKEN={SECRET}\n",
        ".env": f"WORKER=2\nPASSWORD=7\nTOKEN={SECRET}\n",
        "other.yml": SECRET,
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = compose_project((f"{tmp_path}/compose.yml",), str(tmp_path), ())
    there = {
        path.removeprefix(f"{tmp_path}/"): item.get("variables")
        for path, item in found.items()
        if item["status"] == "ok"
    }
    assert there == {"compose.yml": None, "sub/c.yml": None, "sub/.env": {"ID": "1"}, ".env": {"WORKER": "2"}}
    assert SECRET not in json.dumps(found)


def test_what_includes_itself_without_end_is_bounded(tmp_path: Any) -> None:
    for number in range(100):
        (tmp_path / f"{number}.yml").write_text(f"include: [{number + 1}.yml]\n#" + "x" * 20_000)
    found = compose_project((f"{tmp_path}/0.yml",), str(tmp_path), ())
    assert len(found) < 30
    assert sum(len(item.get("text", "")) for item in found.values()) < 400_000


def test_projects_that_are_not_meant_stay() -> None:
    assert transaction(host(), {"compose": {"form": "auto", "projects": ["other", "x*"]}}) is None
    assert transaction(host(), {"compose": {"form": "auto", "projects": ["m*"]}}) is not None


def test_the_form_is_by_the_host() -> None:
    old = transaction(host(docker="26.1.5"), FORM)
    assert old is not None
    assert "+    runtime: nvidia" in diff(old.steps[0])


def test_facts_say_who_asks_how() -> None:
    (found,) = host().state().compose.projects
    assert found.asks == {"worker": ("reservation",)}
    told = as_json(host().state().compose)
    assert json.loads(json.dumps(told))["projects"][0]["asks"] == {"worker": ["reservation"]}
    assert SECRET not in json.dumps(told)


# --- files that the desired state names


def named(text: str | None, path: str = "/srv/night/compose.yaml") -> Any:
    """The answer of a host without a container of compose's, that was asked for a file."""
    answer = healthy("28.5.2", "1.18.1", "cdi").answer()
    answer["compose"][path] = compose_item(file(text)) if text is not None else absent()
    answer["compose"][f"{path.rpartition('/')[0]}/.env"] = {**absent(), "followed": True}
    return answer


def test_what_the_desired_state_names_is_asked_for_and_nothing_else() -> None:
    assert json.loads(besides_of({"compose": {"paths": ["/srv/night/compose.yaml"]}})) == {
        "compose": ["/srv/night/compose.yaml"]
    }
    assert besides_of({"compose": {"form": "auto"}}) == ""
    assert request(besides=besides_of({"compose": {"paths": ["/a/b.yaml"]}}))["compose"] == ["/a/b.yaml"]


def test_a_named_file_is_judged_without_a_container() -> None:
    """Every night a cron job starts it: nothing of it is in docker ps."""
    found = findings(named(REPORT), "GM905")
    assert found and all(each.evidence[0].source.startswith("/srv/night/compose.yaml:") for each in found)
    assert findings(named("services:\n  web:\n    image: nginx\n"), "GM905") == []


def test_a_named_file_that_is_not_there_is_not_fine() -> None:
    assert [each.status for each in findings(named(None), "GM902")] == [Status.UNKNOWN]


def test_a_file_of_a_project_with_containers_is_judged_once() -> None:
    answer = host().answer()
    assert PATH in answer["compose"]
    assert len(state(answer).compose.projects) == 1


def test_the_mode_is_not_switched_under_a_named_file() -> None:
    """Toolkit 1.17: `cdi` would take the reservation away, and nobody would see it before tonight."""
    answer = healthy("28.5.2", "1.17.8", "auto").answer()
    quiet = [each.refused for each in findings(answer, "GM204")]
    answer["compose"]["/data/night/compose.yaml"] = compose_item(file(REPORT))
    answer["compose"]["/data/night/.env"] = {**absent(), "followed": True}
    [refused] = [each.refused for each in findings(answer, "GM204")]
    assert quiet == [""] and "/data/night/compose.yaml:12" in refused
