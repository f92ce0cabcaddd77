"""GM126, GM127: the driver that is wanted is installed, and in the kernel.

Nothing is installed unless the wanted state says so (`driver.install`), no package is removed, and nothing reboots: what is
installed counts from the next boot on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase

from gpumend.payload.driver import is_driver_package, shown_number
from gpumend.rules.change import InstallDriver
from gpumend.rules.driver.driver_packages import (
    MANAGERS,
    TEXTS,
    Kept,
    beside,
    elsewhere,
    fabric_of,
    flavour,
    in_words,
    kept,
    origin_of,
    row_of,
    stream_of,
)
from gpumend.rules.driver.reboot import installed_not_loaded
from gpumend.rules.finding import Change, Component, Evidence, Finding, Risk, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.rules.wanted import WantedDriver
from gpumend.state.driver import FABRIC_UNIT
from gpumend.state.driver_packages import AT_BOOT, LEFT_ALONE, NOUVEAU_OFF, PERSISTENCED
from gpumend.state.driver_packages import names as names_of
from gpumend.text.record import Record
from gpumend.text.version import show

GUIDE = "NVIDIA driver installation guide"
# What a person does where mend does not: dnf's and zypper's own ways.
LINES = {
    "dnf": "dnf module enable nvidia-driver:{branch}-{stream}; dnf install nvidia-driver-cuda kmod-nvidia-{dkms}-dkms "
    "kernel-devel-{kernel}; on RHEL 10 and Fedora `dnf versionlock add '*nvidia*{branch}*'` in place of the module stream",
    "zypper": "zypper install {zypper} of branch {branch}; zypper addlock 'nvidia*'",
}


class Job(Record):
    """What is missing of the wanted driver, in words, and what brings it. refused: why that is not done; by_hand: what a person
    does then."""

    lacks: tuple[str, ...] = ()
    action: InstallDriver | None = None
    refused: str = ""
    by_hand: str = ""


def wants_driver(context: Context) -> bool:
    return context.wanted.driver is not None and has_gpu(context)


def settings_missing(context: Context, wanted: WantedDriver) -> tuple[str, ...]:
    """Files of gpumend's own that are not there as they have to be. Raises Unread."""
    state, manager = context.state, context.state.packages.manager
    files = [] if state.driver.nouveau_blacklisted.get() else [NOUVEAU_OFF]
    files += [AT_BOOT, *([LEFT_ALONE] if wanted.hold and manager == "apt" else [])]
    found = []
    for path in files:
        now = state.driver_packages.files[path].get()
        if now is None or now.data != TEXTS[path].encode():
            found.append(path)
    return tuple(found)


def units_off(context: Context) -> tuple[str, ...]:
    """The driver's services that this host needs and that do not start at boot. Raises Unread."""
    needed = [PERSISTENCED] + ([FABRIC_UNIT] if fabric_of(context) in ("own", "subnet") else [])
    return tuple(unit for unit in needed if context.state.driver_packages.units.get(unit) == "disabled")


def is_held(context: Context) -> bool:
    """Whether upgrades leave the driver alone, as far as that is the package manager's to say. Raises Unread."""
    state = context.state
    names = [name for name in state.packages.installed.get() or {} if is_driver_package(name)]
    if state.packages.manager == "apt":
        return all(name in state.packages.held for name in names)
    if state.packages.manager == "zypper":
        patterns = state.driver_packages.zypp_locks.get() or ()
        return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in names)
    return all(any(is_lock_of(name, pattern) for pattern in state.drift.versionlock) for name in names)


def is_lock_of(name: str, pattern: str) -> bool:
    """dnf 5 has the name, dnf 4 `NAME-EPOCH:VERSION-RELEASE.*`."""
    first = re.match(r"-\d+[:.]", pattern[len(name) :]) if pattern.startswith(name) else None
    return pattern == name or first is not None


def secure_boot(context: Context) -> str:
    """What of Secure Boot is known, in words."""
    host, mok = context.state.host, context.state.driver_packages.mok
    if host.secure_boot.value is None:
        return f"not known: {host.secure_boot.detail or 'no mokutil on this host'}"
    if not host.secure_boot.value:
        return "off"
    return "on, and the firmware " + (
        "knows the key of this host's DKMS" if mok.value else "does not know a key of this host's DKMS"
    )


