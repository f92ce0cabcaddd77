"""A compose project's files as services: several -f, `include`, `extends`, anchors and `.env`, as Compose puts them together.

Pure: who calls gives a function that reads. What cannot be known (a remote include, a file that cannot be read) is told beside
what is known, with its file and line. Source: docs.docker.com compose-file; compose-go loader/, override/merge.go.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from errno import ENOENT, ENOTDIR

from gpumend.text.interpolate import Known, dotenv, resolve
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record
from gpumend.text.yaml_nodes import OVERRIDE, RESET, Source, Value, YamlError, read

# What `docker compose` takes where no -f is given: the first that is there, and the override beside it.
DEFAULTS = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
OVERRIDES = tuple(name.replace(".y", ".override.y") for name in DEFAULTS)
REMOTE = Pattern(r"(?:\w+://|git@|github\.com[/:]|oci:)")
MAX_FILES, MAX_CHAIN = 50, 10
# Lists that a later file takes the place of; every other list grows (compose-go override/merge.go).
REPLACED = {"command", "entrypoint", "test"}
Read = Callable[[str], bytes]


class Problem(Record):
    """What is wrong with a file (`wrong`), or cannot be known of it. line: 0 where it is the whole file."""

    path: str
    line: int
    text: str
    wrong: bool = False


class Service(Record):
    """A service with all that its files say of it. value: the merged mapping; its nodes stand in the files they came from.
    environment: the variables that its project knows. context: the directory that its relative paths begin at."""

    name: str
    value: Value
    known: Known = {}
    context: str = ""


class Project(Record):
    """files: every one that was read, by path; roots: what stands in each. given: those that were named (-f). problems: what
    keeps parts unknown. directory: the project's, empty for where we are. env_files: named in place of .env; envs: the bytes of
    each that was read. dockerfiles: on a host those that its services may be built from, masked (gpumend/payload/probe/builds.py);
    unread: why one that is there could not be read."""

    given: tuple[str, ...]
    files: Mapping[str, Source] = {}
    services: Mapping[str, Service] = {}
    problems: tuple[Problem, ...] = ()
    roots: Mapping[str, Value] = {}
    directory: str = ""
    env_files: tuple[str, ...] = ()
    envs: Mapping[str, bytes] = {}

    dockerfiles: Mapping[str, str] = {}
    unread: Mapping[str, str] = {}

    def again(self, opener: Read) -> Project:
        """The same project of other bytes."""
        return project(self.given, opener, directory=self.directory, env_files=self.env_files)


def project(
    given: Iterable[str],
    opener: Read,
    known: Known | None = None,
    directory: str | None = None,
    env_files: Iterable[str] = (),
) -> Project:
    """The project of these files. known: variables that count before .env's. directory: the project's, where it is not that of the
    first file; env_files: what `--env-file` named in place of .env. Never raises for what a file holds."""
    paths = tuple(given)
    loader = _Loader(opener, dict(known or {}))
    base = posixpath.dirname(paths[0]) if paths and directory is None else directory or ""
    named = tuple(env_files)
    services = loader.project(paths, base, loader.env(base, named), 0)
    roots = {path: root for path, root in loader.roots.items() if root is not None}
    problems = tuple(dict.fromkeys(loader.problems))
    return Project(paths, loader.files, services, problems, roots, base, named, loader.envs)


class _Loader:
    def __init__(self, opener: Read, known: dict[str, str | None]) -> None:
        self.opener = opener
        self.known = known
        self.files: dict[str, Source] = {}
        self.roots: dict[str, Value | None] = {}
        self.envs: dict[str, bytes] = {}
        self.problems: list[Problem] = []

    def env(self, directory: str, named: Iterable[str] = ()) -> dict[str, str | None]:
        """The variables of a project's .env; those of the caller count before them. That a file is there, and cannot be read, is
        told: what it sets is not known."""
        found: dict[str, str | None] = {}
        paths = tuple(named)
        for path in paths or (posixpath.join(directory, ".env"),):
            try:
                self.envs[path] = self.opener(path)
                found |= dotenv(self.envs[path].decode("utf-8", "replace"))
            except OSError as error:
                if paths or error.errno not in (ENOENT, ENOTDIR):
                    self.tell(path, 0, f"the variables that it sets: {error.strerror or error}")
        return {**found, **self.known}

    def root(self, path: str) -> Value | None:
        """The mapping of a file; None where there is none, and why is told."""
        if path in self.roots:
            return self.roots[path]
        self.roots[path] = None
        if len(self.files) >= MAX_FILES:
            self.tell(path, 0, f"more than {MAX_FILES} files")
            return None
        try:
            source = read(path, self.opener(path))
            self.files[path] = source
            from gpumend.text.yaml_tree import load  # loads PyYAML, and most hosts have no compose file

            found = load(source)
        except OSError as error:
            self.tell(path, 0, error.strerror or str(error))
            return None
        except YamlError as error:
            self.tell(path, error.line, str(error), wrong=not error.unread)
            return None
        if found is not None and found.kind != "map" and not found.null:
            self.tell(path, found.line, "not a mapping", wrong=True)
            return None
        self.roots[path] = found if found is not None and found.kind == "map" else None
        return self.roots[path]

    def tell(self, path: str, line: int, text: str, wrong: bool = False) -> None:
        self.problems.append(Problem(path, line, text, wrong))

    def project(self, paths: tuple[str, ...], directory: str, known: Known, depth: int) -> dict[str, Service]:
        """Every service of these files, each one's mapping merged in their order, and of what they include. directory: the
        project's, at which relative paths of all of them begin."""
        found: dict[str, Service] = {}
        for path in paths:
            root = self.root(path)
            if root is None:
                continue
            for name, service in self.included(root, directory, known, depth):
                found[name] = service
            for name, value in self.services(root, path):
                base = self.extended(value, path, directory, known, (f"{path}#{name}",))
                if name in found:
                    merged = merge(found[name].value, base)
                    found[name] = found[name]._replace(value=merged)
                else:
                    found[name] = Service(name, base, known, directory)
        return found

    def services(self, root: Value, path: str) -> Iterator[tuple[str, Value]]:
        listed = root.get("services")
        if listed is None or listed.null:
            return
        if listed.kind != "map":
            self.tell(path, listed.line, "services is not a mapping", wrong=True)
            return
        for name, value in listed.entries.items():
            if value.kind == "map":
                yield name, value
            elif not value.null:
                self.tell(path, value.line, f"service {name} is not a mapping", wrong=True)

    def included(
        self, root: Value, directory: str, known: Known, depth: int
    ) -> Iterator[tuple[str, Service]]:
        listed = root.get("include")
        for item in listed.items if listed is not None else ():
            path_value = item if item.kind == "scalar" else item.get("path")
            values = [] if path_value is None else path_value.items or (path_value,)
            where = item.source.path
            paths = []
            for value in values:
                text = resolve(value.text, known)
                if text.unknown:
                    self.tell(where, value.line, f"include of {value.text!r}: {names(text.unknown)}")
                elif REMOTE.match(text.text):
                    self.tell(where, value.line, "an include from elsewhere is not fetched")
                else:
                    paths.append(posixpath.normpath(posixpath.join(directory, text.text)))
            if not paths:
                continue
            if depth >= MAX_CHAIN:
                self.tell(where, item.line, f"includes more than {MAX_CHAIN} deep")
                continue
            env = item.get("env_file")
            named = [] if env is None else [found.text for found in env.items or (env,)]
            inner = item.get("project_directory")
            base = posixpath.dirname(paths[0])
            if inner is not None:
                base = posixpath.normpath(posixpath.join(directory, inner.text))
            own = self.env(base, [posixpath.join(directory, name) for name in named])
            services = self.project(tuple(paths), base, {**own, **known}, depth + 1)
            yield from services.items()

    def extended(
        self, value: Value, path: str, directory: str, known: Known, chain: tuple[str, ...]
    ) -> Value:
        """The service on top of the one that it extends. directory: at which its file's paths begin."""
        said = value.get("extends")
        if said is None or said.null:
            return value
        name = said.text if said.kind == "scalar" else getattr(said.get("service"), "text", "")
        file = said.get("file")
        where = path
        if file is not None:
            text = resolve(file.text, known)
            if text.unknown or REMOTE.match(text.text):
                why = names(text.unknown) if text.unknown else "it lies elsewhere and is not fetched"
                self.tell(path, said.line, f"extends a file that is not known: {why}")
                return value
            where = posixpath.normpath(posixpath.join(directory, text.text))
        key = f"{where}#{name}"
        if key in chain or len(chain) > MAX_CHAIN:
            self.tell(path, said.line, f"extends itself: {name}", wrong=True)
            return value
        root = self.root(where)
        base = root.get("services", name) if root is not None else None
        if base is None or base.kind != "map":
            if root is not None:
                self.tell(path, said.line, f"extends {name}, which is not in {where}", wrong=True)
            return value
        beside = directory if where == path else posixpath.dirname(where)
        return merge(self.extended(base, where, beside, known, (*chain, key)), value)


