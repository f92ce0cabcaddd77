"""The images that a compose project of this machine builds, judged with what its services make of them."""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from gpumend.rules.compose.compose_rule import asking
from gpumend.rules.dockerfile.audit import UNREADABLE, audit
from gpumend.rules.dockerfile.image import Mount
from gpumend.rules.dockerfile.rules import Service as Started
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.evidence import place
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.run.local import working_copy
from gpumend.run.local.working_copy import WorkingCopyError
from gpumend.state.compose_files import REMOTE, Project, Service, environment
from gpumend.text.interpolate import resolve
from gpumend.text.yaml_nodes import Value

Read = Callable[[str], bytes]


class _HiddenError(ValueError):
    """A variable hides what is built. The text names it."""


def of_project(project: Project, read: Read, hosts: Sequence[Target] = ()) -> Iterator[Finding]:
    """What is wrong with the images that services with a GPU build. read: opens a file of the working copy; raises OSError."""
    for service, _ in asking(project):
        build = service.value.get("build")
        if build is None or build.null:
            continue
        try:
            yield from _of_service(service, build, read, hosts)
        except (_HiddenError, OSError, WorkingCopyError) as error:
            yield Finding(
                code=UNREADABLE,
                status=Status.UNKNOWN,
                summary=f"the image of {service.name}: not known, {error}",
                evidence=(Evidence(place(build.source.path, build.line), "build"),),
                remedy="Make it readable, or give the variable a value in .env.",
            )


def _of_service(service: Service, build: Value, read: Read, hosts: Sequence[Target]) -> Iterator[Finding]:
    context = _text(service, build if build.kind == "scalar" else build.get("context")) or "."
    if REMOTE.match(context):
        raise _HiddenError(f"its context is {context}")
    directory = posixpath.normpath(posixpath.join(service.context, context))
    inline = build.get("dockerfile_inline") if build.kind == "map" else None
    name = _text(service, build.get("dockerfile") if build.kind == "map" else None) or "Dockerfile"
    path = posixpath.normpath(posixpath.join(directory, name))
    text = _text(service, inline) if inline else read(path).decode("utf-8", "replace")
    files = working_copy.context(Path(directory), Path(path))
    yield from audit(
        text,
        files,
        place(build.source.path, inline.line) if inline else path,
        "" if directory == "." else f"{directory}/",
        _started(service, directory),
        _text(service, build.get("target") if build.kind == "map" else None),
        {
            key: value
            for key, value in _pairs(service, build.get("args") if build.kind == "map" else None)
            if value is not None
        },
        hosts,
    )


def _text(service: Service, value: Value | None) -> str:
    """Raises _HiddenError where a variable without a value is in it."""
    if value is None or value.null or value.kind != "scalar":
        return ""
    found = resolve(value.text, service.known)
    if found.unknown:
        raise _HiddenError(f"{', '.join(found.unknown)} has no value")
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
        raise _HiddenError(f"its command ends within quotes, line {value.line}") from None


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
PART = re.compile(r"(?:\$\{[^}]{0,200}\}|[^:])*")


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
