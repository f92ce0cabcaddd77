"""Compose files of a host's projects, as far as they may leave it: their shape, and what asks for GPUs. Every other word is masked
by as many x, so that a place in what is sent is the same place in the file. Of .env the variables by which a GPU is asked for."""

import os
import re
import stat
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from gpumend.payload.probe.builds import MAX_DOCKERFILES, dockerfile
from gpumend.payload.probe.execution import idle_group, resolved
from gpumend.payload.probe.files import ANYBODY, Json, Named, digest_of, failure, opened

MAX_COMPOSE_BYTES = 1 << 18  # of 419 public ones the largest has 60 KiB
MAX_FOLLOWED = 20  # names that one project's files include or extend
MAX_FOLLOWED_BYTES = 1 << 18  # of them all

# What is sent as it stands: names of devices, and the words of requests for them.
PLAIN = re.compile(
    r"-?(?:\d{1,3}|(?:GPU|MIG)-[0-9a-fA-F/-]{8,60}|nvidia\.com/gpu|nvidia(?:\.cdi|\.runtime-hook)?|cdi|gpu|all|none|void|amd|intel"
    r"|runc|compute|utility|compat32|graphics|video|display|ngx|tpu|true|false|null|~|/dev/nvidia[\w-]{0,20}"
    r"|NVIDIA_VISIBLE_DEVICES|CUDA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES)"
)
# Variables by names of which nobody makes a password: what stands behind a $ may be one with a $ in it.
VARIABLE = r"\$\{?(?=[A-Z_]*(?:GPU|CUDA|NVIDIA|DEVICE))[A-Z_][A-Z0-9_]{0,60}"
INNER = re.compile(r"(" + VARIABLE + r")|[^\s,={}:$]+")  # in quotes
# In the order they are tried at a place: a comment; a text in quotes; a variable's name; an anchor, an alias or a tag of Compose's;
# a key of a flow mapping; a word. What is none of them is YAML's own: blanks and signs.
PIECE = re.compile(
    r"(?P<comment>(?:^|(?<=\s))\#.*)"
    r"|(?P<key>(?:\"[\w.-]{1,64}\"|'[\w.-]{1,64}')(?=[ \t]*:))"
    r"|(?P<quoted>(?<![^\s\[{,:=-])(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'))"
    r"|(?P<kept>" + VARIABLE + r"|(?<![^\s\[{,])[&*][\w.-]{1,60}|(?<!\S)!(?:reset|override|!str|!int)\b"
    r"|(?<=[{,\s])[\w.-]{1,64}(?=:\s))"
    r"|(?P<word>[^\s\[\]{},:=$#&*!|>'\"-][^\s\[\]{},:=$]*|-+[^\s\[\]{},:=$-][^\s\[\]{},:=$]*|[#&*!|>'\"])"
    r"|(?P<dashes>-+)"  # a run of them at once: whoever writes a thousand has the rest read in a thousand steps
)
KEY = re.compile(r"[ \t]*(?:-[ \t]+)*(?:[\"']?[\w./-]{1,64}[\"']?|<<)[ \t]*:(?=\s|$)")
# Keys, and variables of an environment, that say which GPU is asked for, or what else a project is made of.
WORDS = (
    r"(?:count|device_ids|driver|capabilities|gpus|runtime|devices|include|extends|file|path"
    r"|NVIDIA_VISIBLE_DEVICES|CUDA_VISIBLE_DEVICES|NVIDIA_DRIVER_CAPABILITIES)"
)
ASKS = re.compile(r"(?:^|[\s{,\"'\[])" + WORDS + r"[\"']?(?:[ \t]*:(?:\s|$)|=)")
ITEM = re.compile(r"[ \t]*-(?:\s|$)")
YAML_FILE = re.compile(r"[\w./-]{1,200}\.ya?ml")
# In a line that asks, a file's name, the name of a variable, and what is extended, leave the host.
LEAVING = re.compile(
    r"(?P<file>(?<=[\s\"'\[,])[\w./-]{1,200}\.ya?ml(?=[\s\"'\],}]|$))"
    r"|(?P<far>(?<=[\s\"'\[,])(?:https?://|ssh://|git://|git@|oci://))"
    r"|(?P<name>(?<!\$)\$(?:\{[A-Za-z_]\w{0,60}(?=[}:?+-])|[A-Za-z_]\w{0,60}))|(?P<of>\bservice:[ ]+[\w.-]{1,64}(?=[ ]*[,}]))"
)
# What an image is built from: places, and versions and names of images.
MADE = re.compile(
    r"(?:^|[\s{,\"'\[])(?P<key>build|context|dockerfile|target|(?:BASE|CUDA|CUDNN|UBUNTU|PYTHON)_(?:VERSION|IMAGE|TAG))[\"']?"
    r"(?:[ \t]*:[ \t]+|=)[\"']?(?P<value>[\w./:-]{1,200})(?=[\s\"'\],}]|$)"
)
ENV_LINE = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][\w.-]{0,60})[ \t]*[=:][ \t]*(.*)")
BLOCK = re.compile(r"^(?:.*[:-]|[ \t]*-)[ \t]+(?:[&!][\w.-]+[ \t]+)*[|>][-+0-9]{0,2}[ \t]*(?:#.*)?$")
SIGNS = re.compile(r"[|>][-+0-9]{0,2}[ \t]*$")
# What names another service of the same file.
NAMES = re.compile(r"[ \t]*(?:-[ \t]+)?(?:extends|service)[ \t]*:[ \t]+[\"']?[\w./-]+[\"']?[ \t]*$")


