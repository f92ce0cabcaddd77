"""Texts that would take a parser down with the whole run, or hold it for hours: refused before it sees them.

What lies on a host is nobody's word: one file of one host must not end the run of the others.
"""

from __future__ import annotations

from gpumend.text.pattern import Pattern

# tomllib takes the square of a dotted key's parts (3.11 tomllib/_parser.py, Flags): 20,000 are 14 s. tomlkit stops here, too.
MAX_KEY_PARTS = 100
DOTTED = Pattern(r"(?<![\w-])(?:(?:[\w-]+|\"[^\"\n]*\"|'[^'\n]*')[ \t]*\.[ \t]*){" + str(MAX_KEY_PARTS) + "}")


def check_toml(text: str) -> None:
    """Raises ValueError for a dotted key of more than 100 parts."""
    if text.count(".") >= MAX_KEY_PARTS and DOTTED.search(text):
        raise ValueError(f"a key of more than {MAX_KEY_PARTS} parts")
