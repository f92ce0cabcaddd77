from tests.cases.base import *
from tests.unit.test_packages import fresh, offers

SOURCE = "canonical/docker-snap#357 and README 'NVIDIA Container Toolkit compatibility' (snap >= 29.2.0 fails where the toolkit's debs are on the host); bin/dockerd-wrapper: --config-file=$SNAP_DATA/config/daemon.json"
EXPECT = "no install where Docker is the snap; GM408 no fail where docker info already has the runtime nvidia; GM401 reads the snap's file under its revision"
HOST = fresh(offers("1.18.2-1")).but(
    processes=(
        process(
            "/snap/docker/3505/bin/dockerd",
            "--group",
            "docker",
            "--config-file=/var/snap/docker/3505/config/daemon.json",
        ),
    ),
    files={"/var/snap/docker": a_directory(), "/etc/docker/daemon.json": None},
    docker=healthy_docker("29.2.1"),
)
WANTED = {"runtime": {"mode": "auto"}, "toolkit": {"install": True}}
