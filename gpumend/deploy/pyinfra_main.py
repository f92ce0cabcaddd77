"""pyinfra's command line, loaded as our own process has it: gevent in the place of threads and sockets, paramiko without invoke."""

import sys

import pyinfra_cli  # noqa: F401  # first: it puts gevent there

# paramiko imports invoke, a tenth of the time to the first connection, for a `Match exec` of which pyinfra makes its own (pyinfra
# 3.10 connectors/sshuserclient/config.py FakeInvoke), and goes on where it is not there. Whoever imports it later has it.
sys.modules["invoke"] = None  # type: ignore[assignment]
import pyinfra_cli.main as theirs  # noqa: E402

from gpumend.deploy import early  # noqa: E402

del sys.modules["invoke"]


def main() -> None:
    """pyinfra's, and until the run listens an interrupt is what it was while this was loaded: to pyinfra it is exit status 0
    (pyinfra 3.10 pyinfra_cli/main.py, which calls `cli` of its module last)."""
    cli = theirs.cli

    def listening() -> None:
        early.listen()
        cli()

    theirs.cli = listening
    theirs.main()


__all__ = ["main"]
