"""HostState as JSON: what `gpumend facts` prints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpumend.deploy import session
from gpumend.reports.document import Exit, envelope, worst
from gpumend.run import record as run
from gpumend.state.compose_files import Project
from gpumend.state.reading import Reading
from gpumend.state.snapshot import FileContent
from gpumend.text.mask import DEEP, MOST_LEVELS

if TYPE_CHECKING:
    from pyinfra.api.state import State


def as_json(value: Any, depth: int = 0) -> Any:
    """A part of HostState as JSON. A reading shows its value, or how it failed; a file shows its hash, not its bytes."""
    if depth > MOST_LEVELS:
        return DEEP
    if isinstance(value, Reading):
        if value.ok:
            return as_json(value.value, depth + 1)
        return (
            None
            if value.absent
            else {"unread": str(value.status), "source": value.source, "detail": value.detail}
        )
    if isinstance(value, FileContent):
        return {"path": value.path, "sha256": value.sha256, "mode": f"{value.meta.mode:04o}"}
    if isinstance(value, bytes):
        return {"sha256": hashlib.sha256(value).hexdigest(), "bytes": len(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):  # a record
        told = ((name, item) for name, item in value._asdict().items() if not isinstance(item, Project))
        return {name: as_json(item, depth + 1) for name, item in told}
    if isinstance(value, Mapping):
        return {str(key): as_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [as_json(item, depth + 1) for item in value]
    return value


def hosts_of(this: run.Run) -> dict[str, Any]:
    """Every host's part of the document."""
    return {
        name: as_json(record.now.context.state) if record.now else {"error": record.error}
        for name, record in sorted(this.records.items())
    }


def finish(state: State) -> Exit:
    """Write the facts of every host where `--data report=` wants them. 1 where a host gave none."""
    this = run.current(state.inventory)
    session.unreached(state, this)
    status = worst(Exit.OK if record.now else Exit.UNREAD for record in this.records.values())
    return session.write(state, envelope(this, "facts", status, hosts_of(this)), status)
