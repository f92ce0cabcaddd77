"""CRI-O: its drop-ins. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import crio, runs, toolkit

if session.begin():
    runs.recovered()
    toolkit.runtime_config()
    crio.config()
