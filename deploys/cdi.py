"""The CDI specs. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import cdi, runs

if session.begin():
    runs.recovered()
    cdi.spec_current()