def names(variables: Iterable[str]) -> str:
    found = [f"${{{name}}}" for name in variables]
    return f"{', '.join(found)} {'has' if len(found) == 1 else 'have'} no value here"


def merge(base: Value, over: Value, key: str = "") -> Value:
    """What counts where a later file, or who extends, says more: mappings by key, lists one after the other."""
    if over.tag == OVERRIDE:
        return over
    if base.kind == "map" and over.kind == "map":
        entries = dict(base.entries)
        for name, value in over.entries.items():
            if value.tag == RESET:
                entries.pop(name, None)
            else:
                entries[name] = merge(entries[name], value, name) if name in entries else value
        return over._replace(
            entries=entries,
            keys={**base.keys, **over.keys},
            owners={**base.owners, **over.owners},
        )
    if key == "environment" and {base.kind, over.kind} <= {"map", "seq"}:
        return over._replace(
            kind="map", entries={**environment(base), **environment(over)}, items=(), keys={}, owners={}
        )
    if base.kind == "seq" and over.kind == "seq" and key not in REPLACED:
        return over._replace(items=(*base.items, *over.items))
    return base if over.null and base.kind != "scalar" else over


def environment(value: Value | None) -> dict[str, Value]:
    """A service's environment by name; of a list's items the whole item (`NAME=value`) as its value."""
    if value is None:
        return {}
    if value.kind == "map":
        return dict(value.entries)
    return {item.text.partition("=")[0]: item for item in value.items if item.kind == "scalar"}
