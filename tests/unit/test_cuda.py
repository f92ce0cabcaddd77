"""CUDA facts and rules: packages, trees, compat, CUPTI, the decision table, what is planned."""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumend.plan.plan import plan
from gpumend.plan.step import Step, WriteFile
from gpumend.plan.transaction import Transaction
from gpumend.rules.cuda.decision import DECISIONS, Case, decide
from gpumend.rules.cuda.releases import documented, served
from gpumend.rules.data import check, load
from gpumend.rules.finding import Component
from gpumend.rules.judge import judge
from gpumend.rules.rule import Context
from gpumend.rules.wanted import parse as parse_wanted
from gpumend.run.local import nvml
from gpumend.state import cuda, gpu
from gpumend.state.gpu import Detail, Details
from gpumend.state.reading import Reading
from gpumend.text.version import parse_version
from tests.unit.build import (
    TODAY,
    Host,
    Item,
    a_directory,
    absent,
    capture,
    container,
    dangling,
    file,
    findings,
    fixture,
    h100,
    h100_files,
    healthy,
    link,
    outcome,
    the,
    unread,
    verdict,
)

SAMPLES = json.loads(fixture("cuda/cuda_package_strings.json"))
COMPAT = "/usr/local/cuda-13.0/compat"
NOTE_13_0 = '{"format":1,"CUDA version":"13.0","driver":[535,550,565,570,575,580],"device":[1,2,7,8,9,10,11,12,13,14]}'
LINKER = "/etc/ld.so.conf.d/00-gpumend-cuda-compat.conf"


def version(text: str | None) -> tuple[int, ...] | None:
    return tuple(int(part) for part in text.split(".")) if text else None


# --- packages


@pytest.mark.parametrize("row", SAMPLES, ids=lambda row: f"{row['name']}-{row['version']}")
def test_every_sample(row: Mapping[str, Any]) -> None:
    found = cuda.classify(row["name"], row["version"])
    assert (found.role, found.cuda) == (row["role"], version(row["expected_cuda"]))


@given(st.data())
@pytest.mark.parametrize(
    "row", cuda.ROLES, ids=[f"{number}-{row[0]}" for number, row in enumerate(cuda.ROLES)]
)
def test_each_name_of_a_role_begins_as_its_row_says(row: Any, data: st.DataObject) -> None:
    _, beginnings, pattern = row
    name = data.draw(st.from_regex(getattr(pattern, "compiled", pattern), fullmatch=True))
    assert name.startswith(beginnings)


@pytest.mark.parametrize(
    ("name", "text", "role", "release"),
    [
        # the name beats the version
        ("libnpp-12-9", "12.4.1.87-1", "library", "12.9"),
        ("cuda-cccl-13-4", "13.3.4.3.1-1", "toolkit", "13.4"),
        ("libcublas-devel-12-9", "0:12.9.1.4-1", "library", "12.9"),
        ("libnvjitlink-dev-12-10", "12.10.3-1", "library", "12.10"),
        ("cuda-cupti-dev-11-0", "11.0.221-1", "toolkit", "11.0"),
        ("cuda-nvcc-12-6:amd64", "12.6.68-1", "toolkit", "12.6"),
        ("cuda-driver-dev-12-4", "12.4.127-1", "toolkit", "12.4"),
        ("cuda-12-9", "12.9.1-1", "toolkit", "12.9"),
        ("cuda-runtime-12-9", "12.9.1-1", "toolkit", "12.9"),
        ("gds-tools-12-9", "1.14.1.1-1", "library", "12.9"),
        # metas that float
        ("cuda", "12.4.1-1", "rolling_meta", "12.4"),
        ("cuda-toolkit-12", "12.9.1-1", "rolling_meta", "12.9"),
        ("cuda-toolkit", "13.1.1-1", "rolling_meta", "13.1"),
        # say nothing
        ("cuda-toolkit-config-common", "13.1.80-1", "none", None),
        ("cuda-toolkit-12-8-config-common", "12.8.90-1", "none", None),
        ("cuda-keyring", "1.1-1", "none", None),
        ("cuda-repo-rhel8-11-8-local", "11.8.0_520.61.05-1", "none", None),
        ("cudnn-local-repo-ubuntu2204-9.5.0", "1.0-1", "none", None),
        ("nvidia-driver-local-repo-ubuntu2404-580.95.05", "1.0-1", "none", None),
        ("nv-tensorrt-local-repo-ubuntu2204-8.6.1-cuda-12.0", "1.0-1", "none", None),
        ("libnvidia-container1", "1.18.1-1", "none", None),
        ("libnvidia-container-tools", "1.18.1-1", "none", None),
        ("nvidia-container-toolkit-base", "1.18.1-1", "none", None),
        ("nvidia-docker2", "2.14.0-1", "none", None),
        ("nvidia-driver-pinning-580", "580-1", "none", None),
        ("libcurl4", "7.88.1-10", "none", None),
        ("libcups2t64", "2.4.7-1.2", "none", None),
        ("libnvme1t64", "1.8-3", "none", None),
        # what it was built for
        ("libcudnn8", "8.9.7.29-1.cuda12.2", "built_for", "12.2"),
        ("libcudnn8-dev", "8.6.0.163-1+cuda11.8", "built_for", "11.8"),
        ("libcudnn9-cuda-12", "9.5.1.17-1", "built_for", "12"),
        ("libcudnn9-devel-cuda-13", "9.14.0.64-1", "built_for", "13"),
        ("libnccl2", "2.28.3-1+cuda13.0", "built_for", "13.0"),
        ("libnccl-static", "2.27.3-1+cuda12.9", "built_for", "12.9"),
        ("libnvinfer10", "10.14.1.48-1+cuda13.0", "built_for", "13.0"),
        ("python3-libnvinfer", "10.3.0.30-1+cuda12.5", "built_for", "12.5"),
        ("tensorrt", "8.6.1.6-1+cuda12.0", "built_for", "12.0"),
        ("libcutensor2-cuda-12", "2.2.0.0-1", "built_for", "12"),
        # the distribution's own: the SONAME is no release, CUDA's number stands after the tilde
        ("nvidia-cuda-toolkit", "12.4.131~12.4.1-2", "distro_toolkit", "12.4"),
        ("nvidia-cuda-dev", "11.5.1-1ubuntu1", "distro_toolkit", "11.5"),
        ("nvidia-cuda-toolkit-gcc", "11.8.0-5~deb12u1", "distro_toolkit", "11.8"),
        ("libcudart11.0", "11.5.117~11.5.1-1ubuntu1", "distro_library", "11.5"),
        ("libcublas11", "11.7.4.6~11.5.1-1ubuntu1", "distro_library", "11.5"),
        ("libcupti12", "12.4.127~12.4.1-2", "distro_library", "12.4"),
        # drivers
        ("nvidia-driver-550-server-open", "550.163.01-0ubuntu0.24.04.1", "driver", None),
        ("nvidia-open-580", "580.95.05-0ubuntu1", "driver", None),
        ("cuda-drivers-580", "580.95.05-0ubuntu1", "driver", None),
        ("cuda-drivers-fabricmanager", "580.95.05-1", "driver", None),
        ("libnvidia-compute-550", "550.163.01-0ubuntu0.24.04.1", "driver", None),
        ("libnvidia-ml1", "550.163.01-2", "driver", None),
        ("libcuda1", "550.163.01-2", "driver", None),
        ("nvidia-kernel-open-dkms", "580.95.05-0ubuntu1", "driver", None),
        ("linux-modules-nvidia-550-6.8.0-60-generic", "6.8.0-60.63+1", "driver", None),
        ("kmod-nvidia-open-dkms", "3:580.95.05-1.el9", "driver", None),
        ("xorg-x11-drv-nvidia-cuda-libs", "3:550.54.14-1.fc39", "driver", None),
        ("cuda-compat-12-9", "575.57.08-0ubuntu1", "compat", "12.9"),
    ],
)
def test_other_packages(name: str, text: str, role: str, release: str | None) -> None:
    found = cuda.classify(name, text)
    assert (found.role, found.cuda) == (role, version(release))


