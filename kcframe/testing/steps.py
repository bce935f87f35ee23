"""A few steps of the real engine on a source's own pictures, with or without teachers.

A data source may have a million images: this looks at few of them.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import replace

import torch

from kcframe.assembly.plugins import build_backbone, build_objective, construct
from kcframe.engine.data.split import Split
from kcframe.engine.evaluation.evaluate import Evaluator, Settings
from kcframe.engine.model import Head, Student
from kcframe.engine.teachers.routing import Router
from kcframe.engine.trainer import Job, Trainer
from kcframe.engine.world import World
from kcframe.interfaces.data import ImageSet, known_images
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.schema import PluginRef, Train
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy
from kcframe.testing.expect import expect

IMAGES, BATCH = 16, 4
BACKBONE = PluginRef(name="small-cnn", options={"widths": [4, 8], "pool": "average"})
TRAIN = Train(epochs=1, batch_size=BATCH, learning_rate=0.01, log_every=1)


def few_steps(
    taxonomy: Taxonomy, channels: int, train: ImageSet, test: ImageSet, teachers: list[Teacher] | None
) -> None:
    """Train a small student on a few images and measure it; ends the check if its loss is not finite.

    teachers: to learn from; None: it learns from the labels.
    """
    torch.manual_seed(0)
    side = train.load(torch.tensor([0]), None).shape[-1]
    backbone = build_backbone(BACKBONE, channels, side)
    pacing = construct("pacing", PluginRef(name="none"), taxonomy.sizes, taxonomy.num_classes)
    expander = construct(
        "expander", PluginRef(name="fc-sc", options={"s1": 8, "s2": 4}), backbone.num_features, taxonomy.sizes
    )
    student = Student(backbone, Head(expander, pacing, taxonomy.sizes, init_bias="base-rate"))
    objective = build_objective(PluginRef(name="hard-bce" if teachers is None else "top-k-bce"))
    world = World()
    router = None
    if teachers is not None:
        router = Router(teachers, taxonomy.num_classes, objective.soften, objective.num_kept, world.device)
    job = Job(
        name="a few steps",
        folder="arms/few",
        student=student,
        objective=objective,
        taxonomy=taxonomy,
        split=_labelled(train),
        router=router,
        train=TRAIN,
        seed=0,
        evaluator=Evaluator(_labelled(test), taxonomy, Settings(BATCH, world.device)),
    )
    with tempfile.TemporaryDirectory() as folder:
        evaluation = Trainer(job, RunDir(folder), world).run()
    figure = evaluation.mean("ap")
    expect(figure is not None and math.isfinite(figure), "no vertical of the test split could be measured")


def _labelled(images: ImageSet) -> Split:
    """A few images that have a label."""
    labelled = known_images(images.labels)
    places = torch.linspace(0, len(labelled) - 1, min(len(labelled), IMAGES)).round().long()
    return replace(Split.whole(images).only(labelled[places]), absent=None)
