"""What runs beside a package manager on this host: stdlib only, Python 3.6 or newer.

It is kept from asking and from restarting anything (APT_ENV in apt.py), and is told in the report.
"""

import re
from typing import List

from gpumend.payload.change.apt import APT_ENV
from gpumend.payload.probe.running import run

HOOK = re.compile(r'(?m)^DPkg::(?:Pre-Invoke|Post-Invoke|Pre-Install-Pkgs)::\S* "(.*)";$')
# A word of a hook's command -> what is told of it instead.
HELD_BACK = (
    ("needrestart", "needrestart is held back: no service is restarted by it"),
    ("dpkg-preconfigure", "debconf asks nothing: packages take their defaults"),
    ("apt-listchanges", "apt-listchanges shows nothing"),
)


def hooks_told(manager: str) -> List[str]:
    """What apt calls of this host's own while it installs, each once. Empty for another manager, and where apt does not say."""
    if manager != "apt":
        return []
    told = []
    for command in HOOK.findall(run(APT_ENV + ["apt-config", "dump"], 20).get("out", "")):
        held = [words for name, words in HELD_BACK if name in command]
        told.append(held[0] if held else "a hook of apt's ran besides: %s" % command[:120])
    return list(dict.fromkeys(told))
