"""What Python 3.9 and 3.10 lack of 3.11's standard library: an agent runs with the Python that its host has."""

from __future__ import annotations

import sys
from enum import Enum

if sys.version_info >= (3, 11):
    from enum import StrEnum as StrEnum

    import tomllib as tomllib
else:
    import tomli as tomllib

    class StrEnum(str, Enum):
        """As enum.StrEnum, for members whose values are given."""

        __str__ = str.__str__
        __format__ = str.__format__


__all__ = ["StrEnum", "tomllib"]
