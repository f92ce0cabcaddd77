"""A start of ours compiles what it loads once: pyinfra has Python keep no bytecode (pyinfra 3.10 pyinfra_cli/main.py)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.build import healthy

ROOT = Path(__file__).resolve().parents[2]
INVENTORY = """
import gpumend.deploy
hosts = [("@fake/host", dict(fake_responses={{"python3": open({answer!r}).read()}}, fake_delay=0, fake_delay_jitter=0))]
"""
# What was compiled: Python tells its hooks (docs.python.org/3/library/audit_events.html, compile).
COUNTED = """
import sys
compiled = []
sys.addaudithook(lambda event, arguments: compiled.append(str(arguments[1])) if event == "compile" else None)
{start}
try:
    main()
except SystemExit:
    pass
open(sys.argv[0] + ".told", "w").write("\\n".join(compiled))
"""
STARTS = {
    "pyinfra": "from pyinfra_cli.main import main",
    "gpumend": "import gpumend.deploy.process\nfrom pyinfra_cli.main import main",
}
# What pyinfra loads before anything of ours can say that bytecode is kept.
EARLY = {
    "pyinfra": ["gpumend/__init__.py", "gpumend/deploy/__init__.py"],
    "gpumend": ["gpumend/deploy/connector.py"],
}


def compiled(tree: Path, tmp_path: Path, start: str, **env: str) -> list[str]:
    """The modules of ours that a start compiled, as paths below the tree."""
    answer, inventory, program = (tmp_path / name for name in ("answer", "inventory.py", "counted.py"))
    answer.write_text(json.dumps(healthy().answer()))
    inventory.write_text(INVENTORY.format(answer=str(answer)))
    program.write_text(COUNTED.format(start=STARTS[start]))
    done = subprocess.run(
        [sys.executable, str(program), str(inventory), "deploys/gpu_host.py", "--dry"],
        cwd=tree, env={"PYTHONPATH": str(tree), "PYINFRA_PROGRESS": "off", "PATH": "/usr/bin:/bin", **env},
        capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
    assert "1 host: 1 as wanted" in done.stdout, done.stderr[-3000:]
    # pyinfra executes deploys and inventories, and reads them each time.
    told = Path(f"{program}.told").read_text().splitlines()
    return [path for path in told if path.startswith(f"{tree}/")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what is installed, without bytecode."""
    made = tmp_path / "tree"
    for name in ("gpumend", "deploys", "facts", "operations", "docs/findings"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    return made


@pytest.mark.parametrize("start", STARTS)
def test_the_second_start_compiles_nothing(tree: Path, tmp_path: Path, start: str) -> None:
    first = compiled(tree, tmp_path, start)
    assert f"{tree}/gpumend/rules/judge.py" in first and f"{tree}/deploys/everything.py" in first
    assert compiled(tree, tmp_path, start) == [f"{tree}/{path}" for path in EARLY[start]]


def test_nothing_is_kept_where_somebody_says_so(tree: Path, tmp_path: Path) -> None:
    compiled(tree, tmp_path, "pyinfra", PYTHONDONTWRITEBYTECODE="1")
    assert list(tree.rglob("*.pyc")) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a tree to somebody else")
def test_root_writes_nothing_into_somebody_elses_checkout(tree: Path, tmp_path: Path) -> None:
    os.chown(tree / "gpumend" / "deploy", 1000, 1000)
    compiled(tree, tmp_path, "pyinfra")
    assert list(tree.rglob("*.pyc")) == []
