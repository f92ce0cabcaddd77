"""Texts of configuration files as data. A fleet's hosts have mostly the same files: each text is parsed once a run."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gpumend.text.backports import tomllib
from gpumend.text.limits import check_toml


@lru_cache(maxsize=256)
def toml(text: str) -> Mapping[str, Any]:
    """The text as TOML; raises ValueError (tomllib.TOMLDecodeError where it is none), or RecursionError where it is
    nested too deep.

    Every caller with the same text is given the same object: it is for reading, and who wants to change it copies it.
    """
    check_toml(text)
    return tomllib.loads(text)