def crossed(text: str) -> str:
    """As many x as the text has characters that are no blanks."""
    return re.sub(r"\S", "x", text)


def masked_word(found: Any) -> str:
    text: str = found.group()
    return text if found.group(1) or PLAIN.fullmatch(text) else "x" * len(text)


def masked_piece(found: Any) -> str:
    text: str = found.group()
    if found.lastgroup in ("kept", "key", "dashes"):
        return text
    if found.lastgroup == "comment":
        return text[0] + crossed(text[1:])
    if found.lastgroup == "quoted":
        return text[0] + INNER.sub(masked_word, text[1:-1]) + text[-1]
    return text if PLAIN.fullmatch(text) else "x" * len(text)


def masked_line(line: str, asks: bool = False) -> str:
    """A line outside of block scalars. asks: it says which GPU is asked for, or what else a project is made of."""
    if NAMES.match(line) or line.strip() in ("---", "..."):
        return line
    key = KEY.match(line)
    start = key.end() if key else 0
    end = len(line)
    block = SIGNS.search(line) if BLOCK.match(line) else None
    if block:
        end = block.start()
    found = line[:start] + PIECE.sub(masked_piece, line[start:end]) + line[end:]
    for kept in askers(line) if asks else ():
        found = found[: kept.start()] + kept.group() + found[kept.end() :]
    for kept in builders(line):
        at, behind = kept.span("value")
        found = found[:at] + line[at:behind] + found[behind:]
    return found


def uncommented(line: str) -> str:
    """A line's beginning, as far as its comment."""
    return re.split(r"(?:^|(?<=\s))#", line[:4096], maxsplit=1)[0]


def builders(line: str) -> List[Any]:
    """What a line says of how an image is built: matches, none of them in a comment."""
    return list(MADE.finditer(uncommented(line)))


def builds(text: str) -> List[str]:
    """The Dockerfiles that a compose file may mean, relative to its directory: each name in each context."""
    contexts, names, built = ["."], ["Dockerfile"], False
    for line, _, block, _ in lines_of(text):
        for found in builders(line) if not block else ():
            wanted = {"build": contexts, "context": contexts, "dockerfile": names}.get(found.group("key"))
            built = built or wanted is contexts
            if wanted is not None and found.group("value") not in wanted:
                wanted.append(found.group("value"))
    if not built:
        return []
    return [os.path.join(context, name) for context in contexts[:8] for name in names[:8]]


def askers(line: str) -> List[Any]:
    """What a line that asks has that leaves the host: matches, none of them in a comment."""
    return list(LEAVING.finditer(uncommented(line)))


def lines_of(text: str) -> Iterable[Tuple[str, str, bool, bool]]:
    """(line, its end, whether it is of a block scalar, whether it asks) of each line of a text without a byte order mark."""
    inside = -1  # the column of the key whose block scalar this is
    asking = -1  # the column of the key whose items say what is asked for
    for row in text.splitlines(True):
        line = row.rstrip("\r\n")
        column = len(line) - len(line.lstrip(" "))
        if inside >= 0 and (not line.strip() or column > inside):
            yield line, row[len(line) :], True, False
            continue
        inside = column if BLOCK.match(line) else -1
        start = line[:4096]
        if ASKS.search(start):
            asking = column
            yield line, row[len(line) :], False, True
            continue
        if line.strip() and column < asking + (not ITEM.match(line)):
            asking = -1
        yield line, row[len(line) :], False, asking >= 0 and bool(ITEM.match(line))


def masked_compose(text: str) -> str:
    """The text with everything masked but its keys, variables' names and what asks for GPUs; character by character as long."""
    found: List[str] = [text[:1]] if text.startswith("\ufeff") else []
    for line, end, block, asks in lines_of(text[len(found) :]):
        found.append((crossed(line) if block else masked_line(line, asks)) + end)
    return "".join(found)


def asked(text: str) -> Tuple[List[str], Set[str]]:
    """(names of files, names of variables) that the lines of a compose file have which ask."""
    files: List[str] = []
    variables: Set[str] = set()
    for line, _, _, asks in lines_of(text):
        for found in askers(line) if asks else ():
            if found.lastgroup == "file" and found.group() not in files:
                files.append(found.group())
            elif found.lastgroup == "name":
                variables.add(found.group().lstrip("${"))
        for name in re.findall(VARIABLE, line[:4096]):
            variables.add(name.lstrip("${"))
    return files, variables


