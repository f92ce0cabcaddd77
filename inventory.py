"""Which hosts, and how to reach them: this machine by default, or those of hosts.toml beside this file.

`GPUMEND_HOSTS` names another file. Its form is in hosts.example.toml; a mistake in it ends here, with file and line,
before anything connects.
"""

from pathlib import Path

from gpumend.deploy import hosts as _hosts

_found = _hosts.load(Path(__file__).resolve().parent)
_hosts.prepare(_found)

all = (_found.hosts, _found.data)
globals().update(_found.groups)
