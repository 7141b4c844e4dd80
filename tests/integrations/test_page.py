"""docs/integrations.md works as it stands: its apps are written down, its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/integrations.md").read_text()
FILES = dict(re.findall(r"^```\w+\n# file: (\S+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
COMMANDS = re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_every_app_has_its_command() -> None:
    """A file for each command and nothing else on the page; each file compiles."""
    assert [name for name in FILES if any(name in command for command in COMMANDS)] == [*FILES]
    assert len(FILES) + len(COMMANDS) == PAGE.count("\n```") // 2
    for name, text in FILES.items():
        compile(text, name, "exec")


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS, ids=FILES)
def test_its_sweep_runs(command: str, tmp_path: Path) -> None:
    """Three trials finish, with the metric that was named."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        command,
        shell=True,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 trials in study" in done.stdout
    assert "failed" not in done.stdout, done.stdout
