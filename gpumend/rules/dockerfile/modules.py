"""GM952 and GM953: what COPY names is in the context, and what the container runs is in the image."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Iterator

from gpumend.rules.dockerfile.image import Image, Place, Presence
from gpumend.rules.dockerfile.program import Running, Target, targets
from gpumend.rules.dockerfile.rules import Build, dockerfile_rule
from gpumend.rules.dockerfile.stages import Copied
from gpumend.rules.finding import Evidence, Finding, Status

STDLIB: frozenset[str] = getattr(sys, "stdlib_module_names", frozenset())  # from Python 3.10 on
NEAR = (
    "",
    "src",
    "lib",
    "python",
    "app",
    "backend",
    "server",
    "services",
)  # where a working copy keeps its packages


@dockerfile_rule("GM952")
def sources(build: Build) -> Iterator[Finding]:
    if not build.files.whole:
        return
    for stage in build.used():
        lines: dict[int, list[Copied]] = {}
        for step in stage.steps:
            if isinstance(step, Copied) and step.stage is None:
                lines.setdefault(step.line, []).append(step)
        for steps in lines.values():
            yield from _missing_sources(build, steps)


def _missing_sources(build: Build, steps: list[Copied]) -> Iterator[Finding]:
    """What is wrong with the sources of one COPY. A pattern (`*.lock`) may match nothing."""
    gone = [step.text for step in steps if step.origin == "nothing" and not re.search(r"[*?\[]", step.text)]
    if gone:
        yield Finding(
            code="GM952",
            status=Status.FAIL,
            summary=f"COPY names {', '.join(gone)}, which the build's context does not have",
            evidence=(
                build.at(steps[0].line, f"COPY {' '.join(gone)}"),
                Evidence(build.file("") or ".", f"the context has no {gone[0]}"),
            ),
            cause="A build stops there. The context is the directory that `docker build` is given, not the Dockerfile's own.",
            remedy=f"Correct the path, make {gone[0]} before the build, or name the right context (--context).",
            symptoms=("failed to compute cache key: failed to calculate checksum of ref", "not found"),
        )
    for step in steps:
        rule = build.files.kept_out(step.source) if not step.origin and step.source else None
        if rule is None:
            continue
        name = build.files.ignore.name
        yield Finding(
            code="GM952",
            status=Status.FAIL,
            summary=f"COPY names {step.text}, which {name} keeps out of the build",
            evidence=(
                build.at(step.line, f"COPY {step.text}"),
                Evidence(build.file(name, rule.line), rule.text),
            ),
            cause="Patterns begin at the context's root, and the last one that matches counts.",
            remedy=f"Add `!{step.source}` below that line, or take the line out.",
            symptoms=("failed to compute cache key: failed to calculate checksum of ref", "not found"),
        )


@dockerfile_rule("GM953")
def modules(build: Build) -> Iterator[Finding]:
    for target in asked(build):
        found = _verdict(build, target)
        if found is not None:
            yield found


def running(build: Build) -> tuple[tuple[str, ...], Running]:
    """What the container runs, and the state in which it does."""
    stage, service = build.final, build.service
    entrypoint = stage.entrypoint if service.entrypoint is None else service.entrypoint
    command = (
        stage.command if service.command is None and service.entrypoint is None else service.command or ()
    )
    directory = service.workdir or stage.workdir
    env = {**stage.env, **(service.env or {})}
    return (*entrypoint, *command), Running(directory, env, build.image.text)


def line_of(build: Build, target: Target) -> int:
    """The Dockerfile's line that asks for it; 0 where it is not the Dockerfile that does."""
    stage, service = build.final, build.service
    if service.command is not None or service.entrypoint is not None:
        return 0
    last = target.said.rpartition(" ")[2]
    in_command = stage.command and (not stage.entrypoint or any(last in word for word in stage.command))
    return stage.command_line if in_command else stage.entrypoint_line


def asked(build: Build) -> tuple[Target, ...]:
    words, state = running(build)
    return tuple(dict.fromkeys(targets(words, state)))


