"""A Dockerfile's stages: what each one starts from, what its instructions put where, and what its image runs.

Nothing is run. What COPY and ADD bring from the context is known file by file; of RUN it is known which packages it installs,
and for the rest whether it names a thing. What a variable of unknown value hides is unknown, with the variable's name.
"""

from __future__ import annotations

import posixpath
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from gpumend.rules.dockerfile import bases
from gpumend.rules.dockerfile.context import Files
from gpumend.text.dockerfile import LONGEST, Dockerfile, Expanded, Instruction, expand

# BuildKit fills these in by itself (docs: predefined ARGs in global scope).
PLATFORM = (
    "TARGETPLATFORM",
    "TARGETOS",
    "TARGETARCH",
    "TARGETVARIANT",
    "BUILDPLATFORM",
    "BUILDOS",
    "BUILDARCH",
    "BUILDVARIANT",
)


@dataclass(frozen=True)
class Copied:
    """One source of a COPY or ADD. stage: the stage that it comes from; None: the context. origin: the image or context that
    it comes from where that is neither. excluded: patterns of --exclude. directory: whether its contents are copied; None: not known. missing: variables
    that hide where it goes to or comes from."""

    line: int
    text: str
    source: str
    target: str
    directory: bool | None
    stage: Stage | None = None
    origin: str = ""
    missing: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ran:
    """A RUN. commands: each command's words. mounted: targets of its bind mounts. env: with which it ran."""

    line: int
    text: str
    commands: tuple[tuple[str, ...], ...]
    workdir: str
    env: Mapping[str, str | None]
    mounted: tuple[str, ...] = ()


@dataclass(eq=False)
class Stage:
    """image: what FROM names where it is no stage (empty where it is one). parent: the stage that it begins with. env: None
    for a value that is not known. workdir: None where a variable hides it. steps: Copied and Ran in their order."""

    name: str
    number: int
    line: int
    image: str = ""
    parent: Stage | None = None
    missing: tuple[str, ...] = ()
    env: dict[str, str | None] = field(default_factory=dict)
    env_lines: dict[str, int] = field(default_factory=dict)
    arguments: dict[str, str | None] = field(default_factory=dict)
    workdir: str = "/"
    workdir_line: int = 0
    hidden: tuple[str, ...] = ()
    steps: list[Copied | Ran] = field(default_factory=list)
    command: tuple[str, ...] = ()
    command_line: int = 0
    entrypoint: tuple[str, ...] = ()
    entrypoint_line: int = 0

    @property
    def base(self) -> Stage:
        """The stage whose FROM names an image."""
        return self.parent.base if self.parent else self

    @property
    def chain(self) -> tuple[Stage, ...]:
        """This stage and those that it is built on, itself last."""
        return (*(self.parent.chain if self.parent else ()), self)

    def all_steps(self) -> tuple[Copied | Ran, ...]:
        return tuple(step for stage in self.chain for step in stage.steps)

    def copies(self) -> tuple[Copied, ...]:
        return tuple(step for step in self.all_steps() if isinstance(step, Copied))

    def runs(self) -> tuple[Ran, ...]:
        return tuple(step for step in self.all_steps() if isinstance(step, Ran))

    def values(self) -> dict[str, str | None]:
        """What a variable stands for in this stage: ENV counts before ARG."""
        return {**self.arguments, **self.env}


def commands(text: str) -> tuple[tuple[str, ...], ...]:
    """The simple commands of a shell's line, each as its words, quotes taken away; loops and brackets are words among others."""
    text = re.sub(r"\\\r?\n", " ", text)
    lexer = shlex.shlex(text.replace("\n", " ; "), posix=True, punctuation_chars="();<>|&")
    lexer.commenters, lexer.whitespace_split = "", True
    try:
        words = list(lexer)
    except ValueError:  # a quote that does not end, as in `echo don't`
        words = text.split()
    found: list[list[str]] = [[]]
    for word in words:
        if word and set(word) <= set(";|&()"):
            found.append([])
        else:
            found[-1].append(word)
    return tuple(tuple(command) for command in found if command)


