"""What in a whole file is secret, by what its parser says: a value may go over lines, or stand far from its key."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import yaml

from gpumend.text.documents import toml
from gpumend.text.mask import MASK, SECRET_KEY
from gpumend.text.yaml_limits import LOADER, check_yaml

LEAST = 4  # characters; a shorter value is found everywhere, and its key masks it where it stands
PLAIN = ("true", "false", "none", "null", "yes", "no")


def below(value: Any, secret: bool = False) -> Iterator[str]:
    """Every text and number under a key that names a secret."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from below(item, secret or bool(SECRET_KEY.search(str(key))))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from below(item, secret)
    elif secret and not isinstance(value, bool) and value is not None:
        yield str(value)
    elif isinstance(value, str) and "=" in value:  # an item of an environment
        name, _, rest = value.partition("=")
        if len(name) < 100 and SECRET_KEY.search(name):
            yield rest


def environment(text: str) -> Iterator[str]:
    """The values of a unit's Environment= that name secrets: one line has several, and quotes hold spaces."""
    for line in text.splitlines():
        name, _, rest = line.strip().partition("=")
        if name == "Environment":
            try:
                yield from below(shlex.split(rest))
            except ValueError:
                continue  # a quote that does not end: the text's own masks see to it


def documents(text: str) -> Iterator[Any]:
    """The text as what it may be."""
    try:
        yield json.loads(text)
        return
    except (ValueError, RecursionError):
        pass
    try:
        yield toml(text)
        return
    except (ValueError, RecursionError):
        pass
    try:
        check_yaml(text)
        yield yaml.load(text, Loader=LOADER)
    except (ValueError, RecursionError, yaml.YAMLError):
        pass


def secrets_of(text: str) -> frozenset[str]:
    """The secret values of a file, as its parser has them, and the lines of those that have several."""
    if not SECRET_KEY.search(text):
        return frozenset()
    found = {*environment(text)} | {secret for document in documents(text) for secret in below(document)}
    found |= {line.strip() for secret in found for line in secret.splitlines()}
    return frozenset(
        secret
        for secret in found
        if len(secret) >= LEAST and secret.lower() not in PLAIN and "\n" not in secret
    )


def hidden(text: str, secrets: frozenset[str]) -> str:
    """The text without these, written as they are or as JSON and TOML write them."""
    for secret in sorted(secrets, key=len, reverse=True):
        for form in dict.fromkeys(
            (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        ):
            text = text.replace(form, MASK)
    return text
