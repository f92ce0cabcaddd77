"""Packages: those of the NVIDIA Container Toolkit are there in one version, where `gpumend.toolkit.install` is wanted. One
concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import packages, repositories, runs, toolkit

if session.begin(concern="packages"):
    runs.recovered(_ignore_errors=True)
    toolkit.apt_sources(_ignore_errors=True)
    repositories.trusted(_ignore_errors=True)
    packages.toolkit_installed(_ignore_errors=True)
