"""No secret leaves the program: what is masked, and that what is no secret stays readable."""

from __future__ import annotations

import pytest

from reports.mask import MASK, mask, mask_all

SECRETS = [
    ("http://user:hunter2@proxy:3128", "hunter2"),
    ('{"http-proxy": "http://u:hunter2@proxy"}', "hunter2"),
    ('"password": "hunter2"', "hunter2"),
    ("registry_token = 'hunter2'", "hunter2"),
    ("AWS_SECRET_ACCESS_KEY=hunter2", "hunter2"),
    ('"auth": "aHVudGVyMg=="', "aHVudGVyMg"),
    ("Authorization: Bearer abcdefgh12345678", "abcdefgh12345678"),
    ('"api_key": "hun\\"ter2"', "ter2"),
    ("splunk-token=hunter2", "hunter2"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_masked(text: str, secret: str) -> None:
    assert secret not in mask(text)
    assert MASK in mask(text)


@pytest.mark.parametrize(
    "text",
    [
        'ldconfig = "@/sbin/ldconfig.real"',
        "nvidia.com/gpu=GPU-bf1b60a9-98db-c888-cead-1578858123b2",
        "/etc/docker/daemon.json:3: runtimes: no nvidia",
        "https://docs.docker.com/config",
        '"authorization-plugins": ["x"]',
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


def test_values_under_a_telling_key_are_masked_whole() -> None:
    found = mask_all({"a": [{"password": "x y z", "port": 1}], "note": "http://u:p@h"})
    assert found == {"a": [{"password": MASK, "port": 1}], "note": f"http://{MASK}@h"}