def test_report_003_is_read_right() -> None:
    """The host's one CUDA package: no toolkit, no release of its own, a cuDNN that was built for 12.2."""
    host = Host(commands={"dpkg": (1, "ii \tlibcudnn8\t8.9.7.29-1+cuda12.2\n", "")})
    found = host.state().cuda
    assert [(p.name, p.role, p.cuda) for p in found.packages.need()] == [("libcudnn8", "built_for", (12, 2))]
    assert found.of_role("toolkit", "library", "distro_toolkit") == () and found.trees == ()


def test_packages_that_are_not_installed_do_not_count() -> None:
    rows = (
        "rc \tcuda-compat-12-9\t575.57.08-1\niU \tcuda-nvcc-12-6\t12.6.68-1\nhi \tcuda-nvcc-12-8\t12.8.93-1\n"
    )
    state = Host(commands={"dpkg": (0, rows, "")}).state()
    assert [found.name for found in state.cuda.packages.need()] == ["cuda-nvcc-12-8"]
    assert state.packages.held == {"cuda-nvcc-12-8"}


def test_rpm_packages() -> None:
    rows = "cuda-toolkit-12-4\t(none):12.4.1-1\nlibcudnn8\t(none):8.9.7.29-1.cuda12.2\nlibnccl\t(none):2.27.3-1+cuda12.9\n"
    rows += "kmod-nvidia-open-dkms\t3:575.57.08-1.el9\nbash\t(none):5.1.8-9.el9\n"
    state = Host(commands={"rpm": (0, rows, "")}).state()
    assert state.packages.manager == "dnf"
    assert [(found.name, found.role, found.cuda) for found in state.cuda.packages.need()] == [
        ("cuda-toolkit-12-4", "toolkit", (12, 4)),
        ("kmod-nvidia-open-dkms", "driver", None),
        ("libcudnn8", "built_for", (12, 2)),
        ("libnccl", "built_for", (12, 9)),
    ]


def test_an_unread_database_is_unknown() -> None:
    assert outcome(healthy().but(commands={"dpkg": unread("timeout")}), "GM608") == "unknown"


# --- the ELF note


def note_bytes(text: str, order: str = "<", owner: bytes = b"NVIDIA Corporation\0") -> bytes:
    name = owner + b"\0" * (-len(owner) % 4)
    body = text.encode() + b"\0"
    return struct.pack(f"{order}III", len(owner), len(body), 1) + name + body


@pytest.mark.parametrize("order", ["<", ">"])
def test_the_note_of_the_h100(order: str) -> None:
    found = cuda.elf_note(note_bytes(NOTE_13_0, order))
    assert (
        found.cuda == (13, 0) and found.branches == (535, 550, 565, 570, 575, 580) and found.devices[-1] == 14
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 8,
        note_bytes(NOTE_13_0)[:40],
        note_bytes(NOTE_13_0, owner=b"GNU\0"),
        note_bytes("not json"),
    ],
)
def test_what_is_no_note_is_an_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        cuda.elf_note(data)


# --- trees, compat, CUPTI


def section(text: str = NOTE_13_0) -> Item:
    return {"status": "ok", "data": base64.b64encode(note_bytes(text)).decode()}


def compat_files(
    library: str = "580.95.05", tree: str = "/usr/local/cuda-13.0", note: str = NOTE_13_0
) -> dict[str, Any]:
    real = f"{tree}/compat/libcuda.so.{library}"
    return {
        tree: a_directory(),
        real: file(b"", section=section(note)),
        f"{tree}/compat/libcuda.so.1": link(f"libcuda.so.{library}", file(b""), real),
    }


def captured() -> Host:
    """The H100's CUDA as the capture has it: toolkit 13.0 from packages, no version.json, compat 580.95.05, CUPTI."""
    tree = "/usr/local/cuda-13.0"
    names = [
        "bin/nvcc",
        "lib64/libcudart.so.13.0.96",
        "targets/x86_64-linux/include/cupti.h",
        "targets/x86_64-linux/lib/libcupti.so.13",
        "targets/x86_64-linux/lib/libcupti.so.2025.3.1",
    ]
    files: dict[str, Any] = compat_files()
    for path in (tree, "/usr/local/cuda", "/usr/local/cuda-13"):
        files.update({f"{path}/{name}": file(b"") for name in names})
        files[f"{path}/compat/libcuda.so.580.95.05"] = files[f"{tree}/compat/libcuda.so.580.95.05"]
    files["/usr/local/cuda"] = link("/etc/alternatives/cuda", a_directory(), tree)
    files["/usr/local/cuda-13"] = link("/etc/alternatives/cuda-13", a_directory(), tree)
    for row in re.finditer(r"(?m)^ ?(\S+\.conf)$", "000_cuda.conf\n987_cuda-13.conf"):
        files[f"/etc/ld.so.conf.d/{row.group(1)}"] = "/usr/local/cuda/targets/x86_64-linux/lib\n"
    commands = {"nvcc": (0, capture("h100/cuda.txt"), ""), "nvidia-smi-query": (0, smi(), "")}
    return h100().but(files=files, commands=commands)


def smi(
    brand: str = "NVIDIA",
    architecture: str = "Hopper",
    driver: str = "580.159.04",
    served: str = "13.0",
    gpus: int = 1,
) -> str:
    """`nvidia-smi -q`, in the form of real ones."""
    head = (
        f"\n==============NVSMI LOG==============\n\nDriver Version                            : {driver}\n"
    )
    head += f"CUDA Version                              : {served}\n\nAttached GPUs                             : {gpus}\n"
    block = (
        "GPU 00000000:00:0{}.0\n    Product Name                          : NVIDIA H100 80GB HBM3\n"
        f"    Product Brand                         : {brand}\n    Product Architecture                  : {architecture}\n"
        "    Serial Number                         : 1752624011330\n    MIG Mode\n"
        "        Current                           : Disabled\n        Pending                           : Disabled\n"
        "    ECC Mode\n        Current                           : Enabled\n        Pending                           : Enabled\n"
    )
    return head + "".join(block.format(number) for number in range(gpus))


def test_the_h100_toolkit_has_no_version_json_and_is_read_all_the_same() -> None:
    state = captured().state()
    (tree,) = state.cuda.trees
    assert (tree.path, tree.version, tree.version_json, tree.how) == (
        "/usr/local/cuda-13.0",
        (13, 0),
        False,
        "packages",
    )
    assert state.cuda.active.value == tree.path and state.cuda.nvcc.value == (13, 0)
    assert [found.state(13) for found in state.cuda.cupti] == ["complete"]
    assert state.driver.flavour.value == "open"


