"""What the driver needs around it: the linker's cache and device nodes. One concern of gpu_host.py, by itself: its findings, its changes, its exit status."""

from gpumend.deploy import session

from operations import driver, runs

if session.begin(concern="driver"):
    runs.recovered()
    driver.ready()
