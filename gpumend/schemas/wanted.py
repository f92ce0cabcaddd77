"""The host data key `gpumend`, checked against its schema before anything connects."""

from __future__ import annotations

import datetime
from typing import Any

from gpumend.schemas import load


class WantedError(ValueError):
    """The wanted state is not valid. The text names the path, what stands there and what is allowed."""


def _explain(error: Any) -> str:
    """One schema error as `gpumend.runtime.mode: 'cdii' is not allowed; allowed: ...`."""
    path = "gpumend" + "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path
    )
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", ()))
        unknown = sorted(set(error.instance) - set(allowed))
        return f"{path}: unknown key {', '.join(map(repr, unknown))}; allowed: {', '.join(allowed)}"
    if error.validator == "enum":
        values = ", ".join(repr(value) for value in error.validator_value)
        return f"{path}: {error.instance!r} is not allowed; allowed: {values}"
    if error.validator == "type":
        return f"{path}: {error.instance!r} is not of type {error.validator_value}"
    if error.validator == "required":
        return f"{path}: {error.message}"
    if error.validator == "oneOf":
        inner = [_explain(found) for found in error.context if found.validator == "enum"]  # of a list's items
        if inner:
            return "\n".join(inner)
        return f"{path}: {error.instance!r} is not allowed; {error.schema.get('description', error.message)}"
    return f"{path}: {error.message}"


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
            raise WantedError(f"gpumend.waivers[{number}].until: {waiver['until']!r}: {error}") from None
