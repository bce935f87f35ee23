"""The helpers for plugin authors' own tests."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from kcframe import testing
from kcframe.errors import PluginError, RecipeError, RunDirError
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import Teacher
from kcframe.taxonomy import Taxonomy
from kcframe.testing import (
    build_plugin,
    checked_weights,
    head_gradients,
    make_block_targets,
    make_head,
    make_sparse_targets,
    make_targets,
    modules_loaded_for_options,
    progress_at,
    routed_targets,
    run_recipe,
    teacher_context,
)

SIZES = (4, 1, 6)
RECIPE = {
    "kcframe": 1,
    "name": "tiny",
    "data": {
        "name": "synthetic",
        "options": {"verticals": [5, 1, 3], "train_images": 50, "test_images": 20, "image_size": 8},
    },
    "specialists": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4]}},
        "train": {"epochs": 1, "batch_size": 16, "learning_rate": 0.01},
    },
    "student": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
        "objective": "top-k-bce",
        "train": {"epochs": 2, "batch_size": 17, "learning_rate": 0.01, "log_every": 1},
    },
    "arms": {"student": {}},
}


def test_every_public_name_says_what_it_does():
    for name in testing.__all__:
        assert inspect.getdoc(getattr(testing, name)), name


# -- runs --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_recipe(RECIPE, tmp_path_factory.mktemp("whole"))


def test_a_run_is_read_back(whole):
    assert whole.finished
    assert set(whole.results["arms"]) == {"student"}
    assert [line["step"] for line in whole.metrics("student", "step")] == [1, 2, 3, 4, 5, 6]
    assert {line["kind"] for line in whole.metrics("student")} == {"step", "evaluation"}
    images = whole.source.split("test").load(torch.arange(3), None)
    student = whole.student("student")
    assert student(images).shape == (3, 9)
    assert not student.training
    assert all(torch.equal(student.state_dict()[n], w) for n, w in whole.weights("student").items())
    specialist, about = whole.specialist("vertical 0")
    assert specialist(images).shape == (3, len(about["classes"])) == (3, 5)


def test_a_run_stops_after_steps_of_the_arm_and_continues(whole, tmp_path):
    stopped = run_recipe(RECIPE, tmp_path, stop_after=4)
    assert not stopped.finished
    with pytest.raises(RunDirError):
        stopped.weights("student")
    assert len(stopped.metrics("student", "step")) == 4
    continued = run_recipe(RECIPE, tmp_path)
    assert continued.finished
    assert any("3 of 4 stages are finished" in line for line in continued.said)
    weights = continued.weights("student")
    assert all(torch.equal(weights[name], value) for name, value in whole.weights("student").items())


def test_a_run_with_more_steps_than_asked_for_is_finished(tmp_path):
    changes = "specialists=null", "student.objective=hard-bce", "student.train.epochs=1"
    run = run_recipe(RECIPE, tmp_path, *changes, stop_after=100)
    assert run.finished
    assert len(run.metrics("student", "step")) == 3


def test_a_recipe_may_be_a_file(tmp_path):
    (tmp_path / "wrong.yaml").write_text("kcframe: 1\nnome: x\n")
    with pytest.raises(RecipeError, match="wrong.yaml:2: nome: unknown field"):
        run_recipe(tmp_path / "wrong.yaml", tmp_path / "run")


# -- a head ------------------------------------------------------------------------------------------


def setting():
    torch.manual_seed(0)
    head = make_head(SIZES, num_features=3).double()
    soft = torch.rand(5, sum(SIZES)).double() * (torch.rand(5, sum(SIZES)) < 0.5)
    hard = (torch.rand(5, sum(SIZES)) < 0.3).double()
    return head, torch.randn(5, 3).double(), hard, soft


@pytest.mark.parametrize("images_at_a_time", [None, 1, 2])
@pytest.mark.parametrize("closed_form", [True, False])
def test_gradients_are_those_of_the_dense_loss(closed_form, images_at_a_time):
    head, features, hard, soft = setting()
    objective = build_plugin("objective", "top-k-bce", options={"hard_weight": 2.0})
    objective.has_closed_form = closed_form
    weights = {"soft": torch.tensor([0.5, 1.0, 0.0])}
    targets = make_targets(SIZES, hard, soft)
    found = head_gradients(head, objective, features, targets, weights, images_at_a_time=images_at_a_time)
    features.requires_grad_()
    logits = torch.cat([classifier(features) for classifier in head.classifiers], 1)
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits
    soft_loss = cross_entropy(logits, soft, reduction="none")
    hard_loss = 2 * cross_entropy(logits, hard, reduction="none")
    of_vertical = torch.repeat_interleave(weights["soft"].double(), torch.tensor(SIZES))
    ((of_vertical * soft_loss + hard_loss).sum() / 5).backward()
    expected = {name: p.grad for name, p in head.named_parameters()} | {"features": features.grad}
    assert found.gradients.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found.gradients[name], gradient, rtol=1e-6, atol=1e-9)
    for name, loss in (("soft", soft_loss), ("hard", hard_loss)):
        by_vertical = torch.stack([part.sum() / 5 for part in loss.detach().split(SIZES, 1)])
        torch.testing.assert_close(found.terms[name].double(), by_vertical, rtol=1e-6, atol=1e-6)


def test_images_at_a_time_are_what_an_objective_sees():
    head, features, hard, soft = setting()
    objective = build_plugin("objective", "top-k-bce")
    heights = []
    gradient = objective.gradient

    def watched(logits, *arguments):
        heights.append(len(logits))
        return gradient(logits, *arguments)

    objective.gradient = watched
    targets = make_targets(SIZES, hard, soft)
    head_gradients(head, objective, features, targets, images_at_a_time=2)
    assert heights == [3, 2, 5, 2, 2, 1]  # as many logits at a time as 2 images of the largest vertical have
    heights.clear()
    head_gradients(head, objective, features, targets)
    assert heights == [5, 5, 5]


def test_a_head_has_an_expander_or_a_number_of_features():
    expander = build_plugin("expander", "fc-sc", 3, SIZES, options={"s1": 6, "s2": 4})
    head = make_head(SIZES, expander, bias=False)
    assert head.expander is expander
    assert all(classifier.bias is None for classifier in head.classifiers)
    for arguments in ({}, {"expander": expander, "num_features": 3}):
        with pytest.raises(ValueError, match="an expander, or num_features"):
            make_head(SIZES, **arguments)


# -- targets -----------------------------------------------------------------------------------------


def test_targets_from_matrices_and_from_lists():
    soft = torch.tensor([[0.5, 0.0, 0.1], [0.0, 0.2, 0.0]])
    sparse = make_sparse_targets(soft)
    assert torch.equal(sparse.dense(), soft)
    assert len(sparse.values) == 3
    everything = make_sparse_targets(soft, torch.ones(2, 3, dtype=torch.bool))
    assert len(everything.values) == 6
    assert torch.equal(everything.dense(), soft)

    block = make_block_targets(torch.eye(3)[:2], soft, absent=torch.eye(3)[1:], temperature_scale=2.0)
    assert torch.equal(block.hard.dense(), torch.eye(3)[:2])
    assert torch.equal(block.absent.dense(), torch.eye(3)[1:])
    assert block.temperature_scale == 2.0
    assert make_block_targets(torch.eye(3)).soft is None

    first, second = make_targets((2, 1), [[0, 2], []], soft, temperatures=torch.tensor([1.0, 3.0]))
    assert first.hard.dense().tolist() == [[1, 0], [0, 0]]
    assert second.hard.dense().tolist() == [[1], [0]]
    assert torch.equal(second.soft.dense(), soft[:, 2:])
    assert (second.vertical, float(second.temperature_scale), second.absent) == (1, 3.0, None)


def test_teachers_are_asked_as_in_a_step():
    taxonomy = Taxonomy.build({"a": ["a0", "a1"], "b": ["b0"]})
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    teacher = Teacher("a", network, torch.tensor([0, 1]), channels=1, mean=(0,), std=(1,), input_size=None)
    images = torch.rand(2, 1, 2, 2)
    objective = build_plugin("objective", "top-k-bce")
    scale = torch.tensor([2.0, 1.0])
    a, b = routed_targets(taxonomy, [teacher], objective, images, [[1], [2]], temperatures=scale)
    assert a.hard.dense().tolist() == [[0, 1], [0, 0]]
    with torch.inference_mode():
        torch.testing.assert_close(a.soft.dense()[0], objective.soften(network(images), 2.0)[0])
    # The second image asks nobody, and keeps the label that no teacher knows.
    assert a.soft.dense()[1].tolist() == [0, 0]
    assert b.soft.dense().tolist() == [[0], [1]]
    assert float(a.temperature_scale) == 2.0


# -- others ------------------------------------------------------------------------------------------


def test_progress_and_the_weights_of_a_step():
    class Negative(Pacing):
        def weights(self, progress):
            return -progress.loss

    now = progress_at(30, loss=[1.0, 2.0], accuracy=[math.nan, 0.5], num_steps=60, num_epochs=4)
    assert (now.step, now.num_steps, now.epoch, now.num_epochs) == (30, 60, 2.0, 4)
    assert now.loss.dtype == now.accuracy.dtype == torch.float32
    assert now.teacher_accuracy is None
    pacing = build_plugin("pacing", "none", (2, 3), 5)
    assert checked_weights(pacing, now) is None
    with pytest.raises(PluginError, match=r"weights\(\) gave a negative one"):
        checked_weights(Negative(pacing.options, (2, 3), 5), now)


def test_a_plugin_by_its_name():
    assert build_plugin("objective", "top-k-bce", options={"k": 2}).num_kept == 2
    with pytest.raises(PluginError, match="'k'"):
        build_plugin("objective", "top-k-bce", options={"k": 0})
    assert "torch" not in modules_loaded_for_options("objective", "top-k-bce")
    with pytest.raises(LookupError, match="no pacing plugin has the name 'nine'"):
        modules_loaded_for_options("pacing", "nine")


def test_a_context_of_a_run(tmp_path):
    context = teacher_context({"birds": ["wren"]}, channels=1, image_size=8)
    assert context.taxonomy.classes == ("wren",)
    assert (context.channels, context.image_size, context.specialist_files) == (1, 8, {})
    (tmp_path / "file").write_bytes(b"content")
    assert context.read(str(tmp_path / "file")) == b"content"
