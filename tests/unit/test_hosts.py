"""hosts.toml: what becomes pyinfra's inventory, and what is refused, with file and line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paramiko
import pytest

from gpumend.deploy.hosts import addressed, line_of, parse, twins, with_group_data
from gpumend.deploy.hosts_file import HostsError, find
from gpumend.run.audit_program import AUDIT, SUDO
from gpumend.run.programs import audit_identity, probe_program
from gpumend.run.remote.ssh import KnownHosts

ROOT = Path(__file__).resolve().parents[2]
GOOD = """\
[defaults]
user = "ops"
key = "keys/id"

[hosts.gpu1]
address = "gpu1.example.net"

[hosts.gpu2]
user = "root"
port = 2222
gpumend = { restarts = "allow" }

[groups.training]
hosts = ["gpu1"]
gpumend = { runtime = { mode = "auto" } }
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    return path


def test_hosts_groups_and_settings(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "id").touch()
    found = parse(written(tmp_path, GOOD))
    hosts = dict(found.hosts)
    assert hosts["gpu1"]["ssh_hostname"] == "gpu1.example.net"
    assert hosts["gpu1"]["_sudo"] is True, "everyone but root uses sudo"
    assert "_sudo" not in hosts["gpu2"]
    assert hosts["gpu2"]["ssh_port"] == 2222
    assert hosts["gpu2"]["gpumend"] == {"restarts": "allow"}
    members, data = found.groups["training"]
    assert (members, data["gpumend"]) == (["gpu1"], {"runtime": {"mode": "auto"}})
    assert found.data["ssh_key"] == str(tmp_path / "keys/id"), "relative to the file"
    assert found.data["ssh_strict_host_key_checking"] == "yes", "strict unless the file says otherwise"


BOTH = """\
[defaults]
gpumend = { restart_watch = 0, restarts = "never" }
[hosts.gpu1]
gpumend = { restarts = "allow" }
[hosts.gpu2]
[groups.training]
hosts = ["gpu1", "gpu2"]
gpumend = { runtime = { mode = "auto" } }
"""
INVENTORY = """\
from pathlib import Path
from gpumend.deploy.hosts import parse
_found = parse(Path(__file__).with_name("hosts.toml"))
all = (_found.hosts, _found.data)
globals().update(_found.groups)
"""


# In a process of its own: pyinfra_cli puts gevent in the place of this one's threads.
READ = """\
import json, sys
from pyinfra_cli.inventory import make_inventory_from_files
from pyinfra.api import State
from pyinfra.context import ctx_state
from gpumend.run.remote.layers import asked, layers
from gpumend.rules.wanted import merge
with ctx_state.use(State()):
    inventory = make_inventory_from_files(sys.argv[1] + "/inventory.py", cwd=sys.argv[1])
print(json.dumps({host.name: %s for host in inventory}))
"""


def read(directory: Path, what: str) -> Any:
    """An expression's value for each host of the inventory in a directory."""
    argv = [sys.executable, "-c", READ % what, str(directory)]
    found = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def test_files_of_group_data_take_nothing_of_hosts_toml_away(tmp_path: Path) -> None:
    """By pyinfra's own reading of an inventory: there a file's key takes the place of the same key in the inventory."""
    written(tmp_path, BOTH)
    (tmp_path / "inventory.py").write_text(INVENTORY)
    (tmp_path / "group_data").mkdir()
    (tmp_path / "group_data/all.py").write_text('gpumend = {"restarts": "idle", "lock_wait": 5}\n')
    (tmp_path / "group_data/training.py").write_text('gpumend = {"runtime": {"ldconfig": "auto"}}\n')
    assert read(tmp_path, "merge(layers(host))") == {
        name: {
            "restart_watch": 0, "lock_wait": 5, "restarts": restarts,
            "runtime": {"mode": "auto", "ldconfig": "auto"},
        }
        for name, restarts in (("gpu1", "allow"), ("gpu2", "never"))
    }  # fmt: skip


def test_cuda_is_not_asked_on_a_host_that_says_never(tmp_path: Path) -> None:
    written(
        tmp_path,
        '[defaults]\ngpumend = { ask_cuda = "auto" }\n[hosts.gpu1]\n[hosts.gpu2]\ngpumend = { ask_cuda = "never" }\n[hosts.gpu3]\n'
        '[groups.laptops]\nhosts = ["gpu3"]\ngpumend = { ask_cuda = "never" }\n',
    )
    (tmp_path / "inventory.py").write_text(INVENTORY)
    assert read(tmp_path, "asked(host)[0]") == {"gpu1": True, "gpu2": False, "gpu3": False}
    asked = [probe_program(ask) for ask in (True, False)]
    assert ['"never": true' in program for program in asked] == [False, True]
    assert audit_identity(True) != audit_identity(False), (
        "an installed audit of the other kind is not taken for this one's"
    )


