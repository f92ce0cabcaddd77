"""Which packages a wanted driver is on this host, in which flavour, from whom, and what of it is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpumend.payload.driver import driver_number, driver_numbers
from gpumend.rules.data import load
from gpumend.rules.driver.gpus import chip
from gpumend.rules.rule import Context
from gpumend.rules.wanted import WantedDriver
from gpumend.state.driver_packages import AT_BOOT, LEFT_ALONE, MODULE_FILE, NOUVEAU_OFF, parse_module
from gpumend.text.record import Record

HEAD = "Written by gpumend: `driver` of the desired state.\n"
TEXTS = {
    NOUVEAU_OFF: f"# {HEAD}blacklist nouveau\noptions nouveau modeset=0\n",
    AT_BOOT: f"# {HEAD}nvidia\nnvidia-uvm\n",
    # Matched from the start of a name (unattended-upgrades README); the container toolkit's upgrades close holes.
    LEFT_ALONE: f"// {HEAD}Unattended-Upgrade::Package-Blacklist {{\n"
    + "".join(
        f'  "{pattern}";\n'
        for pattern in (
            "nvidia-(?!container|docker)",
            "libnvidia-(?!container)",
            "libcuda1$",
            "libnvcuvid1$",
            "libnvsdm",
            "cuda-drivers",
            "firmware-nvidia-",
            "linux-(?:modules|objects|signatures)-nvidia-",
            "nvlsm$",
        )
    )
    + "};\n",
}
OPEN_BY_DEFAULT = 560  # from this branch on the open modules are NVIDIA's default where a GPU can have both
NVIDIAS = ("developer.download.nvidia.com/compute/cuda/", "/compute/cuda/repos/")


MANAGERS = ("apt", "dnf", "zypper")  # by which mend installs drivers


def module_text(stream: str) -> bytes:
    """What `dnf module enable nvidia-driver:STREAM` writes (measured with dnf 4.24)."""
    text = f"[nvidia-driver]\nname=nvidia-driver\nstream={stream}\nprofiles=\nstate=enabled\n"
    return text.encode()


class Kept(Record):
    """What of a driver is on the host. numbers: of its packages, by name; module: on disk for the running kernel."""

    numbers: Mapping[str, tuple[int, ...]]
    module: tuple[int, ...] | None

    def is_of(self, wanted: WantedDriver) -> bool:
        exact = driver_number(wanted.version)
        return bool(self.numbers) and all(
            number == exact if exact else number[0] == wanted.branch for number in self.numbers.values()
        )


def kept(context: Context) -> Kept:
    """Raises Unread where dpkg, rpm or modinfo gave no answer."""
    on_disk = context.state.driver.module_on_disk
    if (
        not on_disk.known
        and not on_disk.detail.startswith("exit status")
        and "not found" not in on_disk.detail
    ):
        on_disk.need()  # modinfo's own exit status says that there is no such module
    return Kept(driver_numbers(context.state.packages.installed.get() or {}), on_disk.value)


def flavour(context: Context, wanted: WantedDriver) -> tuple[str, str]:
    """(`open` or `proprietary`, why neither can be said). By the GPUs' PCI device ids. Raises Unread."""
    found = [each for each in (context.state.gpus.functions.get() or {}).values() if not each.virtual]
    rows = {each.device: chip(each.device) for each in found}
    unknown = ", ".join(f"{device:04x}" for device in rows if device is not None and rows[device] is None)
    known = [row for row in rows.values() if row is not None]
    for row in known:
        if row["last_branch"] and wanted.branch > row["last_branch"]:
            return "", f"{row['architecture']} has no driver after branch {row['last_branch']}"
    only = {row["modules"]: row["architecture"] for row in known if row["modules"] != "both"}
    if len(only) > 1:
        told = " and ".join(f"{only[kind]} takes the {kind} modules alone" for kind in sorted(only))
        return "", f"one driver cannot serve these GPUs: {told}"
    if wanted.flavour != "auto":
        against = next((kind for kind in only if kind != wanted.flavour), "")
        return wanted.flavour, f"{only[against]} takes the {against} modules alone" if against else ""
    if only:
        return next(iter(only)), ""
    if unknown or not known:
        return (
            "",
            f"which modules drive it is not known (PCI device id {unknown or 'not told'}): say it in driver.flavour",
        )
    return ("open" if wanted.branch >= OPEN_BY_DEFAULT else "proprietary"), ""


def is_nvidias(context: Context, site: str) -> bool:
    """Whether packages of this address are NVIDIA's."""
    named = next((each for each in context.wanted.repositories if each.name == "cuda"), None)
    if named is not None and named.directory:
        return site.startswith("file:")
    return any(part in site for part in NVIDIAS) or bool(named and named.uri and named.uri in site)