def _evidence(build: Build, target: Target) -> tuple[Evidence, ...]:
    _, state = running(build)
    line = line_of(build, target)
    found = [build.at(line, target.said) if line else Evidence(build.service.said or "command", target.said)]
    if build.final.workdir_line and not build.service.workdir:
        found.append(build.at(build.final.workdir_line, f"WORKDIR {build.final.workdir}"))
    if state.env.get("PYTHONPATH"):
        line = build.final.env_lines.get("PYTHONPATH", 0)
        text = f"PYTHONPATH={state.env['PYTHONPATH']}"
        found.append(build.at(line, text) if line else Evidence(build.service.said or "environment", text))
    return tuple(found)


def path_of(build: Build, target: Target) -> tuple[tuple[str, ...], str]:
    """Where Python looks for the target's module, installed packages aside; and what hides a part of it."""
    _, state = running(build)
    value = state.env.get("PYTHONPATH", "")
    hidden = "PYTHONPATH" if value is None else ""
    if build.final.hidden and not build.service.workdir:
        hidden = ", ".join(build.final.hidden)
    more = tuple(
        posixpath.normpath(posixpath.join(target.directory, part))
        for part in (value or "").split(":")
        if part
    )
    return tuple(dict.fromkeys((*target.first, *more))), hidden


def _verdict(build: Build, target: Target) -> Finding | None:
    if target.kind == "script":
        return _script(build, target)
    if target.kind == "console":
        return _console(build, target)
    return _module(build, target, target.name)


def _module(build: Build, target: Target, dotted: str) -> Finding | None:
    image, top = build.image, dotted.partition(".")[0]
    directories, hidden = path_of(build, target)
    places = [image.module(directory, dotted) for directory in directories]
    if any(place.presence is Presence.YES for place in places) or top in STDLIB or not STDLIB:
        return None
    where, lost = _installed(image, dotted)
    if where:
        return None
    if image.has(top) and _near(build, top) is None:
        return None
    inner = next((place.why for place in places if place.presence is Presence.NO and place.why), "")
    unknown = hidden or next((place.why for place in places if place.presence is Presence.UNKNOWN), "")
    if any(image.may_make(posixpath.join(directory, top)) for directory in directories):
        unknown = unknown or "a RUN that may bring it"
    if unknown:
        return _unknown(build, target, f"module {dotted}", unknown)
    if inner:
        return _missing(
            build, target, f"{target.said.partition(' ')[0]} runs {dotted}, and {inner} has no such module",
            "The package is in the image, the module is not.",
            f"Correct the name, or copy the module into {inner}.", dotted,
        )  # fmt: skip
    return _not_there(build, target, dotted, directories, lost)


def _installed(image: Image, dotted: str) -> tuple[bool, tuple[str, int]]:
    """Whether a project that the image installs brings the module; and the project (with its line) that is installed
    editable, while its source stayed behind."""
    lost = ("", 0)
    for directory, then, found in image.sources():
        if then.module(directory, dotted).presence is not Presence.NO:
            return True, lost
        if found.editable and not lost[0]:
            before = next(made for made, _, item in image.sources() if item is found)
            lost = (before, found.line)
    return False, lost


def _near(build: Build, top: str) -> str | None:
    """The directory of the context that has a package or module of this name; None where none has."""
    for directory in NEAR:
        name = posixpath.join(directory, top)
        if f"{name}.py" in build.files.names or name in build.files.directories:
            return directory
    found = sorted(
        (name.count("/"), posixpath.dirname(name)[: -len(top)].rstrip("/"))
        for name in build.files.names
        if name.endswith(f"/{top}/__init__.py")
    )
    return found[0][1] if found else None