@pytest.mark.parametrize(
    ("defaults", "own", "audit", "sudo"),
    [
        ('sudo = "audit"', "", True, None),
        ('sudo = "audit"', "sudo = true", False, True),
        ("sudo = true", 'sudo = "audit"', True, None),
        ("", 'sudo = "audit"', True, None),
        ("", "", False, True),
    ],
)
def test_sudo_for_the_audit_alone(
    tmp_path: Path, defaults: str, own: str, audit: bool, sudo: bool | None
) -> None:
    found = parse(written(tmp_path, f"[defaults]\nuser = 'ops'\n{defaults}\n[hosts.a]\n{own}\n"))
    data = {**found.data, **dict(found.hosts)["a"]}
    assert (data.get(SUDO) == AUDIT) is audit
    assert audit or data.get("_sudo") is sudo


BAD = [
    pytest.param("[hosts.a\n", r"hosts\.toml: .*line 1", id="syntax"),
    pytest.param(
        "[hosts.a]\nuzer = 'x'\n", r"hosts\.toml:2: hosts\.a\.uzer: unknown key; did you mean 'user'\?; allowed: address, connect", id="unknown-key"
    ),
    pytest.param("[host.a]\n[hosts.a]\n", r"hosts\.toml:1: host: unknown key; did you mean 'hosts'\?", id="unknown-table"),
    pytest.param("", r"hosts\.toml:1: no hosts: add \[hosts\.NAME\]", id="empty"),
    pytest.param("[defaults]\n\n[hosts]\n", r"hosts\.toml:3: no hosts: add \[hosts\.NAME\]", id="empty-table"),
    pytest.param("hosts = ['a']\n", r"hosts\.toml:1: each host is a table: \[hosts\.a\]", id="hosts-a-list"),
    pytest.param(
        "[hosts]\na = '192.0.2.1'\n", r'hosts\.toml:2: each host is a table: \[hosts\.a\], and in it address = "192\.0\.2\.1"', id="host-a-text"
    ),
    pytest.param("[hosts.a]\n[groups]\ng = ['a']\n", r"hosts\.toml:3: each group is a table: \[groups\.g\]", id="group-a-list"),
    pytest.param("[hosts.a]\n[groups.all]\nhosts = ['a']\n", r"hosts\.toml:2: groups\.all: `all` is every host already", id="group-all"),
    pytest.param("[hosts.a]\n[groups.'my group']\nhosts = ['a']\n", r"hosts\.toml:2: groups\.'my group': a group's name .*no space", id="group-name"),
    pytest.param("[hosts.a]\n[hosts.b]\n[hosts.a]\n", r"hosts\.toml:3: hosts\.a: named twice, first in line 1", id="host-twice"),
    pytest.param("[hosts.a]\n[groups.g]\nhosts = ['a', 'a']\n", r"hosts\.toml:3: groups\.g\.hosts: a: named twice", id="host-twice-in-a-group"),
    pytest.param("[hosts.a]\n\nport = 'x'\n", r"hosts\.toml:3: hosts\.a\.port: 'x' is not of type", id="type"),
    pytest.param("[hosts.a]\nkey = 'x/id'\n", r"hosts\.toml:2: hosts\.a\.key: there is no such file: 'x/id'", id="key"),
    pytest.param("[hosts.a]\nsudo = 'yes'\n", r"hosts\.toml:2: hosts\.a\.sudo: 'yes' is not one of", id="sudo"),
    pytest.param("[hosts.a]\nport = 70000\n", r"hosts\.toml:2: .*70000", id="range"),
    pytest.param("[defaults]\nuser = 'x'\n", r"hosts\.toml:1: no hosts: add \[hosts\.NAME\]", id="no-hosts"),
    pytest.param(
        "[hosts.a]\n[groups.g]\nhosts = ['b']\n", r"hosts\.toml:3: groups\.g: there is no host 'b'; known are a", id="group"
    ),
    pytest.param(
        "[hosts.a]\ngpumend = { runtime = { mode = 'cdii' } }\n",
        r"hosts\.toml:2: hosts\.a: gpumend\.runtime\.mode: 'cdii' is not allowed; allowed: 'cdi', 'auto'",
        id="wanted",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_mistake_is_named_with_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(HostsError) as error:
        parse(written(tmp_path, text))
    assert re.search(message, str(error.value)), str(error.value)


def test_names_of_groups_may_have_hyphens_and_machines_share_an_address_on_other_ports(
    tmp_path: Path,
) -> None:
    text = (
        "[hosts.a]\naddress = 'x'\n[hosts.b]\naddress = 'x'\nport = 2222\n[groups.my-group]\nhosts = ['a']\n"
    )
    found = parse(written(tmp_path, text))
    assert list(found.groups) == ["my-group"] and len(found.hosts) == 2
    assert twins(tmp_path / "hosts.toml", found) == []


def test_a_machine_with_two_names_is_told_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "[hosts.a]\naddress = '192.0.2.1'\n[hosts.b]\naddress = '192.0.2.1'\n")
    assert twins(path, parse(path)) == [
        f"{path}:4: hosts.b: the machine of hosts.a: address 192.0.2.1, port 22"
    ]


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostsError, match=r"missing\.toml"):
        parse(tmp_path / "missing.toml")


