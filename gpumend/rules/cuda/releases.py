"""CUDA releases, drivers and GPU brands: what NVIDIA's tables say, read from rules/data, each row with its source.

Two numbers that are never mixed: the driver a release was shipped with (all features), and the oldest driver on which
its major runs at all.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpumend.rules.data import load
from gpumend.state.cuda import Note
from gpumend.text.version import Version, parse_version


def dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


def _number(text: str | None) -> Version | None:
    return parse_version(text) if text else None


# (toolkit, Linux driver, Windows driver, paired branch) of every release in the table. Each host is judged by it.
RELEASES: tuple[tuple[Version, Version | None, Version | None, int | None], ...] = tuple(
    (parse_version(row["toolkit"]), _number(row["linux"]), _number(row["windows"]), row.get("paired_branch"))
    for row in load("cuda_driver_matrix")["toolkits"]
)


def rows_of(wanted: Version) -> tuple[tuple[Version, Version | None, Version | None, int | None], ...]:
    """The table's rows of a release; 12.9 has those of 12.9.0 and 12.9.1, 12.9.1 its own, or 12.9's where it has none."""
    exact = tuple(row for row in RELEASES if row[0][: len(wanted)] == wanted)
    return exact or tuple(row for row in RELEASES if row[0][:2] == wanted[:2])


def toolkit_driver(wanted: Version) -> Version | None:
    """The oldest driver with all features of a release; None where no row says."""
    return min((row[1] for row in rows_of(wanted) if row[1]), default=None)


def windows_driver(wanted: Version) -> Version | None:
    return min((row[2] for row in rows_of(wanted) if row[2]), default=None)


def paired_branch(wanted: Version) -> int | None:
    """The driver branch that a release without a bundled driver goes with."""
    return next((row[3] for row in rows_of(wanted) if row[3]), None)


def minor_version_driver(major: int, windows: bool = False) -> Version | None:
    """The oldest driver on which anything of a CUDA major runs."""
    for row in load("cuda_driver_matrix")["minor_version"]:
        if row["major"] == major:
            text = row["windows" if windows else "linux"]
            return _number(text)
    return None


def served(driver: Version) -> Version | None:
    """The newest CUDA release that a Linux driver serves with all its features; None for a driver older than the table."""
    return max((row[0][:2] for row in RELEASES if row[1] and row[1] <= driver), default=None)


def windows_served(driver: Version) -> Version | None:
    return max((row[0][:2] for row in RELEASES if row[2] and row[2] <= driver), default=None)


def documented(wanted: Version, branch: int) -> str:
    """NVIDIA's word on a compat package and a driver branch: `compatible`, `paired`, `none`, or `unlisted`."""
    for row in load("compat_branches")["packages"]:
        if row["cuda"] == dotted(wanted[:2]):
            return str(row["branches"].get(str(branch), "unlisted"))
    return "unlisted"


def noted(wanted: Version, branch: int, notes: Sequence[Note] = ()) -> bool:
    """Whether an ELF note of a release's compat library, in the table or on the host, accepts a branch."""
    if any(note.cuda[:2] == wanted[:2] and branch in note.branches for note in notes):
        return True
    return any(
        row["cuda"] == dotted(wanted[:2]) and branch in row["branches"]
        for row in load("compat_branches")["notes"]
    )


def brand(name: str) -> dict[str, object] | None:
    """The row of a brand as nvidia-smi -q writes it; None for one that is not in the table."""
    for row in load("compat_branches")["brands"]:
        if name.strip().lower() in (known.lower() for known in row["names"]):
            return dict(row)
    return None


def unfit(brands: Sequence[str]) -> str:
    """Why forward compatibility is not for these GPUs; an empty text where each of them is of a brand it is for."""
    if not brands:
        return "the brand of the GPU is not known"
    wrong = sorted({name or "unknown" for name in brands if not (brand(name) or {}).get("compat")})
    if not wrong:
        return ""
    kinds = ", ".join(wrong)
    if len(set(brands)) > 1:
        return f"forward compatibility is not for every GPU of this host: {kinds}"
    return f"forward compatibility is not for {kinds} GPUs"


def dropped(major: int) -> tuple[str, ...]:
    """Architectures that a CUDA major no longer runs on."""
    return tuple(
        name
        for row in load("cuda_driver_matrix")["architectures"]
        if row["cuda_major"] <= major
        for name in row["dropped"]
    )
