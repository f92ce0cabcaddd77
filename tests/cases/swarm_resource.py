from tests.cases.base import *

SOURCE = "nct#1599, PR#1600 (1.19.0); internal/modifier/cdi.go has no swarm-resource in 1.17.8-1.18.2: only the legacy hook serves it"
EXPECT = "mode is not switched from legacy to cdi before 1.19 where swarm-resource is set (containers would get all GPUs); on 1.18.0-1.18.2 in auto a fail: swarm's assignment is ignored"
HOST = (
    healthy("28.5.2", "1.17.8", mode="auto")
    .but(
        files={
            CONFIG: cfg(swarm_resource='"DOCKER_RESOURCE_GPU"'),
            DAEMON_JSON: daemon_json(
                "28.5.2",
                **{"default-runtime": "nvidia", "node-generic-resources": ["NVIDIA-GPU=GPU-ddcfa932"]},
            ),
        },
        info={"DefaultRuntime": "nvidia"},
    )
    .with_containers(container("svc.1", runtime="nvidia", env={"DOCKER_RESOURCE_GPU": "GPU-ddcfa932"}))
)
WANTED = {}
