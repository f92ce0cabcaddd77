"""The host data key `gpumend`, checked against its schema before anything connects."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable
from typing import Any

from gpumend.schemas import load


class WantedError(ValueError):
    """The wanted state is not valid. The text names the path, what stands there and what is allowed."""


def meant(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'this'?` where the word is nearly a known one; else nothing."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {near[0]!r}?" if near else ""


def not_json(text: str) -> str:
    """What to say of a wanted state on a command line that is no JSON."""
    return "not JSON: use double quotes" if "'" in text or '"' not in text else "not JSON"


def _explain(error: Any) -> str:
    """One schema error as `gpumend.runtime.mode: 'cdii' is not allowed; allowed: ...`."""
    path = "gpumend" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path
    )
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", ()))
        unknown = sorted(set(error.instance) - set(allowed))
        guess = meant(unknown[0], allowed) if len(unknown) == 1 else ""
        return f"{path}: unknown key {', '.join(map(repr, unknown))}{guess}; allowed: {', '.join(allowed)}"
    if error.validator == "enum":
        values = ", ".join(repr(value) for value in error.validator_value)
        return f"{path}: {error.instance!r} is not allowed; allowed: {values}"
    if isinstance(error.instance, datetime.date):
        return f'{path}: write it as text: "{error.instance.isoformat()}"'
    if _is_number(error.instance) and _takes_text(error):
        return f'{path}: write it as text: "{error.instance}"'
    if error.validator == "pattern" and path.endswith(".until"):
        return f"{path}: {error.instance!r} must be a date, as 2027-03-31"
    if error.validator == "type":
        return f"{path}: {error.instance!r} is not of type {error.validator_value}"
    if error.validator == "required":
        return f"{path}: {error.message}"
    if error.validator == "oneOf":
        items = [found for found in error.context if len(found.path) > 0]  # of a list's items
        inner = [
            _explain(found) for found in items if found.validator == "enum" or _is_number(found.instance)
        ]
        if inner:
            return "\n".join(inner)
        return f"{path}: {error.instance!r} is not allowed; {error.schema.get('description', error.message)}"
    return f"{path}: {error.message}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _takes_text(error: Any) -> bool:
    """Whether a text would have been allowed where this error is."""
    if error.validator == "type":
        return "string" in ([kinds] if isinstance(kinds := error.validator_value, str) else kinds)
    if error.validator == "oneOf":
        return any(
            choice.get("type") == "string" and "enum" not in choice for choice in error.validator_value
        )
    return False


def check(raw: Any) -> None:
    """Raises WantedError for an unknown key, a wrong type or value, or a date that is none."""
    # Takes 60 ms and compiled packages: who judges a host on the host itself has neither.
    from jsonschema import Draft202012Validator

    errors = sorted(
        Draft202012Validator(load("wanted")).iter_errors(raw),
        key=lambda error: list(map(str, error.path)),
    )
    if errors:
        raise WantedError("\n".join(_explain(error) for error in errors))
    if raw.get("toolkit", {}).get("version") == "1.18.0":
        raise WantedError(
            "gpumend.toolkit.version: '1.18.0' is not allowed: it cannot generate CDI specs in mode cdi (nct#1376); "
            "allowed: any other, as '1.17.8' or '1.18.1'"
        )
    for number, waiver in enumerate(raw.get("waivers", ())):
        try:
            datetime.date.fromisoformat(waiver["until"])
        except ValueError as error:
            raise WantedError(
                f"gpumend.waivers[{number}].until: {waiver['until']!r} must be a date, as 2027-03-31: {error}"
            ) from None
