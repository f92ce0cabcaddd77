"""What the deploys share: the host is read and judged, the report is told, the exit status is right.

Imported, it makes the pyinfra project's own `facts`, `operations` and `deploys` importable: pyinfra adds the directory
that it was started in to sys.path, and not the deploy's (pyinfra 3.10 pyinfra_cli/main.py).
"""

import sys

from gpumend.places import PROJECT

if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))
