"""Everything a GPU host needs so that its containers can use the GPU.

    pyinfra inventory.py deploys/gpu_host.py --dry      audit: changes nothing
    pyinfra inventory.py deploys/gpu_host.py            mend

Exit status: 0 every host is as wanted; 1 a host could not be reached or read, or something stayed unknown;
2 usage or configuration; 3 drift; 4 a change failed and was put back; 5 and could not be put back.
"""

from gpumend.deploy import session

from deploys import everything

if session.begin():
    everything.in_order()
