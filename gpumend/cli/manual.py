"""The manual page gpumend(1), from the commands themselves: `python -m gpumend.cli.manual > docs/gpumend.1`."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator

import click

from gpumend.cli.main import main


def roff(text: str) -> str:
    """A text that troff takes for no request and no escape of its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text, flags=re.MULTILINE)


def paragraphs(text: str) -> Iterator[str]:
    """click's help text: paragraphs, and after \\b lines that stay as they are."""
    for part in inspect.cleandoc(text).split("\n\n"):
        rows = part.splitlines()
        if rows and rows[0].strip() == "\b":
            yield from (".nf", *map(roff, rows[1:]), ".fi")
        else:
            yield roff(" ".join(row.strip() for row in rows))
        yield ".PP"


def parameters(command: click.Command) -> Iterator[str]:
    """Options in our own words: how click writes a help line changes with its version."""
    for found in command.params:
        if isinstance(found, click.Option) and found.help:
            names = ", ".join(sorted(found.opts, key=len))
            value = f" \\fI{roff(found.metavar)}\\fR" if found.metavar and not found.is_flag else ""
            yield from (".TP", f"\\fB{roff(names)}\\fR{value}", roff(found.help))


def commands(command: click.Command, context: click.Context) -> Iterator[str]:
    """Each verb: how it is called, what it does, its options; then those below it."""
    yield f'.SS "{roff(context.command_path)} {roff(" ".join(command.collect_usage_pieces(context)))}"'
    yield from list(paragraphs(command.help or ""))[:-1]
    yield from parameters(command)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from commands(below, click.Context(below, info_name=name, parent=context))


def page() -> str:
    context = click.Context(main, info_name="gpumend")
    first = inspect.cleandoc(main.help or "").splitlines()[0].rstrip(".")
    rows = [
        '.TH GPUMEND 1 "" "gpumend" "User Commands"',
        ".SH NAME",
        roff(f"gpumend - {first[:1].lower()}{first[1:]}"),
        ".SH SYNOPSIS",
        "\\fBgpumend\\fR \\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIHOST\\fR]...",
        ".SH DESCRIPTION",
        *list(paragraphs(main.help or ""))[:-1],
        ".SH COMMANDS",
    ]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        rows += commands(command, click.Context(command, info_name=name, parent=context))
    rows += [".SH SEE ALSO", "pyinfra(1), nvidia\\-ctk(1); docs/ of the source has guides."]
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
