"""What a transaction would change in files, as people read it."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import Counter
from collections.abc import Iterator

from gpumend.plan.step import EditFile, Step, WriteFile
from gpumend.text.mask import mask
from gpumend.text.secrets import hidden, secrets_of

# difflib takes more than the square of what it compares (a crafted daemon.json: over a minute): lines between the first that
# differs and the last, on either side.
MOST = 1000
SHOWN = 400  # rows
WIDE = 1000  # characters a row
CONTEXT = 3


def lines_of(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "replace").splitlines()


def diff(step: Step) -> str:
    """A masked unified diff of a step that sets bytes; one line in words for every other kind. Long ones are cut, and what
    could not be compared line by line in time is told as lines that go and lines that come."""
    if not isinstance(step, (WriteFile, EditFile)):
        return step.describe()
    if isinstance(step, WriteFile) and b"\0" in step.data:  # a keyring
        return f"{step.path} is written: {len(step.data)} bytes that are no text, SHA-256 {hashlib.sha256(step.data).hexdigest()}"
    return diff_of(step.path, step.was, step.data if isinstance(step, WriteFile) else step.now)


def diff_of(path: str, was: bytes | None, data: bytes) -> str:
    """A masked unified diff of a file."""
    before, after = lines_of(was), lines_of(data)
    names = (f"{path} (now)" if was is not None else "/dev/null", f"{path} (wanted)")
    secrets = secrets_of("\n".join(before)) | secrets_of("\n".join(after))
    rows = mask(hidden("\n".join(compared(before, after, *names)), secrets)).split("\n")
    more = [f"... and {len(rows) - SHOWN} rows more"] if len(rows) > SHOWN else []
    return "\n".join((*map(cut, rows[:SHOWN]), *more))


def cut(row: str) -> str:
    return row if len(row) <= WIDE else f"{row[:WIDE]}... and {len(row) - WIDE} characters more"


def compared(before: list[str], after: list[str], old: str, new: str) -> Iterator[str]:
    """The rows of a unified diff, in time that is in proportion to the files."""
    first, last = 0, 0  # lines that are alike at either end
    least = min(len(before), len(after))
    while first < least and before[first] == after[first]:
        first += 1
    while last < least - first and before[-1 - last] == after[-1 - last]:
        last += 1
    start, end = max(first - CONTEXT, 0), max(last - CONTEXT, 0)
    mine, theirs = before[start : len(before) - end], after[start : len(after) - end]
    if max(len(mine), len(theirs)) <= MOST:
        yield from (moved(row, start) for row in difflib.unified_diff(mine, theirs, old, new, lineterm=""))
        return
    gone, come = Counter(mine), Counter(theirs)
    yield from (f"--- {old}", f"+++ {new}", "@@ too long to be compared line by line @@")
    yield from (f"-{row}" for row in (gone - come).elements())
    yield from (f"+{row}" for row in (come - gone).elements())


def moved(row: str, by: int) -> str:
    """A row of a diff that began at a later line: its hunk says where it is in the whole file."""
    if not row.startswith("@@ "):
        return row
    return re.sub(r"([-+])(\d+)", lambda found: f"{found.group(1)}{int(found.group(2)) + by}", row, count=2)
