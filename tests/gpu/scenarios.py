"""What is broken, what the audit then claims, what containers really do, and what a mend makes of it.

A scenario is a function of a `Proof`. It breaks the machine inside (tests/gpu/inside.py), audits it, and for each finding that
claims something of containers starts them: `claim` keeps what was claimed beside what happened. Sources are in the findings'
own pages; here stands only which claim is tried how.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.bench.ask_cuda import probe
from tests.gpu.engines import IMAGE, Machine, Seen, base_python
from tests.gpu.kernel import ADD, HOLD

SPEC = Path("/etc/cdi/nvidia.yaml")
CONFIG = Path("/etc/nvidia-container-runtime/config.toml")
DAEMON = Path("/etc/docker/daemon.json")
RUNTIME = {"nvidia": {"path": "nvidia-container-runtime", "args": []}}
GOOD = {"features": {"cdi": True}, "runtimes": RUNTIME}
GPUMEND = [sys.executable, "-c", "from gpumend.cli.main import main; main()"]


@dataclass(frozen=True)
class Row:
    """One claim, and what the real run did. `claimed` and `happened`: whether containers of `way` use the GPU."""

    scenario: str
    code: str
    claim: str
    way: str
    claimed: bool
    happened: bool
    said: str
    because: str = ""

    @property
    def holds(self) -> bool:
        """It happened as claimed; where it failed, of the claimed cause and of no other."""
        return self.claimed == self.happened and (self.happened or bool(re.search(self.because, self.said)))


@dataclass
class Proof:
    """What was tried so far."""

    machine: Machine
    scenario: str = ""
    rows: list[Row] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    cost: dict[str, str] = field(default_factory=dict)
    host: dict[str, Any] = field(default_factory=dict)

    def gpumend(self, verb: str, *options: str, **wanted: Any) -> int:
        """Run gpumend on the machine inside; `host` is what its report says. `wanted` goes over the defaults."""
        with tempfile.TemporaryDirectory() as directory:
            report = Path(directory) / "report.json"
            argv = [*GPUMEND, verb, "@local", "-q", "--report", str(report), *options]
            if wanted:
                argv += ["--data", "gpumend=" + json.dumps(wanted)]
            done = subprocess.run(
                argv,
                capture_output=True,
                text=True,
                cwd=directory,
                env={**os.environ, "PYTHONPATH": ROOT},
                check=False,
            )
            if not report.exists():
                raise RuntimeError(
                    f"gpumend {verb} ended with {done.returncode} and no report: {done.stderr[-2000:]}"
                )
            self.host = json.loads(report.read_text())["hosts"]["@local"]
            return done.returncode

    def audit(self, **wanted: Any) -> set[str]:
        """The codes of what the audit finds wrong (warn, fail or unknown)."""
        self.gpumend("audit", **wanted)
        if self.host["error"]:
            raise RuntimeError(f"no answer: {self.host['error']}")
        return {f["code"] for f in self.host["findings"] if f["status"] in ("warn", "fail", "unknown")}

    def finding(self, code: str) -> dict[str, Any] | None:
        return next((f for f in self.host["findings"] if f["code"] == code), None)

    def claim(
        self, code: str, way: str, works: bool, *options: str, because: str = "", seen: Seen | None = None
    ) -> None:
        """The last audit has `code`, and containers of `way` do what it claims: a row, and a failure where one is not so.

        Where they are to fail, `because` is a regular expression for their own words: another cause proves nothing.
        """
        found = self.finding(code) if code.startswith("GM") else None
        if code.startswith("GM") and found is None:
            self.fail(f"{code} is not found; found: {[f['code'] for f in self.host['findings']]}")
        text = found["summary"] if found else code
        if seen is None:
            seen = self.machine.way(way, *options)
        row = Row(
            self.scenario, code if found else "as wanted", text, way, works, seen.works, seen.said, because
        )
        self.rows.append(row)
        sys.stdout.write(f"  {row.code} {way}: claimed {said(works)}, {said(seen.works)}: {seen.said}\n")
        if not row.holds:
            self.fail(f"{row.code} is contradicted: {text}; {way}: {seen.said}")

    def hold(self, what: str, is_so: bool) -> None:
        """`what` has to be so."""
        if not is_so:
            self.fail(what)

    def fail(self, what: str) -> None:
        self.failures.append(f"{self.scenario}: {what}")
        sys.stdout.write(f"  FAILED: {what}\n")

    def mend(self, **wanted: Any) -> None:
        """Mended, with dockerd started again as the report asks where no systemd does it, and the audit is as wanted."""
        status = self.gpumend("mend", "--yes", **wanted)
        self.hold(
            f"the mend ends with 0 or 3, not {status}: {self.host['status']}; {self.host.get('changes')}",
            status in (0, 3),
        )
        self.hold(
            "dockerd starts after the mend: " + self.machine.docker.words(), self.machine.docker.restart()
        )
        left = self.audit(**wanted)
        self.hold(f"the audit after the mend is as wanted, not {sorted(left)}", not left - EVER)

    def settle(self, daemon: Any = None, config: str = "auto", spec: bool = True) -> None:
        """A machine whose parts are in order, but for what the arguments say; dockerd runs with them."""
        self.machine.clean()
        write(DAEMON, json.dumps(GOOD if daemon is None else daemon, indent=2) + "\n")
        text = subprocess.run(["nvidia-ctk", "config"], capture_output=True, text=True, check=True).stdout
        text = text.replace('mode = "auto"', f'mode = "{config}"', 1)
        text = re.sub(r'ldconfig = "[^"]*"', f'ldconfig = "@{LDCONFIG}"', text)
        write(CONFIG, text)
        if spec:
            generate()
        self.hold("dockerd starts: " + self.machine.docker.words(), self.machine.docker.restart())


ROOT = str(Path(__file__).resolve().parents[2])
LDCONFIG = "/sbin/ldconfig.real" if Path("/sbin/ldconfig.real").exists() else "/sbin/ldconfig"
# What no mend of ours changes, and this machine may have by itself: judged elsewhere, named in the output.
EVER: set[str] = set()


def said(works: bool) -> str:
    return "works" if works else "fails"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def generate() -> None:
    """The spec that nvidia-ctk makes of this machine lies in /etc/cdi."""
    SPEC.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["nvidia-ctk", "cdi", "generate", f"--output={SPEC}"], capture_output=True, check=True)


def driver_version() -> str:
    return Path("/sys/module/nvidia/version").read_text().strip()


def report_002(proof: Proof) -> None:
    """Incident 002 whole: a wrong ldconfig, no spec, a Docker that knows neither the runtime nor CDI."""
    proof.settle(daemon={}, spec=False)
    CONFIG.write_text(CONFIG.read_text().replace(f'"@{LDCONFIG}"', '"@/sbin/ldconfig.not-here"'))
    found = proof.audit()
    proof.hold(f"GM201 is found, not only {sorted(found)}", "GM201" in found)
    proof.claim("GM403", "runtime", False, because="unknown or invalid runtime name")
    proof.claim("GM301", "device", False, because="could not select device driver")
    proof.claim("GM404", "device", False, because="could not select device driver")
    proof.mend()
    proof.claim("a mended host: --runtime=nvidia", "runtime", True)
    proof.claim("a mended host: --device", "device", True)
    status = proof.gpumend("mend", "--yes", prove={"image": IMAGE, "command": [base_python(), "-c", ADD]})
    proof.hold(
        f"a second mend changes nothing and is proven: {status}, {proof.host['changes']}, {proof.host['proof']}",
        status == 0,
    )
    proof.hold("it changed nothing", all(c["status"] == "unchanged" for c in proof.host["changes"]))


def stale_driver(proof: Proof) -> None:
    """The spec is of a driver that is no more: its libraries have another version."""
    proof.settle()
    SPEC.write_text(SPEC.read_text().replace(driver_version(), "470.1.1"))
    proof.audit()
    proof.claim("GM304", "device", False, because=r"470\.1\.1")
    proof.mend()
    proof.claim("a spec made anew: --device", "device", True)


def spec_without_uvm(proof: Proof) -> None:
    """The spec was made before nvidia-uvm was loaded."""
    proof.settle()
    spec = yaml.safe_load(SPEC.read_text())
    for edits in [spec["containerEdits"], *(device["containerEdits"] for device in spec["devices"])]:
        edits["deviceNodes"] = [n for n in edits.get("deviceNodes", []) if "nvidia-uvm" not in n["path"]]
        if not edits["deviceNodes"]:
            del edits["deviceNodes"]
    SPEC.write_text(yaml.safe_dump(spec, sort_keys=False))
    proof.audit()
    proof.claim("GM304", "device", False, because="cuInit 999")
    proof.mend()
    proof.claim("a spec made anew: --device", "device", True)


def spec_in_run_wins(proof: Proof) -> None:
    """A stale spec in /run/cdi hides the good one of /etc/cdi."""
    proof.settle()
    write(Path("/run/cdi/nvidia.yaml"), SPEC.read_text().replace(driver_version(), "470.1.1"))
    proof.audit()
    proof.claim("GM304", "device", False, because=r"470\.1\.1")


def duplicate_specs(proof: Proof) -> None:
    """Two files of one directory define the same devices."""
    proof.settle()
    shutil.copy(SPEC, SPEC.with_name("nvidia-old.yaml"))
    proof.hold("dockerd starts", proof.machine.docker.restart())
    proof.audit()
    proof.claim("GM303", "device", False, because="unresolvable CDI devices")
    proof.mend()
    proof.claim("one spec is left: --device", "device", True)


def spec_too_new(proof: Proof) -> None:
    """A spec of a version that no engine here reads."""
    proof.settle()
    SPEC.write_text(re.sub(r"cdiVersion: .*", "cdiVersion: 9.9.9", SPEC.read_text()))
    proof.hold("dockerd starts", proof.machine.docker.restart())
    found = proof.audit()
    code = next((c for c in ("GM308", "GM312", "GM301") if c in found), "GM308")
    proof.claim(code, "device", False, because="unresolvable CDI devices")


def spec_broken(proof: Proof) -> None:
    """A spec that is no YAML: engines pass over it without a word."""
    proof.settle()
    SPEC.write_text("cdiVersion: [\n" + SPEC.read_text())
    proof.hold("dockerd starts", proof.machine.docker.restart())
    found = proof.audit()
    code = next((c for c in ("GM312", "GM301", "GM304") if c in found), "GM312")
    proof.claim(code, "device", False, because="unresolvable CDI devices")
    proof.mend()
    proof.claim("a spec made anew: --device", "device", True)


def modes(proof: Proof) -> None:
    """`--gpus` and `--runtime=nvidia` under each mode of the runtime."""
    has_cli = proof.machine.has("nvidia-container-cli")
    if not has_cli:
        proof.absent.append("nvidia-container-cli: no row of legacy injection that works")
    for mode in ("auto", "cdi", "legacy"):
        proof.settle(config=mode)
        literal = {"cdi": "cdi-only"}.get(mode, mode)
        found = proof.audit(runtime={"mode": literal})
        proof.hold(f"mode {mode} is as wanted for runtime.mode = {literal}", "GM204" not in found)
        if has_cli:
            proof.claim(f"mode {mode}: --runtime=nvidia", "runtime", True)
            if mode == "cdi":
                proof.claim(
                    "GM205" if proof.finding("GM205") else "mode cdi: --gpus is refused",
                    "gpus",
                    False,
                    because="not supported",
                )
            else:
                proof.claim(f"mode {mode}: --gpus", "gpus", True)
            continue
        proof.audit(runtime={"mode": literal}, docker={"paths": ["runtime", "device", "gpus"]})
        code = next((c for c in ("GM205", "GM203") if proof.finding(c)), "GM203")
        proof.claim(code, "gpus", False, because="not supported|nvidia-container-cli")
        if mode == "legacy":
            proof.claim("GM203", "runtime", False, because="nvidia-container-cli|nvidia-container-runtime")
        else:
            proof.claim(f"mode {mode}: --runtime=nvidia needs no nvidia-container-cli", "runtime", True)


def docker_without_cdi(proof: Proof) -> None:
    """features.cdi is off; the runtime is there."""
    proof.settle(daemon={"runtimes": RUNTIME, "features": {"cdi": False}})
    proof.audit()
    proof.claim("GM404", "device", False, because="could not select device driver")
    proof.claim("features.cdi off: --runtime=nvidia does not need it", "runtime", True)
    proof.mend()
    proof.claim("features.cdi on: --device", "device", True)


def runtime_gone(proof: Proof) -> None:
    """daemon.json names a runtime that is not on the host."""
    proof.settle()
    shutil.move("/usr/bin/nvidia-container-runtime", "/usr/bin/nvidia-container-runtime.away")
    try:
        proof.audit()
        proof.claim("GM203", "runtime", False, because="nvidia-container-cli|nvidia-container-runtime")
    finally:
        shutil.move("/usr/bin/nvidia-container-runtime.away", "/usr/bin/nvidia-container-runtime")


def default_runtime(proof: Proof) -> None:
    """daemon.json has a default runtime without its table: dockerd does not start."""
    proof.settle()
    write(DAEMON, json.dumps({"features": {"cdi": True}, "default-runtime": "nvidia"}))
    proof.audit()
    starts = proof.machine.docker.restart()
    proof.claim(
        "GM419", "dockerd", False, because="default runtime", seen=Seen(starts, proof.machine.docker.words())
    )


def unknown_key(proof: Proof) -> None:
    """daemon.json has a key that dockerd does not know."""
    proof.settle()
    write(DAEMON, json.dumps({**GOOD, "nvidia-runtime": True}))
    proof.audit()
    starts = proof.machine.docker.restart()
    proof.claim(
        "GM412", "dockerd", False, because="nvidia-runtime", seen=Seen(starts, proof.machine.docker.words())
    )


def visible_devices(proof: Proof) -> None:
    """NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES that contradict each other."""
    proof.settle()
    options = [
        "--network=none",
        "--runtime=nvidia",
        "-e",
        "NVIDIA_VISIBLE_DEVICES=0",
        "-e",
        "CUDA_VISIBLE_DEVICES=7",
    ]
    argv = ["docker", "run", "-d", *options, IMAGE, base_python(), "-c", "import time; time.sleep(600)"]
    proof.hold("the container starts", proof.machine.run(argv).returncode == 0)
    proof.audit()
    proof.claim("GM417", "runtime", False, "-e", "CUDA_VISIBLE_DEVICES=7", because="cuInit 100")
    proof.machine.clean()


def newer_cuda(proof: Proof) -> None:
    """A container asks for a CUDA that no driver serves yet: legacy injection refuses it, CDI does not ask."""
    proof.settle()
    asks = ("-e", "NVIDIA_REQUIRE_CUDA=cuda>=99.0")
    proof.machine.run(["docker", "create", "--runtime=nvidia", "--network=none", *asks, IMAGE, "true"])
    proof.audit()
    proof.hold("GM414 is silent where CDI injects", proof.finding("GM414") is None)
    proof.claim("no GM414: CDI does not look at NVIDIA_REQUIRE_CUDA", "runtime", True, *asks)
    proof.machine.clean()


def device_no_spec_has(proof: Proof) -> None:
    """A container asks for a device that no spec has."""
    proof.settle()
    argv = ["docker", "create", "--device", "nvidia.com/gpu=77", "--network=none", IMAGE, "true"]
    proof.machine.run(argv)
    proof.audit()
    if proof.finding("GM417") is None and proof.finding("GM416") is None:
        proof.fail(f"neither GM416 nor GM417; found {[f['code'] for f in proof.host['findings']]}")
    code = "GM417" if proof.finding("GM417") else "GM416"
    proof.claim(code, "docker", False, "--device", "nvidia.com/gpu=77", because="unresolvable CDI devices")
    proof.machine.clean()


def compat(proof: Proof) -> None:
    """An older libcuda of a cuda-compat package comes first in the linker's path: CUDA answers 803."""
    tree = Path("/var/tmp/gpumend-gpu-compat")
    for archive in PARTS.glob("compat/*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(archive), str(tree)], check=True)
    old = [path for path in sorted(tree.rglob("libcuda.so.[0-9]*.[0-9]*")) if not path.is_symlink()]
    if not old:
        proof.absent.append("a libcuda older than the driver (a package in PARTS/compat): no row of GM603")
        return
    proof.settle()
    place = Path("/usr/local/cuda-12.4/compat")
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(old[0], place / old[0].name)
    os.symlink(old[0].name, place / "libcuda.so.1")
    write(Path("/etc/ld.so.conf.d/000-gpu-test.conf"), f"{place}\n")
    subprocess.run(["ldconfig"], check=True)
    try:
        proof.audit()
        done = proof.machine.run([base_python(), "-c", ADD])
        proof.claim(
            "GM603", "host", False, because="803", seen=Seen(done.returncode == 0, done.stdout.strip())
        )
    finally:
        shutil.rmtree(place)
        Path("/etc/ld.so.conf.d/000-gpu-test.conf").unlink()
        subprocess.run(["ldconfig"], check=True)


def other_engines(proof: Proof) -> None:
    """containerd through ctr, and podman, from the same spec."""
    proof.settle()
    found = proof.audit()
    proof.hold(f"the audit is as wanted, not {sorted(found)}", not found - EVER)
    proof.claim("a spec that is in order: ctr with nvidia-container-runtime", "containerd", True)
    if proof.machine.has("podman"):
        proof.claim("a spec that is in order: podman run --device", "podman", True)
    else:
        proof.absent.append("podman")
    SPEC.write_text(SPEC.read_text().replace(driver_version(), "470.1.1"))
    proof.audit()
    proof.claim("GM304", "containerd", False, because=r"470\.1\.1")
    if proof.machine.has("podman"):
        proof.claim("GM304", "podman", False, because=r"470\.1\.1")


def several_gpus(proof: Proof) -> None:
    """One GPU of several: by index, by UUID, hidden."""
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    uuids = re.findall(r"UUID: (GPU-[0-9a-f-]+)", listed)
    proof.settle()
    proof.audit()
    proof.claim("a device by its UUID: --device", "docker", True, "--device", f"nvidia.com/gpu={uuids[0]}")
    if len(uuids) < 2:
        proof.absent.append("a second GPU: no rows of device_ids and of hidden GPUs")
        return
    for index, uuid in enumerate(uuids[:2]):
        seen = proof.machine.way("docker", "--device", f"nvidia.com/gpu={index}")
        right = seen.works and json.loads(seen.said)["uuids"] == [uuid.removeprefix("GPU-").replace("-", "")]
        proof.claim(f"GPU {index} alone: --device", "docker", True, seen=Seen(right, seen.said))


def checkpoint(proof: Proof) -> None:
    """cuda-checkpoint alone, then CRIU without its CUDA plugin, on a process that holds GPU memory."""
    if not proof.machine.has("cuda-checkpoint"):
        proof.absent.append("cuda-checkpoint")
        return
    with subprocess.Popen(
        [base_python(), "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        proof.hold("the process holds GPU memory", process.stdout.readline() == "held\n")
        pid = str(process.pid)
        away = proof.machine.run(["cuda-checkpoint", "--toggle", "--pid", pid])
        back = proof.machine.run(["cuda-checkpoint", "--toggle", "--pid", pid])
        process.stdin.write("\n")
        process.stdin.flush()
        kept = process.stdout.readline()
        works = away.returncode == back.returncode == 0 and kept == "kept\n"
    proof.settle()
    proof.audit()
    blocked = proof.finding("GM535")
    proof.claim(
        "GM535" if blocked else "no GM535: cuda-checkpoint takes and gives back a process",
        "cuda-checkpoint",
        blocked is None,
        seen=Seen(
            works,
            f"{away.stderr or away.stdout}{back.stderr or back.stdout}pattern {kept.strip()}".replace(
                "\n", " "
            ),
        ),
    )
    if not proof.machine.has("criu"):
        proof.absent.append("criu")
        return
    write(Path("/etc/containerd/grit.toml"), 'BinaryName = "/usr/bin/nvidia-container-runtime"\n')
    proof.audit(grit={"role": "both"})
    checked = proof.machine.run(["criu", "check"])
    words = (checked.stderr.strip().splitlines() or [checked.stdout.strip()])[-1]
    refused = proof.finding("GM532")
    proof.claim(
        "GM532" if refused else "no GM532: criu check passes",
        "criu",
        refused is None,
        because="Error|error|criu",
        seen=Seen(checked.returncode == 0, words),
    )
    # What else is said of CRIU here is not tried by itself: it is kept beside what was.
    for finding in proof.host["findings"]:
        if finding["code"].startswith("GM53"):
            proof.absent.append(f"{finding['code']} ({finding['status']}) by itself: {finding['summary']}")
    with (
        subprocess.Popen(
            [base_python(), "-c", HOLD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process,
        tempfile.TemporaryDirectory() as images,
    ):
        assert process.stdout is not None
        process.stdout.readline()
        dumped = proof.machine.run(
            ["criu", "dump", "-t", str(process.pid), "-D", images, "--shell-job", "-o", "dump.log"]
        )
        log = Path(images) / "dump.log"
        errors = [line for line in (log.read_text() if log.exists() else "").splitlines() if "Error" in line]
        process.kill()
        said = (errors or [dumped.stderr.strip()])[0]
    if "RLIMIT" in said:
        proof.absent.append(f"CRIU's dump, before it came to the GPU: {said}")
        return
    dumped_seen = Seen(dumped.returncode == 0, said)
    proof.claim("GM533", "criu", False, because="nvidia", seen=dumped_seen)


def costs(proof: Proof) -> None:
    """Seconds and memory of the parts of an audit on this machine."""
    proof.settle()
    without = min(probe(False)[0] for _ in range(3))
    asked = min(probe(True)[0] for _ in range(3))
    hand = "import ctypes,time;b=time.monotonic();ctypes.CDLL('libcuda.so.1').cuInit(0);print(time.monotonic()-b)"
    alone = min(float(proof.machine.run([base_python(), "-c", hand]).stdout) for _ in range(3))
    began = time.monotonic()
    generate()
    generated = time.monotonic() - began
    began = time.monotonic()
    whole = subprocess.Popen(
        [*GPUMEND, "audit", "@local", "-q"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": ROOT},
    )
    _, status, usage = os.wait4(whole.pid, 0)
    whole.returncode = os.waitstatus_to_exitcode(status)
    audited = time.monotonic() - began
    proof.cost = {
        "probe without asking CUDA": f"{without:.2f} s",
        "probe with cuInit": f"{asked:.2f} s",
        "cuInit alone": f"{alone:.2f} s",
        "nvidia-ctk cdi generate": f"{generated:.2f} s",
        "gpumend audit, whole": f"{audited:.2f} s",
        "gpumend audit, most memory of one process": f"{usage.ru_maxrss // 1024} MB",
    }


PARTS = Path(os.environ.get("GPUMEND_GPU_PARTS", "/nonexistent"))
SCENARIOS: tuple[Callable[[Proof], None], ...] = (
    report_002,
    stale_driver,
    spec_without_uvm,
    spec_in_run_wins,
    duplicate_specs,
    spec_too_new,
    spec_broken,
    modes,
    docker_without_cdi,
    runtime_gone,
    default_runtime,
    unknown_key,
    visible_devices,
    newer_cuda,
    device_no_spec_has,
    compat,
    other_engines,
    several_gpus,
    checkpoint,
    costs,
)


def versions(machine: Machine) -> dict[str, str]:
    """What the rows were seen with."""
    asked = {
        "GPU": ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
        "toolkit": ["nvidia-ctk", "--version"],
        "Docker": ["dockerd", "--version"],
        "containerd": ["containerd", "--version"],
        "runc": ["runc", "--version"],
        "podman": ["podman", "--version"],
        "CRIU": ["criu", "--version"],
    }
    told = {"driver": driver_version(), "kernel": os.uname().release}
    for name, argv in asked.items():
        if machine.has(argv[0]):
            told[name] = (machine.run(argv).stdout.strip().splitlines() or ["?"])[0]
    return told


def main() -> int:
    """All scenarios, one after the other; what they saw goes as JSON to the file that the environment names."""
    os.environ.pop("LD_LIBRARY_PATH", None)  # the programs of a host are found as its services find theirs
    machine = Machine()
    proof = Proof(machine)
    machine.start()
    EVER.update(first(proof))
    try:
        for scenario in SCENARIOS:
            if ONLY and scenario.__name__ not in ONLY:
                continue
            proof.scenario = (scenario.__doc__ or "").split("\n")[0].rstrip(".")
            sys.stdout.write(f"{scenario.__name__}: {proof.scenario}\n")
            sys.stdout.flush()
            try:
                scenario(proof)
            except Exception as error:  # one scenario's trouble is its own
                proof.fail(f"{type(error).__name__}: {error}")
    finally:
        machine.clean()
        machine.stop()
    result = {
        "versions": versions(machine),
        "rows": [{**asdict(row), "holds": row.holds} for row in proof.rows],
        "failures": proof.failures,
        "absent": proof.absent,
        "cost": proof.cost,
        "ever": sorted(EVER),
    }
    Path(os.environ["GPUMEND_GPU_RESULT"]).write_text(json.dumps(result))
    return 1 if proof.failures else 0


ONLY = os.environ.get("GPUMEND_GPU_ONLY", "").split()


def first(proof: Proof) -> set[str]:
    """What the audit finds of this machine when all that the suite touches is in order."""
    proof.scenario = "a machine in order"
    proof.settle()
    found = proof.audit()
    sys.stdout.write(
        f"what this machine has by itself: {sorted(found) or 'nothing'}; exit {proof.host['exit']}\n"
    )
    for finding in proof.host["findings"]:
        sys.stdout.write(f"  {finding['status']} {finding['code']} {finding['summary']}\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