def test_line_of_finds_the_nearest_line() -> None:
    text = '[hosts."a.b"]\nuser = "x"\n\n[hosts.c]\nport = 1\n'
    assert line_of(text, ["hosts", "c", "port"]) == 5
    assert line_of(text, ["hosts", "c"]) == 4
    assert line_of(text, ["nowhere"]) == 1


Found = list[dict[str, str] | None]


def found_in(known: paramiko.HostKeys, names: Sequence[str]) -> Found:
    """The keys of each name, by type; None where it has none."""
    rows = [known.lookup(name) for name in names]
    return [{kind: key.get_base64() for kind, key in row.items()} if row else None for row in rows]


def test_known_hosts_are_found_as_paramiko_finds_them(tmp_path: Path) -> None:
    """Plain, with a port, several names of one key, several keys of one name, hashed; also after one was added or gone."""
    keys = [paramiko.ECDSAKey.generate() for _ in range(3)]
    other = paramiko.RSAKey.generate(1024)
    hashed = paramiko.HostKeys.hash_host("c.example")
    lines = [
        "# those of the racks",
        "",
        f"a.example,192.0.2.1 {keys[0].get_name()} {keys[0].get_base64()}",
        f"[b.example]:2222 {keys[1].get_name()} {keys[1].get_base64()} root@b",
        f"{hashed} {keys[2].get_name()} {keys[2].get_base64()}",
        f"a.example {keys[0].get_name()} {keys[0].get_base64()}",
        f"a.example\t{other.get_name()}\t{other.get_base64()}",
        f"f.example ssh-unknown {keys[0].get_base64()}",
        "g.example",
    ]
    path = tmp_path / "known_hosts"
    path.write_text("\n".join(lines) + "\n")
    ours, theirs = KnownHosts(str(path)), paramiko.HostKeys(str(path))
    names = [
        "a.example",
        "192.0.2.1",
        "[b.example]:2222",
        "b.example",
        "c.example",
        *(f"{c}.example" for c in "defg"),
    ]

    assert found_in(ours, names) == found_in(theirs, names)
    assert [row is None for row in found_in(ours, names)] == [False] * 3 + [True, False] + [True] * 4
    assert len(found_in(ours, ["a.example"])[0] or {}) == 2
    assert set(ours.keys()) == set(theirs.keys()) == {"a.example", "192.0.2.1", "[b.example]:2222", hashed}
    for known in (ours, theirs):
        known.add("d.example", keys[1].get_name(), keys[1])
        known.add("c.example", keys[0].get_name(), keys[0])
        known.load(str(path))
    assert found_in(ours, ["d.example"]) == found_in(theirs, ["d.example"]) != [None]
    assert ours.check("d.example", keys[1]) and not ours.check("d.example", keys[0])
    assert ours.check("c.example", keys[0]), "what was added counts more than the file"
    for name in ("a.example", "c.example", "d.example"):
        del ours[name]
    assert found_in(ours, names) == [
        None,
        found_in(theirs, names)[1],
        found_in(theirs, names)[2],
        *[None] * 6,
    ]
    with pytest.raises(KeyError):
        del ours["a.example"]
    ours.clear()
    assert list(ours) == []


def test_a_key_that_is_revoked_is_not_known(tmp_path: Path) -> None:
    """sshd(8), SSH_KNOWN_HOSTS FILE FORMAT: the key "is revoked and must not ever be accepted"; paramiko takes the marker for a name."""
    keys = [paramiko.ECDSAKey.generate() for _ in range(2)]
    first, second = (f"{key.get_name()} {key.get_base64()}" for key in keys)
    path = tmp_path / "known_hosts"
    path.write_text(
        f"a.example {first}\nb.example {second}\n@revoked * {first}\na.example,c.example {first}\n"
    )
    known = KnownHosts(str(path))
    assert found_in(known, ["a.example", "c.example"]) == [None, None]
    assert known.check("b.example", keys[1])


