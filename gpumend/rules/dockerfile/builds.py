"""What a compose service builds, and how its container is started: the part of that which its files tell."""

from __future__ import annotations

import os
import posixpath
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gpumend.rules.dockerfile.image import Mount
from gpumend.rules.dockerfile.rules import Service as Started
from gpumend.rules.evidence import place
from gpumend.state.compose_files import REMOTE, Service, environment
from gpumend.text.interpolate import resolve
from gpumend.text.pattern import Pattern
from gpumend.text.yaml_nodes import Value


class HiddenError(ValueError):
    """A variable hides what is built, or it lies elsewhere. The text says which."""


@dataclass(frozen=True)
class Built:
    """directory: the build's context. path: of the Dockerfile, and how a report names it; inline: its text, where the compose file
    has it. target, arguments: as `docker build` takes them. started: how a container of it begins."""

    directory: str
    path: str
    inline: str
    target: str
    arguments: Mapping[str, str]
    started: Started


def built(service: Service) -> Built | None:
    """What the service builds; None where it builds nothing. Raises HiddenError."""
    build = service.value.get("build")
    if build is None or build.null:
        return None
    context = _text(service, build if build.kind == "scalar" else build.get("context")) or "."
    if REMOTE.match(context):
        raise HiddenError(f"its context is {context}")
    directory = posixpath.normpath(posixpath.join(service.context, context))
    inline = build.get("dockerfile_inline") if build.kind == "map" else None
    name = _text(service, build.get("dockerfile") if build.kind == "map" else None) or "Dockerfile"
    path = posixpath.normpath(posixpath.join(directory, name))
    return Built(
        directory,
        place(build.source.path, inline.line) if inline else path,
        _text(service, inline) if inline else "",
        _text(service, build.get("target") if build.kind == "map" else None),
        {
            key: value
            for key, value in _pairs(service, build.get("args") if build.kind == "map" else None)
            if value is not None
        },
        _started(service, directory),
    )


def _text(service: Service, value: Value | None) -> str:
    """Raises HiddenError where a variable without a value is in it."""
    if value is None or value.null or value.kind != "scalar":
        return ""
    found = resolve(value.text, service.known)
    if found.unknown:
        raise HiddenError(f"{', '.join(found.unknown)} has no value")
    return found.text


def _pairs(service: Service, value: Value | None) -> Iterator[tuple[str, str | None]]:
    """A mapping, or a list of `NAME=VALUE`; None for a value that is taken from outside."""
    for name, item in environment(value).items():
        if item.kind != "scalar" or item.null:
            yield name, None
            continue
        text = item.text.partition("=")[2] if item.text.startswith(f"{name}=") else item.text
        found = resolve(text, service.known)
        yield name, None if found.unknown or item.text == name else found.text


def _words(service: Service, value: Value | None) -> tuple[str, ...] | None:
    """A command as Compose takes it: a list, or a text that is split as a shell would; None: the image's own."""
    if value is None or value.null:
        return None
    if value.kind == "seq":
        return tuple(_text(service, item) for item in value.items)
    try:
        return tuple(shlex.split(_text(service, value)))
    except ValueError:
        raise HiddenError(f"its command ends within quotes, line {value.line}") from None


def _started(service: Service, directory: str) -> Started:
    command, entrypoint = service.value.get("command"), service.value.get("entrypoint")
    told = command if command is not None and not command.null else entrypoint
    return Started(
        command=_words(service, command),
        entrypoint=_words(service, entrypoint),
        workdir=_text(service, service.value.get("working_dir")) or None,
        env=dict(_pairs(service, service.value.get("environment"))),
        mounts=tuple(_mounts(service, directory)),
        said=place(told.source.path, told.line) if told is not None else service.name,
    )


# Of `source:target:mode`, where colons in ${V:-x} do not count.
PART = Pattern(r"(?:\$\{[^}]{0,200}\}|[^:])*")


def _mounts(service: Service, directory: str) -> Iterator[Mount]:
    """What `volumes` puts over the image: a directory of the context as such, everything else as something that is not known."""
    volumes = service.value.get("volumes")
    for item in volumes.items if volumes is not None and volumes.kind == "seq" else ():
        if item.kind == "map":
            parts = [found.text if found else "" for found in (item.get("source"), item.get("target"))]
        else:
            source = PART.match(item.text)
            parts = [source[0] if source else "", ""]
            rest = item.text[len(parts[0]) + 1 :]
            target = PART.match(rest)
            parts[1] = target[0] if rest and target else parts[0]
        source_, target_ = (resolve(part, service.known) for part in parts)
        if target_.unknown or not target_.text.startswith("/"):
            continue
        inside = None
        if not source_.unknown and source_.text != target_.text and source_.text.startswith((".", "/")):
            below = os.path.relpath(posixpath.join(service.context, source_.text), directory)
            inside = None if below.startswith("..") else "" if below == "." else below
        yield Mount(posixpath.normpath(target_.text), inside)
