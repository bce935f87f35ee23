"""Pacing `catch-up` against LFME's formula in plain Python, and in whole runs."""

import json
import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
import yaml
from kcframe_pacing_catch_up.catch_up import CatchUp
from kcframe_pacing_catch_up.options import CatchUpOptions

from kcframe.builtin.objectives.bce import TopKBce
from kcframe.builtin.objectives.options import TopKBceOptions
from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.pacing_checks import weights_of
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Direct, Head
from kcframe.errors import Interrupted, PluginError
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

NAN = math.nan


def weights(student, teacher, epoch=0.5, **options):
    """What a vertical for each pair of accuracies is given, by way of the engine's checks."""
    sizes = (3,) * len(student)
    pacing = CatchUp(CatchUpOptions(**options), sizes, sum(sizes))
    told = torch.tensor(student), torch.tensor(teacher)
    found = weights_of(pacing, Progress(1, 10, epoch, 4, torch.ones(len(sizes)), *told))
    assert list(found) == ["soft"]
    assert torch.equal(pacing.readings()["soft_weight"], found["soft"])
    return found["soft"].tolist()


def lfme(student, teacher, a):
    """The formula as it is written, for one vertical."""
    if student < a * teacher:
        return 1.0
    return max(0.0, (teacher - student) / (teacher * (1 - a)))


def test_by_hand():
    # (0.8 - 0.4) / (0.8 * 0.7), and 0.2 is below 0.3 * 0.8.
    assert weights([0.4, 0.2, 0.8, 0.9], [0.8] * 4) == pytest.approx([0.714286, 1, 0, 0], abs=1e-6)
    assert weights([0.25, 0.5, 0.75], [1.0] * 3, threshold=0.5) == pytest.approx([1, 1, 0.5])


@pytest.mark.parametrize("a", [0.0, 0.3, 0.99])
def test_it_is_the_formula_wherever_that_is_defined(a):
    grid = [(s / 20, t / 20) for s in range(21) for t in range(1, 21)]
    student, teacher = zip(*grid, strict=True)
    expected = [lfme(s, t, a) for s, t in grid]
    assert weights(student, teacher, threshold=a) == pytest.approx(expected, abs=2e-5)


def test_it_never_jumps_below_a_threshold_of_1():
    student = [s / 10_000 for s in range(10_001)]
    found = weights(student, [0.7] * len(student))
    assert max(a - b for a, b in pairwise(found)) < 3e-4
    assert found == sorted(found, reverse=True)


def test_a_threshold_of_1_is_a_step():
    assert weights([0.0, 0.79, 0.8, 1.0], [0.8] * 4, threshold=1) == [1, 1, 0, 0]


def test_what_is_not_known_and_what_is_nothing():
    assert weights([NAN, NAN, 0.5], [NAN, 0.5, NAN]) == [1, 1, 1]
    for a in (0, 0.3, 1):
        assert weights([0.0, 0.2], [0.0, 0.0], threshold=a) == [0, 0]
    assert weights([0.0], [1.0], threshold=0) == [1]


def test_the_least_is_kept():
    assert weights([0.9, 0.1, 0.79, 0.0], [0.8, 0.8, 0.8, 0.0], least=0.25) == [0.25, 1, 0.25, 0.25]


