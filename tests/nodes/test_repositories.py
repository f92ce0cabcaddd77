"""Repositories, their keys, an engine and the toolkit on a node that has none of them: real apt, gpg's real keys, and Debian's own
Docker from a repository of the test's."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumend.rules.finding import Component
from gpumend.state.packages import TOOLKIT
from tests.nodes import cuda_toolkit, gpu, images, mirror, toolkit
from tests.nodes.apt import AptLock, Deb
from tests.nodes.base import SUITE
from tests.nodes.conftest import Boot
from tests.nodes.crashes import KILL, kill_at_every_step
from tests.nodes.drive import Ran, Target, carry_out, planned, result_of, start
from tests.nodes.faults import Before, fault
from tests.nodes.images import starts
from tests.nodes.lab import Lab, Node
from tests.nodes.mirror import ADDRESS, BY_NAME, DOCKER, ROOT, SILENT, Key, Signer

OLD, NEW = "1.19.1", "1.20.0"
DEVICE = ("--device", "nvidia.com/gpu=0")
RUNTIME = ("--runtime=nvidia", "-e", "NVIDIA_VISIBLE_DEVICES=all")
KEYRING = "/usr/share/keyrings/nvidia-container-toolkit-keyring.gpg"
SOURCE = "/etc/apt/sources.list.d/nvidia-container-toolkit.sources"
APT = ("/etc/apt", "/usr/share/keyrings", "/var/lib/gpumend", "/var/lib/dpkg")
RUN = "20261129T000000Z-aaaa"
LISTED = Deb("apt", "0.1")


@pytest.fixture(scope="module")
def booted(shared_boot: Boot) -> Iterator[Node]:
    node = shared_boot(SUITE, None)
    node.write("/etc/dpkg/dpkg.cfg.d/fast", "force-unsafe-io\n")
    gpu.install(node)
    images.import_image(node)
    mirror.serve(node)
    yield node


@pytest.fixture
def node(booted: Node) -> Node:
    """The same node, with no repository and no toolkit."""
    return cleaned(booted)


def cleaned(booted: Node) -> Node:
    booted.sh('DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge "$@" >/dev/null 2>&1 || true', *TOOLKIT)
    booted.sh(
        "apt-get clean; rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/* /etc/apt/preferences.d/* /etc/apt/keyrings/* "
        '/usr/share/keyrings/nvidia* /usr/share/keyrings/cuda* /var/lib/gpumend /var/lib/apt/lists/* "$1" '
        "/etc/nvidia-container-runtime /etc/cdi /var/run/cdi /etc/docker/daemon.json /srv/offline",
        f"{ROOT}/old",
    )
    return booted


def files(node: Node, *paths: str) -> dict[str, Any]:
    """What lies below these paths; of a directory neither its times nor its size."""
    return {path: entry for path, entry in node.tree(*paths).items() if entry[0] != "directory"}


def wants(uri: str = f"{ADDRESS}/lnc", name: str = "toolkit", **entry: Any) -> dict[str, Any]:
    return {"repositories": {name: {"uri": uri, **entry}}}


def signed(key: Key, **entry: Any) -> dict[str, Any]:
    return wants(fingerprint=key.fingerprint, key=key.public, **entry)


def add(node: Node, wanted: dict[str, Any], extra: str = "", **more: Any) -> dict[str, Any]:
    """What became of the repositories' transaction, without SSH."""
    data = planned(node, Component.REPOSITORIES, RUN, wanted)
    return result_of(carry_out(node, {**data, **more}, extra))


def sees_gpu(node: Node, options: tuple[str, ...]) -> bool:
    done = node.run(["docker", "run", "--rm", *options, images.BASE, "ls", "/dev/nvidia0"], check=False)
    return done.returncode == 0 and done.stdout == "/dev/nvidia0\n"


def provision(lab: Lab, node: Node, wanted: dict[str, Any], dry: bool = False) -> Ran:
    return start(lab, Target(node, wanted=wanted), deploy="provision", dry=dry).finish()


