"""The container engine: one of the wanted kind (`gpumend.engine`) is there. One concern of gpu_host.py, by itself."""

from gpumend.deploy import session

from operations import engine, repositories, runs, toolkit

if session.begin(concern="engine"):
    runs.recovered(_ignore_errors=True)
    toolkit.apt_sources(_ignore_errors=True)
    repositories.trusted(_ignore_errors=True)
    engine.installed(_ignore_errors=True)
