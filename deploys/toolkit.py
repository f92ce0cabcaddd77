"""The NVIDIA Container Toolkit: its config.toml and its APT source. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import runs, toolkit

if session.begin(concern="toolkit"):
    runs.recovered(_ignore_errors=True)
    toolkit.apt_sources(_ignore_errors=True)
    toolkit.runtime_config(_ignore_errors=True)
