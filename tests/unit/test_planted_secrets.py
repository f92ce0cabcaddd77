"""No secret leaves: 1,000 are planted in every place of a host that is read, and looked for in every output."""

from __future__ import annotations

import hashlib
import itertools
import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from gpumend.agent import journal
from gpumend.agent.audit import tell
from gpumend.agent.condition import line
from gpumend.agent.mend import ended
from gpumend.deploy.facts_report import as_json
from gpumend.payload.probe.files import content, sent
from gpumend.reports import outputs
from gpumend.reports.document import Exit, envelope
from gpumend.run.outcome import Outcome
from gpumend.run.record import Record
from tests.unit.farm import audit, mend, run
from tests.unit.fuzz import WANTS, seeds
from tests.unit.test_fuzz_answers import assessed, parsed

SEEDS = sorted(seeds())


class Planter:
    """Makes secrets that are found again: each is another one, of a form that people use."""

    def __init__(self) -> None:
        self.made: list[str] = []

    def __call__(self) -> str:
        number = len(self.made)
        self.made.append(f"Zq{number:05}{('x7Kp', 'aB3d', 'mN9w')[number % 3]}Vt")
        return self.made[-1]

    def phrase(self) -> str:
        return f"correct {self()} {self()}"

    def json(self) -> dict[str, Any]:
        """What may stand in any JSON file."""
        return {
            "x-password": self.phrase(),
            "x-proxy": f"http://user:{self()}@{self()}@proxy:3128/x",
            "x-tokens": [self(), "a, b", self.phrase()],
            "x-secrets": {"one": self(), "two": [self(), {"deep": self()}]},
            "x-headers": {"Authorization": f"Negotiate {self()}"},
            "x-connection": f"AccountName=a;AccountKey={self()}==;EndpointSuffix=b",
            "x-key": f"-----BEGIN RSA PRIVATE KEY-----\n{self()}\n{self()}\n-----END RSA PRIVATE KEY-----\n",
            "x-db_pwd": self(),
        }

    def toml(self) -> str:
        key = f"-----BEGIN EC PRIVATE KEY-----\n{self()}\n-----END EC PRIVATE KEY-----"
        return (
            f'\n[x-planted]\npassword = "{self.phrase()}"\ntokens = [\n  "{self()}",\n  "{self.phrase()}",\n]\n'
            f'api_key = \'\'\'\n{self()}\n{self()}\'\'\'\nkey = """\n{key}\n"""\nproxy = "http://u:{self()}@h"\n'
            f'[x-planted.auth]\nuser = "{self()}"\nheader = "Authorization: Basic {self()}"\n'
        )

    def yaml(self) -> str:
        return (
            f"\nx-password: {self.phrase()}\nx-tokens:\n- {self()}\n- {self.phrase()}\nx-secret: |\n  {self()}\n  {self()}\n"
            f"x-passphrase: >-\n  {self()}\n  {self()}\nx-url: http://u:{self()}@h\n"
        )

    def unit(self) -> str:
        return (
            f"\n[Service]\nEnvironment=\"X_PASSWORD={self.phrase()}\" X_TOKEN={self()}\nEnvironment='X_SECRET={self.phrase()}'\n"
            f"ExecStart=/usr/bin/planted --token {self()} --password={self()} -e API_KEY={self()} --header 'Authorization: Bearer {self()}'\n"
        )

    def shell(self) -> str:
        return f'\nexport X_TOKEN={self()}\nX_PASSWORD="{self.phrase()}"\n# https://user:{self()}@mirror/x\n'


def planted(path: str, data: bytes, plant: Planter) -> bytes:
    """The file with secrets in it, as far as it stays one of its kind."""
    text = data.decode("utf-8", "replace")
    name = path.rpartition("/")[2]
    if name.endswith(".json"):
        try:
            found = json.loads(text)
        except ValueError:
            return data
        return json.dumps({**found, **plant.json()}, indent=2).encode() if isinstance(found, dict) else data
    if name.endswith((".toml", ".tmpl")):
        return data + plant.toml().encode()
    if name.endswith((".yaml", ".yml")):
        return data + plant.yaml().encode()
    if name.endswith((".service", ".socket", ".conf")) and "systemd" in path:
        return data + plant.unit().encode()
    return data + plant.shell().encode() if "/proc/" not in path and "/sys/" not in path else data


