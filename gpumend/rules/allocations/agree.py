"""GM804 to GM808: state file, metadata, labels and the hardware against what Docker granted and what computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from gpumend.payload import allocations as ledger
from gpumend.rules.allocations.books import books_of, first, hardware, look_of, named, whole_look
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.allocations import Books
from gpumend.state.reading import Reading, Unread

Look = dict[str, Any]


def _slots(look: Look) -> dict[str, Any]:
    """The state file's slots; none where the desired state names no such file. Raises Unread."""
    item = look.get("state")
    if item is None:
        return {}
    if item["status"] != "ok":
        raise Unread(Reading.fail(item["path"], str(item.get("error") or item["status"])))
    return dict(item["slots"])


@rule(
    "GM804",
    "each slot of the state file is on the hardware",
    "nvidia-smi -L; NVIDIA MIG user guide: devices are numbered anew when a GPU is reshaped",
    applies=named,
)
def on_hardware(context: Context) -> Iterator[Finding]:
    look = look_of(context)
    slots, units = _slots(look), hardware(context)
    for slot, value in sorted(slots.items()):
        unit, uuid = ledger.unit_of(slot, units), value["uuid"]
        holders = ", ".join(each["name"] for each in value["holders"]) or "nobody"
        if unit is None:
            why = f"slot {slot}, held by {holders}, is not on this hardware"
        elif ledger.has_devices(unit, units):
            why = f"slot {slot}, held by {holders}, is a whole GPU, and that GPU is cut into MIG devices"
        elif uuid and units[unit] != uuid:
            why = f"slot {slot}, held by {holders}, is {uuid} in the state file and {units[unit]} on the hardware"
        else:
            continue
        yield Finding(
            code="GM804",
            status=Status.FAIL,
            summary=f"{why}: the state file is wrong",
            evidence=(
                Evidence(look["state"]["path"], f"slot {slot} {uuid}".strip()),
                Evidence(
                    "nvidia-smi -L", ", ".join(f"{each}: {found}" for each, found in units.items())[:300]
                ),
            ),
            cause="MIG devices were made anew, or a GPU was lost or taken out, after the allocator wrote its file.",
            remedy="Where a GPU should be there, see its own findings (GM1xx). Else have the allocator read the hardware anew while "
            "no container holds a slot. Nothing is freed for it.",
        )


def _there(look: Look) -> dict[str, Look]:
    """The containers on Docker's list, by each of their names."""
    return {name: found for found in look["docker"]["containers"] for name in found["names"]}


@rule(
    "GM805",
    "no slot is held by more containers than may",
    "hertie-data-science-lab/ds01-infra gpu_allocator.py: a slot has a list of containers",
    applies=named,
)
def two_holders(context: Context) -> Iterator[Finding]:
    look, most = whole_look(context), books_of(context).holders
    there, slots = _there(look), _slots(look)
    for slot, value in sorted(slots.items()):
        names = [each["name"] for each in value["holders"] if each["name"] in there]
        whole = slots.get(slot.partition(".")[0]) if "." in slot else None
        names += [each["name"] for each in (whole or {"holders": ()})["holders"] if each["name"] in there]
        if len(names) > most:
            granted = [f"{name}: {', '.join(ledger.asked_for(there[name])) or 'no GPU'}" for name in names]
            yield Finding(
                code="GM805",
                status=Status.FAIL,
                summary=f"slot {slot} is held by {len(names)} containers that are there: {', '.join(names)}",
                evidence=(
                    Evidence(look["state"]["path"], f"slot {slot}: {', '.join(names)}"),
                    Evidence("docker inspect", "; ".join(granted)),
                ),
                cause="Two containers were given it at the same moment (an allocator without a lock), or one twice.",
                remedy="Ask their users whose it is. Where sharing is meant, `allocations.holders` says how many may.",
            )


def _label_units(wanted: Books, container: Look, units: dict[str, str]) -> set[str]:
    labels, names = container["labels"], wanted.label_names
    texts = [
        word for key in ("slots", "uuids") for name in names[key] for word in labels.get(name, "").split(",")
    ]
    return ledger.units_named(texts, units)[0]


def _booked(look: Look, wanted: Books, units: dict[str, str]) -> Callable[[Look], set[str]]:
    """What the books give a container, in units: the state file, else its labels."""
    if look.get("state") is None:
        return lambda container: _label_units(wanted, container, units)
    books = ledger.claims(look)

    def of(container: Look) -> set[str]:
        slots = [slot for name in container["names"] for slot in books.get(name, ())]
        return {ledger.unit_of(slot, units) or slot for slot in slots}

    return of


@rule(
    "GM806",
    "what computes on a GPU has an allocation",
    "nvidia-smi --query-compute-apps: host pids; cgroups(7)",
    applies=named,
)
def uncovered(context: Context) -> Iterator[Finding]:
    look, wanted = whole_look(context), books_of(context)
    units = hardware(context)
    if look["apps"]["status"] != "ok" or look["apps"].get("rc"):
        raise Unread(
            Reading.fail("nvidia-smi --query-compute-apps", str(look["apps"].get("error") or "it failed"))
        )
    by_id = {found["id"][:12]: found for found in look["docker"]["containers"]}
    booked = _booked(look, wanted, units)
    for pid, uuid in ledger.apps_of(look):
        who = look["pids"].get(str(pid))
        if who is None:
            continue  # it has ended
        container = by_id.get(who["container"])
        used = ledger.unit_of(uuid, units) or uuid
        if container and any(name in wanted.monitors for name in container["names"]):
            continue
        if container and ledger.overlaps(used, booked(container)):
            continue
        where = f"container {container['names'][0]}" if container else who["container"] or "the host"
        yield Finding(
            code="GM806",
            status=Status.WARN,
            summary=f"process {pid} ({who['comm']}, uid {who['uid']}, of {where}) computes on GPU {used}, and no allocation covers it",
            evidence=(
                Evidence("nvidia-smi --query-compute-apps=pid,gpu_uuid", f"{pid}, {uuid}"),
                Evidence(f"/proc/{pid}/cgroup", where),
            ),
            cause="It was started beside the allocator, which will give the same GPU to somebody else.",
            remedy="Ask its user; give it an allocation, or end it. A monitor is named in `allocations.monitors`.",
        )


