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
    "probe.processes",
    "probe.docker",
    "probe.systemd",
    "cuda",
    "probe.builds",
    "probe.compose",
    "probe.containers",
    "allocations",
    "probe.allocations",
    "probe.look",
)
CHANGE = (
    "change.files",
    "change.journal",
    "change.packaging",
    "change.engine",
    "change.inner",
    "change.trial",
    "change.services",
    "change.crio_daemon",
    "change.step",
    "change.spec_text",
    "change.file_steps",
    "change.storage_steps",
    "change.package_steps",
    "change.repository_steps",
    "change.cuda_steps",
    "change.unfinished",
    "change.json_spans",
    "change.allocation_steps",
    "change.kinds",
    "change.undo",
    "change.transaction",
    "change.program",
)
# Their texts go along, so the imports that they have of each other do not.
OWN_IMPORT = re.compile(r"^from gpumend\.payload[\w.]* import (?:\([^)]*\)|.*)\n", re.MULTILINE)


def _text(modules: tuple[str, ...]) -> str:
    """The modules' source texts, one below the other, as one program without a call. Raises UnicodeDecodeError where one
    is not ASCII: what a host's locale is does not matter then."""
    paths = (f"{name.replace('.', '/')}.py" for name in modules)
    texts = ((pkgutil.get_data("gpumend.payload", path) or b"").decode("ascii") for path in paths)
    return "\n".join(OWN_IMPORT.sub("", text) for text in texts)


@cache
def probe_source() -> str:
    """The program that reads a host."""
    return _text(PROBE)


@cache
def change_source() -> str:
    """The probe, and below it what changes things."""
    return _text((*PROBE, *CHANGE))