def versions(node: Node, *names: str) -> set[str]:
    done = node.run(
        ["dpkg-query", "-W", "-f=${db:Status-Abbrev}${Version}\n", *(names or TOOLKIT)], check=False
    )
    return {row[3:].strip() for row in done.stdout.splitlines() if row[1:2] == "i"}


# --- repositories and keys


def test_a_signed_repository_is_added_and_its_packages_are_known(
    node: Node, signer: Signer, key: Key
) -> None:
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(NEW)), signer, key)
    wanted = signed(key)
    done = add(node, wanted)
    assert done["status"] == "changed" and "signed as wanted" in done["detail"], done
    assert f"Candidate: {NEW}-1" in node.run(["apt-cache", "policy", TOOLKIT[0]]).stdout
    assert node.run(["apt-get", "update", "-qq"]).stderr == "", "apt itself has nothing to say of it"
    with pytest.raises(LookupError):
        planned(node, Component.REPOSITORIES, RUN, wanted)
    undo = {"verb": "rollback", "run": RUN, "who": "test", "restarts": "idle"}
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert not node.exists(SOURCE) and not node.exists(KEYRING)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("signed by another", "NO_PUBKEY|Missing key|not signed|cannot be verified|key"),
        ("index changed", "Hash Sum mismatch|hash|size"),
        ("404", "404"),
        ("stalls", "Connection failed|timed out"),
        ("no such host", "127.0.0.1:9"),
    ],
)
def test_what_does_not_answer_as_it_has_to_is_never_trusted(
    node: Node, signer: Signer, key: Key, what: str, words: str
) -> None:
    packages = mirror.packed(toolkit.debs(NEW))
    mirror.publish(node, "lnc", packages, signer, signer.key("other") if what == "signed by another" else key)
    if what == "index changed":
        node.write(f"{ROOT}/lnc/Packages", mirror.index(packages[:-1]))
    uri = {"404": f"{ADDRESS}/gone", "stalls": SILENT, "no such host": "http://127.0.0.1:9/lnc"}.get(
        what, f"{ADDRESS}/lnc"
    )
    tree = files(node, *APT)
    with fault("a repository that is not right"):
        seen = Before.of(node, SOURCE, KEYRING)
        # Its text says how long a server may be silent; a test has not so long.
        done = add(node, wants(uri, fingerprint=key.fingerprint, key=key.public), extra="SILENCE = 2")
        assert done["status"] == "refused", done
        assert uri in done["detail"] and any(word in done["detail"] for word in words.split("|")), done
        assert files(node, *APT) == tree
        assert starts(node)
        seen.check()


def test_keys_that_apt_would_refuse_or_nobody_named_are_refused_in_the_audit(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    past = ("--faked-system-time", "20250101T000000")
    weak, expired = (
        signer.key("weak", *past, "--cert-digest-algo", "SHA1"),
        signer.key("expired", *past, lasts="30d"),
    )
    wrong = key._replace(public=weak.public)
    tree = files(node, *APT)
    for each, wanted, words in (
        (expired, signed(expired), "has expired"),
        (weak, signed(weak), "SHA-1"),
        (weak, signed(wrong), f"it has the key {weak.fingerprint}, wanted is {key.fingerprint} alone"),
    ):
        # gpg signs nothing with a key that has expired; of a weak one it counts when it has signed.
        mirror.publish(node, "lnc", mirror.packed([LISTED]), signer, each, *(past if each is expired else ()))
        with pytest.raises(LookupError):
            planned(node, Component.REPOSITORIES, RUN, wanted)
        found = start(lab, Target(node, wanted=wanted), deploy="repositories", dry=True).finish()
        assert found.rc == 3 and words in found.finding(node, "GM230")["refused"], found.said
        assert files(node, *APT) == tree and starts(node)
    # What the audit says beforehand is what apt itself does.
    node.write("/etc/apt/keyrings/k.asc", weak.public)
    node.write("/etc/apt/sources.list.d/k.list", f"deb [signed-by=/etc/apt/keyrings/k.asc] {ADDRESS}/lnc /\n")
    said = node.run(["apt-get", "update"], check=False)
    assert said.returncode != 0 and "SHA1" in said.stdout + said.stderr, said


def test_a_keyring_that_apt_cannot_read_and_a_second_signed_by_are_mended(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(NEW)), signer, key)
    assert add(node, signed(key))["status"] == "changed"
    node.sh("chmod 0640 $1", KEYRING)
    node.write("/etc/apt/keyrings/other.asc", key.public)
    old = "/etc/apt/sources.list.d/libnvidia-container.list"
    node.write(old, f"deb [signed-by=/etc/apt/keyrings/other.asc] {ADDRESS}/lnc /\n")
    said = node.run(["apt-get", "update"], check=False)
    assert "Conflicting values set for option Signed-By" in said.stderr, "the fault must be seen first"
    done = start(lab, Target(node, wanted=signed(key)), deploy="repositories").finish()
    assert done.rc == 0 and done.statuses(node) == {Component.REPOSITORIES: "changed"}, done.said
    assert not node.exists(old) and node.run(["stat", "-c", "%a", KEYRING]).stdout == "644\n"
    assert node.run(["apt-get", "update", "-qq"]).stderr == ""


