"""What a container's command runs: the Python modules and scripts that have to be in its image, and where Python looks for them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from gpumend.rules.dockerfile.stages import commands
from gpumend.text.pattern import Pattern

# Programs that only start another one, and their options that take a value (their manual pages and --help).
WRAPPERS: Mapping[str, tuple[str, ...]] = {
    "exec": (),
    "tini": ("-p", "-e"),
    "dumb-init": ("-r", "--rewrite"),
    "nohup": (),
    "nice": ("-n", "--adjustment"),
    "ionice": ("-c", "-n"),
    "stdbuf": ("-i", "-o", "-e"),
    "time": (),
    "setsid": (),
    "numactl": (),
    "catchsegv": (),
    "opentelemetry-instrument": (),
    "ddtrace-run": (),
    "newrelic-admin": (),
    "xvfb-run": ("-s", "-n", "-e", "-f", "-l", "-w"),
    "nsys": ("-o", "-t", "--trace", "--output"),
}
# Programs that start another one after some words of their own.
AFTER: Mapping[str, int] = {"timeout": 1, "gosu": 1, "su-exec": 1, "setpriv": 0, "chpst": 0}
RUNNERS = {
    "poetry": "run",
    "uv": "run",
    "pipenv": "run",
    "pdm": "run",
    "hatch": "run",
    "rye": "run",
    "conda": "run",
}
RUNNERS |= {"mamba": "run", "micromamba": "run", "nsys": "profile", "newrelic-admin": "run-program"}
RUN_VALUES = ("-n", "--name", "-p", "--prefix", "--with", "--extra", "--python", "--group", "-o", "-t")
PYTHON = Pattern(r"(?:/\S*/)?(?:python|pypy)(?:3(?:\.\d+)?)?")
# python's own options that take a value (python --help); -m and -c end them.
PYTHON_VALUES = ("-W", "-X", "--check-hash-based-pycs")
ASGI = ("uvicorn", "hypercorn", "daphne", "granian", "gunicorn", "waitress-serve", "uwsgi")
OBJECT = Pattern(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_][\w.]*(?:\(.*\))?")
DOTTED = Pattern(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")
# Modules that are run with -m and run another one, under the command's name.
BY_MODULE = {
    "uvicorn": "uvicorn",
    "hypercorn": "hypercorn",
    "daphne": "daphne",
    "gunicorn": "gunicorn",
    "celery": "celery",
    "flask": "flask",
    "dramatiq": "dramatiq",
    "arq": "arq",
    "streamlit": "streamlit",
    "torch.distributed.run": "torchrun",
    "torch.distributed.launch": "torchrun",
    "accelerate.commands.launch": "torchrun",
    "debugpy": "python",
}
LAUNCHERS = ("torchrun", "deepspeed", "accelerate", "horovodrun", "mpirun", "mpiexec")
# Options of launchers that take no value; every other one that is not written with `=` takes one (torchrun --help,
# accelerate launch --help).
LAUNCHER_FLAGS = Pattern(
    r"--(?:standalone|no[-_]python|module|multi[-_]gpu|use_deepspeed|use_fsdp|cpu|tpu|quiet|debug|allow-run-as-root|force_multi"
    r"|no_local_rank|autotuning|save_pid|run[-_]path|same_network)|-m|-q"
)


@dataclass(frozen=True)
class Target:
    """kind: `module` (dotted name), `script` (path), or `console` (a script that a distribution installs). directory: where
    the command runs. first: directories that come before PYTHONPATH; said: the words that ask for it."""

    kind: str
    name: str
    said: str
    first: tuple[str, ...] = ()
    directory: str = "/"


@dataclass(frozen=True)
class Running:
    """The state in which a command runs."""

    directory: str
    env: Mapping[str, str | None]
    read: Callable[[str], str | None]  # a script of the image, by its path
    depth: int = 0


def _option(words: tuple[str, ...], *names: str) -> str | None:
    for at, word in enumerate(words):
        for name in names:
            if word.startswith(f"{name}="):
                return word.partition("=")[2]
            if word == name and at + 1 < len(words):
                return words[at + 1]
            if len(name) == 2 and word.startswith(name) and len(word) > 2 and not word.startswith("--"):
                return word[2:]
    return None


def _join(directory: str, path: str) -> str:
    return posixpath.normpath(posixpath.join(directory, path))


def _name(word: str) -> str:
    return posixpath.basename(word)


def unwrapped(words: tuple[str, ...], env: dict[str, str | None]) -> tuple[str, ...]:
    """The command behind what only starts it; assignments before it are put into `env`."""
    for _ in range(12):
        while words and (found := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", words[0], re.DOTALL)):
            env[found[1]] = found[2]
            words = words[1:]
        if not words:
            return words
        name = _name(words[0])
        if name == "env":
            words = words[1:]
            while words and words[0].startswith("-") and "=" not in words[0]:
                words = words[2:] if words[0] in ("-u", "-C", "--unset", "--chdir") else words[1:]
        elif name in RUNNERS and RUNNERS[name] in words[1:]:
            words = words[words.index(RUNNERS[name]) + 1 :]
            while words and words[0].startswith("-") and words[0] != "--":
                words = words[2:] if words[0] in RUN_VALUES else words[1:]
            words = words[1:] if words and words[0] == "--" else words
        elif name in WRAPPERS or name in AFTER:
            values, skip = WRAPPERS.get(name, ()), AFTER.get(name, 0)
            words = words[1:]
            while words and words[0].startswith("-"):
                if words[0] == "--":
                    words = words[1:]
                    break
                words = words[2:] if words[0] in values else words[1:]
            words = words[skip:]
        else:
            return words
    return words


def targets(words: tuple[str, ...], running: Running) -> Iterator[Target]:
    """Everything of Python's that the command has to find in its image. Total: a command that nobody knows gives nothing."""
    env = dict(running.env)
    words = unwrapped(tuple(words), env)
    if not words or running.depth > 4:
        return
    running = replace(running, env=env, depth=running.depth + 1)
    name = _name(words[0])
    if re.fullmatch(r"(?:ba|da|a|z)?sh", name):
        yield from _shell(words, running)
    elif PYTHON.fullmatch(words[0]):
        yield from _python(words, running)
    elif name in ASGI:
        yield from _server(name, words, running)
    elif name in LAUNCHERS:
        yield from _launcher(name, words, running)
    elif name in ("celery", "flask", "dramatiq", "arq", "rq"):
        yield from _worker(name, words, running)
    elif name in ("streamlit", "fastapi", "chainlit", "gradio", "bentoml"):
        script = next((word for word in words[1:] if re.search(r"\.py$", word)), None)
        if script:
            yield _script(script, words, running)
    elif "/" in words[0] or words[0].endswith((".sh", ".py")):
        yield from _file(words, running)
    else:
        yield Target("console", name, name, (), running.directory)


