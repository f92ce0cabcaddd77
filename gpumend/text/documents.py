"""Texts of configuration files as data. A fleet's hosts have mostly the same files: each text is parsed once a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from gpumend.text import plain_toml
from gpumend.text.backports import tomllib
from gpumend.text.limits import check_toml
from gpumend.text.shared import shared

T = TypeVar("T")


@shared(256)
def toml(text: str) -> Mapping[str, Any]:
    """The text as TOML; raises ValueError (tomllib.TOMLDecodeError where it is none), or RecursionError where it is
    nested too deep.

    Every caller with the same text is given the same object: it is for reading, and who wants to change it copies it.
    """
    check_toml(text)
    found = plain_toml.read(text)
    return tomllib.loads(text) if found is None else found


def copied(value: T) -> T:
    """A document with tables and lists of its own, which may be changed. copy.deepcopy does the same in ten times the time."""
    found: Any = value
    if isinstance(value, dict):
        found = {key: copied(item) for key, item in value.items()}
    elif isinstance(value, list):
        found = [copied(item) for item in value]
    return found  # type: ignore[no-any-return]
