"""The agent on the hosts: each judges itself by a timer (docs/agent.md).

pyinfra inventory.py deploys/agent.py [--data agent_verb=install|status|uninstall]
"""

import click
from pyinfra.context import host, state

from gpumend.agent.bundle import bundle, digest
from gpumend.agent.config import Config
from gpumend.deploy import agent_report, session
from gpumend.reports.document import Exit
from gpumend.run.remote import agent as remote
from gpumend.run.remote.assessment import merged
from gpumend.schemas.wanted import WantedError

from operations import agent

session.reporter(state, agent_report.finish)
verb = str(host.data.get("agent_verb") or "install")
if verb == "status":
    remote.told()
elif verb == "uninstall":
    agent.uninstalled()
elif verb == "install":
    try:
        wanted = merged(host)
    except WantedError as error:
        click.echo(f"gpumend: {error}", err=True)
        raise SystemExit(int(Exit.USAGE)) from None
    asked = wanted.get("agent", {})
    config = Config(
        host.name,
        wanted,
        digest(),
        int(asked.get("interval", 15)),
        str(asked.get("textfile", "")),
        tuple(asked.get("mend", ())),
        asked.get("slurm"),
    )
    agent.installed(program=bundle(), config=config.text())
else:
    click.echo(f"gpumend: --data agent_verb={verb}: install, status or uninstall", err=True)
    raise SystemExit(int(Exit.USAGE))
