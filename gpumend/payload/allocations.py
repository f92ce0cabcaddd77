"""Who holds which GPU, by a site's books and by Docker's grants, and which entries are nobody's: pure, stdlib only, Python
3.6 or newer. The controller judges by it, and the host once more right before it frees anything: they cannot disagree.

A look (`gpumend/payload/probe/allocations.py` makes it) has `state`, `metadata`, `history`, `docker`, `live`, `smi`, `apps`
and `clock`, each tagged as all that the probe reads. An entry is (slot, container). It is stale where no container of that
name or id is there, running or not; whatever makes that doubtful is told by `doubts`, and nothing is freed then.
"""

import json
import re
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

Look = Dict[str, Any]

# github.com/hertie-data-science-lab/ds01-infra: gpu_allocator.py of b10bfd6 (names alone), and its later fixtures
# (mock_gpu_state.json: objects). Pointers are RFC 6901's.
DS01: Dict[str, Any] = {
    "slots": "/gpus",
    "slot": "/id",
    "uuid": "/uuid",
    "holders": "/containers",
    "name": "/container",
    "user": "/user",
    "since": "/allocated_at",
    "users": "/users",
    "metadata_name": "/container",
    "metadata_slot": "/gpu_id",
    "metadata_user": "/user",
    "metadata_since": "/allocated_at",
}
# config/label-schema.yaml there, and AIME mlc's own that it replaces.
DS01_LABELS: Dict[str, List[str]] = {
    "slots": ["ds01.gpu.slots", "ds01.gpu_slot"],
    "uuids": ["ds01.gpu.uuid", "ds01.gpu.uuids"],
    "user": ["ds01.user", "aime.mlc.USER"],
}
MAX_WORD = 1000  # characters of a name, a slot, a time: a longer one is none
MAX_HOLDERS = 100000
NOTES_FORMAT = 1
NO_DEVICE = ("", "void", "none", "null")


def is_docker_name(name: str) -> bool:
    """Whether a container can have it (moby daemon/names/names.go RestrictedNameChars)."""
    return re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", name) is not None


def pointed(value: Any, pointer: str) -> Any:
    """What a JSON pointer (RFC 6901) leads to, None where it leads nowhere."""
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def worded(value: Any, what: str) -> str:
    """A text or a number of a site's file as text, empty for none. Raises ValueError for anything else."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError("%s is a JSON %s" % (what, type(value).__name__))
    text = str(value)
    if len(text) > MAX_WORD:
        raise ValueError("%s has %d characters" % (what, len(text)))
    return text


def slot_items(document: Any, shape: Dict[str, Any]) -> List[Tuple[str, Any]]:
    """(Name, value) of each slot of a state file. Raises ValueError where there is no such table."""
    table = pointed(document, shape["slots"])
    if isinstance(table, dict):
        return [(str(name), value) for name, value in table.items()]
    if isinstance(table, list):
        named = [pointed(value, shape["slot"]) for value in table]
        return [
            (worded(number if name is None else name, "a slot's name"), value)
            for number, (name, value) in enumerate(zip(named, table))
        ]
    raise ValueError("there is no table of slots at %s" % shape["slots"])


def slots_of(text: str, shape: Dict[str, Any]) -> Dict[str, Any]:
    """The slots of a state file: by name, `uuid`, `holders` with `name`, `user` and `since`, and `users`, their count by
    name. Raises ValueError for what is no such file, with the place."""
    document = parsed_json(text)
    found: Dict[str, Any] = {}
    total = 0
    for slot, value in slot_items(document, shape):
        if slot in found:
            raise ValueError("slot %s stands twice" % slot)
        raw = pointed(value, shape["holders"])
        raw = [] if raw is None else raw
        if not isinstance(raw, list):
            raw = [raw]  # one holder alone
        holders = []
        for each in raw:
            if isinstance(each, dict):
                name, user = pointed(each, shape["name"]), pointed(each, shape["user"])
                since = pointed(each, shape["since"])
            else:
                name, user, since = each, None, None
            name = worded(name, "a holder of slot %s" % slot)
            if not name:
                raise ValueError("slot %s has a holder without a name" % slot)
            holders.append({"name": name, "user": worded(user, "a user"), "since": worded(since, "a time")})
        total += len(holders)
        if total > MAX_HOLDERS:
            raise ValueError("more than %d holders" % MAX_HOLDERS)
        users = pointed(value, shape["users"])
        found[slot] = {
            "uuid": worded(pointed(value, shape["uuid"]), "a UUID"),
            "holders": holders,
            "users": users_of(users, slot),
        }
    return found


def users_of(raw: Any, slot: str) -> Optional[Dict[str, int]]:
    """How many of a slot's holders are whose, None where that is not counted. Raises ValueError."""
    if raw is None:
        return None
    if not isinstance(raw, dict) or any(isinstance(n, bool) or not isinstance(n, int) for n in raw.values()):
        raise ValueError("the users of slot %s are no counts by name" % slot)
    return {worded(name, "a user"): count for name, count in raw.items()}


