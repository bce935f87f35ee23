"""Which images a stage learns from, which it is measured on, and which are shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kcframe.engine.data.holdout import held_out
from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource, ImageSet, Labels, known_images
from kcframe.recipe.schema import Recipe
from kcframe.taxonomy import Taxonomy

SAMPLES_PER_VERTICAL = 3


@dataclass(frozen=True)
class Part:
    """Some images of a split: `indices`, int64. labels, absent: of all its images, in a stage's class ids."""

    images: ImageSet
    labels: Labels
    absent: Labels | None
    indices: Tensor


def parts_of(recipe: Recipe, source: DataSource, new_ids: Tensor) -> tuple[Part, Part]:
    """What is learned from, and what is measured on: the test split, or the validation cut of the train
    split.

    new_ids: int64 [N], each class's id in the stage, -1 if it is not the stage's. Images without a likely
    label are not learned from: no teacher speaks for them, so that eq. 2 would say that all their classes are
    absent; and all arms see the same images.
    """
    images = source.split("train")
    labels, absent = images.labels.restrict(new_ids), _restricted(images.absent, new_ids)
    likely = labels.likely()
    indices, known = known_images(likely), known_images(likely, absent)
    if recipe.evaluation.split == "validation":
        held = held_out(
            images.groups, len(images), recipe.evaluation.share, recipe.seed, images.labels.likely()
        )
        if not held.any():
            raise DataError("evaluation.split: the training images are all of one group: none can be cut off")
        test = Part(images, labels, absent, known[held[known]])
        return Part(images, labels, absent, indices[~held[indices]]), test
    test = source.split("test")
    test_labels, test_absent = test.labels.restrict(new_ids), _restricted(test.absent, new_ids)
    test_part = Part(test, test_labels, test_absent, known_images(test_labels.likely(), test_absent))
    return Part(images, labels, absent, indices), test_part


def _restricted(absent: Labels | None, new_ids: Tensor) -> Labels | None:
    return None if absent is None else absent.restrict(new_ids)


def sample_indices(labels: Labels, taxonomy: Taxonomy) -> list[int]:
    """A few images of each vertical, spread evenly over its images."""
    rows, classes = labels.rows(), labels.classes.long()
    chosen: list[int] = []
    for vertical in range(taxonomy.num_verticals):
        own = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
        images = rows[torch.isin(classes, own)].unique()
        places = torch.linspace(0, len(images) - 1, min(SAMPLES_PER_VERTICAL, len(images))).round().long()
        chosen += images[places].tolist()
    return chosen


def samples_of(found: Evaluation, source: DataSource) -> list[dict[str, Any]]:
    """What a measured student says of the sample images, for a run's report."""
    labels, taxonomy = source.split("test").labels.likely(), source.taxonomy
    places = {image: place for place, image in enumerate(found.measured.tolist())}
    samples = []
    for image in sample_indices(labels, taxonomy):
        if (place := places.get(image)) is None:
            continue  # it could not be read
        best = zip(found.top_classes[place].tolist(), found.top_probabilities[place].tolist(), strict=True)
        top = [{"class": taxonomy.classes[c], "probability": round(p, 4)} for c, p in best]
        samples.append({"image": image, "top": top})
    return samples
