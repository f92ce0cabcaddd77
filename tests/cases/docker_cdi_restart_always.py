from tests.cases.base import *

SOURCE = "moby#49989, PR#49990 (28.2.0); RegisterCDIDriver after NewDaemon in v25.0-v28.1.1"
EXPECT = "warn: on Docker 25.0-28.1 a CDI container with a restart policy does not come back at boot or when dockerd restarts; upgrade to 28.2 or use the nvidia runtime"
HOST = healthy("27.5.1", "1.17.8", mode="cdi").with_containers(
    container("gpu-test", cdi="nvidia.com/gpu=all", restart="always")
)
WANTED = {}
