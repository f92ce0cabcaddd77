"""A user may audit the hosts and do nothing else there: the audit program and its sudo rule (docs/sudo.md).

    pyinfra inventory.py deploys/audit_rule.py --data audit_user=ops

Takes root, or full sudo, this once.
"""

import click
from pyinfra.context import host

from gpumend.reports.document import Exit
from gpumend.run.remote.audit_rule import rule_text

from operations import audit_rule

user = str(host.data.get("audit_user") or "")
try:
    rule_text(user)
except ValueError as error:
    click.echo(f"gpumend: --data audit_user=USER: {error}", err=True)
    raise SystemExit(int(Exit.USAGE)) from None
audit_rule.allowed(user=user)
