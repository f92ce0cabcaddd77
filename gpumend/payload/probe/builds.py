"""Dockerfiles of a host's compose projects, as far as they may leave it: what an image begins with, what of CUDA it takes, and where
the loader looks. Every other word is masked by as many x; lines stay lines."""

import re
from typing import Any, Iterator, List, Optional

from gpumend.payload.probe.files import Json, Named, opened

MAX_DOCKERFILE_BYTES = 1 << 17
MAX_DOCKERFILES = 10  # of one project
INSTRUCTION = re.compile(
    r"[ \t]*(ADD|ARG|CMD|COPY|ENTRYPOINT|ENV|EXPOSE|FROM|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|RUN|SHELL|STOPSIGNAL|USER|VOLUME|WORKDIR)"
    r"(?=[ \t]|$)",
    re.I,
)
DIRECTIVE = re.compile(r"#[ \t]*(?:syntax|escape|check)[ \t]*=[ \t]*[\w./:;=,`\\-]{1,200}[ \t]*$")
HEREDOC = re.compile(r"\d?<<-?[\"']?([^\s\"'<]{1,80})[\"']?")
STARTED = re.compile(
    r"[\[\"',\]]{0,3}(?:/bin/)?(?:ba|da)?sh[\"',\]]{0,3}|\"-?\w{1,8}\",?\]?|-[oec]|CMD|NONE|--(?:interval|timeout|start-period|start-interval|retries)=\w{1,9}|SIG\w{1,9}|COPY|ADD|RUN|ENV|USER|LABEL"
)
SIGN = re.compile(r"[^\s=\"'\\`<>\[\],]")  # all else shapes an instruction
IMAGE = re.compile(r"[\w./:@${}+\[\]-]+")
PLACE = re.compile(r"(?:--[a-z]+(?:=[\w./:,${}-]*)?|[\[\"']{0,2}[\w./*?${}+-]+[\"'\],]{0,3})")
# Names of arguments of which nobody makes a password, and variables that say what the loader and the driver do.
ARGUMENT = re.compile(
    r"(?!\w{0,40}(?:TOKEN|KEY|SECRET|PASS|AUTH|CRED|USER))\w{0,40}(?:CUDA|CUDNN|UBUNTU|DEBIAN|PYTHON|VERSION|IMAGE|BASE|TAG|DISTRO|CONTAINER|FLAVOU?R)\w{0,40}"
)
ITS_VARIABLE = re.compile(
    r"LD_LIBRARY_PATH|LIBRARY_PATH|PATH|CUDA_HOME|CUDA_PATH|CUDA_VERSION|NVIDIA_(?:VISIBLE_DEVICES|DRIVER_CAPABILITIES|REQUIRE_CUDA"
    r"|DISABLE_REQUIRE)"
)
VALUE = re.compile(r"[\"']?[\w./:@${}+=<>,-]{0,300}[\"']?")
# Of what is run: what it does with CUDA, and the words of package managers and of the shell around that.
WORD = re.compile(
    r"(?:&&|\|\||[;|\\`{}()!]|>{1,2}|--?[a-z][\w-]{0,30}|apt-get|apt|dnf|yum|microdnf|pip3?|install|update|ldconfig|ln|cp|rm|echo|cd|cmake|make)"
    r"|[\"']?(?:/usr/local/cuda|/usr/lib|/usr/local/lib|/etc/ld\.so)[\w./*-]*[\"']?;?"
    r"|[\"']?[\w.+-]{0,60}(?:cuda|cupti|cudnn|nvidia|nccl|torch|tensorflow|tensorrt|jax|libnv|libcu)[\w.+=<>*/,\[\]-]{0,80}[\"']?;?",
    re.I,
)


def crossed_out(text: str) -> str:
    return SIGN.sub("x", text)


def pairs_masked(text: str, plain: Any) -> str:
    """NAME=value words with the value masked of each name that is not plain, and NAME alone."""

    def pair(found: Any) -> str:
        text: str = found.group()
        name, equals, value = text.partition("=")
        if not re.match(r"\w{1,80}$", name):
            return crossed_out(text)
        told = plain.fullmatch(name) and VALUE.fullmatch(value)
        if told or (not equals and plain is ARGUMENT):
            return text
        return name + equals + crossed_out(value) if equals else crossed_out(text)

    return re.sub(r"\S+", pair, text)


def words_masked(text: str, plain: Any) -> str:
    """The words that are plain, and the names of heredocs; all others masked."""

    def word(found: Any) -> str:
        text: str = found.group()
        return text if plain.fullmatch(text) or HEREDOC.fullmatch(text) else crossed_out(text)

    return re.sub(r"\S+", word, text)


def line_masked(name: str, text: str) -> str:
    """A line, or what follows the name of its instruction."""
    if name == "FROM":
        return words_masked(text, IMAGE)
    if name in ("COPY", "ADD", "WORKDIR"):
        return words_masked(text, PLACE)
    if name == "ARG":
        return pairs_masked(text, ARGUMENT)
    if name == "ENV":
        old = re.match(r"(\s*)(\w+)(\s+)(?!.*=)", text)
        if old:
            rest = text[old.end() :]
            return old.group() + (
                words_masked(rest, VALUE) if ITS_VARIABLE.fullmatch(old.group(2)) else crossed_out(rest)
            )
        return pairs_masked(text, ITS_VARIABLE)
    if name == "RUN":
        return words_masked(text, WORD)
    if name in ("SHELL", "HEALTHCHECK", "ONBUILD", "STOPSIGNAL"):
        return words_masked(text, STARTED)
    return crossed_out(text)


def rows_masked(text: str) -> Iterator[str]:
    name = ""
    ends: List[str] = []
    escape, first = "\\", True
    if text.startswith("\ufeff"):
        yield text[:1]
    for row in text.lstrip("\ufeff").splitlines(True):
        line = row.rstrip("\r\n")
        end = row[len(line) :]
        if ends and not name.endswith("\\"):
            if line.strip("\t ") == ends[0]:
                ends.pop(0)
                yield row
            else:
                yield (words_masked(line, WORD) if name == "RUN" else crossed_out(line)) + end
            name = name if ends else ""
            continue
        bare = line.strip()
        if bare.startswith("#"):
            directive = first and DIRECTIVE.match(bare)
            if directive and "escape" in bare:
                escape = bare[-1]
            yield (
                line
                if directive
                else line[: line.index("#") + 1] + re.sub(r"\S", "x", line[line.index("#") + 1 :])
            ) + end
            continue
        first = first and not bare
        going = name.endswith("\\")
        name = name.rstrip("\\")
        start = 0
        if not going and bare:
            found = INSTRUCTION.match(line)
            name, start = (found.group(1).upper(), found.end()) if found else ("?", 0)
        yield line[:start] + line_masked(name, line[start:]) + end
        if name in ("RUN", "COPY", "ADD") and "<<" in line[:4096]:
            ends.extend(HEREDOC.findall(line[:4096]))
        name += "\\" if (bare.endswith(escape) or (going and not bare)) else ""


def masked_dockerfile(text: str) -> str:
    """The text with everything masked but what the rules over an image's CUDA go by."""
    return "".join(rows_masked(text))


def dockerfile(path: str, named: Optional[Named] = None) -> Json:
    """A Dockerfile's metadata and masked text. named: as of `walked`."""
    item, data = opened(path, MAX_DOCKERFILE_BYTES, None, named)
    if data is None:
        return item
    item["dockerfile"] = masked_dockerfile(data.decode("utf-8", "replace"))
    return item