@pytest.mark.parametrize(
    "bad",
    [
        b"b.example ssh-ed25519 AAA=A",
        b"b.example ssh-ed25519 AAAA",
        b"|1|x|y ssh-ed25519 AAAA",
        b"|1|eA==| ssh-ed25519 AAAA",
        b"@cert-authority *.example ssh-ed25519 AAAA",
        b"b.\xff\xfe ssh-ed25519 AAAA",
        b"b.example ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAAABBA==",
    ],
)
def test_a_line_that_is_no_key_leaves_the_others(tmp_path: Path, bad: bytes) -> None:
    """paramiko gives up the rest of the file at some of them, and all of it at one that is no UTF-8 (paramiko pull request 1990)."""
    key = paramiko.ECDSAKey.generate()
    path = tmp_path / "known_hosts"
    path.write_bytes(bad + f"\na.example {key.get_name()} {key.get_base64()}\n".encode())
    known = KnownHosts(str(path))
    assert known.check("a.example", key)
    assert found_in(known, ["b.example"]) == [None]
    assert list(known) == ["a.example"]


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current directory, a home and a checkout without a hosts file; returned: where these lie."""
    for name in ("here", "home", "project"):
        (tmp_path / name).mkdir(mode=0o755)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("GPUMEND_HOSTS", raising=False)
    monkeypatch.setattr("gpumend.deploy.hosts_file.PROJECT", tmp_path / "project")
    return tmp_path


def test_the_first_hosts_file_counts(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find().path is None
    paths = [nowhere / "project/hosts.toml", nowhere / "home/gpumend/hosts.toml", nowhere / "here/hosts.toml"]
    for path in paths:  # each counts more than the one before
        path.parent.mkdir(exist_ok=True)
        path.write_text("[hosts.a]\n")
        assert find().path == path
        assert find().said(3) == f"{path}: 3 hosts"
    monkeypatch.setenv("GPUMEND_HOSTS", str(paths[0]))
    assert find().path == paths[0]
    assert find("../home/gpumend/hosts.toml").path is not None
    assert find("../home/gpumend/hosts.toml").path != paths[0], "--hosts counts most"


def test_a_hosts_file_that_is_named_and_not_there_is_told(
    nowhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (nowhere / "here/hosts.toml").write_text("[hosts.a]\n")
    with pytest.raises(HostsError, match=r"^--hosts names none\.toml, which is not there$"):
        find("none.toml")
    with pytest.raises(HostsError, match=r"^--hosts names \., which is a directory$"):
        find(".")
    monkeypatch.setenv("GPUMEND_HOSTS", "/none/hosts.toml")
    with pytest.raises(HostsError, match=r"^GPUMEND_HOSTS names /none/hosts\.toml, which is not there$"):
        find()


def test_a_hosts_file_that_others_may_write_to_is_not_passed_over(nowhere: Path) -> None:
    """Nor does the next one count in its place: whoever put it there would choose the hosts."""
    (nowhere / "project/hosts.toml").write_text("[hosts.a]\n")
    path = nowhere / "here/hosts.toml"
    path.write_text("[hosts.a]\n")
    path.chmod(0o666)
    with pytest.raises(
        HostsError, match=re.escape(f"{path} was found, and is not used: {path}: everybody may write to it")
    ):
        find()
    assert find(str(path)).path == path, "named, it is the caller's own word"


def test_group_data_beside_the_hosts_file_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = parse(written(tmp_path, BOTH))
    (tmp_path / "group_data").mkdir(mode=0o755)
    (tmp_path / "group_data/all.py").write_text(
        'import os\nsite = "b"\n_own = 1\ngpumend = {"restarts": "idle", "restart_watch": 9}\n'
    )
    (tmp_path / "group_data/training.py").write_text(
        'gpumend = {"runtime": {"mode": "cdi", "ldconfig": "auto"}}\n'
    )
    (tmp_path / "group_data/trainign.py").write_text("")
    merged = with_group_data(found, tmp_path / "group_data")
    assert merged.data["site"] == "b" and not {"os", "_own"} & set(merged.data)
    assert merged.data["gpumend_hosts_toml"] == {"restart_watch": 0, "restarts": "never"}, (
        "hosts.toml says it itself"
    )
    assert merged.groups["training"][1]["gpumend_hosts_toml"]["runtime"] == {
        "mode": "auto",
        "ldconfig": "auto",
    }
    assert "there is no group 'trainign'; did you mean 'training'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("target", "user", "sudo"), [("root@192.0.2.1", "root", False), ("ops@gpu1", "ops", True)]
)
def test_a_host_by_its_address_has_sudo_for_everyone_but_root(target: str, user: str, sudo: bool) -> None:
    name, data = addressed(target)
    assert (name, data["ssh_user"], data["_sudo"]) == (target, user, sudo)
    assert data["ssh_hostname"] == target.partition("@")[2]
