"""CUPTI, wherever it can lie on a host: toolkits, the distribution's directories, NVIDIA's HPC SDK, Python's packages, conda."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from gpumend.state.reading import Reading
from gpumend.state.request import Glob
from gpumend.state.snapshot import Snapshot
from gpumend.text.record import Record

# Below a toolkit's directory. NVIDIA's packages put the library into targets/*/lib, the runfile into extras alone.
HEADERS = ("targets/*/include/cupti.h", "extras/CUPTI/include/cupti.h")
LIBRARIES = ("targets/*/lib/libcupti.so*", "extras/CUPTI/lib64/libcupti.so*")

# What else has it, by kind: (pattern of the directory, names below it). Debian's libcupti-dev and libcuptiN; the rpm packages of
# negativo17 (cuda-cupti); NVIDIA's HPC SDK; the wheels nvidia-cuda-cupti-cuN and nvidia-cuda-cupti; conda's cuda-cupti.
SITES = (
    "/usr/lib/python3*/site-packages",
    "/usr/lib64/python3*/site-packages",
    "/usr/lib/python3/dist-packages",
    "/usr/local/lib/python3*/dist-packages",
    "/usr/local/lib/python3*/site-packages",
    "/opt/*/lib/python3*/site-packages",
)
PLACES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        "distribution",
        ("/usr",),
        ("include/cupti.h", "include/cuda/cupti.h", "lib/*-linux-gnu/libcupti.so*", "lib64/libcupti.so*"),
    ),
    ("hpc_sdk", ("/opt/nvidia/hpc_sdk/Linux_*/*/cuda/*",), (*HEADERS, *LIBRARIES)),
    ("wheel", SITES, ("nvidia/*/include/cupti.h", "nvidia/*/lib/libcupti.so*")),
    ("conda", ("/opt/*conda*", "/opt/*forge*"), ("include/cupti.h", "lib/libcupti.so*")),
)
GLOBS = tuple(
    Glob(f"{root}/{name}", read=False) for _, roots, names in PLACES for root in roots for name in names
)
# Whose library is found by a path of its user's own (RUNPATH of torch's and conda's programs), not by the loader's.
OWN_PATH = ("wheel", "conda")


class Cupti(Record):
    """CUPTI in one place. tree: its directory; the empty text for the distribution's own. headers, libraries: regular files, and
    links that lead to one; dangling: links to nowhere. kind: `toolkit`, or one of PLACES. reached: whether the dynamic linker's
    cache or an LD_LIBRARY_PATH leads to the library. instead: a library of the same soname that the linker finds elsewhere."""

    tree: str
    headers: tuple[str, ...]
    libraries: tuple[str, ...]
    dangling: tuple[str, ...]
    kind: str = "toolkit"
    reached: Reading[bool] = Reading.of(True)
    instead: str = ""

    def sonames(self) -> tuple[str, ...]:
        """libcupti.so.12, or libcupti.so.11.8 up to CUDA 11. The file name after it is year-based (libcupti.so.2025.2.1) and says
        nothing about the CUDA that it is of."""
        names = [path.rpartition("/")[2] for path in self.libraries]
        return tuple(
            dict.fromkeys(
                name for name in names if re.fullmatch(r"libcupti\.so\.\d{1,2}(?:\.\d{1,2})?", name)
            )
        )

    def state(self, major: int | None) -> str:
        """`absent | header_only | dangling | wrong_version | not_in_loader_path | runtime_only | complete`. Raises Unread where
        there is a library, and it is not known whether the linker finds it."""
        numbers = {int(name.split(".")[2]) for name in self.sonames()}
        if not numbers:
            if self.dangling:
                return "dangling"
            return "header_only" if self.headers else "absent"
        if major is not None and major not in numbers:
            return "wrong_version"
        if self.kind not in OWN_PATH and not self.reached.get():
            return "not_in_loader_path"
        return "complete" if self.headers else "runtime_only"


def found(
    snapshot: Snapshot,
    toolkits: Iterable[tuple[str, str]],
    resolve: Callable[[str], str],
    cache: Reading[Mapping[str, tuple[str, ...]]],
    on_path: Iterable[str],
) -> tuple[Cupti, ...]:
    """CUPTI in every place that has any of it. toolkits: (directory, path found) of the toolkits' files. cache: the dynamic
    linker's, by soname. on_path: directories of every LD_LIBRARY_PATH that is set on this host."""
    places = [("toolkit", tree, path) for tree, path in toolkits]
    for kind, roots, names in PLACES:
        for pattern in (f"{root}/{name}" for root in roots for name in names):
            for path in snapshot.glob(pattern).value or ():
                places.append((kind, _tree(kind, path), path))
    parts: dict[tuple[str, str], tuple[list[str], list[str], list[str]]] = {}
    for kind, tree, path in dict.fromkeys(places):
        headers, libraries, dangling = parts.setdefault((kind, tree), ([], [], []))
        if snapshot.dangling(path):
            dangling.append(path)
        elif (meta := snapshot.stat(path).value) is not None and meta.kind == "file":
            (headers if path.endswith(".h") else libraries).append(path)
    directories = {resolve(path) for path in on_path}
    result = []
    for (kind, tree), (headers, libraries, dangling) in sorted(parts.items(), key=lambda item: item[0][1]):
        if headers or libraries or dangling:
            bare = Cupti(tree, tuple(headers), tuple(libraries), tuple(dangling), kind)
            result.append(_reached(bare, resolve, cache, directories))
    return tuple(result)


def _tree(kind: str, path: str) -> str:
    """The directory that a path of a kind lies below; the distribution's own has none."""
    cut = {"hpc_sdk": r"/(?:targets|extras)/", "wheel": r"/nvidia/", "conda": r"/(?:include|lib)/"}.get(kind)
    return re.split(cut, path, maxsplit=1)[0] if cut else ""


def _reached(
    bare: Cupti,
    resolve: Callable[[str], str],
    cache: Reading[Mapping[str, tuple[str, ...]]],
    on_path: set[str],
) -> Cupti:
    mine = {resolve(path) for path in bare.libraries}
    if any(path.rpartition("/")[0] in on_path for path in mine):
        return bare._replace(reached=Reading.of(True, "LD_LIBRARY_PATH"))
    if not cache.known:
        return bare._replace(reached=cache.without_value())
    listed = [path for name in bare.sonames() for path in (cache.value or {}).get(name, ())]
    there = any(resolve(path) in mine or f"/usr{path}" in mine for path in listed)
    instead = "" if there or not listed else listed[0]
    return bare._replace(reached=Reading.of(there, "ldconfig -p"), instead=instead)
