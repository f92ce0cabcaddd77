"""GM6xx: does this host's driver run the CUDA that is wanted of it, and does forward compatibility help or harm.

Two numbers that are never mixed: the driver a release was shipped with (all features), and the oldest driver on which
its major runs at all. Decisions are by the driver's version, never by nvidia-smi's banner, which an active compat
library changes. The tables are in rules/data, each row with its source.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from facts.cuda import OURS, Activation, Compat, Note, Tree
from facts.gpu import Details
from facts.reading import Reading
from facts.version import Version, parse_version, show
from rules.data import load
from rules.drift import reboot_pending
from rules.finding import Change, Component, Evidence, Finding, Risk, Status
from rules.rule import Context, has_gpu, rule

DROPIN = f"90-{OURS}"
LINKER_FILE = (
    f"/etc/ld.so.conf.d/00-{OURS}"  # first, as the container toolkit's hook names its own (00-compat-*.conf)
)
HOOK_SINCE = (1, 17, 8)  # nct: enable-cuda-compat, and CVE-2025-23266 fixed
CAUSE_35 = (
    "cudaErrorInsufficientDriver (35) has three causes: no libcuda.so.1 is found at all, the runtime's CUDA major is "
    "newer than the driver's, or a wrong libcuda is found first."
)


# --- the tables


def dotted(version: Version) -> str:
    return ".".join(str(part) for part in version)


@cache
def releases() -> tuple[tuple[Version, Version | None, Version | None, int | None], ...]:
    """(toolkit, Linux driver, Windows driver, paired branch) of every release in the table."""

    def number(text: str | None) -> Version | None:
        return parse_version(text) if text else None

    return tuple(
        (
            parse_version(row["toolkit"]),
            number(row["linux"]),
            number(row["windows"]),
            row.get("paired_branch"),
        )
        for row in load("cuda_driver_matrix")["toolkits"]
    )


def rows_of(wanted: Version) -> tuple[tuple[Version, Version | None, Version | None, int | None], ...]:
    """The table's rows of a release; 12.9 has those of 12.9.0 and 12.9.1, 12.9.1 its own, or 12.9's where it has none."""
    exact = tuple(row for row in releases() if row[0][: len(wanted)] == wanted)
    return exact or tuple(row for row in releases() if row[0][:2] == wanted[:2])


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
            return parse_version(text) if text else None
    return None


def served(driver: Version) -> Version | None:
    """The newest CUDA release that a Linux driver serves with all its features; None for a driver older than the table."""
    return max((row[0][:2] for row in releases() if row[1] and row[1] <= driver), default=None)


def windows_served(driver: Version) -> Version | None:
    return max((row[0][:2] for row in releases() if row[2] and row[2] <= driver), default=None)


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


# --- the decision


@dataclass(frozen=True)
class Case:
    """One wanted release on one host. driver: the loaded one (on WSL2 the Windows driver), None where there is none.
    details: what the GPUs are; read only by rows that need it. outgrown: compat folders that are active and harm.
    notes: of compat libraries that are on the host."""

    wanted: Version
    driver: Version | None
    details: Reading[Details]
    needs: str = "runtime"
    wsl2: bool = False
    tegra: bool = False
    reboot: str = ""
    outgrown: tuple[str, ...] = ()
    containers: bool = False
    notes: tuple[Note, ...] = ()
    accept_note: bool = False

    @property
    def branch(self) -> int:
        return self.driver[0] if self.driver else 0

    @property
    def unfit(self) -> str:
        return unfit([gpu.brand for gpu in self.details.need().gpus])

    def all_features(self) -> bool:
        needed, paired = toolkit_driver(self.wanted), paired_branch(self.wanted)
        if needed is not None:
            return self.driver is not None and self.driver >= needed
        return paired is not None and self.branch >= paired

    def runs(self) -> bool:
        """Whether anything of this major runs on the driver (minor-version compatibility)."""
        least = minor_version_driver(self.wanted[0])
        return least is not None and self.driver is not None and self.driver >= least

    def old_gpu(self) -> str:
        """An architecture of this host that the release no longer supports, or an empty text."""
        gone = dropped(self.wanted[0])
        return (
            next((gpu.architecture for gpu in self.details.need().gpus if gpu.architecture in gone), "")
            if gone
            else ""
        )


@dataclass(frozen=True)
class Decision:
    """A row of the decision table. The first row whose `when` holds decides; refusals come first.

    action: windows | vendor | reboot | no_driver | deactivate | unknown_release | old_gpu | containers | fine | limited |
    compat | opt_in | refuse.
    """

    number: int
    action: str
    when: Callable[[Case], bool] = field(repr=False)
    source: str = ""


DOC = "NVIDIA CUDA compatibility guide"
DECISIONS: tuple[Decision, ...] = (
    Decision(
        1,
        "windows",
        lambda c: c.wsl2,
        "CUDA on WSL user guide: the driver is Windows's, never install one in WSL",
    ),
    Decision(2, "vendor", lambda c: c.tegra, f"{DOC}, Jetson: compat packages are JetPack's own"),
    Decision(
        3,
        "reboot",
        lambda c: bool(c.reboot),
        "error 803/804 where kernel and user driver differ: only a reboot helps",
    ),
    Decision(
        4, "no_driver", lambda c: c.driver is None, "measured: cudart 11.8 to 13.0 give 35 without a libcuda"
    ),
    Decision(
        5, "deactivate", lambda c: bool(c.outgrown), f"{DOC}, forward compatibility, errors 803 and 804"
    ),
    Decision(
        7,
        "unknown_release",
        lambda c: toolkit_driver(c.wanted) is None and not c.all_features(),
        "rules/data/cuda_driver_matrix.json has no driver for it: not guessed",
    ),
    Decision(8, "old_gpu", lambda c: bool(c.old_gpu()), "CUDA 13.0 release notes, dropped architectures"),
    Decision(
        9,
        "containers",
        lambda c: c.containers,
        "nct 1.17.5: enable-cuda-compat; images bring their compat libraries",
    ),
    Decision(10, "fine", lambda c: c.all_features(), "CUDA release notes, Table 3"),
    Decision(
        11, "limited", lambda c: c.runs() and c.needs == "runtime", f"{DOC}, minor-version compatibility"
    ),
    Decision(
        12,
        "compat",
        lambda c: c.runs() and not c.unfit and documented(c.wanted, c.branch) == "compatible",
        f"{DOC}, forward compatibility v615; minor-version compatibility: PTX of a newer toolkit fails",
    ),
    Decision(
        13,
        "compat",
        lambda c: not c.runs() and not c.unfit and documented(c.wanted, c.branch) == "compatible",
        f"{DOC}, forward compatibility v615",
    ),
    Decision(
        14,
        "opt_in",
        lambda c: not c.unfit and noted(c.wanted, c.branch, c.notes),
        "ELF note .note.cuda.fwd_compatibility: accepted, not documented as supported",
    ),
    Decision(15, "refuse", lambda c: True, f"{DOC}: GPU brand or driver branch in no list"),
)


def decide(case: Case) -> Decision:
    """The row that holds; raises Unread where it hangs on a GPU's brand or architecture that is not known."""
    return next(row for row in DECISIONS if row.when(case))


