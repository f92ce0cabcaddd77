"""The proof in a container, where the wanted state names an image for it."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from pyinfra import logger
from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation
from pyinfra.context import host as context_host

from facts.remote import RemoteError
from facts.snapshot import AnswerError
from operations import run
from operations.exchange import Outcome, send, who
from rules.docker import wanted_paths

if TYPE_CHECKING:
    from pyinfra.api.host import Host
    from pyinfra.api.state import State

# Driver API: cuInit(0) is 0 exactly when a CUDA program could start (CUDA driver API reference, CUresult).
CU_INIT = (
    "import ctypes, sys; r = ctypes.CDLL('libcuda.so.1').cuInit(0); "
    "print('cuInit:', r); sys.exit(0 if r == 0 else 1)"
)
OPTIONS = {
    "runtime": (
        "--runtime=nvidia",
        "-e",
        "NVIDIA_VISIBLE_DEVICES=all",
        "-e",
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
    ),
    "device": ("--device", "nvidia.com/gpu=all"),
    "gpus": ("--gpus", "all"),
}


@operation()
def containers() -> Generator[FunctionCommand, None, None]:
    """After a change, a container on each wanted engine path calls cuInit and gets 0; else the whole run is undone."""
    record = run.current(context_host.inventory).records.get(context_host.name)
    if record is None or record.now is None or not record.now.context.wanted.prove_image:
        return
    planned = record.now.plan.transactions or any(
        outcome.status == "changed" for outcome in record.outcomes.values()
    )
    if planned and wanted_paths(record.now.context):
        yield FunctionCommand(_prove, (), {})
    else:
        context_host.noop("nothing was changed")


def _prove(state: State, host: Host) -> bool:
    record = run.current(host.inventory).record(host.name)
    assert record.now is not None
    wanted = record.now.context.wanted
    image = wanted.prove_image or ""
    command = wanted.prove_command or ("python3", "-c", CU_INIT)
    this = run.current(host.inventory)
    data = {
        "verb": "containers",
        "run": this.id,
        "who": who(),
        "restarts": wanted.restarts,
        "containers": [
            {
                "path": path,
                "argv": [
                    "run",
                    "--rm",
                    "--pull=never",
                    "--network=none",
                    *OPTIONS[path],
                    "--entrypoint",
                    command[0],
                    image,
                    *command[1:],
                ],
            }
            for path in wanted_paths(record.now.context)
        ],
    }
    try:
        record.proof, snapshot = send(host, data)
        run.take(host, record, snapshot)
    except (RemoteError, AnswerError) as error:
        record.proof = Outcome("lost", str(error))
    log = logger.info if record.proof.good else logger.error
    log(f"{host.print_prefix}proof: {record.proof.status}: {record.proof.detail}")
    return record.proof.good
