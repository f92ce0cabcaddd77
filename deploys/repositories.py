"""Repositories: those that `gpumend.repositories` names are the host's, each with its key. One concern of gpu_host.py, by itself."""

from gpumend.deploy import session

from operations import repositories, runs, toolkit

if session.begin(concern="repositories"):
    runs.recovered(_ignore_errors=True)
    toolkit.apt_sources(_ignore_errors=True)
    repositories.trusted(_ignore_errors=True)
