"""Everything a GPU host needs so that its containers can use the GPU.

    pyinfra inventory.py deploys/gpu_host.py --dry      audit: changes nothing
    pyinfra inventory.py deploys/gpu_host.py            mend

Exit status: 0 every host is as wanted; 1 a host could not be reached or read, or something stayed unknown;
2 usage or configuration; 3 drift; 4 a change failed and was put back; 5 and could not be put back.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import session
from operations import cdi, containerd, cuda, docker, driver, grit, podman, proof, runs, storage, toolkit

if session.begin():
    # All of them where a host needs one: what an operation puts right may call for a later one. The order is the one in
    # which each can rely on the one before: a spec before the mode that needs it, both before Docker is told.
    runs.recovered()
    driver.ready()
    toolkit.apt_sources()
    cuda.compat()
    cdi.spec_current()
    toolkit.runtime_config()
    grit.config()
    containerd.config()
    podman.spec_folders()
    docker.daemon_config()
    storage.docker_root()
    storage.dind()
    proof.containers()
