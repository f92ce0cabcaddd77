"""Everything a GPU host needs so that its containers can use the GPU.

    pyinfra inventory.py deploys/gpu_host.py --dry      audit: changes nothing
    pyinfra inventory.py deploys/gpu_host.py            mend

Exit status: 0 every host is as wanted; 1 a host could not be reached or read, or something stayed unknown;
2 usage or configuration; 3 drift; 4 a change failed and was put back; 5 and could not be put back.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import everything, session

if session.begin():
    everything.in_order()