def obstacle(context: Context, wanted: WantedDriver, there: Kept, kind: str) -> tuple[str, str]:
    """(why no driver is installed here, what a person does), or two empty texts. Raises Unread."""
    state = context.state
    module = state.driver.loaded.get()
    if state.machine.container.ok:
        return (
            f"this is a container ({state.machine.container.value})",
            "Install the driver on the outer host.",
        )
    if state.drift.runfile:
        return (
            "the driver here came from NVIDIA's runfile (/usr/bin/nvidia-uninstall)",
            "Keep it, or `nvidia-uninstall` and a reboot first: packages over a runfile break at the next upgrade.",
        )
    if module is not None and not there.numbers:
        return (
            f"driver {show(module)} is in the kernel, and no package has it",
            "Find out who put it there: mend installs no second one over it.",
        )
    if there.numbers and not there.is_of(wanted) and not wanted.replace:
        numbers = ", ".join(sorted({shown_number(number) for number in there.numbers.values()}))
        return (
            f"driver {numbers} is installed, and driver.replace is false",
            "Want its branch, or allow that it becomes another one: driver.replace = true.",
        )
    manager = state.packages.manager
    if manager not in MANAGERS or manager not in state.packages.managers:
        return (
            f"mend installs drivers by {', '.join(MANAGERS)}",
            by_hand(context, wanted, kind),
        )
    return "", ""


def by_hand(context: Context, wanted: WantedDriver, kind: str) -> str:
    """What a person types where mend does not."""
    manager = next((name for name in context.state.packages.managers if name in LINES), "")
    if not manager:
        return f"See the {GUIDE}."
    module = (
        "nvidia-open-driver-G06-signed-cuda-kmp-default"
        if kind == "open"
        else "nvidia-driver-G06 (built at the next boot)"
    )
    line = LINES[manager].format(
        branch=wanted.branch,
        stream="open" if kind == "open" else "dkms",
        dkms="open" if kind == "open" else "latest",
        kernel=context.state.host.kernel,
        zypper=f"{module} nvidia-compute-utils-G06 nvidia-persistenced",
    )
    return f"{line} ({GUIDE})."


def unsigned(context: Context, builds: bool) -> tuple[str, str]:
    """(why Secure Boot would not load what is built here, what a person does), or two empty texts."""
    if not builds or not context.state.host.secure_boot.value or context.state.driver_packages.mok.value:
        return "", ""
    return (
        "Secure Boot is on, and the firmware does not know the key with which this host's DKMS signs",
        "Enrol it first: `dkms generate_mok`, `mokutil --import /var/lib/dkms/mok.pub`, reboot, confirm on the console; or want "
        "the distribution's signed modules (Ubuntu: driver.origin = distribution), or switch Secure Boot off.",
    )


def no_row(context: Context, wanted: WantedDriver, kind: str, flavoured: bool) -> Job:
    """Nothing in the table for this host, or nothing of this flavour."""
    which = f"{kind} modules" if flavoured else "packages"
    told = f"branch {wanted.branch} for {context.state.host.name.value or 'this distribution'} from {origin_of(context, wanted)}"
    return Job(
        (f"no driver of branch {wanted.branch}",),
        None,
        f"the table has no {which} of {told}",
        by_hand(context, wanted, kind),
    )