def case_of(context: Context, wanted: Version) -> Case:
    """This host's case for a release. Raises Unread where the driver's version is not known."""
    state = context.state
    if state.host.wsl2:
        details = state.gpus.details.get()
        driver = details.driver if details else None
    else:
        driver = state.driver.loaded.get()
    return Case(
        wanted=wanted,
        driver=driver,
        details=state.gpus.details,
        needs=context.wanted.cuda_needs,
        wsl2=state.host.wsl2,
        tegra=state.host.tegra,
        reboot=reboot_pending(context),
        outgrown=tuple(compat.folder for compat, _, _ in harmful(context))
        if driver and not state.host.wsl2
        else (),
        containers=context.wanted.cuda_workload == "containers",
        notes=tuple(compat.note.value for compat in state.cuda.compats if compat.note.value),
        accept_note=context.wanted.cuda_accept_note,
    )


def wants_cuda(context: Context) -> bool:
    """Whether there is a GPU, and CUDA releases are wanted of this host."""
    return has_gpu(context) and bool(context.wanted.cuda)


def driver_evidence(context: Context) -> tuple[Evidence, ...]:
    state = context.state
    if state.host.wsl2:
        details = state.gpus.details.value
        found = f"Windows driver {show(details.driver)}" if details else "not known"
        return (
            Evidence("uname -r", state.host.kernel),
            Evidence("nvidia-smi -q", found),
            *gpu_evidence(context),
        )
    driver = state.driver.loaded.value
    if driver is None:
        return (Evidence("/proc/driver/nvidia/version", "no driver is loaded"),)
    newest = served(driver)
    text = f"driver {show(driver)}, {state.driver.flavour.value} module"
    if newest:
        text += f"; serves CUDA {dotted(newest)} with all its features"
    return (Evidence("/proc/driver/nvidia/version", text), *gpu_evidence(context))


def gpu_evidence(context: Context) -> tuple[Evidence, ...]:
    details = context.state.gpus.details.value
    return tuple(
        dict.fromkeys(
            Evidence(
                "nvidia-smi -q",
                f"{gpu.name}: brand {gpu.brand or 'not told'}, {gpu.architecture or 'no architecture told'}",
            )
            for gpu in (details.gpus if details else ())
        )
    )


@rule(
    "GM601",
    "the driver runs the wanted CUDA",
    "NVIDIA CUDA release notes Table 3, CUDA compatibility guide; rules/data; reports 000 and 003",
    applies=wants_cuda,
)
def wanted_release(context: Context) -> Iterator[Finding]:
    for wanted in context.wanted.cuda:
        case = case_of(context, wanted)
        row = decide(case)
        finding = EXPLAIN[row.action](context, case, row) if row.action in EXPLAIN else None
        if finding is not None:
            yield finding


def _finding(
    context: Context, case: Case, row: Decision, status: Status, summary: str, **more: object
) -> Finding:
    evidence = (
        *driver_evidence(context),
        Evidence(
            "decision", f"row {row.number} for CUDA {dotted(case.wanted)}, needs {case.needs}: {row.source}"
        ),
    )
    return Finding("GM601", status, summary, evidence, **more)  # type: ignore[arg-type]


