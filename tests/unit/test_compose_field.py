"""Compose files as people write them (tests/fixtures/compose_field, each with the project whose file it is after): what is told of
them on a host where everything works, what they are granted, and what a rewrite leaves."""

from __future__ import annotations

import pytest

from gpumend.payload.probe.compose import masked_compose
from gpumend.rules.compose.rewrite import DEVICES, FORMS, RUNTIME
from gpumend.rules.compose.where import Where
from tests.unit.build import FIXTURES
from tests.unit.test_compose import judged, rows
from tests.unit.test_compose_fix import grants, rewritten

FIELD = {path.stem: path.read_bytes() for path in sorted((FIXTURES / "compose_field").glob("*.yml"))}
NAMES = frozenset({"0", "1", "2", "3", "all", "0:0", "1:2"})
HOST = Where(host="h", docker=(29, 1, 3), compose=(2, 40, 3), toolkit=(1, 18, 1), mode="auto", names=NAMES, cdi=True, runtime=True)  # fmt: skip
NEW = HOST._replace(docker=(29, 2, 1))

# What each service that asks is granted (`?`: the file does not say), and what is told of the file, with its lines.
EXPECTED: dict[str, tuple[dict[str, str], list[str]]] = {
    "cdi-driver": ({"app": "0, 1"}, []),
    "cdi-short": ({"app": "all"}, []),
    "comfyui-nvidia": ({"comfyui-nvidia": "all"}, []),
    "coolify-crlf": ({"a": "0"}, []),
    "cuda-all-not": ({"minus-one": "all"}, []),
    "dcgm-exporter": ({"dcgm-exporter": "all"}, []),
    "ds01": ({"alice": "MIG-41b3cae5-1a2b-5c6d-8e9f-001122334455", "bob": "1:2"}, []),
    "four-workers": ({"base": "0", "worker-1": "0", "worker-2": "2"}, []),
    "frigate-long": ({"frigate": "0"}, []),
    "frigate-tensorrt": ({"frigate": "?"}, ["GM903 fail 22"]),
    "gpus-docs": ({"other": "all"}, []),
    "immich-hwaccel": ({"cuda": "0"}, []),
    "immich-nvenc": ({"nvenc": "0"}, []),
    "invokeai": ({"invokeai-cuda": "0"}, []),
    "jellyfin-linuxserver": ({"jellyfin": "?"}, []),
    "kohya": ({"kohya-ss-gui": "all"}, []),
    "limits-devices": ({"a": "0"}, []),
    "localai": ({}, []),
    "localai-on": ({"api": "0"}, []),
    "mig-plain": ({"a": "0:0, 1:2"}, []),
    "nim": ({"nim-llm": "0", "embedding": "0"}, []),
    "nodes-and-reservation": ({"open-webui": "all"}, []),
    "ollama-default-ids": ({"ollama": "1"}, []),
    "ollama-readme": ({"ollama": "0"}, []),
    "opea": ({"tgi-service": "all"}, []),
    "open-webui-data": ({}, []),
    "plex-image-env": ({}, ["GM910 note 7"]),
    "plex-linuxserver": ({"plex": "all"}, []),
    "rocm-reset": ({}, []),
    "runtime-beside": ({"a": "all"}, ["GM907 note 7"]),
    "runtime-env-file": ({"emby": "?"}, ["GM902 unknown 5"]),
    "sd-webui-docker": ({"auto": "0", "comfy": "0"}, []),
    "swarm-generic": ({}, []),
    "tensorflow-jupyter": ({"test": "0, 3"}, []),
    "text-generation-webui": ({"text-generation-webui": "all"}, []),
    "tgi": ({"tgi": "0, 1, 2, 3"}, []),
    "triton": ({"triton": "0"}, []),
    "vllm-openai": ({"vllm": "?"}, []),
    "vllm-two": ({"vllm-0": "0", "vllm-1": "1"}, []),
    "whisper": ({"whisper-asr-webservice-gpu": "0"}, []),
    "wrong-place": ({}, ["GM903 fail 6"]),
    "ytdl-sub": ({"ytdl-sub": "all"}, []),
}
# What is not rewritten to CDI devices under Docker 29.1, by why.
STAY = {
    "ds01": {"alice": "no CDI spec", "bob": "shared with alice"},
    "frigate-tensorrt": {"frigate": "Compose refuses it"},
    "jellyfin-linuxserver": {"jellyfin": "image's"},
    "vllm-openai": {"vllm": "image's"},
    "nim": {"nim-llm": "LLM_MS_GPU_ID", "embedding": "EMBEDDING_MS_GPU_ID"},
    "ollama-default-ids": {"ollama": "OLLAMA_DEVICE_IDS"},
    "ollama-readme": {"ollama": "OLLAMA_GPU_DRIVER"},
    "runtime-beside": {"a": "Docker before 29.2"},
    "runtime-env-file": {"emby": "env_file"},
    "sd-webui-docker": {"auto": "auto-cpu would be given 0", "comfy": "auto-cpu would be given 0"},
}


def test_there_are_forty_and_each_is_expected() -> None:
    assert len(FIELD) >= 40
    assert set(FIELD) == set(EXPECTED)


@pytest.mark.parametrize("name", FIELD)
def test_what_people_write_is_told_right(name: str) -> None:
    given, told = EXPECTED[name]
    nodes = grants(rewritten(FIELD[name], DEVICES)[0])
    assert nodes == given
    for where in (HOST, NEW):
        found = judged(FIELD[name], where)
        assert [
            f"{row} {each.evidence[0].source.removeprefix('compose.yml:')}"
            for row, each in zip(rows(found), found, strict=True)
        ] == told


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", FIELD)
def test_what_people_write_is_granted_the_same_after_a_rewrite(name: str, form: str) -> None:
    for where in (HOST, NEW):
        before, done, after = rewritten(FIELD[name], form, where)
        assert grants(after) == grants(before)
        data = done.texts.get("compose.yml", FIELD[name])
        assert rewritten(data, form, where)[1].texts == {}
        assert (b"\r\n" in data) == (b"\r\n" in FIELD[name])
        masked = rewritten(masked_compose(FIELD[name].decode()), form, where)[1]
        assert dict(masked.edits) == dict(done.edits)


@pytest.mark.parametrize("name", FIELD)
def test_what_stays_says_why(name: str) -> None:
    _, done, _ = rewritten(FIELD[name], DEVICES, HOST)
    stay = STAY.get(name, {})
    assert {each.service for each in done.refused} == set(stay)
    assert all(stay[each.service] in each.why for each in done.refused), done.refused
    assert bool(done.texts) == bool(set(done.changed))


def test_a_driver_of_somebody_else_s_is_no_request_for_nvidia_s() -> None:
    _, done, _ = rewritten(FIELD["gpus-docs"], RUNTIME, HOST)
    assert done.changed == ("other",)
    assert b"driver: 3dfx\n        count: 2" in done.texts["compose.yml"]