# A shell's words that begin a test or a loop's head, and not what is run under it.
NOT_RUN = ("if", "while", "!", "fi", "done", "esac", "case", "for", "until", "function")


def _shell(words: tuple[str, ...], running: Running) -> Iterator[Target]:
    for at, word in enumerate(words[1:], 1):
        if re.fullmatch(r"-[a-z]*c", word) and at + 1 < len(words):
            yield from lines(words[at + 1], running, words[at + 2 :])
            return
        if not word.startswith("-"):
            yield from _file(words[at:], running)
            return


def lines(text: str, running: Running, arguments: tuple[str, ...] = ()) -> Iterator[Target]:
    """Every command of a shell's text, `cd` followed. What stands under a condition counts too, where it is no test."""
    bare = "\n".join(re.sub(r"(?:^|\s)#.*", "", row) for row in text.splitlines())
    for command in commands(bare):
        while command and command[0] in ("then", "do", "else", "{"):
            command = command[1:]
        if not command or command[0] in NOT_RUN:
            continue
        if command[0] == "export":
            told = [word.partition("=") for word in command[1:] if "=" in word]
            running = replace(running, env={**running.env, **{name: value for name, _, value in told}})
        elif len(command) > 1 and command[0] == "cd" and "$" not in command[1]:
            running = replace(running, directory=_join(running.directory, command[1]))
        elif "$@" in command or "$*" in command:
            before = tuple(word for word in command if word not in ("$@", "$*"))
            yield from targets((*before, *arguments), running)
        else:
            yield from targets(command, running)


def _python(words: tuple[str, ...], running: Running) -> Iterator[Target]:
    at = 1
    while at < len(words):
        word = words[at]
        if word == "-m" or (word.startswith("-m") and len(word) > 2 and not word.startswith("--")):
            module = word[2:] or (words[at + 1] if at + 1 < len(words) else "")
            rest = words[at + (1 if word[2:] else 2) :]
            if module in BY_MODULE:
                yield from targets((BY_MODULE[module], *rest), running)
            elif DOTTED.fullmatch(module):
                yield Target("module", module, f"-m {module}", (running.directory,), running.directory)
            return
        if word == "-c" or word == "-":
            return
        if word.startswith("-"):
            at += 2 if word in PYTHON_VALUES else 1
            continue
        yield _script(word, words, running)
        if posixpath.basename(word) == "manage.py":
            yield from _django(running)
        return