def parsed_json(text: str) -> Any:
    """A site's file. Raises ValueError with line and column; also for a key that stands twice, of which readers take one
    each."""

    def once(pairs: List[Tuple[str, Any]]) -> Dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key stands twice in one object")
        return found

    try:
        return json.loads(text, object_pairs_hook=once, parse_int=short_int)
    except RecursionError:
        raise ValueError("JSON of too many levels")
    except ValueError as error:
        line, column = getattr(error, "lineno", 0), getattr(error, "colno", 0)
        raise ValueError(
            "line %d column %d: %s" % (line, column, getattr(error, "msg", "")) if line else str(error)
        )


def short_int(text: str) -> int:
    if len(text) > 32:
        raise ValueError("an integer of %d digits" % len(text))
    return int(text)


def metadata_of(text: str, shape: Dict[str, Any]) -> Dict[str, str]:
    """What a container's metadata file says of its allocation. Raises ValueError."""
    raw = parsed_json(text)
    keys = {
        "name": "metadata_name",
        "slot": "metadata_slot",
        "user": "metadata_user",
        "since": "metadata_since",
    }
    found = {key: worded(pointed(raw, shape[at]), key) for key, at in keys.items()}
    if not found["name"]:
        raise ValueError("it names no container at %s" % shape["metadata_name"])
    return found


# --- logs


def line_of_log(line: str) -> Optional[Dict[str, str]]:
    """One line of a site's log, of any of the three formats of ds01: None for what is none of them.

    gpu-allocations.log: `iso|ACT|user|container|slot|priority=N|reason`; container-operations.log: `date time|operation|
    user|container|slot|status|details`, whose details may have a `|`; events.jsonl, one object a line."""
    line = line.strip()
    if line.startswith("{"):
        try:
            raw = parsed_json(line)
            details = raw.get("details") or {}
            texts = (raw.get("timestamp"), raw.get("event_type"), raw.get("user"), details.get("container"))
            slot = details.get("gpu") or details.get("gpu_uuid")
            found = [worded(each, "a field") for each in texts + (slot, details.get("reason"))]
        except (ValueError, AttributeError):
            return None
        kind = "events"
    else:
        fields = line.split("|", 6)
        if len(fields) != 7:
            return None
        found = fields[:5] + [fields[6]]
        kind = "operations" if re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$", fields[0]) else "allocations"
    if not found[0] or not found[3] or not re.match(r"\d{4}-\d\d-\d\d[T ]", found[0]):
        return None
    keys = ("time", "act", "user", "name", "slot", "reason")
    return dict(zip(keys, found), format=kind)


def log_line(kind: str, act: str, entry: Dict[str, str], now: str, reason: str) -> str:
    """One line in a site's format that `line_of_log` reads back. act: `RELEASED` or `ALLOCATED`; now: naive local time in
    ISO 8601, as the site writes it. A user's name cannot break the line."""
    user = re.sub(r"[|\s\x00-\x1f\x7f]+", "_", entry.get("user") or "unknown")
    name, slot = entry["name"], entry["slot"]
    if kind == "events":
        verb = {"RELEASED": "gpu.release", "ALLOCATED": "gpu.allocate"}[act]
        record = {
            "timestamp": now,
            "event_type": verb,
            "user": user,
            "source": "gpumend",
            "details": {"container": name, "gpu": slot, "reason": reason},
            "schema_version": "1",
        }
        return json.dumps(record) + "\n"
    if kind == "operations":
        verb = {"RELEASED": "gpu_release", "ALLOCATED": "gpu_allocate"}[act]
        stamp = now[:19].replace("T", " ")
        return "%s|%s|%s|%s|%s|success|%s\n" % (stamp, verb, user, name, slot, reason)
    return "%s|%s|%s|%s|%s|priority=none|%s\n" % (now, act, user, name, slot, reason)


