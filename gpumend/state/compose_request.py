"""How a compose service asks for GPUs, and which ones: reservations, `gpus:`, `devices:`, `runtime:` and the environment.

Source: docs.docker.com compose-file/deploy, services (gpus, devices, runtime); compose pkg/compose/create.go; what Compose 2.26.1
and 2.40.3 send to a recording socket (tests/nodes/test_compose_calls.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from gpumend.state.compose_files import Service, environment
from gpumend.text.interpolate import Known, Resolved, resolve
from gpumend.text.pattern import Pattern
from gpumend.text.record import Record
from gpumend.text.yaml_nodes import Value

RESERVATIONS = ("deploy", "resources", "reservations", "devices")
KIND = "nvidia.com/gpu="
VISIBLE, CUDA_VISIBLE = "NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"
DRIVER_CAPABILITIES = "NVIDIA_DRIVER_CAPABILITIES"
ALL, NO_COUNT = -1, None
NOTHING = (
    "",
    "void",
    "none",
)  # values of NVIDIA_VISIBLE_DEVICES that give none (nct cmd/nvidia-container-runtime-hook)
# What a request may say of itself in a report: names of devices. All else could be a secret that a variable brought.
NAMED = Pattern(r"[\w.:/=,*-]{1,120}", re.ASCII)


class Request(Record):
    """One request of a service. way: reservation, gpus, devices (a CDI name), runtime, or node (a path below /dev).

    ids: what it names, without the CDI kind; empty with count, and where neither is said. count: -1 for all. unknown: variables
    without a value. faults: why Compose refuses it. broken: a CDI name whose colon Compose takes for a path's.
    """

    way: str
    value: Value
    driver: str = ""
    ids: tuple[str, ...] = ()
    count: int | None = None  # type: ignore[assignment]  # no tuple's method is asked for here
    capabilities: tuple[str, ...] = ()
    options: bool = False
    unknown: tuple[str, ...] = ()
    variables: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    broken: bool = False

    @property
    def cdi(self) -> bool:
        return self.way == "devices" or self.driver == "cdi"

    @property
    def place(self) -> str:
        return f"{self.value.source.path}:{self.value.line}"

    @property
    def shown(self) -> str:
        """The request in a few words."""
        what = ", ".join(name if NAMED.fullmatch(name) else "..." for name in self.ids)
        if not what and self.way == "runtime" and self.count != ALL:
            what = "as the environment or the image says"
        if not what:
            what = "all" if self.count in (ALL, NO_COUNT) else f"count {self.count}"
        driver = (
            f" by driver {self.driver}" if self.driver not in ("", "nvidia") and self.way != "devices" else ""
        )
        return f"{WAYS[self.way]}: {what}{driver}"


WAYS = {
    "reservation": "a reservation",
    "gpus": "gpus",
    "devices": "a CDI device",
    "runtime": "runtime nvidia",
    "node": "a device node",
}


class Visible(Record):
    """What a service's environment says of one variable. text: None where nothing does. unknown: why it is not known. at: the
    place that says it."""

    text: str | None = None
    unknown: str = ""
    at: str = ""
    value: Value | None = None
    literal: bool = False


def requests(service: Service) -> tuple[Request, ...]:
    """Every request of a service for a GPU, in the order of its files."""
    found = [*_reservations(service), *_gpus(service), *_devices(service), *_runtime(service)]
    return tuple(found)


def visible(service: Service, name: str) -> Visible:
    """A variable of the service's environment; an env_file may say it where the file itself does not."""
    value = environment(service.value.get("environment")).get(name)
    if value is None:
        files = service.value.get("env_file")
        if files is not None and not files.null:
            return Visible(None, "an env_file may set it", f"{files.source.path}:{files.line}")
        return Visible()
    at = f"{value.source.path}:{value.line}"
    listed = value.text == name or value.text.startswith(f"{name}=")
    text = value.text.partition("=")[2] if listed else value.text
    if value.text == name or (value.null and not listed):
        return Visible(None, f"${{{name}}} has no value here", at, value)
    found = resolve(text, service.known)
    if found.unknown:
        return Visible(None, f"{_variables(found.unknown)} no value here", at, value)
    return Visible(found.text, "", at, value, literal=not found.variables)


