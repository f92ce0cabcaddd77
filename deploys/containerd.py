"""containerd: runtimes, cgroup driver and CDI of its CRI plugin. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import containerd, runs

if session.begin():
    runs.recovered()
    containerd.config()
