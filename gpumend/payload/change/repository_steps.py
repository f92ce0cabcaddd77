"""The kinds of step on a host that add a repository: stdlib only, Python 3.6 or newer.

A repository is tried before the host trusts it: in a directory of its own, with its own key, its own lists and no other source.
"""

import base64
import glob
import os
import re
import shutil
import tempfile
from typing import Any, Dict, List

from gpumend.payload.change.apt import APT_ENV
from gpumend.payload.change.file_steps import StagedFile
from gpumend.payload.change.files import Failed, Refused, sha256_of
from gpumend.payload.change.journal import Entry, Journal
from gpumend.payload.change.managers import last_line
from gpumend.payload.change.package_locks import wait_and_note, wait_for_lock
from gpumend.payload.change.services import LOCK_WAIT
from gpumend.payload.change.step import Step, absolute, command
from gpumend.payload.change.zypper import keys_of_rpm, lone_root, zypper
from gpumend.payload.probe.execution import resolved
from gpumend.payload.probe.files import Json
from gpumend.payload.probe.running import run

UPDATE_TIMEOUT = 180  # seconds, for one repository's index
SILENCE = 20  # seconds for which a server may say nothing


def in_roots_hands(path: str) -> None:
    """Nobody but root decides what lies at a path. Raises Refused: root would install what somebody else put there."""
    others = resolved(path)[1]
    if others:
        raise Refused("packages of %s are not taken: %s" % (path, others))


def control_of(path: str) -> str:
    """A package's control fields, as an index has them. Raises Failed."""
    found = run(["dpkg-deb", "--field", path], 60)
    if found["status"] != "ok" or found["rc"] != 0:
        raise Failed("%s is no package: %s" % (path, last_line(found)))
    return str(found["out"]).strip()


def index_of(directory: str) -> bytes:
    """An index of a directory's packages, their paths from the root on (deb(5), `Packages`). Raises Failed or Refused."""
    stanzas = []
    for path in sorted(glob.glob(os.path.join(glob.escape(directory), "*.deb"))):
        in_roots_hands(path)
        fields = [control_of(path), "Filename: .%s" % path, "Size: %d" % os.path.getsize(path)]
        stanzas.append("\n".join(fields + ["SHA256: %s" % sha256_of(path)]) + "\n")
    return "\n".join(stanzas).encode("utf-8")


class IndexDirectory(StagedFile):
    """The file is an index of a directory's packages."""

    kind = "index"

    def check(self) -> None:
        StagedFile.check(self)
        in_roots_hands(absolute(self.wanted["directory"]))

    def new_bytes(self) -> bytes:
        return index_of(self.wanted["directory"])


def complaints(text: str) -> List[str]:
    """What of an update's output says that a repository was not taken: apt goes on after most of it, with exit status 0."""
    rows = [row.strip() for row in text.splitlines()]
    wrong = [row for row in rows if re.match(r"E: |W: (?:Failed to fetch|GPG error|An error occurred)", row)]
    # `Err:1 URL`, and below it why
    whys = [rows[at + 1] for at, row in enumerate(rows[:-1]) if row.startswith("Err:")]
    return whys + wrong if wrong else []  # what is optional, as translations, may be missing


