"""What is in a stage's image, as far as its Dockerfile and context tell."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

from gpumend.rules.dockerfile.bases import FRAMEWORKS, PLAIN, UNTOLD
from gpumend.rules.dockerfile.context import Files
from gpumend.rules.dockerfile.installed import Installed, installations, normalised, requirement
from gpumend.rules.dockerfile.stages import Copied, Ran, Stage
from gpumend.text import dockerignore
from gpumend.text.backports import StrEnum
from gpumend.text.pattern import Pattern

# Words of a RUN that bring files which nobody sees here.
BRINGS = Pattern(r"\bgit\b[^;&|\n]{0,120}\b(?:clone|submodule)\b|\bsvn\b|\bhg\b[^;&|\n]{0,120}\bclone\b")
MAKES = Pattern(
    r"\b(?:cp|mv|ln|install|rsync|tar|unzip|mkdir|touch|tee|echo|cat|printf|curl|wget|ADD|make|cmake|protoc|grpc_tools)\b|>"
)
DEPTH = 8  # of COPY --from and requirements that name one another


class Presence(StrEnum):
    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Mount:
    """What a container mounts over its image. source: the context's directory or file that it shows; None: something else."""

    target: str
    source: str | None


@dataclass(frozen=True)
class Place:
    """Where something was looked for. why: what hides it where that is not known."""

    presence: Presence
    why: str = ""


YES, NO = Place(Presence.YES), Place(Presence.NO)


