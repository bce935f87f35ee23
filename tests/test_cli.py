"""The commands as a user types them, each in a process of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WITHOUT_RAY_AND_S3FS = (
    "import sys; sys.modules.update(ray=None, s3fs=None); from kcframe.cli.main import main; main()"
)


def kcframe(*words, code: int = 0, start=("-m", "kcframe"), columns=160, **more):
    env = {**os.environ, "COLUMNS": str(columns), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *start, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=300, check=False, **more)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run done by the command, with neither ray nor s3fs to be had."""
    import yaml

    from tests.conftest import TINY

    folder = tmp_path_factory.mktemp("cli")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    done = kcframe(
        "run", "tiny.yaml", "--run-dir", folder / "run", start=("-c", WITHOUT_RAY_AND_S3FS), cwd=folder
    )
    return folder, done.stdout


def test_run_needs_neither_ray_nor_s3fs_and_ends_with_its_directory(finished):
    folder, out = finished
    assert out.splitlines()[-1] == str(folder / "run")
    results = json.loads((folder / "run/results.json").read_text())
    for name, arm in results["arms"].items():
        assert re.search(rf"{name}.*{arm['mpvap']:.1f}", out)
    assert re.search(rf"specialists.*{results['specialists']['mpvap']:.1f}", out)


def test_the_quickstart_goes_from_end_to_end_at_a_tiny_size(tmp_path):
    """recipes/quickstart.yaml itself, with five characters a script and one epoch."""
    small = ["data.options.max_classes=5", "data.options.views=1", "data.options.image_size=16"]
    small += ["specialists.train.epochs=1", "student.train.epochs=1"]
    overrides = [word for setting in small for word in ("--set", setting)]
    done = kcframe("run", ROOT / "recipes/quickstart.yaml", *overrides, "--run-dir", tmp_path / "q")
    results = json.loads((tmp_path / "q/results.json").read_text())
    assert list(results["arms"]) == [
        "generalist",
        "+D",
        "+SC",
        "+D+SC",
        "+D+SC+S",
        "+D+SC+S base-rate",
        "+SC+S base-rate",
    ]
    assert len(results["specialists"]["per_vertical"]) == 10
    assert results["teacher_images_per_image"] == 1.0
    assert done.stdout.splitlines()[-1] == str(tmp_path / "q")
    page = (tmp_path / "q/report.html").read_text()
    assert "Polytonic Greek" in page


def test_the_same_command_again_trains_nothing(finished):
    folder, _ = finished
    again = kcframe("run", "tiny.yaml", "--run-dir", folder / "run", cwd=folder)
    assert "5 of 5 stages are finished and kept" in again.stdout


