"""containerd: runtimes, cgroup driver and CDI of its CRI plugin. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import containerd, runs

if session.begin(concern="containerd"):
    runs.recovered()
    containerd.config()
