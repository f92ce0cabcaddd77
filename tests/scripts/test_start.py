"""What `gpumend` starts for a run over hosts has no more of others' modules than it needs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOADED = """
import json, sys
import gpumend.deploy.process
import paramiko.config
from pyinfra.connectors.sshuserclient import config
theirs = sorted(name for name in sys.modules if name.partition(".")[0] == "invoke")
replaced = paramiko.config.invoke is config.FakeInvoke
import invoke
print(json.dumps({"loaded": theirs, "replaced": replaced, "later": hasattr(invoke, "run")}))
"""


def test_paramiko_is_loaded_without_invoke_of_which_pyinfra_has_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOADED], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"loaded": [], "replaced": True, "later": True}