@dataclass(frozen=True)
class Image:
    """A stage's image. mounts: what the container mounts over it."""

    stage: Stage
    files: Files
    mounts: tuple[Mount, ...] = ()
    depth: int = 0

    # -- paths

    def mount_of(self, path: str) -> Mount | None:
        found = [
            mount
            for mount in self.mounts
            if path == mount.target or path.startswith(f"{mount.target.rstrip('/')}/")
        ]
        return max(found, key=lambda mount: len(mount.target), default=None)

    def holds(self, path: str, directory: bool = False) -> Place:
        """Whether a file (or a directory with something in it) is there."""
        mount = self.mount_of(path)
        if mount is not None:
            if mount.source is None:
                return Place(Presence.UNKNOWN, f"the mount at {mount.target}")
            rest = posixpath.relpath(path, mount.target)
            name = posixpath.normpath(posixpath.join(mount.source, rest))
            name = "" if name == "." else name
            there = name in self.files.directories if directory else name in self.files.names
            return YES if there else NO
        unknown = ""
        for step in reversed(self.stage.copies()):
            found = self._copied(step, path, directory)
            if found.presence is Presence.YES:
                return found
            unknown = unknown or found.why
        unknown = unknown or ("the WORKDIR of the base image" if self._untold(path) else "")
        return Place(Presence.UNKNOWN, unknown) if unknown else NO

    def _untold(self, path: str) -> bool:
        """Whether a path may be one that was copied to, and only the base image's WORKDIR tells."""
        inside = path.startswith(UNTOLD)
        rest = path.partition(")")[2].lstrip("/") if inside else ""
        for step in self.stage.copies():
            there = step.target.startswith(UNTOLD)
            if there == inside:
                continue
            if inside and step.stage is None and not step.origin:
                if step.directory is False:
                    if posixpath.basename(step.target) == rest:
                        return True
                    continue
                name = posixpath.normpath(posixpath.join(step.source, rest))
                if name in self.files.names or name in self.files.directories:
                    return True
            elif there:
                tail = step.target.partition(")")[2]
                if not tail.strip("/") or f"{path}/".find(f"{tail.rstrip('/')}/") >= 0:
                    return True
        return False

    def _copied(self, step: Copied, path: str, directory: bool) -> Place:
        rest = _below(path, step.target)
        if step.missing:
            return Place(Presence.UNKNOWN, f"line {step.line}: {', '.join(step.missing)}")
        if directory and rest is None and step.target.startswith(f"{path.rstrip('/')}/"):
            return YES if step.origin != "nothing" else NO
        if rest is None:
            return NO
        if step.stage is not None:
            if self.depth >= DEPTH:
                return Place(Presence.UNKNOWN, f"line {step.line}")
            inner = Image(step.stage, self.files, (), self.depth + 1)
            source = posixpath.join(step.source, rest) if rest else step.source
            found = inner.holds(source, directory)
            if found.presence is Presence.NO and inner.may_make(source):
                return Place(
                    Presence.UNKNOWN,
                    f"line {step.line}: {step.source} of stage {step.stage.name or step.stage.number}",
                )
            return found
        if step.origin == "nothing":
            return NO
        if step.origin == "heredoc":
            return YES if not rest and not directory else NO
        if step.origin:
            return Place(Presence.UNKNOWN, f"line {step.line}: {step.origin}")
        if step.directory is False and rest:
            return NO
        if rest and step.excluded and _ignored(step.excluded, rest):
            return NO
        name = posixpath.normpath(posixpath.join(step.source, rest)) if rest else step.source
        name = "" if name == "." else name
        there = self.files.has_directory(name) if directory else self.files.has_file(name)
        if not there and not self.files.whole:
            return Place(Presence.UNKNOWN, "the context has too many files to list")
        return YES if there else NO

    def writes(self, path: str) -> bool:
        """Whether a RUN writes this very file, by its whole path or from the directory that it runs in."""
        for ran in self.stage.runs():
            names = {path, posixpath.relpath(path, ran.workdir)}
            if any(_names(words, names) for words in ran.commands):
                return True
            if any(
                re.search(rf"(?:>|\btee)\s*[\"']?{re.escape(name)}(?![\w./-])", ran.text) for name in names
            ):
                return True
        return False

    def may_make(self, path: str) -> bool:
        """Whether a RUN may have brought a path: it clones a repository, or names it and writes."""
        words = {posixpath.basename(path), posixpath.basename(path).partition(".")[0]} - {""}
        for ran in self.stage.runs():
            if BRINGS.search(ran.text):
                return True
            named = any(re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", ran.text) for word in words)
            if named and MAKES.search(ran.text):
                return True
        return False

    def context_name(self, path: str) -> str | None:
        """The context's file that a path of the image is; None where it is none."""
        mount = self.mount_of(path)
        if mount is not None:
            return (
                None
                if mount.source is None
                else posixpath.normpath(posixpath.join(mount.source, posixpath.relpath(path, mount.target)))
            )
        for step in reversed(self.stage.copies()):
            rest = _below(path, step.target)
            if rest is None or step.missing or (step.directory is False and rest):
                continue
            if step.stage is not None and self.depth < DEPTH:
                inner = Image(step.stage, self.files, (), self.depth + 1)
                found = inner.context_name(posixpath.join(step.source, rest) if rest else step.source)
                if found:
                    return found
            elif not step.origin:
                name = posixpath.normpath(posixpath.join(step.source, rest)) if rest else step.source
                if self.files.has_file(name):
                    return name
        return None

    def text(self, path: str) -> str | None:
        """The text of one of the image's files that came from the context."""
        name = self.context_name(path)
        return self.files.read(name) if name else None

    # -- modules

    def module(self, directory: str, dotted: str) -> Place:
        """Whether Python finds a module in a directory: NO with `why` where its package is there, and it is not in it."""
        parts = dotted.split(".")
        unknown = ""
        for at in range(len(parts)):
            path = posixpath.join(directory, *parts[: at + 1])
            last = at == len(parts) - 1
            found = [self.holds(f"{path}.py"), self.holds(path, directory=True)]
            if last and any(place.presence is Presence.YES for place in found):
                return YES
            if not last and found[1].presence is Presence.YES:
                continue
            if not last and found[0].presence is Presence.YES:
                return YES  # a module's attribute
            unknown = next((place.why for place in found if place.presence is Presence.UNKNOWN), "")
            if unknown:
                return Place(Presence.UNKNOWN, unknown)
            return Place(Presence.NO, posixpath.join(directory, *parts[:at]) if at else "")
        return NO

    # -- what is installed

    @cached_property
    def installed(self) -> tuple[tuple[Installed, Image], ...]:
        """Every installation that this image has, with the image as it was made in: its own, and those of stages that
        it copies from."""
        return tuple(self._installed(set()))

    def _installed(self, seen: set[int]) -> Iterator[tuple[Installed, Image]]:
        for stage in self.stage.chain:
            if stage.number in seen:
                continue
            seen.add(stage.number)
            for at, step in enumerate(stage.steps):
                if isinstance(step, Ran):
                    then = replace(stage, steps=stage.steps[:at])
                    for found in installations(step):
                        yield (
                            found,
                            Image(then, self.files, tuple(Mount(path, None) for path in step.mounted)),
                        )
                elif step.stage is not None:
                    yield from Image(step.stage, self.files)._installed(seen)

    @cached_property
    def distributions(self) -> tuple[frozenset[str], str]:
        """Names of what is installed, and what hides further ones (empty: nothing does)."""
        names: set[str] = set()
        hidden = ""
        for found, then in self.installed:
            names.update(found.names)
            hidden = hidden or (f"line {found.line}: {found.other[0]}" if found.other else "")
            for path in found.requirements:
                more, why = self._required(then, path, found.line, 0)
                names |= more
                hidden = hidden or why
            if found.project:
                names |= self._declared(then, found.project)
        return frozenset(names), hidden

    def _required(self, then: Image, path: str, line: int, depth: int) -> tuple[set[str], str]:
        name = then.context_name(path)
        if name is None:
            name = next(
                (item for item in self.files.names if posixpath.basename(item) == posixpath.basename(path)),
                None,
            )
        text = self.files.read(name) if name else None
        if text is None or depth > DEPTH:
            return set(), f"line {line}: {path}"
        names: set[str] = set()
        hidden = ""
        for row in re.sub(r"\\\n", " ", text).splitlines():
            bare = re.sub(r"(?:^|\s)#.*", "", row).strip()
            include = re.match(r"(?:-r|--requirement)[ =]?\s*(\S+)", bare)
            if include:
                more, why = self._required(
                    then, posixpath.join(posixpath.dirname(path), include[1]), line, depth + 1
                )
                names |= more
                hidden = hidden or why
            elif bare.startswith("-e") or re.match(r"(?:git\+|https?:|\.|/)", bare):
                hidden = hidden or f"{name}: {bare}"
            elif found := requirement(bare):
                names.add(found)
        return names, hidden

    def _declared(self, then: Image, project: str) -> set[str]:
        """Distributions that a project's pyproject.toml names, whatever the table."""
        text = then.text(posixpath.join(project, "pyproject.toml")) or ""
        return set(
            filter(
                None,
                (requirement(found) for found in re.findall(r"[\"']([A-Za-z0-9][^\"'\n]{0,200})[\"']", text)),
            )
        )

    def sources(self) -> Iterator[tuple[str, Image, Installed]]:
        """Directories whose packages are installed with a project: (directory, the image that has it, the installation)."""
        for found, then in self.installed:
            if not found.project:
                continue
            image = self if found.editable else then
            for name in ("", "src", "lib", "python"):
                yield posixpath.join(found.project, name).rstrip("/") or "/", image, found

    def foreign(self) -> str:
        """The image that this one begins with, where it may bring a program of its owner's."""
        return "" if FRAMEWORKS.fullmatch(self.stage.base.image) else self.opaque()

    def opaque(self) -> str:
        """The image that this one begins with, where nobody here knows what it brings."""
        base = self.stage.base
        return "" if PLAIN.fullmatch(base.image) and not base.missing else base.image or "?"

    def has(self, top: str) -> bool:
        """Whether something installed is called as the module is."""
        names = self.distributions[0]
        wanted = normalised(top)
        return wanted in names or any(
            name in (f"python-{wanted}", f"py{wanted}", f"{wanted}-python") for name in names
        )


def _names(words: tuple[str, ...], names: set[str]) -> bool:
    """Whether a command makes a file, or would fail where it is not there."""
    if not words or words[0] not in ("cp", "mv", "ln", "install", "curl", "wget", "touch", "chmod", "chown"):
        return False
    into = {f"{words[-1].rstrip('/')}/{posixpath.basename(word)}" for word in words[1:-1]}
    return bool(names & {*words[1:], *into})


def _ignored(patterns: tuple[str, ...], name: str) -> bool:
    """COPY --exclude goes by the patterns of .dockerignore, from the source on."""
    return dockerignore.parse("\n".join(patterns)).excluded(name) is not None


def _below(path: str, target: str) -> str | None:
    """The path relative to a target that is it, or that it lies under."""
    if path == target:
        return ""
    start = target.rstrip("/") + "/"
    return path[len(start) :] if path.startswith(start) else None
