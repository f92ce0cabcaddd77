"""The program that changes a host: stdlib only, Python 3.6 or newer, sent over stdin in one exec.

It takes a *transaction* (data; `rules/plan.py` makes it) and does all of it or nothing:

    lock, check that the host is as the plan saw it, stage beside the target, validate, back up, rename, reload or
    restart what loaded the changed bytes, prove; and if anything fails, put everything back and prove that.

What is true afterwards is in its answer, one line of ASCII JSON:

    unchanged   nothing was to be done, nothing was written
    changed     done and proven
    pending     done, but a restart waits, because it would stop containers or is not allowed
    moved       the host is not as the plan saw it; nothing was written
    refused     it cannot be done here (lock held, read-only or full disk, validator says no); nothing was changed
    put_back    it failed, and every file and daemon is as it was before
    broken      it failed, and not everything could be put back: `detail` says what

Each step is in the journal before it is made: /var/lib/gpumend/runs/RUN/COMPONENT/journal.json, mode 0600, with
the old bytes beside it. A journal left in state `working` is an interrupted run; `recover` puts it back.
A lost connection does not end the program: it writes to nobody, finishes, and its journal says how.
"""

import base64
import errno
import fcntl
import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import time

from facts.probe import UnixConnection, docker_get, run, which
from operations.inner import Unmet, drop_in, fuse_ready, identity, prove_inner, runs_now, try_overlay
from operations.packaging import (
    Unfit,
    check_note,
    cu_init,
    installed,
    perform,
    prove_cuda,
    simulate,
    take_back,
    wait_for_lock,
)

ROOT = "/var/lib/gpumend"
LOCK = "/run/gpumend.lock"
LOCK_WAIT = 60  # seconds; a run takes seconds, and two runs at once want the same
COMMAND_TIMEOUT = 60
SERVICE_TIMEOUT = (
    180  # docker.service's own TimeoutStartSec is unlimited; 3 minutes is what an operator waits
)
PROOF_TIMEOUT = 45
SPARE_BYTES = 1 << 20
SOCKET = "/run/docker.sock"
CONTAINERD_SOCKET = "/run/containerd/containerd.sock"


class Refused(Exception):
    """Nothing was changed, and this is why. `status` is what the answer says."""

    def __init__(self, detail, status="refused"):
        Exception.__init__(self, detail)
        self.status = status


class Failed(Exception):
    """Something was changed and must be put back."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def sync_folder(path):
    """Make a rename in this folder durable. Some file systems have no fsync for folders: they need none."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def stage(target, data, like=None, mode=0o644):
    """A new file beside `target` with these bytes, synced, of `like`'s mode, owner and extended attributes.

    Its name starts with a dot and ends in neither .json nor .yaml nor .toml: no engine that watches the folder takes
    it for its own. It is made with O_EXCL under a random name, so a link planted beside the target is not followed.
    """
    folder, name = os.path.split(target)
    handle, path = tempfile.mkstemp(prefix="." + name + ".", suffix=".gpumend", dir=folder)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(data)
            out.flush()
            if like is not None:
                found = os.stat(like)
                os.fchown(out.fileno(), found.st_uid, found.st_gid)
                os.fchmod(out.fileno(), stat.S_IMODE(found.st_mode))
                for name in os.listxattr(like):
                    os.setxattr(path, name, os.getxattr(like, name))
            else:
                os.fchmod(out.fileno(), mode)
            os.fsync(out.fileno())
    except BaseException:
        os.unlink(path)
        raise
    return path


def replace(target, data, like=None, mode=0o644):
    """The file at `target` has these bytes, or (on any error) the old ones; never a mix."""
    path = stage(target, data, like, mode)
    try:
        os.rename(path, target)
    except BaseException:
        os.unlink(path)
        raise
    sync_folder(os.path.dirname(target))


def missing_folders(path):
    """The folders that have to be made before this one is there, outermost first."""
    missing = []
    while not os.path.isdir(path):
        missing.insert(0, path)
        path = os.path.dirname(path)
    return missing


def make_folders(path, mode=0o755):
    """The folder exists. Returns those that were made, outermost first, so that they can be taken away again."""
    made = missing_folders(path)
    for folder in made:
        os.mkdir(folder, mode)
        os.chmod(folder, mode)
        sync_folder(os.path.dirname(folder))
    return made


def current(path):
    """The bytes of a regular file, or None where there is nothing. Raises Refused for anything else."""
    try:
        found = os.stat(path)
    except OSError as error:
        if error.errno == errno.ENOENT and not os.path.islink(path):
            return None
        raise Refused("%s: %s" % (path, os.strerror(error.errno)))
    if not stat.S_ISREG(found.st_mode):
        raise Refused("%s is not a regular file" % path)
    with open(path, "rb") as handle:
        return handle.read()


