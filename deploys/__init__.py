"""What to run: `gpu_host.py` is everything, the files beside it are one concern each."""
