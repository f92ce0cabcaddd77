"""GM954 to GM958: CUDA in an image: what its base is, whether a host's driver runs it, compat, CUPTI, whole copies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gpumend.rules.cuda.decision import CAUSE_35, Case
from gpumend.rules.cuda.images import misfit
from gpumend.rules.cuda.releases import documented, dotted, paired_branch, served, toolkit_driver
from gpumend.rules.dockerfile.rules import Build, dockerfile_rule
from gpumend.rules.dockerfile.stages import Copied, Stage
from gpumend.rules.dockerfile.target import Target
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.state.reading import Unread
from gpumend.text.pattern import Pattern
from gpumend.text.version import Version, show

NVIDIA = Pattern(r"(?:.*/)?nvidia/cuda(?::(?P<tag>[^@]*))?(?:@.*)?")
TAGGED = Pattern(r"(?<![a-z])cu(?:da)?[-_]?(\d{2})\.?(\d{1,2})(?![\d])")
FLAVOUR = Pattern(r"(?:^|[-_])(base|runtime|devel)(?:$|[-_])")
TREE = Pattern(r"/usr/local/cuda(?:-(\d+\.\d+))?")


@dataclass(frozen=True)
class Base:
    """What an image's tag tells: the CUDA release, and the flavour (`base`, `runtime`, `devel`; empty: none)."""

    image: str
    release: Version | None
    flavour: str
    nvidia: bool


def base_of(stage: Stage) -> Base:
    image = stage.base.image
    tag = image.partition("@")[0].rpartition("/")[2].partition(":")[2]
    nvidia = NVIDIA.fullmatch(image) is not None
    found = re.match(r"(\d+)\.(\d+)", tag) if nvidia else TAGGED.search(tag)
    flavour = FLAVOUR.search(tag) if nvidia or found else None
    release = (int(found[1]), int(found[2])) if found else None
    return Base(image, release, flavour[1] if flavour else "", nvidia)


def release_of(stage: Stage) -> tuple[Version, Stage, int, str] | None:
    """The CUDA release of a stage's image: its ENV CUDA_VERSION, else its base's tag; with line and words."""
    value = stage.env.get("CUDA_VERSION")
    match = re.match(r"(\d+)\.(\d+)", value or "")
    if match and "CUDA_VERSION" in stage.env_lines:
        line = stage.env_lines["CUDA_VERSION"]
        return (int(match[1]), int(match[2])), stage, line, f"CUDA_VERSION={value}"
    base = base_of(stage)
    if base.release is None or stage.base.missing:
        return None
    return base.release, stage.base, stage.base.line, f"FROM {base.image}"


@dockerfile_rule("GM954")
def devel(build: Build) -> Iterator[Finding]:
    base = base_of(build.final)
    if base.flavour != "devel":
        return
    yield Finding(
        code="GM954",
        status=Status.NOTE,
        summary=f"the final stage is built on {base.image}: the compiler and all headers are in the image",
        evidence=(build.at(build.final.base.line, f"FROM {base.image}"),),
        cause="A -devel image is about 3 GB larger than its -runtime one: every pull and every start on a new node pays for "
        "that. It is right where something compiles when it runs (nvcc, or a package that calls it).",
        remedy="Build in a -devel stage, and copy what was built into a -runtime one.",
    )


def _host(found: Target) -> str:
    driver = found.driver.value
    return f"driver {show(driver)}" if driver else "no driver"


@dockerfile_rule("GM955")
def driver(build: Build) -> Iterator[Finding]:
    told = release_of(build.final)
    if build.hosts and build.final.base.missing and told is None:
        names = ", ".join(build.final.base.missing)
        yield Finding(
            code="GM955",
            status=Status.UNKNOWN,
            summary=f"the image's CUDA: not known, {names} is given to the build from outside",
            evidence=(build.at(build.final.base.line, f"FROM {build.final.base.image}"),),
            remedy=f"Give it: --build-arg {build.final.base.missing[0]}=VALUE.",
        )
    if told is None:
        return
    release, _, line, text = told
    for host in build.hosts:
        try:
            found = _unserved(build, host, release, line, text)
        except Unread as unread:
            reading = unread.reading
            found = Finding(
                code="GM955",
                status=Status.UNKNOWN,
                summary=f"whether {host.name} runs CUDA {dotted(release)}: not known, {reading.source} does not tell",
                evidence=(
                    build.at(line, text),
                    Evidence(reading.source, reading.detail or str(reading.status)),
                ),
                remedy=f"Audit {host.name} again with this gpumend, and name the new report.",
            )
        if found is not None:
            yield found


