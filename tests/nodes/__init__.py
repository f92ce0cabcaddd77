"""Booted Debian hosts for tests: real systemd, sshd and dockerd in systemd-nspawn, on one machine, as root.

`base` builds a root file system per Debian suite, `lab` boots nodes over them, `gpu` and `toolkit` give a
node an NVIDIA driver and container toolkit that are not there (plainly named stand-ins), `images` puts
container images on it and `scenarios` breaks it in the ways that gpumend finds and mends.
"""