@rule(
    "GM807",
    "a container that holds a GPU has an allocation",
    "Engine API: HostConfig.DeviceRequests, Runtime; NVIDIA_VISIBLE_DEVICES",
    applies=named,
)
def unbooked(context: Context) -> Iterator[Finding]:
    look, wanted = whole_look(context), books_of(context)
    units = hardware(context)
    booked, found = _booked(look, wanted, units), []
    for container in look["docker"]["containers"]:
        name, held = container["names"][0], ledger.asked_for(container)
        if (
            not container["running"]
            or not held
            or any(each in wanted.monitors for each in container["names"])
        ):
            continue
        if not booked(container):
            found.append(
                Finding(
                    code="GM807",
                    status=Status.WARN,
                    summary=f"{name} holds GPU {', '.join(held)} and has no allocation: the books are wrong, Docker gave it one",
                    evidence=(
                        Evidence(
                            f"docker inspect {name}", f"{', '.join(held)}; started {container['started']}"
                        ),
                    ),
                    cause="It was started with Docker itself and not by the site's tools, or its allocation was freed while it "
                    "ran (a reconciler that found Docker down).",
                    remedy="Start it by the site's tools, or name it in `allocations.monitors` where it needs no GPU of its own.",
                )
            )
    yield from first(found)


@rule(
    "GM808",
    "state file, metadata and labels say what Docker granted",
    "report 003: three sources of truth; Engine API: HostConfig.DeviceRequests",
    applies=named,
)
def agree(context: Context) -> Iterator[Finding]:
    look, wanted = whole_look(context), books_of(context)
    units, there, books = hardware(context), _there(look), ledger.claims(look)
    metadata = {
        each["name"]: each for each in (look.get("metadata") or {}).get("files", ()) if "name" in each
    }
    found = [
        *_counts(look, _slots(look)),
        *(
            each
            for name, container in sorted(there.items())
            for each in _container(
                look, wanted, name, container, metadata.get(name), units, books.get(name, ())
            )
        ),
    ]
    yield from first(found)


def _counts(look: Look, slots: dict[str, Any]) -> Iterator[Finding]:
    for slot, value in sorted(slots.items()):
        users, holders = value["users"], len(value["holders"])
        if users is not None and sum(users.values()) != holders:
            told = ", ".join(f"{user}: {count}" for user, count in users.items()) or "nobody"
            yield _wrong(
                f"slot {slot} has {holders} holders, and its users are {told}: the state file contradicts itself",
                (Evidence(look["state"]["path"], f"slot {slot}: users {told}"),),
            )


def _container(
    look: Look,
    wanted: Books,
    name: str,
    container: Look,
    metadata: Look | None,
    units: dict[str, str],
    slots: Iterable[str],
) -> Iterator[Finding]:
    granted, strange = ledger.granted(container, units)
    said = {
        "the state file": {ledger.unit_of(slot, units) or slot for slot in slots},
        "its labels": _label_units(wanted, container, units),
    }
    if metadata and metadata["slot"]:
        said["its metadata"] = {
            ledger.unit_of(each, units) or each for each in metadata["slot"].replace(" ", "").split(",")
        }
    said = {source: claimed for source, claimed in said.items() if claimed}
    wrong = [source for source, claimed in said.items() if claimed != granted]
    if strange and said:
        yield _wrong(
            f"{name} was granted {', '.join(strange)}, which is not on this hardware",
            _evidence(name, said, granted, strange),
        )
    elif wrong:
        got = _words(granted) or "no GPU"
        claims = "; ".join(f"{source} says {_words(said[source])}" for source in wrong)
        yield _wrong(
            f"{name}: {claims}, and Docker gave it {got}: {' and '.join(wrong)} {'are' if len(wrong) > 1 or wrong == ['its labels'] else 'is'} wrong",
            _evidence(name, said, granted, ()),
        )
    owner = next(
        (container["labels"][each] for each in wanted.label_names["user"] if container["labels"].get(each)),
        "",
    )
    if metadata and owner and metadata["user"] and metadata["user"] != owner:
        yield _wrong(
            f"{name} is {owner!r}'s by its label and {metadata['user']!r}'s by its metadata: the metadata is wrong, labels "
            "do not change",
            (
                Evidence(f"docker inspect {name}", owner),
                Evidence(f"{look['metadata']['path']}/{metadata['file']}", metadata["user"]),
            ),
        )


def _words(units: Iterable[str]) -> str:
    return ", ".join(sorted(units))


def _evidence(
    name: str, said: dict[str, set[str]], granted: set[str], strange: Iterable[str]
) -> tuple[Evidence, ...]:
    got = Evidence(f"docker inspect {name}", _words([*granted, *strange]) or "no GPU")
    return (got, *(Evidence(source, _words(claimed)) for source, claimed in said.items()))


def _wrong(summary: str, evidence: tuple[Evidence, ...]) -> Finding:
    return Finding(
        code="GM808",
        status=Status.WARN,
        summary=summary,
        evidence=evidence,
        cause="What Docker granted is what the container has, for as long as it exists: the books came apart from it.",
        remedy="Correct the books with the site's tools, or make the container anew by them. Nothing is changed for it: a "
        "slot that is moved is one that two may get.",
    )