def test_the_lock_and_a_full_disk(node: Node, signer: Signer, key: Key) -> None:
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(NEW)), signer, key)
    tree = files(node, "/etc/apt", "/usr/share/keyrings")
    with AptLock(node, "/var/lib/apt/lists/lock"):
        done = add(node, signed(key), package_wait=1)
        assert done["status"] == "refused" and "lock is held by process" in done["detail"], done
    # The lists come last: where they do not fit, what was added goes again.
    node.sh("mount -t tmpfs -o size=1k,nr_inodes=8 tmpfs /var/lib/apt/lists")
    try:
        with fault("full disk"):
            done = add(node, signed(key))
            assert done["status"] == "put_back", done
    finally:
        node.sh("umount /var/lib/apt/lists")
    assert files(node, "/etc/apt", "/usr/share/keyrings") == tree and starts(node)


KILLS = {
    "while it is tried": "def put(*_, **__): os.kill(os.getpid(), signal.SIGKILL)",
    "before its lists": f"def wait_for_lock(*_):\n    if os.path.exists({SOURCE!r}): os.kill(os.getpid(), signal.SIGKILL)",
    "after its lists": "def prove(*_): os.kill(os.getpid(), signal.SIGKILL)",
}


@pytest.mark.parametrize("at", KILLS)
def test_killed_and_started_again_it_ends_the_same(node: Node, signer: Signer, key: Key, at: str) -> None:
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(NEW)), signer, key)
    tree = files(node, "/etc/apt", "/usr/share/keyrings")
    data = planned(node, Component.REPOSITORIES, RUN, signed(key))
    with fault("kill -9"):
        seen = Before.of(node, SOURCE, KEYRING).would_be(data)
        assert carry_out(node, data, KILLS[at]).returncode != 0
        seen.check()
        journal = f"/var/lib/gpumend/runs/{RUN}/{Component.REPOSITORIES}/journal.json"
        if node.exists(journal):
            recover = {
                "verb": "recover",
                "journals": [journal],
                "run": "next",
                "who": "test",
                "restarts": "idle",
            }
            assert result_of(carry_out(node, recover))["status"] in ("changed", "unchanged")
        assert files(node, "/etc/apt", "/usr/share/keyrings") == tree
        assert result_of(carry_out(node, {**data, "run": f"{RUN}b"}))["status"] == "changed"


# --- what is taken of them

INSTALL = {"toolkit": {"install": True}}


def install(node: Node, wanted: dict[str, Any], run: str = f"{RUN}p") -> dict[str, Any]:
    """What became of the toolkit's packages, without SSH."""
    return result_of(carry_out(node, planned(node, Component.PACKAGES, run, {**wanted, **INSTALL})))


