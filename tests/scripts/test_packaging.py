"""The rule that package managers' simulations are held against, on what they really print."""

from __future__ import annotations

import fcntl
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gpumend.payload.change import dnf, package_locks, packaging, unfinished
from gpumend.payload.change.apt import apt_changes
from gpumend.payload.change.dnf import dnf_changes
from gpumend.payload.change.journal import Journal
from gpumend.payload.change.managers import Unfit
from gpumend.payload.change.package_locks import lock_holder
from gpumend.payload.change.packaging import arguments, objection
from gpumend.payload.change.toolkit_version import TOOLKIT, one_version, upstream
from gpumend.payload.probe import execution

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cuda"
CAPTURES = FIXTURES.parent / "toolkit"
INST = "Inst cuda-compat-13-0 (580.95.05-0ubuntu1 NVIDIA CUDA [amd64])\n"
NOT_MORE = "--setopt=clean_requirements_on_remove=False"  # dnf.conf(5)
CONF = "Conf cuda-compat-13-0 (580.95.05-0ubuntu1 NVIDIA CUDA [amd64])\n"


@pytest.mark.parametrize(
    ("text", "action", "words"),
    [
        pytest.param(INST + CONF, "install", "", id="alone"),
        pytest.param("", "install", "", id="nothing-to-do"),
        pytest.param(INST + "Inst libfoo1 (1.0 x [amd64])\n", "install", "", id="a-dependency"),
        pytest.param(
            INST + "Inst nvidia-driver-580 (580.95.05 x [amd64])\n",
            "install",
            "driver's nvidia-driver-580",
            id="driver",
        ),
        pytest.param(
            INST + "Inst libnvidia-compute-580 (580 x [amd64])\n",
            "install",
            "libnvidia-compute-580",
            id="library",
        ),
        pytest.param(
            INST + "Inst cuda-drivers-580 (580 x [amd64])\n", "install", "cuda-drivers-580", id="cuda-drivers"
        ),
        pytest.param(
            "Inst libcuda1:i386 (550 x [i386])\n" + INST, "install", "libcuda1", id="foreign-architecture"
        ),
        pytest.param("Remv oldthing [1.0]\n" + INST, "install", "remove oldthing", id="removal"),
        pytest.param(
            "Remv nvidia-driver-550 [550.1]\n" + INST,
            "install",
            "driver's nvidia-driver-550",
            id="driver-removed",
        ),
        pytest.param(
            "Inst libc6 [2.39-1] (2.39-2 x [amd64])\n" + INST,
            "install",
            "upgrade libc6",
            id="upgrade-of-another",
        ),
        pytest.param("Remv cuda-compat-13-0 [580.95.05-0ubuntu1]\n", "remove", "", id="remove"),
        pytest.param("Purg cuda-compat-13-0 [580.95.05-0ubuntu1]\n", "remove", "", id="purge"),
        pytest.param(
            "Remv jobs [1.0]\nRemv cuda-compat-13-0 [580.95.05-0ubuntu1]\n",
            "remove",
            "remove jobs",
            id="somebody-depends",
        ),
        pytest.param(
            "Remv cuda-compat-13-0 [1]\nInst x (1 y [amd64])\n", "remove", "install x", id="remove-installs"
        ),
    ],
)
def test_apt(text: str, action: str, words: str) -> None:
    found = objection(apt_changes(f"NOTE: This is only a simulation!\n{text}"), action, ["cuda-compat-13-0"])
    assert (found == "") is (words == "") and words in found


def test_apt_versions() -> None:
    assert apt_changes(INST + CONF) == [("install", "cuda-compat-13-0", "580.95.05-0ubuntu1")]
    assert apt_changes("Inst a [1.0] (1.1 x [amd64])\n") == [("upgrade", "a", "1.1")]


COMPAT = "cuda-compat-13-0"


