"""CUDA: the driver runs what is wanted, with cuda-compat where NVIDIA supports that and without it where the driver has
outgrown it (`gpumend.cuda` in the wanted state). One concern of gpu_host.py, by itself; the whole host is judged all the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import cuda, runs

if session.begin():
    runs.recovered()
    cuda.compat()
