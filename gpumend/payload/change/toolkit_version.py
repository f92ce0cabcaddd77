"""Which versions of the NVIDIA Container Toolkit may be there: stdlib only, Python 3.6 or newer."""

import re
from typing import Mapping, Optional, Sequence, Tuple

from gpumend.payload.change.managers import Unfit

# The NVIDIA Container Toolkit's packages. Their names look like the driver's, and they are the only such ones that may be
# named; released together under one version (nct#1091: mixed ones took the GPU from every container of a CI).
TOOLKIT = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)

NEVER = "1.18.0"  # nct#1376: `nvidia-ctk cdi generate` fails in mode cdi; in this tag alone


def numbers(text: str) -> Tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def upstream(version: str) -> str:
    """A package's version without epoch and revision: `1:1.17.8-1` -> `1.17.8`."""
    return version.rpartition(":")[2].rpartition("-")[0] or version.rpartition(":")[2]


def one_version(versions: Mapping[str, Optional[str]]) -> str:
    """The one upstream version of these packages (name -> version, None for one that is not there), as far as they are
    there. Raises Unfit where they differ, and for a version that is never right."""
    found = sorted(set(upstream(version) for version in versions.values() if version))
    if len(found) != 1:
        told = ", ".join("%s %s" % (name, version) for name, version in sorted(versions.items()) if version)
        raise Unfit("the toolkit's packages would not be of one version: %s" % (told or "none is there"))
    if found[0] == NEVER:
        raise Unfit("the toolkit would be %s, which is never right (nct#1376): name another" % NEVER)
    return found[0]


def safe_version(version: str, least: str, broken: Sequence[str]) -> None:
    """The toolkit's version is one that may be installed: `least` or newer, and none of `broken`. Raises Unfit. 1.19.1~rc.1 is
    older than 1.19.1."""
    bare = version.partition("~")[0]
    if least and (numbers(bare) < numbers(least) or (numbers(bare) == numbers(least) and bare != version)):
        raise Unfit(
            "the toolkit would be %s, which is below the security floor %s (`gpumend explain GM203`)"
            % (version, least)
        )
    if bare in broken:
        raise Unfit("the toolkit would be %s, which is a broken release (`gpumend explain GM220`)" % version)
