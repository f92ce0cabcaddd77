"""CRI-O: its drop-ins. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import crio, runs, toolkit

if session.begin():
    runs.recovered()
    toolkit.runtime_config()
    crio.config()
