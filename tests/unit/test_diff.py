"""What a diff of a host's file may cost, and that nothing secret of the file is in it."""

from __future__ import annotations

import json
import random
import time

import pytest

from gpumend.plan.step import WriteFile
from gpumend.reports.diff import CONTEXT, SHOWN, WIDE, diff
from gpumend.text.mask import MASK
from gpumend.text.secrets import secrets_of


def of(before: str, after: str) -> str:
    return diff(WriteFile("/etc/docker/daemon.json", "00", after.encode(), before.encode()))


def test_a_small_change_of_a_large_file_has_its_lines_and_its_place() -> None:
    rows = [f"row {number}" for number in range(30_000)]
    new = [*rows[:20_000], "new", *rows[20_000:]]
    assert of("\n".join(rows), "\n".join(new)).splitlines() == [
        "--- /etc/docker/daemon.json (now)",
        "+++ /etc/docker/daemon.json (wanted)",
        "@@ -19998,6 +19998,7 @@",
        *(f" row {number}" for number in range(20_000 - CONTEXT, 20_000)),
        "+new",
        *(f" row {number}" for number in range(20_000, 20_000 + CONTEXT)),
    ]


def crafted(count: int, kinds: int, seed: int) -> str:
    chosen = random.Random(seed)
    return "\n".join(f'"{chosen.randrange(kinds)}": 1,' for _ in range(count))


@pytest.mark.parametrize(("count", "kinds"), [(100_000, 150), (1000, 120), (1000, 2), (190, 1)])
def test_no_file_holds_the_controller(count: int, kinds: int) -> None:
    """A crafted daemon.json was over a minute of difflib."""
    began = time.process_time()
    told = of(crafted(count, kinds, 1), crafted(count, kinds, 2))
    assert time.process_time() - began < 8
    assert len(told.splitlines()) <= SHOWN + 1


def test_a_row_without_end_is_cut() -> None:
    told = of('{"a": "' + "x" * 500_000 + '"}', "{}")
    assert max(map(len, told.splitlines())) < WIDE + 50 and "characters more" in told


def test_what_the_parser_calls_secret_is_hidden_wherever_it_stands() -> None:
    raw = {"x": {"tokens": ["first one", 'sec"ond'], "api_key": {"deep": 12345}}, "plain": "visible"}
    told = of(json.dumps(raw, indent=2), "{}")
    assert "visible" in told and MASK in told
    for secret in ("first one", "ond", "12345"):
        assert secret not in told
    table = 'tokens = [\n  "alpha",\n  "beta gamma",\n]\npassword = """\nline one\nline two"""\n'
    told = of(table, "x = 1\n")
    assert not any(word in told for word in ("alpha", "gamma", "line one", "line two"))
    told = of("[Service]\nEnvironment=\"A_TOKEN=x y z0\" B=plain 'C_PASSWORD=q r s0'\n", "")
    assert "z0" not in told and "s0" not in told and "B=plain" in told


@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, "a: &a [*a]", "token: {", "Environment='token=", "token\x00"],
    ids=lambda text: text[:12],
)
def test_what_no_parser_takes_has_no_secrets_of_its_own(text: str) -> None:
    assert secrets_of(f"{text} # token") == frozenset()
