"""The part of the program on the host that installs and removes packages, and asks CUDA whether it works.

Stdlib only, Python 3.6 or newer: its text goes to the host between the probe's and the transaction's. What a package
manager would do is asked first, in its own simulation, and held against one rule: the named package and nothing that
belongs to the driver, nothing removed, nothing else upgraded.
"""

import base64
import fcntl
import glob
import json
import os
import re
import struct
import sys
import time

from facts.probe import elf_section, run, which

PACKAGE_TIMEOUT = (
    900  # seconds; a download and dpkg: killed in between it would leave a half-installed package
)
SIMULATE_TIMEOUT = 120
CUDA_TIMEOUT = (
    120  # the first cuInit after boot initialises the GPU: tens of seconds on machines with eight of them
)
APT_LOCKS = ("/var/lib/dpkg/lock-frontend", "/var/lib/dpkg/lock", "/var/cache/apt/archives/lock")
# No questions, no service restarted behind our back (needrestart's apt hook), no removal whatever apt comes to think.
APT_ENV = ["env", "DEBIAN_FRONTEND=noninteractive", "NEEDRESTART_SUSPEND=1", "APT_LISTCHANGES_FRONTEND=none"]
DRIVER = re.compile(
    r"nvidia-|libnvidia|cuda-drivers|libcuda1|libnvcuvid1|linux-(?:image|modules|objects|signatures|headers)|kernel"
    r"|kmod-nvidia|akmod-nvidia|dkms|xserver-xorg-video-nvidia|xorg-x11-drv-nvidia|firmware-nvidia"
)

CU_INIT = """
import ctypes
try:
    cuda = ctypes.CDLL("libcuda.so.1")
    version = ctypes.c_int(0)
    print(cuda.cuInit(0), cuda.cuDriverGetVersion(ctypes.byref(version)), version.value)
except (OSError, AttributeError) as error:
    print(-1, -1, error)
"""


class Unfit(Exception):
    """It cannot be done here, or did not come out right; the text is for the report."""


def last_line(found):
    """The line of a command's output that says why it failed."""
    lines = (
        found.get("err", "").strip() or found.get("error", "") or found.get("out", "").strip()
    ).splitlines()
    errors = [line for line in lines if line.startswith(("E:", "Error:"))]
    return (errors or lines or [found["status"]])[-1][:400]


def apt_changes(text):
    """What `apt-get -s` would do, in its order: (`install` | `upgrade` | `remove`, name, version or None)."""
    changes = []
    for line in text.splitlines():
        match = re.match(r"(Inst|Remv|Purg) (\S+)(?: \[([^\]]*)\])?(?: \((\S+))?", line)
        if match:
            word, name, old, new = match.groups()
            what = "remove" if word != "Inst" else "upgrade" if old else "install"
            changes.append((what, name.partition(":")[0], new))
    return changes


DNF_SECTIONS = (
    (r"Installing(?: dependencies| weak dependencies| group/module packages)?:", "install"),
    (r"(?:Upgrading|Downgrading|Reinstalling|Replacing|Obsoleting)(?: dependencies)?:", "upgrade"),
    (r"Removing(?: dependent packages| unused dependencies)?:|Removing [\w ]+:", "remove"),
    (r"Enabling module streams:|Switching module streams:|Disabling modules?:|Resetting modules?:", "module"),
)


def dnf_changes(text):
    """What `dnf --assumeno` would do: its table's sections, a package a row (measured with dnf 4.14).

    Raises Unfit where the rows that were understood are not as many as dnf's own summary says.
    """
    changes, section, name, expected = [], None, "", 0
    for line in text.splitlines():
        count = re.match(
            r"\s*(?:Install|Upgrade|Remove|Downgrade|Reinstall|Replac)\w*:?\s+(\d+) [Pp]ackages?$", line
        )
        expected += int(count.group(1)) if count else 0
        if count or (line and not line[0].isspace()):
            section = next((word for pattern, word in DNF_SECTIONS if re.match(pattern, line)), None)
            continue
        fields = line.split()
        if section is None or not fields:
            continue
        if section == "module":
            changes.append(("module", fields[0], None))
        elif fields[0] == "replacing":
            changes.append(("remove", fields[1].rpartition(".")[0] or fields[1], None))
        elif len(fields) == 1:
            name = fields[0]  # too long for its column: the rest is on the next row
        else:
            full = [name] + fields if name else fields
            name = ""
            changes.append((section, full[0], full[2] if len(full) > 2 else ""))
    if len([change for change in changes if change[2] is not None]) != expected:
        raise Unfit("what dnf would do could not be read: %d packages, not %d" % (len(changes), expected))
    return changes


