"""Packages: those of the NVIDIA Container Toolkit are there in one version, where `gpumend.toolkit.install` is wanted. One
concern of gpu_host.py, by itself; the whole host is judged all the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import packages, runs, toolkit

if session.begin():
    runs.recovered()
    toolkit.apt_sources()
    packages.toolkit_installed()