def test_a_run_goes_to_runs_name_by_itself(finished):
    folder, _ = finished
    done = kcframe("run", "tiny.yaml", "--set", "name=other", cwd=folder)
    assert done.stdout.splitlines()[-1] == str(folder / "runs/other")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_same_command_goes_on(finished, tmp_path, number):
    folder, _ = finished
    command = [
        sys.executable,
        "-m",
        "kcframe",
        "run",
        str(folder / "tiny.yaml"),
        "--run-dir",
        str(tmp_path / "r"),
    ]
    longer = ["--set", "student.train.epochs=60"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [*command, *longer], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        waited = time.monotonic() + 200
        while not (tmp_path / "r/arms/generalist/checkpoint.safetensors").exists():
            assert time.monotonic() < waited
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
        out, err = process.communicate(timeout=100)
    assert process.returncode == 130, out + err
    assert "give the same command again to go on" in err
    assert "Traceback" not in err
    done = subprocess.run(
        [*command, *longer], capture_output=True, text=True, env=env, timeout=300, check=True
    )
    assert "3 of 5 stages are finished and kept" in done.stdout
    lines = [
        json.loads(line) for line in (tmp_path / "r/arms/generalist/metrics.jsonl").read_text().splitlines()
    ]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == list(range(1, 60 * 4 + 1))


def test_a_wrong_recipe_is_refused_with_all_problems(tmp_path):
    (tmp_path / "r.yaml").write_text("kcframe: 1\nname: x\ndata: glyph\narms: {a: {}}\nbaseline: b\n")
    for command in ("run", "validate", "describe"):
        done = kcframe(command, tmp_path / "r.yaml", code=2)
        assert "r.yaml:3: data.name: no data 'glyph' is installed; did you mean 'glyphs'?" in done.stderr
        assert "r.yaml:5: baseline: no arm 'b'" in done.stderr
        assert done.stdout == ""


def test_validate_takes_many_recipes():
    done = kcframe("validate", *sorted((ROOT / "recipes").glob("*.yaml")))
    assert done.stdout.count(": valid (") >= 3


def test_describe_shows_the_papers_totals():
    """Section 3 of the paper's tables: 98, 136 by its formula (135 in print), 155, 127, 117, 108, 98."""
    done = kcframe("describe", ROOT / "recipes/paper-sizes.yaml", columns=80)
    published = done.stdout.partition("parameters")[0]
    totals = [int(found) for found in re.findall(r" (\d+)M\s*$", published, re.MULTILINE)]
    assert totals[:7] == [98, 136, 155, 127, 117, 108, 98]
    assert "100,000 classes in 20 verticals" in done.stdout
    assert "…" not in done.stdout  # all figures fit a terminal
    assert "1,125,099,680 1073.0M" in done.stdout


def test_plugins_lists_all_and_shows_one():
    listed = kcframe("plugins").stdout
    for name in ("glyphs", "self-paced", "fc-sc-shared", "top-k-bce", "inception-v2", "checkpoint"):
        assert re.search(rf"^ \w+ +{name} .*kcframe \d", listed, re.MULTILINE)
    shown = kcframe("plugins", "pacing", "self-paced").stdout
    assert "start: paper | base-rate; default paper" in shown
    assert "variance: number, at least 0, at most 1000000; default 0.001" in shown
    nested = kcframe("plugins", "data", "glyphs").stdout
    assert "verticals: mapping of text to the fields below, at least 1 long; required" in nested
    assert "      scripts: list of text; default []" in nested
    assert "kcframe plugins pacing self-paced" in kcframe("plugins", "self-paced", code=1).stderr
    assert "did you mean 'pacing'" in kcframe("plugins", "pace", code=1).stderr


def test_compare_gives_mean_and_spread(finished, tmp_path):
    folder, _ = finished
    kcframe("run", folder / "tiny.yaml", "--set", "seed=1", "--run-dir", tmp_path / "one")
    out = kcframe("compare", folder / "run", tmp_path / "one", "--markdown").stdout
    values = [
        json.loads((run / "results.json").read_text())["arms"]["student"]["mpvap"]
        for run in (folder / "run", tmp_path / "one")
    ]
    assert f"{sum(values) / 2:.1f}±{abs(values[0] - values[1]) / 2**0.5:.1f}" in out
    assert "no results.json: not a run directory" in kcframe("compare", tmp_path, code=1).stderr


def test_report_is_made_anew(finished):
    folder, _ = finished
    before = (folder / "run/report.html").read_bytes()
    (folder / "run/report.html").unlink()
    assert kcframe("report", folder / "run").stdout.strip() == str(folder / "run/report.html")
    assert (folder / "run/report.html").read_bytes() == before


def test_no_arguments_and_wrong_arguments_are_answered():
    assert "Usage: " in kcframe(code=2).stderr + kcframe("--help").stdout
    assert "No such command" in kcframe("rnu", code=2).stderr
    assert kcframe("--version").stdout.startswith("kcframe, version ")


IDEA = """\
import torch
from pydantic import Field

from kcframe.interfaces.hooks import hookimpl
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing


class IdeaOptions(PluginOptions):
    steps: int = Field(100, ge=1, description="steps until every vertical has its full weight")


class Idea(Pacing):
    \"\"\"Raises every vertical's weight from 0 to 1.\"\"\"

    name = "idea"
    Options = IdeaOptions

    def weights(self, progress):
        return torch.full((len(self.sizes),), min(1.0, progress.step / self.options.steps))


@hookimpl(api=1)
def kcframe_pacing():
    return [Idea]
"""


def test_a_plugin_in_a_file_is_tried_here_and_packaged_for_a_cluster(tmp_path):
    import yaml

    from tests.conftest import TINY

    (tmp_path / "idea.py").write_text(IDEA)
    arms = {"idea": {"pacing": {"name": "idea", "options": {"steps": 3}}, "objective": "hard-bce"}}
    recipe = {**TINY, "arms": arms, "baseline": None, "specialists": None}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    words = ("run", "r.yaml", "--plugin", "./idea.py", "--run-dir", "run")
    kcframe(*words, cwd=tmp_path)
    assert "idea.py" in json.loads((tmp_path / "run/versions.json").read_text())
    (tmp_path / "idea.py").write_text(IDEA + "# another version\n")
    assert "note: idea.py was" in kcframe(*words, cwd=tmp_path).stdout
    shutil.rmtree(tmp_path / "run")
    refused = kcframe(*words, "--backend", "ray", cwd=tmp_path, code=1).stderr
    assert "--plugin idea.py: a cluster's other processes do not have this file" in refused
    assert "kcframe new pacing idea" in refused
    shown = kcframe("plugins", "pacing", "idea", "--plugin", "idea.py", cwd=tmp_path).stdout
    assert "steps: whole number, at least 1; default 100" in shown
    assert "no pacing 'idea' is installed" in kcframe("validate", "r.yaml", cwd=tmp_path, code=2).stderr
