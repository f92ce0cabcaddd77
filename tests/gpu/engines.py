"""The engines of the machine inside, and what a container on each of their ways sees of the GPU."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.gpu.kernel import ADD

IMAGE = "gpumend-gpu-test:1"
# No network: there is no registry to reach, and none is asked.
DOCKERD = ("dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none")
START_SECONDS = 30.0

COLLECT = """
import ctypes, encodings.ascii, encodings.latin_1, encodings.utf_8, json, os, select, signal, struct, subprocess, sys, time
for name in ("_ctypes", "_struct", "math"):
    __import__(name)
files = {m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)}
print("\\n".join(sorted(files | {sys.executable})))
"""


def base_python() -> str:
    """The interpreter below any virtual environment."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def image_tar() -> bytes:
    """A root file system of this machine's Python, the modules that the programs of kernel.py import, and what these link."""
    python = base_python()
    files = subprocess.run(
        [python, "-I", "-S", "-c", COLLECT], capture_output=True, text=True, check=True
    ).stdout.split()
    linked = subprocess.run(
        ["ldd", *(f for f in files if not f.endswith(".py"))], capture_output=True, text=True, check=False
    )
    for line in linked.stdout.splitlines():
        files.extend(word for word in line.split() if word.startswith("/") and not word.endswith(":"))
    # What the driver's libraries link, which an image of a distribution has.
    for line in subprocess.run(
        ["ldconfig", "-p"], capture_output=True, text=True, check=True
    ).stdout.splitlines():
        if line.strip().startswith(
            ("libdl.so.2 ", "libpthread.so.0 ", "librt.so.1 ", "libm.so.6 ", "libgcc_s.so.1 ")
        ):
            files.append(line.rsplit("=> ", 1)[-1])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(set(files)):
            tar.add(os.path.realpath(path), path.lstrip("/"))
        if python != files[0]:
            link = tarfile.TarInfo("python3")
            link.type, link.linkname = tarfile.SYMTYPE, python
            tar.addfile(link)
        for directory in ("tmp", "proc", "sys", "dev", "etc", "run", "usr", "usr/bin", "usr/lib"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(member)
    return buffer.getvalue()


@dataclass(frozen=True)
class Seen:
    """What a container saw: whether it used every device that it has, and what was said."""

    works: bool
    said: str


def seen(done: subprocess.CompletedProcess[str]) -> Seen:
    """From the end of a run of ADD in a container."""
    words = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0:
        return Seen(True, words)
    try:
        answer = json.loads(words)
        return Seen(False, f"in the container: cuInit {answer['cuinit']}, {answer.get('error', 'no device')}")
    except (ValueError, KeyError):
        lines = [
            line
            for line in done.stderr.strip().splitlines()
            if "docker run --help" not in line and line.strip()
        ]
        return Seen(False, " ".join(lines[-3:])[-400:] or f"exit status {done.returncode}")


class Daemon:
    """One daemon of the machine inside, started and stopped by its process id."""

    def __init__(self, argv: Sequence[str], ready: Sequence[str]) -> None:
        self.argv, self.ready = list(argv), list(ready)
        self.process: subprocess.Popen[bytes] | None = None
        self.began = 0

    @property
    def log(self) -> Path:
        return Path("/var/log") / f"{self.argv[0]}.gpu-test.log"

    def start(self) -> bool:
        """Whether it answers; False where it ended or did not within START_SECONDS."""
        with self.log.open("ab") as log:
            self.began = log.tell()
            self.process = subprocess.Popen(
                self.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            if subprocess.run(self.ready, capture_output=True, check=False).returncode == 0:
                return True
            time.sleep(0.1)  # between two questions
        return False

    def stop(self) -> None:
        """It has ended."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def restart(self) -> bool:
        self.stop()
        return self.start()

    def words(self) -> str:
        """The last line that it said since its start that is an error."""
        said = self.log.read_bytes()[self.began :] if self.log.exists() else b""
        lines = said.decode(errors="replace").splitlines()
        return next((line for line in reversed(lines) if re.search("fail|unable|error[^=]", line)), "")[-300:]


class Machine:
    """The engines that there are, and their ways to the GPU."""

    def __init__(self) -> None:
        self.containerd = Daemon(["containerd"], ["ctr", "version"])
        self.docker = Daemon(DOCKERD, ["docker", "info"])
        self.tar = Path("/var/tmp/gpumend-gpu-test.tar")

    def start(self) -> None:
        """Docker answers and has the image; raises where not."""
        Path("/var/log").mkdir(parents=True, exist_ok=True)
        if not self.containerd.start():
            raise RuntimeError(f"containerd does not start: {self.containerd.words()}")
        if not self.docker.start():
            raise RuntimeError(f"dockerd does not start: {self.docker.words()}")
        self.tar.write_bytes(image_tar())
        subprocess.run(["docker", "import", str(self.tar), IMAGE], capture_output=True, check=True)

    def stop(self) -> None:
        self.docker.stop()
        self.containerd.stop()

    def way(self, name: str, *options: str, program: str = ADD) -> Seen:
        """What `docker run` with the options of a way saw."""
        ways = {
            "runtime": ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all"),
            "device": ("--device", "nvidia.com/gpu=all"),
            "gpus": ("--gpus", "all"),
        }
        if name == "containerd":
            return self.with_ctr(*options)
        if name == "podman":
            return self.with_podman(*options)
        more = ("-e", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
        argv = ["docker", "run", "--rm", "--network=none", *ways.get(name, ()), *more, *options, IMAGE]
        return seen(self.run([*argv, base_python(), "-c", program]))

    def with_ctr(self, *options: str) -> Seen:
        """By containerd alone. ctr of 1.7 knows no CDI names: the runtime resolves them, from the spec files."""
        self.run(["ctr", "--namespace", "gpumend", "images", "import", str(self.oci())])
        argv = [
            "ctr",
            "--namespace",
            "gpumend",
            "run",
            "--rm",
            "--runc-binary",
            "/usr/bin/nvidia-container-runtime",
        ]
        argv += ["--env", "NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all", *options, f"docker.io/library/{IMAGE}"]
        return seen(self.run([*argv, f"test{time.monotonic_ns()}", base_python(), "-c", ADD]))

    def oci(self) -> Path:
        """The image as an archive that other engines import."""
        place = self.tar.with_suffix(".oci.tar")
        if not place.exists():
            subprocess.run(["docker", "save", "-o", str(place), IMAGE], check=True, capture_output=True)
        return place

    def with_podman(self, *options: str) -> Seen:
        common = ["podman", "--cgroup-manager=cgroupfs", "--events-backend=none"]
        self.run([*common, "load", "-i", str(self.oci())])
        argv = [*common, "run", "--rm", "--network=none", "--security-opt=seccomp=unconfined"]
        argv += [*(options or ("--device", "nvidia.com/gpu=all")), "docker.io/library/" + IMAGE]
        return seen(self.run([*argv, base_python(), "-c", ADD]))

    @staticmethod
    def run(argv: Sequence[str], seconds: float = 120) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                argv, capture_output=True, text=True, check=False, timeout=seconds, stdin=subprocess.DEVNULL
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(list(argv), 124, "", f"no end within {seconds:.0f} s")

    @staticmethod
    def has(program: str) -> bool:
        return shutil.which(program) is not None

    def clean(self) -> None:
        """No container is left of a scenario."""
        ids = self.run(["docker", "ps", "-aq"]).stdout.split()
        if ids:
            self.run(["docker", "rm", "-f", *ids])
        for path in ("/etc/cdi", "/run/cdi"):
            shutil.rmtree(path, ignore_errors=True)
        for path in ("/etc/docker/daemon.json", "/etc/nvidia-container-runtime/config.toml"):
            with contextlib.suppress(FileNotFoundError):
                Path(path).unlink()
