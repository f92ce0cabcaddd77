"""What the driver needs around it: the linker's cache and device nodes. One concern of gpu_host.py, by itself; the whole host is judged all the same."""

from gpumend.deploy import session

from operations import driver, runs

if session.begin():
    runs.recovered()
    driver.ready()
