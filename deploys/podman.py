"""podman: the spec directories it reads. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import podman, runs

if session.begin(concern="podman"):
    runs.recovered()
    podman.spec_directories()