def log_format(path: str, last: Iterable[str]) -> str:
    """The format of a site's log: of its last line that has one, else as its name says."""
    for line in reversed(list(last)):
        found = line_of_log(line)
        if found:
            return found["format"]
    if path.endswith((".jsonl", ".json")):
        return "events"
    return "operations" if "operations" in path.rpartition("/")[2] else "allocations"


# --- GPUs


def hardware_of(text: str) -> Dict[str, str]:
    """`nvidia-smi -L`: the UUID of each GPU by its index, `0`, and of each MIG device by `GPU.DEVICE`, `1.2`. Raises
    ValueError where one does not answer, or there is none: the others are not all."""
    found: Dict[str, str] = {}
    index = ""
    for line in text.splitlines():
        gpu = re.match(r"GPU (\d+): .* \(UUID: (GPU-[^()]+)\)", line)
        mig = re.match(r"\s+MIG .*Device\s+(\d+): \(UUID: (MIG-[^()]+)\)", line)
        if gpu:
            index = gpu.group(1)
            found[index] = gpu.group(2)
        elif mig and index:
            found["%s.%s" % (index, mig.group(1))] = mig.group(2)
        elif line.startswith("Unable to determine the device handle"):
            raise ValueError(line.strip())
    if not found:
        raise ValueError("no GPU in: %s" % (text.strip()[:120] or "an empty answer"))
    return found


def unit_of(text: str, hardware: Dict[str, str]) -> Optional[str]:
    """The index, `0` or `1.2`, of what a slot, a device id or a UUID names; None where the hardware has none such. `0:1` is
    what ds01 had before `0.1`, and NVIDIA_VISIBLE_DEVICES has."""
    text = text.strip()
    if text in hardware:
        return text
    if re.match(r"\d+:\d+$", text) and text.replace(":", ".") in hardware:
        return text.replace(":", ".")
    return next((unit for unit, uuid in hardware.items() if uuid == text), None)


def units_named(texts: Iterable[str], hardware: Dict[str, str]) -> Tuple[Set[str], List[str]]:
    """(What device ids name, those that name nothing that is known). A whole GPU in MIG mode is its devices."""
    found: Set[str] = set()
    strange = []
    for text in texts:
        text = text.strip()
        if "=" in text:  # nvidia.com/gpu=0, nvidia.com/mig=1:2
            kind, _, text = text.partition("=")
            if not kind.startswith("nvidia.com/"):
                continue
        if text in NO_DEVICE:
            continue
        unit = unit_of(text, hardware)
        if text == "all":
            found.update(unit for unit in hardware if "." in unit or not has_devices(unit, hardware))
        elif unit is None:
            strange.append(text)
        elif has_devices(unit, hardware):
            found.update(each for each in hardware if each.startswith(unit + "."))
        else:
            found.add(unit)
    return found, strange


def has_devices(unit: str, hardware: Dict[str, str]) -> bool:
    """Whether a GPU is cut into MIG devices."""
    return any(each.startswith(unit + ".") for each in hardware)


def asked_for(container: Dict[str, Any]) -> List[str]:
    """The device ids by which a container got its GPUs, by whichever of the ways: Docker's hook, CDI, the environment under
    the nvidia runtime, device nodes. `--gpus N` are the first N (moby daemon/nvidia_linux.go countToDevices)."""
    found: List[str] = []
    for request in container.get("requests") or ():
        driver, capabilities = request.get("driver") or "", request.get("capabilities") or []
        if driver == "cdi":
            found.extend(request.get("ids") or ())
        elif driver in ("", "nvidia") and "gpu" in capabilities:
            count = request.get("count") or 0
            if request.get("ids"):
                found.extend(request["ids"])
            else:
                found.extend(["all"] if count < 0 else [str(number) for number in range(count)])
    if not found and str(container.get("runtime") or "").startswith("nvidia"):
        found.extend((container.get("visible") or "").split(","))
    found.extend("node:%s" % path for path in container.get("nodes") or ())
    return [text for text in found if text.strip() not in NO_DEVICE]