@pytest.mark.parametrize(
    ("name", "action", "package", "changes", "words"),
    [
        ("install", "install", COMPAT, [("install", COMPAT, "580.95.05-1.el9")], ""),
        ("remove", "remove", COMPAT, [("remove", COMPAT, "580.95.05-1.el9")], ""),
        ("already", "install", COMPAT, [], ""),
        ("driver", "install", "cuda-compat-13-1", None, "driver's nvidia-driver-cuda-libs"),
        (
            "long",
            "install",
            "cuda-compat-13-2",
            None,
            "driver's xorg-x11-drv-nvidia-power-and-other-very-long-names",
        ),
        ("obsoletes", "install", "cuda-compat-12-9", None, "remove oldthing"),
        ("upgrade", "install", "cuda-compat-12-8", None, "upgrade base"),
        ("remove_dep", "remove", COMPAT, None, "remove jobs"),
    ],
)
def test_dnf(
    name: str, action: str, package: str, changes: list[tuple[str, str, str]] | None, words: str
) -> None:
    """Printed by dnf 4.14 over packages of rpmbuild that only have these names and relations."""
    found = dnf_changes((FIXTURES / "dnf" / f"{name}.txt").read_text())
    assert changes is None or found == changes
    against = objection(found, action, [package])
    assert (against == "") is (words == "") and words in against


def test_a_row_that_dnf_wrapped_is_read_whole() -> None:
    text = "Installing:\n a-very-long-name\n          x86_64 1.0-1 repo 5 k\n\nTransaction Summary\nInstall  1 Package\n"
    assert dnf_changes(text) == [("install", "a-very-long-name", "1.0-1")]


@pytest.mark.parametrize("text", ["Installing:\n a x86_64 1.0-1 repo 5 k\n", "Install  2 Packages\n"])
def test_what_dnf_says_and_what_was_read_must_agree(text: str) -> None:
    with pytest.raises(Unfit, match="could not be read"):
        dnf_changes(text)


# --- the toolkit's packages: apt 3.0, dnf 4.14 and dnf5 5.4.6 over packages of NVIDIA's names and relations


def captured(manager: str, name: str) -> list[tuple[str, str, str | None]]:
    text = (CAPTURES / manager / f"{name}.txt").read_text()
    found: list[tuple[str, str, str | None]] = (apt_changes if manager == "apt" else dnf_changes)(text)
    return found


@pytest.mark.parametrize(
    ("manager", "name", "action", "kind", "count", "words"),
    [
        ("apt", "install", "install", "install", 4, ""),
        ("apt", "alone", "install", "", 0, ""),  # apt itself finds no way: its exit status tells
        ("apt", "upgrade", "install", "upgrade", 4, ""),
        ("apt", "downgrade", "install", "", 0, ""),  # refused by apt, which was not allowed to
        ("apt", "downgrade_allowed", "downgrade", "upgrade", 4, ""),  # apt has one word for both
        ("apt", "held", "install", "", 0, ""),
        ("apt", "mixed", "install", "upgrade", 3, ""),
        ("apt", "restore", "install", "remove", 1, "remove nvidia-container-toolkit"),
        ("apt", "restore", "restore", "remove", 1, ""),
        ("dnf", "install", "install", "install", 4, ""),
        ("dnf", "newest", "install", "install", 4, ""),
        ("dnf", "upgrade", "install", "upgrade", 4, ""),
        ("dnf", "mixed", "install", "upgrade", 3, ""),
        ("dnf", "downgrade", "install", "downgrade", 4, "downgrade libnvidia-container-tools"),
        ("dnf", "downgrade", "downgrade", "downgrade", 4, ""),
        ("dnf", "downgrade", "restore", "downgrade", 4, ""),
        ("dnf", "remove", "install", "remove", 4, "remove"),
        ("dnf", "remove", "remove", "remove", 4, ""),
        ("dnf5", "install", "install", "install", 4, ""),
        ("dnf5", "already", "install", "", 0, ""),
        ("dnf5", "upgrade", "install", "upgrade", 4, ""),
        ("dnf5", "downgrade", "install", "downgrade", 4, "downgrade libnvidia-container-tools"),
        ("dnf5", "downgrade", "restore", "downgrade", 4, ""),
        ("dnf5", "remove", "remove", "remove", 4, ""),
        ("dnf5", "remove_one", "remove", "remove", 3, ""),
        ("dnf5", "obsoletes", "install", "remove", 1, "remove oldthing"),
    ],
)
def test_toolkit(manager: str, name: str, action: str, kind: str, count: int, words: str) -> None:
    found = captured(manager, name)
    assert all(version is None or version.startswith("1") for _, _, version in found), (
        "dnf5 writes 0: before it"
    )
    assert len([what for what, _, _ in found if what == kind]) == count
    against = objection(found, action, TOOLKIT)
    assert (against == "") is (words == "") and words in against