def _variables(names: Iterable[str]) -> str:
    found = [f"${{{name}}}" for name in names]
    return f"{', '.join(found)} {'has' if len(found) == 1 else 'have'}"


class _Texts:
    """Scalars of a request, with what their variables say."""

    def __init__(self, known: Known) -> None:
        self.known = known
        self.unknown: list[str] = []
        self.variables: list[str] = []

    def text(self, value: Value | None) -> str:
        if value is None:
            return ""
        found: Resolved = resolve(value.text, self.known)
        self.unknown += found.unknown
        self.variables += found.variables
        return found.text

    def told(self, request: Request) -> Request:
        """The request with the variables that its texts named."""
        return request._replace(
            unknown=tuple(dict.fromkeys(self.unknown)),
            variables=tuple(dict.fromkeys(self.variables)),
        )


def _is_text(value: Value) -> bool:
    """Whether go-yaml reads the scalar as a text, as the schema wants ids."""
    if not value.plain:
        return True
    return not re.fullmatch(
        r"[-+]?(?:\d[\d_]*|0x[0-9a-fA-F]+|0o[0-7]+|\d*\.\d+)|true|false|null|~|", value.text
    )


def _request(way: str, item: Value, service: Service) -> Request:
    """A mapping of `deploy...devices` or of `gpus`."""
    texts = _Texts(service.known)
    faults: list[str] = []
    if item.kind != "map":
        return Request(way, item, faults=("it is not a mapping",))
    driver = texts.text(item.get("driver"))
    listed = item.get("device_ids")
    ids: tuple[str, ...] = ()
    if listed is not None and not listed.null:
        if listed.kind != "seq":
            faults.append("device_ids is not a list")
        faults += [
            f"device_ids: {each.text[:20]!r} must be a string" for each in listed.items if not _is_text(each)
        ][:1]
        ids = tuple(texts.text(each) for each in listed.items)
    given = item.get("count")
    count: int | None = NO_COUNT
    if given is not None and not given.null:
        text = texts.text(given)
        if text == "all":
            count = ALL
        elif re.fullmatch(r"-?\d{1,4}", text):
            count = int(text)
        elif not texts.unknown:
            faults.append("count is neither a number nor `all`")
        if ids:
            faults.append("count and device_ids exclude each other")
    capabilities = item.get("capabilities")
    if capabilities is None and way == "reservation":
        faults.append("capabilities are missing")
    caps = tuple(texts.text(each) for each in (capabilities.items if capabilities is not None else ()))
    if way == "gpus" and "gpu" not in caps:
        caps = ("gpu", *caps)
    options = item.get("options")
    bare = tuple(name.removeprefix(KIND) for name in ids)
    has_options = options is not None and not options.null
    return texts.told(Request(way, item, driver, bare, count, caps, has_options, faults=tuple(faults)))


def is_gpu(request: Request) -> bool:
    """Whether a reservation is for an NVIDIA GPU, or may be: Compose reserves other devices, too."""
    if request.driver:  # an unknown one is no NVIDIA's: Docker refuses it, or somebody's plugin has it
        return request.driver.startswith(("nvidia", "cdi")) or bool(request.unknown)
    return bool(request.unknown) or bool({"gpu", "nvidia"} & set(request.capabilities))


def _reservations(service: Service) -> Iterator[Request]:
    listed = service.value.get(*RESERVATIONS)
    for item in listed.items if listed is not None else ():
        request = _request("reservation", item, service)
        cdi = request.driver == "cdi"
        if cdi and not all(_named_nvidia(each) for each in (item.get("device_ids") or item).items):
            continue
        if is_gpu(request) or request.faults:
            yield request


def _named_nvidia(value: Value) -> bool:
    return value.text.startswith("nvidia.com/") or "$" in value.text


def _gpus(service: Service) -> Iterator[Request]:
    said = service.value.get("gpus")
    if said is None or said.null:
        return
    if said.kind == "scalar":
        texts = _Texts(service.known)
        text = texts.text(said)
        faults = () if text == "all" or texts.unknown else ("gpus is neither `all` nor a list",)
        yield texts.told(Request("gpus", said, "", (), ALL, ("gpu",), faults=faults))
        return
    for item in said.items:
        request = _request("gpus", item, service)
        if is_gpu(request):
            yield request


