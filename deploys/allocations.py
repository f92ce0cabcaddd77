"""A site's books of GPU allocations. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import allocations, runs

if session.begin(concern="allocations"):
    runs.recovered()
    allocations.reconciled()
