"""CUDA: the driver runs what is wanted, with cuda-compat where NVIDIA supports that and without it where the driver has
outgrown it (`gpumend.cuda` in the wanted state); the toolkit of `gpumend.cuda_toolkit` is installed. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import cuda, runs

if session.begin(concern="cuda"):
    runs.recovered()
    cuda.toolkit()
    cuda.compat()
