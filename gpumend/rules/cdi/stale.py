"""GM304, GM309: specs that no longer say what is true of this host."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.cdi.additions import hand_made
from gpumend.rules.cdi.difference import MOST, difference
from gpumend.rules.cdi.spec import (
    DYNAMIC,
    STATIC,
    can_generate,
    edited_by_hand,
    gpu_files,
    gpu_specs_in_use,
    needed_by,
    regenerate,
    target,
    uses_refresh,
)
from gpumend.rules.change import RemoveFiles
from gpumend.rules.driver.gpus import fault
from gpumend.rules.driver.nodes import numbers
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.state.cdi import DEFAULT_DIRS, Spec, SpecFile
from gpumend.text.version import show


def stale_paths(context: Context, spec: Spec) -> list[Evidence]:
    """Files a spec names that are not on this host: mounts, and hooks that are missing or cannot be executed."""
    found = []
    mentioned = context.state.cdi.mentioned
    for host in dict.fromkeys(host for host, _ in spec.edits.mounts):
        if mentioned[host].get() is None:
            found.append(Evidence(spec.path, f"mounts {host}, which is not there"))
    for program in dict.fromkeys(hook[0] for hook in spec.edits.hooks):
        meta = mentioned[program].get()
        if meta is None or not meta.mode & 0o111:
            found.append(Evidence(spec.path, f"hook {program} is not there, or not executable"))
    return found


MADE_BY_MEND = (
    "/dev/nvidiactl",
    "/dev/nvidia-uvm",
)  # GM105 makes these anew; a spec that lacks others is made anew


def stale_nodes(context: Context, spec: Spec) -> list[Evidence]:
    """Device nodes a spec names with other numbers than the host's, or that are no device (toolkit >= 1.19 writes
    numbers; nvidia-uvm's major changes from boot to boot, nct#1934). Missing control nodes are GM105's."""
    found = []
    for node in dict.fromkeys(spec.edits.nodes):
        meta = context.state.cdi.mentioned[node.host].get()
        if meta is None:
            if node.host not in MADE_BY_MEND:
                found.append(Evidence(spec.path, f"device {node.host}, which is not there"))
        elif meta.rdev is None:
            found.append(Evidence(spec.path, f"device {node.host}, which is a {meta.kind}"))
        elif node.major and (node.major, node.minor) not in (meta.rdev, kernels(context, node.host)):
            found.append(
                Evidence(
                    spec.path,
                    f"device {node.host} as {node.major}:{node.minor}, on this host it is {meta.rdev[0]}:{meta.rdev[1]}",
                )
            )
    return found


def kernels(context: Context, path: str) -> tuple[int, int] | None:
    """The numbers that the kernel has for a node; where a spec has them, the node on the host is what is wrong (GM108)."""
    return numbers(path, context.state.nodes.majors.value or {})


def wrong_names(context: Context, spec: Spec) -> list[Evidence]:
    """GPUs and MIG devices that nvidia-smi lists and the spec has not, and UUIDs that it has and no GPU bears."""
    gpus = context.state.gpus.listed.value
    if gpus is None:
        return []
    # A GPU that is split by MIG stands in a spec by its MIG devices alone.
    uuids = {gpu.uuid for gpu in gpus if not gpu.mig} | {uuid for gpu in gpus for uuid in gpu.mig}
    known = uuids | {gpu.uuid for gpu in gpus}
    named = {name for name in spec.devices if name.startswith(("GPU-", "MIG-"))}
    # A GPU may stand in a file of its own: what another file defines is not missing.
    found_there = context.state.cdi.resolve(DEFAULT_DIRS)
    # What two files of one directory define is GM303's: it is lost for another reason.
    names = (*found_there.gpus(), *found_there.conflicts)
    anywhere = {name.partition("=")[2] for name in names}
    found = [Evidence(spec.path, f"no device {uuid}") for uuid in sorted(uuids - anywhere) if named]
    found.extend(
        Evidence(spec.path, f"device {uuid}, which no GPU here bears") for uuid in sorted(named - known)
    )
    plain = {name for name in spec.devices if name.isdigit()}
    whole = {str(gpu.index) for gpu in gpus if not gpu.mig}
    if plain:
        found.extend(Evidence(spec.path, f"no device {index}") for index in sorted(whole - anywhere))
        found.extend(
            Evidence(spec.path, f"device {index}, but there are {len(gpus)} GPUs")
            for index in sorted(plain - {str(g.index) for g in gpus})
        )
    return found


def missing_control_nodes(context: Context, spec: Spec) -> list[Evidence]:
    """Control nodes of the host that the spec lacks: it was made before they existed."""
    have = {node.host for node in spec.edits.nodes}
    return [
        Evidence(spec.path, f"lacks {path}, which is on this host")
        for path in ("/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools")
        if path not in have and context.state.driver.nodes[path].ok
    ]


def staleness(context: Context, spec: Spec) -> tuple[tuple[Evidence, ...], str, str]:
    """All that is no longer true in a spec, with the one cause that explains most of it and its symptom."""
    loaded, made_for = context.state.driver.loaded.get(), spec.driver_version()
    driver = []
    if loaded and made_for and made_for != loaded:
        driver = [Evidence(spec.path, f"made for driver {show(made_for)}, loaded is {show(loaded)}")]
    paths, nodes = stale_paths(context, spec), stale_nodes(context, spec)
    names, control = wrong_names(context, spec), missing_control_nodes(context, spec)
    if driver:
        cause, symptom = "The driver was updated after the spec was made.", "no such file or directory"
    elif paths:
        cause, symptom = "Files that the spec names were removed or moved.", "no such file or directory"
    elif nodes:
        cause = "Device numbers changed: nvidia-uvm gets a new major from boot to boot, and nothing made the spec anew."
        symptom = "cuInit returns 999 (CUDA_ERROR_UNKNOWN) although nvidia-smi works"
    elif names:
        cause = "GPUs or MIG devices changed; nvidia-cdi-refresh does not watch for that."
        symptom = "unresolvable CDI devices"
    else:
        cause, symptom = "The spec was made before nvidia-uvm's nodes existed.", "CUDA unknown error"
    return (*driver, *paths, *nodes, *names, *control), cause, symptom


def is_good(context: Context, path: str) -> bool:
    """Whether a spec file is there and says what is true of this host now. Raises Unread."""
    return any(
        file.path == path and file.spec.value is not None and not staleness(context, file.spec.value)[0]
        for file in gpu_files(context)
    )


def out_of_the_way(context: Context, file: SpecFile) -> tuple[Change | None, str]:
    """The change that takes away a spec which nothing keeps true, so that the one that mend writes counts."""
    written = target(context)
    if file.path != DYNAMIC or (uses_refresh(context) and written != STATIC):
        return None, f"{file.path} is not the file that mend writes ({written})"
    if not context.wanted.manage_cdi:
        return None, "cdi.manage is false"
    refused = edited_by_hand(context, file.path) or (
        "" if is_good(context, written) else regenerate(context)[1]
    )
    return (None, refused) if refused else (Change(Component.CDI, RemoveFiles((file.path,))), "")


@rule(
    "GM304",
    "specs say what is true of this host now",
    "nct#1934, nct#1982, nct#50, nct#1828; podman#23935, podman#26233; webkit-container-sdk#23",
    applies=has_toolkit,
)
def stale(context: Context) -> Iterator[Finding]:
    """One finding a file, with all that is wrong with it: they have one cause and one remedy."""
    right = False
    for file, spec in gpu_specs_in_use(context):
        evidence, cause, symptom = staleness(context, spec)
        right = right or not evidence
        if not evidence or is_leftover(context, file):
            continue
        change, refused = regenerate(context)
        away = file.path != target(context)
        if away:
            change, refused = out_of_the_way(context, file)
        if hook := hook_missing(context, spec):
            change, refused = None, f"{hook} is not installed, and a new spec would name it again (GM203)"
            cause = "The toolkit is not whole: the program that the spec's hooks call is gone."
        evidence = (*evidence, *hand_made(spec), *in_its_place(context, file if away else None))
        more = f", and {len(evidence) - 1} more" if len(evidence) > 1 else ""
        yield Finding(
            code="GM304",
            status=Status.FAIL,
            summary=f"{file.path} is stale: {evidence[0].text}{more}",
            evidence=evidence,
            cause=cause,
            remedy=f"Mend moves it into the run's backup: {target(context)} counts then."
            if change and away
            else f"Mend generates it anew{' and keeps what was added by hand' if hand_made(spec) else ''}."
            if change
            else f"Take it away, or have whoever wrote it do it again: the later directory wins over {target(context)}."
            if away and file.directory == "/var/run/cdi"
            else "Put that right first, then generate it anew.",
            change=change,
            refused=refused,
            symptoms=(symptom,),
        )
    if (
        right and fault(context) is None and context.state.driver.loaded.value is not None
    ):  # else GM107's, GM102's
        context.state.gpus.listed.get()  # whether it names the GPUs that are here is not known without their list


def in_its_place(context: Context, file: SpecFile | None) -> list[Evidence]:
    """What containers get by the spec that counts once this one is gone, where that is known."""
    written = target(context)
    new = next((found.spec.value for found in gpu_files(context) if found.path == written), None)
    if file is None or file.path == written or new is None or file.spec.value is None:
        return []
    lines = difference(file.spec.value, new)
    return [Evidence(written, f"once {file.path} is gone: {line}") for line in lines[:MOST]]


def hook_missing(context: Context, spec: Spec) -> str:
    """The toolkit's own hook program that a spec calls and that is nowhere on this host; an empty text where it is."""
    programs = context.state.toolkit.programs
    for program in dict.fromkeys(hook[0] for hook in spec.edits.hooks):
        name = program.rpartition("/")[2]
        if name in programs and programs[name].absent and context.state.cdi.mentioned[program].absent:
            return name
    return ""


