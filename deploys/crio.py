"""CRI-O: its drop-ins. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import crio, runs, toolkit

if session.begin(concern="crio"):
    runs.recovered(_ignore_errors=True)
    toolkit.runtime_config(_ignore_errors=True)
    crio.config(_ignore_errors=True)
