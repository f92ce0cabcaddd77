"""Host data reaches no shell: every text of the wanted state is refused by the schema or arrives as data, and what is sent
to a host is a program with that data in a literal."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from gpumend import schemas
from gpumend.plan.plan import plan
from gpumend.plan.wire import as_data
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import Wanted, parse
from gpumend.run.programs import change_program as program
from gpumend.run.programs import installed_program
from gpumend.run.remote.audit_rule import rule_text
from gpumend.schemas.wanted import WantedError, check
from tests.unit.build import TODAY
from tests.unit.fuzz import seeds
from tests.unit.test_fuzz_answers import parsed

MARK = "touch /pwned"
PAYLOADS = [
    f"$({MARK})", f"`{MARK}`", f"; {MARK} #", f"x\n{MARK}\n", f"'; {MARK}; '", f'"; {MARK}; "', f"|| {MARK}", f"/$({MARK})",
    f"--privileged={MARK}", f"x\0{MARK}", f"\\'); import os; os.system('{MARK}') #", f"\u2028{MARK}",
]  # fmt: skip

Path = tuple[Any, ...]


def texts(schema: dict[str, Any], path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every place of the schema where a text may stand, with that place's own schema. [] in a path is a list's item."""
    for each in schema.get("oneOf", ()):
        yield from texts(each, path)
    if schema.get("type") == "string" or "enum" in schema or "const" in schema:
        yield path, schema
    for key, inner in schema.get("properties", {}).items():
        yield from texts(inner, (*path, key))
    if isinstance(schema.get("items"), dict):
        yield from texts(schema["items"], (*path, "[]"))


PLACES = sorted({path for path, _ in texts(schemas.load("wanted"))})
NEEDED: dict[Path, dict[str, Any]] = {  # what must stand beside a text for the rest to be valid
    ("grit",): {"role": "both"},
    ("prove",): {"image": "base:1"},
    ("waivers", "[]"): {"code": "GM101", "reason": "r", "owner": "o", "until": "2099-01-01"},
}


def having(path: Path, value: Any, above: Path = ()) -> Any:
    """A wanted state with a value at a path, and beside it what has to be there."""
    if not path:
        return value
    key, inner = path[0], having(path[1:], value, (*above, path[0]))
    return [inner] if key == "[]" else {**NEEDED.get(above, {}), key: inner}


def test_the_walk_finds_every_text() -> None:
    assert (
        ("waivers", "[]", "reason") in PLACES
        and ("cuda", "wanted") in PLACES
        and ("cuda", "wanted", "[]") in PLACES
    )
    assert len(PLACES) >= 27
    text = json.dumps(schemas.load("wanted"))
    assert (
        text.count('"type": "string"') + text.count('"enum"') + text.count('"const"')
        <= len(PLACES) + text.count('"oneOf"') + 3
    )


def holds(value: Any, payload: str) -> bool:
    if isinstance(value, (list, tuple)):
        return any(holds(item, payload) for item in value)
    if hasattr(value, "__dataclass_fields__"):
        return any(holds(getattr(value, field.name), payload) for field in fields(value))
    return bool(value == payload)


@pytest.mark.parametrize("path", PLACES, ids=[".".join(path) for path in PLACES])
def test_a_text_is_refused_or_arrives_as_data(path: Path) -> None:
    for payload in PAYLOADS:
        try:
            raw = having(path, payload)
            check(raw)
            wanted = parse(raw)
        except WantedError as error:
            assert "gpumend" in str(error)
            continue
        assert isinstance(wanted, Wanted)
        assert holds(wanted, payload)
        for name in ("sick", "grit", "dind", "outer", "driver-550"):
            sent_as_data(name, wanted, payload)


def sent_as_data(name: str, wanted: Wanted, payload: str) -> None:
    """What a mend of this host would send: Python whose only mention of the payload is in the JSON of its last line, and
    no command of a shell in there."""
    state = parsed(seeds()[name])
    assert state is not None
    context = Context(state, wanted, "gpu1", TODAY)
    for transaction in plan(context, judge(state, wanted, "gpu1", TODAY).findings).transactions:
        data = as_data(transaction, "20261123T000000Z-0000", wanted.restarts, "ops@controller")
        only_data(data)
        for step in data["steps"]:
            for argv in (value for value in step.values() if isinstance(value, list)):
                assert argv[:1] not in (["sh"], ["bash"], ["/bin/sh"])
                assert not any(payload in word for word in argv), step


def only_data(data: dict[str, Any]) -> None:
    """The program's text calls main_transaction with a JSON literal of the data, and nothing else at its end."""
    last = program(data).splitlines()[-1]
    call = ast.parse(last).body[0]
    assert isinstance(call, ast.Expr) and isinstance(call.value, ast.Call)
    first = call.value.args[0]
    assert isinstance(first, ast.Call) and isinstance(first.args[0], ast.Constant)
    assert json.loads(str(first.args[0].value)) == data


def test_any_text_in_a_transaction_is_a_literal() -> None:
    for payload in [*PAYLOADS, "\udc80", "'''", '"""', "\\", "\r", "{0}%s"]:
        only_data(
            {"verb": "apply", "run": payload, "who": payload, "steps": [{"argv": [payload], "path": payload}]}
        )


@pytest.mark.parametrize(
    "payload", [*PAYLOADS, "ALL", "#0", "ops, ALL", "ops ALL=(ALL) ALL", "", "%", "OPS", "a:b", "ops\n"]
)
def test_a_sudo_rule_is_for_a_name(payload: str) -> None:
    with pytest.raises(ValueError, match="is not the name of a user"):
        rule_text(payload)


@pytest.mark.parametrize("user", ["ops", "%gpu-admins", "svc_audit$"[:-1], "j.doe"])
def test_the_sudo_rule_lists_one_command(user: str) -> None:
    rows = [row for row in rule_text(user).splitlines() if not row.startswith("#")]
    assert rows[0].startswith("Cmnd_Alias GPUMEND_AUDIT = sha256:") and rows[0].endswith(
        ' /usr/local/lib/gpumend/audit ""'
    )
    assert rows[2] == f"{user} ALL = (root) NOPASSWD: GPUMEND_AUDIT"
    assert len(rows) == 3


def test_the_audit_program_takes_nothing_from_outside() -> None:
    """No argument, no input: nothing that its caller says."""
    tree = ast.parse(installed_program())
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not names & {"argv0", "stdin", "input", "getenvb"}
    asked = [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in ("argv", "environ")
    ]
    assert set(asked) <= {"os.environ"}
    # Of the program itself: the process that asks CUDA has a text of its own, and takes its environment away.
    assert len([text for text in asked if text == "os.environ"]) == ast.unparse(tree).count(
        "os.environ.get('HOME', '/root')"
    )
