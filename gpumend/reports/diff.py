"""What a transaction would change in files, as people read it."""

from __future__ import annotations

import difflib

from gpumend.plan.transaction import Step
from gpumend.text.mask import mask


def lines_of(data: bytes | None) -> list[str]:
    return (data or b"").decode("utf-8", "replace").splitlines()


def diff(step: Step) -> str:
    """A masked unified diff of a step that sets bytes; one line in words for every other kind."""
    if step.do == "write":
        rows = difflib.unified_diff(
            lines_of(step.was),
            lines_of(step.data),
            f"{step.path} (now)" if step.was is not None else "/dev/null",
            f"{step.path} (wanted)",
            lineterm="",
        )
        return mask("\n".join(rows))
    argv = " ".join(step.argv)
    return {
        "generate": f"{step.path} <- {argv}",
        "trigger": f"{step.path} <- {argv}",
        "remove": f"{step.path} moved into the run's backup",
        "mode": f"{step.path} gets mode {step.mode:04o}",
        "package": argv,
        "directory": f"{step.path} is made, and an overlay mounted in it for trial",
        "fuse": "/dev/fuse is made ready: modprobe fuse",
        "dropin": f"{step.path}: the `docker run` of {argv.partition(' ')[0]} with {' '.join(step.argv[2:])}",
        "note": f"check that the libcuda in {step.argv[0]} is for driver {step.argv[-1]}"
        if step.argv
        else "",
        "cuda": "prove it by cuInit, with and without it",
        "toolkit": "prove it by what its packages and `nvidia-ctk --version` say",
    }.get(step.do, f"run {argv}")
