"""pyinfra's command line, loaded as our own process has it: gevent in the place of threads and sockets, paramiko without invoke."""

import sys

import pyinfra_cli  # noqa: F401  # first: it puts gevent there

# paramiko imports invoke, a tenth of the time to the first connection, for a `Match exec` of which pyinfra makes its own (pyinfra
# 3.10 connectors/sshuserclient/config.py FakeInvoke), and goes on where it is not there. Whoever imports it later has it.
sys.modules["invoke"] = None  # type: ignore[assignment]
from pyinfra_cli.main import main  # noqa: E402

del sys.modules["invoke"]

__all__ = ["main"]
