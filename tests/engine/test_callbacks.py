"""Callbacks hear what metrics.jsonl holds, in order, and none of them can end a run."""

from __future__ import annotations

from typing import ClassVar

import pytest

from kcframe.engine.metrics_log import read_metrics
from kcframe.errors import Interrupted, PluginError, RecipeError
from kcframe.interfaces.callback import Callback
from kcframe.interfaces.options import PluginOptions
from kcframe.recipe.load import load_recipe
from kcframe.registry import Component, installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet


class Spy(Callback):
    """Keeps what it hears."""

    name = "spy"
    heard: ClassVar[list] = []

    def begin(self, stage):
        self.heard.append(("begin", stage))

    def step(self, readings):
        self.heard.append(("step", readings))

    def evaluated(self, readings):
        self.heard.append(("evaluated", readings))

    def end(self, finished):
        self.heard.append(("end", finished))


class Broken(Spy):
    """Fails once, at its first logged step."""

    name = "broken"
    heard: ClassVar[list] = []

    def step(self, readings):
        super().step(readings)
        if len(self.heard) == 3:
            raise ConnectionError("the tracker is down")


class Meddler(Spy):
    """Changes what it is told, and draws random numbers."""

    name = "meddler"
    heard: ClassVar[list] = []

    def step(self, readings):
        readings["terms"].clear()
        readings["vertical_loss"].append(1.0)


class Impossible(Spy):
    """Cannot be built."""

    name = "impossible"

    def __init__(self, options):
        raise OSError("no disk")


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    for plugin in (Spy, Broken, Meddler, Impossible):
        plugin.heard.clear()
        component = Component("callback", plugin.name, "", PluginOptions, plugin, "kcframe-spy", "1.0")
        monkeypatch.setitem(installed().components, ("callback", plugin.name), component)


def start(tiny, tmp_path, *overrides, stop_at=None):
    path = tiny()
    recipe = load_recipe(str(path), installed(), overrides)
    watcher = Quiet(stop_at)
    run(recipe, RunDir(str(tmp_path / "run")), watcher)
    return watcher


def test_they_hear_each_stage_as_its_metrics_have_it(tiny, tmp_path):
    start(tiny, tmp_path, "callbacks=[spy]", "specialists.train.log_every=2")
    stages, told = [], {}
    for what, details in Spy.heard:
        if what == "begin":
            stages.append(details)
            told[details.folder] = []
        elif what == "end":
            assert details is True
        else:
            told[stages[-1].folder].append(details)
    assert [stage.name for stage in stages][:1] == ["specialist vertical 0"]
    assert [stage.name for stage in stages][-2:] == ["arm generalist", "arm student"]
    assert len(stages) == 5
    last = stages[-1]
    assert (last.step, last.num_steps, last.verticals) == (0, 12, ("vertical 0", "vertical 1", "vertical 2"))
    assert last.settings["arm"]["pacing"]["name"] == "self-paced"
    run_dir = RunDir(str(tmp_path / "run"))
    for folder, lines in told.items():
        assert lines == read_metrics(run_dir, folder)


def test_an_interrupted_stage_says_so_and_where_it_goes_on(tiny, tmp_path):
    only = ("callbacks=[spy]", "specialists=null", "arms.student.objective=hard-bce")
    with pytest.raises(Interrupted):
        start(tiny, tmp_path, *only, stop_at=5)
    assert Spy.heard[-1] == ("end", False)
    Spy.heard.clear()
    start(tiny, tmp_path, *only)
    assert Spy.heard[0][1].step == 5
    assert [r["step"] for what, r in Spy.heard if what == "step"][:3] == [6, 7, 8]


def test_one_that_fails_is_switched_off_and_the_others_go_on(tiny, tmp_path):
    with_both = start(tiny, tmp_path, "callbacks=[broken, spy]")
    said = (
        "--set callbacks=[broken, spy]: callbacks.0: callback 'broken' of kcframe-spy 1.0 is "
        "switched off for this stage: step(): ConnectionError: the tracker is down"
    )
    assert with_both.said.count(said) == 1
    assert [what for what, _ in Broken.heard[:4]] == ["begin", "evaluated", "step", "begin"]
    assert sum(what == "end" for what, _ in Spy.heard) == 5


def test_what_one_does_to_its_readings_reaches_nobody_else(tiny, tmp_path):
    start(tiny, tmp_path, "callbacks=[meddler, spy]")
    lines = [line for line in read_metrics(RunDir(str(tmp_path / "run")), "arms/student") if "terms" in line]
    assert all(line["terms"] and len(line["vertical_loss"]) == 3 for line in lines)
    heard = [readings for what, readings in Spy.heard if what == "step"]
    assert heard[-len(lines) :] == lines


def test_one_that_cannot_be_built_ends_the_run_before_it_begins(tiny, tmp_path):
    with pytest.raises(
        PluginError, match="callback 'impossible' of kcframe-spy 1.0 cannot be built: OSError"
    ):
        start(tiny, tmp_path, "callbacks=[impossible]")


def test_a_wrong_name_is_found_where_it_was_given(tiny, tmp_path):
    path = tiny("callbacks=[spy]")
    path.write_text(path.read_text().replace("name: spy", "name: spie"))
    with pytest.raises(RecipeError, match=r"tiny.yaml:\d+: callbacks.0.name: no callback 'spie' is"):
        load_recipe(str(path), installed())
    with pytest.raises(RecipeError, match=r"^--set callbacks=\[spie\]: callbacks.0.name: no callback 'spie'"):
        load_recipe(str(tiny("callbacks=[spy]")), installed(), ["callbacks=[spie]"])
