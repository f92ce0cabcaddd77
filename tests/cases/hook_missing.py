from tests.cases.base import *

SOURCE = "stevezau/media_preview_generator#260 (AMD CDI spec not found), nd#958; moby daemon/nvidia_linux.go LookPath"
EXPECT = "GM203 (as with docker.paths = [gpus]): a container of this host uses --gpus and neither nvidia-container-runtime-hook nor nvidia-cdi-hook is there"
HOST = (
    healthy("29.3.0", "1.18.2", mode="auto")
    .but(programs={"nvidia-container-runtime-hook": None, "nvidia-cdi-hook": None})
    .with_containers(container("mpg", gpus=True, running=False))
)
WANTED = AUTO