@pytest.mark.parametrize("small", ["/var/cache/apt/archives", toolkit.LIBRARY])
def test_a_full_disk_in_an_upgrade_leaves_the_old_toolkit_at_work(
    node: Node, signer: Signer, key: Key, small: str
) -> None:
    mirror.publish(node, "lnc", mirror.packed([*toolkit.debs(OLD), *toolkit.debs(NEW)]), signer, key)
    assert add(node, signed(key))["status"] == "changed"
    old = {**signed(key), "toolkit": {"install": True, "version": OLD}}
    data = planned(node, Component.PACKAGES, f"{RUN}o", old)
    assert result_of(carry_out(node, data))["status"] == "changed"
    new = planned(node, Component.PACKAGES, f"{RUN}p", {**old, "toolkit": {"install": True, "version": NEW}})
    node.sh(
        'cp -a "$1" /run/kept; mount -t tmpfs -o size=$(du -sk "$1" | cut -f1)k tmpfs "$1"; cp -a /run/kept/. "$1"',
        small,
    )
    try:
        with fault("full disk"):
            done = result_of(carry_out(node, new))
            assert done["status"] in ("put_back", "refused") and "space" in done["detail"], done
            assert versions(node) == {f"{OLD}-1"} and starts(node)
            assert OLD in node.run(["nvidia-ctk", "--version"]).stdout
    finally:
        node.sh('umount "$1"; rm -rf /run/kept', small)
    assert result_of(carry_out(node, {**new, "run": f"{RUN}q"}))["status"] == "changed"
    assert versions(node) == {f"{NEW}-1"} and starts(node)


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("tampered with", "Hash Sum mismatch|size|hash"),
        ("gone", "404"),
        ("never sent", "timed out|Connection failed"),
        ("too big for the cache", "space"),
        ("too big for the disk", "space"),
    ],
)
def test_packages_that_do_not_come_are_put_back_and_containers_start(
    node: Node, signer: Signer, key: Key, what: str, words: str
) -> None:
    packages = mirror.packed(toolkit.debs(NEW))
    mirror.publish(node, "lnc", packages, signer, key)
    assert add(node, signed(key))["status"] == "changed"
    second = f"{ROOT}/lnc/{packages[1].name}"
    small = {"too big for the cache": "/var/cache/apt/archives", "too big for the disk": toolkit.LIBRARY}.get(
        what
    )
    node.run(["docker", "run", "-d", "--name", "job", images.BASE, "sleep", "86400"])
    if what == "tampered with":
        node.write(second, packages[1].data.replace(b"nvidia-ctk", b"nvidia-cTk"))
    elif what == "gone":
        node.sh('rm "$1"', second)
    elif what == "never sent":
        node.write("/etc/apt/apt.conf.d/short", 'Acquire::http::Timeout "2";\nAcquire::Retries "0";\n')
        node.sh('mv "$1" "$1.kept"; mkfifo "$1"', second)
    elif small:
        node.sh('mkdir -p "$1"; mount -t tmpfs -o size=16k tmpfs "$1"', small)
    try:
        with fault("packages that do not come"):
            seen = Before.of(node, "/etc/docker/daemon.json")
            done = install(node, signed(key))
            assert done["status"] in ("put_back", "refused") and "apt install" in done["detail"], done
            assert re.search(words, done["detail"]), done
            assert versions(node) == set() and starts(node)
            seen.check()
            assert node.run(["docker", "inspect", "-f", "{{.State.Running}}", "job"]).stdout == "true\n"
    finally:
        node.sh("docker rm -f job; rm -f /etc/apt/apt.conf.d/short")
        if small:
            node.sh('umount "$1"', small)
    mirror.publish(node, "lnc", packages, signer, key)
    assert install(node, signed(key), f"{RUN}q")["status"] == "changed", (
        "the next run, with room and packages"
    )
    assert versions(node) == {f"{NEW}-1"} and starts(node)


def test_three_of_four_packages_in_a_new_version_are_not_taken(node: Node, signer: Signer, key: Key) -> None:
    """nct#1091."""
    mixed = [
        *toolkit.debs(OLD),
        *(deb for deb in toolkit.debs(NEW) if deb.name != "libnvidia-container1"),
    ]
    mirror.publish(node, "lnc", mirror.packed(mixed), signer, key)
    assert add(node, signed(key))["status"] == "changed"
    assert install(node, signed(key))["status"] == "changed"
    assert versions(node) == {f"{OLD}-1"}


