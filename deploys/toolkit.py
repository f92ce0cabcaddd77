"""The NVIDIA Container Toolkit: its config.toml and its APT source. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import runs, toolkit

if session.begin():
    runs.recovered()
    toolkit.apt_sources()
    toolkit.runtime_config()
