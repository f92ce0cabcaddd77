"""Compose files of a host's projects, as far as they may leave it: their shape, and what asks for GPUs. Every other word is masked
by as many x, so that a place in what is sent is the same place in the file."""

import hashlib
import re
from typing import Any, Iterable, List

from gpumend.payload.probe.execution import resolved
from gpumend.payload.probe.files import Json, failure, opened

MAX_COMPOSE_BYTES = 1 << 18  # of 419 public ones the largest has 60 KiB
MAX_COMPOSE_FILES = 40
FILES_LABEL = "com.docker.compose.project.config_files"

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
BLOCK = re.compile(r"(?:.*[:-]|[ \t]*-)[ \t]+(?:[&!][\w.-]+[ \t]+)*[|>][-+0-9]{0,2}[ \t]*(?:#.*)?$")
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


def masked_line(line: str) -> str:
    """A line outside of block scalars."""
    if NAMES.match(line) or line.strip() in ("---", "..."):
        return line
    key = KEY.match(line)
    start = key.end() if key else 0
    end = len(line)
    block = SIGNS.search(line) if BLOCK.match(line) else None
    if block:
        end = block.start()
    return line[:start] + PIECE.sub(masked_piece, line[start:end]) + line[end:]


def masked_compose(text: str) -> str:
    """The text with everything masked but its keys, variables' names and what asks for GPUs; character by character as long."""
    found: List[str] = [text[:1]] if text.startswith("\ufeff") else []
    inside = -1  # the column of the key whose block scalar this is
    for row in text[len(found) :].splitlines(True):
        line = row.rstrip("\r\n")
        column = len(line) - len(line.lstrip(" "))
        if inside >= 0 and (not line.strip() or column > inside):
            found.append(crossed(line) + row[len(line) :])
            continue
        inside = column if BLOCK.match(line) else -1
        found.append(masked_line(line) + row[len(line) :])
    return "".join(found)


def compose_file(path: str) -> Json:
    """A file's metadata, the SHA-256 of its bytes, its masked text, and `others`: who besides root could have chosen what lies
    there, or an empty text."""
    item, data = opened(path, MAX_COMPOSE_BYTES)
    if data is None:
        return item
    try:
        item["text"] = masked_compose(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        item.update(status="failed", error="not UTF-8 at byte %d" % error.start)
        return item
    item["sha256"] = hashlib.sha256(data).hexdigest()
    try:
        item["others"] = resolved(path)[1] or ""
    except OSError as error:
        item.update(failure(error))
    return item


def wants_gpu(found: Json) -> bool:
    """Whether a container may ask for a GPU."""
    asks = found["device_requests"] or any("nvidia" in (path or "") for path in found["devices"])
    return bool(
        asks or (found["runtime"] or "").startswith("nvidia") or "NVIDIA_VISIBLE_DEVICES" in found["env"]
    )


def compose_paths(containers: Iterable[Json]) -> List[str]:
    """The files of the projects of containers that may ask for a GPU, as Compose itself wrote them down."""
    found: List[str] = []
    for each in containers:
        if wants_gpu(each):
            listed = (each["labels"].get(FILES_LABEL) or "").split(",")
            found.extend(path for path in listed if path.startswith("/") and path not in found)
    return found[:MAX_COMPOSE_FILES]