def packages(context: Context, wanted: WantedDriver, there: Kept, kind: str) -> Job:
    """The job as far as it is packages: its lacks, and an action with targets. Raises Unread."""
    state, kernel = context.state, context.state.host.kernel
    have = state.packages.installed.get() or {}
    row = row_of(context, wanted)
    if row is None or not row[kind]:
        return no_row(context, wanted, kind, row is not None)
    names = in_words(context, wanted, row[kind])
    offers = state.driver_packages.offers.value or {}
    names += tuple(name for name in row["besides"] if name in offers or name in have)
    whole = there.is_of(wanted) and there.module is not None and there.module[0] == wanted.branch
    if whole:  # whatever its packages are called: what works stays
        names = ()
    more, without = beside(context, row, wanted)
    if without:
        return Job((without,), None, without, f"Have the repository that has it, as the {GUIDE} says.")
    names += more
    if wanted.hold and row.get("locks"):
        names += (row["locks"],)  # by which the manager can hold
    missing = tuple(name for name in names if name not in have)
    lacks = tuple(f"no package {name.replace('|', ' or ')}" for name in missing)
    if there.numbers and not there.is_of(wanted):
        numbers = ", ".join(sorted({shown_number(number) for number in there.numbers.values()}))
        lacks += (f"driver {numbers} is installed, not {wanted.version or wanted.branch}",)
    headers: tuple[str, ...] = ()
    if row["builds"] and not whole and kernel not in (state.driver_packages.headers.get() or ()):
        headers = in_words(context, wanted, row["headers"])
        lacks += (f"no headers of the running kernel {kernel}",)
        if state.driver_packages.header_names and not state.driver_packages.header_names & set(headers):
            return Job(
                lacks,
                None,
                f"no repository has {headers[0]}: the module could not be built for the running kernel",
                "Upgrade the kernel and reboot into it, or add the repository of this kernel.",
            )
    elif not whole and not lacks:
        lacks += (f"the kernel {kernel} has no nvidia module of branch {wanted.branch}",)
    if state.packages.manager == "apt":
        names, headers = names + headers, ()
    pinning = row["pinning"].format(branch=wanted.version or wanted.branch)
    changes = bool(missing or lacks)
    stream, other = stream_of(context, row, wanted, kind) if changes and not whole else ("", "")
    action = InstallDriver(
        wanted.branch,
        wanted.version,
        "" if whole else kind,
        targets=names if changes else (),
        pinning=pinning if changes and pinning and pinning not in have else "",
        names=names,
        upgrade=wanted.replace,
        manager=state.packages.manager,
        stream=stream,
        headers=headers,
    )
    refused = other or (elsewhere(context, wanted, names) if changes else "")
    how = "Pin one of them (/etc/apt/preferences.d), or set driver.origin." if refused else ""
    if other:
        how = "Want its branch, or allow another one: driver.replace = true; `dnf module reset nvidia-driver` by hand."
    if changes and not refused:
        refused, how = unsigned(context, row["builds"])
    return Job(lacks, action, refused, how)


def modules_differ(context: Context, wanted: WantedDriver) -> str:
    """Why the loaded modules are not of the wanted flavour; an empty text where they are, or any will do."""
    found = context.state.driver.flavour.value
    if wanted.flavour == "auto" or found in (None, wanted.flavour):
        return ""
    return f"the loaded modules are {found}, not {wanted.flavour}"


def settings(context: Context, wanted: WantedDriver, found: Job) -> Job:
    """The job with what counts at the next boot: files, services, holds. Raises Unread."""
    files, units = settings_missing(context, wanted), units_off(context)
    hold = wanted.hold and (bool(found.lacks) or not is_held(context))
    lacks = found.lacks + tuple(f"{path} is not as it has to be" for path in files)
    lacks += tuple(f"{unit} does not start at boot" for unit in units)
    lacks += ("its packages are not held",) if hold and not found.lacks else ()
    if found.lacks:  # which of them there are is known once the packages are
        units = (PERSISTENCED, *((FABRIC_UNIT,) if fabric_of(context) in ("own", "subnet") else ()))
    action = found.action._replace(files=files, units=units, hold=hold) if found.action else None
    return found._replace(lacks=lacks, action=action)


def job(context: Context, wanted: WantedDriver) -> Job:
    """What is missing of the wanted driver, and what brings it. Raises Unread."""
    there = kept(context)
    kind, why = flavour(context, wanted)
    found = packages(context, wanted, there, kind or "open")
    if wanted.install and context.state.packages.manager in MANAGERS:
        found = settings(context, wanted, found)
    differ = modules_differ(context, wanted)
    if differ:
        how = "Their packages exclude each other, and mend removes none: remove the one, then run this again."
        return Job((*found.lacks, differ), None, "it would take the removal of packages", how)
    if not found.lacks:
        return Job()
    refused, by_hand = obstacle(context, wanted, there, kind)
    if not refused and why:
        refused, by_hand = (
            why,
            "Say what is wanted of this host by its own group: driver.flavour, driver.branch.",
        )
    if refused:
        return Job(found.lacks, None, refused, by_hand)
    return found if not found.refused else found._replace(action=None)


