"""A plan that somebody approved: the JSON report of an audit, whose digests say what may be changed."""

from __future__ import annotations

import json
from pathlib import Path

import click


def read(file: str) -> dict[str, dict[str, str]]:
    """The digests of what may be changed, by host and component. Raises click.UsageError."""
    try:
        document = json.loads(Path(file).expanduser().read_text("utf-8"))
        if document["kind"] != "audit":
            raise click.UsageError(
                f"--plan {file}: a report of {document['kind']}; `gpumend plan --out FILE` makes one"
            )
        found = {
            name: {part["component"]: part["digest"] for part in host["plan"]}
            for name, host in document["hosts"].items()
        }
    except OSError as error:
        raise click.UsageError(f"--plan {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise click.UsageError(f"--plan {file}: no plan; `gpumend plan --out FILE` makes one") from None
    return {name: parts for name, parts in found.items() if parts}