class Journal:
    """What a transaction did so far, on disk before it does the next thing. It holds no file's content: the backups
    beside it do, mode 0600 in a folder of mode 0700."""

    def __init__(self, folder, record):
        self.folder = folder
        self.path = os.path.join(folder, "journal.json")
        self.record = record
        self.strict = True

    @classmethod
    def begin(cls, transaction):
        """The journal of a transaction that has done nothing yet. Where it cannot be written nothing is left of it."""
        folder = os.path.join(ROOT, "runs", transaction["run"], transaction["component"])
        record = {
            "run": transaction["run"],
            "component": transaction["component"],
            "who": transaction["who"],
            "started": time.time(),
            "state": "working",
            "files": [],
            "packages": [],
            "inner": [],
            "settle": transaction.get("settle", []),
            "service": transaction.get("service"),
            "served": "",
            "running": {},
            "log": [],
        }
        journal = cls(folder, record)
        try:
            make_folders(folder, 0o700)
            journal.write()
        except OSError:
            journal.discard()
            raise
        return journal

    @classmethod
    def load(cls, path):
        with open(path) as handle:
            return cls(os.path.dirname(path), json.load(handle))

    def discard(self):
        """Nothing was changed: leave no trace of the run either."""
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            os.rmdir(os.path.dirname(self.folder))
        except OSError:
            pass

    def write(self):
        """The record is on the disk. While things are put back (`strict` is off) a full disk does not stop that."""
        text = json.dumps(self.record, indent=1, sort_keys=True) + "\n"
        try:
            replace(self.path, text.encode("ascii"), mode=0o600)
        except OSError:
            if self.strict:
                raise

    def log(self, step):
        """Note a step that is about to be made."""
        self.record["log"].append(step)
        self.write()

    def backup(self, path, data):
        """Keep a file's old bytes. Returns the entry, to which the new bytes' hash is added once known."""
        entry = {"path": path, "real": os.path.realpath(path), "before": None, "after": None, "made": []}
        if data is not None:
            found = os.stat(path)
            entry["before"] = sha256(data)
            entry["backup"] = "%d.before" % len(self.record["files"])
            entry["mode"] = stat.S_IMODE(found.st_mode)
            entry["uid"], entry["gid"] = found.st_uid, found.st_gid
            entry["times"] = [found.st_atime_ns, found.st_mtime_ns]
            kept = os.path.join(self.folder, entry["backup"])
            replace(kept, data, like=path)
            os.chmod(kept, 0o600)
            os.chown(kept, os.geteuid(), os.getegid())
        self.record["files"].append(entry)
        return entry

    def old(self, entry):
        with open(os.path.join(self.folder, entry["backup"]), "rb") as handle:
            data = handle.read()
        if sha256(data) != entry["before"]:
            raise OSError("the backup of %s is damaged" % entry["path"])
        return data

    def end(self, state):
        self.record["state"] = state
        self.record["ended"] = time.time()
        self.write()


def kept_name(path):
    """Where a file's old inode waits, beside it, until its transaction has ended."""
    folder, name = os.path.split(path)
    return os.path.join(folder, "." + name + ".gpumend-old")


def keep(path):
    """The old inode under a second name: putting it back then needs no space and brings its times back, too.
    A file system without hard links has the backup alone; a full one raises OSError, before anything is changed."""
    forget(path)
    try:
        os.link(path, kept_name(path))
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS):
            raise


def forget(path):
    try:
        os.unlink(kept_name(path))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def restore(journal, entry):
    """One file is as it was before its transaction. A file that somebody changed since is left, and raises Failed."""
    path, kept = entry["real"], kept_name(entry["real"])
    data = current(path) if os.path.lexists(path) else None
    have = None if data is None else sha256(data)
    if have == entry["before"]:
        if data is not None and stat.S_IMODE(os.stat(path).st_mode) != entry["mode"]:
            os.chmod(path, entry["mode"])
        forget(path)
    elif entry["after"] != "" and have != entry["after"]:
        forget(path)  # the backup has the old bytes
        raise Failed("%s was changed by somebody else since: it is left as it is" % path)
    elif entry["before"] is None:
        os.unlink(path)
        sync_folder(os.path.dirname(path))
    elif os.path.isfile(kept) and not os.path.islink(kept) and sha256(current(kept)) == entry["before"]:
        os.rename(kept, path)
        sync_folder(os.path.dirname(path))
    else:
        staged = stage(path, journal.old(entry), like=os.path.join(journal.folder, entry["backup"]))
        os.chown(staged, entry["uid"], entry["gid"])
        os.chmod(staged, entry["mode"])
        os.utime(staged, ns=tuple(entry["times"]))
        os.rename(staged, path)
        sync_folder(os.path.dirname(path))
        forget(path)
    if entry["before"] is None:
        remove_empty(entry["made"])


def remove_empty(folders):
    """Folders that were made are gone again, innermost first, as far as nobody has put anything into them."""
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno != errno.ENOENT:  # killed before it was made; any other: it is in use by now
                break


def docker_call(url, method="GET", timeout=10):
    """Docker's answer as JSON (None for an empty one). Raises OSError or ValueError."""
    connection = UnixConnection(SOCKET, timeout)
    try:
        if method == "GET":
            return docker_get(connection, url)
        connection.request(method, url)
        response = connection.getresponse()
        body = response.read()
        if response.status >= 400:
            raise ValueError(
                "%s %s: HTTP %d %s" % (method, url, response.status, body[:200].decode("utf-8", "replace"))
            )
        return None
    except http.client.HTTPException as error:  # an answer that broke off
        raise OSError("%s %s: %s" % (method, url, error or type(error).__name__))
    finally:
        connection.close()