def _unserved(build: Build, host: Target, release: Version, line: int, text: str) -> Finding | None:
    loaded = host.driver.get()
    evidence = (
        build.at(line, text),
        Evidence(host.driver.source or host.name, f"{host.name}: {_host(host)}"),
    )
    if loaded is None:
        return Finding(
            code="GM955",
            status=Status.FAIL,
            summary=f"{host.name} has no driver loaded, and the image is of CUDA {dotted(release)}",
            evidence=evidence,
            cause=CAUSE_35,
            remedy=f"`gpumend audit {host.name}` says why there is none.",
        )
    if toolkit_driver(release) is None and paired_branch(release) is None:
        return Finding(
            code="GM955",
            status=Status.UNKNOWN,
            summary=f"whether {host.name} runs CUDA {dotted(release)}: not known, no table has a driver for that release",
            evidence=evidence,
            remedy="Look into the release notes of that CUDA.",
        )
    case = Case(wanted=release, driver=loaded, details=host.details, wsl2=host.wsl2)
    wrong = misfit(case, host.toolkit)
    if wrong is None:
        return None
    return Finding(
        code="GM955",
        status=Status.WARN if wrong.partly else Status.FAIL,
        summary=f"{host.name}'s driver {show(loaded)} does not {'fully ' if wrong.partly else ''}serve CUDA {dotted(release)}",
        evidence=evidence,
        cause=wrong.cause,
        remedy=wrong.remedy,
        symptoms=(
            "CUDA driver version is insufficient for CUDA runtime version",
            "requirement error: unsatisfied condition: cuda>=",
        ),
    )


# --- compat


FIRST = (
    "What LD_LIBRARY_PATH or the linker's files name comes before the driver that the container toolkit brings in. A compat "
    "library that is not newer than the driver fails with 803; the toolkit's own hook (1.17.8 and newer) looks at that first, and "
    "puts it on the path only where it helps."
)
LINKER = "ld.so.conf"


def _compat_paths(stage: Stage) -> Iterator[tuple[int, str, str]]:
    """(line, directory, words) of everything that puts a compat directory on the library path."""
    value = stage.env.get("LD_LIBRARY_PATH")
    for part in (value or "").split(":"):
        if re.fullmatch(r"/usr/local/cuda[^/]*/compat/?", part):
            yield stage.env_lines.get("LD_LIBRARY_PATH", stage.line), part, f"ENV LD_LIBRARY_PATH={value}"
    for ran in stage.runs():
        for command in re.split(r"[;&|\n]", ran.text):
            found = re.search(r"/usr/local/cuda[^/\s\"']*/compat\b", command)
            if found and (end := command.rfind(LINKER, found.end())) > 0:
                yield ran.line, found[0], " ".join(command[found.start() : end + len(LINKER)].split())
                break


def _compat_release(stage: Stage, directory: str) -> Version | None:
    if match := re.search(r"cuda-(\d+)\.(\d+)/", directory):
        return int(match[1]), int(match[2])
    for ran in stage.runs():
        if match := re.search(r"\bcuda-compat-(\d+)-(\d+)\b", ran.text):
            return int(match[1]), int(match[2])
    told = release_of(stage)
    return told[0][:2] if told else None


