"""What every deploy shares."""

from __future__ import annotations

import inspect
from pathlib import Path

from gpumend.deploy.session import known_source


def test_inspect_knows_a_deploys_file_and_reads_the_same_lines(tmp_path: Path) -> None:
    path = tmp_path / "deploy.py"
    path.write_text("import inspect\nframe = inspect.currentframe()\n")
    ran: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), ran)
    frame = ran["frame"]
    assert inspect.isframe(frame)
    assert inspect.getmodule(frame, str(path)) is None, "all modules were looked through"
    known_source(str(path))
    assert inspect.getmodule(frame, str(path)) is not None
    found = inspect.getframeinfo(frame)
    assert (found.filename, found.code_context) == (str(path), ["frame = inspect.currentframe()\n"])
