"""A container that is started for proof, where the wanted state names an image for it."""

from __future__ import annotations

from gpumend.text.record import Record

ALL = ("--env", "NVIDIA_VISIBLE_DEVICES=all", "--env", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")
DEVICE = ("--device", "nvidia.com/gpu=all")


class Trial(Record):
    """One container to start. options: of the engine's `run`. must: whether it fails where there is nothing to start it
    with; otherwise that is told, and proves nothing."""

    path: str
    engine: str
    options: tuple[str, ...]
    must: bool