@dockerfile_rule("GM956")
def compat(build: Build) -> Iterator[Finding]:
    for line, directory, text in dict.fromkeys(_compat_paths(build.final)):
        release = _compat_release(build.final, directory)
        says = f"cuda-compat of CUDA {dotted(release)}" if release else "a cuda-compat library"
        remedy = f"Take {directory} out of it: nvidia-container-toolkit 1.17.8 and newer does the same where it is needed."
        evidence = (build.at(line, text),)
        if not build.hosts:
            yield Finding(
                code="GM956",
                status=Status.WARN,
                summary=f"{says} comes before every host's own driver, and fails on a newer one with 803",
                evidence=evidence,
                cause=FIRST,
                remedy=remedy,
                symptoms=("system has unsupported display driver / cuda driver combination",),
            )
        for host in build.hosts:
            if (status := _compat_on(host, release)) is None:
                continue
            known = status is not Status.UNKNOWN
            yield Finding(
                code="GM956",
                status=status,
                summary=f"{says} comes before {host.name}'s {_host(host)}"
                + (", which is not older: 803" if known else ": not known whether that one is newer"),
                evidence=(*evidence, Evidence(host.driver.source, f"{host.name}: {_host(host)}")),
                symptoms=("system has unsupported display driver / cuda driver combination",)
                if known
                else (),
                cause=FIRST,
                remedy=remedy,
            )


def _compat_on(host: Target, release: Version | None) -> Status | None:
    """What the compat library does on a host: None where it serves."""
    if release is None or not host.driver.known:
        return Status.UNKNOWN
    if host.driver.value is None:
        return None  # GM955
    if host.wsl2:
        return Status.FAIL  # the driver is Windows's
    said = documented(release, host.driver.value[0])
    if said == "compatible":
        return None
    newest = served(host.driver.value)
    if said in ("paired", "none") or (newest is not None and newest >= release):
        return Status.FAIL
    return Status.UNKNOWN


# --- CUPTI

USES_CUPTI = Pattern(
    r"-lcupti\b|USE_CUPTI\w{0,40}=(?:1|ON|TRUE|YES)\b|\bCUPTI_(?:INCLUDE|LIBRARY)\w{0,40}=|cuda-cupti-dev|libcupti-dev",
    re.IGNORECASE,
)
LIBRARY = Pattern(
    r"\bcuda-cupti(?:-dev)?-\d+-\d+\b|\blibcupti\d|\blibcupti-dev\b|nvidia-cuda-cupti|\bcuda-(?:toolkit|tools|command-line-tools)-\d+-\d+\b"
)
BRINGS_TORCH = Pattern(r"\btorch(?:vision|audio)?\b|\btensorflow\[and-cuda\]|\bjax\[cuda")


def _library(build: Build, stage: Stage) -> bool:
    """Whether a stage's image has libcupti.so, as far as is seen: of its base, of a package, of a copy."""
    base = base_of(stage)
    if base.flavour == "devel" or (base.image and not base.nvidia and base.release):
        return True  # devel images have it, and so have those of frameworks
    if any(LIBRARY.search(ran.text) or BRINGS_TORCH.search(ran.text) for ran in stage.runs()):
        return True
    image = build.image if stage is build.final else None
    if image is not None:
        names, _ = image.distributions
        if any(
            name.startswith("nvidia-cuda-cupti") or name in ("torch", "jax", "tensorflow") for name in names
        ):
            return True
    return any(_copies_library(step) for step in stage.copies())


def _copies_library(step: Copied) -> bool:
    source = step.source.rstrip("/") + "/"
    if "libcupti" in step.source:
        return True
    tree = TREE.match(source)
    if not tree:
        return False
    rest = source[tree.end() :].strip("/")
    return rest in (
        "",
        "extras",
        "extras/CUPTI",
        "extras/CUPTI/lib64",
        "lib64",
        "targets",
        "targets/x86_64-linux",
        "targets/x86_64-linux/lib",
        "targets/sbsa-linux/lib",
    )


def _release_words(build: Build) -> str:
    for stage in reversed(build.used()):
        if told := release_of(stage):
            return f"{told[0][0]}-{told[0][1]}"
    return "X-Y"


def _has_headers(source: str) -> bool:
    """Whether what is copied is CUPTI's headers, or one of them, by its path."""
    name = source.rpartition("/")[2]
    return "CUPTI/include" in source or ("cupti" in name and name.endswith(".h"))


