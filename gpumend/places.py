"""Where things lie that are no modules: the pyinfra project, and the pages of the findings."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# Inside the wheel both travel in the package; in a checkout they lie beside it.
INSTALLED = (PACKAGE / "project").is_dir()
# inventory.py, group_data/, deploys/, facts/ and operations/
PROJECT = PACKAGE / "project" if INSTALLED else PACKAGE.parent
PAGES = PACKAGE / "findings" if INSTALLED else PACKAGE.parent / "docs" / "findings"
