"""Secrets are masked in everything that leaves the program: diffs, reports, logs."""

from __future__ import annotations

import re
from typing import Any

MASK = "********"
# Texts come from hosts, and a run waits for each: no pattern may take more time than in proportion to the text. (Two that began
# with a repetition took 11 s for 20 KB.)
# user:password@ in a URL (RFC 3986 userinfo), up to the last @ before the path: people write passwords with an @ as they are
URL = re.compile(r"://[^/\s\"']+@")
WORDS = (
    r"(?:password|passwd|passphrase|passcode|pwd\b|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|account[_-]?key|\bauth\b)"
)
SECRET_KEY = re.compile(WORDS, re.IGNORECASE)
# a key that names a secret, and its value: JSON, TOML, YAML, env and flag spelling
NAMED = re.compile(
    rf"(?i)(?P<key>(?<![\w.-])(?=[\w.-]*?{WORDS})[\w.-]+[\"']?\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|\[[^\]]{0,2000}\]|[^\s,}\]]+)"
)
# A key that begins its line, as in YAML, INI and unit files: its value goes to the line's end, spaces and all.
LINE = re.compile(
    rf"(?im)^(?P<key>[ \t+-]*(?=[\w.-]*?{WORDS})[\w.-]+[ \t]*[:=][ \t]*)(?P<value>[^\s\"'\[{{][^\n]*)$"
)
HEADER = re.compile(
    r"(?i)\b(?P<key>(?:proxy-)?authorization[\"']?[ \t]*[:=][ \t]*)(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\n]+)"
)
PRIVATE = re.compile(r"(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[^-]*")
BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


# What a host could do to a terminal or a log: control characters other than tab and newline, separators that some take
# for a line's end, marks that turn the direction of what follows (CVE-2021-42574); and halves of characters, which no
# encoding has: so Python reads file names that are not UTF-8 (PEP 383).
UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with what no terminal should be sent spelt out: an escape becomes `\\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def _named(match: re.Match[str]) -> str:
    value = match.group("value")
    quote = value[0] if value[:1] in "\"'" else ""
    return f"{match.group('key')}{quote}{MASK}{quote}"


def mask(text: str) -> str:
    """The text without passwords in URLs, values of keys that name a secret, and authorization headers; printable."""
    text = printable(text)
    if "://" in text:
        text = URL.sub(f"://{MASK}@", text)
    if "-----BEGIN " in text:
        text = PRIVATE.sub(rf"\1{MASK}", text)
    text = HEADER.sub(_named, text)
    text = BEARER.sub(lambda match: f"{match.group(1)} {MASK}", text)
    text = LINE.sub(_named, text)
    return NAMED.sub(_named, text) if ":" in text or "=" in text else text


def mask_all(value: Any, secret: bool = False) -> Any:
    """Every string of a JSON value, masked; and what stands under a key that names a secret (`secret`): a text, a number,
    a list of them. Not a whole object: a host may be called token1."""
    if isinstance(value, dict):
        return {
            printable(str(key)): mask_all(item, bool(SECRET_KEY.search(str(key))))
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [mask_all(item, secret) for item in value]
    if isinstance(value, bool) or value in (None, ""):
        return value
    return MASK if secret else mask(value) if isinstance(value, str) else value
