"""GM423, GM542: what a security module keeps containers from: SELinux at the devices, AppArmor at NVIDIA's programs."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.state.host import BOOLEANS


def labelled(context: Context) -> list[str]:
    """The engines whose containers SELinux confines: podman does by default, Docker where it says so itself. Raises Unread."""
    found = []
    if context.state.podman.version.get():
        found.append("podman")
    options = (context.state.docker.info.value or {}).get("SecurityOptions") or ()
    if any("name=selinux" in str(option) for option in options):
        found.append("docker")
    return found


def enforcing(context: Context) -> bool:
    return has_gpu(context) and context.state.host.selinux_enforcing.value is True


@rule(
    "GM542",
    "containers may use the GPU under SELinux",
    "nct#210, fedora-selinux/selinux-policy#1695, redhat-et/triton-dev-containers#61, mudler/LocalAI#7412, nd#676; container_selinux(8)",
    applies=enforcing,
)
def selinux(context: Context) -> Iterator[Finding]:
    engines = labelled(context)
    booleans = context.state.host.selinux_booleans
    if not engines or any(reading.value is True for reading in booleans.values()):
        return
    known = {name: reading.value for name, reading in booleans.items() if reading.value is not None}
    wanted = next(iter(known), "container_use_devices")
    yield Finding(
        code="GM542",
        status=Status.WARN,
        summary=f"SELinux is enforcing and {wanted} is {'off' if known else 'not known'}: containers of "
        f"{' and '.join(engines)} may not use the GPU",
        evidence=(
            Evidence("/sys/fs/selinux/enforce", "1"),
            *(
                Evidence(
                    f"{BOOLEANS}/{name}", "off" if name in known else f"{reading.status}: {reading.detail}"
                )
                for name, reading in booleans.items()
            ),
        ),
        cause="A confined container (container_t) may open no device of the host; NVIDIA's nodes are xserver_misc_device_t.",
        remedy=f"`setsebool -P {wanted} on` for all containers, or `--security-opt label=disable` for the one that needs it. "
        "Which booleans there are differs by policy: `getsebool -a | grep container_use`.",
        refused="how far containers are confined is the owner's decision",
        symptoms=(
            "Failed to initialize NVML: Insufficient Permissions",
            "avc: denied { read write } xserver_misc_device_t",
        ),
    )


@rule(
    "GM423",
    "NVIDIA's programs are denied nothing by AppArmor",
    "apparmor.d(5), kernel security/apparmor/audit.c: apparmor=DENIED; moby profiles/apparmor docker-default",
    applies=has_gpu,
)
def apparmor(context: Context) -> Iterator[Finding]:
    denials = context.state.host.denials.value or ()
    by_profile: dict[str, list[str]] = {}
    for row in denials:
        profile = re.search(r'profile="([^"]*)"', row)
        by_profile.setdefault(profile.group(1) if profile else "a profile", []).append(row)
    for whose, rows in sorted(by_profile.items()):
        name = re.search(r'name="([^"]*)"', rows[-1])
        yield Finding(
            code="GM423",
            status=Status.WARN,
            summary=f"AppArmor's {whose} denied {len(rows)} time{'s' * (len(rows) > 1)} since boot: "
            f"{name.group(1) if name else 'something of NVIDIA'}",
            evidence=tuple(Evidence("journalctl --dmesg", row[-300:]) for row in rows[-3:]),
            cause="The profile does not know what the driver or the toolkit needs; the program sees `permission denied`.",
            remedy=f"Allow it in the profile (/etc/apparmor.d/local), or give the container another: `aa-status` has {whose}; "
            "a container's is set by `--security-opt apparmor=PROFILE`.",
            refused="how far a program is confined is the owner's decision",
            symptoms=('apparmor="DENIED"',),
        )