def _windows(context: Context, case: Case, row: Decision) -> Finding | None:
    details = context.state.gpus.details.need()
    needed = windows_driver(case.wanted)
    serves = max(filter(None, (windows_served(details.driver), details.cuda)), default=None)
    if (needed is not None and details.driver >= needed) or (
        serves is not None and serves >= case.wanted[:2]
    ):
        return None
    least = f" to {show(needed)} or newer" if needed else f" to one that serves CUDA {dotted(case.wanted)}"
    older = f"an image for CUDA <= {dotted(serves)}" if serves else "an image for an older CUDA"
    same_major = serves is not None and serves[0] == case.wanted[0] and case.needs == "runtime"
    return _finding(
        context,
        case,
        row,
        Status.WARN if same_major else Status.FAIL,
        f"the Windows driver {show(details.driver)} serves CUDA {dotted(serves) if serves else 'not known'}, "
        f"wanted is {dotted(case.wanted)}",
        cause="This is WSL2: the driver is Windows's, so no Linux driver and no cuda-compat package can help."
        + (
            " Programs of the same CUDA major start; newer functions and PTX of the newer toolkit fail."
            if same_major
            else ""
        )
        + f" {CAUSE_35} A library that was built for a newer CUDA major than the driver's (an unpinned TensorRT) is the second.",
        remedy=f"Update the Windows driver{least}, or use {older}.",
        risk=Risk.REBOOT,
        refused="the driver is Windows's",
        symptoms=(
            "CUDA initialization failure with error: 35",
            "CUDA driver version is insufficient for CUDA runtime version",
        ),
    )


def _vendor(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"this is a Jetson: whether it runs CUDA {dotted(case.wanted)} is JetPack's matter",
        remedy="Use the CUDA and the compat package that NVIDIA's JetPack documents name for this L4T release.",
        refused="Jetson systems are the vendor's to manage",
    )


def _reboot(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"whether CUDA {dotted(case.wanted)} runs is judged after a reboot",
        cause=f"{case.reboot[0].upper()}{case.reboot[1:]}. Programs may see error 803 or 804 meanwhile.",
        remedy="Reboot, then run this audit again. Nothing around CUDA is changed before.",
        risk=Risk.REBOOT,
        refused=case.reboot,
        symptoms=("system has unsupported display driver / cuda driver combination",),
    )


def _no_driver(context: Context, case: Case, row: Decision) -> Finding:
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"CUDA {dotted(case.wanted)} is wanted, and no driver is loaded",
        cause="Error 35 means just this here: no driver. A cuda-compat package does not help.",
        remedy=f"Put GM102 right first, with driver {_least(case)}.",
        risk=Risk.REBOOT,
        refused="the driver is not installed by mend",
        symptoms=("CUDA driver version is insufficient for CUDA runtime version",),
    )


def _least(case: Case) -> str:
    needed, least = toolkit_driver(case.wanted), minor_version_driver(case.wanted[0])
    chosen = least if case.needs == "runtime" and least else needed
    if chosen is None:
        paired = paired_branch(case.wanted)
        return f"of branch {paired} or newer" if paired else "as its release notes say"
    return f"{show(chosen)} or newer"


def _unknown_release(context: Context, case: Case, row: Decision) -> Finding:
    paired = paired_branch(case.wanted)
    say = f"; it goes with driver branch {paired}" if paired else ""
    note = noted(case.wanted, case.branch, case.notes)
    return _finding(
        context,
        case,
        row,
        Status.UNKNOWN,
        f"which driver CUDA {dotted(case.wanted)} needs is not in the tables{say}",
        cause="The release is newer than this gpumend, brings no Linux driver of its own (13.4 and newer), or does not exist "
        "(there is no CUDA 12.7). Nothing is guessed."
        + (f" The ELF note of its compat library accepts branch {case.branch}." if note else ""),
        remedy="See docs/adding-a-cuda-release.md; or ask the compat library itself: "
        "`readelf -p .note.cuda.fwd_compatibility /usr/local/cuda-X.Y/compat/libcuda.so.*`.",
        refused="not guessed",
    )


def _old_gpu(context: Context, case: Case, row: Decision) -> Finding:
    older = max((found[0][:2] for found in releases() if found[0][0] < case.wanted[0]), default=(0, 0))
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"CUDA {dotted(case.wanted)} does not support this host's {case.old_gpu()} GPU",
        cause=f"CUDA {case.wanted[0]} has no code for {', '.join(dropped(case.wanted[0]))}; no driver and no package changes that.",
        remedy=f"Stay on CUDA {older[0]}.x ({dotted(older)} is the last).",
        refused="the GPU is too old for it",
        symptoms=("no kernel image is available for execution on the device",),
    )


def _containers(context: Context, case: Case, row: Decision) -> Finding | None:
    toolkit = context.state.toolkit.version.get()
    if case.all_features() or (toolkit is not None and toolkit >= HOOK_SINCE):
        return None
    return _finding(
        context,
        case,
        row,
        Status.WARN,
        f"containers for CUDA {dotted(case.wanted)} need NVIDIA Container Toolkit {show(HOOK_SINCE)} or newer here",
        cause="Images bring their own compat libraries; the toolkit's hook puts them on the path where the driver calls for it.",
        remedy=f"Upgrade nvidia-container-toolkit to {show(HOOK_SINCE)} or newer. The host needs no cuda-compat package.",
        refused="the toolkit is not upgraded by mend",
    )


