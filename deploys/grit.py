"""GRIT: grit.toml, and its runtime in containerd. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import containerd, grit, runs

if session.begin():
    runs.recovered()
    grit.config()
    containerd.config()
