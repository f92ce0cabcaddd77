"""GM606: the CUDA that containers and images name, compose projects' among them, and whether the driver runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from gpumend.rules.cuda.decision import (
    CAUSE_35,
    HOOK_SINCE,
    Case,
    case_of,
    decide,
    driver_evidence,
    least_driver,
)
from gpumend.rules.cuda.releases import dotted, served, toolkit_driver, windows_driver, windows_served
from gpumend.rules.finding import Evidence, Finding, Status
from gpumend.rules.rule import Context, has_gpu, rule
from gpumend.text.record import Record
from gpumend.text.version import Version, show


class Namer(Record):
    """A container or image that names a CUDA release, and the words that do."""

    label: str
    source: str
    release: Version
    text: str


def named_release(env: dict[str, str]) -> tuple[Version, str] | None:
    """The CUDA release that an environment names: CUDA_VERSION, else the least of NVIDIA_REQUIRE_CUDA."""
    match = re.match(r"(\d+)\.(\d+)", env.get("CUDA_VERSION", ""))
    if match:
        return (int(match.group(1)), int(match.group(2))), f"CUDA_VERSION={env['CUDA_VERSION'][:40]}"
    text = env.get("NVIDIA_REQUIRE_CUDA", "")
    # Alternatives are separated by spaces, and one suffices: the least is what the image can live with.
    least = [(int(major), int(minor or 0)) for major, minor in re.findall(r"cuda>=(\d+)(?:\.(\d+))?", text)]
    return (min(least), f"NVIDIA_REQUIRE_CUDA={text[:80]}") if least else None


def namers(context: Context) -> Iterator[Namer]:
    """Containers that ask for a GPU, then images of no such container, that name a CUDA release."""
    docker = context.state.docker
    seen = set()
    for container in docker.containers.get() or ():
        asks = (
            container.uses_gpus_flag()
            or container.uses_cdi()
            or container.uses_runtime()
            or bool(container.devices)
        )
        found = named_release(dict(container.env))
        seen.add(container.image)
        if asks and found:
            yield Namer(container.label(), f"docker inspect {container.name}", *found)
    for image in context.state.cuda.images.get() or ():
        found = named_release(dict(image.env))
        if found and not seen.intersection(image.names):
            yield Namer(f"image {image.label()}", f"docker inspect {image.label()}", *found)


class Misfit(Record):
    """Why a host's driver does not serve a release that an image names. partly: its major runs, not all of it."""

    partly: bool
    cause: str
    remedy: str


def misfit(case: Case, toolkit: Version) -> Misfit | None:
    """What is wrong with an image's release on a host; None where it runs. toolkit: the container toolkit's version.
    Raises Unread where that hangs on what is not known of the GPUs."""
    release = case.wanted
    if case.wsl2:
        details = case.details.need()
        needed = windows_driver(release)
        driver = case.driver or ()
        serves = max(filter(None, (windows_served(driver), details.cuda)), default=None)
        if (needed and driver >= needed) or (serves and serves >= release):
            return None
        return Misfit(
            bool(serves and serves[0] == release[0]),
            "This is WSL2: no cuda-compat helps.",
            f"Update the Windows driver{f' to {show(needed)} or newer' if needed else ''}, or use an image for CUDA <= "
            f"{dotted(serves) if serves else 'what it serves'}.",
        )
    row = decide(case._replace(needs="runtime", outgrown=(), containers=False))
    if row.action in ("fine", "limited"):
        return None
    if row.action in ("compat", "opt_in"):
        if toolkit >= HOOK_SINCE:
            return None  # the image's own compat libraries serve it, put on the path by the toolkit's hook
        return Misfit(
            False,
            f"The image's own compat libraries would serve it; the toolkit puts them on the path from {show(HOOK_SINCE)} on.",
            f"Upgrade nvidia-container-toolkit to {show(HOOK_SINCE)} or newer.",
        )
    if row.action == "old_gpu":
        return Misfit(
            False,
            f"CUDA {release[0]} no longer supports this host's {case.old_gpu()} GPU.",
            f"Use an image for CUDA {release[0] - 1}.x.",
        )
    newest = served(case.driver) if case.driver else None
    return Misfit(
        False,
        f"The driver is older than CUDA {release[0]} allows, and compat libraries do not help: {case.unfit or f'no list has driver branch {case.branch}'}.",
        f"Upgrade the driver to {least_driver(case)}"
        + (f", or use an image for CUDA <= {dotted(newest)}." if newest else "."),
    )


def has_namers(context: Context) -> bool:
    """A GPU, and a dockerd that answers: images of one that is down are nobody's yet."""
    return has_gpu(context) and context.state.docker.running and not context.state.host.tegra


@rule(
    "GM606",
    "the driver runs the CUDA that containers and images name",
    "report 000: CUDA runtime 12.9 on driver 560.94; nct#152; CUDA compatibility guide",
    applies=has_namers,
)
def named(context: Context) -> Iterator[Finding]:
    by_release: dict[Version, list[Namer]] = {}
    for found in namers(context):
        by_release.setdefault(found.release, []).append(found)
    toolkit = context.state.toolkit.version.value or ()
    for release, found_in in sorted(by_release.items()):
        case = case_of(context, release)
        if case.driver is None or case.reboot:
            return  # GM101, GM102
        if toolkit_driver(release) is None:
            continue  # an image's label is not a wanted state: nothing is known to be wrong
        wrong = misfit(case, toolkit)
        if wrong is None:
            continue
        names = ", ".join(found.label for found in found_in[:6])
        yield Finding(
            code="GM606",
            status=Status.WARN if wrong.partly else Status.FAIL,
            summary=f"the driver does not {'fully ' if wrong.partly else ''}serve CUDA {dotted(release)}, which is named by {names}"
            + (f" and {len(found_in) - 6} more" if len(found_in) > 6 else ""),
            evidence=(
                *(Evidence(found.source, found.text) for found in found_in[:6]),
                *driver_evidence(context),
            ),
            cause=f"{wrong.cause} {CAUSE_35}",
            remedy=wrong.remedy,
            refused="images and drivers are their owners'",
            symptoms=(
                "CUDA driver version is insufficient for CUDA runtime version",
                "requirement error: unsatisfied condition: cuda>=",
                "CUDA initialization failure with error: 35",
            ),
        )
