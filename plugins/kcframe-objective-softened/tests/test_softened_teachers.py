"""Objective `softened` behind the engine's router: teachers of a vertical, of a part of it, of two of them,
two of one; each against the exact loss of UHC, which sees all verticals and every teacher at once."""

import pytest
import torch
from kcframe_objective_softened.options import SoftenedOptions
from kcframe_objective_softened.softened import Softened

from kcframe.interfaces.teacher import Teacher
from kcframe.taxonomy import Taxonomy
from kcframe.testing import routed_targets, run_recipe

VERTICALS = {"a": ["a0", "a1", "a2", "a3"], "b": ["b0", "b1"]}
CLASSES = [*VERTICALS["a"], *VERTICALS["b"]]
T = 2.0


class Fixed(torch.nn.Module):
    """Says the same logits for every picture."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, images):
        return self.logits.expand(len(images), -1)


def teacher(classes, logits):
    label_map = torch.tensor([CLASSES.index(name) for name in classes])
    return Teacher("t", Fixed(logits), label_map, channels=1, mean=(0,), std=(1,), input_size=None)


def losses(teachers, labels, y, **options):
    """The soft term of one image in each vertical: {vertical: float}."""
    taxonomy = Taxonomy.build(VERTICALS)
    assert list(taxonomy.classes) == CLASSES
    objective = Softened(SoftenedOptions(temperature=T, **options))
    class_ids = [CLASSES.index(name) for name in labels]
    targets = routed_targets(taxonomy, teachers, objective, torch.zeros(1, 1, 4, 4), [class_ids])
    logits = torch.tensor([y]).double().split([4, 2], 1)
    return {name: float(objective(logits[v], targets[v])["soft"]) for v, name in enumerate(VERTICALS)}


def uhc(classes, z, y):
    """T^2 KL(softmax(z / T) || softmax of the student's logits of the same classes / T)."""
    p = (torch.tensor(z).double() / T).softmax(0)
    own = torch.tensor([y[CLASSES.index(name)] for name in classes]).double()
    return float(T**2 * (p * (p.log() - (own / T).log_softmax(0))).sum())


Y = [0.3, -1.0, 2.0, 0.5, 1.5, -0.7]
A, B = [1.0, 0.0, -2.0, 3.0], [0.5, -0.5]


def test_one_specialist_a_vertical_is_exact_and_silent_elsewhere():
    teachers = [teacher(VERTICALS["a"], A), teacher(VERTICALS["b"], B)]
    by_vertical = losses(teachers, ["a3"], Y)
    assert by_vertical["a"] == pytest.approx(uhc(VERTICALS["a"], A, Y))
    assert by_vertical["b"] == 0
    both = losses(teachers, ["a3", "b0"], Y)
    assert both["a"] == pytest.approx(by_vertical["a"])
    assert both["b"] == pytest.approx(uhc(VERTICALS["b"], B, Y))


def test_a_teacher_of_a_part_of_a_vertical_is_exact():
    """Classes that it does not know are not pushed down: whatever their logits, the loss is the same."""
    part = [teacher(["a1", "a3"], [0.0, 2.0])]
    expected = uhc(["a1", "a3"], [0.0, 2.0], Y)
    assert losses(part, ["a3"], Y)["a"] == pytest.approx(expected)
    assert losses(part, ["a3"], [9.0, Y[1], -9.0, *Y[3:]])["a"] == pytest.approx(expected)
    # With K they are 0, as in eq. 2: the student's softmax is over the vertical.
    loss = losses(part, ["a3"], Y, k=2)["a"]
    assert loss > expected
    p = (torch.tensor([0.0, 2.0]).double() / T).softmax(0)
    log_q = (torch.tensor(Y[:4]).double() / T).log_softmax(0)[[1, 3]]
    assert loss == pytest.approx(float(T**2 * (p * (p.log() - log_q)).sum()))


def test_a_teacher_of_two_verticals_gives_each_its_part():
    """UHC's loss is both verticals' parts, and the KL of the masses, which no block can see."""
    classes, z = ["a0", "a2", "b0", "b1"], [1.0, -0.5, 2.0, 0.0]
    by_vertical = losses([teacher(classes, z)], ["a0"], Y)
    assert by_vertical["a"] > 0
    assert by_vertical["b"] > 0
    p = (torch.tensor(z).double() / T).softmax(0)
    q = (torch.tensor([Y[CLASSES.index(c)] for c in classes]).double() / T).softmax(0)
    m_p, m_q = p.view(2, 2).sum(1), q.view(2, 2).sum(1)
    masses = float(T**2 * (m_p * (m_p / m_q).log()).sum())
    assert by_vertical["a"] + by_vertical["b"] + masses == pytest.approx(uhc(classes, z, Y))


def test_two_teachers_of_disjoint_parts():
    """UHC's sum, and one term that wants each teacher's classes to have half of the student's mass."""
    first, second = (["a0", "a1"], [0.0, 1.0]), (["a2", "a3"], [1.0, -1.0])
    teachers = [teacher(*first), teacher(*second)]
    q = (torch.tensor(Y[:4]).double() / T).softmax(0).view(2, 2).sum(1)
    even = float(2 * T**2 * (0.5 * (0.5 / q).log()).sum())
    loss = losses(teachers, ["a0", "a2"], Y)["a"]
    assert loss == pytest.approx(uhc(*first, Y) + uhc(*second, Y) + even)
    # An image with a label of one asks that one, and then it is exact.
    assert losses(teachers, ["a0"], Y)["a"] == pytest.approx(uhc(*first, Y))


def test_two_teachers_of_the_same_classes():
    """Twins count once; where they differ, a class has the larger of their probabilities."""
    twins = [teacher(VERTICALS["a"], A)] * 2
    assert losses(twins, ["a3"], Y)["a"] == pytest.approx(uhc(VERTICALS["a"], A, Y))
    other = [2.0, 2.0, 0.0, -1.0]
    loss = losses([teacher(VERTICALS["a"], A), teacher(VERTICALS["a"], other)], ["a3"], Y)["a"]
    p = torch.maximum(*((torch.tensor(z).double() / T).softmax(0) for z in (A, other)))
    log_q = (torch.tensor(Y[:4]).double() / T).log_softmax(0)
    assert loss == pytest.approx(float(T**2 * (p * ((p / p.sum()).log() - log_q)).sum()), rel=1e-6)


def test_a_label_that_no_teacher_knows():
    part = [teacher(["a1", "a3"], [0.0, 2.0])]
    # Alone in its vertical it says nothing …
    assert losses(part, ["a3", "b0"], Y)["b"] == 0
    # … and beside what a teacher says, it shares the mass.
    loss = losses(part, ["a3", "a0"], Y)["a"]
    p = torch.cat([torch.ones(1).double(), (torch.tensor([0.0, 2.0]).double() / T).softmax(0)])
    log_q = (torch.tensor([Y[0], Y[1], Y[3]]).double() / T).log_softmax(0)
    assert loss == pytest.approx(float(T**2 * (p * ((p / 2).log() - log_q)).sum()))


# -- whole runs --------------------------------------------------------------------------------------


def recipe(objective, verticals=(5, 1, 3), **student):
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    data = {"verticals": list(verticals), "train_images": 50, "test_images": 20, "image_size": 8}
    train = {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "log_every": 1}
    return {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": {**data, "noise": 0.1, "labels_per_image": 2}},
        "specialists": {"backbone": backbone, "train": train},
        "student": {
            "backbone": backbone,
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": {"name": "softened", "options": objective},
            "train": train,
            **student,
        },
        "arms": {"a": {}},
    }


@pytest.mark.parametrize(
    "objective",
    [
        pytest.param({}, id="defaults"),
        pytest.param({"labels": "softmax", "teacher": "probabilities"}, id="softmaxes everywhere"),
        pytest.param({"k": 2, "temperature": 1, "hard_weight": 0}, id="two classes kept, no labels"),
    ],
)
def test_a_student_learns(tmp_path, objective):
    steps = run_recipe(recipe(objective), tmp_path).metrics("a", "step")
    assert set(steps[0]["terms"]) == ({"soft"} if objective.get("hard_weight") == 0 else {"soft", "hard"})
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all(value >= 0 for line in steps for value in line["terms"].values())


def test_with_the_self_paced_gamma_and_one_vertical(tmp_path):
    pacing = {"name": "self-paced", "options": {"start": "base-rate", "learning_rate_scale": 30}}
    steps = run_recipe(recipe({}, verticals=[6], pacing=pacing), tmp_path).metrics("a", "step")
    assert steps[-1]["loss"] < steps[0]["loss"]


def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path):
    whole = run_recipe(recipe({}), tmp_path / "whole")
    assert not run_recipe(recipe({}), tmp_path / "stopped", stop_after=6).finished
    weights = run_recipe(recipe({}), tmp_path / "stopped").weights("a")
    assert all(torch.equal(weights[name], value) for name, value in whole.weights("a").items())
