"""What a transaction would change in files, as people read it."""

from __future__ import annotations

import difflib

from gpumend.plan.step import Step, WriteFile
from gpumend.text.mask import mask


def lines_of(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "replace").splitlines()


def diff(step: Step) -> str:
    """A masked unified diff of a step that sets bytes; one line in words for every other kind."""
    if not isinstance(step, WriteFile):
        return step.describe()
    rows = difflib.unified_diff(
        lines_of(step.was),
        lines_of(step.data),
        f"{step.path} (now)" if step.was is not None else "/dev/null",
        f"{step.path} (wanted)",
        lineterm="",
    )
    return mask("\n".join(rows))