def _not_there(
    build: Build, target: Target, dotted: str, directories: tuple[str, ...], lost: tuple[str, int]
) -> Finding | None:
    image, top = build.image, dotted.partition(".")[0]
    near, path = _near(build, top), " and ".join(directories) or "no directory"
    head = f"{target.said.partition(' ')[0]} runs {dotted}, which is not in the image"
    if near is None:
        if base := image.opaque():
            return _note(build, target, f"module {dotted}", f"the base image {base}")
        names, more = image.distributions
        if more:
            return _unknown(build, target, f"module {dotted}", f"installed packages ({more})")
        alike = sorted(name for name in names if top.lower() in name or name in top.lower())
        if alike:
            return _note(build, target, f"module {dotted}", f"the installed {alike[0]}")
        return _missing(
            build, target, head, f"Neither the context nor an installed package has {top}. Python looks in {path}.",
            f"Install what brings {top}, or correct the command.", dotted,
        )  # fmt: skip
    if base := image.foreign():
        return _note(build, target, f"module {dotted}, which no COPY brings,", f"the base image {base}")
    name = posixpath.join(near, top)
    source = f"{name}/" if name in build.files.directories else f"{name}.py"
    rule = build.files.kept_out(source.rstrip("/"))
    if rule is not None:
        ignore = build.files.ignore.name
        extra = Evidence(build.file(ignore, rule.line), rule.text)
        return _missing(
            build, target, f"{head}: {ignore} keeps {source} out", "No COPY brings what .dockerignore keeps out.",
            f"Add `!{source.rstrip('/')}` below that line, or take the line out.", dotted, extra,
        )  # fmt: skip
    if lost[0]:
        return _missing(
            build, target, f"{head}: it was installed editable, and its source stayed in another stage",
            f"An editable installation is a reference to {lost[0]}, which this stage does not have.",
            f"Install it without -e (uv: --no-editable), or copy {lost[0]}, too.", dotted,
            build.at(lost[1], f"installed editable from {lost[0]}"),
        )  # fmt: skip
    if (elsewhere := _elsewhere(image, source)) is not None:
        step, at = elsewhere
        return _missing(
            build, target, f"{head}'s Python path: {source} is at {at}",
            f"Python looks in {path}."
            + (" COPY of a directory copies what is in it, not the directory." if posixpath.basename(at) != posixpath.basename(source.rstrip("/")) else ""),
            f"COPY {source} to {posixpath.join(directories[0] if directories else '/', posixpath.basename(source.rstrip('/')))}, or correct WORKDIR or PYTHONPATH.",
            dotted, build.at(step.line, f"COPY {step.text}"),
        )  # fmt: skip
    return _missing(
        build, target, f"{head}: no COPY brings {source}", f"Python looks in {path}; {source} is in the context.",
        f"COPY {source} ./{source if source.endswith('/') else ''}", dotted, Evidence(build.file(source.rstrip("/")), "is in the context"),
    )  # fmt: skip


def _elsewhere(image: Image, source: str) -> tuple[Copied, str] | None:
    """Where the image has a directory or file of the context, and by which step."""
    name = source.rstrip("/")
    for step in image.stage.copies():
        if step.stage is not None or step.origin or step.missing:
            continue
        if step.source == name:
            return step, step.target
        if step.directory and (not step.source or name.startswith(f"{step.source}/")):
            rest = name[len(step.source) :].lstrip("/")
            return step, posixpath.join(step.target, rest)
    return None


def _script(build: Build, target: Target) -> Finding | None:
    image = build.image
    found = image.holds(target.name)
    if found.presence is Presence.YES:
        return None
    if image.writes(target.name):
        return None
    if image.may_make(target.name):
        found = Place(Presence.UNKNOWN, "a RUN that may bring it")
    base = posixpath.basename(target.name)
    near = sorted((name.count("/"), name) for name in build.files.names if posixpath.basename(name) == base)
    hidden = ", ".join(build.final.hidden) if not build.service.workdir else ""
    if "$" in target.name:
        return None
    if hidden or found.presence is Presence.UNKNOWN:
        return _unknown(build, target, target.name, hidden or found.why)
    if not near:
        if image.opaque():
            return _note(build, target, target.name, f"the base image {image.opaque()}")
        if not target.name.endswith((".py", ".sh")):
            return None  # a program that some package brings
        return _missing(
            build, target, f"the container runs {target.name}, which is not in the image",
            "Neither the context nor a RUN has it.", "COPY it, or correct the path.", "",
        )  # fmt: skip
    if base := image.foreign():
        return _note(build, target, target.name, f"the base image {base}")
    name = near[0][1]
    rule = build.files.kept_out(name)
    if rule is not None:
        ignore = build.files.ignore.name
        return _missing(
            build, target, f"the container runs {target.name}, which is not in the image: {ignore} keeps {name} out",
            "No COPY brings what .dockerignore keeps out.", f"Add `!{name}` below that line, or take the line out.", "",
            Evidence(build.file(ignore, rule.line), rule.text),
        )  # fmt: skip
    elsewhere = _elsewhere(image, name)
    return _missing(
        build, target, f"the container runs {target.name}, which is not in the image"
        + (f": {name} is at {elsewhere[1]}" if elsewhere else f": no COPY brings {name}"),
        "The path is relative to WORKDIR." if elsewhere else f"{name} is in the context.",
        f"Correct the path or WORKDIR: it is at {elsewhere[1]}." if elsewhere else f"COPY {name} {target.name}", "",
        *((build.at(elsewhere[0].line, f"COPY {elsewhere[0].text}"),) if elsewhere else ()),
    )  # fmt: skip


