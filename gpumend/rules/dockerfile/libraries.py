"""GM959 and GM960: shared libraries that the loader does not find, and a link stub in the driver's place."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator

from gpumend.rules.dockerfile.cuda import base_of
from gpumend.rules.dockerfile.rules import Build, dockerfile_rule
from gpumend.rules.dockerfile.stages import Copied, Ran, Stage
from gpumend.rules.finding import Finding, Status
from gpumend.text.pattern import Pattern

# Directories that glibc's loader looks into by itself (ld.so(8)), the multiarch ones of Debian's among them.
TRUSTED = Pattern(r"/(?:usr/)?lib(?:64|32)?(?:/(?:x86_64|aarch64|[a-z0-9_]+)-linux-gnu[a-z0-9]*)?")
# What the distributions' own /etc/ld.so.conf.d names: found once ldconfig ran.
CONFIGURED = Pattern(
    r"/usr/local/lib(?:64)?(?:/(?:x86_64|aarch64)-linux-gnu)?|/usr/local/cuda[^/]*/(?:lib64|targets/[^/]+/lib)"
)
SHARED = Pattern(r"lib[\w+.*?-]+\.so(?:[.\d*?]*)?")


def _directory(step: Copied) -> str | None:
    """The directory that a copy puts shared libraries into; None where it is about something else."""
    name = posixpath.basename(step.source.rstrip("/"))
    if SHARED.fullmatch(name):
        if SHARED.fullmatch(posixpath.basename(step.target)):
            return posixpath.dirname(step.target)
        return step.target.rstrip("/") or "/"
    whole_tree = re.fullmatch(
        r"/usr/local/cuda[^/]*/(?:lib64|targets/[^/]+/lib|extras/CUPTI/lib64)", step.source.rstrip("/")
    )
    return step.target.rstrip("/") if whole_tree else None


def _known(stage: Stage, directory: str, after: int) -> bool:
    """Whether the loader is told about a directory: by LD_LIBRARY_PATH, or its own files and ldconfig after the copy."""
    value = stage.env.get("LD_LIBRARY_PATH")
    if "LD_LIBRARY_PATH" in stage.env_lines and (
        value is None or directory in [part.rstrip("/") for part in value.split(":")]
    ):
        return True
    steps = stage.all_steps()
    later = [step for step in steps[after + 1 :] if isinstance(step, Ran)]
    configured = bool(CONFIGURED.fullmatch(directory)) or any(
        directory in step.text and "ld.so.conf" in step.text for step in steps if isinstance(step, Ran)
    )
    configured = configured or any(isinstance(step, Copied) and "ld.so.conf" in step.target for step in steps)
    for step in later:
        if re.search(r"\bldconfig\b", step.text):
            return configured or directory in step.text
        if re.search(r"\bpatchelf\b", step.text):
            return True
    return False


@dockerfile_rule("GM959")
def unfound(build: Build) -> Iterator[Finding]:
    stage = build.final
    if re.search(r"(?:^|/)alpine(?:[:@]|$)|-alpine|musl|^scratch$", stage.base.image):
        return  # musl looks into /usr/local/lib by itself, and has no ldconfig of this kind
    seen = set()
    for at, step in enumerate(stage.all_steps()):
        if not isinstance(step, Copied) or step.missing or (step.stage is None and not step.origin):
            continue
        directory = _directory(step)
        if (
            directory is None
            or TRUSTED.fullmatch(directory)
            or directory in seen
            or _known(stage, directory, at)
        ):
            continue
        if re.search(r"site-packages|dist-packages|/venv/|/\.venv/|conda", directory):
            continue  # a package's own: it knows where it lies
        if (
            CONFIGURED.fullmatch(directory)
            and base_of(stage).nvidia
            and directory.startswith("/usr/local/cuda")
            and "CUPTI" not in directory
        ):
            continue  # LD_LIBRARY_PATH or the base's own file has it
        seen.add(directory)
        cached = bool(CONFIGURED.fullmatch(directory))
        yield Finding(
            code="GM959",
            status=Status.WARN,
            summary=f"libraries are copied into {directory}, where the loader does not find them",
            evidence=(build.at(step.line, f"COPY {step.text} {step.target}"),),
            cause=f"The loader knows {directory} through its cache, which nothing renews after the copy."
            if cached
            else f"{directory} is neither a directory of the loader's own, nor on LD_LIBRARY_PATH, nor in /etc/ld.so.conf.d.",
            remedy="RUN ldconfig after it."
            if cached
            else f"RUN echo {directory} > /etc/ld.so.conf.d/image.conf && ldconfig; or ENV LD_LIBRARY_PATH={directory}.",
            symptoms=("cannot open shared object file: No such file or directory",),
        )


STUB_LINK = Pattern(r"\b(?:ln|cp)\b[^;&|\n]*stubs/libcuda\.so\S*\s+(\S*libcuda\.so\.1)\b")
STUBS = Pattern(r"/usr/local/cuda[^/:]*/(?:lib64|lib|targets/[^/:]+/lib)/stubs/?")


@dockerfile_rule("GM960")
def stub(build: Build) -> Iterator[Finding]:
    stage = build.final
    found: list[tuple[int, str]] = []
    for step in stage.all_steps():
        if isinstance(step, Ran):
            if (match := STUB_LINK.search(step.text)) and not _removed(stage, match[1]):
                found.append((step.line, " ".join(match[0].split())))
            elif re.search(r"/stubs\b[^;&|\n]*ld\.so\.conf", step.text):
                found.append((step.line, " ".join(step.text.split())[:80]))
        elif "stubs" in step.source and (
            step.target.endswith("libcuda.so.1") or TRUSTED.fullmatch(step.target.rstrip("/"))
        ):
            found.append((step.line, f"COPY {step.text} {step.target}"))
    value = stage.env.get("LD_LIBRARY_PATH") or ""
    if any(STUBS.fullmatch(part) for part in value.split(":")):
        found.append((stage.env_lines.get("LD_LIBRARY_PATH", stage.line), f"ENV LD_LIBRARY_PATH={value}"))
    for line, text in found:
        yield Finding(
            code="GM960",
            status=Status.WARN,
            summary="CUDA's link stub is where the driver's libcuda belongs",
            evidence=(build.at(line, text),),
            cause="The stub is for linking at build time. In a container it is found before the driver's library, or instead of it: "
            "CUDA then says that there is no driver, and a missing GPU request looks like a broken driver.",
            remedy="Use the stub in the RUN that links (LIBRARY_PATH, or a link that is removed in the same RUN), and leave it out of the image.",
            symptoms=(
                "CUDA driver is a stub library",
                "CUDA driver version is insufficient for CUDA runtime version",
            ),
        )


def _removed(stage: Stage, path: str) -> bool:
    return any(re.search(rf"\brm\b[^;&|\n]*{re.escape(path)}", ran.text) for ran in stage.runs())