def objection(changes, action, name):
    """Why these changes are not made, where one package is to be installed or removed; an empty text where they may be."""
    for what, other, _ in changes:
        if other != name and DRIVER.match(other):
            return "it would %s the driver's %s" % (what, other)
        if what == "module":
            return "it would change the module stream %s" % other
        if what == "remove" and (action != "remove" or other != name):
            return "it would remove %s" % other
        if what == "upgrade" and other != name:
            return "it would upgrade %s" % other
        if action == "remove" and what != "remove":
            return "it would %s %s" % (what, other)
    return ""


def lock_holder(paths=APT_LOCKS):
    """Who holds apt's or dpkg's lock (`process 123 (apt-get)`), or an empty text. Asks the kernel and takes no lock."""
    for path in paths:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            question = struct.pack("hhqqi", fcntl.F_WRLCK, 0, 0, 0, 0)
            kind, _, _, _, pid = struct.unpack("hhqqi", fcntl.fcntl(handle, fcntl.F_GETLK, question))
        except (OSError, struct.error):
            continue
        finally:
            os.close(handle)
        if kind != fcntl.F_UNLCK:
            try:
                with open("/proc/%d/comm" % pid) as comm:
                    return "process %d (%s)" % (pid, comm.read().strip())
            except OSError:
                return "process %d" % pid
    return ""


def wait_for_lock(manager, seconds):
    """The package manager is free. Returns what to tell where it was waited for; raises Unfit where that took too long.
    dnf waits by itself."""
    holder = lock_holder() if manager == "apt" else ""
    if not holder:
        return ""
    first, began = holder, time.monotonic()
    while holder:
        if time.monotonic() - began > seconds:
            raise Unfit("apt's lock is held by %s; waited %d s for it" % (holder, seconds))
        time.sleep(0.2)
        holder = lock_holder()
    return "waited %d s for apt's lock, which %s held" % (round(time.monotonic() - began), first)


def apt(wait, *words):
    """apt-get's argv. It waits for its lock by itself, too: somebody may have been faster."""
    options = ["-o", "DPkg::Lock::Timeout=%d" % max(wait, 1), "-o", "Dpkg::Options::=--force-confold"]
    return APT_ENV + ["apt-get", "-q", "-y", "--no-install-recommends"] + options + list(words)


def simulate(manager, action, name, wait):
    """What the manager would do. Raises Unfit where it would not do it, or more than it may."""
    if manager == "apt":
        argv = apt(wait, "-s", action, name)
        found = run(argv, SIMULATE_TIMEOUT)
        if (
            action == "install"
            and found.get("rc") == 100
            and re.search(r"Unable to locate|no installation candidate", found["err"])
        ):
            run(apt(wait, "update"), PACKAGE_TIMEOUT)  # lists that were never fetched, or are old
            found = run(argv, SIMULATE_TIMEOUT)
        changes = apt_changes(found.get("out", ""))
        good = found["status"] == "ok" and found["rc"] == 0
    else:
        found = run(["dnf", "--assumeno", "--setopt=install_weak_deps=False", action, name], PACKAGE_TIMEOUT)
        changes = dnf_changes(found.get("out", ""))
        # --assumeno ends with status 1 by design; then its table is there
        good = found["status"] == "ok" and (found["rc"] == 0 or bool(changes))
    if not good:
        raise Unfit("%s cannot %s %s: %s" % (manager, action, name, last_line(found)))
    against = objection(changes, action, name)
    if against:
        raise Unfit("%s %s is refused: %s" % (action, name, against))
    return changes


def installed(manager, name):
    """A package's installed version, or None."""
    if manager == "apt":
        found = run(["dpkg-query", "-W", "-f=${db:Status-Abbrev}\\t${Version}\\n", name], 20)
        rows = [line.split("\t") for line in found.get("out", "").splitlines()]
        return next((row[1] for row in rows if len(row) == 2 and row[0][1:2] == "i"), None)
    found = run(["rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}\\n", name], 20)
    return found["out"].splitlines()[0] if found.get("rc") == 0 and found.get("out") else None


def perform(manager, action, name, version, wait):
    """Do it. Raises Unfit with the manager's own words where it fails."""
    if manager == "apt":
        target = "%s=%s" % (name, version) if action == "install" and version else name
        flags = ["--no-remove"] if action == "install" else []
        found = run(apt(wait, *(flags + [action, target])), PACKAGE_TIMEOUT)
    else:
        found = run(["dnf", "-y", "--setopt=install_weak_deps=False", action, name], PACKAGE_TIMEOUT)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Unfit("%s %s %s: %s" % (manager, action, name, last_line(found)))


