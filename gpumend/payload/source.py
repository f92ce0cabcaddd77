"""What the programs sent to hosts are made of: the one list of their modules, and their text put together."""

from __future__ import annotations

import pkgutil
import re
from functools import cache

# Each after those whose names it needs at once. The first is only what the program says of itself, which heads its text.
PROBE = (
    "probe.__init__",
    "probe.files",
    "probe.reader",
    "probe.execution",
    "probe.http",
    "probe.bus",
    "probe.fence",
    "probe.running",
    "probe.processes",
    "probe.planned",
    "probe.docker",
    "probe.systemd",
    "cuda",
    "probe.projects",
    "probe.builds",
    "probe.compose",
    "probe.containers",
    "allocations",
    "probe.allocations",
    "probe.look",
)
CHANGE = (
    "driver",
    "change.files",
    "change.journal",
    "change.managers",
    "change.progress",
    "change.package_locks",
    "change.apt",
    "change.dnf",
    "change.zypper",
    "change.toolkit_version",
    "change.packaging",
    "change.package_proofs",
    "change.hooks",
    "change.engine",
    "change.inner",
    "change.trial",
    "change.services",
    "change.crio_daemon",
    "change.gpu_use",
    "change.step",
    "change.spec_text",
    "change.file_steps",
    "change.storage_steps",
    "change.package_steps",
    "change.repository_steps",
    "change.cuda_steps",
    "change.driver_choice",
    "change.driver_steps",
    "change.package_kinds",
    "change.unfinished",
    "change.json_spans",
    "change.allocation_steps",
    "change.kinds",
    "change.evidence",
    "change.watched",
    "change.undo",
    "change.reboot",
    "change.watch",
    "change.recover",
    "change.transaction",
    "change.program",
)
# What most programs on most hosts have no use for is compiled when one of a group's functions is called for the first time, all of
# the group at once: of the 73 ms that a change would compile it is 29. Nothing else of a group may be named outside of it
# (tests/scripts/test_program.py), and one thread at a time calls its functions.
LATER: dict[str, dict[str, tuple[str, ...]]] = {
    "projects": {"probe.builds": (), "probe.compose": ("compose_project",)},
    "allocations": {
        "allocations": (),
        "probe.allocations": ("ledger",),
        "change.json_spans": (),
        "change.allocation_steps": ("allocation_kinds",),
    },
    "packages": {
        "driver": (),
        "change.package_locks": (),
        "change.apt": (),
        "change.dnf": (),
        "change.zypper": (),
        "change.packaging": (),
        "change.package_proofs": (),
        "change.hooks": (),
        "change.package_steps": (),
        "change.repository_steps": (),
        "change.cuda_steps": (),
        "change.driver_choice": (),
        "change.driver_steps": (),
        "change.package_kinds": ("package_kinds",),
        "change.unfinished": ("finish",),
        "change.reboot": ("reboot",),
    },
}
LATER_HEAD = """NOT_YET = {}


def function_of(group, name):
    for path, text in NOT_YET.pop(group, ()):
        exec(compile(text, path, 'exec'), globals())
    return globals()[name]


"""
LATER_STUB = """def {name}(*arguments):
    return function_of({group!r}, {name!r})(*arguments)


"""
# Only where a desired state names a site's allocations.
LEDGER = ("allocations", "probe.allocations")
# Their texts go along, so the imports that they have of each other do not.
OWN_IMPORT = re.compile(r"^from gpumend\.payload[\w.]* import (?:\([^)]*\)|.*)\n", re.MULTILINE)


HINTS = re.compile(r"^from typing import (\([^)]*\)|.*)\n", re.MULTILINE)
# Hints of types say nothing on a host, where to import `typing` costs 3 ms of CPU time.
HINT = """class TypeHint:
    def __getitem__(self, _):
        return self


%s = TypeHint()
"""


def _texts(modules: tuple[str, ...]) -> dict[str, str]:
    """The modules' source texts by their paths. Raises UnicodeDecodeError where one is not ASCII: what a host's locale is does
    not matter then."""
    paths = {name: f"{name.replace('.', '/')}.py" for name in modules}
    found = {
        path: (pkgutil.get_data("gpumend.payload", path) or b"").decode("ascii") for path in paths.values()
    }
    return {path: OWN_IMPORT.sub("", text) for path, text in found.items()}


def _program(modules: tuple[str, ...]) -> str:
    """The modules as one program without a call. Each text is compiled by itself: of one large text Python holds everything at
    once, and to be given so much memory costs a third of the time. What is a hint of a type alone is not imported."""
    names: set[str] = set()
    parts = []
    for path, text in _texts(modules).items():
        for listed in HINTS.findall(text):
            names.update(re.findall(r"\w+", listed))
        if "'''" in text:
            raise ValueError(f"{path} has three quotes, which end it in the program")
        quoted = f"r'''{HINTS.sub('', text)}'''"
        module = path[:-3].replace("/", ".")
        group = next((name for name, members in LATER.items() if module in members), None)
        if group is None:
            parts.append(f"exec(compile({quoted}, {path!r}, 'exec'))\n")
        else:
            parts.append(f"NOT_YET.setdefault({group!r}, []).append(({path!r}, {quoted}))\n")
            parts.extend(LATER_STUB.format(group=group, name=name) for name in LATER[group][module])
    return HINT % " = ".join(sorted(names)) + LATER_HEAD + "".join(parts)


@cache
def probe_source(ledger: bool = True) -> str:
    """The program that reads a host. ledger: whether a site's allocations, too."""
    return _program(PROBE if ledger else tuple(name for name in PROBE if name not in LEDGER))


@cache
def change_source() -> str:
    """The probe, and below it what changes things."""
    return _program((*PROBE, *CHANGE))


def probe_text() -> str:
    """The same as one text, hints and all: what is looked at where nothing is run."""
    return "\n".join(_texts(PROBE).values())


def change_text() -> str:
    return "\n".join(_texts((*PROBE, *CHANGE)).values())
