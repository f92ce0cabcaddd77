"""The client as `pipx install gpumend` makes it: an environment with what gpumend needs, and nothing else."""

from __future__ import annotations

import atexit
import re
import shutil
import sysconfig
import tempfile
import venv
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement


def needed(name: str) -> dict[str, metadata.Distribution]:
    """The distribution of this name and all that it needs here, by name."""
    found: dict[str, metadata.Distribution] = {}
    names = [name]
    while names:
        name = re.sub(r"[-_.]+", "-", names.pop()).lower()
        if name in found:
            continue
        found[name] = metadata.distribution(name)
        for text in found[name].requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                names.append(requirement.name)
    return found


@cache
def python() -> str:
    """Its interpreter, gone when this process ends. With a checkout's linters and test tools beside it pyinfra's start takes 45 ms
    more: it reads what each installed package says of itself some thirty times."""
    where = Path(tempfile.mkdtemp(prefix="gpumend-client-"))
    atexit.register(shutil.rmtree, where, ignore_errors=True)
    venv.create(where, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(where)}))
    for each in needed("gpumend").values():
        for top in {file.parts[0] for file in each.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(str(each.locate_file(top)))
    return str(where / "bin" / "python")