def origin_of(context: Context, wanted: WantedDriver) -> str:
    """By rpm the table knows NVIDIA's packages alone."""
    if wanted.origin != "auto" or context.state.packages.manager in ("dnf", "zypper"):
        return wanted.origin if wanted.origin != "auto" else "nvidia"
    sites = (
        site
        for found in context.state.driver_packages.origins.values()
        for each in found.values()
        for site in each
    )
    named = any(each.name == "cuda" for each in context.wanted.repositories)
    return "nvidia" if named or any(is_nvidias(context, site) for site in sites) else "distribution"


def row_of(context: Context, wanted: WantedDriver) -> Mapping[str, Any] | None:
    """The table's row for this host and branch. Raises Unread."""
    host, origin = context.state.host, origin_of(context, wanted)
    rows = [row for row in load("drivers")["packages"] if row["origin"] == origin]
    ids = {name for row in rows for name in (row["id"], *row.get("also", ()))}
    name = next((each for each in (host.distribution.get() or "", *host.like) if each in ids), "")
    mine = (row for row in rows if name in (row["id"], *row.get("also", ())))
    return next(
        (
            row
            for row in mine
            if row["first"] <= wanted.branch <= row["last"]
            and host.release in row.get("releases", (host.release,))
        ),
        None,
    )


def in_words(context: Context, wanted: WantedDriver, names: Iterable[str]) -> tuple[str, ...]:
    """The table's names with what they have in braces: the branch, the running kernel's release, its variant (`default`) and its
    line (`6.12`)."""
    kernel = context.state.host.kernel
    parts = {"branch": wanted.branch, "kernel": kernel, "variant": kernel.rpartition("-")[2]}
    return tuple(name.format(line=".".join(kernel.split(".")[:2]), **parts) for name in names)


def stream_of(context: Context, row: Mapping[str, Any], wanted: WantedDriver, kind: str) -> tuple[str, str]:
    """(the stream of NVIDIA's module that dnf is to take the driver from, empty where the file has it; why that is not done). What
    somebody has enabled, or disabled, stays as it is without driver.replace. Raises Unread."""
    if kind not in row.get("streams", {}):
        return "", ""
    [stream] = in_words(context, wanted, [row["streams"][kind]])
    now = context.state.driver_packages.files[MODULE_FILE].get()
    state, other = parse_module(now.text()) if now else ("", "")
    if (state, other) == ("enabled", stream):
        return "", ""
    if state and not wanted.replace:
        told = (
            f"the module stream nvidia-driver:{other} is enabled"
            if state == "enabled"
            else f"the module nvidia-driver is {state}"
        )
        return "", f"{told} ({MODULE_FILE}), and driver.replace is false"
    return stream, ""


def fabric_of(context: Context) -> str:
    """What the bus calls for besides the driver: `own`, a fabric manager; `subnet`, nvlsm as well; `rack`, IMEX; or nothing.
    Raises Unread."""
    functions = [each for each in (context.state.gpus.functions.get() or {}).values() if not each.virtual]
    boards = [
        row["fabric"]
        for each in functions
        for row in load("drivers")["boards"]
        if each.device is not None and int(row["first"], 16) <= each.device <= int(row["last"], 16)
    ]
    if "rack" in boards:
        return "rack"
    if "subnet" in boards and not (context.state.machine.vm.ok and len(functions) == 1):
        return "subnet"
    return "own" if context.state.gpus.nvswitches.get() else ""


def offered(context: Context, names: tuple[str, ...]) -> str:
    """The first of these that apt has; empty where it has none. Where a wanted repository is not there yet, the first. What dnf
    and zypper have shows on the host: the one that is installed, or each."""
    if context.state.packages.manager != "apt":
        have = context.state.packages.installed.value or {}
        return next((name for name in names if name in have), "|".join(names))
    offers = context.state.driver_packages.offers.value
    found = next((name for name in names if offers is not None and name in offers), "")
    return found or (names[0] if names and (offers is None or context.wanted.repositories) else "")


def beside(context: Context, row: Mapping[str, Any], wanted: WantedDriver) -> tuple[tuple[str, ...], str]:
    """(packages of what joins the GPUs, why one of them cannot be had). Raises Unread."""
    wants = {"own": ("fabric",), "subnet": ("fabric", "subnet"), "rack": ("imex",)}.get(
        fabric_of(context), ()
    )
    found = []
    for kind in wants:
        names = in_words(context, wanted, row[kind])
        name = offered(context, names)
        if not name:
            return (), f"this bus calls for {kind}, and no repository has {' or '.join(names) or 'it'}"
        found.append(name)
    return tuple(found), ""


def elsewhere(context: Context, wanted: WantedDriver, targets: tuple[str, ...]) -> str:
    """Why apt would take a package from somebody else than is meant; a name does not tell its origin."""
    state, origin = context.state.driver_packages, origin_of(context, wanted)
    for name in targets:
        offer = (state.offers.value or {}).get(name)
        sites = state.origins.get(name, {}).get(offer.candidate or "", ()) if offer else ()
        theirs = [site for site in sites if is_nvidias(context, site) != (origin == "nvidia")]
        if sites and len(theirs) == len(sites):
            return f"apt would take {name} {offer.candidate if offer else ''} from {theirs[0]}, and driver.origin is {origin}"
    return ""