@dockerfile_rule("GM957")
def cupti(build: Build) -> Iterator[Finding]:
    final = build.final
    words = _release_words(build)
    headers = [
        step
        for stage in build.used()
        for step in stage.copies()
        if _has_headers(step.source)
        and not any(_copies_library(other) for other in stage.copies())
        and not _library(build, stage)
    ]
    uses = [
        (ran.line, found[0])
        for stage in build.used()
        for ran in stage.runs()
        if (found := USES_CUPTI.search(ran.text))
    ]
    if _library(build, final) and not headers:
        return
    for step in list(dict.fromkeys(headers))[:1]:
        yield _cupti(
            build, (build.at(step.line, f"COPY {step.text}"),),
            "CUPTI's headers are copied, and its library is not",
            "A build with CMake finds cupti.h and takes CUPTI for there; what it made stops at its first use of the profiler.", words,
        )  # fmt: skip
    if not headers and uses:
        line, text = uses[0]
        yield _cupti(
            build, (build.at(line, text), build.at(final.line, f"the final stage: {final.base.image}")),
            "the image is built with CUPTI, and its final stage has no libcupti.so",
            "The stage that builds has header and library; the image that runs has neither, and says so only when the profiler starts.", words,
        )  # fmt: skip


def _cupti(build: Build, evidence: tuple[Evidence, ...], summary: str, cause: str, words: str) -> Finding:
    return Finding(
        code="GM957",
        status=Status.WARN,
        summary=summary,
        evidence=evidence,
        cause=cause,
        remedy=f"Install cuda-cupti-{words} in that stage (or copy /usr/local/cuda/extras/CUPTI/lib64 and run ldconfig), or build without CUPTI (-DUSE_CUPTI=OFF).",
        symptoms=("libcupti.so.12: cannot open shared object file",),
    )


# --- whole copies


@dockerfile_rule("GM958")
def whole(build: Build) -> Iterator[Finding]:
    for step in build.final.copies():
        if step.stage is None and not step.origin:
            continue
        if TREE.fullmatch(step.source.rstrip("/")) is None:
            continue
        words = _release_words(build)
        link = _link(build.final)
        evidence = [build.at(step.line, f"COPY {step.text}")]
        if link is not None and (base_of(build.final).nvidia or TREE.fullmatch(step.target.rstrip("/"))):
            taken = step.target.rstrip("/") == "/usr/local/cuda" or base_of(build.final).nvidia
            if taken:
                yield Finding(
                    code="GM958",
                    status=Status.WARN,
                    summary="`ln -s` does not replace /usr/local/cuda, which is there: the link is made inside it, or fails",
                    evidence=(build.at(link[0], link[1]), *evidence),
                    cause="ln follows a directory, and a symlink to one, that has the new link's name.",
                    remedy="`ln -sfn`, or leave /usr/local/cuda as the base image has it.",
                    symptoms=("ln: failed to create symbolic link '/usr/local/cuda': File exists",),
                )
        yield Finding(
            code="GM958",
            status=Status.NOTE,
            summary=f"{step.source.rstrip('/')} is copied whole: compiler, headers and static libraries are in the image",
            evidence=tuple(evidence),
            cause="That is right where something compiles when it runs; else 2 to 3 GB are of no use.",
            remedy=f"Begin the stage with a -runtime image, or install cuda-libraries-{words} (with cuda-cupti-{words} for a profiler); "
            "`ldd` of what was built names the libraries that it needs.",
        )


def _link(stage: Stage) -> tuple[int, str] | None:
    """A RUN that makes /usr/local/cuda a link without replacing what is there."""
    for ran in stage.runs():
        for words in ran.commands:
            if words[:1] != ("ln",) or words[-1].rstrip("/") != "/usr/local/cuda":
                continue
            options = "".join(word.lstrip("-") for word in words[1:] if re.fullmatch(r"-[a-zA-Z]+", word))
            if "n" not in options and "T" not in options and "--no-dereference" not in words:
                return ran.line, " ".join(words)
    return None