def test_an_nvcc_that_root_does_not_execute_has_its_version_in_files() -> None:
    """/usr/local/cuda -> /home/USER/cuda-12.4: its nvcc is the user's, and an audit runs as root."""
    refused = {"status": "failed", "error": "not executed: /home/ann/cuda-12.4 belongs to uid 1001"}
    cuda = captured().but(commands={"nvcc": refused}).state().cuda
    assert (cuda.nvcc.value, cuda.nvcc.source) == ((13, 0), "/usr/local/cuda-13.0")
    gone = captured().but(commands={"nvcc": {"status": "absent"}}).state().cuda
    assert gone.nvcc.absent


def test_the_h100_compat_is_outgrown_and_not_active() -> None:
    (compat,) = captured().state().cuda.compats
    assert (
        compat.package == "cuda-compat-13-0"
        and compat.driver == (580, 95, 5)
        and compat.note.value is not None
    )
    found = the(captured(), "GM604")
    assert found.status == "note" and "803" in found.summary and found.change is None
    assert findings(captured(), "GM603") == []


def test_serial_numbers_stay_on_the_host() -> None:
    assert "1752624011330" not in json.dumps(captured().answer())


def tree_files(tree: str, *names: str, **texts: str) -> dict[str, Any]:
    found: dict[str, Any] = {tree: a_directory(), **{f"{tree}/{name}": file(b"") for name in names}}
    return found | {f"{tree}/{name.replace('__', '.')}": text for name, text in texts.items()}


TREE = "/usr/local/cuda-12.4"


@pytest.mark.parametrize(
    ("files", "packages", "release", "how"),
    [
        pytest.param(tree_files(TREE, "bin/nvcc"), ("cuda-nvcc-12-4",), "12.4", "packages", id="packages"),
        pytest.param(
            tree_files(TREE, "bin/nvcc", "bin/cuda-uninstaller"), (), "12.4", "runfile", id="runfile"
        ),
        pytest.param(
            tree_files(TREE, "bin/nvcc", "bin/cuda-uninstaller"),
            ("cuda-nvcc-12-4",),
            "12.4",
            "both",
            id="both",
        ),
        pytest.param(tree_files(TREE, "bin/nvcc"), (), "12.4", "unowned", id="copied"),
        pytest.param(
            tree_files(TREE, "bin/nvcc"),
            ("cuda-toolkit-12-4-config-common",),
            "12.4",
            "unowned",
            id="config-only",
        ),
        pytest.param(
            tree_files(
                "/usr/local/cuda", version__json='{"cuda":{"name":"CUDA SDK","version":"12.1.20230222"}}'
            ),
            (),
            "12.1",
            "unowned",
            id="version.json",
        ),
        pytest.param(
            tree_files("/usr/local/cuda", version__txt="CUDA Version 10.2.89\n"),
            (),
            "10.2",
            "unowned",
            id="version.txt",
        ),
        pytest.param(
            tree_files("/opt/cuda", "lib64/libcudart.so.12.10.99"),
            (),
            "12.10",
            "unowned",
            id="cudart-of-another-directory",
        ),
    ],
)
def test_trees(files: dict[str, Any], packages: tuple[str, ...], release: str, how: str) -> None:
    rows = "".join(f"ii \t{name}\t12.4.1-1\n" for name in packages)
    (tree,) = Host(files=files, commands={"dpkg": (0, rows, "")}).state().cuda.trees
    assert (tree.version, tree.how) == (version(release), how)


def test_a_directory_with_compat_alone_is_no_toolkit() -> None:
    assert Host(files=compat_files()).state().cuda.trees == ()


def test_a_broken_version_json_is_looked_past() -> None:
    (tree,) = Host(files=tree_files(TREE, "bin/nvcc", version__json="{")).state().cuda.trees
    assert tree.version == (12, 4) and not tree.version_json


HEADER, EXTRA = "targets/x86_64-linux/include/cupti.h", "extras/CUPTI/include/cupti.h"
LIBRARY, RUNFILE = "targets/x86_64-linux/lib/libcupti.so.12", "extras/CUPTI/lib64/libcupti.so.12"


def cached(*paths: str) -> tuple[int, str, str]:
    """`ldconfig -p` with these libraries."""
    rows = "".join(f"\t{path.rpartition('/')[2]} (libc6,x86-64) => {path}\n" for path in paths)
    return (0, f"{len(paths)} libs found in cache `/etc/ld.so.cache'\n{rows}", "")


@pytest.mark.parametrize(
    ("files", "cache", "state", "expected"),
    [
        ((HEADER,), (), "header_only", "warn"),
        ((EXTRA,), (), "header_only", "warn"),
        ((HEADER, LIBRARY), (f"{TREE}/{LIBRARY}",), "complete", "ok"),
        ((HEADER, LIBRARY), (f"/usr/local/cuda/{LIBRARY}",), "complete", "ok"),
        ((LIBRARY,), (f"{TREE}/{LIBRARY}",), "runtime_only", "ok"),
        ((EXTRA, RUNFILE), (f"{TREE}/{RUNFILE}",), "complete", "ok"),
        ((EXTRA, RUNFILE), (), "not_in_loader_path", "note"),
        ((EXTRA, RUNFILE), ("/usr/lib/x86_64-linux-gnu/libcupti.so.12",), "not_in_loader_path", "ok"),
        ((EXTRA, "extras/CUPTI/lib64/libcupti.so.11.8"), (), "wrong_version", "warn"),
        ((EXTRA, "extras/CUPTI/lib64/libcupti.so.2025.2.1"), (), "header_only", "warn"),
        ((), (), "", "ok"),
    ],
)
def test_gm605_cupti(files: tuple[str, ...], cache: tuple[str, ...], state: str, expected: str) -> None:
    linked = {"/usr/local/cuda": link("/etc/alternatives/cuda", a_directory(), TREE)}
    host = healthy().but(
        files={**tree_files(TREE, "bin/nvcc", *files), **linked}, commands={"ldconfig": cached(*cache)}
    )
    assert outcome(host, "GM605") == expected
    assert [found.state(12) for found in host.state().cuda.cupti] == ([state] if state else [])


def test_gm605_says_what_a_header_alone_does_to_a_build_and_what_mends_it() -> None:
    found = the(healthy().but(files=tree_files(TREE, "bin/nvcc", HEADER)), "GM605")
    assert "CMake" in found.cause and "cuda-cupti-12-4" in found.remedy


def test_gm605_a_cache_that_cannot_be_read_is_unknown() -> None:
    host = healthy().but(
        files=tree_files(TREE, "bin/nvcc", HEADER, LIBRARY), commands={"ldconfig": {"status": "timeout"}}
    )
    assert outcome(host, "GM605") == "unknown"


def test_gm605_where_a_library_could_not_be_looked_for_none_is_missing() -> None:
    """What looked there for the probe has ended: a header alone is what was seen, and not what is there."""
    host = healthy().but(
        files={**tree_files(TREE, "bin/nvcc", HEADER), f"{TREE}/{LIBRARY}": unread("failed")}
    )
    assert outcome(host, "GM605") == "unknown"


