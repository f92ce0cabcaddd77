"""What is wanted of a host: the host data key `gpumend`, with every default filled in."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Any

from gpumend.state.allocations import Books, books
from gpumend.state.repositories import Entry, entries
from gpumend.text.record import Record
from gpumend.text.version import Version, parse_version

# Host data that repeats what hosts.toml says under `gpumend`: a file of group_data takes the place of that key for all hosts,
# and for a group that hosts.toml names, too (pyinfra_cli/inventory.py make_inventory_from_files).
HOSTS_KEY = "gpumend_hosts_toml"


class Waiver(Record):
    """A finding that somebody answers for. until: the last day it holds."""

    code: str
    host: str
    reason: str
    owner: str
    until: datetime.date

    def covers(self, code: str, host: str) -> bool:
        return self.code == code and fnmatch(host, self.host)


class CudaToolkit(Record):
    """release: two parts, `12.4`. flavour, method, cupti: as the schema has them; cupti is empty where none is wanted. runfile:
    (path, SHA-256), or nothing."""

    release: str
    flavour: str = "libraries"
    method: str = "auto"
    cupti: str = ""
    pin: str = ""
    hold: bool = False
    default: bool = False
    runfile: tuple[str, str] | None = None


class WantedDriver(Record):
    """branch: `580`. version: exact, or empty. flavour, origin: as the schema has them."""

    branch: int
    install: bool = False
    version: str = ""
    flavour: str = "auto"
    origin: str = "auto"
    hold: bool = True
    replace: bool = False
    lock_wait: int = 120


def _driver(raw: Mapping[str, Any]) -> WantedDriver:
    return WantedDriver(
        branch=int(raw["branch"]),
        install=raw.get("install", False),
        version=raw.get("version", ""),
        flavour=raw.get("flavour", "auto"),
        origin=raw.get("origin", "auto"),
        hold=raw.get("hold", True),
        replace=raw.get("replace", False),
        lock_wait=raw.get("lock_wait", 120),
    )


def _cuda_toolkit(raw: Mapping[str, Any]) -> CudaToolkit:
    runfile = raw.get("runfile")
    return CudaToolkit(
        release=raw["version"].replace("-", "."),
        flavour=raw.get("flavour", "libraries"),
        method=raw.get("method", "auto"),
        cupti=raw.get("cupti") or "",
        pin=raw.get("pin", ""),
        hold=raw.get("hold", False),
        default=raw.get("default", False),
        runfile=(runfile["file"], runfile["sha256"]) if runfile else None,
    )


class Wanted(Record):
    """One host's wanted state, every default filled in. The schema says what each key means."""

    toolkit_install: bool = False
    toolkit_version: str = ""
    toolkit_lock_wait: int = 120
    toolkit_insist: bool = False
    handover: str = ""
    manage_runtime: bool = True
    mode: str = "cdi"
    ldconfig: str = "auto"
    manage_cdi: bool = True
    cdi_writer: str = "auto"
    manage_docker: bool = True
    docker_paths: tuple[str, ...] | None = None
    manage_cuda: bool = True
    cuda: tuple[Version, ...] = ()
    cuda_needs: str = "runtime"
    cuda_workload: str = "host"
    cuda_services: tuple[str, ...] = ()
    cuda_activate: str = "service"
    cuda_accept_note: bool = False
    cuda_lock_wait: int = 120
    cuda_toolkit: CudaToolkit | None = None
    manage_containerd: bool = True
    containerd_runtimes: tuple[str, ...] | None = None
    manage_crio: bool = True
    crio_runtimes: tuple[str, ...] | None = None
    crio_default: str = "keep"
    grit_role: str | None = None
    grit_binary: str = ""
    grit_root: str = "/run/containerd/runc"
    grit_systemd_cgroup: str | bool = "auto"
    grit_pool: str = ""
    docker_storage_driver: str = ""
    docker_data_root: str = ""
    allow_storage_switch: bool = False
    manage_dind: bool = True
    dind_root: str = "/srv/dind"
    dind_fs: str = "any"
    dind_driver: str = "auto"
    dind_containers: tuple[str, ...] = ()
    compose_form: str = "keep"
    compose_projects: tuple[str, ...] = ("*",)
    compose_recreate: str = "never"
    compose_paths: tuple[str, ...] = ()
    restarts: str = "idle"
    restart_watch: int = 6
    ask_cuda: str = "auto"
    allow_breaking_gpus_flag: bool = False
    allow_disabling_no_cgroups: bool = False
    allow_managed: tuple[str, ...] = ()
    prove_image: str | None = None
    prove_archive: str = ""
    prove_command: tuple[str, ...] = ()
    prove_engines: tuple[str, ...] | None = None
    allocations: Books | None = None
    repositories: tuple[Entry, ...] = ()
    driver: WantedDriver | None = None
    engine: str = ""
    waivers: tuple[Waiver, ...] = ()


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Layers from the most general to the most particular, merged key by key: a group that sets one key keeps the
    others of `group_data/all.py`. Lists and values are replaced; waivers add up."""
    merged: dict[str, Any] = {}
    for layer in layers:
        _merge_into(merged, layer)
    return merged


def _merge_into(merged: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), dict):
            _merge_into(merged[key], value)
        elif key == "waivers" and isinstance(value, list) and isinstance(merged.get(key), list):
            merged[key] = [*merged[key], *value]
        else:
            merged[key] = merge([value]) if isinstance(value, Mapping) else value


def parse(raw: Mapping[str, Any]) -> Wanted:
    """The wanted state of one host, of what `gpumend.schemas.wanted.check` has let pass."""
    runtime, cdi, docker = raw.get("runtime", {}), raw.get("cdi", {}), raw.get("docker", {})
    prove, cuda, dind = raw.get("prove", {}), raw.get("cuda", {}), raw.get("dind", {})
    toolkit, releases = raw.get("toolkit", {}), cuda.get("wanted", ())
    containerd, grit, crio = raw.get("containerd", {}), raw.get("grit", {}), raw.get("crio", {})
    runtimes, crio_runtimes = containerd.get("runtimes", "auto"), crio.get("runtimes", "auto")
    paths, compose = docker.get("paths", "auto"), raw.get("compose", {})
    return Wanted(
        toolkit_install=toolkit.get("install", False),
        toolkit_version=toolkit.get("version", ""),
        toolkit_lock_wait=toolkit.get("lock_wait", 120),
        toolkit_insist=toolkit.get("insist", False),
        handover=raw.get("handover", ""),
        manage_runtime=runtime.get("manage", True),
        mode=runtime.get("mode", "cdi"),
        ldconfig=runtime.get("ldconfig", "auto"),
        manage_cdi=cdi.get("manage", True),
        cdi_writer=cdi.get("writer", "auto"),
        manage_docker=docker.get("manage", True),
        docker_paths=None if paths == "auto" else tuple(paths),
        manage_cuda=cuda.get("manage", True),
        cuda=tuple(parse_version(text) for text in ([releases] if isinstance(releases, str) else releases)),
        cuda_needs=cuda.get("needs", "runtime"),
        cuda_workload=cuda.get("workload", "host"),
        cuda_services=tuple(cuda.get("services", ())),
        cuda_activate=cuda.get("activate", "service"),
        cuda_accept_note=cuda.get("accept_note", False),
        cuda_lock_wait=cuda.get("lock_wait", 120),
        cuda_toolkit=_cuda_toolkit(raw["cuda_toolkit"]) if "cuda_toolkit" in raw else None,
        manage_containerd=containerd.get("manage", True),
        containerd_runtimes=None if runtimes == "auto" else tuple(runtimes),
        manage_crio=crio.get("manage", True),
        crio_runtimes=None if crio_runtimes == "auto" else tuple(crio_runtimes),
        crio_default=crio.get("default_runtime", "keep"),
        grit_role=grit.get("role"),
        grit_binary=grit.get("binary", ""),
        grit_root=grit.get("root", "/run/containerd/runc"),
        grit_systemd_cgroup=grit.get("systemd_cgroup", "auto"),
        grit_pool=grit.get("pool", ""),
        docker_storage_driver=docker.get("storage_driver", ""),
        docker_data_root=docker.get("data_root", ""),
        allow_storage_switch=raw.get("allow_storage_switch", False),
        manage_dind=dind.get("manage", True),
        dind_root=str(dind.get("root", "/srv/dind")).rstrip("/"),
        dind_fs=dind.get("fs", "any"),
        dind_driver=dind.get("driver", "auto"),
        dind_containers=tuple(dind.get("containers", ())),
        compose_form=compose.get("form", "keep"),
        compose_projects=tuple(compose.get("projects", ("*",))),
        compose_recreate=compose.get("recreate", "never"),
        compose_paths=tuple(compose.get("paths", ())),
        restarts=raw.get("restarts", "idle"),
        restart_watch=raw.get("restart_watch", 6),
        ask_cuda=raw.get("ask_cuda", "auto"),
        allow_breaking_gpus_flag=raw.get("allow_breaking_gpus_flag", False),
        allow_disabling_no_cgroups=raw.get("allow_disabling_no_cgroups", False),
        allow_managed=tuple(raw.get("allow_managed", ())),
        prove_image=prove.get("image"),
        prove_archive=prove.get("archive", ""),
        prove_command=tuple(prove.get("command", ())),
        prove_engines=None if prove.get("engines", "auto") == "auto" else tuple(prove["engines"]),
        allocations=books(raw["allocations"]) if "allocations" in raw else None,
        repositories=entries(raw.get("repositories", {})),
        driver=_driver(raw["driver"]) if "driver" in raw else None,
        engine=raw.get("engine", ""),
        waivers=tuple(
            Waiver(
                code=entry["code"],
                host=entry.get("host", "*"),
                reason=entry["reason"],
                owner=entry["owner"],
                until=datetime.date.fromisoformat(entry["until"]),
            )
            for entry in raw.get("waivers", ())
        ),
    )