@pytest.mark.parametrize(
    ("changes", "names", "words"),
    [
        pytest.param([("install", name, "1.17.8-1") for name in TOOLKIT], TOOLKIT, "", id="all-four"),
        pytest.param(
            [("install", name, "1") for name in TOOLKIT],
            TOOLKIT[:1],
            "driver's nvidia-container-toolkit-base",
            id="not-asked-for",
        ),
        pytest.param(
            [("install", "nvidia-container-toolkit-operator-extensions", "1")],
            TOOLKIT,
            "driver's nvidia-container-toolkit-op",
            id="a-fifth",
        ),
        pytest.param(
            [("install", "libnvidia-container2", "1")], TOOLKIT, "driver's libnvidia-container2", id="alike"
        ),
        pytest.param(
            [("install", "nvidia-driver-580", "1")],
            ("nvidia-driver-580",),
            "driver's nvidia-driver-580",
            id="named-driver",
        ),
        pytest.param(
            [("upgrade", "libnvidia-compute-580", "1")],
            TOOLKIT,
            "driver's libnvidia-compute-580",
            id="driver",
        ),
        pytest.param([("install", "libc-new", "1")], TOOLKIT, "", id="a-new-dependency"),
        pytest.param([("upgrade", "docker.io", "1")], TOOLKIT, "upgrade docker.io", id="upgrade-of-another"),
        pytest.param(
            [("remove", "nvidia-container-runtime", None)],
            TOOLKIT,
            "driver's nvidia-container-runtime",
            id="removal",
        ),
    ],
)
def test_only_these_four_and_only_when_named(
    changes: list[tuple[str, str, str | None]], names: tuple[str, ...], words: str
) -> None:
    against = objection(changes, "install", names)
    assert (against == "") is (words == "") and words in against


@pytest.mark.parametrize(
    ("manager", "action", "targets", "words"),
    [
        ("apt", "install", ["a"], ["install", "a"]),
        ("apt", "install", ["a=1.17.8"], ["install", "a=1.17.8-*"]),
        ("apt", "install", ["a=1.17.8-1"], ["install", "a=1.17.8-1"]),
        ("apt", "downgrade", ["a=1"], ["install", "--allow-downgrades", "a=1-*"]),
        ("apt", "restore", ["a=1-1", "b-"], ["install", "--allow-downgrades", "a=1-1", "b-"]),
        ("apt", "purge", ["a"], ["purge", "a"]),
        ("dnf", "install", ["a=1.17.8"], ["install", "a-1.17.8"]),
        ("dnf", "restore", ["a=1.17.8-1"], ["install", "a-1.17.8-1"]),
        ("dnf", "purge", ["a"], ["remove", NOT_MORE, "a"]),
    ],
)
def test_arguments(manager: str, action: str, targets: list[str], words: list[str]) -> None:
    assert arguments(manager, action, targets) == words


@pytest.mark.parametrize(
    ("versions", "found"),
    [
        ({"a": "1.17.8-1", "b": "1.17.8-1"}, "1.17.8"),
        ({"a": "1.17.8-1", "b": None}, "1.17.8"),
        ({"a": "1:1.17.8-1", "b": "1.17.8-0ubuntu2"}, "1.17.8"),
        ({"a": "1.17.8-1", "b": "1.17.7-1"}, "not be of one version: a 1.17.8-1, b 1.17.7-1"),
        ({"a": "1.17.8-1", "b": "1.17.8~rc.1-1"}, "not be of one version"),
        ({"a": "1.18.0-1", "b": "1.18.0-1"}, "never right"),
        ({"a": None}, "none is there"),
    ],
)
def test_one_version(versions: dict[str, str | None], found: str) -> None:
    if found[0].isdigit():
        assert one_version(versions) == found == upstream(f"1:{found}-7")
    else:
        with pytest.raises(Unfit, match=found):
            one_version(versions)