def test_a_pin_that_forbids_is_named_and_nothing_is_tried(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    mirror.publish(node, "lnc", mirror.packed([*toolkit.debs(NEW), LISTED]), signer, key)
    node.write(
        "/etc/apt/preferences.d/00-site", "Package: nvidia-* libnvidia-*\nPin: release *\nPin-Priority: -1\n"
    )
    done = provision(lab, node, signed(key))
    assert done.rc == 3 and Component.PACKAGES not in done.statuses(node), done.said
    assert "a pin of this host forbids" in done.finding(node, "GM203")["refused"]
    assert versions(node) == set() and starts(node)


def test_of_two_origins_with_one_name_the_toolkit_s_own_is_taken(
    node: Node, signer: Signer, key: Key
) -> None:
    """NVIDIA's CUDA repository has the toolkit, too, and its pin gives it 600."""
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(OLD)), signer, key)
    mirror.publish(node, "cuda", mirror.packed(toolkit.debs(NEW)), signer, key, label="NVIDIA CUDA")
    node.write(
        "/etc/apt/preferences.d/cuda-repository-pin-600",
        "Package: *\nPin: release l=NVIDIA CUDA\nPin-Priority: 600\n",
    )
    both = {"fingerprint": key.fingerprint, "key": key.public}
    # Of two hosts' names, for a pin tells origins apart by them.
    wanted = {
        "repositories": {
            "toolkit": {"uri": f"{ADDRESS}/lnc", **both},
            "cuda": {"uri": f"{BY_NAME}/cuda", **both},
        }
    }
    assert add(node, wanted)["status"] == "changed"
    assert install(node, wanted)["status"] == "changed"
    assert versions(node) == {f"{OLD}-1"}


NOBLE = 'ID=ubuntu\nID_LIKE=debian\nVERSION_ID="24.04"\nVERSION_CODENAME=noble\nPRETTY_NAME="Ubuntu 24.04, as tests see it"\n'


def test_the_list_that_another_release_s_cuda_keyring_brings_goes(
    node: Node, signer: Signer, key: Key
) -> None:
    """ubuntu2204's package on 24.04: one version, another content in each repository."""
    wrong = "/etc/apt/sources.list.d/cuda-ubuntu2204-x86_64.list"
    line = "deb [signed-by=/usr/share/keyrings/cuda-archive-keyring.gpg] https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2204/x86_64/ /\n"
    keyring = Deb("cuda-keyring", "1.1-1", files={wrong: (line.encode(), 0o644)}, conffiles=(wrong,))
    node.write("/run/cuda-keyring.deb", mirror.packed([keyring])[0].data)
    node.run(["dpkg", "-i", "/run/cuda-keyring.deb"])
    node.sh("cp --remove-destination $(readlink -f /etc/os-release) /run/os-release.kept")
    node.sh("rm /etc/os-release")
    node.write("/etc/os-release", NOBLE)
    try:
        mirror.publish(node, "cuda", mirror.packed([LISTED]), signer, key)
        wanted = wants(f"{ADDRESS}/cuda", "cuda", fingerprint=key.fingerprint, key=key.public)
        assert add(node, wanted)["status"] == "changed"
        assert not node.exists(wrong) and node.run(["apt-get", "update", "-qq"]).stderr == ""
        undo = {"verb": "rollback", "run": RUN, "who": "test", "restarts": "idle"}
        assert result_of(carry_out(node, undo))["status"] == "changed" and node.exists(wrong)
    finally:
        node.sh("dpkg --purge cuda-keyring; mv /run/os-release.kept /etc/os-release")


# --- from bare to a container with the device


