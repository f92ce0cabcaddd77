"""Storage of Docker and of Dockers inside of containers. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import runs, storage

if session.begin():
    runs.recovered()
    storage.docker_root()
    storage.dind()