def is_leftover(context: Context, file: SpecFile) -> bool:
    """A spec made by hand in /etc/cdi where nvidia-cdi-refresh keeps another: nothing keeps this one true."""
    return uses_refresh(context) and file.path == STATIC and target(context) != STATIC


@rule(
    "GM309",
    "there is no static spec beside nvidia-cdi-refresh",
    "nct deployments/systemd (1.18.0); cdi pkg/cdi/spec-dirs.go",
    applies=has_toolkit,
)
def leftover(context: Context) -> Iterator[Finding]:
    written = target(context)
    for file in gpu_files(context):
        if not is_leftover(context, file) or file.spec.value is None:
            continue
        wrong, _, symptom = staleness(context, file.spec.value)
        narrow = [who for who, dirs in needed_by(context).items() if written.rpartition("/")[0] not in dirs]
        there = any(other.path == written for other in gpu_files(context))
        refused = f"{', '.join(narrow)} reads /etc/cdi only" if narrow else ""
        refused = refused or ("" if there else can_generate(context))
        refused = refused or ("" if context.wanted.manage_cdi else "cdi.manage is false")
        refused = refused or edited_by_hand(context, file.path)
        evidence = (*wrong, *hand_made(file.spec.value), *in_its_place(context, file))
        yield Finding(
            code="GM309",
            status=Status.FAIL if wrong else Status.WARN,
            summary=f"{file.path} is left over: nvidia-cdi-refresh keeps {written}, nothing keeps this one true",
            evidence=evidence
            or (Evidence(file.path, "exists"), Evidence("nvidia-cdi-refresh.service", "enabled")),
            cause="It was generated by hand before toolkit 1.18 brought nvidia-cdi-refresh. Devices that only it defines outlive every driver update.",
            remedy=f"Mend moves it into the run's backup once {written} is there."
            if not refused
            else "Put that right first; then it can go.",
            change=None if refused else Change(Component.CDI, RemoveFiles((file.path,))),
            refused=refused,
            symptoms=(symptom if wrong else "failed to mount: no such file or directory",),
        )