STANDIN = """#!/bin/bash
# STAND-IN for tests, not {name}: it prints what the real one printed (tests/fixtures/toolkit/dnf).
echo "{name} $*" >>{directory}/log
case "{name} $*" in
{cases}
esac
exit 1
"""


@pytest.fixture
def answers(programs: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, tuple[int, str]]], Path]:
    """answers({words of a command line: (exit status, output)}): stand-ins of dnf and rpm come first in root's PATH. Returns
    the file with what they were called with, a line each."""

    def say(said: dict[str, tuple[int, str]], changed: dict[str, tuple[int, str]] | None = None) -> Path:
        """changed: what is said instead once dnf has changed something."""
        cases, changed = [], changed or {}
        for number, (words, (rc, out)) in enumerate((*changed.items(), *said.items())):
            (programs / str(number)).write_text(out)
            there = f"grep -q '^dnf -y' {programs}/log && " if number < len(changed) else ""
            cases.append(f'*"{words}"*) {there}{{ cat {programs}/{number}; exit {rc}; }};;&')
        for name in ("dnf", "rpm"):
            program = programs / name
            program.write_text(STANDIN.format(name=name, directory=programs, cases="\n".join(cases)))
            program.chmod(0o755)
        monkeypatch.setattr(execution, "PATH", f"{programs}:{execution.PATH}")
        return programs / "log"

    return say


def test_dnf_puts_back_what_it_installed_and_what_it_upgraded(
    answers: Callable[[dict[str, tuple[int, str]]], Path],
) -> None:
    """The host had the libraries in 1.17.6 and no toolkit: those go first, then the libraries go down."""
    four = (CAPTURES / "dnf" / "downgrade.txt").read_text()
    libraries = "\n".join(row for row in four.splitlines() if not row.startswith(" nvidia-")).replace(
        "4 Packages", "2 Packages"
    )
    removal = (CAPTURES / "dnf" / "remove.txt").read_text()
    away = "\n".join(row for row in removal.splitlines() if not row.startswith(" libnvidia-")).replace(
        "4 Packages", "2 Packages"
    )
    log = answers(
        {
            "rpm -q": (0, "1.17.7-1\n"),
            "--assumeno --setopt=install_weak_deps=False remove": (1, away),
            "--assumeno --setopt=install_weak_deps=False install": (1, libraries),
            "-y": (0, ""),
        },
        {
            f"rpm -q --qf %{{VERSION}}-%{{RELEASE}}\\n {name}": (1, f"package {name} is not installed\n")
            if name.startswith("nvidia")
            else (0, "1.17.6-1\n")
            for name in TOOLKIT
        },
    )
    packaging.take_back(
        [
            {
                "manager": "dnf",
                "name": name,
                "before": None if name.startswith("nvidia") else "1.17.6-1",
                "after": "1.17.7-1",
            }
            for name in TOOLKIT
        ],
        1,
    )
    done = [row.split()[4:] for row in log.read_text().splitlines() if row.startswith("dnf -y")]
    assert done == [
        ["remove", NOT_MORE, "nvidia-container-toolkit", "nvidia-container-toolkit-base"],
        ["install", "libnvidia-container-tools-1.17.6-1", "libnvidia-container1-1.17.6-1"],
    ]


@pytest.mark.parametrize("there", [True, False])
def test_dnf_changes_nothing_that_it_could_not_take_back(
    answers: Callable[[dict[str, tuple[int, str]]], Path], there: bool
) -> None:
    log = answers(
        {
            "rpm -q": (0, "1.17.7-1\n"),
            "repoquery": (0, "nvidia-container-toolkit-0:1.17.7-1.noarch\n" if there else ""),
            "--assumeno": (1, (CAPTURES / "dnf" / "upgrade.txt").read_text()),
        }
    )
    targets = [f"{name}=1.17.8" for name in TOOLKIT]
    if there:
        assert len(packaging.simulate("dnf", "install", targets, 1)) == 4
    else:
        with pytest.raises(
            Unfit, match=r"no way back: dnf no longer has libnvidia-container-tools 1\.17\.7-1"
        ):
            packaging.simulate("dnf", "install", targets, 1)
    assert "dnf -y" not in log.read_text()