def _django(running: Running) -> Iterator[Target]:
    settings = running.env.get("DJANGO_SETTINGS_MODULE")
    if settings and DOTTED.fullmatch(settings):
        said = f"DJANGO_SETTINGS_MODULE={settings}"
        yield Target("module", settings, said, (running.directory,), running.directory)


def _script(path: str, words: tuple[str, ...], running: Running) -> Target:
    said = f"{_name(words[0])} {path}"  # and no more: arguments may be secrets
    return Target("script", _join(running.directory, path), said, (), running.directory)


def _server(name: str, words: tuple[str, ...], running: Running) -> Iterator[Target]:
    where = _option(words, "--app-dir", "--chdir", "--working-dir") or "."
    first: tuple[str, ...] = (_join(running.directory, where),)
    extra = _option(words, "--pythonpath", "--python-path") or ""
    first += tuple(_join(first[0], part) for part in re.split("[,:]", extra) if part)
    for word in words[1:]:
        if found := OBJECT.fullmatch(word):
            yield Target("module", found[1], f"{name} {word}", first, first[0])
            return
    for word in words[1:]:
        if re.fullmatch(r"(?:[A-Za-z_]\w*\.)+(?:wsgi|asgi)", word):
            yield Target("module", word, f"{name} {word}", first, first[0])
            return


def _launcher(name: str, words: tuple[str, ...], running: Running) -> Iterator[Target]:
    if name in ("mpirun", "mpiexec", "horovodrun"):
        for at, word in enumerate(words):
            if PYTHON.fullmatch(word):
                yield from targets(words[at:], running)
                return
        return
    rest = words[1:]
    if name == "accelerate":
        if "launch" not in rest:
            return
        rest = rest[rest.index("launch") + 1 :]
    at, module = 0, False
    while at < len(rest):
        word = rest[at]
        if not word.startswith("-"):
            break
        module = module or word in ("-m", "--module")
        if word in ("--no-python", "--no_python"):
            return
        at += 1 if "=" in word or LAUNCHER_FLAGS.fullmatch(word) else 2
    if at >= len(rest):
        return
    if module and DOTTED.fullmatch(rest[at]):
        yield Target("module", rest[at], f"{name} -m {rest[at]}", (running.directory,), running.directory)
    elif rest[at].endswith(".py"):
        yield _script(rest[at], (name, rest[at]), running)


def _worker(name: str, words: tuple[str, ...], running: Running) -> Iterator[Target]:
    first: tuple[str, ...] = (running.directory,)
    found: str | None = None
    if name == "celery":
        found = _option(words, "-A", "--app") or running.env.get("CELERY_APP")
        if where := _option(words, "--workdir"):
            first = (_join(running.directory, where),)
    elif name == "flask":
        found = _option(words, "--app", "-A") or running.env.get("FLASK_APP")
    elif name == "arq":
        found = next(
            (word.rpartition(".")[0] for word in words[1:] if "." in word and DOTTED.fullmatch(word)), None
        )
    elif name == "dramatiq":
        found = next((word for word in words[1:] if DOTTED.fullmatch(word.partition(":")[0])), None)
    if not found:
        return
    said = f"{name} {found}"
    if found.endswith(".py") or "/" in found:
        yield Target("script", _join(first[0], found.partition(":")[0]), said, (), first[0])
    elif DOTTED.fullmatch(found.partition(":")[0]):
        yield Target("module", found.partition(":")[0], said, first, first[0])


def _file(words: tuple[str, ...], running: Running) -> Iterator[Target]:
    """A script that is run by its path: itself, and what it runs in turn."""
    path = _join(running.directory, words[0])
    if re.search(r"/s?bin/[^/.]+$", words[0]):  # an installed program
        yield from targets((_name(words[0]), *words[1:]), running)
        return
    yield Target("script", path, words[0], (), running.directory)
    text = running.read(path)
    if text is None:
        yield from targets(words[1:], running)  # an entry point that ends in `exec "$@"`, most likely
        return
    shebang = text.partition("\n")[0]
    if path.endswith(".py") or "python" in shebang:
        return
    yield from lines(text, running, words[1:])
