"""Which hosts, and how to reach them: those of the hosts file that counts, or this machine.

It is the first of: what GPUMEND_HOSTS names (or `gpumend --hosts`), hosts.toml in the current directory, in the user's
configuration directory (~/.config/gpumend), and beside this file. Its form is in hosts.example.toml; a mistake in it ends
here, with file and line, before anything connects.
"""

from gpumend.deploy import guard as _guard
from gpumend.deploy import hosts as _hosts

_found = _hosts.load()
_guard.prepare(_found)

all = (_found.hosts, _found.data)
globals().update(_found.groups)
