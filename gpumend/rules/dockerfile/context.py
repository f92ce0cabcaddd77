"""A build's context: the files that COPY can take."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from gpumend.text import dockerignore
from gpumend.text.dockerignore import Ignore, Rule


@dataclass(frozen=True)
class Files:
    """names: of all files, from the context's root. read: the text of one, None where it cannot be had. whole: whether all
    were listed; without that, nothing is told from what is not in `names`."""

    names: frozenset[str] = frozenset()
    read: Callable[[str], str | None] = field(default=lambda _: None, compare=False)
    ignore: Ignore = field(default_factory=Ignore)
    whole: bool = True

    @cached_property
    def directories(self) -> frozenset[str]:
        found = {""}
        for name in self.names:
            while "/" in name:
                name = name.rpartition("/")[0]
                if name in found:
                    break
                found.add(name)
        return frozenset(found)

    def kept_out(self, name: str) -> Rule | None:
        """The rule of .dockerignore that keeps a file, or every file of a directory, out of the build."""
        if name in self.names:
            return self.ignore.excluded(name)
        last = None
        for inside in self.below(name):
            last = self.ignore.excluded(inside)
            if last is None:
                return None
        return last

    @cached_property
    def ordered(self) -> tuple[str, ...]:
        return tuple(sorted(self.names))

    def below(self, directory: str) -> Iterator[str]:
        start = f"{directory}/" if directory else ""
        for at in range(bisect_left(self.ordered, start), len(self.ordered)):
            if not self.ordered[at].startswith(start):
                return
            yield self.ordered[at]

    def has_file(self, name: str) -> bool:
        """Whether a build sees the file."""
        return name in self.names and self.ignore.excluded(name) is None

    def has_directory(self, name: str) -> bool:
        """Whether a build sees the directory: one of its files, at least."""
        if name not in self.directories:
            return False
        return not self.ignore.rules or any(
            self.ignore.excluded(inside) is None for inside in self.below(name)
        )

    def matches(self, source: str) -> tuple[str, ...]:
        """What a source of COPY means: names of files and directories, those that a build does not see among them."""
        bare = re.sub(r"/{2,}", "/", source).strip("/")
        while bare.startswith("./"):
            bare = bare[2:].lstrip("/")
        bare = "" if bare == "." else bare
        if not re.search(r"[*?\[]", bare):
            return (bare,) if bare in self.names or bare in self.directories else ()
        wanted = dockerignore.pattern(bare)
        return tuple(
            sorted(name for name in self.names | self.directories if name and wanted.fullmatch(name))
        )