def granted(container: Dict[str, Any], hardware: Dict[str, str]) -> Tuple[Set[str], List[str]]:
    """What a container holds by Docker's grant, and device ids that name no GPU that is known here."""
    return units_named(asked_for(container), hardware)


def overlaps(unit: str, units: Iterable[str]) -> bool:
    """Whether what is held is this GPU or MIG device, or a part of it, or has it in it."""
    return any(each == unit or each.startswith(unit + ".") or unit.startswith(each + ".") for each in units)


# --- what is stale


def known_names(look: Look) -> Set[str]:
    """Every name and id by which a container is there, in whatever state, on Docker's list or on its disk alone."""
    found: Set[str] = set()
    for container in look["docker"].get("containers", ()):
        found.update(container["names"])
        found.update((container["id"], container["id"][:12]))
    for entry in look["docker"].get("unlisted", ()):
        found.update((entry["id"], entry["id"][:12]))
        found.update([entry["name"]] if entry["name"] else [])
    return found


def entries_of(look: Look) -> List[Dict[str, str]]:
    """Every allocation of the state file: `slot`, `name`, `user`, `since`; a user whom only the metadata, the log or the
    slot's own count names is he."""
    found = []
    by_name = {each["name"]: each for each in (look.get("metadata") or {}).get("files", ()) if "name" in each}
    history = (look.get("history") or {}).get("last", {})
    for slot, value in ((look.get("state") or {}).get("slots") or {}).items():
        for holder in value["holders"]:
            more = by_name.get(holder["name"], {})
            said = history.get(holder["name"], {})
            users = list(value["users"] or ())
            only = users[0] if len(users) == 1 else ""
            user = holder["user"] or more.get("user") or said.get("user") or only
            since = holder["since"] or more.get("since") or said.get("time") or ""
            found.append({"slot": slot, "name": holder["name"], "user": user, "since": since})
    return found


def stale_of(look: Look) -> List[Dict[str, str]]:
    """The entries of which no container is there. Meaningless while there are `doubts`."""
    there = known_names(look)
    return [entry for entry in entries_of(look) if entry["name"] not in there]


def orphans_of(look: Look) -> List[str]:
    """Metadata files of containers that are not there and hold no slot that would stay theirs."""
    there = known_names(look)
    files = (look.get("metadata") or {}).get("files", ())
    return sorted(each["file"] for each in files if "name" in each and each["name"] not in there)


def unknowns(look: Look) -> List[str]:
    """Why it is not known which containers are there and what the books say; empty where it is."""
    found = []
    for part in ("state", "metadata"):
        item = look.get(part)
        if item and item["status"] != "ok":
            found.append("%s: %s" % (item.get("path", part), item.get("error") or item["status"]))
    docker = look["docker"]
    if docker["status"] != "ok":
        found.append("Docker: %s" % (docker.get("error") or docker["status"]))
    else:
        found.extend(short_lists(docker))
    if look["live"]["status"] != "ok":
        found.append("running processes: %s" % look["live"].get("error", "not known"))
    return found


def short_lists(docker: Look) -> List[str]:
    """Why Docker's list may not be all of it."""
    found = []
    if docker["hidden"]:
        ids = ", ".join(each[:12] for each in docker["hidden"][:5])
        found.append("containers run that Docker's list does not have: %s" % ids)
    nameless = [each["id"][:12] for each in docker["unlisted"] if not each["name"]]
    if nameless:
        found.append(
            "Docker's root has containers that are not on its list and whose names cannot be read: %s"
            % ", ".join(nameless[:5])
        )
    if docker.get("disk_error"):
        found.append("Docker's root: %s" % docker["disk_error"])
    if docker["unread"]:
        found.append("dockerd cannot tell of a container: %s" % docker["unread"][0])
    elif docker["count"] != len(docker["containers"]):
        told = (docker["count"], len(docker["containers"]))
        found.append("`docker info` counts %s containers, and Docker's list has %d" % told)
    return found


