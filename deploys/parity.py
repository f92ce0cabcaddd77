"""Whether the nodes of a pool can restore each other's checkpoints: `--data pool=P`. Changes nothing."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from deploys import (
    parity_report,
    session,
)

session.begin(finish=parity_report.finish, show=False)
