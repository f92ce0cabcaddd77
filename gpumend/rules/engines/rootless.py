"""GM424, GM543, GM544: engines that users run by themselves, without root."""

from __future__ import annotations

from collections.abc import Iterator

from gpumend.rules.engines.docker_config import CDI_BY_DEFAULT
from gpumend.rules.engines.podman import has_podman
from gpumend.rules.engines.spec_directories import canonical
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.cdi import DEFAULT_DIRS
from gpumend.state.toolkit import CONFIG
from gpumend.text.version import Version, show

SEES_SPECS: Version = (27, 4)  # moby PR#48541: dockerd-rootless.sh binds /etc/cdi and /var/run/cdi


def rootless_docker(context: Context) -> bool:
    return has_gpu(context) and context.state.docker.rootless_only


@rule(
    "GM424",
    "rootless Docker has a way to the GPU",
    "nct#85, nct#139, nct#1487; moby#47676, PR#48541 (27.4), PR#51624 (29.2); gazebo-tooling/gzdev#97",
    applies=rootless_docker,
)
def docker(context: Context) -> Iterator[Finding]:
    found, toolkit = context.state.docker, context.state.toolkit
    version = found.version.need()
    by_cdi = version >= CDI_BY_DEFAULT and bool(context.state.cdi.resolve(DEFAULT_DIRS).gpus())
    by_hook = toolkit.config.known and toolkit.value("nvidia-container-cli", "no-cgroups") is True
    if by_cdi or by_hook:
        return
    why = (
        f"Docker {show(version)} does not see /etc/cdi when it is rootless (27.4 and newer do)"
        if version < SEES_SPECS
        else "CDI is off before 28.2 unless features.cdi is true in the user's daemon.json"
        if version < CDI_BY_DEFAULT
        else "no spec defines nvidia.com/gpu"
    )
    users = ", ".join(f"uid {uid}" for uid in found.rootless_users)
    yield Finding(
        code="GM424",
        status=Status.WARN,
        summary=f"rootless Docker of {users} has no way to the GPU: {why}, and no-cgroups is not true",
        evidence=(
            Evidence("/proc", f"dockerd of {users}"),
            Evidence("dockerd --version", show(version)),
            Evidence(CONFIG, "no-cgroups is not true"),
        ),
        cause="The hook changes device cgroups, which only root may; CDI needs no such right.",
        remedy="`--device nvidia.com/gpu=all` with Docker 28.2 or newer and a spec (GM301). With older ones: `no-cgroups = true` "
        "in config.toml, where no rootful Docker is in use.",
        refused="a user's Docker is the user's",
        symptoms=("bpf_prog_query(BPF_CGROUP_DEVICE) failed: operation not permitted",),
    )


@rule(
    "GM543",
    "rootless podman may open the device nodes",
    "podman-run(1) --group-add keep-groups: crun alone has it; container-toolkit.md 5.1; subuid(5)",
    applies=has_podman,
)
def podman_nodes(context: Context) -> Iterator[Finding]:
    podman = context.state.podman
    if not podman.users:
        return
    closed = [
        path
        for path, node in context.state.driver.nodes.items()
        if node.value is not None and node.value.rdev is not None and node.value.mode & 0o006 != 0o006
    ]
    names = ", ".join(sorted(podman.users))
    crun = context.state.containerd.programs.get("crun")
    if closed:
        keeps = crun is not None and crun.ok
        yield Finding(
            code="GM543",
            status=Status.NOTE if keeps else Status.WARN,
            summary=f"rootless containers of {names} may open {closed[0]} by a group only"
            + ("" if keeps else ", and crun, which lets them keep it, is not installed"),
            evidence=tuple(Evidence(path, "not open to everybody") for path in closed[:4]),
            cause="A rootless container loses its user's groups unless it is started with --group-add keep-groups.",
            remedy="`podman run --group-add keep-groups --device nvidia.com/gpu=all ...`"
            + ("." if keeps else " with crun: runc does not have that.")
            + " Or nodes that everybody may open, as the driver makes them by default.",
            refused="who may open the GPU is the owner's decision",
            symptoms=("Failed to initialize NVML: Insufficient Permissions",),
        )
    without = [
        f"{name} ({uid})"
        for name, uid in sorted(podman.users.items())
        if podman.subordinate.known and not {name, str(uid)} & (podman.subordinate.value or frozenset())
    ]
    if without:
        yield Finding(
            code="GM543",
            status=Status.NOTE,
            summary=f"no line in /etc/subuid for {', '.join(without)}: rootless podman runs only images of one user there",
            evidence=(Evidence("/etc/subuid", "no range for them"),),
            cause="A directory service may give ranges instead (nsswitch.conf `subid`), which is not looked at here.",
            remedy="`usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, then `podman system migrate`.",
            refused="users are not changed by mend",
            symptoms=("potentially insufficient UIDs or GIDs available in user namespace",),
        )


@rule(
    "GM544",
    "users' podman reads the directories that have the spec",
    "containers.conf(5) cdi_spec_dirs; podman v5.5.0; NixOS/nixpkgs#420638",
    applies=has_podman,
)
def podman_dirs(context: Context) -> Iterator[Finding]:
    have = {file.directory for file in context.state.cdi.resolve(DEFAULT_DIRS).in_use()}
    for path, listed in sorted(context.state.podman.user_dirs.items()):
        dirs = {canonical(directory) for directory in listed}
        if have and not have & dirs:
            yield Finding(
                code="GM544",
                status=Status.WARN,
                summary=f"{path}: this user's podman looks for specs in {', '.join(sorted(dirs)) or 'no directory'}, the spec is "
                f"in {', '.join(sorted(have))}",
                evidence=(Evidence(path, f"cdi_spec_dirs = {list(listed)}"),),
                cause="A user's file counts over the host's.",
                remedy=f"Add {', '.join(sorted(have))} to it.",
                refused="a user's settings are the user's",
                symptoms=("unresolvable CDI devices nvidia.com/gpu=all",),
            )