def test_an_rpm_that_fails_is_not_taken_for_a_package_that_is_not_there(
    answers: Callable[[dict[str, tuple[int, str]]], Path],
) -> None:
    """A rollback takes away what was not there before."""
    answers(
        {
            "%{VERSION}-%{RELEASE}\\n here": (0, "1.17.7-1\n"),
            "%{VERSION}-%{RELEASE}\\n none": (1, "package none is not installed\n"),
            "%{VERSION}-%{RELEASE}\\n broken": (1, "error: cannot open Packages database in /var/lib/rpm\n"),
        }
    )
    assert packaging.status_of("dnf", "here") == ("i", "1.17.7-1")
    assert packaging.status_of("dnf", "none") == ("n", None)
    with pytest.raises(Unfit, match="cannot open Packages database"):
        packaging.package_entries("dnf", [("install", "broken", "1.17.8-1")])


def test_a_library_of_two_architectures_is_there_once(
    answers: Callable[[dict[str, tuple[int, str]]], Path],
) -> None:
    """nvidia-driver-cuda-libs.i686 beside .x86_64, as Steam wants it; an upgrade that broke off leaves two versions."""
    answers(
        {
            "%{VERSION}-%{RELEASE}\\n both": (0, "580.95.05-1.fc42\n580.95.05-1.fc42\n"),
            "%{VERSION}-%{RELEASE}\\n half": (0, "580.95.05-1.fc42\n580.105.08-1.fc42\n"),
        }
    )
    assert packaging.status_of("dnf", "both") == ("i", "580.95.05-1.fc42")
    with pytest.raises(Unfit, match=r"half is there as 580\.95\.05-1\.fc42 and 580\.105\.08-1\.fc42"):
        packaging.status_of("dnf", "half")


