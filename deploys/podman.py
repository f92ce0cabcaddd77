"""podman: the spec directories it reads. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import podman, runs

if session.begin():
    runs.recovered()
    podman.spec_directories()
