"""`gpumend explain [CODE|TEXT]...`"""

from __future__ import annotations

import difflib
import os
import re
import stat
import sys

import click

from gpumend.places import PAGES
from gpumend.text import symptoms

SHOWN = 3
TEXT = 4 * 1024 * 1024  # bytes of standard input that are read


def _piped() -> str:
    """What is piped in; nothing where standard input is a terminal, or nothing is there."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return ""
    return _standard_input() if stat.S_ISFIFO(mode) or stat.S_ISREG(mode) else ""


def _standard_input() -> str:
    return sys.stdin.buffer.read(TEXT).decode("utf-8", "replace")


# Errors of CUDA that have the number of a code, too: the bare number is the error, which more people ask about.
ERRORS = ("802", "803", "804")


def _code(word: str) -> str:
    """GM304 of `304`, `gm304` and `GM304`; nothing of what looks like no code."""
    found = re.fullmatch(r"(?:gm)?[- ]?(\d{3})", word.strip(), re.IGNORECASE)
    return f"GM{found[1]}" if found and word.strip() not in ERRORS else ""


def _asked(words: tuple[str, ...], codes: set[str]) -> list[str]:
    """What is asked for, one by one: codes; texts; and words without quotes around them, which are one text."""
    if words == ("-",):
        return [_standard_input()]
    loose = [
        word
        for word in words
        if _code(word) not in codes and not re.search(r"\s", word) and not _meant_as_code(word)
    ]
    asked = [word for word in words if word not in loose]
    return asked + ([" ".join(loose)] if loose else [])


def _meant_as_code(word: str) -> bool:
    return re.fullmatch(r"gm\w{1,5}", word, re.IGNORECASE) is not None


def _no_code(word: str, codes: set[str]) -> None:
    near = difflib.get_close_matches(word.upper().replace("O", "0"), sorted(codes), n=1, cutoff=0.7)
    guess = f"did you mean {near[0]!r}? " if near else ""
    click.echo(f"gpumend: there is no finding {word!r}; {guess}`gpumend explain` lists all.", err=True)


def _text(text: str, index: symptoms.Index) -> bool:
    """The pages that the text may belong to are printed: whether there is any."""
    found = index.rank(text)
    if not found:
        near = index.near(text)
        guess = f" Did you mean {near!r}?" if near else ""
        click.echo(
            f"gpumend: no finding's page has this text.{guess} `gpumend audit` looks at the host itself; "
            "`gpumend explain` lists all findings.",
            err=True,
        )
        return False
    for match in found[:SHOWN]:
        click.echo(f"{match.page.title}\n    {match.line}")
    if len(found) == 1 or found[0].score >= symptoms.LEADS * found[1].score:
        click.echo(f"\n{found[0].page.text}", nl=False)
    else:
        click.echo(
            f"\n`gpumend explain {found[0].page.code}` shows a page; `gpumend audit` says which it is here."
        )
    return True


@click.command("explain", context_settings={"ignore_unknown_options": True})
@click.argument("words", nargs=-1, metavar="[CODE|TEXT]...")
def command(words: tuple[str, ...]) -> None:
    """What a finding means, how it is known, and what to do by hand.

    CODE is a finding's, as GM304 or 304. TEXT is an error text or a log, `-` or a pipe for standard input: the findings
    that it may belong to, the likeliest first. Without either: a list of all.

    Exit status: 0 something was found; 2 nothing.
    """
    pages = symptoms.read(PAGES)
    codes = {page.code: page for page in pages}
    asked = _asked(words, set(codes))
    piped = "" if words else _piped()
    if piped.strip():
        asked = [piped]
    elif not words:
        for page in pages:
            click.echo(page.title)
        return
    index = symptoms.Index(pages)
    good = True
    for number, item in enumerate(asked):
        if number:
            click.echo()
        if _code(item) in codes:
            click.echo(codes[_code(item)].text, nl=False)
        elif _meant_as_code(item):
            _no_code(item, set(codes))
            good = False
        else:
            good = _text(item, index) and good
    sys.exit(0 if good else 2)