def _inner(words: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """`sh -c 'x && y'`, taken apart."""
    if len(words) > 2 and re.fullmatch(r"(?:/\S*/)?(?:ba|da|a|z)?sh", words[0]):
        for at, word in enumerate(words[1:-1], 1):
            if re.fullmatch(r"-[a-z]*c", word):
                yield from commands(words[at + 1])
                return
    yield words


def simple(words: Iterable[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    return tuple(found for command in words for found in _inner(command))


def _join(workdir: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(workdir, path)).replace("//", "/")


class Reader:
    """A Dockerfile, instruction by instruction. arguments: what `--build-arg` gives."""

    def __init__(self, dockerfile: Dockerfile, files: Files, arguments: Mapping[str, str]) -> None:
        self.escape = dockerfile.escape
        self.files = files
        self.given = dict(arguments)
        self.outside: dict[str, str | None] = {}
        self.stages: list[Stage] = []
        for instruction in dockerfile.instructions:
            self.take(instruction)

    def fill(self, word: str, values: Mapping[str, str | None]) -> Expanded:
        return expand(word, values, self.escape)

    def named(self, name: str) -> Stage | None:
        """The stage of this name or number."""
        if name.isdigit():
            return next((stage for stage in self.stages if stage.number == int(name)), None)
        return next((stage for stage in reversed(self.stages) if stage.name == name.lower()), None)

    def take(self, found: Instruction) -> None:
        if found.name == "FROM":
            self.begin(found)
        elif not self.stages:
            self.outer(found)
        else:
            take = getattr(self, f"take_{found.name.lower()}", None)
            if take is not None:
                take(self.stages[-1], found)

    def outer(self, found: Instruction) -> None:
        for name, value in found.assignments():
            given = self.given.get(name)
            filled = self.fill(value, self.outside) if value is not None else None
            self.outside[name] = (
                given if given is not None else None if filled is None or filled.missing else filled.text
            )

    def begin(self, found: Instruction) -> None:
        words = found.words()
        image = self.fill(words[0], self.outside)
        name = words[2].lower() if len(words) > 2 and words[1].upper() == "AS" else ""
        stage = Stage(name, len(self.stages), found.line)
        parent = self.named(image.text) if not image.missing and not image.text.isdigit() else None
        if parent is not None:
            stage.parent = parent
            stage.env, stage.env_lines = dict(parent.env), dict(parent.env_lines)
            stage.workdir, stage.workdir_line, stage.hidden = (
                parent.workdir,
                parent.workdir_line,
                parent.hidden,
            )
            stage.command, stage.command_line = parent.command, parent.command_line
            stage.entrypoint, stage.entrypoint_line = parent.entrypoint, parent.entrypoint_line
        else:
            stage.image, stage.missing = image.text if not image.missing else words[0], image.missing
            stage.workdir = bases.workdir(stage.image)
        self.stages.append(stage)

    # -- instructions inside a stage

    def take_arg(self, stage: Stage, found: Instruction) -> None:
        for name, value in found.assignments():
            if name in self.given:
                stage.arguments[name] = self.given[name]
            elif value is None:
                stage.arguments[name] = self.outside.get(name)
            else:
                filled = self.fill(value, stage.values())
                stage.arguments[name] = None if filled.missing else filled.text

    def take_env(self, stage: Stage, found: Instruction) -> None:
        before = stage.values()
        for name, value in found.assignments():
            filled = self.fill(value or "", before)
            # a name that is only added to (PATH=/x:$PATH) is known as far as it is written here
            known = not filled.missing or set(filled.missing) == {name}
            stage.env[name] = filled.text if known else None
            stage.env_lines[name] = found.line

    def take_workdir(self, stage: Stage, found: Instruction) -> None:
        filled = self.fill(found.value, stage.values())
        stage.hidden = filled.missing or (() if filled.text.startswith("/") else stage.hidden)
        stage.workdir, stage.workdir_line = _join(stage.workdir, filled.text), found.line

    def take_cmd(self, stage: Stage, found: Instruction) -> None:
        stage.command, stage.command_line = self.words_of(found), found.line

    def take_entrypoint(self, stage: Stage, found: Instruction) -> None:
        stage.entrypoint, stage.entrypoint_line = self.words_of(found), found.line
        if not found.array:
            stage.command, stage.command_line = (), 0  # the shell form takes no CMD
        elif (
            stage.parent
            and stage.command == stage.parent.command
            and stage.command_line == stage.parent.command_line
        ):
            stage.command, stage.command_line = (), 0  # an ENTRYPOINT takes back a CMD that came with FROM

    @staticmethod
    def words_of(found: Instruction) -> tuple[str, ...]:
        return found.array if found.array is not None else ("/bin/sh", "-c", found.value)

    def take_run(self, stage: Stage, found: Instruction) -> None:
        text = "\n".join((found.value, *(item.text for item in found.heredocs)))[:LONGEST]
        if found.heredocs and re.fullmatch(r"<<-?\S+", found.value):
            text = "\n".join(item.text for item in found.heredocs)[:LONGEST]
        words = (found.array,) if found.array is not None else commands(text)
        mounted = tuple(
            pair.partition("=")[2]
            for name, value in found.flags
            if name == "mount"
            for pair in value.split(",")
            if pair.partition("=")[0] in ("target", "dst", "destination")
        )
        values = stage.values()
        filled = tuple(tuple(_filled(word, values) for word in command) for command in simple(words))
        stage.steps.append(Ran(found.line, text, filled, stage.workdir, values, mounted))

    def take_copy(self, stage: Stage, found: Instruction) -> None:
        values = stage.values()
        words = [self.fill(word, values) for word in found.words()]
        if len(words) < 2 and not found.heredocs:
            return
        target = words[-1]
        origin = self.fill(found.flag("from") or "", values)
        hidden = (*target.missing, *origin.missing, *(() if target.text.startswith("/") else stage.hidden))
        place = _join(stage.workdir, target.text)
        into = (
            target.text.endswith("/")
            or target.text in (".", "..")
            or len(words) > 2
            or place == stage.workdir
        )
        into = into or place in self.made(stage)
        for item in found.heredocs:
            path = posixpath.join(place, item.name) if into else place
            stage.steps.append(Copied(found.line, f"<<{item.name}", "", path, False, origin="heredoc"))
        sources = [word for word in words[:-1] if not re.fullmatch(r"\d*<<-?.+", word.text)]
        for source in sources:
            stage.steps.extend(
                self.one(stage, found, source, place, into, origin.text, (*hidden, *source.missing))
            )

    take_add = take_copy

    @staticmethod
    def made(stage: Stage) -> set[str]:
        """Directories that a stage has because something was copied into them."""
        return {posixpath.dirname(step.target) for step in stage.copies()} | {
            "/",
            "/usr",
            "/etc",
            "/opt",
            "/tmp",
            "/srv",
        }

    def one(
        self,
        stage: Stage,
        found: Instruction,
        source: Expanded,
        place: str,
        into: bool,
        origin: str,
        hidden: tuple[str, ...],
    ) -> Iterator[Copied]:
        text, missing = source.text, tuple(dict.fromkeys(hidden))
        if origin or missing or (found.name == "ADD" and re.match(r"(?:https?|git|ssh)[:@]", text)):
            from_stage = self.named(origin) if origin else None
            where = origin or ("a variable" if missing else text)
            path = _join("/", text)
            target = (
                place
                if not into or not re.search(r"\.\w+$", path)
                else posixpath.join(place, posixpath.basename(path))
            )
            directory = None if target == place else False
            yield Copied(
                found.line, text, path, target, directory, from_stage, "" if from_stage else where, missing
            )
            return
        exclude = tuple(value for name, value in found.flags if name == "exclude")
        parents = found.flag("parents") is not None and found.flag("parents") != "false"
        for name in self.files.matches(text) or ():
            directory = name in self.files.directories
            at = place
            if parents:
                at = posixpath.join(place, name.partition("./")[2] or name)
            elif not directory and (into or len(self.files.matches(text)) > 1):
                at = posixpath.join(place, posixpath.basename(name))
            if found.name == "ADD" and re.search(r"\.(?:tar|tgz|tar\.\w+|tbz2?|txz)$", name):
                yield Copied(found.line, text, name, place, None, origin=f"the archive {name}")
            else:
                yield Copied(found.line, text, name, at, directory, excluded=exclude)
        if not self.files.matches(text):
            yield Copied(found.line, text, text, place, None, origin="nothing")


def _filled(word: str, values: Mapping[str, str | None]) -> str:
    """A shell's word with what is known filled in; what is not stays as written."""
    return re.sub(r"\$(?:(\w+)|\{(\w+)\})", lambda found: values.get(found[1] or found[2]) or found[0], word)


def stages(dockerfile: Dockerfile, files: Files, arguments: Mapping[str, str]) -> tuple[Stage, ...]:
    return tuple(Reader(dockerfile, files, arguments).stages)
