"""The sudo rule for a user who may audit a host and nothing else."""

from __future__ import annotations

from collections.abc import Generator

from pyinfra.api.command import FunctionCommand
from pyinfra.api.operation import operation

from gpumend.run.remote import audit_rule


@operation()
def allowed(user: str) -> Generator[FunctionCommand, None, None]:
    """`user` may run the audit as root without a password: the audit program is there, root's and for root alone to
    change, and a sudo rule that pins its SHA-256.

    visudo has read the rule before it counts, and sudo has said afterwards that the user may; else all is as before.
    Fails where somebody but root could change the program that is there now.
    """
    yield from audit_rule.allowed(user)
