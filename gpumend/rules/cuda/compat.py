"""GM602 to GM604: forward compatibility (cuda-compat), where it is called for, and where it harms."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from gpumend.rules.change import Action, ActivateCompat, DeactivateCompat, ForgetCompat, RemoveCompat
from gpumend.rules.cuda.cuda import wants_cuda
from gpumend.rules.cuda.decision import case_of, decide, driver_evidence, harm, harmful
from gpumend.rules.cuda.releases import documented, dotted
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.cuda import OURS, Activation, Compat
from gpumend.text.version import Version, show

DROPIN = f"90-{OURS}"
LINKER_FILE = (
    f"/etc/ld.so.conf.d/00-{OURS}"  # first, as the container toolkit's hook names its own (00-compat-*.conf)
)


def compat_release(context: Context) -> Version | None:
    """The CUDA release whose compat package this host needs: the newest that the table calls for; it serves older ones.

    Outgrown compat is looked away from here: what is wanted does not hang on what is in the way.
    """
    chosen = []
    for wanted in context.wanted.cuda:
        case = case_of(context, wanted)
        row = decide(case._replace(outgrown=()))
        if row.action == "compat" or (row.action == "opt_in" and case.accept_note):
            chosen.append(wanted[:2])
    return max(chosen, default=None)


def package_of(release: Version) -> str:
    return f"cuda-compat-{release[0]}-{release[1]}"


def directory_of(release: Version) -> str:
    """Where the package puts its libraries (CUDA compatibility guide, Installation)."""
    return f"/usr/local/cuda-{release[0]}.{release[1]}/compat"


def has_compat(context: Context) -> bool:
    host = context.state.host
    return (
        has_gpu(context)
        and not host.wsl2
        and not host.tegra
        and (bool(context.state.cuda.compats) or not context.state.cuda.looked.ok)
    )


def editable(activation: Activation) -> bool:
    """Whether mend may take an activation away: lines of the linker's files, and drop-ins that it wrote itself."""
    return activation.scope == "host" or (activation.scope == "service" and activation.ours)


def outgrown(context: Context) -> tuple[Compat, ...]:
    """Compat directories whose driver is not newer than the loaded one: of no use, and 803 where active."""
    driver = context.state.driver.loaded.get()
    return tuple(
        found for found in context.state.cuda.compats if driver is not None and driver >= found.driver
    )


def change(context: Context, action: Action) -> Change | None:
    return Change(Component.CUDA, action) if context.wanted.manage_cuda else None


def in_hand(context: Context) -> tuple[Compat, ...]:
    """Outgrown compat that is mend's to remove: of a package, under a wanted state that has put CUDA into its hands, and on
    nobody's path that mend may not change."""
    if not context.wanted.cuda or not context.wanted.manage_cuda or not context.state.packages.manager:
        return ()
    stuck = {found.directory for found in context.state.cuda.activations if not editable(found)}
    return tuple(found for found in outgrown(context) if found.package and found.directory not in stuck)


def removable(context: Context) -> tuple[Compat, ...]:
    """Outgrown compat that mend removes: what could be had again, for a later proof of the run may fail."""
    packages = context.state.packages
    return tuple(found for found in in_hand(context) if packages.comes_back(found.package or "") is not False)


def dropin_of(unit: str) -> str:
    return f"/etc/systemd/system/{unit}.d/{DROPIN}"


def dropin(directory: str, rest: str) -> bytes:
    """The drop-in that puts a directory before what a unit has on its library path already."""
    value = f"{directory}:{rest}" if rest else directory
    return (
        "# gpumend: CUDA forward compatibility (gpumend explain GM602). Taken away again when the driver has outgrown it.\n"
        f'[Service]\nEnvironment="LD_LIBRARY_PATH={value}"\n'
    ).encode()


def without(data: bytes, texts: set[str]) -> bytes | None:
    """A linker file without lines that name these directories; None where nothing but comments would be left."""
    rows = data.decode("utf-8", "surrogateescape").splitlines(keepends=True)
    left = [row for row in rows if row.partition("#")[0].strip() not in texts]
    if not any(row.partition("#")[0].strip() for row in left):
        return None
    return "".join(left).encode("utf-8", "surrogateescape")


