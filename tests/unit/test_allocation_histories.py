"""Random histories of a site and its Docker against a model of what is really there: no live grant is ever freed, and each
stale one is freed within two passes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gpumend.payload import allocations as ledger
from gpumend.payload.change.allocation_steps import freed_text, key_of
from tests.unit.ledger import docker, granted, said

GRACE, LIMIT = 60, 8
SLOTS = tuple(str(number) for number in range(6))
NAMES = tuple(f"job{number}._.1001" for number in range(5))
SMI = "".join(f"GPU {slot}: NVIDIA A100 (UUID: GPU-{slot})\n" for slot in SLOTS)


@dataclass
class Container:
    """A container as it really is: whatever Docker says of it. loads: dockerd's list has it."""

    name: str
    slot: str
    running: bool = True
    loads: bool = True
    named: bool = True
    on_disk: bool = True


@dataclass
class Site:
    """Books, what is really there, and what was noted. making: names that somebody is about to make a container of."""

    slots: dict[str, list[str]] = field(default_factory=lambda: {slot: [] for slot in SLOTS})
    there: list[Container] = field(default_factory=list)
    making: dict[str, str] = field(default_factory=dict)
    up: bool = True
    began: float = 0.0
    ticks: int = 1
    clock: float = 1000.0
    boot: str = "a"
    gpus: bool = True
    half: bool = False
    notes: Any = None
    freed: int = 0

    # --- what happens

    def allocate(self, name: str, slot: str) -> None:
        if not any(name in held for held in self.slots.values()):
            self.slots[slot].append(name)
        self.making[name] = next(each for each, held in self.slots.items() if name in held)

    def make(self, name: str, slot: str) -> None:
        """The container comes up where it was allocated, or beside the books where nobody asked the allocator."""
        at = self.making.pop(name, slot)
        if self.up and not any(each.name == name for each in self.there):
            self.there.append(Container(name, at))

    def fail(self, name: str, slot: str) -> None:
        self.making.pop(name, None)

    def find(self, name: str) -> Container | None:
        return next((each for each in self.there if each.name == name), None)

    def stop(self, name: str, slot: str) -> None:
        if found := self.find(name):
            found.running = False  # its process has ended, whoever knows of it
            self.there = [each for each in self.there if each.running or each.on_disk]

    def start(self, name: str, slot: str) -> None:
        if self.up and (found := self.find(name)) and found.loads:
            found.running = True

    def remove(self, name: str, slot: str) -> None:
        """With Docker itself: nobody tells the allocator."""
        if self.up and (found := self.find(name)) and found.loads:
            self.there.remove(found)

    def release(self, name: str, slot: str) -> None:
        """With the site's tools."""
        self.remove(name, slot)
        if self.find(name) is None:
            for held in self.slots.values():
                held[:] = [each for each in held if each != name]

    def rename(self, name: str, slot: str) -> None:
        if (found := self.find(name)) and found.loads and self.find(f"{name}-2") is None:
            found.name = f"{name}-2"

    def restart_docker(self, name: str, slot: str) -> None:
        self.up, self.began, self.ticks = True, self.clock, self.ticks + 1

    def stop_docker(self, name: str, slot: str) -> None:
        self.up = False

    def switch_storage(self, name: str, slot: str) -> None:
        """Each container of before is missing from the list, and runs on."""
        self.restart_docker(name, slot)
        for each in self.there:
            each.loads = False

    def switch_back(self, name: str, slot: str) -> None:
        self.restart_docker(name, slot)
        for each in self.there:
            each.loads = each.named = each.on_disk

    def spoil(self, name: str, slot: str) -> None:
        """Its files in Docker's root are damaged: at the next start it does not load, and nobody can read its name."""
        if found := self.find(name):
            found.loads = found.named = False
            self.restart_docker(name, slot)

    def forget(self, name: str, slot: str) -> None:
        """Docker restarts under live-restore: one with `--rm` is removed from its books, and its process runs on."""
        if (found := self.find(name)) and found.running:
            found.loads = found.on_disk = False
            self.restart_docker(name, slot)

    def reboot(self, name: str, slot: str) -> None:
        self.boot, self.clock = f"{self.boot}a", 10.0
        self.restart_docker(name, slot)
        for each in self.there:
            each.running = False
        self.there = [each for each in self.there if each.on_disk]

    def lose_gpu(self, name: str, slot: str) -> None:
        self.gpus = False

    def find_gpu(self, name: str, slot: str) -> None:
        self.gpus = True

    def half_write(self, name: str, slot: str) -> None:
        self.half = not self.half

    def wait(self, name: str, slot: str) -> None:
        self.clock += 10 * (1 + SLOTS.index(slot))

    # --- what gpumend sees and does

    def text(self) -> str:
        gpus = {
            slot: {"containers": held, "users": {"u": len(held)} if held else {}}
            for slot, held in self.slots.items()
        }
        text = json.dumps({"gpus": gpus}, indent=1)
        return text[: len(text) // 2] if self.half else text

    def look(self) -> dict[str, Any]:
        try:
            state = {"status": "ok", "path": "s", "slots": ledger.slots_of(self.text(), ledger.DS01)}
        except ValueError as error:
            state = {"status": "failed", "path": "s", "error": str(error)}
        listed = [
            granted(each.name, f"GPU-{each.slot}", running=each.running) for each in self.there if each.loads
        ]
        lost = [each for each in self.there if not each.loads]
        asked = docker(
            *listed,
            up=self.clock - self.began,
            ticks=self.ticks,
            unlisted=[
                {"id": "0" * 63 + str(n), "name": each.name if each.named else ""}
                for n, each in enumerate(lost)
                if each.on_disk
            ],
            hidden=[each.name for each in lost if each.running],
        )
        smi = SMI if self.gpus else "Unable to determine the device handle for GPU 3\n"
        found = {
            "state": state,
            "metadata": None,
            "history": {"logs": {}, "last": {}},
            "docker": asked if self.up else {"status": "failed", "error": "no dockerd runs"},
            "live": {"status": "ok", "ids": []},
            "smi": said(smi),
            "apps": said(),
            "pids": {},
            "present": len(SLOTS),
            "boot": self.boot,
            "clock": self.clock,
        }
        there = ledger.known_names(found)
        return {**found, "busy": {name: 7 for name in self.making if name not in there}}

    def reconcile(self, name: str = "", slot: str = "") -> None:
        """One pass, as the step on a host makes it (ReconcileAllocations.check, by_hand)."""
        look = self.look()
        if ledger.doubts(look, GRACE):
            return
        free = ledger.free_now(look, ())
        if not free or ledger.excess(len(free), len(ledger.entries_of(look)), LIMIT):
            return
        watched = {key_of(each["slot"], each["name"]): ledger.fingerprint(look, each) for each in free}
        self.notes, ripe = ledger.noted(look, watched, ledger.seen_before(self.notes, look), GRACE)
        freed = [each for each in free if key_of(each["slot"], each["name"]) in ripe]
        for each in freed:
            self.must_be_nobodys(each)
        if freed:
            text, _ = freed_text(self.text(), ledger.DS01, freed)
            self.slots = {slot: value["containers"] for slot, value in json.loads(text)["gpus"].items()}
            self.freed += len(freed)

    def two_passes(self, name: str = "", slot: str = "") -> None:
        for _ in range(2):
            self.clock += GRACE + 1
            self.reconcile()

    def must_be_nobodys(self, entry: dict[str, str]) -> None:
        """What is really there says so, and not what was seen."""
        name, slot = entry["name"], entry["slot"]
        assert self.find(name) is None, f"{name} is there"
        assert name not in self.making, f"{name} is about to be made"
        for each in self.there:
            if each.running and each.slot == slot:
                assert each.name in self.slots[slot], f"{each.name} holds {slot} by no other entry"


EVENTS = (
    Site.allocate, Site.make, Site.make, Site.fail, Site.stop, Site.start, Site.remove, Site.remove, Site.release, Site.rename,
    Site.restart_docker, Site.stop_docker, Site.switch_storage, Site.switch_back, Site.spoil, Site.forget, Site.reboot,
    Site.lose_gpu, Site.find_gpu, Site.half_write, Site.wait, Site.reconcile, Site.two_passes, Site.two_passes,
)  # fmt: skip
HISTORIES = st.lists(
    st.tuples(st.sampled_from(EVENTS), st.sampled_from(NAMES), st.sampled_from(SLOTS)), max_size=60
)


@given(HISTORIES)
def test_no_live_grant_is_freed_and_each_stale_one_is_within_two_passes(history: list[Any]) -> None:
    site = Site()
    for name, slot in zip(NAMES[:3], SLOTS):  # noqa: B905  (strict= is Python 3.10)
        site.allocate(name, slot)
        site.make(name, slot)
    for happens, name, slot in history:
        happens(site, name, slot)
    site.half, site.gpus, site.making = False, True, {}
    site.switch_back("", "")
    site.there = [each for each in site.there if each.on_disk]  # what nobody lists has ended by now
    before = site.look()
    free = ledger.free_now(before, ())
    refused = ledger.excess(len(free), len(ledger.entries_of(before)), LIMIT)
    site.two_passes()
    left = {(each["slot"], each["name"]) for each in ledger.free_now(site.look(), ())}
    assert left == ({(each["slot"], each["name"]) for each in free} if refused else set())
    for each in ledger.stale_of(site.look()):
        assert refused or ledger.Holders(site.look()).why(each), "what stays stale is held back by somebody"


def test_the_histories_free_something() -> None:
    """The model can show what it is for: an allocation whose container was removed is freed, one that lives is not."""
    site = Site()
    for name, slot in zip(NAMES[:3], SLOTS, strict=False):
        site.allocate(name, slot)
        site.make(name, slot)
    site.remove(NAMES[0], "")
    site.clock += GRACE
    site.reconcile()
    assert site.freed == 0 and site.slots["0"] == [NAMES[0]]
    site.clock += GRACE
    site.reconcile()
    assert site.freed == 1 and site.slots["0"] == [] and site.slots["1"] == [NAMES[1]]