def waits(look: Look, grace: float) -> List[str]:
    """Why nothing may be freed now, although what is stale is known. grace: seconds that dockerd has to have run by now."""
    found = []
    up = look["docker"].get("up")
    if up is None:
        found.append("since when dockerd runs is not known")
    elif up < grace:
        found.append("dockerd has run for %d s, less than %d" % (up, grace))
    for part, what in (("smi", "nvidia-smi -L"), ("apps", "nvidia-smi --query-compute-apps")):
        if look[part]["status"] != "ok":
            found.append("%s: %s" % (what, look[part].get("error") or look[part]["status"]))
        elif look[part].get("rc"):
            found.append("%s: exit status %d" % (what, look[part]["rc"]))
    if look["smi"]["status"] == "ok" and not look["smi"].get("rc"):
        try:
            units = [unit for unit in hardware_of(look["smi"]["out"]) if "." not in unit]
            if look.get("present") is not None and look["present"] > len(units):
                found.append("%d GPUs are there and nvidia-smi lists %d" % (look["present"], len(units)))
        except ValueError as error:
            found.append("nvidia-smi -L: %s" % error)
    return found


def doubts(look: Look, grace: float) -> List[str]:
    """Why nothing is freed by this look, whatever it shows; empty where it may be."""
    return unknowns(look) or waits(look, grace)


def excess(freed: int, there: int, limit: int) -> str:
    """Why so many at once are not freed: something else is wrong then. Empty where they may be."""
    if freed > limit:
        return "%d are stale at once, more than max_release (%d)" % (freed, limit)
    if freed >= 2 and freed == there:
        return "it would free all %d that there are" % there
    return ""


def hardware_or_none(look: Look) -> Dict[str, str]:
    """The hardware as far as it is known."""
    try:
        return hardware_of(look["smi"].get("out", "")) if look["smi"]["status"] == "ok" else {}
    except ValueError:
        return {}


def apps_of(look: Look) -> List[Tuple[int, str]]:
    """(Process id, UUID) of what computes on a GPU: `nvidia-smi --query-compute-apps=pid,gpu_uuid --format=csv,noheader`."""
    found = []
    for line in (look["apps"].get("out") or "").splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 2 and fields[0].isdigit():
            found.append((int(fields[0]), fields[1]))
    return found


def claims(look: Look) -> Dict[str, Set[str]]:
    """The slots that the books give each container, by its name: the state file's, or, where there is none, its labels'."""
    found: Dict[str, Set[str]] = {}
    for entry in entries_of(look):
        found.setdefault(entry["name"], set()).add(entry["slot"])
    return found