class TryRepository(Step):
    """A repository answers with what its key has signed; then its lists are here."""

    kind = "repository"
    silent = True

    def __init__(self, wanted: Dict[str, Any]) -> None:
        Step.__init__(self, wanted)
        self.manager: str = wanted["manager"]
        self.wait = LOCK_WAIT

    def describe(self) -> str:
        return "lists of %s" % self.wanted["address"]

    def check(self) -> None:
        absolute(self.wanted["source_file"])
        if self.wanted["local"]:
            in_roots_hands(absolute(self.wanted["local"]))

    def foresee(self, wait: int, notes: List[str]) -> None:
        self.wait = wait
        wait_and_note(self.manager, wait, notes)

    def stage(self, journal: Journal) -> None:
        scratch = tempfile.mkdtemp(prefix="gpumend-", dir="/var/tmp")
        try:
            os.chmod(scratch, 0o755)  # apt fetches and verifies as a user of its own
            self.judge(self.tried(scratch))
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def tried(self, scratch: str) -> Json:
        """The update's answer, with nothing of the host's own configuration of repositories."""
        text = self.wanted["source"]
        if self.wanted["key"]:
            keyring = os.path.join(scratch, os.path.basename(self.wanted["keyring"]))
            put(keyring, base64.b64decode(self.wanted["key"]))
            text = text.replace(self.wanted["keyring"], keyring)
        if self.wanted["index"]:
            own = os.path.join(scratch, "index")
            os.mkdir(own, 0o755)
            put(os.path.join(own, "Packages"), index_of(self.wanted["index"]))
            text = re.sub("(?m)^Suites: .*$", "Suites: %s/" % own.lstrip("/"), text)
        source = os.path.join(scratch, os.path.basename(self.wanted["source_file"]))
        put(source, text.encode("utf-8"))
        if self.manager == "zypper":
            keys = (
                os.path.join(scratch, os.path.basename(self.wanted["keyring"])) if self.wanted["key"] else ""
            )
            return self.asked_of_zypper(["--root", lone_root(scratch, keys, text)])
        if self.manager == "dnf":
            return self.asked_of_dnf(["--setopt=reposdir=" + scratch, "--setopt=cachedir=%s/cache" % scratch])
        for name in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(scratch, name), 0o755)
        return self.updated(source, ["Dir::State::lists=%s/lists" % scratch, "Dir::Cache=%s/cache" % scratch])

    def updated(self, source: str, more: List[str]) -> Json:
        settings = ["Dir::Etc::sourcelist=" + source, "Dir::Etc::sourceparts=/dev/null"]
        settings += ["Acquire::Languages=none", "Acquire::Retries=0", "APT::Get::List-Cleanup=0"]
        settings += ["Dir::Cache::pkgcache=", "Dir::Cache::srcpkgcache="]
        settings += ["Acquire::%s::Timeout=%d" % (method, SILENCE) for method in ("http", "https")]
        options = [word for setting in settings + more for word in ("-o", setting)]
        return run(APT_ENV + ["apt-get", "-q"] + options + ["update"], UPDATE_TIMEOUT)

    def asked_of_dnf(self, more: List[str]) -> Json:
        """-y: dnf takes a repository's key by a question, which --assumeno answers with no; its file holds this key alone."""
        options = ["--disablerepo=*", "--enablerepo=gpumend-%s" % self.wanted["name"], "--setopt=retries=1"]
        options += ["--setopt=timeout=%d" % SILENCE, "--setopt=skip_if_unavailable=0"]
        return run(["dnf", "-y"] + options + more + ["makecache"], UPDATE_TIMEOUT)

    def asked_of_zypper(self, more: List[str]) -> Json:
        name = "gpumend-%s" % self.wanted["name"]
        return run(zypper(self.wait, "--xmlout", *(more + ["refresh", "--force", name])), UPDATE_TIMEOUT)

    def trust(self, journal: Journal) -> None:
        """rpm has the key: zypp asks it, whatever the repository's file says. The journal knows whether it had it before."""
        if not self.wanted["key"] or keys_of_rpm(self.wanted["fingerprint"]):
            return
        journal.begin_step(self.kind, {"fingerprint": self.wanted["fingerprint"], "made": []})
        command(["rpm", "--import", self.wanted["keyring"]])

    @staticmethod
    def undo(journal: Journal, entry: Entry) -> List[str]:
        for name in keys_of_rpm(entry["fingerprint"]):
            command(["rpm", "-e", name])
        return []

    def judge(self, found: Json) -> None:
        """Raises Failed with the repository's address and what its manager said."""
        wrong = (
            complaints(found.get("out", "") + "\n" + found.get("err", "")) if self.manager == "apt" else []
        )
        if found["status"] == "ok" and found["rc"] == 0 and not wrong:
            return
        said = "; ".join(dict.fromkeys(wrong[:3])) or last_line(found)
        raise Failed("%s does not answer as it has to: %s" % (self.wanted["address"], said[:600]))

    def do(self, journal: Journal, notes: List[str]) -> None:
        journal.log(self.describe())
        wait_for_lock(self.manager, self.wait)
        if self.manager == "zypper":
            self.trust(journal)
            self.judge(self.asked_of_zypper([]))
        elif self.manager == "dnf":
            self.judge(self.asked_of_dnf([]))
        else:
            self.judge(self.updated(self.wanted["source_file"], []))
        how = "answered, signed as wanted" if self.wanted["key"] else "is read"
        notes.append("%s %s" % (self.wanted["address"], how))


def put(path: str, data: bytes, mode: int = 0o644) -> None:
    """A new file in a directory that was made a moment ago."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
        os.fchmod(out.fileno(), mode)