def test_gm605_an_ld_library_path_leads_to_it() -> None:
    files = {
        **tree_files(TREE, "bin/nvcc", EXTRA, RUNFILE),
        "/etc/profile.d/cuda.sh": f"export LD_LIBRARY_PATH={TREE}/extras/CUPTI/lib64\n",
    }
    host = healthy().but(files=files)
    assert outcome(host, "GM605") == "ok" and host.state().cuda.cupti[0].state(12) == "complete"


SITE, CONDA, SDK = (
    "/usr/local/lib/python3.12/dist-packages",
    "/opt/miniconda3",
    "/opt/nvidia/hpc_sdk/Linux_x86_64/24.7/cuda/12.5",
)
ELSEWHERE = [
    # files, (kind, state)
    ((f"{SITE}/nvidia/cuda_cupti/include/cupti.h", f"{SITE}/nvidia/cuda_cupti/lib/libcupti.so.12"), ("wheel", "complete"), "ok"),
    ((f"{SITE}/nvidia/cu13/include/cupti.h", f"{SITE}/nvidia/cu13/lib/libcupti.so.13"), ("wheel", "complete"), "ok"),
    ((f"{SITE}/nvidia/cu13/include/cupti.h",), ("wheel", "header_only"), "warn"),
    ((f"{CONDA}/lib/libcupti.so.12", f"{CONDA}/include/cupti.h"), ("conda", "complete"), "ok"),
    ((f"{CONDA}/include/cupti.h",), ("conda", "header_only"), "warn"),
    ((f"{SDK}/{EXTRA}", f"{SDK}/{RUNFILE}"), ("hpc_sdk", "not_in_loader_path"), "note"),
    ((f"{SDK}/{EXTRA}", f"{SDK}/extras/CUPTI/lib64/libcupti.so.11.8"), ("hpc_sdk", "wrong_version"), "warn"),
    (("/usr/include/cuda/cupti.h", "/usr/lib64/libcupti.so.12"), ("distribution", "complete"), "ok"),
    (("/usr/include/cupti.h",), ("distribution", "header_only"), "warn"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "expected", "judged"), ELSEWHERE)
def test_gm605_looks_wherever_it_can_lie(
    files: tuple[str, ...], expected: tuple[str, str], judged: str
) -> None:
    host = healthy().but(
        files={path: file(b"") for path in files},
        commands={"ldconfig": cached(*(path for path in files if path.startswith("/usr/lib64")))},
    )
    [found] = host.state().cuda.cupti
    assert (found.kind, found.state(12 if found.kind == "hpc_sdk" else None)) == expected and outcome(
        host, "GM605"
    ) == judged


def test_gm605_a_link_to_nowhere() -> None:
    path = f"{TREE}/targets/x86_64-linux/lib/libcupti.so"
    host = healthy().but(files={**tree_files(TREE, "bin/nvcc"), path: dangling("libcupti.so.12")})
    assert host.state().cuda.cupti[0].state(12) == "dangling" and outcome(host, "GM605") == "warn"


@pytest.mark.parametrize(
    ("files", "packages", "expected"),
    [
        (tree_files(TREE, "bin/nvcc", "bin/cuda-uninstaller"), ("cuda-nvcc-12-4",), "warn"),
        (tree_files(TREE, "bin/nvcc", "bin/cuda-uninstaller"), (), "ok"),
        (tree_files(TREE, "bin/nvcc", version__json='{"cuda":{"version":"12.6.2"}}'), (), "warn"),
        ({"/usr/local/cuda": dangling("/usr/local/cuda-12.2")}, (), "warn"),
    ],
)
def test_gm607_toolkits(files: dict[str, Any], packages: tuple[str, ...], expected: str) -> None:
    rows = "".join(f"ii \t{name}\t12.4.1-1\n" for name in packages)
    assert outcome(healthy().but(files=files, commands={"dpkg": (0, rows, "")}), "GM607") == expected


# --- who has a compat directory on the library path


