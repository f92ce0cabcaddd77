"""Secrets are masked in everything that leaves the program: diffs, reports, logs."""

from __future__ import annotations

import math
import re
from typing import Any

from gpumend.text.pattern import Pattern
from gpumend.text.shared import shared

MASK = "********"
MOST_TEXT = 100_000  # characters of one text in a document
MOST_LEVELS = 100  # of lists in lists; a report has ten
DEEP = "(nested too deep)"
# Texts come from hosts, and a run waits for each: no pattern may take more time than in proportion to the text. (Two that began
# with a repetition took 11 s for 20 KB.)
# user:password@ in a URL (RFC 3986 userinfo), up to the last @ before the path: people write passwords with an @ as they are
URL = Pattern(r"://[^/\s\"']+@")
WORDS = (
    r"(?:password|passwd|passphrase|passcode|pwd\b|secret|token|credential|api[_-]?key|access[_-]?key|private[_-]?key"
    r"|account[_-]?key|\bauth\b)"
)
SECRET_KEY = Pattern(rf"{WORDS}|^(?:proxy-)?authorization$", re.IGNORECASE)
# a key that names a secret, and its value: JSON, TOML, YAML, env and flag spelling
NAMED = Pattern(
    rf"(?i)(?P<key>(?<![\w.-])(?=[\w.-]*?{WORDS})[\w.-]+[\"']?\s*[:=]\s*)"
    r"(?P<value>\"(?:[^\"\\]|\\.)*\"|'[^']*'|\[[^\]]{0,2000}\]|\{[^{}\n]{0,2000}\}?|[^\s,}\]]+)"
)
# A key that begins its line, as in YAML, INI and unit files: its value goes to the line's end, spaces and all.
LINE = Pattern(
    rf"(?im)^(?P<key>[ \t+-]*(?=[\w.-]*?{WORDS})[\w.-]+[ \t]*[:=][ \t]*)(?P<value>[^\s\"'\[{{][^\n]*)$"
)
HEADER = Pattern(
    r"(?i)\b(?P<key>(?:proxy-)?authorization[\"']?[ \t]*[:=][ \t]*)(?P<value>\"[^\"\n]*\"|'[^'\n]*'|[^\n]+)"
)
# To its end, or that of the text; in a diff each of its lines begins with a mark.
PRIVATE = Pattern(r"(?s)(-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----).*?(?=-----END|\Z)")
# `--token VALUE`: an option that names a secret, and the word after it.
OPTION = Pattern(
    rf"(?i)(?P<key>(?<!\S)--?(?=[\w-]*?{WORDS})[\w-]+[ \t]+)(?P<value>\"[^\"\n]*\"|'[^'\n]*'|(?!-)\S+)"
)
OPTION_NAME = Pattern(rf"(?i)--?(?=[\w-]*?{WORDS})[\w-]+")
# What stands beside such a name in any other way, and is as random as only a secret is: `<password>x</password>`, `token is x`.
BESIDE = Pattern(
    rf"(?i)(?P<key>{WORDS}\w{{0,20}}[^\w\n]{{1,5}}(?:(?:is|was|value)[^\w\n]{{1,5}})?)(?P<value>[\w+/=~.-]{{16,}})"
)
BEARER = Pattern(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}")


# What a host could do to a terminal or a log: control characters other than tab and newline, separators that some take
# for a line's end, marks that turn the direction of what follows (CVE-2021-42574); and halves of characters, which no
# encoding has: so Python reads file names that are not UTF-8 (PEP 383).
UNPRINTABLE = Pattern("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with what no terminal should be sent spelt out: an escape becomes `\\x1b`."""
    if text.isascii() and text.isprintable():
        return text
    return UNPRINTABLE.sub(lambda match: ascii(match.group())[1:-1], text)


def _named(match: re.Match[str]) -> str:
    value = match.group("value")
    quote = value[0] if value[:1] in "\"'" else ""
    return f"{match.group('key')}{quote}{MASK}{quote}"


def entropy(text: str) -> float:
    """Bits a character, by how often each stands in it."""
    counts = [text.count(each) / len(text) for each in set(text)]
    return -sum(share * math.log2(share) for share in counts)


def _random(match: re.Match[str]) -> str:
    """Masked where the value is as random as a key: letters of both cases or hexadecimal, digits among them, no path."""
    value = match.group("value")[:200]
    mixed = bool(re.search(r"\d", value) and re.search(r"[a-z]", value) and re.search(r"[A-Z]", value))
    looks = mixed or re.fullmatch(r"(?=\w*\d)[0-9a-fA-F]{16,}", value)
    if not looks or value.startswith(("/", ".")) or entropy(value) < 3:
        return match.group()
    return f"{match.group('key')}{MASK}"


@shared(4096, 256)  # codes, titles, names of files: of a fleet's report most texts are alike
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
    if ":" in text or "=" in text:
        text = NAMED.sub(_named, text)
    return BESIDE.sub(_random, OPTION.sub(_named, text))


def mask_all(value: Any, secret: bool = False, top: bool = True, depth: int = 0) -> Any:
    """Every string of a JSON value, masked; and all that stands under a key that names a secret (`secret`): texts, numbers,
    whole objects. The keys of a document's own `hosts` (`top`) are names: one may be called token1. What no report has, a host
    may say: texts without end, hundreds of levels, numbers that are none (JSON has no NaN); it stays short, and JSON."""
    if depth > MOST_LEVELS:
        return DEEP
    if isinstance(value, dict):
        found = {}
        for key, item in value.items():
            if top and key == "hosts" and isinstance(item, dict):
                found["hosts"] = {
                    printable(str(name)): mask_all(each, top=False) for name, each in item.items()
                }
            else:
                found[printable(str(key))] = mask_all(
                    item, secret or bool(SECRET_KEY.search(str(key))), False, depth + 1
                )
        return found
    if isinstance(value, (list, tuple)):
        named = [False, *(isinstance(item, str) and bool(OPTION_NAME.fullmatch(item)) for item in value)]
        return [
            mask_all(item, secret or named[number], False, depth + 1) for number, item in enumerate(value)
        ]
    if isinstance(value, bool) or value in (None, ""):
        return value
    if secret:
        return MASK
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return mask(shortened(value)) if isinstance(value, str) else value


def shortened(text: str) -> str:
    """The text, or its beginning and how much more there is."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} ... and {len(text) - MOST_TEXT} more"
