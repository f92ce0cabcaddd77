"""Who has the GPU open: stdlib only, Python 3.6 or newer."""

import glob
import os
import re
from typing import List

# The driver's own services have its nodes open as long as it is loaded.
DRIVERS_OWN = ("nvidia-persiste", "nv-fabricmanage", "nvidia-imex", "nv-hostengine")  # comm has 15 characters
GPU_NODE = re.compile(r"/dev/nvidia(?:\d+|ctl|-uvm|-caps/\S+)$")


def has_gpu_open(pid: str) -> bool:
    """Whether a process has one of the driver's nodes open. A file that it closes meanwhile hides no other."""
    for path in glob.glob("/proc/%s/fd/*" % pid):
        try:
            link = os.readlink(path)
        except OSError:
            continue
        if GPU_NODE.match(link):
            return True
    return False


def gpu_users() -> List[str]:
    """Processes that have the driver open, as `python3 (12)`; not its own services."""
    found = []
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            with open("/proc/%s/comm" % pid, errors="replace") as handle:
                name = handle.read().strip()
        except OSError:
            continue  # it ended
        if name not in DRIVERS_OWN and has_gpu_open(pid):
            found.append("%s (%s)" % (name, pid))
    return found