class Holders(object):
    """What of one look may hold a slot: the containers that run, each with its slots in the books, and what computes.
    monitors: containers that look at GPUs and hold none."""

    def __init__(self, look: Look, monitors: Iterable[str] = ()) -> None:
        self.look, self.monitors, self.hardware = look, set(monitors), hardware_or_none(look)
        self.by_id = {each["id"][:12]: each for each in look["docker"].get("containers", ())}
        self.running = [each for each in self.by_id.values() if each["running"]]
        self.apps, self.books = apps_of(look), claims(look)
        self.grants: Dict[str, Tuple[Set[str], List[str]]] = {}

    def granted(self, container: Dict[str, Any]) -> Tuple[Set[str], List[str]]:
        if container["id"] not in self.grants:
            self.grants[container["id"]] = granted(container, self.hardware)
        return self.grants[container["id"]]

    def covers(self, container: Dict[str, Any], slot: str) -> bool:
        """Whether it has an allocation of this very slot, or is one that needs none."""
        names = container["names"]
        return any(slot in self.books.get(name, ()) or name in self.monitors for name in names)

    def why(self, entry: Dict[str, str]) -> str:
        """Why an entry that looks stale is not freed all the same: a live container or a process that no other entry covers
        holds its slot, somebody is about to make its container, its name is none. Empty where nothing holds it back."""
        look, hardware, name, slot = self.look, self.hardware, entry["name"], entry["slot"]
        if not is_docker_name(name) or "|" in slot:
            return "%r is no name that a container can have" % name
        busy = (look.get("busy") or {}).get(name)
        if busy:
            return "process %d names it: somebody is at work on it" % busy
        uuid = ((look["state"].get("slots") or {}).get(slot) or {}).get("uuid") or ""
        unit = (unit_of(uuid, hardware) if uuid else None) or unit_of(slot, hardware)
        for container in self.running:
            if self.covers(container, slot):
                continue
            units, strange = self.granted(container)
            if unit is None and (units or strange):
                return "%s runs and holds a GPU that may be this slot" % container["names"][0]
            if unit is not None and overlaps(unit, units):
                return "%s runs and holds this slot without an allocation of it" % container["names"][0]
            if strange:
                return "%s runs and holds %s, which is not known here" % (container["names"][0], strange[0])
        for pid, gpu in self.apps:
            user = self.by_id.get((look.get("pids") or {}).get(str(pid), {}).get("container") or "")
            used = unit_of(gpu, hardware)
            if user is not None and self.covers(user, slot):
                continue
            if used is None or unit is None or overlaps(unit, [used]):
                if (
                    user is not None
                    and used is not None
                    and unit is not None
                    and "." in unit
                    and "." not in used
                ):
                    units, strange = self.granted(
                        user
                    )  # of a MIG device nvidia-smi may tell the whole GPU's UUID
                    if not strange and not overlaps(unit, units):
                        continue
                return "process %d computes on this GPU and no allocation covers it" % pid
        return ""


def fingerprint(look: Look, entry: Dict[str, str]) -> str:
    """By what an entry is known to be the same at a second look: who, since when, what was written of it last."""
    files = (look.get("metadata") or {}).get("files", ())
    mine = [
        [each["file"], each["sha256"], each["mtime"]] for each in files if each.get("name") == entry["name"]
    ]
    said = ((look.get("history") or {}).get("last") or {}).get(entry["name"], {})
    return json.dumps([entry, mine, said], sort_keys=True)


def free_now(look: Look, monitors: Iterable[str]) -> List[Dict[str, str]]:
    """The stale entries that nothing holds back. Meaningless while there are `doubts`."""
    holders = Holders(look, monitors)
    return [entry for entry in stale_of(look) if not holders.why(entry)]


def daemon_of(look: Look) -> List[int]:
    """Which dockerd it was that told of its containers."""
    return [look["docker"]["pid"], look["docker"]["ticks"]]


def seen_before(record: Any, look: Look) -> Dict[str, Any]:
    """Of what was noted at a look, what counts at this one: nothing of another boot or under another dockerd, and nothing
    that is not as it is written."""
    try:
        same = (record["format"], record["boot"], record["docker"]) == (
            NOTES_FORMAT,
            look["boot"],
            daemon_of(look),
        )
        return {
            key: value
            for key, value in (record["seen"] if same else {}).items()
            if isinstance(value["sight"], str) and 0 <= value["clock"] <= look["clock"]
        }
    except (LookupError, TypeError, AttributeError):
        return {}


def noted(look: Look, watched: Dict[str, str], seen: Dict[str, Any], grace: float) -> Tuple[Any, Set[str]]:
    """(What is noted at this look, for the next; the keys of what was seen as it is now at least `grace` seconds ago).
    watched: by what each is known, by its key. The clock is the kernel's, which nobody sets."""
    notes: Dict[str, Any] = {}
    ripe = set()
    for key, known_by in watched.items():
        before = seen.get(key)
        clock = before["clock"] if before is not None and before["sight"] == known_by else look["clock"]
        notes[key] = {"sight": known_by, "clock": clock}
        if before is not None and before["sight"] == known_by and look["clock"] - clock >= grace:
            ripe.add(key)
    record = {"format": NOTES_FORMAT, "boot": look["boot"], "docker": daemon_of(look), "seen": notes}
    return record, ripe
