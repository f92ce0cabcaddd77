"""The rule that package managers' simulations are held against, on what they really print."""

from __future__ import annotations

import fcntl
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from operations.packaging import Unfit, apt_changes, dnf_changes, lock_holder, objection

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "cuda"
INST = "Inst cuda-compat-13-0 (580.95.05-0ubuntu1 NVIDIA CUDA [amd64])\n"
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
    found = objection(apt_changes(f"NOTE: This is only a simulation!\n{text}"), action, "cuda-compat-13-0")
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
    against = objection(found, action, package)
    assert (against == "") is (words == "") and words in against


def test_a_row_that_dnf_wrapped_is_read_whole() -> None:
    text = "Installing:\n a-very-long-name\n          x86_64 1.0-1 repo 5 k\n\nTransaction Summary\nInstall  1 Package\n"
    assert dnf_changes(text) == [("install", "a-very-long-name", "1.0-1")]


@pytest.mark.parametrize("text", ["Installing:\n a x86_64 1.0-1 repo 5 k\n", "Install  2 Packages\n"])
def test_what_dnf_says_and_what_was_read_must_agree(text: str) -> None:
    with pytest.raises(Unfit, match="could not be read"):
        dnf_changes(text)


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
