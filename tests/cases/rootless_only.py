from tests.cases.base import *

SOURCE = "nct#1487, gazebo-tooling/gzdev#97, nct#85"
EXPECT = "a host that runs rootless Docker alone (docker.service disabled) is no drift: GM407 and GM209 'rootful Docker without the GPU' do not apply; the rootless daemon's own needs are judged"
HOST = healthy("28.5.2", "1.18.0", mode="auto").but(
    files={CONFIG: cfg(no_cgroups="true")},
    docker=None,
    processes=(process("/usr/bin/rootlesskit", uid=1000), process("/usr/bin/dockerd", uid=1000)),
    units={
        "docker.service": {
            "LoadState": "loaded",
            "ActiveState": "inactive",
            "UnitFileState": "disabled",
            "Result": "success",
        }
    },
)
WANTED = AUTO
