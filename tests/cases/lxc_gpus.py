"""lxc_no_cgroups with a container that uses --gpus now: mode is kept for its sake, no-cgroups is not"""

from tests.cases import lxc_no_cgroups as m
from tests.unit.build import container

HOST = m.lxc("1.17.8", "auto").with_containers(container("jellyfin", gpus=True))