UNIT = "/etc/systemd/system/jobs.service"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"/etc/ld.so.conf.d/x.conf": f"# {COMPAT}\n{COMPAT}/\n"}, [("host", "")], id="linker"),
        pytest.param({"/etc/ld.so.conf.d/x.conf": f"# {COMPAT}\n"}, [], id="linker-comment"),
        pytest.param(
            {"/etc/ld.so.conf.d/x.conf": "/usr/local/cuda/compat\n"}, [("host", "")], id="linker-by-link"
        ),
        pytest.param(
            {UNIT: f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"},
            [("service", "jobs.service")],
            id="unit",
        ),
        pytest.param(
            {UNIT: f'[Service]\nEnvironment="TOKEN=s3cr3t" "LD_LIBRARY_PATH=/opt/x:{COMPAT}" A=b\n'},
            [("service", "jobs.service")],
            id="unit-quoted",
        ),
        pytest.param(
            {UNIT: f'[Service]\nEnvironment="TOKEN=s3cr3t" \\\n   LD_LIBRARY_PATH={COMPAT}\n'},
            [("service", "jobs.service")],
            id="unit-continued",
        ),
        pytest.param({UNIT: f"[Service]\n#Environment=LD_LIBRARY_PATH={COMPAT}\n"}, [], id="unit-comment"),
        pytest.param(
            {UNIT: f"[Service]\nEnvironment=MY_LD_LIBRARY_PATH={COMPAT}\n"}, [], id="unit-other-name"
        ),
        pytest.param(
            {
                UNIT: f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n",
                f"{UNIT}.d/10.conf": "[Service]\nEnvironment=\n",
            },
            [],
            id="taken-back-by-a-drop-in",
        ),
        pytest.param(
            {
                UNIT: f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n",
                f"{UNIT}.d/10.conf": "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/y\n",
            },
            [],
            id="set-anew-by-a-drop-in",
        ),
        pytest.param(
            {"/usr/lib/systemd/system/jobs.service": f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"},
            [("service", "jobs.service")],
            id="vendor-unit",
        ),
        pytest.param(
            {
                "/usr/local/lib/systemd/system/jobs.service": f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"
            },
            [("service", "jobs.service")],
            id="unit-of-what-is-local",
        ),
        pytest.param(
            {"/lib/systemd/system/jobs.service": f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"},
            [("service", "jobs.service")],
            id="vendor-unit-where-lib-is-no-link",
        ),
        pytest.param(
            {"/etc/profile.d/cuda.sh": f"export LD_LIBRARY_PATH={COMPAT}:$LD_LIBRARY_PATH\n"},
            [("login", "")],
            id="login",
        ),
        pytest.param(
            {"/etc/environment": f'LD_LIBRARY_PATH="{COMPAT}"\n'}, [("login", "")], id="environment"
        ),
        pytest.param(
            {"/etc/systemd/system.conf": f'[Manager]\nDefaultEnvironment="LD_LIBRARY_PATH={COMPAT}"\n'},
            [("manager", "")],
            id="manager",
        ),
    ],
)
def test_activations(files: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    host = captured().but(files=files)
    assert [(found.scope, found.unit) for found in host.state().cuda.activations] == expected
    assert "s3cr3t" not in json.dumps(host.answer())
    assert [found.status for found in findings(host, "GM603")] == ["fail"] * len(expected)


@pytest.mark.parametrize(
    ("files", "can"),
    [
        ({"/etc/ld.so.conf.d/x.conf": f"{COMPAT}\n"}, True),
        ({UNIT: f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"}, False),
        (
            {f"{UNIT}.d/90-gpumend-cuda-compat.conf": f"[Service]\nEnvironment=LD_LIBRARY_PATH={COMPAT}\n"},
            True,
        ),
        ({"/etc/profile.d/cuda.sh": f"export LD_LIBRARY_PATH={COMPAT}\n"}, False),
    ],
)
def test_gm603_mends_the_linker_and_its_own_drop_ins(files: dict[str, Any], can: bool) -> None:
    found = the(captured().but(files=files), "GM603")
    assert (found.change is not None) is can and bool(found.refused) is not can
    assert "803" in found.summary


def test_gm603_says_804_on_a_geforce() -> None:
    """A newer compat library that a GeForce owner put on the path of everybody."""
    note = NOTE_13_0.replace("13.0", "13.1").replace("580]", "580,590]")
    files = {
        **compat_files("590.44.01", "/usr/local/cuda-13.1", note),
        "/etc/ld.so.conf.d/x.conf": "/usr/local/cuda-13.1/compat\n",
    }
    host = h100().but(files=files, commands={"nvidia-smi-query": (0, smi("GeForce", "Ada Lovelace"), "")})
    assert "804" in the(host, "GM603").summary
    tesla = host.but(commands={"nvidia-smi-query": (0, smi("Tesla", "Ampere"), "")})
    assert findings(tesla, "GM603") == []


# --- the decision table


def details(*brands: str, architecture: str = "Ampere", driver: str = "550.54.15") -> Reading[Details]:
    return Reading.of(
        Details(tuple(Detail("GPU", name, architecture) for name in brands), parse_version(driver), None)
    )


def case(wanted: str, driver: str | None, *brands: str, architecture: str = "Ampere", **more: Any) -> Case:
    return Case(
        parse_version(wanted),
        parse_version(driver) if driver else None,
        details(*(brands or ("NVIDIA",)), architecture=architecture),
        **more,
    )


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        # cuda.md 9, its examples
        pytest.param(case("12.9", "560.94", "GeForce", wsl2=True), 1, id="wsl2"),
        pytest.param(case("13.0", "580.95.05", "Tesla", architecture="Volta"), 8, id="v100-580-13.0"),
        pytest.param(case("12.9", "535.183.01"), 11, id="a100-535-12.9"),
        pytest.param(case("12.9", "560.35.03", "GeForce"), 11, id="geforce-560-12.9"),
        pytest.param(case("13.2", "580.159.04", architecture="Hopper"), 11, id="h100-580-13.2"),
        pytest.param(case("13.0", "570.195.03", architecture="Hopper"), 13, id="h100-570-13.0"),
        pytest.param(case("13.1", "560.35.03", "NVIDIA", architecture="Ada Lovelace"), 15, id="l4-560-13.1"),
        pytest.param(
            case("13.0", "570.195.03", "GeForce", architecture="Ada Lovelace"), 15, id="rtx4090-570-13.0"
        ),
        # each other row
        pytest.param(case("12.9", "540.4.0", tegra=True), 2, id="jetson"),
        pytest.param(case("12.9", "550.163.01", reboot="a reboot is pending"), 3, id="reboot"),
        pytest.param(case("12.9", None), 4, id="no-driver"),
        pytest.param(case("12.9", "580.95.05", outgrown=(COMPAT,)), 5, id="outgrown"),
        pytest.param(case("13.4", "580.95.05"), 7, id="13.4-unbundled"),
        pytest.param(case("13.4", "615.10.01"), 10, id="13.4-on-its-paired-branch"),
        pytest.param(case("13.5", "615.10.01"), 7, id="13.5-unknown"),
        pytest.param(case("12.7", "570.195.03"), 7, id="12.7-never-was"),
        pytest.param(case("13.0", "570.195.03", containers=True), 9, id="containers"),
        pytest.param(case("12.4", "550.54.14"), 10, id="exactly"),
        pytest.param(case("12.4.1", "550.54.14"), 11, id="update-1-needs-one-more"),
        pytest.param(case("12.4.1", "550.54.15"), 10, id="update-1"),
        pytest.param(case("12.9", "550.163.01", needs="ptx"), 14, id="ptx-550-only-in-the-note"),
        pytest.param(case("12.9", "535.183.01", needs="ptx"), 12, id="ptx-535"),
        pytest.param(case("12.9", "570.195.03", needs="new-api"), 12, id="new-api-570"),
        pytest.param(case("12.9", "535.183.01", "GeForce", needs="ptx"), 15, id="ptx-geforce"),
        pytest.param(case("13.0", "570.195.03", "Tesla", "GeForce"), 15, id="mixed-brands"),
        pytest.param(case("13.0", "570.195.03", "Quantum"), 15, id="unknown-brand"),
        pytest.param(case("13.0", "575.57.08"), 14, id="575-in-the-note-only"),
        pytest.param(case("13.0", "515.76"), 15, id="eol-branch"),
        pytest.param(case("12.3", "570.195.03"), 10, id="older-cuda"),
        # numbers, not texts
        pytest.param(case("12.9", "580.142"), 10, id="two-part-driver"),
        pytest.param(case("12.6", "560.35.3"), 10, id="short-last-part"),
        pytest.param(case("11.8", "1000.10.01"), 10, id="four-digit-branch"),
        pytest.param(case("12.0", "525.60.13"), 10, id="first-of-12"),
        pytest.param(case("12.1", "525.60.11"), 15, id="one-below-the-minimum"),
    ],
)
def test_decisions(asked: Case, row: int) -> None:
    assert decide(asked).number == row


def test_each_decision_has_a_source_and_the_last_holds_for_all() -> None:
    assert all(row.source for row in DECISIONS)
    assert [row.number for row in DECISIONS] == sorted(row.number for row in DECISIONS)


def test_a_brand_that_is_not_known_is_unknown_not_refused() -> None:
    host = driver_host("570.195.03").but(commands={"nvidia-smi-query": unread("timeout")})
    assert outcome(host, "GM601", wanted("13.0")) == "unknown"
    # but where no row hangs on it, nobody needs to know it
    assert outcome(host, "GM601", wanted("12.4")) == "ok"


@pytest.mark.parametrize(
    ("driver", "release"),
    [("580.142", "13.0"), ("550.163.01", "12.4"), ("565.57.01", "12.6"), ("620.1.1", "13.3")],
)
def test_served(driver: str, release: str) -> None:
    assert served(parse_version(driver)) == version(release)


@pytest.mark.parametrize(
    ("release", "branch", "word"),
    [
        ("13.0", 570, "compatible"),
        ("13.0", 580, "paired"),
        ("13.0", 590, "none"),
        ("13.0", 560, "unlisted"),
        ("9.9", 535, "unlisted"),
    ],
)
def test_documented(release: str, branch: int, word: str) -> None:
    assert documented(parse_version(release), branch) == word


# --- the tables


def test_the_tables_are_whole() -> None:
    assert check.problems() == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t["toolkits"][0].pop("source"), "no source"),
        (lambda t: t["toolkits"].insert(0, dict(t["toolkits"][5])), "twice"),
        (lambda t: t["toolkits"].reverse(), "not in order"),
        (lambda t: t["toolkits"][6].update(linux="newest"), "is no driver version"),
        (lambda t: t["toolkits"][-1].update(linux=None), "no Linux driver"),
        (lambda t: t["toolkits"][-1].update(linux="999.01"), "needs an older driver"),
        (lambda t: t["toolkits"].insert(0, {**t["toolkits"][6], "toolkit": "14.0.0"}), "no row for CUDA 14"),
        (lambda t: t["toolkits"][0].update(confidence="sure"), "confidence"),
    ],
)
def test_a_damaged_matrix_is_noticed(damage: Any, words: str) -> None:
    table = json.loads(json.dumps(load("cuda_driver_matrix")))
    damage(table)
    assert any(words in line for line in check.matrix(table)), list(check.matrix(table))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t["packages"][0].update(package="cuda-compat-9-9"), "not the package"),
        (lambda t: t["packages"][0]["branches"].pop("535"), "not the columns"),
        (lambda t: t["packages"][0]["branches"].update({"535": "yes"}), "none of"),
        (lambda t: t["packages"][4]["branches"].update({"535": "none"}), "above one that is not"),
        (lambda t: t["brands"][5].update(compat=True), "brands: compat"),
    ],
)
def test_a_damaged_compat_table_is_noticed(damage: Any, words: str) -> None:
    table = json.loads(json.dumps(load("compat_branches")))
    damage(table)
    assert any(words in line for line in check.branches(table)), list(check.branches(table))


