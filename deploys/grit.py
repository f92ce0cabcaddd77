"""GRIT: grit.toml, and its runtime in containerd. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import containerd, grit, runs

if session.begin(concern="grit"):
    runs.recovered(_ignore_errors=True)
    grit.config(_ignore_errors=True)
    containerd.config(_ignore_errors=True)
