"""Many names in few characters: `gpu[01-30]`, as Slurm and ClusterShell write node sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

# The number that counts: the last one before the first dot; of an IPv4 address its last.
NUMBERED = re.compile(r"(\d+\.\d+\.\d+\.|[^.]*?)(\d+)([^.\d]*(?:\..*)?)", re.DOTALL)
SPECIAL = re.compile(r"[\[\],\s]")  # names that hold what the notation uses stay as they are
DIGITS = re.compile(r"(\d+)")


def natural(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key: gpu2 before gpu10."""
    return tuple(
        (part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in DIGITS.split(name) if part
    )


def _runs(numbers: Iterable[str]) -> Iterator[str]:
    """`01`, `02`, `03`, `07` -> `01-03`, `07`: no range holds a number that was not given."""
    first = last = ""
    for number in sorted(set(numbers), key=lambda item: (len(item), int(item))):
        padded = len(number) == len(last) or not first.startswith("0")
        if first and padded and int(number) == int(last) + 1:
            last = number
            continue
        if first:
            yield first if first == last else f"{first}-{last}"
        first = last = number
    if first:
        yield first if first == last else f"{first}-{last}"


def compress(names: Iterable[str]) -> list[str]:
    """The names, those that differ in one number alone as one: `gpu[01-03,07]`, in natural order."""
    series: dict[tuple[str, str], list[str]] = {}
    alone = []
    for name in set(names):
        found = None if SPECIAL.search(name) or not name.isascii() else NUMBERED.fullmatch(name)
        if found and len(found.group(2)) < 19:
            series.setdefault((found.group(1), found.group(3)), []).append(found.group(2))
        else:
            alone.append(name)
    sets = {name: name for name in alone}
    for (before, after), numbers in series.items():
        lowest = min(numbers, key=lambda number: (int(number), len(number)))
        text = ",".join(_runs(numbers))
        sets[f"{before}{lowest}{after}"] = f"{before}{text if text.isdecimal() else f'[{text}]'}{after}"
    return [sets[name] for name in sorted(sets, key=natural)]