@rule(
    "GM126",
    "the driver that is wanted is installed",
    "gpumend/rules/data/drivers.json; NVIDIA driver installation guide; dnf.modularity(7), locks(5); unattended-upgrades README; `driver` in the wanted state",
    applies=wants_driver,
)
def installed(context: Context) -> Iterator[Finding]:
    wanted = context.wanted.driver
    assert wanted is not None
    found = job(context, wanted)
    if not found.lacks:
        return
    change = Change(Component.DRIVER_PACKAGES, found.action) if found.action and wanted.install else None
    missing = any(text.startswith(("no package", "no driver", "driver ")) for text in found.lacks)
    which = wanted.version or f"of branch {wanted.branch}"
    kind = found.action.flavour if found.action and found.action.targets else ""
    yield Finding(
        code="GM126",
        status=Status.FAIL if missing else Status.WARN,
        summary=f"driver {which} is not installed" if missing else f"driver {which} is not as it is wanted",
        evidence=(
            *(Evidence("driver", text) for text in found.lacks),
            Evidence("mokutil --sb-state", f"Secure Boot: {secure_boot(context)}"),
            *([Evidence("PCI device ids", f"the {kind} modules")] if kind else []),
            *(not_offered(context, wanted, found.action) if found.action else ()),
        ),
        remedy=_told(context, found.action) if found.action else found.by_hand,
        risk=Risk.REBOOT if missing else Risk.NONE,
        change=change,
        refused="" if change else found.refused or "driver.install is false",
        symptoms=("couldn't communicate with the NVIDIA driver",) if missing else (),
    )


def not_offered(context: Context, wanted: WantedDriver, action: InstallDriver) -> tuple[Evidence, ...]:
    """A package of the distribution's that apt does not know, and where its archive has it."""
    row, offers = row_of(context, wanted), context.state.driver_packages.offers.value
    if row is None or not row.get("components") or offers is None or context.wanted.repositories:
        return ()
    asked = names_of(str(wanted.branch), wanted.version)
    unknown = next((name for name in action.targets if name in asked and name not in offers), "")
    text = f"knows no {unknown}: {context.state.host.name.value} has its drivers in {row['components']}"
    return (Evidence("apt-cache policy", text),) if unknown else ()


def _told(context: Context, action: InstallDriver) -> str:
    if not action.targets:
        return "Mend sets it: no package is installed for it."
    named = [name.replace("|", " or ") for name in (*action.targets, *action.headers)]
    first = f"{action.pinning} by itself, then " if action.pinning else ""
    if action.stream:
        first = f"the module stream nvidia-driver:{action.stream}, where repositories have that module, and "
    rack = " IMEX' nodes_config.cfg is the rack's to write." if fabric_of(context) == "rack" else ""
    return (
        f"Mend asks {action.manager} to install {first}{', '.join(named)}, if that removes nothing, changes nothing else and brings no "
        f"kernel, and all come in one version of the branch. Then a reboot is required, which mend leaves to you: "
        f"`gpumend mend --reboot`.{rack}"
    )


@rule(
    "GM127",
    "the wanted driver is in the kernel",
    "modinfo(8); NVIDIA driver installation guide, Post-installation: reboot",
    applies=wants_driver,
)
def in_the_kernel(context: Context) -> Iterator[Finding]:
    wanted = context.wanted.driver
    assert wanted is not None
    there = kept(context)
    if not there.is_of(wanted) or (why := installed_not_loaded(context)) == "":
        return
    assert there.module is not None
    yield Finding(
        code="GM127",
        status=Status.WARN,
        summary=f"reboot required: {why}",
        evidence=(
            Evidence("/proc/driver/nvidia/version", "not there"),
            Evidence("modinfo -F version nvidia", show(there.module)),
        ),
        cause="It was installed since the last boot.",
        remedy="Reboot when it suits, or `gpumend mend --reboot`, which looks first whether the next boot has the driver.",
        risk=Risk.REBOOT,
        refused="mend reboots no host by itself",
    )
