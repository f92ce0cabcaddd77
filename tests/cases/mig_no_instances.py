from tests.cases.base import *

SOURCE = "Azure/AgentBaker#8736 (nvidia-ctk exits 1 while MIG is on without instances); NVIDIA/k8s-device-plugin#225 (instances are lost at reboot)"
EXPECT = "cause: GPU 0 has MIG on and no instance; make them (nvidia-smi mig -cgi ... -C, nvidia-mig-parted), then generate. No change: it cannot succeed (node: mend rc 4)"
HOST = healthy("28.5.2", "1.18.2", mode="auto").but(
    files={DYNAMIC: None},
    commands={"nvidia-smi-query": (0, smiq(mig="Enabled"), "")},
    units={
        REFRESH: {
            "LoadState": "loaded",
            "ActiveState": "failed",
            "Result": "exit-code",
            "ExecMainStatus": "1",
            "UnitFileState": "enabled",
        }
    },
    info={"DiscoveredDevices": []},
)
WANTED = AUTO
