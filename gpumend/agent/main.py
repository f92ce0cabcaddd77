"""`agent audit|mend|status|uninstall`, on the host itself; `install` is what the controller sends."""

from __future__ import annotations

import argparse
import atexit
import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence

from gpumend.agent import journal
from gpumend.agent.config import ConfigError, parse, read
from gpumend.agent.places import CONFIG

FAULT = 70  # EX_SOFTWARE: not one of the statuses of an audit


def _install(file: str) -> dict[str, object]:
    from gpumend.agent import install  # only here: an audit needs none of it

    config = parse(sys.stdin.read())
    with open(file, "rb") as program:
        return {"changed": install.installed(config, program.read())}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: an audit's own, 0 or 2 of the other verbs, 70 where the agent itself failed."""
    # What is left at the end is searched for garbage to no use: the CPU time of starting Python.
    atexit.register(gc.freeze)
    parser = argparse.ArgumentParser(
        prog="agent", description="Judges this host, as it was told when it was installed."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb, text in (
        ("audit", "judge this host, and write the report, the metrics and the journal"),
        ("mend", "put right what the configuration allows the agent to change"),
    ):
        working = verbs.add_parser(verb, help=text)
        working.add_argument(
            "--spread", type=int, default=0, metavar="SECONDS", help="begin within so many seconds"
        )
        if verb == "audit":
            working.add_argument("--config", default=CONFIG, metavar="FILE", help="what it was told")
            working.add_argument("--host", default="", metavar="NAME", help="this host's name")
    verbs.add_parser("slurm", help="as Slurm's HealthCheckProgram: slurmd calls it")
    verbs.add_parser("status", help="what is installed, and how the last audit ended")
    verbs.add_parser("uninstall", help="no file of the agent is left")
    verbs.add_parser("install", help="as the configuration on standard input says").add_argument("file")
    asked = parser.parse_args(argv)
    try:
        if getattr(asked, "spread", 0) > 0:
            time.sleep(
                asked.spread * int.from_bytes(os.urandom(2), "big") / 65536
            )  # cron starts a whole fleet in the same second
        if asked.verb == "audit":
            from gpumend.agent import audit  # only here: it brings all the rules

            return audit.run(read(asked.config, asked.host))
        if asked.verb == "mend":
            from gpumend.agent import mend  # only here: an audit changes nothing

            return mend.run(read())
        if asked.verb == "slurm":
            from gpumend.agent import slurm  # only here: most hosts have none

            return slurm.run(read())
        from gpumend.agent import install  # only here: an audit needs none of it

        try:
            if asked.verb == "install":
                found = _install(asked.file)
            elif asked.verb == "uninstall":
                found = {"gone": install.uninstalled()}
            else:
                found = install.status()
        except (install.InstallError, OSError) as error:
            print(json.dumps({"error": str(error)}))
            return 2
        print(json.dumps(found))
        return 0
    except ConfigError as error:
        print(f"gpumend: {error}", file=sys.stderr)
        return 2
    except (
        OSError
    ) as error:  # a full disk: what was written before is whole, and the journal has why nothing is new
        text = f"the agent cannot work: {error}"
        journal.told(text, "fail")
        print(f"gpumend: {text}", file=sys.stderr)
        return FAULT
    except Exception:  # told as what it is, and never as the status of an audit
        traceback.print_exc()
        return FAULT
