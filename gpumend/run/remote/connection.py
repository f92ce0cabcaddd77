"""Running one of our programs on a host: the one place that talks to pyinfra's connectors."""

from __future__ import annotations

import base64
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paramiko import SSHException
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, all_argument_meta
from pyinfra.api.command import StringCommand
from pyinfra.context import ctx_config

from gpumend.run import audit_program
from gpumend.run.attempt import HostError, NotAllowed
from gpumend.run.audit_program import AUDIT, AUDIT_ONLY, SUDO
from gpumend.run.remote.output import TOO_MUCH, bounded

if TYPE_CHECKING:
    from pyinfra.api.host import Host

# -I: no environment, no user site; -S: no site; -B: no .pyc: nothing on the host bends the program, and it leaves nothing.
COMMAND = (
    "command -v python3 >/dev/null 2>&1 || { echo 'no python3 on this host' >&2; exit 69; }; "
    "exec python3 -I -S -B -"
)
LEVEL = 6  # of zlib: 9 makes a hundredth less of it, and takes more than twice as long
INSTALL = "pyinfra inventory.py deploys/audit_rule.py --data audit_user=USER"


bounded()


class RemoteError(HostError):
    """No answer over the connection."""


class AuditOnly(RemoteError, NotAllowed):
    """The host lets us audit, and nothing else."""


class NobodyToAsk(OSError):
    """A question was asked without a terminal: pyinfra's, for sudo's password."""


def packed_now(program: str) -> str:
    """The same program in a quarter of its bytes: a client that serves a thousand hosts encrypts every one of them."""
    text = base64.b64encode(zlib.compress(program.encode("ascii"), LEVEL)).decode("ascii")
    return f"import base64, zlib\nexec(compile(zlib.decompress(base64.b64decode({text!r})), 'gpumend', 'exec'))\n"


packed = lru_cache(maxsize=4)(packed_now)


def run_program(host: Host, program: str, timeout: int, begins: str = "") -> str:
    """The program's standard output. It goes over stdin: no argument limit, and nothing of it in sudo's log. begins: source that comes
    before it on all hosts, which is packed, and in memory, once for all of them.

    Runs with the host's own pyinfra arguments (`_sudo` and the like), as a fact does. Raises RemoteError.
    """
    text = [packed(begins), packed_now(program)] if begins else packed(program)
    return _run(host, COMMAND, timeout, _stdin=text)


def audit_only(host: Host) -> bool:
    """Whether sudo on this host is for the installed audit program alone. Raises RemoteError for a value of the host
    data key that is neither."""
    said = host.data.get(SUDO)
    if said not in (None, "", AUDIT):
        raise RemoteError(f"host data {SUDO}: {said!r} is not allowed; allowed: {AUDIT!r}")
    return bool(said)


def must_be_whole(host: Host) -> None:
    """Raises AuditOnly where this host lets us audit, and nothing else."""
    if audit_only(host):
        raise AuditOnly(f"{AUDIT_ONLY}: to change it, connect as root or as a user with full sudo")


def run_audit_program(host: Host, timeout: int) -> str:
    """The standard output of the audit program that is installed on the host, run as a sudo rule lists it: that path,
    no argument, no shell. Raises RemoteError."""
    found = _run(
        host,
        f"exec sudo -H -n {audit_program.PATH}",
        timeout,
        f"; its audit program and the sudo rule for it are put there by: {INSTALL}",
        _sudo=False,
    )
    return found


def connector_arguments(host: Host) -> dict[str, Any]:
    """The host's `_sudo` and the like, as pyinfra's `pop_global_arguments` resolves them: of the operation, of the
    deploy, of the host's data, of the config. That function looks every one of its thirty arguments up in the host's
    layers of data, which for a fleet is more work than the connection; here they are merged once."""
    config = ctx_config.get() if ctx_config.isset() else host.state.config
    data = host.data.dict()
    given = {**data, **(host.current_deploy_kwargs or {}), **(host.current_op_global_arguments or {})}
    found = {}
    for key in CONNECTOR_ARGUMENT_KEYS:
        meta = all_argument_meta[key]
        value = given[key] if key in given else meta.default(config)
        found[key] = meta.handler(config, value) if meta.handler else value
    return found


def _run(host: Host, command: str, timeout: int, advice: str = "", **more: Any) -> str:
    """The command's standard output; `advice` is added to what the host says where it gives none. Raises RemoteError."""
    connector = connector_arguments(host)
    # pyinfra puts _shell_executable into the command line as it is (connectors/util.py make_unix_command).
    connector.update(_timeout=connector.get("_timeout") or timeout, _shell_executable="sh", **more)
    try:
        status, output = host.run_shell_command(StringCommand(command), **connector)
    except NobodyToAsk:
        raise RemoteError(
            "sudo: a password is required, and there is nobody to ask: give it as host data (_sudo_password), allow this "
            f"user sudo without one (NOPASSWD), or connect as root{advice}"
        ) from None
    except (TimeoutError, OSError, SSHException, EOFError) as error:
        raise RemoteError(f"the connection broke: {error or type(error).__name__}") from None
    if TOO_MUCH in output.stderr_lines:
        raise RemoteError(TOO_MUCH)
    if not status and not output.stdout.strip():
        lines = output.stderr.strip().splitlines()
        raise RemoteError((lines[-1] if lines else "no answer") + advice)
    return output.stdout