def env_file(path: str, names: Set[str], named: Optional[Named] = None) -> Json:
    """A .env file's metadata, and under `variables` those of these names that it sets: the value where it is a device's name, a
    number or another word of a request for GPUs, else None. What else it sets stays on the host."""
    item, data = opened(path, MAX_COMPOSE_BYTES, None, named)
    if data is None:
        return item
    item["others"] = resolved(path)[1] or ""
    item["variables"] = variables_of(data.decode("utf-8", "replace"), names)
    return item


def variables_of(text: str, names: Set[str]) -> Dict[str, Optional[str]]:
    found: Dict[str, Optional[str]] = {}
    lines = iter(text.lstrip("\ufeff").splitlines())
    for line in lines:
        match = ENV_LINE.match(line)
        if not match or line.lstrip().startswith("#"):
            continue
        name, value = match.group(1), match.group(2).strip()
        quote = value[:1]
        if quote in ("'", '"') and quote not in value[1:]:  # over several lines: no device's name
            for more in lines:
                if quote in more:
                    break
            value = "$"
        elif quote in ("'", '"'):
            value = value[1 : value.index(quote, 1)]
        else:
            value = re.split(r"\s#", value, maxsplit=1)[0].strip()
        if name in names:
            words = [word.strip() for word in re.split("[,:=]", value)]
            plain = all(not word or PLAIN.fullmatch(word) for word in words) or YAML_FILE.fullmatch(value)
            found[name] = value if plain else None
    return found


def compose_file(path: str, named: Optional[Named] = None) -> Tuple[Json, str]:
    """A file as it leaves the host (its metadata, the SHA-256 of its bytes, its masked text, and `others`: who besides root could have
    chosen what lies there, or an empty text), and its text."""
    item, data = opened(path, MAX_COMPOSE_BYTES, None, named)
    if data is None:
        return item, ""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        item.update(status="failed", error="not UTF-8 at byte %d" % error.start)
        return item, ""
    item["text"] = masked_compose(text)
    item["sha256"] = digest_of(data)
    try:
        item["others"] = resolved(path)[1] or ""
    except OSError as error:
        item.update(failure(error))
    return item, text


def written_by(path: str, item: Json) -> Optional[Named]:
    """Who besides root could have written what a file says, and in which: what it names is read only as far as they could."""
    if item.get("uid"):
        return item["uid"], path
    mode = item.get("mode", 0)
    shared = mode & stat.S_IWOTH or (mode & stat.S_IWGRP and not idle_group(item["gid"]))
    return (ANYBODY, path) if shared else None


def compose_project(given: Tuple[str, ...], directory: str, env_files: Tuple[str, ...]) -> Json:
    """By path, the files of a project and what they include or extend, as `compose_file` has each; and its .env files, and those
    beside included ones, as `env_file` has them."""
    found: Json = {}
    variables: Set[str] = set()
    waiting: List[Tuple[str, str, Optional[Named]]] = [(path, directory, None) for path in given]
    envs: Dict[str, Optional[Named]] = {}
    images: Dict[str, Optional[Named]] = {}
    whose: Optional[Named] = None  # of the project's own files
    left = MAX_FOLLOWED_BYTES
    while waiting:
        path, base, named = waiting.pop(0)
        if path in found or not path.startswith("/") or len(found) >= len(given) + MAX_FOLLOWED:
            continue
        item, text = compose_file(path, named)
        left -= 0 if path in given else len(text)
        if left < 0:
            error = "what is included or extended has more than %d bytes" % MAX_FOLLOWED_BYTES
            found[path] = {"status": "failed", "error": error, "followed": True}
            break
        found[path] = item if path in given else dict(item, followed=True)
        named = named or written_by(path, item)
        whose = whose or (named if path in given else None)
        names, more = asked(text)
        variables |= more
        here = os.path.dirname(path)
        start = base if path in given else here
        for name in builds(text):
            images.setdefault(os.path.normpath(os.path.join(start, name)), named)
        for name in names:
            # Of an included file relative paths begin where it lies; of several -f where the project does.
            for start in dict.fromkeys((base, here)):
                waiting.append((os.path.normpath(os.path.join(start, name)), here, named))
        if path not in given and "text" in item:
            envs.setdefault(os.path.join(here, ".env"), named)
    own = [os.path.join(directory, path) for path in env_files or (".env",)]
    add_dockerfiles(found, images)
    for path in dict.fromkeys(own + list(envs)):
        if path.startswith("/"):
            found[path] = dict(env_file(path, variables, whose or envs.get(path)), followed=True)
    return found


def add_dockerfiles(found: Json, images: Dict[str, Optional[Named]]) -> None:
    """Those of a project that are there, as far as there are not too many."""
    dockerfiles = 0
    for path, named in images.items():
        item: Json = {"status": "absent"}
        if dockerfiles < MAX_DOCKERFILES and path not in found:
            item = dockerfile(path, named)
        if item["status"] != "absent":
            dockerfiles += 1
            found[path] = dict(item, followed=True, builds=True)
