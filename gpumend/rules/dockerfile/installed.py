"""What a stage installs: distributions by name, and projects from their source."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpumend.rules.dockerfile.program import unwrapped
from gpumend.rules.dockerfile.stages import Ran

# pip's, uv's and poetry's options that take a value and matter here.
VALUES = (
    "-i", "--index-url", "--extra-index-url", "-f", "--find-links", "-c", "--constraint", "--prefix",
    "--target", "-t", "--root", "--python", "-p", "--trusted-host", "--platform", "--cache-dir",
    "--timeout", "--retries", "--group", "--extra", "--only", "--with", "--without", "-E", "--extras",
    "--no-binary", "--only-binary", "--index", "--default-index", "--log", "--upgrade-strategy",
    "--implementation", "--abi", "--python-version", "-d", "--dest", "-w", "--wheel-dir",
)  # fmt: skip


@dataclass(frozen=True)
class Installed:
    """One installation. names: of distributions, as they are normalised. project: the directory whose project it installs.
    editable: the project's source has to stay where it is. requirements: files that name more. other: something else, which is
    not told by its name (an URL, a wheel, a variable)."""

    line: int
    names: tuple[str, ...] = ()
    project: str = ""
    editable: bool = False
    requirements: tuple[str, ...] = ()
    other: tuple[str, ...] = ()


def normalised(name: str) -> str:
    """PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirement(text: str) -> str:
    """The distribution's name of a requirement; empty where it has none."""
    found = re.match(r"([A-Za-z0-9][\w.-]*)\s*(?:\[[^\]]*\])?\s*(?:$|[<>=!~;@,( ])", text.strip())
    return normalised(found[1]) if found else ""


def installations(ran: Ran) -> Iterator[Installed]:
    directory = ran.workdir
    for command in ran.commands:
        words = unwrapped(command, {})
        if len(words) > 1 and words[0] == "cd":
            directory = posixpath.normpath(posixpath.join(directory, words[1]))
            continue
        found = _one(ran.line, words, directory)
        if found is not None:
            yield found


def _one(line: int, words: tuple[str, ...], directory: str) -> Installed | None:
    if not words:
        return None
    name, rest = posixpath.basename(words[0]), words[1:]
    if re.fullmatch(r"python(?:3(?:\.\d+)?)?", name) and rest[:1] == ("-m",):
        name, rest = rest[1] if len(rest) > 1 else "", rest[2:]
    if name == "uv" and rest[:1] == ("pip",):
        name, rest = "pip", rest[1:]
    if re.fullmatch(r"pip(?:3(?:\.\d+)?)?|pipx", name) and rest[:1] in (("install",), ("wheel",)):
        return _pip(line, rest[1:], directory)
    if name == "uv" and rest[:1] == ("sync",):
        if "--no-install-project" in rest:
            return Installed(line, other=("uv.lock",))
        return Installed(line, project=directory, editable="--no-editable" not in rest, other=("uv.lock",))
    if name in ("poetry", "pdm", "pipenv", "hatch", "rye") and rest[:1] in (("install",), ("sync",)):
        if {"--no-root", "--no-self"} & set(rest) or name == "pipenv":
            return Installed(line, other=(f"{name}'s lock file",))
        return Installed(
            line, project=directory, editable="--no-editable" not in rest, other=(f"{name}'s lock file",)
        )
    if name in ("conda", "mamba", "micromamba") and ("install" in rest or "create" in rest or "env" in rest):
        names = tuple(filter(None, (requirement(word) for word in rest if not word.startswith("-"))))
        return Installed(line, names, other=("conda",))
    if name == "setup.py" or (
        name.startswith("python") and rest[:2] in (("setup.py", "install"), ("setup.py", "develop"))
    ):
        return Installed(line, project=directory, editable="develop" in rest)
    if name in ("apt-get", "apt", "apk", "dnf", "yum", "microdnf", "zypper"):
        packages = [word for word in rest if re.match(r"(?:python3|py3)-", word)]
        return Installed(line, tuple(normalised(re.sub(r"^(?:python3|py3)-", "", word)) for word in packages))
    return None


def _pip(line: int, words: tuple[str, ...], directory: str) -> Installed:
    names, requirements, other, project, editable = [], [], [], "", False
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word in ("-r", "--requirement") and at < len(words):
            requirements.append(posixpath.normpath(posixpath.join(directory, words[at])))
            at += 1
        elif (word.startswith(("-r", "--requirement=")) and not word.startswith("--r")) or word.startswith(
            "--requirement="
        ):
            path = word.partition("=")[2] or word[2:]
            requirements.append(posixpath.normpath(posixpath.join(directory, path)))
        elif word in ("-e", "--editable"):
            editable = True
        elif word in VALUES:
            at += 1
        elif word.startswith("-"):
            continue
        elif re.match(r"(?:\.{1,2}|/|\./)", word) and not re.search(r"\.(?:whl|tar\.gz|zip)$|\*", word):
            project = posixpath.normpath(posixpath.join(directory, re.sub(r"\[[^\[\]]*\]$", "", word)))
        elif re.search(r"[$*/:]|\.whl$", word) or word in ("<", ">", "2"):
            other.append(word)
        elif found := requirement(word):
            names.append(found)
    return Installed(line, tuple(names), project, editable, tuple(requirements), tuple(other))
