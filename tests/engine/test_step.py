"""A step in several passes, and on several workers, is the step in one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
import yaml

from kcframe.engine.data.batches import Batch, BatchPlan
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.engine.observer import Silent
from kcframe.engine.optimizer import build_optimizer
from kcframe.engine.step import TrainStep
from kcframe.engine.world import World
from kcframe.interfaces.data import Labels
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.stages.arm import ArmStage
from kcframe.stages.context import Context
from kcframe.storage.run_dir import RunDir
from tests.conftest import TINY
from tests.threads import on_all

SPECIALISTS = Path(__file__).parents[1] / "fixtures/run-0.1/specialists"
TEACHERS = [SPECIALISTS / f"vertical {v}/weights.safetensors" for v in range(3)]


@dataclass(frozen=True)
class Case:
    """A pacing by its name and options, and what the arm learns with."""

    pacing: str
    options: dict = field(default_factory=dict)
    objective: str = "hard-bce"

    def __str__(self) -> str:
        return f"{self.pacing} {self.options or ''} {self.objective}".replace("  ", " ")


CASES = [
    Case("none"),
    Case("self-paced", {"start": "base-rate"}),
    Case("self-paced", {"level": "class"}),
    Case("self-paced", {"trainable": False}),
    Case("catch-up", objective="softened"),
    Case("curriculum"),
    Case("fade", objective="softened"),
]


def prepared(case: Case, world: World, tmp_path, images_per_pass=None, normalisation="none"):
    """A step of an arm, and its first batch."""
    backbone = {"name": "small-cnn", "options": {"widths": [4, 8], "normalisation": normalisation}}
    train = {"epochs": 1, "batch_size": 17, "learning_rate": 0.5, "optimizer": "sgd"}
    arm = {
        "backbone": backbone,
        "pacing": {"name": case.pacing, "options": case.options},
        "objective": case.objective,
        "train": train,
    }
    file = tmp_path / "recipe.yaml"
    tree = {**TINY, "specialists": None, "arms": {"arm": arm}, "baseline": None}
    if case.objective == "softened":
        arm["teachers"] = [{"name": "checkpoint", "options": {"path": str(path)}} for path in TEACHERS]
    file.write_text(yaml.safe_dump(tree, sort_keys=False))
    recipe = load_recipe(str(file), installed())
    context = Context.build(recipe, RunDir(tmp_path / "run"), world, Silent())
    subject = ArmStage(arm="arm").subject(context)
    spec = recipe.arms["arm"].train
    step = TrainStep(
        subject.student.train(),
        subject.objective,
        build_optimizer(subject.student, spec),
        subject.router,
        taxonomy=subject.taxonomy,
        train=spec,
        world=world,
        images_per_pass=images_per_pass,
    )
    split = Split.of(context.source, "train")
    return step, BatchPlan(split, Sampler(split.indices, 17, 0), 0, world.rank, world.size)


def progress(step: int) -> Progress:
    rates = torch.tensor([0.2, 0.9, 0.5])
    return Progress(step, 3, step / 3, 1, torch.tensor([1.0, 2.0, 3.0]), rates, rates)


def after_steps(case: Case, world: World, tmp_path, **how):
    """Weights after two steps, and the terms of the second."""
    step, plan = prepared(case, world, tmp_path, **how)
    for number in range(2):
        outcome = step(plan[number], progress(number), 0.5)
    return dict(step.student.named_parameters()), outcome


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("most", [1, 5, 16, 17])
def test_several_passes_are_one(case, most, tmp_path):
    one, expected = after_steps(case, World(), tmp_path)
    several, outcome = after_steps(case, World(), tmp_path, images_per_pass=most)
    for name, values in one.items():
        torch.testing.assert_close(several[name], values, rtol=1e-5, atol=1e-6, msg=name)
    for name, term in expected.terms.items():
        torch.testing.assert_close(outcome.terms[name], term, rtol=1e-6, atol=1e-6)
    if expected.tallies is not None:
        assert torch.equal(outcome.tallies, expected.tallies)


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=str)
def test_several_passes_of_two_workers_are_one_of_one(case, tmp_path):
    one, _ = after_steps(case, World(), tmp_path)
    # torch's generator is one for all threads: the workers' students are built in turn.
    workers = [prepared(case, World(rank, 2), tmp_path, images_per_pass=3) for rank in range(2)]

    def work(world):
        step, plan = workers[world.rank]
        step.world = world
        for number in range(2):
            step(plan[number], progress(number), 0.5)
        return dict(step.student.named_parameters())

    for weights in on_all(2, work):
        for name, values in one.items():
            torch.testing.assert_close(weights[name], values, rtol=1e-5, atol=1e-6, msg=name)


def test_passes_are_the_batch_in_order_and_equally_large():
    labels, absent = (
        Labels.from_lists([[i % 3] for i in range(7)]),
        Labels.from_lists([[i] for i in range(7)]),
    )
    batch = Batch(torch.arange(7.0).view(7, 1, 1, 1), labels, 20, {3: "bad"}, absent, 2, torch.arange(7) + 50)
    passes = list(batch.passes(3))
    assert [len(some) for some in passes] == [3, 2, 2]
    assert torch.equal(torch.cat([some.images for some in passes]), batch.images)
    assert torch.equal(torch.cat([some.labels.classes for some in passes]), labels.classes)
    assert torch.equal(torch.cat([some.absent.classes for some in passes]), absent.classes)
    assert torch.equal(torch.cat([some.indices for some in passes]), batch.indices)
    assert {some.whole for some in passes} == {20}
    assert list(batch.passes(None)) == [batch] == list(batch.passes(7))


def test_batch_statistics_are_a_passes(tmp_path):
    """What README says of it: with batch normalisation the result is another."""
    case = CASES[0]
    one, _ = after_steps(case, World(), tmp_path, normalisation="batch")
    several, _ = after_steps(case, World(), tmp_path, normalisation="batch", images_per_pass=5)
    assert any(not torch.allclose(several[name], values, rtol=1e-3) for name, values in one.items())
