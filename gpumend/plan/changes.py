"""What a builder asks of the changes that it puts into one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Optional, TypeVar

from gpumend.plan.step import WriteFile
from gpumend.rules.finding import Change
from gpumend.state.snapshot import FileContent
from gpumend.text.edits import Edit, apply

Kind = TypeVar("Kind")
Apply = Callable[[str, Optional[bytes], Iterable[Edit]], bytes]


def of_kind(changes: Sequence[Change], kind: type[Kind]) -> list[Kind]:
    """The actions of one kind, each once, in their order."""
    return list(dict.fromkeys(change.action for change in changes if isinstance(change.action, kind)))


def edits_of(changes: Sequence[Change]) -> list[Edit]:
    return [edit for change in changes for edit in change.edits]


def edited(
    path: str, content: FileContent | None, edits: list[Edit], applied: Apply = apply
) -> tuple[WriteFile, ...]:
    """The step that gives the edited bytes; none where they are the old ones. Raises EditError."""
    was = content.data if content else None
    data = applied(path, was, edits)
    return () if data == was else (WriteFile.over(path, content, data),)
