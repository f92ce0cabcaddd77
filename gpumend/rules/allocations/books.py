"""GM801, GM809, GM811: the books can be read, and Docker's account of its containers is whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumend.payload import allocations as ledger
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, rule
from gpumend.state.allocations import Books
from gpumend.state.reading import Reading, Unread

TOLD = 50  # findings of one kind, and how many more there are
DOCS = "docs/allocations.md"


def named(context: Context) -> bool:
    """Whether the desired state names a site's books."""
    return context.wanted.allocations is not None


def books_of(context: Context) -> Books:
    assert context.wanted.allocations is not None
    return context.wanted.allocations


def look_of(context: Context) -> dict[str, Any]:
    """The look; raises Unread where there is none."""
    return dict(context.state.allocations.look.need())


def whole_look(context: Context) -> dict[str, Any]:
    """The look, where it is known which containers are there and what the books say. Raises Unread."""
    look = look_of(context)
    unknown = ledger.unknowns(look)
    if unknown:
        raise Unread(Reading.fail("allocations", unknown[0]))
    return look


def hardware(context: Context) -> dict[str, str]:
    """The units of the hardware; raises Unread while a GPU does not answer."""
    look = look_of(context)
    unknown = [
        text
        for text in ledger.waits(look, 0)
        if text.startswith(("nvidia-smi -L", f"{look.get('present')} GPUs"))
    ]
    if unknown:
        raise Unread(Reading.fail("nvidia-smi -L", unknown[0]))
    return ledger.hardware_of(look["smi"]["out"])


def first(found: list[Finding]) -> Iterator[Finding]:
    """As many findings as a person reads, and one that says how many more there are."""
    yield from found[:TOLD]
    if len(found) > TOLD:
        more = found[TOLD]
        yield Finding(
            code=more.code,
            status=more.status,
            summary=f"and {len(found) - TOLD} more of this kind",
            evidence=more.evidence,
            remedy=more.remedy,
            refused="see the first ones",
        )


@rule(
    "GM801",
    "the books of allocations can be read",
    "hertie-data-science-lab/ds01-infra gpu_allocator.py (b10bfd6): gpu-state.json is written in place, without a lock",
    applies=named,
)
def readable(context: Context) -> Iterator[Finding]:
    look = look_of(context)
    for part, what in (("state", "state file"), ("metadata", "metadata")):
        item = look.get(part)
        if item and item["status"] != "ok":
            yield _unreadable(item["path"], item.get("error") or item["status"], f"the allocator's {what}")
    for each in (look.get("metadata") or {}).get("files", ()):
        if "error" in each:
            yield _unreadable(
                f"{look['metadata']['path']}/{each['file']}", each["error"], "a container's metadata"
            )
    for path, item in sorted(look["history"]["logs"].items()):
        if item["status"] not in ("ok", "absent"):
            yield _unreadable(path, item.get("error") or item["status"], "the site's log")


def _unreadable(path: str, error: str, what: str) -> Finding:
    return Finding(
        code="GM801",
        status=Status.UNKNOWN,
        summary=f"{what} cannot be read: {path}: {error}",
        evidence=(Evidence(path, error),),
        cause="Where it is half-written, its writer was killed, or writes it in place at this moment.",
        remedy=f"Look at it: `python3 -m json.tool {path}`; stop the allocator, and put back its last good copy. Nothing is "
        "freed meanwhile.",
    )


@rule(
    "GM809",
    "Docker's list has every container that is there",
    "moby daemon/daemon.go restore: containers that do not load, or are another storage driver's, are left out; ds01-infra "
    "docker-real.sock: docker.sock may be a filtering proxy",
    applies=named,
)
def whole_list(context: Context) -> Iterator[Finding]:
    look, socket = look_of(context), books_of(context).socket
    docker: Mapping[str, Any] = look["docker"]
    if docker["status"] != "ok":
        raise Unread(Reading.fail(socket, str(docker.get("error") or docker["status"])))
    for text in ledger.short_lists(dict(docker)):
        yield Finding(
            code="GM809",
            status=Status.FAIL,
            summary=f"what Docker says of its containers is not all: {text}",
            evidence=(Evidence(socket, text),),
            cause="The socket is a proxy that shows some containers and not others, Docker's storage driver was switched, or "
            "a container does not load. What is missing from the list may run, and hold a GPU.",
            remedy="Name dockerd's own socket in `allocations.socket`; `docker info -f '{{.Driver}}'` against the storage driver "
            "of before; `journalctl -u docker | grep 'failed to load'`. Nothing is freed meanwhile.",
        )


@rule(
    "GM811",
    "each container that runs has a process",
    "Engine API ContainerInspect: State.Status, State.Pid",
    applies=named,
)
def ghosts(context: Context) -> Iterator[Finding]:
    look = whole_look(context)
    held = ledger.claims(look)
    for found in look["docker"]["containers"]:
        name = found["names"][0]
        if found["status"] == "running" and not found["pid"]:
            slots = ", ".join(sorted(held.get(name, ()))) or "none"
            yield Finding(
                code="GM811",
                status=Status.WARN,
                summary=f"{name} is `running` for Docker and has no process; it holds slot {slots}",
                evidence=(Evidence(f"docker inspect {name}", "State.Status running, State.Pid 0"),),
                cause="dockerd did not notice its end. What it holds is held for nobody.",
                remedy=f"`docker rm -f {name}`, or restart dockerd when that may be; its allocation is freed after that.",
            )
