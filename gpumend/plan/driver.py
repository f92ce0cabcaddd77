"""The driver's device nodes, their links in /dev/char, and the linker's cache."""

from __future__ import annotations

from gpumend.plan.changes import of_kind
from gpumend.plan.step import RunCommand, Step, WriteFile
from gpumend.plan.transaction import Transaction
from gpumend.rules.change import LinkCharDevices, MakeControlNodes, RefreshLinkerCache, RunModprobe
from gpumend.rules.engines import injection
from gpumend.rules.finding import Change, Component
from gpumend.rules.rule import Context
from gpumend.state.driver import CHAR_RULE


def build(context: Context, codes: tuple[str, ...], changes: list[Change]) -> Transaction:
    steps: list[Step] = []
    if of_kind(changes, RefreshLinkerCache):
        steps.append(RunCommand(("ldconfig",)))
    if of_kind(changes, RunModprobe):
        count = max(len(context.state.gpus.proc.value or ()), 1)
        minors = tuple(word for minor in (*range(count), 255) for word in ("-c", str(minor)))
        # With -u its -c counts nvidia-uvm's own nodes: two calls (nvidia-modprobe(1)).
        steps.append(RunCommand(("nvidia-modprobe", *minors)))
        steps.append(RunCommand(("nvidia-modprobe", "-u", "-c", "0", "-c", "1")))
    if of_kind(changes, MakeControlNodes):
        argv = ("nvidia-ctk", "system", "create-device-nodes", "--control-devices", "--load-kernel-modules")
        steps.append(RunCommand(argv))
    if of_kind(changes, LinkCharDevices):
        # Of the nodes that are there: --create-all takes the GPUs from PCI, and makes none where it sees none there.
        steps.append(RunCommand(("nvidia-ctk", "system", "create-dev-char-symlinks")))
        old, data = context.state.driver.char_rule.get(), injection.UDEV_TEXT.encode()
        if old is None or old.data != data:
            steps.append(WriteFile.over(CHAR_RULE, old, data))
    return Transaction(Component.DRIVER, codes, tuple(steps))
