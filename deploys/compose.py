"""Compose projects: how their services ask for GPUs. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import compose, runs

if session.begin(concern="compose"):
    runs.recovered()
    compose.requests()