def docker_info():
    """`docker info`, or None while dockerd does not answer."""
    try:
        return docker_call("/info")
    except (OSError, ValueError):
        return None


def running_containers():
    """Ids and names of running containers. Raises OSError or ValueError where dockerd does not answer."""
    return {entry["Id"]: entry["Names"][0].lstrip("/") for entry in docker_call("/containers/json")}


def active(unit):
    """Whether systemd calls a unit active."""
    found = run(["systemctl", "is-active", unit], 20)
    return found["status"] == "ok" and found["rc"] == 0


def systemd():
    return os.path.isdir("/run/systemd/system")


def wait_for(test, seconds):
    """Ask until the test is true or the time is over; the time is the only thing that ends it."""
    deadline = time.monotonic() + seconds
    while True:
        if test():
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)


def gate(policy, unit="docker.service"):
    """Why a daemon may not be restarted now, by its own word; an empty text where it may."""
    if unit == "containerd.service":
        return containerd_gate(policy)
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    try:
        info = docker_call("/info")
        running = running_containers()
    except (OSError, ValueError) as error:
        return "whether containers run is not known: %s" % error
    if info.get("LiveRestoreEnabled") or not running:
        return ""
    return "it would stop %d running: %s" % (len(running), ", ".join(sorted(running.values())))


def containerd_gate(policy):
    """containerd's containers are children of shims, which a restart leaves alone with KillMode=process only."""
    if policy == "never":
        return "restarts is `never`"
    found = run(["systemctl", "show", "--value", "-p", "KillMode", "containerd.service"], 20)
    mode = found.get("out", "").strip()
    return "" if mode == "process" else "KillMode=%s: it would stop every container" % (mode or "unknown")


def inner_gate(policy, entry):
    """Why an inner daemon's container may not be started anew now; an empty text where it may. Raises Unmet."""
    if policy == "allow":
        return ""
    if policy == "never":
        return "restarts is `never`"
    return "it would stop %s" % entry["container"] if runs_now(SOCKET, entry["container"]) else ""


class Service:
    """The daemon a transaction tells of its new file: dockerd. The journal keeps which containers it ran before a restart,
    so that a run that puts back an interrupted one starts them, too."""

    reloads = True
    name = "dockerd"

    def __init__(self, unit, journal):
        self.unit = unit
        self.journal = journal
        self.told = time.time()

    def tell(self, action):
        """Reload or restart the unit; raises Failed where it does not come back."""
        if action == "restart":
            try:
                self.journal.record["running"].update(self.running())
            except (OSError, ValueError):
                pass
        self.told = time.time()
        self.journal.record["served"] = action
        self.journal.log("%s %s" % (action, self.unit))
        if not systemd():
            raise Failed("this host was not booted by systemd: %s %s by hand" % (action, self.unit))
        if action == "restart":
            # systemd refuses a unit that was started three times in a minute (docker.service: StartLimitBurst=3).
            run(["systemctl", "reset-failed", self.unit], 20)
        found = run(["systemctl", action, self.unit], SERVICE_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "").strip() or found.get("error", "")).split("\n")[0]
            raise Failed("systemctl %s %s: %s%s" % (action, self.unit, reason, self.last_words()))
        if not wait_for(self.answers, PROOF_TIMEOUT):
            raise Failed(
                "%s gives no answer %d s after its %s%s"
                % (self.name, PROOF_TIMEOUT, action, self.last_words())
            )

    @staticmethod
    def running():
        """What runs under the daemon, by id, with names for the report. Raises OSError or ValueError."""
        return running_containers()

    @staticmethod
    def answers():
        return docker_info() is not None

    def last_words(self):
        """What the daemon itself said last since it was told, an error where there is one, for the report; masked there."""
        since = "--since=@%d" % self.told
        # systemd's own words about the unit come by another transport.
        argv = [
            "journalctl",
            "-u",
            self.unit,
            "_TRANSPORT=stdout",
            since,
            "-n",
            "40",
            "-o",
            "cat",
            "--no-pager",
        ]
        said = [line for line in run(argv, 20).get("out", "").splitlines() if line.strip()]
        lines = [line for line in said if re.search(r"(?i)unable|failed|fatal|error|unknown", line)] or said
        return " (%s: %s)" % (self.unit, lines[-1][:300]) if lines else ""

    def start_again(self):
        """Containers that ran before a restart run again. Returns the names of those that do not."""
        before = self.journal.record["running"]
        try:
            now = running_containers()
        except (OSError, ValueError):
            return sorted(before.values())
        lost = []
        for ident, name in sorted(before.items()):
            if ident not in now:
                try:
                    docker_call("/containers/%s/start" % ident, "POST", timeout=60)
                except (OSError, ValueError):
                    lost.append(name)
        return lost


class Containerd(Service):
    """containerd. What runs under it are its shims, by pid and start: a restart leaves every one of them as it is, and its
    CRI plugin loads where it loaded before."""

    reloads = False  # containerd.service has no ExecReload
    name = "containerd"

    def tell(self, action):
        before = cri_broken()
        Service.tell(self, action)
        broken = cri_broken()
        if broken and not before:
            raise Failed("containerd's plugin %s does not load%s" % (broken, self.last_words()))

    @staticmethod
    def running():
        return shims()

    @staticmethod
    def answers():
        return active("containerd.service") and accepts(CONTAINERD_SOCKET)

    def start_again(self):
        """A shim that is gone cannot be started again: its name is all that can be told."""
        now = shims()
        return sorted(name for ident, name in self.journal.record["running"].items() if ident not in now)