def _devices(service: Service) -> Iterator[Request]:
    listed = service.value.get("devices")
    for item in listed.items if listed is not None else ():
        texts = _Texts(service.known)
        if item.kind == "map":
            source, target = texts.text(item.get("source")), texts.text(item.get("target"))
            if source.startswith("nvidia.com/") and source == (target or source):
                faults = () if target else ("the device is missing a mount target",)
                yield texts.told(Request("devices", item, "cdi", (source.removeprefix(KIND),), faults=faults))
            elif source.startswith("/dev/nvidia"):
                yield texts.told(Request("node", item, "", (source,)))
            continue
        text = texts.text(item)
        if text.startswith("nvidia.com/"):
            name = text.removeprefix(KIND)
            # `source:target:permissions`, as of a path: only a name without a colon is taken for CDI's (compose-go types)
            yield texts.told(Request("devices", item, "cdi", (name,), broken=":" in text))
        elif text.startswith("/dev/nvidia"):
            yield texts.told(Request("node", item, "", (text.partition(":")[0],)))


def _runtime(service: Service) -> Iterator[Request]:
    said = service.value.get("runtime")
    if said is None or said.null:
        return
    texts = _Texts(service.known)
    text = texts.text(said)
    if not text.startswith("nvidia") and not texts.unknown:
        return
    seen = visible(service, VISIBLE)
    if seen.text is not None and seen.text in NOTHING:
        return
    ids = tuple(part.strip().removeprefix(KIND) for part in (seen.text or "").split(",") if part.strip())
    if ids == ("all",):
        yield texts.told(Request("runtime", said, text, (), ALL))
    else:
        yield texts.told(Request("runtime", said, text, ids))


# --- what is granted


class Grant(Record):
    """The GPUs that a service is given. devices: names, `all` among them where it is all. unknown: why that is not known."""

    devices: frozenset[str] = frozenset()
    unknown: str = ""

    def __or__(self, other: Grant) -> Grant:
        devices = self.devices | other.devices
        return Grant(frozenset({"all"}) if "all" in devices else devices, self.unknown or other.unknown)

    @property
    def shown(self) -> str:
        return ", ".join(sorted(self.devices)) or "none"


def grant_of(request: Request, seen: Visible) -> Grant:
    """What one request gives. seen: the service's NVIDIA_VISIBLE_DEVICES."""
    if request.unknown:
        return Grant(unknown=f"{_variables(request.unknown)} no value here")
    if request.faults:
        return Grant(unknown=request.faults[0])
    if request.way == "node":
        return Grant(unknown="device nodes alone are no GPU that CUDA can use")
    if request.way == "runtime":
        if seen.text is None and request.count is None:
            return Grant(unknown=seen.unknown or f"{VISIBLE} is the image's")
    elif request.count == 0:
        return Grant(unknown="count: 0 depends on the version of Docker")
    if request.ids:
        return Grant(frozenset({"all"} if "all" in request.ids else request.ids))
    if request.count is not None and request.count > 0:
        return Grant(frozenset(str(number) for number in range(request.count)))
    return Grant(frozenset({"all"}))


def grant(service: Service) -> Grant:
    """What all requests of a service give together, where every one is met."""
    seen = visible(service, VISIBLE)
    asked = requests(service)
    found = Grant()
    for request in asked:
        if request.way != "node" or all(each.way == "node" for each in asked):
            found |= grant_of(request, seen)
    return found


def requested(service: Service) -> Grant | None:
    """What reservations and `gpus:` give beside `runtime: nvidia`: by the hook these alone count, for it sees the variable that
    Docker adds last (moby daemon/nvidia_linux.go), by CDI both do. None where the service has not both."""
    found = requests(service)
    asked = [each for each in found if each.way in ("reservation", "gpus") and not each.cdi]
    if not asked or not any(each.way == "runtime" for each in found):
        return None
    given = Grant()
    for request in asked:
        given |= grant_of(request, Visible())
    return given