def take_back(entry, wait):
    """A package that a transaction installed is gone again, one that it removed is back. Raises Unfit where not."""
    manager, name = entry["manager"], entry["name"]
    have = installed(manager, name)
    if entry["before"] is None and have is not None:
        wait_for_lock(manager, wait)
        simulate(manager, "remove", name, wait)
        perform(manager, "remove", name, None, wait)
    elif entry["before"] is not None and have is None:
        wait_for_lock(manager, wait)
        simulate(manager, "install", name, wait)
        perform(manager, "install", name, entry["before"], wait)


def numbers(text):
    return tuple(int(part) for part in re.findall(r"\d+", text))


def check_note(folder, section, driver):
    """The compat library in a folder says itself that it is for the loaded driver (its ELF note), and is newer.

    Raises Unfit. The rule is nvidia-container-toolkit's: branch in the list, and compat newer than the host's driver.
    """
    libraries = [
        path for path in glob.glob(os.path.join(folder, "libcuda.so.*.*")) if not os.path.islink(path)
    ]
    if not libraries:
        raise Unfit("there is no libcuda in %s" % folder)
    path = max(libraries, key=lambda name: numbers(name.rpartition(".so.")[2]))
    version = path.rpartition(".so.")[2]
    found = elf_section(path, section)
    if found["status"] != "ok":
        raise Unfit("%s has no note that says which drivers it is for (%s)" % (path, found.get("error")))
    data = base64.b64decode(found["data"])
    match = re.search(rb"\{.*\}", data, re.DOTALL)
    try:
        branches = json.loads(match.group().decode("utf-8"))["driver"] if match else None
    except (ValueError, KeyError, UnicodeDecodeError):
        branches = None
    if not isinstance(branches, list):
        raise Unfit("%s has a note that cannot be read" % path)
    with_loaded = loaded_driver() or driver
    if numbers(with_loaded)[0] not in branches:
        listed = ", ".join(map(str, branches))
        raise Unfit("%s is not for driver %s: its note lists the branches %s" % (path, with_loaded, listed))
    if numbers(version) <= numbers(with_loaded):
        raise Unfit("%s is not newer than the loaded driver %s" % (path, with_loaded))


def loaded_driver():
    """The loaded module's version, now; or None."""
    try:
        with open("/proc/driver/nvidia/version") as handle:
            match = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", handle.read())
    except OSError:
        return None
    return match.group(1) if match else None


def cu_init(folder=""):
    """(cuInit's answer, CUDA version served as cuDriverGetVersion gives it) in a process of its own, with a folder
    first on its library path or with none. -1 where there is no libcuda. Raises Unfit where it does not answer."""
    python = sys.executable or which("python3")
    path = ["env", "LD_LIBRARY_PATH=" + folder] if folder else ["env", "-u", "LD_LIBRARY_PATH"]
    found = run(path + [python, "-I", "-S", "-B", "-c", CU_INIT], CUDA_TIMEOUT)
    match = re.match(r"(-?\d+) (-?\d+) (.*)", found.get("out", ""))
    if found["status"] != "ok" or match is None:
        raise Unfit("cuInit gave no answer: %s" % last_line(found))
    return int(match.group(1)), int(match.group(3)) if match.group(2) == "0" else 0


def shown(answer):
    """(0, 13000) -> `cuInit 0, CUDA 13.0`."""
    rc, version = answer
    return "no libcuda" if rc == -1 else "cuInit %d, CUDA %d.%d" % (rc, version // 1000, version % 1000 // 10)


def prove_cuda(kind, folder, version, before):
    """CUDA works as it should now: `with` the folder on the path, or as the whole `host` has it, cuInit is 0 and at
    least `version` is served; `plain`: cuInit is 0 without it. Returns what was seen; raises Unfit otherwise."""
    plain = cu_init()
    if kind == "plain":
        seen, least = plain, 0
    else:
        seen, least = (plain if kind == "host" else cu_init(folder)), int(version)
    told = "without: %s; with %s: %s" % (shown(before if kind == "host" else plain), folder, shown(seen))
    if kind == "plain":
        told = "before: %s; now: %s" % (shown(before), shown(plain))
    if seen[0] != 0 or seen[1] < least:
        raise Unfit("CUDA does not work with it (%s)" % told)
    return told
