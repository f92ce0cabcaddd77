"""A new GPU node: all that gpu_host.py does, and before it the NVIDIA Container Toolkit's packages where they are missing.

    pyinfra inventory.py deploys/provision.py --dry     audit: what is missing, and what would be installed
    pyinfra inventory.py deploys/provision.py           install, then mend what depends on it
    ... --data handover=DIRECTORY                       and leave each node's document there, NODE.html and NODE.json;
                                                        without it, where `gpumend.handover` says

It is gpu_host.py with `gpumend.toolkit.install` true by default; `toolkit.version` names a version. The packages come from
the repositories that the node has, and those of `gpumend.repositories`; `gpumend.engine` installs an engine first, `gpumend.cuda_toolkit` a CUDA toolkit. `gpumend.driver` the NVIDIA
driver, by opt-in (`install`), for the next boot; nothing reboots. Exit status: as gpu_host.py.
"""

from gpumend.deploy import session

from deploys import everything

if session.begin(wanted={"toolkit": {"install": True}}, hands_over=True):
    everything.in_order()
