"""Whether the nodes of a pool can restore each other's checkpoints: `--data pool=P`. Changes nothing."""

from gpumend.deploy import parity_report, session

session.begin(finish=parity_report.finish, shown=False)
