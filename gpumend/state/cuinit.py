"""What CUDA says when it is asked once: cuInit's number and the count of devices, of a process of no rights."""

from __future__ import annotations

import re

from gpumend.state.reading import Reading
from gpumend.state.request import Command, Request
from gpumend.state.snapshot import Output, Snapshot
from gpumend.text.record import Record

HMM = "/sys/module/nvidia_uvm/parameters/uvm_disable_hmm"
NAME = "cuinit"

REQUEST = Request(
    files=(HMM,),
    # The probe does not run this as a command: gpumend/payload/cuda.py asks, where nothing would be created by it.
    commands={NAME: Command(("cuInit",), timeout=60, asks_cuda=True)},
)


class Answer(Record):
    """number: what cuInit returned. devices: as cuDeviceGetCount has it. library: the file that was asked."""

    number: int
    devices: int
    library: str


class CuInit(Record):
    """answer: absent where CUDA was not asked, and the reading's detail says why. hmm_off: nvidia_uvm's uvm_disable_hmm."""

    answer: Reading[Answer]
    hmm_off: Reading[bool]


def answer(output: Output) -> Answer:
    """`NUMBER DEVICES LIBRARY`; raises ValueError where the process gave no such line."""
    match = re.match(r"(\d{1,5}) (-?\d{1,5}) (/\S+)\n", output.out)
    if output.rc or match is None:
        lines = (output.err.strip() or output.out.strip()).splitlines()
        raise ValueError(f"exit status {output.rc}: {lines[-1] if lines else 'no answer'}")
    return Answer(int(match.group(1)), int(match.group(2)), match.group(3))


def parse(snapshot: Snapshot) -> CuInit:
    return CuInit(
        answer=snapshot.command(NAME).map(answer),
        hmm_off=snapshot.text(HMM).map(lambda text: text.strip() in ("Y", "1")),
    )
