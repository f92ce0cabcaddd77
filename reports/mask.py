"""Secrets are masked in everything that leaves the program: diffs, reports, logs."""

from __future__ import annotations

import re
from typing import Any

MASK = "********"
# user:password@ in a URL (RFC 3986 userinfo)
URL = re.compile(r"(?P<scheme>[a-zA-Z][a-zA-Z0-9+.-]*://)(?P<userinfo>[^/@\s\"']+)@")
WORDS = r"(?:password|passwd|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key|\bauth\b)"
SECRET_KEY = re.compile(WORDS, re.IGNORECASE)
# a key that names a secret, and its value: JSON, TOML, YAML, env and flag spelling
NAMED = re.compile(
    rf"(?i)(?P<key>[\"']?[\w.-]*{WORDS}[\w.-]*[\"']?\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|[^\s,}\]]+)"
)
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


def _named(match: re.Match[str]) -> str:
    value = match.group("value")
    quote = value[0] if value[:1] in "\"'" else ""
    return f"{match.group('key')}{quote}{MASK}{quote}"


def mask(text: str) -> str:
    """The text without passwords in URLs, values of keys that name a secret, and authorization headers."""
    text = URL.sub(lambda match: f"{match.group('scheme')}{MASK}@", text)
    text = BEARER.sub(lambda match: f"{match.group(1)} {MASK}", text)
    return NAMED.sub(_named, text)


def mask_all(value: Any) -> Any:
    """Every string of a JSON value, masked; and whatever stands under a key that names a secret."""
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, list):
        return [mask_all(item) for item in value]
    if isinstance(value, dict):
        return {
            key: MASK if isinstance(item, str) and item and SECRET_KEY.search(str(key)) else mask_all(item)
            for key, item in value.items()
        }
    return value
