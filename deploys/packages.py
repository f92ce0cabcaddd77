"""Packages: those of the NVIDIA Container Toolkit are there in one version, where `gpumend.toolkit.install` is wanted. One
concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import packages, runs, toolkit

if session.begin():
    runs.recovered()
    toolkit.apt_sources()
    packages.toolkit_installed()
