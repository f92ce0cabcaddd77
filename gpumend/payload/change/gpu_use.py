"""Who has the GPU open: stdlib only, Python 3.6 or newer."""

import glob
import os
import re
from typing import List

# The driver's own services have its nodes open as long as it is loaded.
DRIVERS_OWN = ("nvidia-persiste", "nv-fabricmanage", "nvidia-imex", "nv-hostengine")  # comm has 15 characters
GPU_NODE = re.compile(r"/dev/nvidia(?:\d+|ctl|-uvm|-caps/\S+)$")


def gpu_users() -> List[str]:
    """Processes that have the driver open, as `python3 (12)`; not its own services."""
    found = []
    for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
        try:
            links = [os.readlink(path) for path in glob.glob("/proc/%s/fd/*" % pid)]
            with open("/proc/%s/comm" % pid, errors="replace") as handle:
                name = handle.read().strip()
        except OSError:
            continue  # it ended, or closed one
        if name not in DRIVERS_OWN and any(GPU_NODE.match(link) for link in links):
            found.append("%s (%s)" % (name, pid))
    return found
