"""The program of a host on a throwaway tree: the transactions that are run there, killed before each step or not.

`@ROOT@` in a text stands for the tree's own path, so that a tree that was captured can be laid out anywhere.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import os
import signal
import tempfile
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tree = dict[str, Any]  # path below the root -> [mode, text] of a file, None for a directory

SPEC = 'cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: "{name}"\n'
RUN = "20260101T000000Z-dead"
ROOT = "@ROOT@"

STANDINS = {
    "systemctl": """#!/bin/sh
# STAND-IN for tests, not systemctl: a containerd that runs, and is restarted at once.
case "$*" in
"show --value -p KillMode containerd.service") echo process ;;
*MainPID*) echo MainPID=1 ;;
esac
echo "$*" >>@ROOT@/told
""",
    "ctr": "#!/bin/sh\nexit 1\n",
    "nvidia-ctk": """#!/bin/sh
# STAND-IN for tests, not nvidia-ctk: it prints a CDI spec, or writes one where it is told to.
spec='cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ndevices:\n- name: "generated"\n'
case "$1" in
--format=json) printf '{"cdiVersion": "0.3.0", "kind": "nvidia.com/gpu", "devices": [{"name": "generated"}]}' ;;
?*) printf "$spec" >"$1" ;;
*) printf "$spec" ;;
esac
""",
    "apt-get": """#!/bin/sh
# STAND-IN for tests, not apt-get: one package, whose script writes config.toml anew.
case " $* " in
*" -s install "*) echo "Inst nvidia-container-toolkit (1.17.8-1 here [amd64])" ;;
*" -s purge "*) echo "Purg nvidia-container-toolkit [1.17.8-1]" ;;
*" install "*) echo 1.17.8-1 >@ROOT@/installed; echo of the package >@ROOT@/etc/config.toml ;;
*" purge "*) rm -f @ROOT@/installed ;;
*) exit 1 ;;
esac
""",
    "dpkg-query": """#!/bin/sh
# STAND-IN for tests, not dpkg-query.
for name; do :; done
[ "$name" = nvidia-container-toolkit ] && [ -f @ROOT@/installed ] || exit 1
printf 'ii \\t%s\\n' "$(cat @ROOT@/installed)"
""",
}
UNIT = "[Service]\nExecStart=/usr/bin/docker run --rm --name edge docker:dind\n"
BEFORE: Tree = {
    "etc": None,
    "etc/edited.toml": ["644", "# keep this\nold = true\n"],
    "etc/cdi": None,
    "etc/cdi/old.yaml": ["644", SPEC.format(name="old")],
    "etc/cdi/strict.yaml": ["600", SPEC.format(name="strict")],
    "etc/cdi/generated.yaml": ["600", SPEC.format(name="before")],
    "etc/cdi/triggered.yaml": ["644", SPEC.format(name="before")],
    "etc/edge.service": ["640", UNIT],
    "etc/config.toml": ["640", "# of its owner\n"],
    **{f"bin/{name}": ["755", text] for name, text in STANDINS.items()},
}
# What a stand-in writes of itself: no file of the host.
OURS = ("var/lib/gpumend", "told", "gpumend.lock", "gpumend.watch", "bin")


def entries(root: Path) -> Tree:
    """The whole tree below a root, its own path taken out of the texts."""
    found: Tree = {}
    for directory, directories, names in os.walk(root):
        for name in sorted(directories + names):
            path = Path(directory, name)
            at = str(path.relative_to(root))
            if path.is_dir():
                found[at] = None
            else:
                found[at] = [f"{path.stat().st_mode & 0o7777:o}", path.read_text().replace(str(root), ROOT)]
    return dict(sorted(found.items()))


def host(tree: Mapping[str, Any]) -> Tree:
    """What of a tree is the host's: neither the runs nor what stand-ins note."""
    return {
        path: entry
        for path, entry in tree.items()
        if not path.startswith(OURS) and path != "var" and path != "var/lib"
    }


