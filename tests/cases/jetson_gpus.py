from tests.cases.base import *

SOURCE = "dusty-nv/jetson-containers#1577 (Auto-detected mode as 'csv', hook refuses --gpus); nct hook ResolveAutoMode"
EXPECT = "GM205: on Tegra auto is csv, --gpus is refused, recreate with --runtime nvidia. GM509 silent there (csv edits config.json, no hook); GM204's warn not for ever ('Put that right first')"
HOST = (
    healthy("28.0.1", "1.16.2", mode="auto")
    .but(
        files={"/etc/nv_tegra_release": "# R36\n"}, system={"machine": "aarch64", "kernel": "5.15.148-tegra"}
    )
    .with_containers(container("tts", gpus=True, running=False))
)
WANTED = {"runtime": {"mode": "auto"}, "docker": {"paths": ["runtime", "gpus"]}}