def spoilt(value: Any, plant: Planter, key: str = "") -> Any:
    """An answer with secrets in every file, command, environment and list of arguments."""
    if isinstance(value, list):
        if key in ("argv", "args", "Args", "Cmd", "cmdline") and all(isinstance(item, str) for item in value):
            return [*value, f"--token={plant()}", "--password", plant(), f"--url=http://u:{plant()}@h"]
        if key in ("Env", "env", "environ") and all(isinstance(item, str) for item in value):
            return [*value, f"X_TOKEN={plant()}", f"DB_PASSWORD={plant.phrase()}"]
        return [spoilt(item, plant) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("status") == "ok" and isinstance(value.get("out"), str):
        return {**value, "out": value["out"] + f"\nX_TOKEN={plant()}\nhttp://u:{plant()}@h/\n"}
    return {name: spoilt(item, plant, str(name)) for name, item in value.items()}


def files(answer: Any, plant: Planter) -> Any:
    """Secrets in every file whose bytes are sent."""
    found = dict(answer)
    for section in ("files", "stats"):
        changed = {}
        for path, item in answer.get(section, {}).items():
            if isinstance(item, dict) and isinstance(item.get("data"), str):
                data = planted(path, content(item) or b"", plant)
                item = {
                    **{key: value for key, value in item.items() if key != "base64"},
                    **sent(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "size": len(data),
                }
            changed[path] = item
        found[section] = changed
    return found


def outcomes(record: Record, plant: Planter) -> None:
    """What a host said of its changes, with secrets in it."""
    assert record.now is not None
    words = itertools.cycle(("changed", "put_back", "refused", "broken", "pending"))
    for transaction, word in zip(record.now.plan.transactions, words, strict=False):
        detail = f"dockerd: bad option --token {plant()}: http://u:{plant()}@h; password={plant()} Authorization: Bearer {plant()}"
        record.done.append((transaction, Outcome(word, detail, not_restarted=(f"job token={plant()}",))))
    record.proof = Outcome("put_back", f"docker: --password {plant()} refused")


def told(seed: str, want: dict[str, Any], plant: Planter) -> Iterator[tuple[str, str]]:
    """Every output of a host, by its name."""
    answer = spoilt(files(seeds()[seed], plant), plant)
    state = parsed(answer)
    assert state is not None
    found = assessed(state, want)
    record = Record("gpu1", before=found, now=found)
    documents = {"audit": audit([record])}
    outcomes(record, plant)
    documents["mend"] = mend([record])
    for kind, document in documents.items():
        for name, form in outputs.known().items():
            if kind in form.kinds:
                yield f"{kind} as {name}", form.render(document)
    with listening() as said:
        tell({}, documents["audit"], "gpu1")
        for transaction, outcome in record.done:
            journal.told(ended(transaction.component, outcome), "note")
    yield "the agent's journal", b"".join(said).decode()
    yield "the agent's condition", line(documents["audit"], 0.0, 15)
    facts = envelope(run(()), "facts", Exit.OK, {"gpu1": as_json(state)})
    yield "facts", json.dumps(facts)


@contextmanager
def listening() -> Iterator[list[bytes]]:
    """What the agent sends to the journal meanwhile."""
    said: list[bytes] = []
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as here:
        here.bind(f"{directory}/socket")
        before, journal.SOCKET = journal.SOCKET, f"{directory}/socket"
        taker = threading.Thread(target=lambda: said.extend(iter(lambda: here.recv(1 << 20), b"")))
        taker.start()
        try:
            yield said
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.sendto(b"", journal.SOCKET)
            taker.join()
            journal.SOCKET = before


PLANTED = Planter()


@pytest.mark.parametrize("seed", SEEDS)
def test_none_of_a_thousand_planted_secrets_is_told(seed: str) -> None:
    for want in WANTS:
        mine = len(PLANTED.made)
        for where, text in told(seed, want, PLANTED):
            out = [secret for secret in PLANTED.made[mine:] if secret in text]
            assert not out, (
                seed,
                where,
                len(out),
                [text[max(text.index(s) - 150, 0) : text.index(s) + 30] for s in out[:4]],
            )


def test_the_journal_has_what_the_agent_tells() -> None:
    """Or the search above looks at nothing."""
    with listening() as said:
        journal.told("docker: \x1b[2J http://u:Zq1@proxy", "fail", "GM404", host="gpu1")
    (text,) = (entry.decode() for entry in said)
    assert "GPUMEND_HOST=gpu1\n" in text and "GPUMEND_CODE=GM404\n" in text
    assert "MESSAGE=docker: \\x1b[2J http://********@proxy\n" in text


def test_there_were_a_thousand() -> None:
    """Each worker of the tests plants its share: all are planted once more, and not looked for."""
    plant = Planter()
    for seed in SEEDS:
        spoilt(files(seeds()[seed], plant), plant)
    assert len(set(plant.made)) * len(WANTS) >= 1000