def bare(node: Node) -> None:
    """No engine is there."""
    names = [name for name in DOCKER if versions(node, name)]
    node.sh(
        "systemctl stop docker.socket docker.service || true"
    )  # Ubuntu's purge leaves a socket that nobody can use
    node.sh('DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge "$@" >/dev/null 2>&1', *names)
    node.sh("rm -rf /etc/docker /var/lib/docker/* /var/lib/containerd/*")
    assert node.run(["sh", "-c", "command -v dockerd"], check=False).returncode != 0


def test_a_bare_node_gets_docker_and_the_toolkit_from_a_signed_mirror(
    node: Node, lab: Lab, signer: Signer, key: Key, tmp_path: Path
) -> None:
    bare(node)
    packages = [
        *mirror.packed_again(SUITE),
        *mirror.packed([*toolkit.debs(OLD), *toolkit.debs(NEW), LISTED]),
    ]
    mirror.publish(node, "lnc", packages, signer, key)
    wanted = {**signed(key), "engine": "docker.io", "handover": str(tmp_path / "nodes")}
    tree = node.tree("/etc", "/var/lib/dpkg", "/var/lib/apt")
    found = provision(lab, node, wanted, dry=True)
    assert found.rc == 3 and {"GM230", "GM233", "GM203"} <= set(found.codes(node, "fail")), found.said
    assert node.tree("/etc", "/var/lib/dpkg", "/var/lib/apt") == tree, "an audit writes nothing"
    proven = {**wanted, "prove": {"image": images.PYTHON}}
    first = provision(lab, node, proven)
    assert first.rc == 1 and set(first.statuses(node).values()) == {"changed"}, first.said
    told = handed_over(tmp_path / "nodes", node)
    assert told["proof"]["status"] == "pending", "an engine that came just now has no image: nothing failed"
    assert f"docker has no image {images.PYTHON}: `docker pull {images.PYTHON}`" in told["proof"]["detail"]
    run = first.report["run"]
    goes_on(lab, node, wanted, DEVICE)
    told = handed_over(tmp_path / "nodes", node)
    assert told["proof"]["status"] == "not proven" and "prove.image" in told["proof"]["detail"]
    images.import_python_image(node)
    done = provision(lab, node, proven)
    assert done.rc == 0 and done.statuses(node) == {}, done.said
    told = handed_over(tmp_path / "nodes", node)
    assert told["proof"] == {"status": "changed", "detail": "proven in a container: runtime, device"}
    rows = {row["name"]: row for row in told["installed"]}
    assert {*TOOLKIT, "docker.io", "containerd", "runc"} <= set(rows)
    for name, version in ((TOOLKIT[0], f"{NEW}-1"), ("docker.io", *versions(node, "docker.io"))):
        assert rows[name] == {
            "name": name,
            "version": version,
            "from": f"{ADDRESS}/lnc /",
            "fingerprints": [key.fingerprint],
        }
    stays_while_it_is_used(node, run)


def handed_over(directory: Path, node: Node) -> dict[str, Any]:
    """The node's own document, which is there as a page, too."""
    page = (directory / f"{node.name}.html").read_text()
    found: dict[str, Any] = json.loads((directory / f"{node.name}.json").read_text())["hosts"][node.name]
    assert all(f"{row['name']} {row['version']} from" in page for row in found["installed"])
    return found


def stays_while_it_is_used(node: Node, run: str) -> None:
    """A rollback takes an engine away where nothing runs in it, and leaves what lies in its directory."""
    node.run(["docker", "run", "-d", "--name", "job", images.BASE, "sleep", "86400"])
    undo = {"verb": "rollback", "run": run, "who": "test", "restarts": "idle"}
    held = result_of(carry_out(node, undo))
    assert held["status"] == "refused" and "it would stop 1 running: job" in held["detail"], held
    node.run(["docker", "rm", "-f", "job"])
    node.write("/var/lib/docker/volumes/theirs/_data/kept", "yes")
    assert result_of(carry_out(node, undo))["status"] == "changed"
    assert versions(node, "docker.io") == versions(node) == set()
    assert node.read("/var/lib/docker/volumes/theirs/_data/kept") == b"yes"


