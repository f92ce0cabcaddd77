"""GM3xx: CDI specs: is there one, can each engine load it, and does it say what is true of this host now."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.cdi.additions import written_by_hand
from gpumend.rules.cdi.spec import (
    DYNAMIC,
    LEAST_WRITTEN,
    NO_GIDS,
    STATIC,
    edited_by_hand,
    flags,
    gpu_files,
    gpu_specs_in_use,
    needed_by,
    regenerate,
    target,
    uses_refresh,
)
from gpumend.rules.change import RemoveFiles, SetMode
from gpumend.rules.engines.engine import readers
from gpumend.rules.finding import Change, Component, Evidence, Finding, Status
from gpumend.rules.rule import Context, has_toolkit, rule
from gpumend.state.cdi import DEFAULT_DIRS, KIND, SpecFile
from gpumend.state.reading import Reading, Unread


@rule(
    "GM301",
    "a spec defines the GPUs for everybody who needs one",
    "nct#146, nct#1239, NixOS/nixpkgs#420638; cdi pkg/cdi/cache.go",
    applies=has_toolkit,
)
def unresolvable(context: Context) -> Iterator[Finding]:
    cdi = context.state.cdi
    broken = [file for file in cdi.files.need() if not file.spec.ok]
    lacking = {
        who: dirs
        for who, dirs in needed_by(context).items()
        if not cdi.resolve(dirs).gpus() and not cdi.resolve(dirs).conflicts
    }
    if not lacking:
        return
    for file in broken:
        if file.unread:
            file.spec.need()  # it may be the one that defines them
    for directory in (
        directory for dirs in lacking.values() for directory in dirs if directory not in DEFAULT_DIRS
    ):
        raise Unread(
            Reading.fail(directory, "not among the directories that are read: what is in it is not known")
        )
    if cdi.resolve(DEFAULT_DIRS).gpus():
        yield from _wrong_directory(context, lacking)
        return
    change, refused = regenerate(context)
    yield Finding(
        code="GM301",
        status=Status.FAIL,
        summary=f"no CDI spec defines {KIND}: needed by {', '.join(lacking)}",
        evidence=(
            *(Evidence(directory, _listing(context, directory)) for directory in DEFAULT_DIRS),
            *(Evidence(file.path, file.spec.detail) for file in broken),
        ),
        cause="No engine loads the files that are there (GM302)."
        if broken
        else "None was ever generated, or it was lost at a reboot.",
        remedy=f"Mend generates {target(context)}."
        if change
        else "Put that right first, then run this again.",
        change=change,
        refused=refused,
        symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
    )


def _listing(context: Context, directory: str) -> str:
    names = [
        file.path.rpartition("/")[2] for file in context.state.cdi.files.need() if file.directory == directory
    ]
    return ", ".join(names) or ("no spec" if context.state.cdi.directories[directory].ok else "not there")


def _wrong_directory(context: Context, lacking: dict[str, tuple[str, ...]]) -> Iterator[Finding]:
    for who, dirs in lacking.items():
        have = sorted({file.directory for file in context.state.cdi.resolve(DEFAULT_DIRS).in_use()})
        yield Finding(
            code="GM301",
            status=Status.FAIL,
            summary=f"{who} reads {', '.join(dirs)}, the spec is in {', '.join(have)}",
            evidence=tuple(Evidence(directory, _listing(context, directory)) for directory in DEFAULT_DIRS),
            cause="The engine's spec directories were narrowed by hand, or are narrow by default.",
            remedy="Let it read both directories (docker: GM405; podman 5.5: cdi_spec_dirs in containers.conf; "
            "runtime: nvidia-container-runtime.modes.cdi.spec-dirs).",
            refused="its directories are set elsewhere",
            symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
        )


@rule(
    "GM302", "every spec file loads", "cdi pkg/cdi/spec.go, version.go: strict decoding", applies=has_toolkit
)
def invalid(context: Context) -> Iterator[Finding]:
    for file in context.state.cdi.files.need():
        if file.spec.ok:
            continue
        if file.unread:
            file.spec.need()
        ours = file.path == target(context)
        change, refused = (
            regenerate(context) if ours else (None, f"{file.path} is not the file that mend writes")
        )
        if change and (texts := written_by_hand((file.data or b"").decode("utf-8", "replace"))):
            change, refused = (
                None,
                (
                    f"it was edited by hand, and a new one would lose {', '.join(texts[:4])}{' and more' if texts[4:] else ''}: "
                    "mend its text, or move that into a spec file of another name and kind and remove this one"
                ),
            )
        yield Finding(
            code="GM302",
            status=Status.FAIL if ours else Status.WARN,
            summary=f"{file.path} is not loaded by any engine: {file.spec.detail}",
            evidence=(Evidence(file.path, file.spec.detail),),
            cause="Engines decode strictly: one unknown field or wrong type drops the whole file, and only a log line tells.",
            remedy="Mend generates it anew." if change else "Repair or remove it.",
            change=change,
            refused=refused,
            symptoms=("unresolvable CDI devices",),
        )


@rule(
    "GM303",
    "no device is defined twice in one directory",
    "cdi pkg/cdi/cache.go: conflicts remove the device for good",
    applies=has_toolkit,
)
def conflict(context: Context) -> Iterator[Finding]:
    conflicts = {
        name: paths
        for name, paths in context.state.cdi.resolve(DEFAULT_DIRS).conflicts.items()
        if name.startswith(f"{KIND}=")
    }
    if not conflicts:
        return
    paths = tuple(dict.fromkeys(path for found in conflicts.values() for path in found))
    files = {file.path: file for file in gpu_files(context)}
    keep = next((path for path in paths if path in (STATIC, DYNAMIC)), paths[0])
    kept = set(_names(files[keep]))
    surplus = [path for path in paths if path != keep]
    by_hand = next(filter(None, (edited_by_hand(context, path) for path in surplus)), "")
    same = all(set(_names(files[path])) <= kept for path in surplus)
    safe = context.wanted.manage_cdi and same and not by_hand
    yield Finding(
        code="GM303",
        status=Status.FAIL,
        summary=f"{', '.join(sorted(conflicts))} defined by {' and '.join(paths)}: no engine resolves them",
        evidence=tuple(Evidence(" and ".join(found), name) for name, found in sorted(conflicts.items())),
        cause="Two files of one directory define the same device; the loader then drops it altogether, even where another directory defines it rightly.",
        remedy=f"Mend moves {', '.join(surplus)} into the run's backup and keeps {keep}."
        if safe
        else "Remove one of the files.",
        change=Change(Component.CDI, RemoveFiles(tuple(surplus))) if safe else None,
        refused=""
        if safe
        else (
            "cdi.manage is false"
            if not context.wanted.manage_cdi
            else by_hand
            if same
            else "the files define different devices besides"
        ),
        symptoms=("conflicting device", "unresolvable CDI devices"),
    )


def _names(file: SpecFile) -> tuple[str, ...]:
    return file.spec.value.names() if file.spec.value else ()


@rule(
    "GM308",
    "every engine here can read the spec's version",
    "nct#1860, nct#1865, nct#1940; vendored pkg/cdi at engine tags",
    applies=has_toolkit,
)
def too_new(context: Context) -> Iterator[Finding]:
    for file, spec in gpu_specs_in_use(context):
        blind = [who for who, newest in readers(context).items() if spec.version > newest]
        if not blind:
            continue
        if file.path != target(context):
            change, refused = None, f"{file.path} is not the file that mend writes ({target(context)})"
        elif spec.version <= LEAST_WRITTEN or any(readers(context)[who] < LEAST_WRITTEN for who in blind):
            change, refused = None, "no toolkit writes an older version than 0.5.0"
        else:
            change, refused = regenerate(context)
        version = ".".join(map(str, spec.version))
        yield Finding(
            code="GM308",
            status=Status.FAIL,
            summary=f"{file.path} is of cdiVersion {version}, which {', '.join(blind)} cannot read",
            evidence=(
                Evidence(file.path, f"cdiVersion: {version}"),
                *(Evidence(who, f"reads up to {'.'.join(map(str, readers(context)[who]))}") for who in blind),
            ),
            cause="Toolkit 1.19.1 and newer write additionalGids, which calls for 0.7.0. An older engine drops the whole file.",
            remedy=f"Mend generates it with --feature-flag={NO_GIDS}."
            if change and flags(context)
            else "Mend generates it: nvidia-ctk writes the least version that it needs."
            if change
            else "Upgrade the engine.",
            change=change,
            refused=refused,
            symptoms=('json: unknown field "additionalGids"', "unresolvable CDI devices"),
        )


@rule(
    "GM310",
    "nvidia-cdi-refresh works",
    "nct#1611, nct PR#1638, Azure/AgentBaker#9150, nct#1376",
    applies=has_toolkit,
)
def refresh_failed(context: Context) -> Iterator[Finding]:
    unit = context.state.cdi.refresh.get()
    if unit is None or unit.get("Result") in (None, "", "success") or unit.get("ActiveState") != "failed":
        return
    change, refused = regenerate(context)
    if change and not uses_refresh(context):
        change, refused = (
            None,
            "nvidia-cdi-refresh is not the writer here: it is disabled, or cdi.writer is `file`",
        )
    yield Finding(
        code="GM310",
        status=Status.FAIL,
        summary=f"nvidia-cdi-refresh.service failed: {unit.get('Result')}, exit status {unit.get('ExecMainStatus')}",
        evidence=(Evidence("systemctl show nvidia-cdi-refresh.service", f"Result={unit.get('Result')}"),),
        cause="At boot it often runs before the driver is there (toolkit 1.18.0, 1.18.1 and 1.19.0 do not try again).",
        remedy="Mend starts it again. If it fails at every boot, order it: a drop-in with After=nvidia-persistenced.service and "
        "Restart=on-failure, or toolkit 1.20.",
        change=change,
        refused=refused,
        symptoms=("Driver Not Loaded", "invalid discovery mode: cdi"),
    )


@rule(
    "GM312",
    "no spec file is silently ignored",
    "cdi pkg/cdi/cache.go: .json and .yaml only",
    applies=has_toolkit,
)
def ignored(context: Context) -> Iterator[Finding]:
    for path in context.state.cdi.ignored:
        if path.endswith(".yml"):
            yield Finding(
                code="GM312",
                status=Status.WARN,
                summary=f"{path} is ignored: engines load *.yaml and *.json only",
                evidence=(Evidence(path, "exists"),),
                remedy="Rename it to .yaml if it is wanted, or remove it.",
                refused="whether it is wanted is not known",
            )


@rule("GM313", "every engine may read the spec files", "nct#146: chmod 644", applies=has_toolkit)
def permissions(context: Context) -> Iterator[Finding]:
    for file in context.state.cdi.files.need():
        ours = file.path == target(context) or (file.spec.value is not None and file.spec.value.kind == KIND)
        if ours and file.meta.kind == "file" and not file.meta.mode & 0o004:
            can = context.wanted.manage_cdi
            yield Finding(
                code="GM313",
                status=Status.WARN,
                summary=f"{file.path} has mode {file.meta.mode:04o}: rootless engines cannot read it",
                evidence=(Evidence(file.path, f"mode {file.meta.mode:04o}"),),
                cause="It was written under a strict umask.",
                remedy="Mend sets mode 0644, as nvidia-ctk does.",
                change=Change(Component.CDI, SetMode(file.path)) if can else None,
                refused="" if can else "cdi.manage is false",
                symptoms=("unresolvable CDI devices",),
            )
