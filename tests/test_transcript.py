"""plugins/README.md's way from an idea to a sweep, typed as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "plugins/README.md").read_text(encoding="utf-8")
NAME = "kcframe-pacing-ease-in"


@pytest.fixture
def _uninstalled():
    yield
    subprocess.run([sys.executable, "-m", "pip", "uninstall", "--quiet", "--yes", NAME], check=True)


@pytest.mark.usefixtures("_uninstalled")
def test_from_an_idea_to_a_sweep(tmp_path):
    section = README.partition("\n### From an idea to a sweep\n")[2].partition("\n### ")[0]
    commands = re.search(r"```bash\n(.*?)```", section, re.DOTALL)[1]
    assert NAME in commands
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "120",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    for line in ("ease-in", "the best 4 of 4 trials", "runs/idea-sweep/best.yaml", "runs/best"):
        assert line in done.stdout
    assert (tmp_path / "runs/best/report.html").exists()