def lay_out(tree: Mapping[str, Any], root: Path) -> None:
    """The tree is there, below a root that is empty."""
    for path, entry in sorted(tree.items()):
        target = root / path
        if entry is None:
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(entry[1].replace(ROOT, str(root)))
            target.chmod(int(entry[0], 8))


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """What makes one tree of another."""
    new = {path: entry for path, entry in after.items() if path not in before or before[path] != entry}
    return {"new": new, "gone": sorted(set(before) - set(after))}


def changed(before: Mapping[str, Any], change: Mapping[str, Any]) -> Tree:
    return {path: entry for path, entry in {**before, **change["new"]}.items() if path not in change["gone"]}


@functools.cache
def compiled(source: str) -> types.CodeType:
    return compile(source, "program", "exec")


def program(source: str, root: Path, programs: Path) -> types.ModuleType:
    """The program as on a host, its own directory and lock below a root; stand-ins come first in root's PATH."""
    module = types.ModuleType("program")
    exec(compiled(source), module.__dict__)
    for group in list(module.NOT_YET):  # what tests put in another's place is not to be replaced later
        module.function_of(group, "NOT_YET")
    module.__dict__.update(
        ROOT=f"{root}/var/lib/gpumend",
        LOCK=f"{root}/gpumend.lock",
        WATCH=f"{root}/gpumend.watch",
        PATH=f"{programs}:{module.PATH}",
        systemd=lambda: True,
        shims=dict,  # this machine's own are none of the tree's
    )
    return module


ASKING = {"show", "is-active", "reset-failed", "dpkg-query", "journalctl", "plugins", "-s"}


def killed_at(number: int, module: types.ModuleType) -> None:
    """This process ends, as by kill -9, before its step of that number: a call that changes the file system, or a command
    that does more than ask."""
    count = 0

    def step(name: str, arguments: Any) -> None:
        nonlocal count
        if name == "run" and ASKING & set(arguments[0]):
            return
        if name != "rename" and module.ROOT in repr(
            arguments
        ):  # the rest of its own directory decides nothing
            return
        count += 1
        if count == number:
            os.write(2, f"{name} {arguments!r}".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def wrap(place: Any, name: str) -> None:
        real = getattr(place, name)

        def wrapped(*arguments: Any, **named: Any) -> Any:
            step(name, (*arguments, *named.values()))
            return real(*arguments, **named)

        setattr(place, name, wrapped)

    for name in ("mkdir", "rmdir", "chmod", "link", "rename", "unlink"):
        wrap(os, name)
    wrap(tempfile, "mkstemp")
    wrap(tempfile, "mkdtemp")
    wrap(module, "run")


def carried_out(
    module: types.ModuleType, wanted: Mapping[str, Any], number: int = 0
) -> tuple[dict[str, Any] | None, str]:
    """(its answer, None where it was killed; before which step) of a transaction in a process of its own."""
    with tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            try:
                os.dup2(said.fileno(), 2)
                os.fsync = lambda handle: None  # nobody here loses power
                killed_at(number, module)
                answer.write(json.dumps(module.transact(wanted)).encode())
                answer.flush()
            finally:
                os._exit(0)
        _, status = os.waitpid(child, 0)
        answer.seek(0)
        said.seek(0)
        text = answer.read().decode()
        if os.WIFSIGNALED(status):
            return None, said.read().decode()
        assert text, said.read().decode()
        return json.loads(text), ""


def sha(root: Path, path: str) -> str:
    return hashlib.sha256((root / path).read_bytes()).hexdigest()


def common(component: str) -> dict[str, Any]:
    """What each transaction has."""
    return {
        "verb": "apply", "run": RUN, "who": "ops@controller", "component": component, "restarts": "allow", "watch": 0,
        "steps": [], "service": None, "validate": [], "tree": [], "expect": [], "proofs": [], "inner": [],
        "must_restart": False, "journals": [], "settle": [["true"]], "package_wait": 1,
    }  # fmt: skip


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