@pytest.mark.exhaustive
def test_a_run_that_was_killed_after_its_engine_came_goes_on(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    bare(node)
    mirror.publish(
        node, "lnc", [*mirror.packed_again(SUITE), *mirror.packed([*toolkit.debs(NEW), LISTED])], signer, key
    )
    wanted = {**signed(key), "engine": "docker.io"}
    with fault("kill -9"):
        assert add(node, wanted)["status"] == "changed"
        engine = planned(node, Component.ENGINE, f"{RUN}e", wanted)
        # Its packages are there, and nobody has asked it yet.
        assert (
            carry_out(node, engine, "def command(*_): os.kill(os.getpid(), signal.SIGKILL)").returncode != 0
        )
        assert versions(node, "docker.io") != set()
        run = goes_on(lab, node, wanted, DEVICE).report["run"]
    stays_while_it_is_used(node, run)


ORDER = (Component.REPOSITORIES, Component.ENGINE, Component.PACKAGES)
KEPT = ("/etc/apt", "/usr/share/keyrings", "/etc/docker", "/etc/cdi", "/etc/nvidia-container-runtime")


def ended(node: Node) -> tuple[str, ...]:
    """What a provisioned node has: packages with their versions, and the files that came with bytes and mode."""
    packages = node.run(["dpkg-query", "-W", "-f=${db:Status-Abbrev} ${Package} ${Version}\n"]).stdout
    kept = [f"{path} {entry[:4]}" for path, entry in sorted(files(node, *KEPT).items())]
    return packages, *kept


@pytest.mark.exhaustive
def test_killed_at_every_step_and_started_again_a_provision_ends_the_same(
    node: Node, lab: Lab, signer: Signer, key: Key
) -> None:
    packages = [*mirror.packed_again(SUITE), *mirror.packed([*toolkit.debs(NEW), LISTED])]
    mirror.publish(node, "lnc", packages, signer, key)
    wanted = {**signed(key), "engine": "docker.io"}
    ends: dict[tuple[str, ...], list[str]] = {}
    killed = []
    for number, component in enumerate(ORDER):
        nth, alive = 1, False
        while not alive:
            cleaned(node)
            bare(node)
            mirror.publish(node, "lnc", packages, signer, key)
            for before in ORDER[:number]:
                data = planned(node, before, f"{RUN}{before}", {**wanted, **INSTALL})
                assert result_of(carry_out(node, data))["status"] == "changed"
            data = planned(node, component, f"{RUN}{component}", {**wanted, **INSTALL})
            alive = carry_out(node, data, KILL.format(nth=nth)).returncode == 0
            with fault("kill -9"):
                goes_on(lab, node, wanted, DEVICE)
                ends.setdefault(ended(node), []).append(f"{component} {nth}")
            if not alive:
                killed.append(f"{component} {nth}")
            nth += 1
    print(f"killed {len(killed)} times: {', '.join(killed)}")
    assert len(killed) >= 9 and len(ends) == 1, list(ends.values())


def goes_on(lab: Lab, node: Node, wanted: dict[str, Any], *paths: tuple[str, ...]) -> Ran:
    """The next run ends as one that nobody broke off: containers have the device, and one more changes nothing."""
    done = provision(lab, node, wanted)
    assert done.rc == 0 and done.codes(node) == [], done.said
    images.import_image(node)
    assert versions(node) == {f"{NEW}-1"}
    assert all(sees_gpu(node, path) for path in (RUNTIME, *paths))
    again = provision(lab, node, wanted)
    assert again.rc == 0 and again.statuses(node) == {}, again.said
    return done


@pytest.mark.parametrize(
    "suite", [*(pytest.param(suite, marks=pytest.mark.exhaustive) for suite in ("bookworm", "sid")), "noble"]
)
def test_bare_nodes_of_other_suites(lab: Lab, boot: Boot, signer: Signer, key: Key, suite: str) -> None:
    node = boot(suite, None)
    gpu.install(node)
    mirror.serve(node)
    bare(node)
    node.sh("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*")
    packages = [*mirror.packed_again(suite), *mirror.packed([*toolkit.debs(NEW), LISTED])]
    mirror.publish(node, "lnc", packages, signer, key)
    # Docker 20.10 knows no CDI.
    paths = () if suite == "bookworm" else (DEVICE,)
    goes_on(lab, node, {**signed(key), "engine": "docker.io"}, *paths)


@pytest.mark.exhaustive
def test_killed_before_every_step_of_adding(node: Node, signer: Signer, key: Key) -> None:
    mirror.publish(node, "lnc", mirror.packed(toolkit.debs(NEW)), signer, key)
    old = "/etc/apt/sources.list.d/libnvidia-container.list"
    node.write(old, f"deb [signed-by=/etc/apt/keyrings/old.asc] {ADDRESS}/lnc /\n")
    data = planned(node, Component.REPOSITORIES, RUN, signed(key))
    killed = kill_at_every_step(node, data, ["/etc/apt", "/usr/share/keyrings"])
    assert len(killed) >= 8, killed


@pytest.mark.exhaustive
def test_killed_before_every_step_of_an_engine(node: Node, lab: Lab, signer: Signer, key: Key) -> None:
    bare(node)
    mirror.publish(node, "lnc", mirror.packed_again(SUITE), signer, key)
    wanted = {**signed(key), "engine": "docker.io"}
    assert add(node, wanted)["status"] == "changed"
    data = planned(node, Component.ENGINE, f"{RUN}e", wanted)
    asked = [["sh", "-c", "dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' | grep ^i"]]
    killed = kill_at_every_step(node, data, ["/etc/apt"], asked, containers=False)
    assert len(killed) >= 3, killed


def test_a_directory_of_packages_does_the_whole_of_it_without_a_network(
    node: Node, lab: Lab, tmp_path: Path
) -> None:
    """The node reaches itself, and the lab's cable, over which it is asked."""
    bare(node)
    node.write("/etc/apt/sources.list.d/away.list", "deb http://192.0.2.1/debian trixie main\n")
    node.sh("mkdir -p /srv/offline")
    assert node.run(["ip", "route", "get", "192.0.2.1"], check=False).returncode != 0
    reached = node.run(["ip", "-4", "route", "show", "table", "main"]).stdout.splitlines()
    assert [row for row in reached if " dev docker0 " not in row and " dev host0 " not in row] == []
    for each in [*mirror.packed_again(SUITE), *mirror.packed([*toolkit.debs(NEW), *cuda_toolkit.debs()])]:
        node.run_bytes(["dd", "status=none", "bs=1M", f"of=/srv/offline/{each.name}"], each.data)
    wanted: dict[str, Any] = {
        "repositories": {"toolkit": {"directory": "/srv/offline"}},
        "engine": "docker.io",
    }
    wanted["cuda_toolkit"] = {"version": "12.4", "flavour": "toolkit"}
    wanted["handover"] = str(tmp_path)
    node.write("/srv/image.tar", images.saved_image(node.suite))
    wanted["prove"] = {"image": images.BASE, "archive": "/srv/image.tar", "command": ["ls", "/dev/nvidia0"]}
    node.sh("chmod 0777 /srv/offline")
    held = result_of(carry_out(node, planned(node, Component.REPOSITORIES, RUN, wanted)))
    assert held["status"] == "refused" and "/srv/offline" in held["detail"], held
    node.sh("chmod 0755 /srv/offline")
    listed = node.tree("/srv/offline")
    first = provision(lab, node, wanted)
    assert first.rc == 0 and first.codes(node) == [], first.said
    assert handed_over(tmp_path, node)["proof"]["detail"] == "proven in a container: runtime, device"
    goes_on(lab, node, wanted, DEVICE)
    assert node.tree("/srv/offline") == listed, "nothing is written there"
    rows = {row["name"]: row["from"] for row in handed_over(tmp_path, node)["installed"]}
    assert rows["cuda-toolkit-12-4"] == rows["docker.io"] == rows[TOOLKIT[0]] == "directory /srv/offline"
    node.sh(
        'apt-get -qq -y purge "$@"', *(deb.name for deb in cuda_toolkit.debs() if versions(node, deb.name))
    )