def files(
    context: Context, actions: Collection[Action], release: Version | None
) -> tuple[dict[str, bytes | None], tuple[str, ...]]:
    """(path -> new bytes, None to remove it; packages to remove) of the change: who should not have a compat directory
    loses it, who should gets it."""
    cuda, wanted = context.state.cuda, context.wanted
    changed: dict[str, bytes | None] = {}
    deactivate = DeactivateCompat() in actions or RemoveCompat() in actions
    gone = removable(context) if deactivate else ()
    directories = {found.directory for found in gone} | (
        {compat.directory for compat, _, _ in harmful(context)} if deactivate else set()
    )
    for activation in cuda.activations:
        if activation.directory not in directories or not editable(activation):
            continue
        if activation.scope == "service":
            changed[activation.source] = None
        else:
            before = cuda.linker_files[activation.source].data
            texts = {
                found.text
                for found in cuda.activations
                if found.source == activation.source and found.directory in directories
            }
            left = without(before, texts)
            changed[activation.source] = (
                b"" if left is None and activation.source == "/etc/ld.so.conf" else left
            )
    if ForgetCompat() in actions:
        changed.update({found.source: None for found in unwanted(context, compat_release(context))})
    if release is not None:
        directory = directory_of(release)
        if wanted.cuda_activate == "host":
            if lacking(context, release):
                changed[LINKER_FILE] = (
                    f"# gpumend: CUDA forward compatibility (gpumend explain GM602)\n{directory}\n".encode()
                )
        else:
            for unit in lacking(context, release):
                changed[dropin_of(unit)] = dropin(directory, cuda.library_paths.get(unit, ""))
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
            change=change(context, ForgetCompat()),
            refused="" if context.wanted.manage_cuda else "cuda.manage is false",
        )
    if release is None:
        return
    cuda, driver = context.state.cuda, context.state.driver.loaded.need()
    directory, package = directory_of(release), package_of(release)
    installed = next((found for found in cuda.compats if found.directory == directory), None)
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
            Evidence(directory, show(installed.driver) if installed else "no libcuda"),
            *(Evidence(name, f"{directory} is not on its library path") for name in unserved),
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
        change=None if refused else change(context, ActivateCompat()),
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
    """Who should have a release's compat directory on the library path and has not: services by name, or the linker."""
    directory, wanted = directory_of(release), context.wanted
    have = [found for found in context.state.cuda.activations if found.directory == directory]
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
            summary=f"{who} {'gets' if activation.scope != 'service' else 'has'} {compat.directory} first, and CUDA fails there with {number}",
            evidence=(
                Evidence(activation.source, f"names {activation.text}"),
                Evidence(compat.library, f"libcuda {show(compat.driver)}"),
                *driver_evidence(context),
            ),
            cause=f"{why[5:][0].upper()}{why[5:][1:]}. The driver's own libcuda is the right one.",
            remedy="Mend takes the directory off the library path again and calls cuInit. Programs that run keep what they loaded."
            if can
            else f"Take {activation.text} out of LD_LIBRARY_PATH in {activation.source}.",
            change=change(context, DeactivateCompat()) if can else None,
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
    context.state.cuda.looked.get()
    mine, stay = removable(context), set(in_hand(context)) - set(removable(context))
    active = {found.directory for found in context.state.cuda.activations}
    for compat in outgrown(context):
        if compat.directory in active and compat not in mine and compat not in stay:
            continue  # GM603
        managed = compat in mine
        yield Finding(
            code="GM604",
            status=Status.WARN if managed else Status.NOTE,
            summary=f"{compat.package or compat.directory} ({show(compat.driver)}) is older than the driver: of no use, and 803 where active",
            evidence=(
                Evidence(
                    compat.library,
                    f"libcuda {show(compat.driver)}, for CUDA {dotted(compat.cuda) if compat.cuda else 'not known'}",
                ),
                *driver_evidence(context)[:1],
            ),
            cause="The driver was upgraded past it, or it came along with a toolkit.",
            remedy=f"Mend removes {compat.package}, and nothing else; its archive is kept in the run's backup."
            if managed
            else f"Remove {compat.package or compat.directory}; until then keep it off every library path.",
            change=change(context, RemoveCompat()) if managed else None,
            refused=""
            if managed
            else f"{compat.package} could not be had again: neither a repository nor apt's cache has its version"
            if compat in stay
            else "only under a wanted state that names cuda.wanted, and only packages",
            symptoms=("system has unsupported display driver / cuda driver combination",),
        )
