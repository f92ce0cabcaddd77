"""docs/sources.md's table of rules, made from the rules: `python -m gpumend.rules.sources` writes it.

Which repository a short name stands for is read from the same document.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from gpumend.rules import judge  # noqa: F401 - registers every rule
from gpumend.rules.rule import RULES

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "sources.md"
HEADING = "| code | what is true when all is well | source |\n| --- | --- | --- |\n"
# `nct#830`, `nct PR#812`, `NVIDIA/enroot#106`; `PR#812` and `#813` behind one of these are of the same repository
NUMBER = re.compile(
    r"(?:(?P<repository>(?!PR ?#)[A-Za-z][\w.-]*(?:/[\w.-]+)?)(?P<pull> PR ?)?|(?<=, )(?P<bare>PR ?)?)#(?P<number>\d+)"
)


def repositories(document: str) -> dict[str, str]:
    """What the document's short names stand for: `nct` -> `NVIDIA/nvidia-container-toolkit`."""
    rows = re.findall(r"(?m)^\| ([\w., -]+) \| ([\w.-]+/[\w.-]+)", document)
    return {short: repository for shorts, repository in rows for short in shorts.split(", ")}


def linked(source: str, known: Mapping[str, str]) -> str:
    """A rule's source with each issue and pull request of a known repository as a link."""
    repository, kind = "", "issues"

    def link(found: re.Match[str]) -> str:
        nonlocal repository, kind
        if name := found["repository"]:
            repository = name if "/" in name else known.get(name, "")
            kind = "pull" if found["pull"] else "issues"
        elif found["bare"]:
            kind = "pull"
        if not repository:
            return found[0]
        return f"[{found[0]}](https://github.com/{repository}/{kind}/{found['number']})"

    return NUMBER.sub(link, source)


def with_table(document: str) -> str:
    """The document with its table of rules as the rules are now."""
    known = repositories(document)
    rows = (
        f"| {code} | {rule.title} | {linked(rule.source, known)} |\n" for code, rule in sorted(RULES.items())
    )
    return document[: document.index("| code |")] + HEADING + "".join(rows)


def main() -> None:
    """docs/sources.md has the table as the rules are now."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = with_table(before)
    if after != before:
        DOCUMENT.write_text(after, encoding="utf-8")
    sys.stderr.write(f"{DOCUMENT.name}: {len(RULES)} rules{'' if after != before else ', as it was'}\n")


if __name__ == "__main__":
    main()
