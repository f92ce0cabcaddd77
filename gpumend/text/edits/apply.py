"""The new bytes that a list of edits gives."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import lru_cache

from gpumend.text.edits import json_text, toml_lines
from gpumend.text.edits.edit import Edit, EditError, JsonValue
from gpumend.text.limits import check_toml

# Bytes of a TOML file that is edited. tomlkit takes 15 s for a whole 1 MiB, longer where it is all tables, and a run waits
# for each host's; the files that are edited here have 2 to 20 KiB.
LARGEST_TOML = 1 << 16


def apply(path: str, before: bytes | None, edits: Iterable[Edit]) -> bytes:
    """The file's bytes with the edits made; `before` is None where there is no file yet.

    Unchanged values change nothing: the very bytes come back. Raises EditError where the file is not valid, is not
    UTF-8, or would not come back byte for byte outside the values that are set.
    """
    if path.endswith(".toml"):
        # tomlkit is 4 MB and loaded where a TOML file is edited by it: an audit edits none
        from gpumend.text.edits import toml_text

        return _edited(path, before, edits, toml_text.set_value, toml=True)
    return _edited(path, before, edits, json_text.set_value, toml=False)


def apply_lines(path: str, before: bytes | None, edits: Iterable[Edit]) -> bytes:
    """As `apply` for a TOML file, by its lines (gpumend/text/edits/toml_lines.py). Raises EditError."""
    return _edited(path, before, edits, toml_lines.set_value, toml=True)


SetValue = Callable[[str, tuple[str, ...], JsonValue], str]


@lru_cache(maxsize=128)  # a fleet has mostly the same files, and of tomlkit's time one takes 4 ms
def _set(set_value: SetValue, text: str, keys: tuple[str, ...], value: str) -> str:
    """The text with one value, given as JSON."""
    return set_value(text, keys, json.loads(value))


def _edited(path: str, before: bytes | None, edits: Iterable[Edit], set_value: SetValue, toml: bool) -> bytes:
    try:
        text = (before or b"").decode("utf-8")
        if toml and len(text) > LARGEST_TOML:
            raise EditError(f"larger than {LARGEST_TOML >> 10} KiB")
        if toml:
            check_toml(text)
        for edit in edits:
            if toml:
                text = _set(set_value, text, edit.keys, json.dumps(edit.value))
            else:
                text = set_value(text, edit.keys, edit.value)
        return text.encode("utf-8")
    except UnicodeDecodeError as error:
        raise EditError(f"{path}: not UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise EditError(f"{path}: {error}") from None
    except RecursionError:
        raise EditError(f"{path}: nested too deep") from None