# --- hosts


def wanted(*releases: str, **more: Any) -> dict[str, Any]:
    return {"cuda": {"wanted": list(releases), **more}}


def driver_host(driver: str, brand: str = "NVIDIA", architecture: str = "Hopper", **more: Any) -> Host:
    """A host with this driver all through, Ubuntu's packages and systemd."""
    files = {
        path: item
        for path, item in h100_files().items()
        if "580.159.04" not in path and "lib64/lib" not in path
    }
    lib = "/usr/lib/x86_64-linux-gnu"
    for name in ("libcuda", "libnvidia-ml"):
        files[f"{lib}/{name}.so.{driver}"] = file(b"")
        files[f"{lib}/{name}.so.1"] = link(f"{name}.so.{driver}", file(b""), f"{lib}/{name}.so.{driver}")
    files["/proc/driver/nvidia/version"] = (
        f"NVRM version: NVIDIA UNIX x86_64 Kernel Module  {driver}  Wed Apr 29 2026\n"
    )
    files["/sys/module/nvidia/version"] = f"{driver}\n"
    files["/run/systemd/system"] = a_directory()
    cache = "".join(
        f"\t{name}.so.1 (libc6,x86-64) => {lib}/{name}.so.1\n" for name in ("libcuda", "libnvidia-ml")
    )
    return Host(
        files={**files, **more.pop("files", {})},
        programs={"apt-get": "/usr/bin/apt-get"},
        commands={
            "ldconfig": (0, cache, ""),
            "nvidia-smi": (0, capture("h100/smi_L.txt"), ""),
            "nvidia-smi-query": (0, smi(brand, architecture, driver), ""),
            "dpkg": (0, "ii \tlibc6\t2.39\n", ""),
            **more.pop("commands", {}),
        },
        units={},
        **more,
    )


def transaction(host: Host, want: Mapping[str, Any]) -> Transaction | None:
    state, parsed = host.state(), parse_wanted(want)
    return plan(Context(state, parsed, "gpu1", TODAY), judge(state, parsed, "gpu1", TODAY).findings).get(
        Component.CUDA
    )


def words(step: Step) -> str:
    """What the host is sent of a step, in its order."""
    values = step.fields().values()
    return " ".join(" ".join(value) if isinstance(value, list) else str(value) for value in values)


