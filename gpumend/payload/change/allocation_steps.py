"""The step on a host that frees allocations of containers that are not there: stdlib only, Python 3.6 or newer.

Nothing live is ever freed. The host looks for itself, by the rules that the audit has (`gpumend/payload/allocations.py`):
once before anything is written, and once more under the allocator's lock. An entry is freed when it was stale at two looks,
`grace` seconds of the kernel's own clock apart, under one dockerd and with nothing new written of it. The first look is kept
in /var/lib/gpumend/allocations.json.
"""

import fcntl
import json
import os
import re
import time
from typing import IO, Any, Dict, Iterable, List, Tuple, Type

from gpumend.payload.allocations import (
    DS01,
    daemon_of,
    doubts,
    entries_of,
    excess,
    fingerprint,
    free_now,
    log_format,
    log_line,
    noted,
    orphans_of,
    parsed_json,
    seen_before,
    slot_items,
    slots_of,
)
from gpumend.payload.change.files import (
    Failed,
    Refused,
    current,
    kept_name,
    reason_of,
    replace,
    sha256,
    stage,
    sync_directory,
)
from gpumend.payload.change.journal import ROOT, Entry, Journal, restore
from gpumend.payload.change.json_spans import Span, edited_text, span_pointed, spans_of, value_of, without
from gpumend.payload.change.services import wait_for
from gpumend.payload.change.step import Step, absolute, last_error
from gpumend.payload.probe.allocations import ledger, log_end
from gpumend.payload.probe.execution import distrust, other_hand, resolved
from gpumend.payload.probe.files import Json, open_file
from gpumend.payload.probe.processes import processes
from gpumend.payload.probe.running import run

NOTES = os.path.join(ROOT, "allocations.json")
ALLOCATOR_LOCK_WAIT = 10  # seconds
ALLOCATOR_TIMEOUT = 60
QUIET = 0.5  # seconds in which the state file stays as it is
LOOK_TIMEOUT = 10


def notes_of(look: Json) -> Dict[str, Any]:
    """What was seen stale before, as far as it counts at this look, by entry."""
    try:
        with open_file(NOTES) as handle:
            return dict(seen_before(json.loads(handle.read().decode("ascii")), look))
    except (OSError, ValueError):
        return {}


def keep_notes(record: Json) -> None:
    """What is stale now is known at the next look. Raises OSError."""
    os.makedirs(ROOT, 0o700, exist_ok=True)
    replace(NOTES, json.dumps(record, sort_keys=True).encode("ascii"), mode=0o600)


def key_of(slot: str, name: str) -> str:
    return json.dumps([slot, name])


def roots_alone(path: str, what: str) -> None:
    """A file is root's alone to change, and so is every directory on the way to it. Raises Refused."""
    absolute(path)
    directory, why = resolved(os.path.dirname(path))
    if directory is not None:
        try:
            why = other_hand(path, os.lstat(path))
            if why is None and os.path.islink(path):
                why = "%s is a link" % path
        except OSError as error:
            why = "%s: %s" % (path, error.strerror)
    if why:
        raise Refused("%s is not written: %s" % (what, why))


