"""Where an agent's files lie on a host. All of them are its own: an uninstall leaves none."""

from __future__ import annotations

from gpumend.run import audit_program

PROGRAM = audit_program.AGENT
CONFIG = "/etc/gpumend/agent.json"
STATE = "/var/lib/gpumend/agent"
REPORT = f"{STATE}/report.json"
CONDITION = f"{STATE}/condition"  # for node-problem-detector
MENDED = f"{STATE}/mended.json"  # the last mend that did something
DRAINED = f"{STATE}/drained.json"  # what Slurm was told by us
SLURM = f"{audit_program.DIRECTORY}/slurm-health"  # Slurm calls a program without arguments
UNITS = "/etc/systemd/system"
CRON = "/etc/cron.d/gpumend-agent"  # where no systemd runs
METRICS = "gpumend.prom"  # in the directory of node_exporter's textfile collector, where one is given