def _console(build: Build, target: Target) -> Finding | None:
    """A console script of the context's own project: the module behind it, where the project is one that is installed."""
    image = build.image
    for found, then in image.installed:
        if not found.project:
            continue
        text = then.text(posixpath.join(found.project, "pyproject.toml")) or ""
        dotted = _entry(text, target.name)
        if not dotted:
            continue
        present, lost = _installed(image, dotted)
        if present:
            return None
        top = dotted.partition(".")[0]
        near = _near(build, top)
        source = posixpath.join(near, top) if near is not None else top
        said = build.at(found.line, f"installs {found.project}")
        cause = f"{target.name} is {dotted} of the project in {found.project}, which had no {top} when it was installed."
        if lost[0]:
            cause = f"An editable installation is a reference to {lost[0]}, which this stage does not have."
        return _missing(
            build, target, f"{target.name} runs {dotted}, which is not in the image", cause,
            f"COPY {source}/ before that line, or install without -e." if not lost[0] else f"Install it without -e (uv: --no-editable), or copy {lost[0]}, too.",
            dotted, said,
        )  # fmt: skip
    return None


def _entry(text: str, name: str) -> str:
    """The module of a console script in a pyproject.toml's [project.scripts] or [tool.poetry.scripts]."""
    table = ""
    for row in text.splitlines():
        if found := re.match(r"\s*\[([^\]]+)\]\s*(?:#.*)?$", row):
            table = found[1].strip()
        elif table in ("project.scripts", "tool.poetry.scripts"):
            entry = re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=\s*[\"']([\w.]+)(?::[\w.]+)?", row)
            if entry and entry[1] == name:
                return entry[2]
    return ""


def _missing(
    build: Build, target: Target, summary: str, cause: str, remedy: str, dotted: str, *more: Evidence
) -> Finding:
    symptoms = (f"ModuleNotFoundError: No module named '{dotted.partition('.')[0]}'",) if dotted else (
        f"can't open file '{target.name}': [Errno 2] No such file or directory",
    )  # fmt: skip
    return Finding(
        code="GM953",
        status=Status.FAIL,
        summary=summary,
        evidence=(*_evidence(build, target), *more),
        cause=cause,
        remedy=remedy,
        symptoms=symptoms,
    )


def _unknown(build: Build, target: Target, what: str, why: str) -> Finding:
    return Finding(
        code="GM953",
        status=Status.UNKNOWN,
        summary=f"{what}: not known whether it is in the image, {why} hides it",
        evidence=_evidence(build, target),
        remedy="Set an absolute WORKDIR in this file."
        if "WORKDIR of" in why
        else "Give the value (--build-arg NAME=VALUE), or try the image: the Dockerfile and its context do not tell.",
    )


def _note(build: Build, target: Target, what: str, whose: str) -> Finding:
    return Finding(
        code="GM953",
        status=Status.NOTE,
        summary=f"{what} is expected of {whose}: what that brings was not looked at",
        evidence=_evidence(build, target),
    )
