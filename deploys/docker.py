"""Docker: the nvidia runtime and CDI in daemon.json. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import docker, runs

if session.begin():
    runs.recovered()
    docker.daemon_config()
