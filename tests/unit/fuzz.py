"""Hosts to start from, and ways to spoil what they answer: for the property tests of whole answers.

Mutations are of the answer's JSON, as a host sends it: values of another type, huge, empty, missing, with characters that
no encoding has; and of the bytes of the files in it, which keep a right hash.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from hypothesis import strategies as st

from gpumend.payload.probe.files import content, sent
from tests.unit import test_containerd, test_grit, test_storage
from tests.unit.build import Host, Item, container, fixture, h100, healthy
from tests.unit.test_cuda import driver_host, wsl_host
from tests.unit.test_judge import SICK

Path = tuple[Any, ...]

SURROGATE = "\udc80"
DEEP: Any = json.loads("[" * 200 + "]" * 200)
VALUES = st.sampled_from(
    [
        None, True, False, 0, -1, 10**30, -(2**63), 2**64, 1e308, float("inf"), float("-inf"), float("nan"), "", "\0", "x",
        SURROGATE, "\ud800\udc00", "\ufeff", "-1", "1e400", "9" * 5000, "1." * 3000 + "0", "[" * 3000, "a\tb\tc", "\r\n", "é\u2028",
        "../../etc/shadow", "$(touch /pwned)", "ok", "absent", "denied", "nvidia", "/", "x" * 100_000, [], [None], [[]], [0], [""],
        {}, {"": None}, {"status": "ok"}, {"status": []}, {"status": {}}, {"status": "ok", "kind": "file"}, DEEP,
        {"status": "ok", "kind": "file", "data": "====", "sha256": 1}, {"status": "ok", "rc": "x"}, {"status": "ok", "rc": None, "out": []},
    ]
)  # fmt: skip
LINES = st.sampled_from(
    [
        b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\r\n", b"\r", b"\t", b"{", b"}", b"[", b"]", b'"', b"'", b"=", b":", b"#", b"&a *a",
        b"x = 1979-05-27T07:32:00Z\n", b"x = inf\n", b"x = nan\n", b"x = 99999999999999999999999999\n", b"version = 99\n", b"[[plugins]]\n",
        b"[plugins]\n", b"{{ template \"base\" . }}\n", b"cdiVersion: !!binary aGk=\n", b"- &x [*x]\n", b"<<: *x\n", b"kind: ~\n", b'"a": 1e999,',
        b"ii \tnvidia-driver\t\n", b"hi \t\t1\n", b"\tlibcuda.so.1 (libc6,x86-64) => \n", b"NVRM version: \n", b"imports = [1]\n", "é\u2028".encode(),
    ]
)  # fmt: skip

WANTS: list[dict[str, Any]] = [
    {},
    {"docker": {"paths": ["runtime", "device", "gpus"], "storage_driver": "fuse-overlayfs"}, "allow_storage_switch": True},
    {"runtime": {"mode": "auto"}, "restarts": "never", "cdi": {"writer": "file"}},
    {"grit": {"role": "both", "pool": "a"}, "containerd": {"runtimes": ["nvidia"]}, "restarts": "allow"},
    {"cuda": {"wanted": ["12.9", "13.0"], "needs": "ptx", "services": ["job.service"], "accept_note": True}},
    {"dind": {"containers": ["edge"]}, "docker": {"data_root": "/srv/docker"}, "prove": {"image": "base:1"}},
]  # fmt: skip


@cache
def seeds() -> dict[str, Item]:
    """Real captures, and hosts with something in every room, by name: whole answers."""
    edge = test_storage.dind_host(
        test_storage.inside(docker=test_storage.daemon("overlay2")),
        log=("driver not supported: overlay2",),
        units=test_storage.OWNED,
        project="edge",
    )
    hosts: dict[str, Host] = {
        "nothing": Host(),
        "h100": h100(),
        "healthy": healthy(),
        "sick": SICK,
        "containerd-1.6": test_containerd.node("1.6.20", more='version = 2\nimports = ["x"]\n'),
        "containerd-2.1": test_containerd.node("2.1.9", dump=fixture("grit/containerd_upstream_config.toml")),
        "k3s": test_containerd.k3s(test_containerd.GOOD_TEMPLATE),
        "grit": test_grit.grit(fixture("grit/report_fixed_grit.toml")),
        "grit-bad": test_grit.grit(fixture("grit/bad_runc_grit.toml")),
        "criu": test_grit.criu("4.2", **{test_grit.RUNC_CONF: fixture("criu/report_runc_v1.conf")}),
        "dind": edge,
        "outer": test_storage.outer_host(container("job", gpus=True), images=3),
        "driver-550": driver_host("550.163.01", "Tesla", "Ampere"),
        "wsl": wsl_host(),
    }
    return {name: json.loads(json.dumps(host.answer())) for name, host in hosts.items()}


def walk(value: Any, path: Path = ()) -> Iterator[Path]:
    """The path of everything inside of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from walk(inner, (*path, key))


