"""Docker: the nvidia runtime and CDI in daemon.json. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import docker, runs

if session.begin(concern="docker"):
    runs.recovered()
    docker.daemon_config()
