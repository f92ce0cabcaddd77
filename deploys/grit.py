"""GRIT: grit.toml, and its runtime in containerd. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import containerd, grit, runs

if session.begin():
    runs.recovered()
    grit.config()
    containerd.config()
