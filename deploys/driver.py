"""The driver that `gpumend.driver` names, and what it needs around it: the linker's cache and device nodes. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import driver, repositories, runs, toolkit

if session.begin(concern="driver"):
    runs.recovered()
    toolkit.apt_sources()
    repositories.trusted()
    driver.installed()
    driver.ready()
