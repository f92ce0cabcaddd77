"""Whether a host's driver runs a CUDA release: the decision table, and one host's case for it.

Decisions are by the driver's version, never by nvidia-smi's banner, which an active compat library changes.
"""

from __future__ import annotations

from collections.abc import Callable

from gpumend.rules.cuda.releases import (
    documented,
    dotted,
    dropped,
    minor_version_driver,
    noted,
    paired_branch,
    served,
    toolkit_driver,
    unfit,
)
from gpumend.rules.driver.drift import reboot_pending
from gpumend.rules.finding import Evidence
from gpumend.rules.rule import Context
from gpumend.state.cuda import Activation, Compat, Note
from gpumend.state.gpu import Details
from gpumend.state.reading import Reading
from gpumend.text.record import Record
from gpumend.text.version import Version, show

HOOK_SINCE = (1, 17, 8)  # nct: enable-cuda-compat, and CVE-2025-23266 fixed
CAUSE_35 = (
    "cudaErrorInsufficientDriver (35) has three causes: no libcuda.so.1 is found at all, the runtime's CUDA major is "
    "newer than the driver's, or a wrong libcuda is found first."
)


class Case(Record):
    """One wanted release on one host. driver: the loaded one (on WSL2 the Windows driver), None where there is none.
    details: what the GPUs are; read only by rows that need it. outgrown: compat directories that are active and harm.
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


class Decision(Record):
    """A row of the decision table. The first row whose `when` holds decides; refusals come first.

    action: windows | vendor | reboot | no_driver | deactivate | unknown_release | old_gpu | containers | fine | limited |
    compat | opt_in | refuse.
    """

    number: int
    action: str
    when: Callable[[Case], bool]
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
        "gpumend/rules/data/cuda_driver_matrix.json has no driver for it: not guessed",
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
        outgrown=tuple(compat.directory for compat, _, _ in harmful(context))
        if driver and not state.host.wsl2
        else (),
        containers=context.wanted.cuda_workload == "containers",
        notes=tuple(compat.note.value for compat in state.cuda.compats if compat.note.value),
        accept_note=context.wanted.cuda_accept_note,
    )


def harm(context: Context, compat: Compat) -> str:
    """What an active compat directory does on this host: why it fails, or an empty text where it is right. Raises Unread."""
    driver = context.state.driver.loaded.get()
    if driver is None:
        return ""
    if driver >= compat.driver:
        return f"803: the loaded driver {show(driver)} is not older than the compat library {show(compat.driver)}"
    if compat.note.value and driver[0] not in compat.note.value.branches:
        listed = ", ".join(map(str, compat.note.value.branches))
        return f"803: driver branch {driver[0]} is not in the library's note ({listed})"
    details = context.state.gpus.details.get()
    if details is not None and (why := unfit([gpu.brand for gpu in details.gpus])):
        return f"804: {why}"
    return ""


def harmful(context: Context) -> tuple[tuple[Compat, Activation, str], ...]:
    """Active compat directories that harm, who has them, and how."""
    return tuple(
        (compat, activation, why)
        for compat, activation in context.state.cuda.active_compats()
        if (why := harm(context, compat))
    )


def least_driver(case: Case) -> str:
    needed, least = toolkit_driver(case.wanted), minor_version_driver(case.wanted[0])
    chosen = least if case.needs == "runtime" and least else needed
    if chosen is None:
        paired = paired_branch(case.wanted)
        return f"of branch {paired} or newer" if paired else "as its release notes say"
    return f"{show(chosen)} or newer"


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
