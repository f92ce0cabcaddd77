"""Running one of our programs on a host: the one place that talks to pyinfra's connectors."""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from paramiko import SSHException
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.command import StringCommand

if TYPE_CHECKING:
    from pyinfra.api.host import Host

# -I: no environment, no user site; -S: no site; -B: no .pyc: nothing on the host bends the program, and it leaves nothing.
COMMAND = (
    "command -v python3 >/dev/null 2>&1 || { echo 'no python3 on this host' >&2; exit 69; }; "
    "exec python3 -I -S -B -"
)


class RemoteError(Exception):
    """The host gave no answer. The text is its own last word, or the connection's."""


class NobodyToAsk(OSError):
    """A question was asked without a terminal: pyinfra's, for sudo's password."""


@lru_cache(maxsize=4)
def packed(program: str) -> str:
    """The same program in a quarter of its bytes: a client that serves a thousand hosts encrypts every one of them."""
    text = base64.b64encode(zlib.compress(program.encode("ascii"), 9)).decode("ascii")
    return f"import base64, zlib\nexec(compile(zlib.decompress(base64.b64decode({text!r})), 'gpumend', 'exec'))\n"


def run_program(host: Host, program: str, timeout: int) -> str:
    """The program's standard output. It goes over stdin: no argument limit, and nothing of it in sudo's log.

    Runs with the host's own pyinfra arguments (`_sudo` and the like), as a fact does. Raises RemoteError.
    """
    arguments: dict[str, Any] = dict(cast(dict[str, Any], host.current_op_global_arguments) or {})
    resolved, _ = pop_global_arguments(host.state, host, arguments)
    connector = {key: value for key, value in resolved.items() if key in CONNECTOR_ARGUMENT_KEYS}
    connector.update(_stdin=packed(program), _timeout=resolved.get("_timeout") or timeout)
    try:
        status, output = host.run_shell_command(StringCommand(COMMAND), **connector)
    except NobodyToAsk:
        raise RemoteError(
            "sudo: a password is required, and there is nobody to ask: allow this user sudo without one (NOPASSWD), "
            "or connect as root"
        ) from None
    except (TimeoutError, OSError, SSHException, EOFError) as error:
        raise RemoteError(f"the connection broke: {error or type(error).__name__}") from None
    if not status and not output.stdout.strip():
        lines = output.stderr.strip().splitlines()
        raise RemoteError(lines[-1] if lines else "no answer")
    return output.stdout
