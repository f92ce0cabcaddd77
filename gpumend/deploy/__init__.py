"""What the deploys share: the host is read and judged, the report is told, the exit status is right.

Imported, it makes the pyinfra project's own `facts`, `operations` and `deploys` importable: pyinfra adds the directory
that it was started in to sys.path, and not the deploy's (pyinfra 3.10 pyinfra_cli/main.py).
"""

import os
import sys
from pathlib import Path


def keep_bytecode() -> None:
    """Python keeps the bytecode of our modules, unless it was told not to (PYTHONDONTWRITEBYTECODE, -B). pyinfra's main turns that
    off for deploys, which are executed and never imported: each start out of a checkout compiled two hundred modules, a sixth
    of its CPU time. Not in a checkout of another user, who could not remove what root left there."""
    ours = Path(__file__).parent.stat().st_uid == os.geteuid()
    sys.dont_write_bytecode = bool(sys.flags.dont_write_bytecode) or not ours


keep_bytecode()

from gpumend.places import PROJECT  # noqa: E402  # kept, too

if str(PROJECT) not in sys.path:
    sys.path.insert(0, str(PROJECT))