def _opt_in(context: Context, case: Case, row: Decision) -> Finding | None:
    if case.accept_note:
        return None  # GM602
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"cuda-compat-{case.wanted[0]}-{case.wanted[1]} accepts driver branch {case.branch}, and NVIDIA does not support that",
        cause="The library's ELF note lists the branch; the documents list only branches that are kept up.",
        remedy="Upgrade the driver to a listed branch; or set cuda.accept_note = true and answer for it.",
        refused="cuda.accept_note is false",
    )


def _refuse(context: Context, case: Case, row: Decision) -> Finding:
    why = (
        case.unfit
        or f"no list has driver branch {case.branch} for cuda-compat-{case.wanted[0]}-{case.wanted[1]}"
    )
    newest = served(case.driver) if case.driver else None
    older = f", or use CUDA {dotted(newest)} or older" if newest else ", or use an older CUDA"
    runs = case.runs()
    return _finding(
        context,
        case,
        row,
        Status.FAIL,
        f"driver {show(case.driver or ())} does not run CUDA {dotted(case.wanted)}"
        + (f" with what is needed of it ({case.needs})" if runs else ""),
        cause=f"A compat package is refused: {why}. "
        + ("PTX of a newer toolkit and its new functions need the newer driver." if runs else CAUSE_35),
        remedy=f"Upgrade the driver to {_least(case)}{older}.",
        risk=Risk.REBOOT,
        refused=why,
        symptoms=("CUDA driver version is insufficient for CUDA runtime version",)
        if not runs
        else ("the provided PTX was compiled with an unsupported toolchain",),
    )


EXPLAIN: dict[str, Callable[[Context, Case, Decision], Finding | None]] = {
    "windows": _windows,
    "vendor": _vendor,
    "reboot": _reboot,
    "no_driver": _no_driver,
    "unknown_release": _unknown_release,
    "old_gpu": _old_gpu,
    "containers": _containers,
    "opt_in": _opt_in,
    "refuse": _refuse,
}


# --- forward compatibility: where it is called for, and where it harms


def compat_release(context: Context) -> Version | None:
    """The CUDA release whose compat package this host needs: the newest that the table calls for; it serves older ones.

    Outgrown compat is looked away from here: what is wanted does not hang on what is in the way.
    """
    chosen = []
    for wanted in context.wanted.cuda:
        case = case_of(context, wanted)
        row = decide(Case(**{**vars(case), "outgrown": ()}))
        if row.action == "compat" or (row.action == "opt_in" and case.accept_note):
            chosen.append(wanted[:2])
    return max(chosen, default=None)


def package_of(release: Version) -> str:
    return f"cuda-compat-{release[0]}-{release[1]}"


def folder_of(release: Version) -> str:
    """Where the package puts its libraries (CUDA compatibility guide, Installation)."""
    return f"/usr/local/cuda-{release[0]}.{release[1]}/compat"


def harm(context: Context, compat: Compat) -> str:
    """What an active compat folder does on this host: why it fails, or an empty text where it is right."""
    driver = context.state.driver.loaded.get()
    if driver is None:
        return ""
    details = context.state.gpus.details.value
    if driver >= compat.driver:
        return f"803: the loaded driver {show(driver)} is not older than the compat library {show(compat.driver)}"
    if compat.note.value and driver[0] not in compat.note.value.branches:
        listed = ", ".join(map(str, compat.note.value.branches))
        return f"803: driver branch {driver[0]} is not in the library's note ({listed})"
    if details is not None and (why := unfit([gpu.brand for gpu in details.gpus])):
        return f"804: {why}"
    return ""


def harmful(context: Context) -> tuple[tuple[Compat, Activation, str], ...]:
    """Active compat folders that harm, who has them, and how."""
    return tuple(
        (compat, activation, why)
        for compat, activation in context.state.cuda.active_compats()
        if (why := harm(context, compat))
    )


def has_compat(context: Context) -> bool:
    host = context.state.host
    return has_gpu(context) and not host.wsl2 and not host.tegra and bool(context.state.cuda.compats)


def editable(activation: Activation) -> bool:
    """Whether mend may take an activation away: lines of the linker's files, and drop-ins that it wrote itself."""
    return activation.scope == "host" or (activation.scope == "service" and activation.ours)


def outgrown(context: Context) -> tuple[Compat, ...]:
    """Compat folders whose driver is not newer than the loaded one: of no use, and 803 where active."""
    driver = context.state.driver.loaded.get()
    return tuple(
        found for found in context.state.cuda.compats if driver is not None and driver >= found.driver
    )


def change(context: Context, action: str) -> Change | None:
    return Change(Component.CUDA, action=action) if context.wanted.manage_cuda else None


def removable(context: Context) -> tuple[Compat, ...]:
    """Outgrown compat that mend removes: of a package, under a wanted state that has put CUDA into its hands, and on
    nobody's path that mend may not change."""
    if not context.wanted.cuda or not context.wanted.manage_cuda or not context.state.packages.manager:
        return ()
    stuck = {found.folder for found in context.state.cuda.activations if not editable(found)}
    return tuple(found for found in outgrown(context) if found.package and found.folder not in stuck)