SERVICES = {"containerd.service": Containerd}


def service_of(unit, journal):
    return SERVICES.get(unit, Service)(unit, journal)


def accepts(path):
    """Whether somebody listens at a socket; also true where there is none, for containerd may have another address."""
    if not os.path.exists(path):
        return True
    connection = UnixConnection(path, 5)
    try:
        connection.connect()
        return True
    except OSError:
        return False
    finally:
        connection.close()


def shims():
    """containerd's shims: `pid:start` -> a name. The start (proc(5), field 22) tells a pid from its successor."""
    found = {}
    for pid in os.listdir("/proc"):
        if not pid.isdigit():
            continue
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as handle:
                argv = handle.read().decode("utf-8", "replace").split("\0")
            with open("/proc/%s/stat" % pid) as handle:
                start = handle.read().rpartition(")")[2].split()[19]
        except (OSError, IndexError):
            continue  # it ended while we looked
        if os.path.basename(argv[0]).startswith("containerd-shim"):
            ident = argv[argv.index("-id") + 1] if "-id" in argv[:-1] else "?"
            found["%s:%s" % (pid, start)] = "shim %s of %s" % (pid, ident[:64])
    return found


def cri_broken():
    """The plugin of CRI that containerd says it could not load, or an empty text; also where nobody can be asked."""
    found = run(["ctr", "plugins", "ls"], 20)
    for row in found.get("out", "").splitlines():
        words = row.split()
        if len(words) > 2 and words[-1] == "error" and "cri" in (words[0] + "." + words[1]).split("."):
            return "%s.%s" % (words[0], words[1])
    return ""


def prove(proofs, told):
    """The proofs that can be true by now come true in time; raises Failed with the one that does not."""
    for proof in proofs:
        if proof["needs"] == "restart" and told != "restart":
            continue

        def shown():
            found = docker_info()
            for key in proof["path"]:
                found = found.get(key) if isinstance(found, dict) else None
            if proof.get("value"):
                return found == proof["value"]
            return bool(found) or isinstance(found, dict)

        if not wait_for(shown, PROOF_TIMEOUT):
            words = filter(None, (".".join(proof["path"]), proof.get("value")))
            raise Failed("`docker info` shows no %s" % " ".join(words))


def check_spec(data):
    """A generated CDI spec names devices, and every file it mounts is there. Raises Failed.

    The whole judgement is the controller's, which reads the file again after this program.
    """
    text = data.decode("utf-8", "replace")
    if "cdiVersion" not in text or not re.search(r"(?m)^\s*-?\s*\"?name\"?:", text):
        raise Failed("the generated spec has no device")
    for path in re.findall(r"(?m)^\s*-?\s*hostPath:\s*\"?(/[^\s\"]+)", text):
        if not os.path.exists(path):
            raise Failed("the generated spec names %s, which is not there" % path)


