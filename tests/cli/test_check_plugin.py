"""`kcframe check-plugin`: which plugin is meant, what it lacks, and what is said of one that fails."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from kcframe.cli.check_plugin import check_plugin, find_plugin
from kcframe.errors import PluginError, RecipeError
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.registry import Component, installed

BROKEN = '''
from kcframe.interfaces.hooks import hookimpl
from kcframe.interfaces.pacing import Pacing


class Broken(Pacing):
    """Cuts the gradient off."""

    name = "broken"

    def forward(self, logits, vertical):
        return logits.detach()

    def readings(self):
        return {"half": 1 / 0}


@hookimpl(api=1)
def kcframe_pacing():
    return [Broken]
'''


def test_a_plugin_in_a_file_is_told_what_fails_and_why(tmp_path):
    """The command itself, without pytest to be had."""
    (tmp_path / "broken.py").write_text(BROKEN)
    start = "import sys; sys.modules.update(pytest=None); from kcframe.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "check-plugin", "broken", "--plugin", "broken.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "  ok       paced logits keep their shape\n" in done.stdout
    assert (
        "  FAILED   gradients flow through the logits\n"
        "             no gradient flows from forward() with 5 classes: is there a detach()" in done.stdout
    )
    assert "ZeroDivisionError: division by zero (" in done.stdout
    assert "broken.py:15)" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.startswith("error: pacing 'broken' of broken.py ")
    assert done.stderr.endswith("checks failed\n")


def test_a_good_one_ends_with_their_number(capsys):
    check_plugin("none", None, None)
    said = capsys.readouterr().out
    assert said.startswith("pacing 'none' of kcframe 0.1.0 (kcframe.builtin)\n")
    counts = re.fullmatch(r"(\d+) checks passed, 1 skipped", said.splitlines()[-1])
    assert counts
    assert int(counts[1]) == said.count("\n  ok ") > 20
    assert "  skipped  its closed form is the derivative\n             has_closed_form = False" in said
    assert "FAILED" not in said


def test_a_name_of_several_kinds_is_asked_for(monkeypatch):
    twin = Component("objective", "none", "", PluginOptions, Pacing, "kcframe-twin", "1.0")
    monkeypatch.setitem(installed().components, ("objective", "none"), twin)
    with pytest.raises(
        PluginError, match="several plugins are called 'none': say pacing/none or objective/none"
    ):
        find_plugin("none", None)
    assert find_plugin("objective/none", None) is twin
    assert find_plugin("none", "objective") is twin
    assert find_plugin("none", "pacing").distribution == "kcframe"


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("self-pased", None, "no plugin 'self-pased' is installed; did you mean 'self-paced'?"),
        ("pacing/self-pased", None, "no pacing 'self-pased' is installed; did you mean 'self-paced'?"),
        ("pacng/none", None, "no kind of plugin 'pacng'; did you mean 'pacing'?"),
        ("none", "objective", "no objective 'none' is installed"),
    ],
)
def test_a_name_that_is_not_there_is_answered_with_the_nearest(name, kind, said):
    with pytest.raises(PluginError) as caught:
        find_plugin(name, kind)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("image-folder", None, ["option 'root' is missing: folder", "--options '{root: …}'", "--recipe"]),
        ("checkpoint", "{label_map: m}", ["option 'path' is missing", "--options '{label_map: m, path: …}'"]),
        ("small-cnn", "{widthes: 3}", ["no option 'widthes'; did you mean 'widths'?"]),
        ("small-cnn", "{widths: [0]}", ["option 'widths.0': Input should be", "equal to 1, not 0"]),
        ("small-cnn", "[1]", ["write a mapping"]),
        ("small-cnn", "{", ["not YAML"]),
    ],
)  # fmt: skip
def test_options_that_do_not_do(name, options, said):
    with pytest.raises(PluginError) as caught:
        check_plugin(name, None, options)
    for each in said:
        assert each in str(caught.value)


def test_options_and_data_may_come_from_a_recipe(tiny, monkeypatch, capsys):
    from kcframe.testing import checks

    seen = []
    monkeypatch.setattr(checks, "run_checks", lambda suite: seen.append(suite) or [])
    recipe = str(tiny("specialists.backbone.options.widths=[3]"))
    check_plugin("fc-sc", None, None, recipe)
    assert seen[-1].options["s1"] == 16
    check_plugin("fc-sc", None, "{s1: 7}", recipe)
    assert seen[-1].options == {"s1": 7}
    check_plugin("small-cnn", None, None, recipe)
    assert (seen[-1].options["widths"], seen[-1].image_sizes) == ([4, 8], (8,))
    check_plugin("synthetic", None, None, recipe)
    assert seen[-1].options["verticals"] == [5, 1, 3]
    check_plugin("specialists", None, None, recipe)
    assert seen[-1]().taxonomy.sizes == (5, 1, 3)
    with pytest.raises(RecipeError, match="no_such"):
        check_plugin("fc-sc", None, None, "no_such.yaml")
