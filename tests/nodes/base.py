"""Base root file systems: one read-only tree of Debian or Ubuntu per suite, built once a machine and cached.

After `base(suite)` returns, the directory it names is a complete system of that suite that nothing will write to
again; nodes mount it as the lower layer of an overlay.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

CACHE = Path("/var/cache/gpumend/nodes")
DEBIAN, UBUNTU = ("bookworm", "trixie", "sid"), ("noble",)
SUITES = (*DEBIAN, *UBUNTU)
# What the matrices of kills and faults run on; `make exhaustive` runs them on each.
SUITE = os.environ.get("GPUMEND_SUITE", "trixie")

TOOLS = {  # a program the lab calls: the Debian package that brings it
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "ip": "iproute2",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "nsenter": "util-linux",
    "gcc": "gcc",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
UBUNTU_SUITES = Path("/usr/share/distro-info/ubuntu.csv")  # by which mmdebstrap knows whose suite one is
UBUNTU_KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")

PACKAGES = [
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "iproute2",
    "docker.io",
    "containerd",
    "runc",
    "iptables",
    "nftables",
    "procps",
    "kmod",
    "python3",
    "python3-yaml",
    "busybox-static",
    "cron",
    "fuse-overlayfs",
]
EXTRA_PACKAGES = {"bookworm": [], "trixie": ["docker-cli"], "sid": ["docker-cli"], "noble": ["apt", "gpgv"]}
# Ubuntu has Docker in universe, and newer ones (29, with containerd 2.2) among its updates.
COMPONENTS, POCKETS = ("main", "universe"), ("", "-updates")
# The distribution's own archive, by its main suites.
KNOWN = (*DEBIAN, "bullseye", "forky", "oldstable", "stable", "testing", "unstable")
# Bases of their own with more on top, for the few tests that look at it (trixie has no CRIU).
VARIANTS = {
    "bookworm+pods": ["podman", "crun", "criu"],
    "trixie+pods": ["podman", "crun"],
    "sid+pods": ["podman", "crun", "criu"],
    "trixie+compose": ["docker-compose"],
    "sid+compose": ["docker-compose"],
    # what fleets run already, and what reads our files for it
    "trixie+fleet": [
        "slurmctld",
        "slurmd",
        "slurm-client",
        "munge",
        "prometheus",
        "prometheus-node-exporter",
        "kubernetes-client",
    ],
    "sid+rpm": ["dnf", "dnf-plugins-core", "createrepo-c", "rpm", "zypper"],
}

# Units that only cost boot time or touch the network; none of them is what a test looks at.
MASKED = [
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "dpkg-db-backup.timer",
    "systemd-networkd-wait-online.service",
    "systemd-resolved.service",
    "getty@.service",
    "console-getty.service",
    "systemd-firstboot.service",
    "systemd-pcrphase.service",
]

# Runs inside the finished tree. No host key and no machine id may stay: every node brings its own.
CUSTOMIZE = f"""
set -eu
useradd --create-home --shell /bin/bash ops
useradd --create-home --shell /bin/bash nosudo
printf 'ops ALL=(ALL) NOPASSWD: ALL\\n' >/etc/sudoers.d/ops
chmod 0440 /etc/sudoers.d/ops
mkdir -p /etc/ssh/sshd_config.d /var/log/journal
printf 'LogLevel VERBOSE\\nPasswordAuthentication no\\nPermitRootLogin prohibit-password\\n' \
    >/etc/ssh/sshd_config.d/lab.conf
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf /var/lib/dbus/machine-id
: >/etc/machine-id
rm -rf /usr/share/doc/* /usr/share/man/* /usr/share/locale/* /var/lib/docker /var/lib/containerd
mkdir -p /var/lib/docker /var/lib/containerd
for unit in {" ".join(MASKED)}; do ln -sf /dev/null /etc/systemd/system/$unit; done
"""

# Of a variant: what a test starts itself, when its configuration is there (slurmd waits for one for ever).
QUIET = {
    # Debian enables its plugin `local`, without which dnf asks no repository of its own that nobody signed.
    "sid+rpm": "cd /usr/lib/python3/dist-packages/dnf-plugins && "
    "find . -mindepth 1 -maxdepth 1 ! -name versionlock.py -exec rm -r {} +\n",
    "trixie+fleet": "cd /etc/systemd/system/multi-user.target.wants && "
    "rm slurmd.service slurmctld.service munge.service prometheus.service prometheus-node-exporter.service\n",
}


class BaseError(RuntimeError):
    """A base could not be built; the message ends with the last lines of what the builder said."""


def missing_tools() -> list[str]:
    """The packages whose programs (or files) this machine lacks, in a stable order."""
    packages = {package for tool, package in TOOLS.items() if shutil.which(tool) is None}
    files = {KEYRING: "debian-archive-keyring", UBUNTU_SUITES: "distro-info-data"}
    packages.update(package for path, package in files.items() if not path.exists())
    return sorted(packages)


def ensure_tools() -> None:
    """Every program the lab calls is installed; raises `BaseError` where apt-get cannot do that."""
    if not missing_tools():
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / "tools.lock"):  # the workers of one run begin at the same moment
        _install(missing_tools())


def _install(packages: list[str]) -> None:
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise BaseError(f"not installed and not installable here: {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for argv in (
        ["apt-get", "update", "-qq"],
        [
            "apt-get",
            "install",
            "-qq",
            "-y",
            "-o",
            "DPkg::Lock::Timeout=300",
            "--no-install-recommends",
            *packages,
        ],
    ):
        done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 or missing_tools():
        raise BaseError(f"apt-get could not install {' '.join(packages)}: {done.stderr[-500:].strip()}")


def _one_line_sources(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(uri, suites, components) of the `deb` lines of one sources.list."""
    for line in text.splitlines():
        words = line.split("#", 1)[0].split()
        if not words or words[0] != "deb":
            continue
        words = words[1:]
        if words and words[0].startswith("["):  # options may hold spaces: [ arch=amd64 signed-by=... ]
            while words and not words[0].endswith("]"):
                words.pop(0)
            words = words[1:]
        if len(words) >= 3:
            yield words[0], [words[1]], words[2:]


def _deb822_sources(text: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """(uri, suites, components) of the enabled `deb` stanzas of one .sources file."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in "\n".join(lines).split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in stanza.splitlines():
            if line[:1] in (" ", "\t") and key:
                fields[key] += " " + line.strip()
            elif ":" in line:
                key, value = line.split(":", 1)
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            yield uri, fields.get("suites", "").split(), fields.get("components", "").split()


def mirror(etc_apt: Path = Path("/etc/apt"), known: Sequence[str] = KNOWN) -> str | None:
    """The archive this machine itself takes the main suites of Debian (or those that are known) from, or None where it
    does not use it.

    With None, mmdebstrap is called without a mirror and picks the one it knows for a suite.
    """
    entries: list[tuple[str, list[str], list[str]]] = []
    for path in [etc_apt / "sources.list", *sorted(etc_apt.glob("sources.list.d/*"))]:
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        if path.suffix == ".list":
            entries.extend(_one_line_sources(text))
        elif path.suffix == ".sources":
            entries.extend(_deb822_sources(text))
    # Only the distribution's own archive has these suites with a "main"; updates, security and backports have a dash.
    for uri, suites, components in entries:
        if (
            set(known).intersection(suites)
            and "main" in components
            and not uri.startswith(("cdrom:", "file:"))
        ):
            return uri
    return None


def ubuntu_mirror() -> str | None:
    """Where Ubuntu's suites are taken from: this machine's own, or what its Debian mirror has beside Debian, as most have."""
    debian = mirror()
    if debian is None or not debian.rstrip("/").endswith("/debian"):
        return mirror(known=UBUNTU)
    beside = f"{debian.rstrip('/').removesuffix('debian')}ubuntu"
    try:
        with urllib.request.urlopen(f"{beside}/dists/{UBUNTU[0]}/InRelease", timeout=30):
            return beside
    except (OSError, ValueError):
        return None


def fetched(home: Path, line: str, names: Sequence[str]) -> None:
    """The packages of these names lie in `home`, from an archive that this machine's own sources do not have.
    line: that of a sources.list. Raises BaseError."""
    for directory in ("lists/partial", "archives/partial"):
        (home / directory).mkdir(parents=True, exist_ok=True)
    sources = home / "sources.list"
    sources.write_text(line, "utf-8")
    options = {
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State::lists": home / "lists",
        "Dir::Cache": home, "Dir::State::status": "/dev/null", "APT::Sandbox::User": "root",
    }  # fmt: skip
    given = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    for words in (["update"], *(["download", name] for name in names)):
        called(["apt-get", *given, "-qq", *words], home)


def called(argv: Sequence[str], directory: Path) -> None:
    """A program has ended well. Raises BaseError with what it said."""
    done = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BaseError(f"{' '.join(argv[:3])}: {(done.stderr or done.stdout)[-500:].strip()}")


def ubuntu_keyring() -> Path:
    """Ubuntu's keys: this machine's own, or those that Debian has packaged since trixie, signed by Debian's. Raises BaseError."""
    home = CACHE / "ubuntu-keyring"
    unpacked = home / UBUNTU_KEYRING.relative_to("/")
    for path in (UBUNTU_KEYRING, unpacked):
        if path.exists():
            return path
    uri = mirror(base("trixie") / "etc" / "apt")
    fetched(home, f"deb [signed-by={KEYRING}] {uri} trixie main\n", ["ubuntu-keyring"])
    [deb] = home.glob("ubuntu-keyring_*.deb")
    called(["dpkg-deb", "-x", str(deb), str(home)], home)
    return unpacked


def apt_options() -> list[str]:
    """This machine's own acquire settings (proxies, checks) in the form mmdebstrap takes them."""
    dumped = subprocess.run(["apt-config", "dump"], capture_output=True, text=True, check=False).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv")
    return [
        line.rstrip()
        for line in dumped.splitlines()
        if line.startswith(wanted) and not line.rstrip().endswith('"";')
    ]


def packages(suite: str) -> list[str]:
    """The Debian packages a base of `suite` is built from."""
    return [*PACKAGES, *EXTRA_PACKAGES[plain(suite)], *VARIANTS.get(suite, ())]


def customize(suite: str) -> str:
    """What runs inside the finished tree of `suite`."""
    return CUSTOMIZE + QUIET.get(suite, "")


def plain(suite: str) -> str:
    """The suite of a variant: `sid` of `sid+pods`."""
    return suite.partition("+")[0]


def base_path(suite: str) -> Path:
    """Where the base of `suite` lies or would lie; the name changes with the recipe."""
    if suite not in SUITES and suite not in VARIANTS:
        raise ValueError(f"unknown suite {suite!r}; one of {', '.join((*SUITES, *VARIANTS))}")
    recipe = "\0".join([suite, *packages(suite), customize(suite)])
    return CACHE / f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on `path`; the kernel drops it when the process ends, however it ends."""
    with open(path, "ab") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def mmdebstrap_argv(suite: str, target: Path) -> list[str]:
    """The command that builds `suite` into `target`."""
    options = apt_options()
    if plain(suite) == "sid":  # a mirror's sid may be a snapshot that is weeks old
        options.append('Acquire::Check-Valid-Until "false";')
    argv = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(packages(suite))}",
    ]
    argv += [f"--aptopt={option}" for option in options]
    argv += ["--dpkgopt=force-unsafe-io", "--dpkgopt=path-exclude=/usr/share/man/*"]
    argv.append('--customize-hook=chroot "$1" sh -c "$GPUMEND_CUSTOMIZE"')
    if plain(suite) in UBUNTU:
        argv += [f"--keyring={ubuntu_keyring()}", f"--components={','.join(COMPONENTS)}"]
        source = ubuntu_mirror()
        archives = [f"deb {source} {plain(suite)}{pocket} {' '.join(COMPONENTS)}" for pocket in POCKETS]
    else:
        source = mirror()
        archives = [str(source)]
    return [*argv, plain(suite), str(target), *(archives if source is not None else ())]


def _build(suite: str, target: Path) -> None:
    """`target` holds the finished base of `suite`; a failed build leaves nothing behind."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{suite}-", dir=target.parent))
    try:
        tree = scratch / "tree"
        done = subprocess.run(
            mmdebstrap_argv(suite, tree),
            env={**os.environ, "GPUMEND_CUSTOMIZE": customize(suite)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BaseError(f"mmdebstrap {suite} failed (rc {done.returncode}):\n{done.stdout[-3000:]}")
        os.rename(tree, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def base(suite: str) -> Path:
    """The finished base of `suite`, built now where this machine has none yet (30-60 s)."""
    target = base_path(suite)
    if target.exists():
        return target
    ensure_tools()
    CACHE.mkdir(parents=True, exist_ok=True)
    with locked(CACHE / f"{suite}.lock"):
        for leftover in CACHE.glob(f".{suite}-*"):  # of a build that was killed: its lock is ours now
            shutil.rmtree(leftover, ignore_errors=True)
        if not target.exists():
            _build(suite, target)
    return target


def main(suites: Sequence[str]) -> None:
    """Builds the named bases (all of them by default): `python -m tests.nodes.base [SUITE...]`."""
    for suite in suites or SUITES:
        print(base(suite), flush=True)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
