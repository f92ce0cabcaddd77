"""containerd: runtimes, cgroup driver and CDI of its CRI plugin. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import containerd, runs

if session.begin():
    runs.recovered()
    containerd.config()