def test_a_dpkg_that_fails_is_not_taken_for_a_package_that_is_not_there(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, with a database that cannot be read."""
    if shutil.which("dpkg-query") is None:
        pytest.skip("no dpkg here")
    assert packaging.status_of("apt", "dpkg")[0] == "i"
    assert packaging.status_of("apt", "no-such-package") == ("n", None)
    (programs / "status").mkdir()
    (programs / "dpkg-query").write_text(f'#!/bin/sh\nexec /usr/bin/dpkg-query --admindir={programs} "$@"\n')
    (programs / "dpkg-query").chmod(0o755)
    monkeypatch.setattr(execution, "PATH", f"{programs}:{execution.PATH}")
    with pytest.raises(Unfit, match=r"dpkg-query dpkg: .*status"):
        packaging.status_of("apt", "dpkg")


HOLD = """
import fcntl, sys
handle = open(sys.argv[1], "w")
fcntl.lockf(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_the_holder_of_a_lock_is_named_and_the_lock_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "lock-frontend"
    path.touch()
    assert lock_holder([str(path)]) == "" and lock_holder([str(tmp_path / "none")]) == ""
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    assert lock_holder([str(path)]).startswith(f"process {child.pid} (python")
    child.communicate()
    assert lock_holder([str(path)]) == ""
    assert struct.calcsize("hhqqi") == 28 and fcntl.F_GETLK  # struct flock of 64-bit Linux, fcntl(2)


PART = HOLD.replace('"w"', '"r"').replace("LOCK_EX", "LOCK_SH")


def test_who_installs_by_rpm_holds_its_lock_and_who_asks_does_not(tmp_path: Path) -> None:
    path = tmp_path / ".rpm.lock"
    path.touch()
    for program, held in ((PART, False), (HOLD, True)):
        with child(program, path) as pid:
            assert package_locks.rpm_holder([str(path)]).startswith(f"process {pid} (python") == held
    assert package_locks.rpm_holder([str(path)]) == ""


ZYPP = """
import mmap, sys
with open(sys.argv[1], "rb") as library:
    loaded = mmap.mmap(library.fileno(), 0, prot=mmap.PROT_READ)
print("loaded", flush=True)
sys.stdin.read()
"""


@contextmanager
def child(program: str, argument: Path) -> Iterator[int]:
    argv = [sys.executable, "-c", program, str(argument)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline()
    yield process.pid
    process.communicate()


def test_who_has_zypps_lock_has_its_library(tmp_path: Path) -> None:
    """The file stays behind where zypper was killed, and its number becomes another's."""
    library, pid_file = tmp_path / "libzypp.so.1735", tmp_path / "zypp.pid"
    library.write_bytes(b"stand-in")
    assert package_locks.zypper_holder(str(pid_file)) == "", "there is none"
    with child(ZYPP, library) as pid:
        pid_file.write_text(f"{pid}\n")
        assert package_locks.zypper_holder(str(pid_file)).startswith(f"process {pid} (python")
        assert package_locks.free_of_dead_zypper(str(pid_file)) == "", "it is at work"
    assert package_locks.zypper_holder(str(pid_file)) == "", "it has ended"
    assert package_locks.free_of_dead_zypper(str(pid_file)) == "" and pid_file.read_text(), (
        "zypp sees that itself"
    )
    with child(HOLD, tmp_path / "other") as pid:
        pid_file.write_text(str(pid))
        assert package_locks.zypper_holder(str(pid_file)) == ""
        told = package_locks.free_of_dead_zypper(str(pid_file))
        assert f"process {pid} (python" in told and pid_file.read_text() == ""


# --- dnf's own record of what it did: broken off where dnf was killed (4.14 and dnf5 5.4.6)

OURS = "gpumend R2 packages.toolkit_installed"
OTHER = "history_other"


@pytest.mark.parametrize(
    ("manager", "listed", "mark", "found"),
    [
        ("dnf", {"last": OTHER, "1": "history_broken_off"}, OURS, "1"),
        ("dnf5", {"last": "history_broken_off"}, OURS, "3"),
        ("dnf", {"last": OTHER, "1": "history_broken_off"}, "gpumend another packages.toolkit_installed", ""),
        ("dnf", {"last": OTHER}, "", ""),  # that one ended well
        ("dnf", {}, OURS, ""),
    ],
)
def test_dnfs_transaction_of_ours_is_found_and_no_others(
    answers: Callable[[dict[str, tuple[int, str]]], Path],
    manager: str,
    listed: dict[str, str],
    mark: str,
    found: str,
) -> None:
    """Asked for number 0, dnf 4.14 never comes to its end."""
    log = answers(
        {
            f"history info {number}": (0, (CAPTURES / manager / f"{name}.txt").read_text())
            for number, name in listed.items()
        }
    )
    assert dnf.broken_off(mark) == found
    assert "history info 0" not in log.read_text()


@pytest.mark.parametrize("held", ["", "containers run: trainer"])
def test_recovery_finishes_dnfs_transaction_of_its_own_run_behind_the_gate(
    answers: Callable[[dict[str, tuple[int, str]]], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: str,
) -> None:
    log = answers(
        {
            "history info last": (0, (CAPTURES / "dnf" / f"{OTHER}.txt").read_text()),
            "history info 1": (0, (CAPTURES / "dnf" / "history_broken_off.txt").read_text()),
            "history redo 1": (0, ""),
        }
    )
    entry = {"manager": "dnf", "name": "nvidia-container-toolkit", "before": "1.17.7-1", "after": "1.17.8-1"}
    record = {"run": "R2", "component": "packages.toolkit_installed", "log": []}
    record["steps"] = [{"do": "package", "files": [], "packages": [entry]}]
    monkeypatch.setattr(unfinished, "active", lambda unit: True)
    monkeypatch.setattr(unfinished, "gate", lambda restarts, unit: held)
    waits = unfinished.finish([Journal(str(tmp_path), record)], "idle")
    redone = [line for line in log.read_text().splitlines() if "redo" in line]
    if held:
        assert waits == f"scripts of dnf's transaction 1 may restart docker.service: {held}" and not redone
    else:
        assert waits == "" and len(redone) == 1
        assert redone[0].endswith(f"--comment={OURS} history redo 1")
