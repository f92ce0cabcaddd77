"""What package managers have in common, a change of theirs and why they do not make it: stdlib only, Python 3.6 or newer."""

import re
from html import unescape
from typing import List, Optional, Tuple

from gpumend.payload.probe.files import Json

# Packages of container engines, by the unit whose containers end with them. They are never purged: docker.io's script deletes
# /var/lib/docker then (its postrm, nuke-graph-directory.sh), whoever's images and volumes these were.
ENGINE_UNITS = {
    "docker.io": "docker.service",
    "docker-cli": "docker.service",
    "docker-ce": "docker.service",
    "docker-ce-cli": "docker.service",
    "containerd": "containerd.service",
    "containerd.io": "containerd.service",
    "runc": "containerd.service",
    "podman": "",
}

PackageChange = Tuple[str, str, Optional[str]]  # what, a package's name, its new version

# What apt says whatever the reason was, which stands elsewhere; and of its own log.
NO_REASON = ("E: Unable to fetch some archives", "E: Sub-process ", "E: Can not write log")

# Of apt's "The following packages have unmet dependencies" the first; from apt 3 on its solver says in its error what stands at the
# end of the chain, which for that block is only "not going to be installed".
UNMET = re.compile(r"(?m)^The following packages have unmet dependencies:\n +(\S+) : ([^\n]{1,300})")
NO_CHOICE = re.compile(r"(?m)^ +\d+\. (\S+ Depends [^\n]{1,300})\n +but none of the choices are installable:")

# zypper's --xmlout: why it does nothing.
IN_XML = re.compile(r'<message type="error">([^<]{1,2000})|<description>(Problem: [^<]{1,2000})')


class Unfit(Exception):
    """It cannot be done here, or did not come out right; the text is for the report."""


def unmet_dependency(found: Json) -> str:
    """Of apt's answer the relation that no package meets; empty where it names none. Its error says in that case that packages are
    held, which they need not be."""
    unmet = UNMET.search(found.get("out", ""))
    if unmet is None:
        return ""
    end = NO_CHOICE.search(found.get("err", ""))
    if end is not None and unmet.group(2).endswith("it is not going to be installed"):
        return "%s, which cannot be had" % end.group(1)
    return "%s: %s" % unmet.groups()


def last_line(found: Json) -> str:
    """The line of a command's output that says why it failed: of dpkg's errors the one below the package's name, else the relation
    that is not met, else of apt's errors the first."""
    unmet = unmet_dependency(found)
    if unmet:
        return unmet[:400]
    lines: List[str] = (
        found.get("err", "").strip() or found.get("error", "") or found.get("out", "").strip()
    ).splitlines()
    in_xml = IN_XML.findall(found.get("out", ""))
    if in_xml:  # zypper's
        return unescape(" ".join("".join(in_xml[0]).split()))[:400]
    said = (
        lines + found.get("out", "").splitlines()
    )  # where apt has a terminal, what dpkg says goes to its output
    scripts = [line for line in said if "scriptlet failed" in line]
    if scripts:  # rpm's: dnf goes on to the end after it, and zypper ends with 107
        return str(scripts[0])[:400]
    errors = [line for line in lines if line.startswith(("E:", "Error:", "No match for argument:"))]
    if errors and errors[-1].strip() == "Error:":  # dnf's, of the solver: what it is follows
        return " ".join(" ".join(lines[lines.index(errors[-1]) :]).split())[:400]
    reasons = [line for line in errors if line.startswith("E:") and not line.startswith(NO_REASON)]
    of_dpkg = [
        "%s %s" % (line, below.strip())
        for line, below in zip(said, said[1:])
        if line.startswith("dpkg: error processing ")
    ]
    if of_dpkg or reasons:
        return (of_dpkg or reasons)[0][:400]
    return str((errors or lines or ["exit status %s" % found.get("rc", found["status"])])[-1])[:400]
