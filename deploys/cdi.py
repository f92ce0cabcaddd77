"""The CDI specs. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import cdi, runs

if session.begin(concern="cdi"):
    runs.recovered()
    cdi.spec_current()
