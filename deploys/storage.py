"""Storage of Docker and of Dockers inside of containers. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import runs, storage

if session.begin(concern="storage"):
    runs.recovered(_ignore_errors=True)
    storage.docker_root(_ignore_errors=True)
    storage.dind(_ignore_errors=True)
