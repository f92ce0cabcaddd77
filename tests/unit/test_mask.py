"""No secret leaves the program: what is masked, and that what is no secret stays readable."""

from __future__ import annotations

import time

import pytest

from gpumend.text.mask import MASK, mask, mask_all, printable

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
    ("x.my-auth: hunter2", "hunter2"),
    ("{'token':'hunter2'}", "hunter2"),
    ('"a"token = hunter2', "hunter2"),
    ("1http://user:hunter2@proxy", "hunter2"),
    ("http://user:Tr0ub4dor@42-Horse@proxy:3128/x", "42-Horse"),
    ("passphrase = correct horse", "horse"),
    ("  password: correct horse battery", "battery"),
    ("+db_pwd=hunter2", "hunter2"),
    ("AccountKey=hunter2;EndpointSuffix=x", "hunter2"),
    ("Authorization: token hunter2 more", "hunter2"),
    ("Proxy-Authorization: AWS4-HMAC-SHA256 Credential=hunter2", "hunter2"),
    ('"tokens": ["first", "hunter2"]', "hunter2"),
    ("dockerd --registry-token hunter2 -D", "hunter2"),
    ("curl --password 'hun ter2'", "ter2"),
    ("<password>a9F3kLm0Qz77Tb1XyW</password>", "a9F3kLm0Qz77Tb1XyW"),
    ("the token is 9f86d081884c7d659a2feaa0c55ad015", "9f86d081884c7d659a2feaa0c55ad015"),
    ("{'auth': {'user': 'a', 'x': 'hunter2'}}", "hunter2"),
    ("+-----BEGIN RSA PRIVATE KEY-----\n+aaaa\n-hunter2\n+-----END RSA PRIVATE KEY-----", "hunter2"),
    ("-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n-----END OPENSSH PRIVATE KEY-----", "hunter2"),
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
        "docker run --password-file",
        "the secret of /etc/nvidia-container-runtime/config.toml",
        "no token for nvidia-container-toolkit-base",
    ],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert mask(text) == text


def test_values_under_a_telling_key_are_masked_whole() -> None:
    found = mask_all({"a": [{"password": "x y z", "port": 1}], "note": "http://u:p@h"})
    assert found == {"a": [{"password": MASK, "port": 1}], "note": f"http://{MASK}@h"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),  # a host could paint over the report
        ("a\rb", "a\\rb"),
        ("\x00\x07\x9b", "\\x00\\x07\\x9b"),
        ("\udcff", "\\udcff"),  # a file name that is not UTF-8, as Python reads it
        ("user\u202egpj", "user\\u202egpj"),
        ("a\u2028b", "a\\u2028b"),
        ("tab\tand\nline, ä, 😀", "tab\tand\nline, ä, 😀"),
    ],
)
def test_what_no_terminal_should_be_sent_is_spelt_out(text: str, shown: str) -> None:
    assert printable(text) == shown == mask(text)
    mask(text).encode("utf-8")


def test_lists_and_numbers_under_a_telling_key_are_masked() -> None:
    assert mask_all({"tokens": ["a", "b"], "api_key": 42, "password": "", "secret": True}) == {
        "tokens": [MASK, MASK], "api_key": MASK, "password": "", "secret": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "token",
        "a.b-",
        'token="',
        "token='\\",
        "http://",
        "basic ",
        "\x1b",
        "token: {",
        "token=[",
        "--token ",
        "-token",
        "-----BEGIN RSA PRIVATE KEY-----",
        "token  is a1B",
        "authorization: ",
    ],
    ids=repr,
)
def test_a_long_text_takes_no_longer_than_its_length(text: str) -> None:
    """Two patterns took more than the square of it: 11 s for 20 KB of one letter, hours for 20 KB of "token"."""
    began = time.process_time()
    mask(text * (600_000 // len(text)))
    assert time.process_time() - began < 3


def test_a_host_with_a_telling_name_keeps_its_report() -> None:
    told = {"hosts": {"token1": {"status": "drift", "x\udcff": ["y"]}}}
    assert mask_all(told) == {"hosts": {"token1": {"status": "drift", "x\\udcff": ["y"]}}}


def test_whole_objects_under_a_telling_key_and_words_after_an_option_are_masked() -> None:
    assert mask_all({"x": {"secrets": {"one": "a", "two": [{"b": 3}]}}, "Authorization": "x"}) == {
        "x": {"secrets": {"one": MASK, "two": [{"b": MASK}]}},
        "Authorization": MASK,
    }
    assert mask_all({"argv": ["docker", "--token", "a", "b"]}) == {"argv": ["docker", "--token", MASK, "b"]}
