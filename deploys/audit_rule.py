"""A user may audit the hosts and do nothing else there: the audit program and its sudo rule (docs/sudo.md).

    pyinfra inventory.py deploys/audit_rule.py --data audit_user=ops

Takes root, or full sudo, this once.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
from pyinfra.context import host

from operations import audit_rule
from reports.document import Exit

user = str(host.data.get("audit_user") or "")
try:
    audit_rule.rule_text(user)
except ValueError as error:
    click.echo(f"gpumend: --data audit_user=USER: {error}", err=True)
    raise SystemExit(int(Exit.USAGE)) from None
audit_rule.allowed(user=user)