def dropin_of(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.d/{DROPIN}"


def dropin(folder: str, rest: str) -> bytes:
    """The drop-in that puts a folder before what a unit has on its library path already."""
    value = f"{folder}:{rest}" if rest else folder
    return (
        "# gpumend: CUDA forward compatibility (gpumend explain GM602). Taken away again when the driver has outgrown it.\n"
        f'[Service]\nEnvironment="LD_LIBRARY_PATH={value}"\n'
    ).encode()


def without(data: bytes, texts: set[str]) -> bytes | None:
    """A linker file without lines that name these folders; None where nothing but comments would be left."""
    rows = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    left = [row for row in rows if row.partition("#")[0].strip() not in texts]
    if not any(row.partition("#")[0].strip() for row in left):
        return None
    return "".join(left).encode("utf-8", "surrogateescape")


def files(
    context: Context, actions: set[str], release: Version | None
) -> tuple[dict[str, bytes | None], tuple[str, ...]]:
    """(path -> new bytes, None to remove it; packages to remove) of the change: who should not have a compat folder
    loses it, who should gets it."""
    cuda, wanted = context.state.cuda, context.wanted
    changed: dict[str, bytes | None] = {}
    deactivate = bool(actions & {"deactivate", "remove"})
    gone = removable(context) if deactivate else ()
    folders = {found.folder for found in gone} | (
        {compat.folder for compat, _, _ in harmful(context)} if deactivate else set()
    )
    for activation in cuda.activations:
        if activation.folder not in folders or not editable(activation):
            continue
        if activation.scope == "service":
            changed[activation.source] = None
        else:
            before = cuda.linker_files[activation.source].data
            texts = {
                found.text
                for found in cuda.activations
                if found.source == activation.source and found.folder in folders
            }
            left = without(before, texts)
            changed[activation.source] = (
                b"" if left is None and activation.source == "/etc/ld.so.conf" else left
            )
    if "unwanted" in actions:
        changed.update({found.source: None for found in unwanted(context, compat_release(context))})
    if release is not None:
        folder = folder_of(release)
        if wanted.cuda_activate == "host":
            if lacking(context, release):
                changed[LINKER_FILE] = (
                    f"# gpumend: CUDA forward compatibility (gpumend explain GM602)\n{folder}\n".encode()
                )
        else:
            for unit in lacking(context, release):
                changed[dropin_of(unit)] = dropin(folder, cuda.library_paths.get(unit, ""))
    return changed, tuple(found.package for found in gone if found.package)


@rule(
    "GM602",
    "cuda-compat is there for those who need it",
    "CUDA compatibility guide, forward compatibility v615; NVIDIA: it only provides the libraries, and does not configure the system",
    applies=wants_cuda,
)
def compat_missing(context: Context) -> Iterator[Finding]:
    release = compat_release(context)
    if stale := unwanted(context, release):
        yield Finding(
            code="GM602",
            status=Status.WARN,
            summary=f"cuda-compat is on a library path that no longer needs it: {', '.join(found.unit or found.source for found in stale)}",
            evidence=tuple(Evidence(found.source, f"names {found.text}") for found in stale),
            cause="gpumend put it there; the wanted state has changed since.",
            remedy="Mend removes the file.",
            change=change(context, "unwanted"),
            refused="" if context.wanted.manage_cuda else "cuda.manage is false",
        )
    if release is None:
        return
    cuda, driver = context.state.cuda, context.state.driver.loaded.need()
    folder, package = folder_of(release), package_of(release)
    installed = next((found for found in cuda.compats if found.folder == folder), None)
    unserved = lacking(context, release)
    if installed is not None and not unserved:
        return
    refused = "" if context.wanted.manage_cuda else "cuda.manage is false"
    if installed is not None and (why := harm(context, installed)):
        refused = refused or f"the library that is installed does not fit: {why}"
    elif installed is None and not context.state.packages.manager:
        refused = refused or "neither apt nor dnf is here to install it with"
    if (
        context.wanted.cuda_activate == "service"
        and context.wanted.cuda_services
        and not context.state.host.systemd
    ):
        refused = refused or "this host was not booted by systemd: a drop-in would do nothing"
    who = (
        "every program" if context.wanted.cuda_activate == "host" else ", ".join(context.wanted.cuda_services)
    )
    yield Finding(
        code="GM602",
        status=Status.FAIL,
        summary=f"CUDA {dotted(release)} needs {package} on driver {show(driver)}"
        + (
            f", which {', '.join(unserved)} {'does' if len(unserved) == 1 else 'do'} not get"
            if installed
            else ", which is not installed"
        ),
        evidence=(
            *driver_evidence(context),
            Evidence(folder, show(installed.driver) if installed else "no libcuda"),
            *(Evidence(name, f"{folder} is not on its library path") for name in unserved),
        ),
        cause=f"NVIDIA's table: {package} on driver branch {driver[0]} is "
        + {"compatible": "compatible.", "unlisted": "not listed; the library's own note accepts it."}.get(
            documented(release, driver[0]), "not supported; the library's own note accepts it."
        ),
        remedy=(
            f"Mend installs {package} if that touches no driver package, checks its ELF note against the loaded driver, "
            + (
                f"puts it on the library path of {who}"
                if who
                else "leaves it on nobody's path: name services in cuda.services"
            )
            + ", and calls cuInit with and without it. Running services get it when they are next started."
        )
        if not refused
        else "Put that right first.",
        change=None if refused else change(context, "compat"),
        refused=refused,
        symptoms=(
            "CUDA driver version is insufficient for CUDA runtime version",
            "unsatisfied condition: cuda>=",
        ),
    )


def unwanted(context: Context, release: Version | None) -> tuple[Activation, ...]:
    """What gpumend once put on a library path and the wanted state no longer asks for; what harms is GM603's."""
    bad = {activation.source for _, activation, _ in harmful(context)}
    wanted = context.wanted

    def asked(found: Activation) -> bool:
        if found.scope == "host":
            return bool(release) and wanted.cuda_activate == "host"
        return bool(release) and wanted.cuda_activate == "service" and found.unit in wanted.cuda_services

    mine = [found for found in context.state.cuda.activations if found.ours and found.source not in bad]
    return tuple(found for found in mine if not asked(found))


def lacking(context: Context, release: Version) -> tuple[str, ...]:
    """Who should have a release's compat folder on the library path and has not: services by name, or the linker."""
    folder, wanted = folder_of(release), context.wanted
    have = [found for found in context.state.cuda.activations if found.folder == folder]
    if wanted.cuda_activate == "host":
        return () if any(found.scope == "host" for found in have) else ("the dynamic linker",)
    units = {found.unit for found in have if found.scope == "service"}
    return tuple(unit for unit in wanted.cuda_services if unit not in units)


@rule(
    "GM603",
    "no compat library is active that the driver has outgrown",
    "CUDA compatibility guide: errors 803, 804; measured on an H100: 580.95.05 active on 580.159.04 gives 803",
    applies=has_compat,
)
def active_and_wrong(context: Context) -> Iterator[Finding]:
    for compat, activation, why in harmful(context):
        number = why[:3]
        who = {
            "host": "every program of this host",
            "service": activation.unit,
            "manager": "every service",
            "login": "every login",
        }[activation.scope]
        can = editable(activation)
        yield Finding(
            code="GM603",
            status=Status.FAIL,
            summary=f"{who} {'gets' if activation.scope != 'service' else 'has'} {compat.folder} first, and CUDA fails there with {number}",
            evidence=(
                Evidence(activation.source, f"names {activation.text}"),
                Evidence(compat.library, f"libcuda {show(compat.driver)}"),
                *driver_evidence(context),
            ),
            cause=f"{why[5:][0].upper()}{why[5:][1:]}. The driver's own libcuda is the right one.",
            remedy="Mend takes the folder off the library path again and calls cuInit. Programs that run keep what they loaded."
            if can
            else f"Take {activation.text} out of LD_LIBRARY_PATH in {activation.source}.",
            change=change(context, "deactivate") if can else None,
            refused=""
            if can and context.wanted.manage_cuda
            else "cuda.manage is false"
            if can
            else f"{activation.source} is not ours",
            symptoms=(
                "system has unsupported display driver / cuda driver combination"
                if number == "803"
                else "forward compatibility was attempted on non supported HW",
            ),
        )


@rule(
    "GM604",
    "no compat library is left over that the driver has outgrown",
    "CUDA compatibility guide: older compat packages are not supported on newer drivers, remove them",
    applies=has_compat,
)
def left_over(context: Context) -> Iterator[Finding]:
    mine = removable(context)
    active = {found.folder for found in context.state.cuda.activations}
    for compat in outgrown(context):
        if compat.folder in active and compat not in mine:
            continue  # GM603
        managed = compat in mine
        yield Finding(
            code="GM604",
            status=Status.WARN,
            summary=f"{compat.package or compat.folder} ({show(compat.driver)}) is older than the driver: of no use, and 803 where active",
            evidence=(
                Evidence(
                    compat.library,
                    f"libcuda {show(compat.driver)}, for CUDA {dotted(compat.cuda) if compat.cuda else 'not known'}",
                ),
                *driver_evidence(context)[:1],
            ),
            cause="The driver was upgraded past it, or it came along with a toolkit.",
            remedy=f"Mend removes {compat.package}, and nothing else."
            if managed
            else f"Remove {compat.package or compat.folder}; until then keep it off every library path.",
            change=change(context, "remove") if managed else None,
            refused="" if managed else "only under a wanted state that names cuda.wanted, and only packages",
            symptoms=("system has unsupported display driver / cuda driver combination",),
        )


@rule(
    "GM605",
    "CUPTI is more than its header",
    "report 004, strategy 5; NVIDIA's packages cuda-cupti-X-Y and cuda-cupti-dev-X-Y",
    applies=has_gpu,
)
def cupti(context: Context) -> Iterator[Finding]:
    trees = {tree.path: tree for tree in context.state.cuda.trees}
    for found in context.state.cuda.cupti:
        version = trees[found.tree].version if found.tree in trees else None
        state = found.state(version[0] if version else None)
        if state not in ("header_only", "dangling", "wrong_version"):
            continue
        where = found.tree or "the distribution's folders"
        words = {
            "header_only": "has the header alone, and no libcupti.so",
            "dangling": "has links to a libcupti.so that is not there",
            "wrong_version": "has a libcupti.so of another CUDA major",
        }[state]
        package = f"cuda-cupti-{version[0]}-{version[1]}" if version else "libcupti12 (or your release's)"
        yield Finding(
            code="GM605",
            status=Status.WARN,
            summary=f"CUPTI in {where} {words}",
            evidence=tuple(
                Evidence(path, text)
                for paths, text in (
                    (found.headers, "header"),
                    (found.libraries, "library"),
                    (found.dangling, "leads nowhere"),
                )
                for path in paths
            ),
            cause="The header came with a development package; the library is a package of its own. Builds find CUPTI, and their programs fail.",
            remedy=f"Install {package}, or leave the profiler out of the build.",
            refused="toolkit packages are not installed by mend",
            symptoms=("libcupti.so.12: cannot open shared object file",),
        )


@dataclass(frozen=True)
class Namer:
    """A container or image that names a CUDA release, and the words that do."""

    label: str
    source: str
    release: Version
    text: str


def named_release(env: dict[str, str]) -> tuple[Version, str] | None:
    """The CUDA release that an environment names: CUDA_VERSION, else the least of NVIDIA_REQUIRE_CUDA."""
    match = re.match(r"(\d+)\.(\d+)", env.get("CUDA_VERSION", ""))
    if match:
        return (int(match.group(1)), int(match.group(2))), f"CUDA_VERSION={env['CUDA_VERSION'][:40]}"
    text = env.get("NVIDIA_REQUIRE_CUDA", "")
    # Alternatives are separated by spaces, and one suffices: the least is what the image can live with.
    least = [(int(major), int(minor or 0)) for major, minor in re.findall(r"cuda>=(\d+)(?:\.(\d+))?", text)]
    return (min(least), f"NVIDIA_REQUIRE_CUDA={text[:80]}") if least else None


def namers(context: Context) -> Iterator[Namer]:
    """Containers that ask for a GPU, then images of no such container, that name a CUDA release."""
    docker = context.state.docker
    seen = set()
    for container in docker.containers.get() or ():
        asks = (
            container.uses_gpus_flag()
            or container.uses_cdi()
            or container.uses_runtime()
            or bool(container.devices)
        )
        found = named_release(dict(container.env))
        seen.add(container.image)
        if asks and found:
            yield Namer(container.label(), f"docker inspect {container.name}", *found)
    for image in context.state.cuda.images.get() or ():
        found = named_release(dict(image.env))
        if found and not seen.intersection(image.names):
            yield Namer(f"image {image.label()}", f"docker inspect {image.label()}", *found)


def has_namers(context: Context) -> bool:
    """A GPU, and a dockerd that answers: images of one that is down are nobody's yet."""
    return has_gpu(context) and context.state.docker.running and not context.state.host.tegra


@rule(
    "GM606",
    "the driver runs the CUDA that containers and images name",
    "report 000: CUDA runtime 12.9 on driver 560.94; nct#152; CUDA compatibility guide",
    applies=has_namers,
)
def named(context: Context) -> Iterator[Finding]:
    by_release: dict[Version, list[Namer]] = {}
    for found in namers(context):
        by_release.setdefault(found.release, []).append(found)
    toolkit = context.state.toolkit.version.value or ()
    for release, found_in in sorted(by_release.items()):
        case = case_of(context, release)
        if case.driver is None or case.reboot:
            return  # GM101, GM102
        if toolkit_driver(release) is None:
            continue  # an image's label is not a wanted state: nothing is known to be wrong
        if case.wsl2:
            details = context.state.gpus.details.need()
            needed = windows_driver(release)
            serves = max(filter(None, (windows_served(case.driver), details.cuda)), default=None)
            if (needed and case.driver >= needed) or (serves and serves >= release):
                continue
            same_major = bool(serves and serves[0] == release[0])
            cause, remedy = (
                "This is WSL2: no cuda-compat helps.",
                f"Update the Windows driver{f' to {show(needed)} or newer' if needed else ''}, or use an image for CUDA <= "
                f"{dotted(serves) if serves else 'what it serves'}.",
            )
        else:
            row = decide(Case(**{**vars(case), "needs": "runtime", "outgrown": (), "containers": False}))
            if row.action in ("fine", "limited"):
                continue
            same_major = False
            if row.action in ("compat", "opt_in"):
                if toolkit >= HOOK_SINCE:
                    continue  # the image's own compat libraries serve it, put on the path by the toolkit's hook
                cause = f"The image's own compat libraries would serve it; the toolkit puts them on the path from {show(HOOK_SINCE)} on."
                remedy = f"Upgrade nvidia-container-toolkit to {show(HOOK_SINCE)} or newer."
            elif row.action == "old_gpu":
                cause = f"CUDA {release[0]} no longer supports this host's {case.old_gpu()} GPU."
                remedy = f"Use an image for CUDA {release[0] - 1}.x."
            else:
                newest = served(case.driver)
                cause = f"The driver is older than CUDA {release[0]} allows, and compat libraries do not help: {case.unfit or f'no list has driver branch {case.branch}'}."
                remedy = f"Upgrade the driver to {_least(case)}" + (
                    f", or use an image for CUDA <= {dotted(newest)}." if newest else "."
                )
        names = ", ".join(found.label for found in found_in[:6])
        yield Finding(
            code="GM606",
            status=Status.WARN if same_major else Status.FAIL,
            summary=f"the driver does not {'fully ' if same_major else ''}serve CUDA {dotted(release)}, which is named by {names}"
            + (f" and {len(found_in) - 6} more" if len(found_in) > 6 else ""),
            evidence=(
                *(Evidence(found.source, found.text) for found in found_in[:6]),
                *driver_evidence(context),
            ),
            cause=f"{cause} {CAUSE_35}",
            remedy=remedy,
            refused="images and drivers are their owners'",
            symptoms=(
                "CUDA driver version is insufficient for CUDA runtime version",
                "requirement error: unsatisfied condition: cuda>=",
                "CUDA initialization failure with error: 35",
            ),
        )


@rule(
    "GM607",
    "each CUDA toolkit was installed one way, and says which it is",
    "NVIDIA CUDA installation guide, Conflicting Installation Methods",
    applies=has_gpu,
)
def toolkits(context: Context) -> Iterator[Finding]:
    cuda = context.state.cuda
    if cuda.dangling:
        yield Finding(
            code="GM607",
            status=Status.WARN,
            summary=f"/usr/local/cuda leads to {cuda.dangling}, which is not there",
            evidence=(Evidence("/usr/local/cuda", f"-> {cuda.dangling}"),),
            remedy="`update-alternatives --config cuda`, or renew the link to a toolkit that is installed.",
            refused="which toolkit is the host's is its owner's decision",
        )
    for tree in cuda.trees:
        told = re.search(r"/cuda-(\d+\.\d+)$", tree.path)
        if tree.how == "both":
            yield _toolkit(
                tree,
                f"CUDA {dotted(tree.version or ())} in {tree.path} was installed by packages and by the runfile",
                "The two overwrite each other's files, and removing one breaks the other.",
                f"Run {tree.path}/bin/cuda-uninstaller and install the packages again, or remove the packages.",
            )
        elif told and tree.version and tree.version != parse_version(told.group(1)):
            yield _toolkit(
                tree,
                f"{tree.path} holds CUDA {dotted(tree.version)}",
                "A toolkit was copied or installed into another one's folder.",
                "Install it into a folder of its own name.",
            )


def _toolkit(tree: Tree, summary: str, cause: str, remedy: str) -> Finding:
    return Finding(
        code="GM607",
        status=Status.WARN,
        summary=summary,
        evidence=(
            Evidence(tree.version_source, f"CUDA {dotted(tree.version or ())}"),
            Evidence(
                f"{tree.path}/bin/cuda-uninstaller",
                "there" if tree.how in ("both", "runfile") else "not there",
            ),
        ),
        cause=cause,
        remedy=remedy,
        refused="toolkits are not removed by mend",
    )


@rule(
    "GM608",
    "libraries on the host were built for a CUDA that the driver runs",
    "report 000: unpinned libnvinfer10 +cuda13.0 on a 12.6 driver; measured: cudart 13 refuses a 12.x driver",
    applies=has_gpu,
)
def built_for(context: Context) -> Iterator[Finding]:
    state = context.state
    if state.host.tegra or reboot_pending(context):
        return
    if state.host.wsl2:
        details = state.gpus.details.value
        newest = (
            max(filter(None, (windows_served(details.driver), details.cuda)), default=None)
            if details
            else None
        )
    else:
        driver = state.driver.loaded.value
        newest = served(driver) if driver else None
    if newest is None:
        return
    # cuDNN and NCCL say a major alone at times: a major is what cudart's own check goes by, too.
    wrong = [
        found
        for found in state.cuda.of_role("built_for", "toolkit", "library", "distro_toolkit")
        if found.cuda and found.cuda[0] > newest[0]
    ]
    if not wrong:
        return
    compat = [
        found
        for found, _ in state.cuda.active_compats()
        if found.cuda and found.cuda[0] >= max(p.cuda[0] for p in wrong if p.cuda)
    ]
    if compat or any(wanted[0] > newest[0] for wanted in context.wanted.cuda):
        return  # served by compat, or GM601's
    libraries = [found for found in wrong if found.role == "built_for"]
    first = (libraries or wrong)[0]
    yield Finding(
        code="GM608",
        status=Status.WARN,
        summary=f"{first.name} {first.version} is of CUDA {dotted(first.cuda or ())}, the driver serves {dotted(newest)}"
        + (f" ({len(wrong) - 1} more like it)" if len(wrong) > 1 else ""),
        evidence=(
            *(Evidence("dpkg, rpm", f"{found.name} {found.version}") for found in wrong[:6]),
            *driver_evidence(context),
        ),
        cause=f"A CUDA runtime of a newer major than the driver's refuses to start. {CAUSE_35}",
        remedy=f"Pin the library to a build for CUDA {newest[0]} (its version ends in +cuda{newest[0]}.x), or upgrade the driver.",
        refused="which of the two is the owner's decision",
        symptoms=(
            "CUDA initialization failure with error: 35",
            "CUDA driver version is insufficient for CUDA runtime version",
        ),
    )