@cache
def places(name: str) -> dict[str, list[Path]]:
    """All paths of a seed, by the section of the answer: each is as likely as another, whatever its size."""
    found: dict[str, list[Path]] = {}
    for path in walk(seeds()[name]):
        found.setdefault(path[0], []).append(path)
    return found


def at(value: Any, path: Path) -> Any:
    for key in path:
        value = value[key]
    return value


def put(value: Any, path: Path, new: Any) -> Any:
    """The value with another one at a path; ... takes it away. What is not on the path is shared."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    key = path[0]
    if len(path) == 1 and new is ...:
        del copy[key]
    else:
        copy[key] = put(value[key], path[1:], new)
    return copy


@st.composite
def spoilt_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with pieces put in, cut out or doubled."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.sampled_from([0, 1, 7, 80])))
        piece = draw(LINES | st.binary(max_size=6) | st.just(data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    return data


@st.composite
def spoilt_text(draw: st.DrawFn, text: str) -> str:
    data = draw(spoilt_bytes(text.encode("utf-8", "surrogatepass")))
    return data.decode("utf-8", draw(st.sampled_from(["surrogateescape", "replace"])))


@dataclass(frozen=True)
class Spoilt:
    """A seed's answer with some things in it replaced (or taken away: ...), shown by what was done to it."""

    seed: str
    done: tuple[tuple[Path, Any], ...]

    def __repr__(self) -> str:
        done = ", ".join(f"({path!r}, {repr(new)[:2000]})" for path, new in self.done)
        return f"Spoilt({self.seed!r}, ({done},))"

    @property
    def answer(self) -> Item:
        found: Item = seeds()[self.seed]
        for path, new in self.done:
            found = put(found, path, new)
        return found


@st.composite
def spoilt(draw: st.DrawFn) -> Spoilt:
    """An answer with one to four things in it spoilt."""
    name = draw(st.sampled_from(sorted(seeds())))
    answer, done = seeds()[name], []
    sections = places(name)
    for _ in range(draw(st.integers(1, 4))):
        path = draw(
            st.sampled_from(sections[draw(st.sampled_from(sorted(sections.keys() - {"gpumend", "seconds"})))])
        )
        try:
            old = at(answer, path)
        except (LookupError, TypeError):
            continue  # an earlier one took it away
        if isinstance(old, dict) and "data" in old and isinstance(old["data"], str) and draw(st.booleans()):
            try:
                data = draw(spoilt_bytes(content(old) or b""))
            except ValueError:
                continue
            new: Any = {
                **{key: value for key, value in old.items() if key != "base64"},
                **sent(data),
                "sha256": hashlib.sha256(data).hexdigest(),
                "size": len(data),
            }
        elif isinstance(old, str) and draw(st.integers(0, 3)):
            new = draw(spoilt_text(old[:200_000]))
        else:
            new = draw(VALUES | st.just(...) | st.text(max_size=4) | st.integers())
        answer = put(answer, path, new)
        done.append((path, new))
    return Spoilt(name, tuple(done))