def test_it_weighs_the_soft_term_alone():
    """Against the gradient of a dense float64 loss, sum over v of w_v * soft_v + hard_v."""
    torch.manual_seed(0)
    sizes, batch = (4, 1, 3), 5
    taxonomy = Taxonomy.build({f"v{v}": [f"v{v}c{c}" for c in range(n)] for v, n in enumerate(sizes)})
    index = SlotIndex(taxonomy, torch.device("cpu"))
    pacing = CatchUp(CatchUpOptions(), sizes, sum(sizes))
    head = Head(Direct(3, sizes), pacing, sizes).double()
    soft = torch.rand(batch, sum(sizes), dtype=torch.float64)
    hard = (torch.rand(batch, sum(sizes)) < 0.3).double()

    def slots(dense):
        rows, classes = dense.nonzero().T
        return SlotTargets(index, batch, rows, classes, dense[rows, classes])

    both = slots(hard), slots(soft)
    shares = pacing.weights(
        Progress(1, 2, 0, 1, torch.ones(3), torch.tensor([0.5, 0.1, 0.9]), torch.tensor([0.9] * 3))
    )
    objective = TopKBce(TopKBceOptions(hard_weight=2.0))
    features = torch.randn(batch, 3, dtype=torch.float64)
    backward_by_block(head, objective, features, lambda v: block_targets(*both, v), shares, batch)
    found = [c.weight.grad.clone() for c in head.classifiers]
    head.zero_grad()
    y = torch.cat([c(features) for c in head.classifiers], 1)
    w = torch.repeat_interleave(torch.tensor([lfme(0.5, 0.9, 0.3), 1.0, 0.0]), torch.tensor(sizes))

    def cross_entropy(z):
        return -(z * y.sigmoid().log() + (1 - z) * (-y).sigmoid().log())

    ((w * cross_entropy(soft) + 2 * cross_entropy(hard)).sum() / batch).backward()
    for a, b in zip(found, [c.weight.grad for c in head.classifiers], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


# -- whole runs --------------------------------------------------------------------------------------


def recipe(**student):
    data = {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8, "noise": 0.1}
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    return {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": data},
        "specialists": {
            "backbone": backbone,
            "train": {"epochs": 12, "batch_size": 16, "learning_rate": 0.03},
        },
        "student": {
            "backbone": backbone,
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": {"name": "top-k-bce", "options": {"hard_weight": 1}},
            "pacing": "catch-up",
            "train": {"epochs": 6, "batch_size": 16, "learning_rate": 0.02, "log_every": 1},
            **student,
        },
        "arms": {"a": {}},
    }


class Watch:
    """Keeps quiet, and asks for a stop after some steps of the arm."""

    def __init__(self, stop_at=None):
        self.stop_at, self.steps = stop_at, 0

    def begin(self, stage):
        self.counts = stage.kind == "arm"
        return self

    def step(self, *_):
        self.steps += self.counts

    def should_stop(self):
        return self.steps == self.stop_at

    def __getattr__(self, name):
        return lambda *_: None


def go(folder, tree, watch=None):
    """Run a recipe -> the arm's weights and logged lines."""
    watch = watch or Watch()
    folder.mkdir(exist_ok=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree))
    checked = load_recipe(str(folder / "recipe.yaml"), installed(), ["execution.device=cpu"])
    run(checked, RunDir(folder / "run"), watch, lambda text: None, watch.should_stop)
    arm = folder / "run/arms/a"
    lines = [json.loads(line) for line in (arm / "metrics.jsonl").read_text().splitlines()]
    return unpack_weights((arm / "weights.safetensors").read_bytes(), "w")[0], lines


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return go(tmp_path_factory.mktemp("whole"), recipe())


def test_the_metrics_show_the_formula_of_the_step_before(whole):
    steps = [line for line in whole[1] if line["kind"] == "step"]
    assert len(steps) == 24
    seen = set()
    for before, after in pairwise(steps):
        for s, t, w in zip(before["accuracy"], before["teacher_accuracy"], after["soft_weight"], strict=True):
            expected = 1.0 if None in (s, t) else lfme(s, t, 0.3) if t else 0.0
            assert w == pytest.approx(expected, abs=1e-4)
            seen.add("full" if w == 1 else "none" if w == 0 else "part")
    assert {"full", "part"} <= seen
    # A vertical of one class has no wrong answers, so nothing is left to catch up with.
    assert steps[-1]["soft_weight"][1] == 0


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, whole):
    with pytest.raises(Interrupted):
        go(tmp_path, recipe(), Watch(stop_at=10))
    weights, lines = go(tmp_path, recipe())
    assert [line.get("soft_weight") for line in lines] == [line.get("soft_weight") for line in whole[1]]
    assert all(torch.equal(weights[name], value) for name, value in whole[0].items())


def test_without_teachers_a_run_says_what_to_do(tmp_path):
    with pytest.raises(PluginError, match="pacing 'catch-up'.* weighs the term 'soft', which .*'hard-bce'"):
        go(tmp_path, recipe(objective="hard-bce"))


def test_one_vertical_alone(tmp_path):
    tree = recipe()
    tree["data"]["options"]["verticals"] = [4]
    assert all(len(line["soft_weight"]) == 1 for line in go(tmp_path, tree)[1] if line["kind"] == "step")


@pytest.mark.parametrize(
    "options", [{"threshold": -0.1}, {"threshold": 1.1}, {"least": 2}, {"treshold": 0.3}]
)
def test_options(options):
    with pytest.raises(ValueError, match="threshold|least|treshold"):
        CatchUpOptions(**options)


def test_a_recipe_is_checked_without_torch():
    check = (
        "import sys; from kcframe.registry import installed; "
        "assert installed().options_schema('pacing', 'catch-up'); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