class Transaction:
    """One component's change, from lock to answer."""

    def __init__(self, wanted):
        self.wanted = wanted
        self.journal = None
        self.staged = []  # (step, staged path, new bytes)
        self.told = ""
        self.lost = []
        self.packages = {}  # name -> what its manager would do
        self.notes = []  # for the report: what was waited for, what a proof showed
        self.before = (-1, 0)  # cu_init before anything was changed

    def preconditions(self):
        """Refuse, before anything is written, what cannot end well: other bytes than the plan saw, no room, no right."""
        for step in self.wanted["steps"]:
            if not step.get("path"):
                continue
            if step["do"] == "folder":
                continue
            path = os.path.realpath(step["path"])
            data = current(step["path"])
            if step["do"] == "dropin":  # its bytes never leave the host: the plan has not seen them
                step["before"] = None if data is None else sha256(data)
            if (None if data is None else sha256(data)) != step["before"]:
                raise Refused("%s changed since it was read" % step["path"], "moved")
            folder = os.path.dirname(path)
            while not os.path.isdir(folder):
                folder = os.path.dirname(folder)
            self.writable(folder, len(data or b"") + len(step.get("data") or ""))
        parent = ROOT
        while not os.path.isdir(parent):
            parent = os.path.dirname(parent)
        self.writable(parent, 0)
        try:
            self.simulations()
        except Unfit as reason:
            raise Refused(str(reason))

    def simulations(self):
        """What package managers would do is what they may do, and their lock is free. Raises Unfit."""
        wait = self.wanted.get("package_wait", LOCK_WAIT)
        for step in self.wanted["steps"]:
            if step["do"] == "package":
                manager, action, name = step["argv"]
                waited = wait_for_lock(manager, wait)
                self.notes.extend([waited] if waited else [])
                self.packages[name] = simulate(manager, action, name, wait)
            elif step["do"] == "cuda" and self.before[0] == -1:
                self.before = cu_init()

    @staticmethod
    def writable(folder, size):
        found = os.statvfs(folder)
        if found.f_flag & 1:  # ST_RDONLY
            raise Refused("%s is mounted read-only" % folder)
        if found.f_bavail * found.f_frsize < size * 2 + SPARE_BYTES:
            raise Refused("no space left in %s" % folder)
        if not os.access(folder, os.W_OK):
            raise Refused("%s cannot be written by uid %d" % (folder, os.geteuid()))

    def waiting(self):
        """Why the restart that this transaction calls for has to wait; an empty text where there is none to wait."""
        service = self.wanted["service"]
        return gate(self.wanted["restarts"], service[0]) if service and service[1] == "restart" else ""

    def make(self):
        """Stage every file, validate, then rename them all. Nothing but staged files is there until the last part."""
        for step in self.wanted["steps"]:
            if step["do"] in ("write", "generate", "dropin"):
                self.stage(step)
        for step, path, _ in self.staged:
            self.validate(step, path)
        if self.wanted.get("tree") and self.staged:
            self.validate_tree()
        for step in self.wanted["steps"]:
            self.carry_out(step)

    def new_bytes(self, step):
        if step["do"] == "write":
            return base64.b64decode(step["data"])
        if step["do"] == "dropin":
            step["mode"] = stat.S_IMODE(os.stat(step["argv"][0]).st_mode)  # it holds what the unit holds
            try:
                return drop_in(step["argv"][0], step["argv"][1], step["argv"][2:])
            except Unmet as reason:
                raise Failed(str(reason))
        found = run(step["argv"], COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            lines = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Failed("%s: %s" % (" ".join(step["argv"][:3]), lines[-1] if lines else found["status"]))
        data = found["out"].encode("utf-8")
        check_spec(data)
        return data

    def stage(self, step):
        data = self.new_bytes(step)
        path = os.path.realpath(step["path"])
        if step["before"] == sha256(data):
            return
        entry = self.journal.backup(step["path"], self.still(step))
        entry["after"] = sha256(data)
        entry["made"] = missing_folders(os.path.dirname(path))
        self.journal.log("stage %s" % step["path"])
        make_folders(os.path.dirname(path))
        like = path if step["before"] is not None else None
        temporary = stage(path, data, like, step["mode"])
        if step["do"] == "generate":
            os.chmod(temporary, step["mode"])  # as nvidia-ctk writes it: an old 0600 is a fault
        self.staged.append((step, temporary, data))

    @staticmethod
    def still(step):
        """The bytes of a step's file, which are those that the plan saw. Raises Failed: somebody else is at work."""
        data = current(step["path"])
        if (None if data is None else sha256(data)) != step["before"]:
            raise Failed("%s was changed by somebody else meanwhile" % step["path"])
        return data

    def validate(self, step, path):
        argv = [word.replace("{staged}", path) for word in self.wanted["validate"]]
        if not argv or step["do"] != "write" or self.wanted.get("tree"):
            return
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "") + found.get("out", "")).strip() or found.get("error", "")
            raise Failed(
                "%s refuses the new %s: %s"
                % (argv[0], step["path"], reason.replace(path, step["path"])[:500])
            )

    def validate_tree(self):
        """The daemon's own program reads the whole configuration as it will be, in a folder of its own, and shows of it what
        is expected. Raises Failed; the folder is gone afterwards."""
        folder = tempfile.mkdtemp(prefix="gpumend-", dir="/run")
        try:
            for name, data in self.wanted["tree"]:
                with open(os.path.join(folder, name), "wb") as out:
                    out.write(base64.b64decode(data).replace(b"{tree}", folder.encode("ascii")))
            found = run([word.replace("{tree}", folder) for word in self.wanted["validate"]], COMMAND_TIMEOUT)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        program = self.wanted["validate"][0]
        if found["status"] != "ok" or found["rc"] != 0:
            reason = (found.get("err", "") + found.get("out", "")).strip() or found.get("error", "")
            raise Failed("%s refuses the new configuration: %s" % (program, reason[:500]))
        for pattern in self.wanted["expect"]:
            if not re.search(pattern, found["out"]):
                raise Failed("%s does not see what the new configuration says: %s" % (program, pattern))

    def carry_out(self, step):
        path = os.path.realpath(step["path"]) if step.get("path") else ""
        if step["do"] in ("write", "generate", "dropin"):
            for staged, temporary, _ in self.staged:
                if staged is step:
                    self.last_look(step, path)
                    if step["before"] is not None:
                        keep(path)
                    self.journal.log("rename %s" % step["path"])
                    os.rename(temporary, path)
                    sync_folder(os.path.dirname(path))
                    if step["before"] is None:
                        self.relabel(path)
        elif step["do"] == "remove":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = None
            self.journal.log("remove %s" % step["path"])
            os.rename(path, kept_name(path))
            sync_folder(os.path.dirname(path))
        elif step["do"] == "mode":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = entry["before"]
            self.journal.log("mode %s %o" % (step["path"], step["mode"]))
            os.chmod(path, step["mode"])
        elif step["do"] == "trigger":
            entry = self.journal.backup(step["path"], self.still(step))
            entry["after"] = ""  # whatever the command writes: not known before
            self.journal.log("keep %s" % step["path"])
            if step["before"] is not None:
                keep(path)
            self.journal.log("run %s" % " ".join(step["argv"]))
            self.command(step["argv"])
            data = current(step["path"])
            if data is None:
                raise Failed("%s wrote no %s" % (" ".join(step["argv"]), step["path"]))
            check_spec(data)
            entry["after"] = sha256(data)
        elif step["do"] in ("folder", "fuse"):
            try:
                self.storage(step)
            except Unmet as reason:
                raise Failed(str(reason))
        elif step["do"] in ("package", "note", "cuda"):
            try:
                self.beyond_files(step)
            except Unfit as reason:
                raise Failed(str(reason))
        else:
            self.journal.log("run %s" % " ".join(step["argv"]))
            self.command(step["argv"])

    def storage(self, step):
        """`folder`: it is there, and an overlay was mounted in it for trial. `fuse`: /dev/fuse is there. Raises Unmet."""
        if step["do"] == "fuse":
            self.journal.log("fuse")
            fuse_ready()
            return
        made = missing_folders(step["path"])
        # Never a file: undoing takes away folders that were made, and those only while they are empty.
        inside = os.path.join(step["path"], ".gpumend-trial")
        entry = {"path": step["path"], "real": inside, "before": None, "after": None, "made": made}
        self.journal.record["files"].extend([entry] if made else [])
        self.journal.log("folder %s" % step["path"])
        make_folders(step["path"])
        if made:
            os.chmod(step["path"], step["mode"])
        try_overlay(step["path"])

    def serve_inner(self):
        """Units of inner daemons are started anew, as far as that is allowed, and each daemon has its storage. Returns why
        any waits."""
        waits = []
        for argv in self.wanted["settle"]:
            self.command(argv)
        for entry in self.wanted["inner"]:
            try:
                if not entry["unit"]:
                    waits.append("%s: %s" % (entry["container"], entry["by_hand"]))
                    continue
                held = inner_gate(self.wanted["restarts"], entry)
                if held:
                    waits.append("%s waits for its restart: %s" % (entry["unit"], held))
                    continue
                self.journal.record["inner"].append(entry["unit"])
                self.journal.log("restart %s" % entry["unit"])
                old = identity(SOCKET, entry["container"])
                self.command(["systemctl", "restart", entry["unit"]])
                self.notes.append("%s: %s" % (entry["container"], prove_inner(SOCKET, entry, old)))
            except Unmet as reason:
                raise Failed(str(reason))
        return "; ".join(waits)

    def beyond_files(self, step):
        """`package` (manager, action, name): each package that comes or goes is in the journal before. `note` (folder,
        section, driver): the library is for the driver. `cuda` (kind, folder, version): cuInit says so. Raises Unfit."""
        if step["do"] == "note":
            check_note(*step["argv"])
        elif step["do"] == "cuda":
            self.notes.append(prove_cuda(*(step["argv"] + [self.before])))
        else:
            manager, action, name = step["argv"]
            for _, other, version in self.packages[name]:
                entry = {
                    "manager": manager,
                    "name": other,
                    "before": installed(manager, other),
                    "after": version,
                }
                self.journal.record["packages"].append(entry)
            self.journal.log("package %s %s" % (action, name))
            version = next((new for _, other, new in self.packages[name] if other == name), None)
            perform(manager, action, name, version, self.wanted.get("package_wait", LOCK_WAIT))

    def last_look(self, step, path):
        """Right before the rename: bytes that came since the plan are not written over, nor put back afterwards."""
        try:
            self.still(step)
        except Failed:
            files = self.journal.record["files"]
            self.journal.record["files"] = [entry for entry in files if entry["real"] != path]
            raise

    @staticmethod
    def relabel(path):
        """A new file gets its folder's policy label where SELinux is at work; elsewhere there is no restorecon."""
        if os.path.isdir("/sys/fs/selinux") and which("restorecon"):
            run(["restorecon", path], 20)

    @staticmethod
    def command(argv):
        if argv[:2] == ["systemctl", "restart"]:
            run(["systemctl", "reset-failed"] + argv[2:], 20)  # the limit of starts counts others', too
        found = run(argv, COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            lines = (found.get("err", "").strip() or found.get("error", "")).splitlines()
            raise Failed("%s: %s" % (" ".join(argv), lines[-1] if lines else found["status"]))

    def serve(self, waiting):
        """Tell the daemon. Where its restart has to wait, a reload makes true what a reload can. Returns why it waits."""
        if self.wanted.get("inner"):
            return self.serve_inner()
        if not self.wanted["service"]:
            prove(self.wanted["proofs"], "")
            return ""
        waiting = waiting or self.waiting()  # a container may have been started meanwhile
        if waiting and self.wanted.get("must_restart"):
            raise Failed(waiting)
        unit, action = self.wanted["service"]
        service = service_of(unit, self.journal)
        if waiting and not service.reloads:
            return waiting
        self.told = "reload" if waiting else action
        service.tell(self.told)
        prove(self.wanted["proofs"], self.told)
        if self.told == "restart":
            self.lost = service.start_again()
        return waiting

    def apply(self):
        """All of it; the answer says how it ended."""
        self.preconditions()
        waiting = self.waiting()
        if waiting and self.wanted.get("must_restart"):
            raise Refused("it needs a restart now, and %s" % waiting)
        if not self.wanted["steps"] and waiting:  # then nothing is written, not even a journal
            return {"status": "pending", "detail": waiting}
        self.journal = Journal.begin(self.wanted)
        try:
            self.make()
            if not self.journal.record["files"] and not self.wanted["service"] and not self.ran():
                self.journal.discard()
                return {"status": "unchanged"}
            waiting = self.serve(waiting)
            for entry in self.journal.record["files"]:
                forget(entry["real"])
        except Exception as error:  # whatever it is, a fault of ours included: put back first
            return self.put_back(error)
        detail = "; ".join(filter(None, [waiting] + self.notes))
        record = self.journal.record
        if waiting and self.wanted.get("inner") and not (record["files"] or record["inner"]):
            self.journal.discard()  # all but the wait was done by an earlier run
            return {"status": "pending", "detail": detail}
        try:
            self.journal.record["running"] = {}  # a rollback days later does not start them
            self.journal.end("done")
        except OSError as error:
            # All is done and proven. A journal left `working` would have the next run put it back.
            self.journal.discard()
            detail = "; ".join(filter(None, (detail, "it cannot be rolled back: %s" % reason_of(error))))
        answer = {"status": "pending" if waiting else "changed", "detail": detail, "told": self.told}
        answer["files"] = [entry["path"] for entry in self.journal.record["files"]]
        if self.lost:
            answer["lost"] = self.lost
        return answer

    def ran(self):
        return bool(self.wanted.get("inner")) or any(
            step["do"] in ("run", "package", "fuse") for step in self.wanted["steps"]
        )

    def put_back(self, error):
        """Everything as before, and said so; `broken` where that fails."""
        reason = reason_of(error)
        touched = any(step.split(" ", 1)[0] not in ("stage", "keep") for step in self.journal.record["log"])
        for _, path, _ in self.staged:
            try:
                os.unlink(path)
            except OSError:
                pass  # renamed already, or `undo` names what it cannot put back
        # Allowed, since it was restarted with that permission a moment ago.
        problems, _ = undo(self.journal, "allow")
        if problems:
            return {"status": "broken", "detail": "%s; then: %s" % (reason, "; ".join(problems))}
        if not touched:
            self.journal.discard()
        return {"status": "put_back" if touched else "refused", "detail": reason}


def reason_of(error):
    """What went wrong, for the report: an error of the system names its file, one of ours its class."""
    if isinstance(error, (Failed, Refused)):
        return str(error)
    if isinstance(error, OSError):
        where = "%s: " % error.filename if error.filename else ""
        return where + (error.strerror or str(error))
    return "internal error: %s: %s" % (type(error).__name__, error)


def undo(journal, restarts):
    """Put one journal's files back, newest first, and its daemon to work with them.

    Returns what could not be done, and why a restart that it takes has to wait (an empty text where none does). A
    journal that cannot be written does not stop it; one that cannot say that all is back is taken away.
    """
    problems, held = [], ""
    journal.strict = False
    for entry in reversed(journal.record["files"]):
        try:
            for leftover in leftovers(entry["real"]):
                os.unlink(leftover)
            restore(journal, entry)
        except (OSError, Failed, Refused) as error:
            problems.append(str(error))
    for entry in reversed(journal.record.get("packages", ())):
        try:
            take_back(entry, LOCK_WAIT)
        except Unfit as error:
            problems.append(str(error))
    for argv in journal.record.get("settle", ()):
        run(
            argv, COMMAND_TIMEOUT
        )  # daemon-reload, ldconfig: what makes files count is what makes their absence count
    for unit in journal.record.get("inner", ()):
        if restarts != "allow":
            held = "%s still runs with the new storage: restarts is `%s`" % (unit, restarts)
            continue
        found = run(["systemctl", "restart", unit], SERVICE_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            problems.append("systemctl restart %s: %s" % (unit, found.get("err", "").strip()))
    if journal.record.get("inner") and not held:
        # A unit that restarts by itself may have had Docker make its folder anew before its old text counted again.
        for entry in reversed(journal.record["files"]):
            remove_empty(entry["made"])
    served, service = journal.record["served"], journal.record["service"]
    if served and service and systemd() and not problems:
        teller = service_of(service[0], journal)
        held = gate(restarts, service[0]) if served == "restart" and teller.answers() else ""
        try:
            if held:
                if teller.reloads:
                    teller.tell("reload")
                held = "%s still runs with the new configuration: %s" % (service[0], held)
            else:
                teller.tell("restart" if served == "restart" else reload_or_start(service[0]))
                problems.extend("container %s did not come back" % name for name in teller.start_again())
        except (OSError, Failed) as error:
            problems.append(reason_of(error))
    for leftover in os.listdir(journal.folder):
        if leftover.endswith(".gpumend"):
            try:
                os.unlink(os.path.join(journal.folder, leftover))
            except OSError:
                pass  # a disk that is read-only by now
    journal.strict = True
    try:
        journal.end("broken" if problems else "put_back")
    except OSError:
        if not problems:
            journal.discard()
    return problems, held


def reload_or_start(unit):
    """A reload that killed the daemon (dockerd of old versions exits on some files) takes a start to undo."""
    return "reload" if active(unit) else "restart"


def leftovers(target):
    """Files that a killed transaction staged beside a target."""
    folder, name = os.path.split(target)
    try:
        names = os.listdir(folder)
    except OSError:
        return []
    pattern = re.compile(r"\." + re.escape(name) + r"\.[A-Za-z0-9_]+\.gpumend$")
    return [os.path.join(folder, entry) for entry in names if pattern.match(entry)]


def apply(wanted):
    return Transaction(wanted).apply()


def recover(wanted):
    """Interrupted runs are put back, newest first. A restart that this takes is made as `restarts` allows."""
    problems, waits, done = [], [], []
    for path in sorted(wanted["journals"], reverse=True):
        if not re.match(re.escape(ROOT) + r"/runs/[\w.-]+/[\w.-]+/journal\.json$", path):
            raise Refused("%s is no journal" % path)
        journal = Journal.load(path)
        if journal.record["state"] == "working":
            failed, held = undo(journal, wanted["restarts"])
            problems.extend(failed)
            waits.extend([held] if held else [])
            done.append(journal)
    return undone(problems, waits, done, "put back as before the interrupted run")


def undone(problems, waits, journals, detail):
    """The answer of a verb that puts back."""
    if problems:
        return {"status": "broken", "detail": "; ".join(problems)}
    paths = [entry["path"] for journal in journals for entry in journal.record["files"]]
    if waits:
        return {"status": "pending", "files": paths, "detail": "; ".join(waits)}
    return {"status": "changed" if journals else "unchanged", "files": paths, "detail": detail}


def rollback(wanted):
    """All transactions of one run (or of one component of it) are undone, newest first. Files that somebody changed
    since are left and named."""
    folder = os.path.join(ROOT, "runs", wanted["run"])
    if not re.match(r"[\w.-]+$", wanted["run"]) or not os.path.isdir(folder):
        raise Refused("there is no run %s on this host" % wanted["run"])
    journals = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name, "journal.json")
        if os.path.isfile(path) and wanted.get("component", "") in ("", name):
            journals.append(Journal.load(path))
    journals.sort(key=lambda journal: journal.record["started"], reverse=True)
    problems, waits, done = [], [], []
    for journal in journals:
        if journal.record["state"] == "put_back":
            continue
        failed, held = undo(journal, wanted["restarts"])
        problems.extend(failed)
        waits.extend([held] if held else [])
        done.append(journal)
    return undone(problems, waits, done, "put back as before run %s" % wanted["run"])


def containers(wanted):
    """A container on each engine path runs the proving command; where one fails, the whole run is undone."""
    failures = []
    docker = which("docker")
    if docker is None:
        failures.append("there is no docker client on this host to start a container with")
    for proof in wanted["containers"] if docker else ():
        found = run([docker] + proof["argv"], COMMAND_TIMEOUT)
        if found["status"] != "ok" or found["rc"] != 0:
            lines = (found.get("err", "") + found.get("out", "")).strip().splitlines() or [
                found.get("error", "")
            ]
            failures.append("%s: %s" % (proof["path"], " / ".join(lines[-3:])[:500]))
    if not failures:
        return {
            "status": "changed",
            "detail": "proven in a container: " + ", ".join(p["path"] for p in wanted["containers"]),
        }
    back = rollback(wanted)
    if back["status"] in ("broken", "pending"):
        failures.append("then: %s" % back["detail"])
    status = "broken" if back["status"] == "broken" else "put_back"
    return {"status": status, "detail": "; ".join(failures), "files": back.get("files", [])}


VERBS = {"apply": apply, "recover": recover, "rollback": rollback, "containers": containers}


def locked(wanted):
    """Run the verb alone on this host. The lock is the kernel's: it ends with the process, however that ends."""
    if os.geteuid() != 0:
        raise Refused("root is needed to change this host, this is uid %d" % os.geteuid())
    handle = os.open(LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        if not wait_for(lambda: try_lock(handle), wanted.get("lock_wait", LOCK_WAIT)):
            holder = os.read(handle, 200).decode("utf-8", "replace").strip()
            raise Refused("another run holds the lock: %s" % (holder or "it does not say who"))
        os.ftruncate(handle, 0)
        os.write(
            handle, ("%s, run %s, pid %d\n" % (wanted["who"], wanted["run"], os.getpid())).encode("utf-8")
        )
        return VERBS[wanted["verb"]](wanted)
    finally:
        os.close(handle)  # which unlocks it


def try_lock(handle):
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def transact(wanted):
    """The answer of one transaction, whatever happens."""
    try:
        return locked(wanted)
    except Refused as refused:
        return {"status": refused.status, "detail": str(refused)}
    except OSError as error:
        return {"status": "refused", "detail": reason_of(error)}
    except Exception as error:  # a journal of another version, say: the host is told by what is on its disk
        return {"status": "broken", "detail": reason_of(error)}


def main_transaction(wanted, probe_again):
    """Run it, look at the host again, and print both. Signals of a vanished connection do not end it."""
    for name in ("SIGHUP", "SIGPIPE"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    result = transact(wanted)
    text = json.dumps({"result": result, "snapshot": probe_again()}, ensure_ascii=True, separators=(",", ":"))
    try:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except OSError:
        pass  # nobody is there any more; the journal says how it ended