def take_lock(path: str) -> IO[bytes]:
    """The allocator's own lock is ours until the file is closed. Raises Failed."""
    try:
        handle = open_file(path)
    except OSError as error:
        raise Failed("the allocator's lock: %s" % reason_of(error))

    def free() -> bool:
        try:
            fcntl.flock(handle.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    if not wait_for(free, ALLOCATOR_LOCK_WAIT):
        handle.close()
        raise Failed("the allocator's lock %s is held" % path)
    return handle


def slot_spans(text: str, shape: Json) -> Dict[str, Span]:
    """Where each slot of a state file stands. Raises ValueError."""
    table = span_pointed(spans_of(text), shape["slots"])
    names = [name for name, _ in slot_items(parsed_json(text), shape)]
    if table is None:
        raise ValueError("there is no table of slots")
    if table.members is not None:
        return dict(table.members)
    return dict(zip(names, table.items or ()))


def freed_text(text: str, shape: Json, entries: List[Dict[str, str]]) -> Tuple[str, List[Json]]:
    """(The state file's text without these holders, and what putting them back takes, by slot). Every other byte stays.
    Raises Failed where the text cannot be changed so."""
    slots, spans = slots_of(text, shape), slot_spans(text, shape)
    edits: List[Tuple[Span, str]] = []
    kept: List[Json] = []
    for slot in sorted({entry["slot"] for entry in entries}):
        gone = {entry["name"]: entry for entry in entries if entry["slot"] == slot}
        names = [holder["name"] for holder in slots[slot]["holders"]]
        holders = span_pointed(spans[slot], shape["holders"])
        users = span_pointed(spans[slot], shape["users"])
        if holders is None:
            raise Failed("slot %s has no holders" % slot)
        numbers = [number for number, name in enumerate(names) if name in gone]
        new = "null" if holders.items is None else without(text, holders, holders.items, numbers)
        edits.append((holders, new))
        if users is not None and slots[slot]["users"] is not None:
            edits.append((users, freed_users(text, users, [gone[names[number]] for number in numbers], slot)))
        kept.append(
            {
                "slot": slot,
                "holders": text[holders.start : holders.end],
                "users": None if users is None else text[users.start : users.end],
                "gone": sorted(gone),
                "left": [name for name in names if name not in gone],
            }
        )
    new_text = edited_text(text, edits)
    check_freed(slots, slots_of(new_text, shape), entries)
    return new_text, kept


def freed_users(text: str, users: Span, gone: List[Dict[str, str]], slot: str) -> str:
    """A slot's count of holders by user, without those that go. Raises Failed where it is not known whose they are."""
    members = users.members or {}
    counts = value_of(text, users)
    for entry in gone:
        if entry["user"] not in counts:
            raise Failed(
                "whose %s is in slot %s is not known: use the site's allocator" % (entry["name"], slot)
            )
        counts[entry["user"]] -= 1
    edits: List[Tuple[Span, str]] = []
    names = list(members)
    away = [number for number, name in enumerate(names) if counts[name] <= 0]
    for number, name in enumerate(names):
        if number not in away and counts[name] != value_of(text, members[name]):
            edits.append((members[name], str(counts[name])))
    parts = list(members.values())
    if not edits:
        return without(text, users, parts, away)
    if away:  # two users at once: put together anew
        return json.dumps({name: count for name, count in counts.items() if count > 0})
    return edited_text(text, edits)[
        users.start : users.end + sum(len(new) - (at.end - at.start) for at, new in edits)
    ]


def check_freed(old: Json, new: Json, entries: List[Dict[str, str]]) -> None:
    """The new slots are the old ones without these entries, and with no other difference. Raises Failed."""
    gone = {(entry["slot"], entry["name"]) for entry in entries}
    for slot in set(old) | set(new):
        left = [each for each in old.get(slot, {}).get("holders", ()) if (slot, each["name"]) not in gone]
        if slot not in old or slot not in new or new[slot]["holders"] != left:
            raise Failed("slot %s would not be as it should: nothing is written" % slot)


class ReconcileAllocations(Step):
    """Allocations of containers that are not there are freed, and their metadata is in the run's backup. What was seen for
    the first time waits."""

    kind = "allocations"
    silent = True

    def __init__(self, wanted: Dict[str, Any]) -> None:
        Step.__init__(self, wanted)
        self.spec: Json = wanted["spec"]
        self.shape: Json = dict(DS01, **(self.spec.get("shape") or {}))
        self.state: str = self.spec.get("state") or ""
        self.look: Json = {}
        self.ripe: List[Dict[str, str]] = []
        self.aside: List[str] = []
        self.unripe: List[str] = []

    def describe(self) -> str:
        names = ["%s of %s" % (slot, name) for slot, name in self.wanted["entries"]]
        return "release %s" % ", ".join(names + self.wanted["orphans"])

    def waits(self) -> str:
        if not self.unripe:
            return ""
        told = (", ".join(self.unripe[:5]), self.wanted["grace"])
        return "seen stale for the first time: %s; freed by a run at least %d s from now" % told

    # --- looking

    def look_now(self) -> Json:
        """A look as the audit has it, which leaves no doubt. Raises Refused."""
        found: Json = ledger(self.spec, processes(["dockerd"]), LOOK_TIMEOUT)
        why = doubts(found, self.wanted["grace"])
        if why:
            raise Refused("nothing is freed: %s" % "; ".join(why))
        return found

    def wanted_of(self, look: Json) -> Tuple[List[Dict[str, str]], List[str]]:
        """(The planned entries, the planned orphans), each of them stale in this look and held back by nothing. Raises
        Refused, `moved` where one is not."""
        free = {(entry["slot"], entry["name"]): entry for entry in free_now(look, self.wanted["monitors"])}
        planned = [(slot, name) for slot, name in self.wanted["entries"]]
        orphans = set(orphans_of(look))
        for key in planned:
            if key not in free:
                raise Refused("slot %s of %s is not stale any more" % key, "moved")
        for name in self.wanted["orphans"]:
            if name not in orphans:
                raise Refused("%s is not stale any more" % name, "moved")
        why = excess(len(free), len(entries_of(look)), self.wanted["max_release"])
        if why and planned:
            raise Refused("nothing is freed: %s" % why)
        return [free[key] for key in planned], list(self.wanted["orphans"])

    def check(self) -> None:
        self.look = self.look_now()
        entries, orphans = self.wanted_of(self.look)
        files = {each["file"]: each for each in (self.look["metadata"] or {}).get("files", ())}
        watched: Dict[str, str] = {}
        for entry in entries:
            watched[key_of(entry["slot"], entry["name"])] = fingerprint(self.look, entry)
        for name in orphans:
            known = {"slot": "", "name": files[name]["name"], "user": "", "since": ""}
            watched[key_of("", name)] = fingerprint(self.look, known)
        record, ripe = noted(self.look, watched, notes_of(self.look), self.wanted["grace"])
        keep_notes(record)
        self.ripe = [entry for entry in entries if key_of(entry["slot"], entry["name"]) in ripe]
        self.aside = [name for name in orphans if key_of("", name) in ripe]
        self.unripe = [entry["name"] for entry in entries if entry not in self.ripe]
        self.unripe.extend(name for name in orphans if name not in self.aside)
        if not self.ripe and not self.aside:
            raise Refused(self.waits(), "pending")
        self.check_places()

    def check_places(self) -> None:
        """What is written is root's alone to write, and the lock is there. Raises Refused."""
        lock, allocator = self.wanted["lock"], self.wanted["allocator"]
        if self.ripe and not allocator:
            if not lock:
                raise Refused("the allocator's lock is not named: nothing is written beside it")
            roots_alone(self.state, "the state file")
            if os.path.realpath(lock) == os.path.realpath(self.state):
                raise Refused("the lock is the state file itself, which a rename would replace under it")
            if self.wanted["log"]:
                roots_alone(self.wanted["log"], "the log")
        if self.aside:
            if not lock:
                raise Refused("the allocator's lock is not named: no metadata is moved beside it")
            directory, why = resolved(self.spec["metadata"])
            if directory is None:
                raise Refused("metadata is not moved: %s" % why)
        if lock:
            try:
                open_file(lock).close()
            except OSError as error:
                raise Refused("the allocator's lock: %s: %s" % (lock, reason_of(error)))
        for argument in allocator:
            if argument.startswith("/"):
                why = distrust(argument)
                if why:
                    raise Refused("the allocator is not executed: %s" % why)

    # --- doing

    def do(self, journal: Journal, notes: List[str]) -> None:
        wait_for(lambda: time.monotonic() - self.look["clock"] >= QUIET, QUIET)
        if self.ripe and self.wanted["allocator"]:
            self.ripe = self.all_by_allocator(journal, notes)
            self.say(notes, "by the site's allocator")
        if not self.wanted["lock"]:
            return
        lock = take_lock(self.wanted["lock"])
        try:
            if self.ripe and not self.wanted["allocator"]:
                self.again(self.ripe)
                self.by_hand(journal)
                self.say(notes, "in %s" % self.state)
            if self.aside:
                self.set_aside(journal, notes)
        finally:
            lock.close()

    def say(self, notes: List[str], how: str) -> None:
        notes.append(
            "freed %s: %s" % (how, ", ".join("%s of %s" % (e["slot"], e["name"]) for e in self.ripe))
        )

    def again(self, entries: List[Dict[str, str]]) -> Json:
        """One more look, right before these are freed: they are as they were at the first. Raises Failed."""
        try:
            look = self.look_now()
        except Refused as reason:
            raise Failed(str(reason))
        if daemon_of(look) != daemon_of(self.look):
            raise Failed("dockerd was restarted meanwhile: nothing is freed")
        free = {(entry["slot"], entry["name"]): entry for entry in free_now(look, self.wanted["monitors"])}
        for entry in entries:
            found = free.get((entry["slot"], entry["name"]))
            if found is None:
                raise Failed("slot %s of %s is not stale any more" % (entry["slot"], entry["name"]))
            if fingerprint(look, found) != fingerprint(self.look, entry):
                raise Failed("something was written of %s meanwhile" % entry["name"])
        return look

    def text_now(self) -> Tuple[bytes, str]:
        """The state file's bytes, which are those of the first look. Raises Failed."""
        data = current(self.state)
        if data is None or sha256(data) != self.look["state"]["sha256"]:
            raise Failed("%s was changed by somebody else meanwhile" % self.state)
        return data, data.decode("utf-8")

    def begun(self, journal: Journal, data: bytes, kept: List[Json], entries: List[Dict[str, str]]) -> Entry:
        entry = journal.keep(self.state, data)
        entry["slots"], entry["shape"] = kept, self.shape
        entry["lock"], entry["log"] = self.wanted["lock"], self.wanted["log"]
        entry["entries"], entry["run"] = entries, journal.record["run"]
        return journal.begin_step(self.kind, entry)

    def by_hand(self, journal: Journal) -> None:
        """Under the allocator's lock: the state file without them, renamed over the old one, and a line in the log."""
        data, text = self.text_now()
        try:
            new, kept = freed_text(text, self.shape, self.ripe)
        except ValueError as error:
            raise Failed("%s: %s" % (self.state, error))
        entry = self.begun(journal, data, kept, self.ripe)
        entry["after"] = sha256(new.encode("utf-8"))
        journal.log("stage %s" % self.state)
        real = entry["real"]
        staged = stage(real, new.encode("utf-8"), real)
        try:
            journal.log("release %s" % ", ".join("%s of %s" % (e["slot"], e["name"]) for e in self.ripe))
            os.rename(staged, real)
        except BaseException:
            os.unlink(staged)
            raise
        sync_directory(os.path.dirname(real))
        tell_log(self.wanted["log"], "RELEASED", self.ripe, journal.record["run"], "no such container")

    def all_by_allocator(self, journal: Journal, notes: List[str]) -> List[Dict[str, str]]:
        """Those that the site's command has freed. What it has freed before it fails stays freed. Raises Failed."""
        freed: List[Dict[str, str]] = []
        for entry in self.ripe:
            data = current(self.state)
            try:
                self.by_allocator(journal, entry)
            except Failed as reason:
                if not freed or current(self.state) != data:
                    raise
                notes.append("%s of %s is not freed: %s" % (entry["slot"], entry["name"], reason))
                break
            freed.append(entry)
        return freed

    def by_allocator(self, journal: Journal, entry: Dict[str, str]) -> None:
        """One entry is freed by the site's own command: it, and nothing else, is gone from the state file. Raises Failed."""
        self.again([entry])
        data = current(self.state)
        if data is None:
            raise Failed("%s is gone" % self.state)
        text = data.decode("utf-8")
        try:
            _, kept = freed_text(text, self.shape, [entry])
        except Failed:  # whose it is the allocator knows
            kept = []
        except ValueError as error:
            raise Failed("%s: %s" % (self.state, error))
        begun = self.begun(journal, data, kept, [entry])
        begun["after"] = ""
        words = {"{container}": entry["name"], "{slot}": entry["slot"]}
        argv = [filled(argument, words) for argument in self.wanted["allocator"]]
        journal.log("run %s" % " ".join(argv))
        found = run(argv, ALLOCATOR_TIMEOUT)
        new = current(self.state)
        if new is not None:
            begun["after"] = sha256(new)
        if found["status"] != "ok" or found["rc"] != 0:
            raise Failed("%s: %s" % (" ".join(argv), last_error(found)))
        try:
            check_freed(
                slots_of(text, self.shape), slots_of((new or b"").decode("utf-8"), self.shape), [entry]
            )
        except ValueError as error:
            raise Failed("after %s, %s: %s" % (" ".join(argv), self.state, error))
        journal.log("released %s of %s" % (entry["slot"], entry["name"]))

    def set_aside(self, journal: Journal, notes: List[str]) -> None:
        """Metadata of containers that are not there, and hold no slot any more, is in the run's backup."""
        look = self.look_now_or_failed()
        holding = {entry["name"] for entry in entries_of(look)}
        files = {each["file"]: each for each in look["metadata"]["files"]}
        before = {each["file"]: each for each in self.look["metadata"]["files"]}
        away = []
        for name in self.aside:
            file = files.get(name)
            if file is None:
                continue  # the allocator took it away
            same = file.get("sha256") == before[name].get("sha256") and name in orphans_of(look)
            if not same or file["name"] in holding:
                continue
            path = os.path.join(self.spec["metadata"], name)
            data = current(path)
            if data is None or sha256(data) != file["sha256"] or os.path.islink(path):
                continue
            journal.begin_step("remove", journal.keep(path, data))
            journal.log("set aside %s" % path)
            os.rename(path, kept_name(path))
            sync_directory(os.path.dirname(path))
            away.append(name)
        if away:
            notes.append("set aside: %s" % ", ".join(away))

    def look_now_or_failed(self) -> Json:
        try:
            return self.look_now()
        except Refused as reason:
            raise Failed(str(reason))

    # --- putting back

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        """The slots are held again by whom they were, each as far as nobody holds it anew."""
        data = current(entry["real"])
        if data is not None and sha256(data) == entry["before"]:
            restore(journal, entry)  # what was staged beside it goes
            return []
        if not entry["lock"]:
            if entry["after"] == "":
                return []  # killed while the allocator was at work, which ends by itself: what it freed is free
            raise Failed(
                "%s is not written without the allocator's lock: give it back with the allocator"
                % entry["path"]
            )
        lock = take_lock(entry["lock"])
        try:
            return put_entries_back(journal, entry)
        finally:
            lock.close()


def filled(text: str, words: Dict[str, str]) -> str:
    """An argument with a container's name and slot in place of their words."""
    return re.sub(r"\{container\}|\{slot\}", lambda found: words[found.group(0)], text)


def put_entries_back(journal: Journal, entry: Entry) -> List[str]:
    """Under the lock: the file as it was where it is as we left it, else the slots that nobody holds anew. Raises Failed."""
    data = current(entry["real"])
    if data is None or sha256(data) == entry["after"]:
        restore(journal, entry)
        back = entry["entries"]
    else:
        text, problems = data.decode("utf-8"), []  # type: str, List[str]
        back = []
        slots, spans = slots_of(text, entry["shape"]), slot_spans(text, entry["shape"])
        edits: List[Tuple[Span, str]] = []
        for kept in entry["slots"]:
            slot = kept["slot"]
            now = [each["name"] for each in slots.get(slot, {}).get("holders", ())]
            if slot in slots and all(name in now for name in kept["gone"]):
                continue
            if slot not in slots or now != kept["left"]:
                told = (
                    slot,
                    ", ".join(name for name in now if name not in kept["left"]) or "nobody",
                    ", ".join(kept["gone"]),
                )
                problems.append("slot %s is held anew by %s: it is not given back to %s" % told)
                continue
            holders, users = (span_pointed(spans[slot], entry["shape"][key]) for key in ("holders", "users"))
            edits.extend([(holders, kept["holders"])] if holders else [])
            edits.extend([(users, kept["users"])] if users and kept["users"] is not None else [])
            back.extend(each for each in entry["entries"] if each["slot"] == slot)
        if edits:
            replace(entry["real"], edited_text(text, edits).encode("utf-8"), like=entry["real"])
        if problems:
            tell_back(entry, back)
            raise Failed("; ".join(problems))
    tell_back(entry, back)
    return []


def tell_back(entry: Entry, back: List[Dict[str, str]]) -> None:
    """The log says that they hold their slots again, where it has said that they do not."""
    if not entry["log"] or not back:
        return
    try:
        said = [line for line in log_end(entry["log"]) if "gpumend %s" % entry["run"] in line]
    except OSError:
        return
    told = [each for each in back if any(each["name"] in line for line in said)]
    try:
        tell_log(entry["log"], "ALLOCATED", told, entry["run"], "put back")
    except (OSError, Failed):
        pass  # the slots are as before, which is what counts


def tell_log(path: str, act: str, entries: Iterable[Dict[str, str]], run_id: str, reason: str) -> None:
    """One line for each, in the log's own format, at its end. Raises Failed."""
    entries = list(entries)
    if not path or not entries:
        return
    try:
        lines = log_end(path)
        kind, clock = log_format(path, lines), time.time()
        now = "%s.%06d" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(clock)), clock % 1 * 1000000)
        text = "".join(
            log_line(kind, act, each, now, "gpumend %s: %s" % (run_id, reason)) for each in entries
        )
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            data = text.encode("utf-8")
            if os.write(handle, data) != len(data):
                raise OSError("half a line was written")
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        raise Failed("%s: %s" % (path, reason_of(error)))


def allocation_kinds() -> List[Type[Step]]:
    return [ReconcileAllocations]