def steps(host: Host, want: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = transaction(host, want)
    return [(step.do, step.where or words(step)) for step in found.steps] if found else []


def wsl_host() -> Host:
    """Report 000's host: WSL2, a GeForce, Windows driver 560.94."""
    return Host(
        files={"/dev/dxg": file(b""), "/proc/version": "Linux version 5.15.167.4-microsoft-standard-WSL2\n"},
        system={"kernel": "5.15.167.4-microsoft-standard-WSL2"},
        commands={
            "nvidia-smi-wsl": (0, smi("GeForce", "Turing", "560.94", "12.6"), ""),
            "dpkg": (0, "ii \tlibnvinfer10\t10.14.1.48-1+cuda13.0\n", ""),
        },
    )


@pytest.mark.parametrize("needs", ["runtime", "ptx", "new-api"])
def test_report_000_gets_a_windows_driver_or_an_older_image_and_no_package(needs: str) -> None:
    want = wanted("12.9", needs=needs)
    found = the(wsl_host(), "GM601", want)
    assert "Update the Windows driver to 576.02 or newer, or use an image for CUDA <= 12.6." in found.remedy
    assert found.change is None and found.refused and transaction(wsl_host(), want) is None
    assert "cuda-compat" in found.cause and not any("cuda-compat" in word for word in (found.remedy,))
    assert found.status == ("warn" if needs == "runtime" else "fail")


def test_report_000_names_the_unpinned_tensorrt() -> None:
    found = the(wsl_host(), "GM608")
    assert (
        "libnvinfer10" in found.summary
        and "12.6" in found.summary
        and "error: 35" in " ".join(found.symptoms)
    )


def test_wsl2_with_a_driver_that_is_new_enough() -> None:
    host = wsl_host().but(commands={"nvidia-smi-wsl": (0, smi("GeForce", "Turing", "576.57", "12.9"), "")})
    assert outcome(host, "GM601", wanted("12.9")) == "ok"


@pytest.mark.parametrize(
    ("host", "release", "expected", "words"),
    [
        (driver_host("580.159.04"), "13.0", "ok", ""),
        (driver_host("580.159.04"), "13.2", "ok", ""),
        (driver_host("580.159.04"), "13.5", "unknown", "not in the tables"),
        (
            driver_host("570.195.03", "GeForce"),
            "13.0",
            "fail",
            "Upgrade the driver to 580.65.06 or newer, or use CUDA 12.8 or older",
        ),
        (driver_host("580.95.05", "Tesla", "Volta"), "13.0", "fail", "Stay on CUDA 12.x"),
        (driver_host("570.195.03"), "13.0", "ok", ""),  # GM602's
    ],
)
def test_gm601(host: Host, release: str, expected: str, words: str) -> None:
    found = findings(host, "GM601", wanted(release))
    assert [str(one.status) for one in found] == ([] if expected == "ok" else [expected])
    assert not found or words in found[0].summary + found[0].remedy


def test_several_releases_are_judged_each() -> None:
    found = findings(driver_host("535.183.01", "GeForce"), "GM601", wanted("12.2", "12.9", "13.0", "13.5"))
    assert [str(one.status) for one in found] == ["fail", "unknown"]


# --- the plan of cuda-compat

SERVICES = {"services": ["jobs.service", "a@b.service"]}
DROPIN = "/etc/systemd/system/jobs.service.d/90-gpumend-cuda-compat.conf"


def test_compat_is_installed_checked_activated_and_proven_in_this_order() -> None:
    assert steps(driver_host("570.195.03"), wanted("13.0", **SERVICES)) == [
        ("package", "apt install cuda-compat-13-0"),
        ("note", f"{COMPAT} .note.cuda.fwd_compatibility 570.195.03"),
        ("write", DROPIN),
        ("write", "/etc/systemd/system/a@b.service.d/90-gpumend-cuda-compat.conf"),
        ("run", "systemctl daemon-reload"),
        ("cuda", f"with {COMPAT} 13000"),
    ]


def test_compat_on_a_dnf_host() -> None:
    host = driver_host("570.195.03", commands={"dpkg": None, "rpm": (0, "bash\t(none):5.1.8-9.el9\n", "")})
    assert steps(host, wanted("13.0", **SERVICES))[0] == ("package", "dnf install cuda-compat-13-0")


def test_compat_for_the_whole_host_only_on_request() -> None:
    found = steps(driver_host("570.195.03"), wanted("13.0", activate="host", **SERVICES))
    assert found[2:] == [("write", LINKER), ("run", "ldconfig"), ("cuda", f"host {COMPAT} 13000")]


def test_without_services_it_is_on_nobodys_path() -> None:
    found = steps(driver_host("570.195.03"), wanted("13.0"))
    assert [do for do, _ in found] == ["package", "note", "cuda"]


def test_the_newest_release_that_needs_it_serves_the_others() -> None:
    found = steps(driver_host("570.195.03"), wanted("13.0", "13.2", "12.9"))
    assert found[0] == ("package", "apt install cuda-compat-13-2")


def test_a_services_own_library_path_is_kept() -> None:
    host = driver_host("570.195.03", files={UNIT: "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/jobs/lib\n"})
    found = transaction(host, wanted("13.0", services=["jobs.service"]))
    assert found is not None
    (data,) = [step.data for step in found.steps if isinstance(step, WriteFile)]
    assert f'Environment="LD_LIBRARY_PATH={COMPAT}:/opt/jobs/lib"' in (data or b"").decode()


def active(driver: str, **more: Any) -> Host:
    """A host on which gpumend has set up cuda-compat-13-0 for jobs.service."""
    text = f'[Service]\nEnvironment="LD_LIBRARY_PATH={COMPAT}"\n'
    return driver_host(
        driver,
        files={**compat_files(), DROPIN: text, **more.pop("files", {})},
        commands={"dpkg": (0, "ii \tcuda-compat-13-0\t580.95.05-0ubuntu1\n", "")},
        **more,
    )


def test_a_second_run_changes_nothing() -> None:
    want = wanted("13.0", services=["jobs.service"])
    assert transaction(active("570.195.03"), want) is None
    assert {found.code for found in verdict(active("570.195.03"), want).findings} & {
        "GM601",
        "GM602",
        "GM603",
        "GM604",
    } == set()


@pytest.mark.parametrize(
    ("want", "found"),
    [
        (wanted("13.0", services=["other.service"]), {"remove", "write"}),
        (wanted("12.4", services=["jobs.service"]), {"remove"}),
        (wanted("13.0", services=["jobs.service"], activate="host"), {"remove", "write"}),
    ],
)
def test_what_is_no_longer_wanted_is_taken_off_the_path(want: dict[str, Any], found: set[str]) -> None:
    planned = steps(active("570.195.03"), want)
    assert ("remove", DROPIN) in planned and {do for do, path in planned if path.startswith("/etc")} == found
    assert not any(do == "package" for do, _ in planned)


@pytest.mark.parametrize("driver", ["580.95.05", "580.159.04", "595.71.05"])
def test_what_the_driver_has_outgrown_goes(driver: str) -> None:
    want = wanted("13.0", services=["jobs.service"])
    assert steps(active(driver), want) == [
        ("remove", DROPIN),
        ("run", "systemctl daemon-reload"),
        ("cuda", "plain  0"),
        ("package", "apt remove cuda-compat-13-0"),
    ]


POLICY = "cuda-compat-13-0:\n  Installed: {0}\n  Candidate: {0}\n  Version table:\n *** {0} 100\n        100 /var/lib/dpkg/status\n"
OFFER = "        500 file:/srv/repository ./ Packages\n"
VERSION = "580.95.05-0ubuntu1"


@pytest.mark.parametrize(
    ("policy", "archives", "removed"),
    [
        pytest.param((0, POLICY.format(VERSION) + OFFER, ""), [], True, id="a-repository"),
        pytest.param((0, POLICY.format(VERSION), ""), [f"cuda-compat-13-0_{VERSION}_amd64.deb"], True, id="apts-cache"),
        pytest.param((0, POLICY.format(VERSION), ""), [], False, id="neither"),
        pytest.param((0, "", ""), ["cuda-compat-13-0_580.65.06-0ubuntu1_amd64.deb"], False, id="another-version"),
        pytest.param(unread("timeout"), [], True, id="not-known: the host asks"),
    ],
)  # fmt: skip
def test_what_could_not_be_had_again_is_not_removed(policy: Any, archives: list[str], removed: bool) -> None:
    """A later proof of the run failed, and what no repository offers could not be put back: exit 5."""
    paths = [f"/var/cache/apt/archives/{name}" for name in archives]
    host = active("580.159.04").but(
        commands={"compat-offers": policy},
        globs={"/var/cache/apt/archives/cuda-compat-*.deb": {"status": "ok", "paths": paths}},
    )
    want = wanted("13.0", services=["jobs.service"])
    planned = steps(host, want)
    assert ("remove", DROPIN) in planned, "it is off the path either way"
    assert (("package", "apt remove cuda-compat-13-0") in planned) is removed
    told = [found for found in findings(host, "GM604", want) if "could not be had again" in found.refused]
    assert [found.status for found in told] == ([] if removed else ["note"])
    idle = host.but(files={DROPIN: None})
    (found,) = findings(idle, "GM604", want)
    assert (found.status, "could not be had again" in found.refused) == (
        ("warn", False) if removed else ("note", True)
    )


def test_what_is_outgrown_and_not_managed_is_taken_off_the_path_and_stays_installed() -> None:
    host = captured().but(
        files={
            "/etc/ld.so.conf.d/x.conf": f"# mine\n{COMPAT}\n/opt/lib\n",
            "/run/systemd/system": a_directory(),
        }
    )
    found = transaction(host, {})
    assert found is not None
    assert [(step.do, step.path, step.data) for step in found.steps if step.where] == [
        ("write", "/etc/ld.so.conf.d/x.conf", b"# mine\n/opt/lib\n")
    ]
    assert found.settle == (("ldconfig",),)


@pytest.mark.parametrize(
    ("brands", "reason"),
    [
        (("GeForce",), "GeForce"),
        (("Titan",), "Titan"),
        (("",), "unknown"),
        (("Fantasy",), "Fantasy"),
        (("Tesla", "GeForce"), "not for every GPU"),
    ],
)
def test_compat_is_refused_with_the_reason(brands: tuple[str, ...], reason: str) -> None:
    text = smi(brands[0], driver="570.195.03") if len(brands) == 1 else None
    if text is None:
        first, second = (smi(name, driver="570.195.03") for name in brands)
        text = first + second[second.index("GPU 0000") :]
    host = driver_host("570.195.03", commands={"nvidia-smi-query": (0, text, "")})
    want = wanted("13.0", **SERVICES)
    assert transaction(host, want) is None
    assert reason in the(host, "GM601", want).refused


def test_a_branch_of_the_note_alone_needs_the_owners_word() -> None:
    host, want = driver_host("575.57.08"), wanted("13.0", **SERVICES)
    assert transaction(host, want) is None and "accept_note" in the(host, "GM601", want).remedy
    assert steps(host, wanted("13.0", accept_note=True, **SERVICES))[0][0] == "package"


def test_manage_false_judges_and_changes_nothing() -> None:
    host, want = driver_host("570.195.03"), wanted("13.0", manage=False, **SERVICES)
    assert transaction(host, want) is None and the(host, "GM602", want).refused == "cuda.manage is false"


def test_no_systemd_no_drop_in() -> None:
    host = driver_host("570.195.03").but(files={"/run/systemd/system": None}, units=None)
    assert "systemd" in the(host, "GM602", wanted("13.0", **SERVICES)).refused


def test_a_pending_reboot_blocks_it() -> None:
    host = active("570.195.03").but(commands={"modinfo": (0, "580.95.05\n", "")})
    want = wanted("13.0", services=["jobs.service", "more.service"])
    assert transaction(host, want) is None
    assert "reboot" in the(host, "GM601", want).refused


# --- containers and images


def cuda_env(name: str, text: str) -> dict[str, str]:
    return {name: text}


@pytest.mark.parametrize(
    ("driver", "brand", "env", "toolkit", "expected"),
    [
        ("580.95.05", "NVIDIA", {"CUDA_VERSION": "13.0.2"}, "1.18.1", "ok"),
        ("550.163.01", "GeForce", {"CUDA_VERSION": "12.9.1"}, "1.18.1", "ok"),
        ("550.163.01", "GeForce", {"CUDA_VERSION": "13.0.2"}, "1.18.1", "fail"),
        ("570.195.03", "NVIDIA", {"CUDA_VERSION": "13.0.2"}, "1.18.1", "ok"),
        ("570.195.03", "NVIDIA", {"CUDA_VERSION": "13.0.2"}, "1.17.4", "fail"),
        (
            "570.195.03",
            "GeForce",
            {"NVIDIA_REQUIRE_CUDA": "cuda>=13.0 brand=tesla,driver>=470"},
            "1.18.1",
            "fail",
        ),
        ("570.195.03", "GeForce", {"NVIDIA_REQUIRE_CUDA": "cuda>=13.0 cuda>=12.4"}, "1.18.1", "ok"),
        ("570.195.03", "GeForce", {"PATH": "/usr/bin"}, "1.18.1", "ok"),
        ("570.195.03", "GeForce", {"CUDA_VERSION": "99.1"}, "1.18.1", "ok"),
    ],
)
def test_gm606_containers(driver: str, brand: str, env: dict[str, str], toolkit: str, expected: str) -> None:
    host = driver_host(driver, brand).but(
        docker=healthy().docker, commands={"nvidia-ctk": (0, f"version {toolkit}\n", "")}
    )
    assert outcome(host.with_containers(container(env=env, gpus=True)), "GM606") == expected
    # a container that asks for no GPU needs none
    assert outcome(host.with_containers(container(env=env)), "GM606") == "ok"


def test_gm606_images() -> None:
    host = driver_host("570.195.03", "GeForce")
    images = [{"id": "0123456789ab", "names": ["team/train:13"], "env": {"CUDA_VERSION": "13.0.1"}}]
    docker = {**(healthy().docker or {}), "images": images}
    found = the(host.but(docker=docker), "GM606")
    assert "team/train:13" in found.summary and "580.65.06" in found.remedy


def test_gm606_report_000() -> None:
    host = (
        wsl_host()
        .but(docker=healthy().docker)
        .with_containers(container(env={"CUDA_VERSION": "12.9.1"}, gpus=True))
    )
    found = the(host, "GM606")
    assert found.status == "warn" and "CUDA <= 12.6" in found.remedy


@pytest.mark.parametrize(
    ("package", "driver", "expected"),
    [
        ("libnvinfer10\t10.14.1.48-1+cuda13.0", "570.195.03", "warn"),
        ("libnvinfer10\t10.14.1.48-1+cuda12.9", "535.183.01", "ok"),
        ("libcudnn9-cuda-13\t9.14.0.64-1", "570.195.03", "warn"),
        ("libcudnn8\t8.9.7.29-1+cuda12.2", "570.195.03", "ok"),
        ("cuda-cudart-13-0\t13.0.96-1", "570.195.03", "warn"),
    ],
)
def test_gm608_built_for(package: str, driver: str, expected: str) -> None:
    host = driver_host(driver, "GeForce", commands={"dpkg": (0, f"ii \t{package}\n", "")})
    assert outcome(host, "GM608") == expected


# --- nvidia-smi and NVML say the same


class NvmlError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(str(value))
        self.value = value


def captured_nvml() -> Any:
    """The pynvml module as it answered on the H100 (captures/h100/nvml.txt): NVIDIA's side, not ours."""
    rows = dict(re.findall(r"(?m)^(\w+) (.+)$", capture("h100/nvml.txt")))

    def no_mig(handle: Any) -> Any:
        return json.loads(rows["MigMode"])

    return SimpleNamespace(
        NVMLError=NvmlError,
        NVML_ERROR_NOT_SUPPORTED=3,
        NVML_ERROR_DRIVER_NOT_LOADED=9,
        NVML_ERROR_LIBRARY_NOT_FOUND=12,
        NVML_ERROR_FUNCTION_NOT_FOUND=13,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: rows["driver"],
        nvmlSystemGetCudaDriverVersion_v2=lambda: int(rows["cuda"]),
        nvmlDeviceGetCount=lambda: int(rows["count"]),
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: rows["Name"],
        nvmlDeviceGetBrand=lambda handle: int(rows["Brand"]),
        nvmlDeviceGetArchitecture=lambda handle: int(rows["Architecture"]),
        nvmlDeviceGetMigMode=no_mig,
    )


def test_nvml_gives_what_nvidia_smi_gives() -> None:
    """Both captured on one H100 in one minute."""
    kept = "\n".join(match.group() for match in re.finditer(gpu.DETAIL_LINES, smi()))
    said = gpu.smi_details(kept)
    without_addresses = said._replace(gpus=tuple(one._replace(address="") for one in said.gpus))
    assert nvml.read(captured_nvml()).need() == without_addresses


@pytest.mark.parametrize(("code", "status"), [(12, "absent"), (9, "absent"), (18, "failed"), (4, "failed")])
def test_nvml_that_does_not_answer(code: int, status: str) -> None:
    def fail() -> None:
        raise NvmlError(code)

    module = captured_nvml()
    module.nvmlInit = fail
    assert str(nvml.read(module).status) == status


def test_a_gpu_without_mig() -> None:
    def unsupported(handle: Any) -> Any:
        raise NvmlError(3)

    module = captured_nvml()
    module.nvmlDeviceGetMigMode = unsupported
    assert nvml.read(module).need().gpus[0].mig is None


def test_nvml_brands_are_those_of_the_table() -> None:
    assert {row["id"]: row["names"][0] for row in load("compat_branches")["brands"]} == nvml.BRANDS


def test_the_r610_header_is_read() -> None:
    text = smi().replace("Driver Version ", "KMD Version    ").replace("CUDA Version  ", "CUDA UMD Version ")
    found = gpu.smi_details(text)
    assert found.driver == (580, 159, 4) and found.cuda == (13, 0)
    assert gpu.smi_cuda("CUDA UMD Version    : 13.3\n") == (13, 3)


def test_absent_nvidia_smi_is_absent_not_failed() -> None:
    assert Host().state().gpus.details.absent and absent()["status"] == "absent"


def test_a_case_is_one_hosts() -> None:
    assert case("12.9", "550.54.15")._replace(needs="ptx").needs == "ptx"
