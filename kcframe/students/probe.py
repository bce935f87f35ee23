"""Tests whether a student's features are good for another task.

Trains a linear classifier and nearest class means on a few pictures per class, on the student's features and
on others (Razavian et al. 2014, "CNN Features off-the-shelf").

n images, D features, C classes of the new task.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kcframe.assembly.networks import build_student
from kcframe.assembly.saved import load_specialist
from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.evaluation.evaluate import Settings
from kcframe.errors import DataError
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.recipe.schema import StudentSpec
from kcframe.storage.layout import WEIGHTS, specialist_folder
from kcframe.students.labelled_pictures import folder_of_classes, is_recipe, refuse_for_folder, source_of
from kcframe.students.load import Classifier
from kcframe.taxonomy import Taxonomy

STRENGTHS = tuple(10.0**power for power in range(-1, 6))
"""Strengths of the ridge penalty; leave-one-out cross-validation selects one."""

SMALLEST = 1e-12  # smallest length that features are divided by

Features = Callable[[Tensor], Tensor]
"""Pictures [B, C, S, S] in 0..1 -> [B, D]."""


@dataclass(frozen=True)
class Task:
    """A new task: pictures for training and test, each with one class.

    train, test: (image set, indices int64 [n], class of each image int64 [n] in 0..C-1). classes: C names.
    max_bad_fraction: share of each split's pictures that may be unreadable; they are left out.
    """

    name: str
    train: tuple[ImageSet, Tensor, Tensor]
    test: tuple[ImageSet, Tensor, Tensor]
    classes: tuple[str, ...]
    max_bad_fraction: float = 0.0


@dataclass(frozen=True)
class Probed:
    """Accuracy in percent, one value per repeat, of a linear classifier and of nearest class means."""

    features: str
    num_features: int
    shots: int
    linear: tuple[float, ...]
    nearest_mean: tuple[float, ...]


def probe(
    classifier: Classifier, task: Task, shots: Sequence[int], repeats: int, seed: int, *, settings: Settings
) -> Iterator[Probed]:
    """Scores each kind of features for each number of shots. In a repeat all kinds get the same pictures.

    Raises DataError if a class has too few pictures.
    """
    train_images, train_indices, train_classes = task.train
    drawn = _draw_readable(task, max(shots), repeats, seed, settings)
    every = torch.cat(drawn).unique()
    readable = _readable(task, task.test[0], task.test[1], settings)
    test_indices, test_classes = task.test[1][readable], task.test[2][readable].numpy()
    for name, network in _kinds(classifier, settings.device):
        train_features = _features(network, train_images, train_indices[every], settings)
        place = torch.full((len(train_classes),), -1)
        place[every] = torch.arange(len(every))
        test = _features(network, task.test[0], test_indices, settings)
        for count in shots:
            scores = []
            for rows in drawn:
                some = rows.view(len(task.classes), -1)[:, :count].flatten()
                scores.append(
                    score(train_features[place[some]], train_classes[some].numpy(), test, test_classes)
                )
            linear, nearest = zip(*scores, strict=True)
            yield Probed(name, train_features.shape[1], count, linear, nearest)


def score(
    train: np.ndarray, train_classes: np.ndarray, test: np.ndarray, test_classes: np.ndarray
) -> tuple[float, float]:
    """(accuracy of a linear classifier, of the nearest class mean), percent. Features [n, D], classes [n]."""
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    # Ridge has a closed-form solution; a logistic regression takes minutes for hundreds of classes.
    linear = make_pipeline(StandardScaler(), RidgeClassifierCV(STRENGTHS))
    right = linear.fit(train, train_classes).predict(test) == test_classes
    # Normalise to length one: the length depends more on the contrast than on the class.
    unit, unit_test = _unit(train), _unit(test)
    present = np.unique(train_classes)
    means = _unit(np.stack([unit[train_classes == class_id].mean(0) for class_id in present]))
    near = present[(unit_test @ means.T).argmax(1)] == test_classes
    return 100 * float(right.mean()), 100 * float(near.mean())


def _unit(features: np.ndarray) -> np.ndarray:
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), SMALLEST)


def _kinds(classifier: Classifier, device: torch.device) -> Iterator[tuple[str, list[Features]]]:
    """(name, networks) for each kind of features; features of several networks are concatenated."""
    yield f"student ({classifier.arm})", [classifier.student.to(device).features]
    spec = StudentSpec.model_validate(classifier.about["student"])
    about, taxonomy = classifier.about, classifier.taxonomy
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = build_student(_from_scratch(spec), about["channels"], about["image_size"], taxonomy)
    yield "the same backbone, untrained", [fresh.to(device).eval().features]
    run_dir = classifier.run_dir
    files = []
    if run_dir is not None:
        for vertical in taxonomy.verticals:
            file = f"{specialist_folder(vertical)}/{WEIGHTS}"
            if run_dir.exists(file):
                files.append((vertical, run_dir.path(file)))
    experts: list[Features] = []
    for vertical, file in files:
        network = load_specialist(file)[0].to(device)
        experts.append(network.features)
        yield f"specialist {vertical}", [network.features]
    if len(experts) > 1:
        yield f"all {len(experts)} specialists side by side", experts


def _from_scratch(spec: StudentSpec) -> StudentSpec:
    """The spec without pretrained weights."""
    options = {name: value for name, value in spec.backbone.options.items() if name != "weights"}
    return spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"options": options})})


@torch.inference_mode()
def _features(
    networks: Sequence[Features], images: ImageSet, indices: Tensor, settings: Settings
) -> np.ndarray:
    """float32 [n, D of all networks]."""
    parts = []
    for part in indices.split(settings.batch_size):
        batch = images.load(part, None).to(settings.device)
        parts.append(torch.cat([network(batch).float().flatten(1).cpu() for network in networks], 1))
    return torch.cat(parts).numpy()


def find_task(data: str, overrides: Sequence[str], transform: Transform, seed: int) -> Task:
    """The task that `data` names.

    A recipe: the splits of its data, with the images that have one leaf class. A folder of class folders: a
    random half of each class's pictures for training, the other half for test; `seed` selects them.
    """
    if not is_recipe(data):
        refuse_for_folder(data, overrides)
        images, classes, names = folder_of_classes(data, transform)
        order = _shuffled_by_class(classes, seed)
        if len(names) < 2:
            raise DataError(f"{data}: a task needs two classes, it has {len(names)}")
        # Take every second one in the order of classes: half of each class, or one more.
        learn, rest = order[::2].sort().values, order[1::2].sort().values
        return Task(data, (images, learn, classes[learn]), (images, rest, classes[rest]), names, 1.0)
    source, name = source_of(data, overrides, transform)
    splits = [source.split(split) for split in ("train", "test")]
    singles = [_single_class(images.labels.likely(), source.taxonomy) for images in splits]
    both = np.intersect1d(singles[0][1].numpy(), singles[1][1].numpy())
    if len(both) < 2:
        raise DataError(f"{name}: a task needs two classes with pictures in both splits, it has {len(both)}")
    new_ids = torch.full((source.taxonomy.num_classes,), -1)
    new_ids[torch.from_numpy(both)] = torch.arange(len(both))
    parts = []
    for images, (indices, classes) in zip(splits, singles, strict=True):
        in_both = new_ids[classes] >= 0
        parts.append((images, indices[in_both], new_ids[classes[in_both]]))
    names = tuple(source.taxonomy.classes[c] for c in both)
    return Task(name, parts[0], parts[1], names, source.max_bad_fraction)


def _single_class(labels: Labels, taxonomy: Taxonomy) -> tuple[Tensor, Tensor]:
    """(indices, class ids), int64: the images with exactly one leaf class."""
    leaf = torch.from_numpy(taxonomy.is_leaf)[labels.classes.long()]
    rows, classes = labels.rows()[leaf], labels.classes[leaf].long()
    single = torch.bincount(rows, minlength=len(labels)) == 1
    return rows[single[rows]], classes[single[rows]]


def _draw_readable(task: Task, count: int, repeats: int, seed: int, settings: Settings) -> list[Tensor]:
    """`_draw`, `repeats` times; an unreadable picture is replaced by the next one of its class."""
    images, indices, classes = task.train
    usable = torch.ones(len(classes), dtype=torch.bool)
    looked = torch.zeros(len(classes), dtype=torch.bool)
    while True:
        _enough(task, usable, count)
        drawn = [_draw(classes, count, seed + repeat, usable) for repeat in range(repeats)]
        fresh = torch.cat(drawn).unique()
        fresh = fresh[~looked[fresh]]
        if not len(fresh):
            return drawn
        looked[fresh] = True
        usable[fresh] = _readable(task, images, indices[fresh], settings)


def _readable(task: Task, images: ImageSet, indices: Tensor, settings: Settings) -> Tensor:
    """bool [n]: which pictures can be read. Raises DataError if more are unreadable than the task allows."""
    readable = torch.ones(len(indices), dtype=torch.bool)
    if not task.max_bad_fraction:
        return readable  # the first unreadable picture raises an error when it is read
    bad = BadImages(len(images), task.max_bad_fraction)
    for places in torch.arange(len(indices)).split(settings.batch_size):
        reasons = images.load_readable(indices[places], None)[1]
        bad.add({int(indices[places[row]]): reason for row, reason in reasons.items()}, len(places))
        readable[places[list(reasons)]] = False
    return readable


def _enough(task: Task, usable: Tensor, shots: int) -> None:
    counts = torch.bincount(task.train[2][usable], minlength=len(task.classes))
    fewest = int(counts.argmin())
    if counts[fewest] < shots:
        raise DataError(
            f"{task.name}: class '{task.classes[fewest]}' has {int(counts[fewest])} pictures to learn from, "
            f"--shots asks for {shots}"
        )


def _draw(classes: Tensor, count: int, seed: int, usable: Tensor | None = None) -> Tensor:
    """int64 [C * count]: positions of `count` pictures of each class, class after class, at random.

    usable: bool [n], which pictures may be drawn. It does not change the order of the others.
    """
    by_class, counts = _shuffled_by_class(classes, seed), torch.bincount(classes)
    if usable is not None:
        by_class, counts = by_class[usable[by_class]], torch.bincount(classes[usable])
    starts = counts.cumsum(0) - counts
    return torch.cat([by_class[start : start + count] for start in starts.tolist()])


def _shuffled_by_class(classes: Tensor, seed: int) -> Tensor:
    """int64 [n]: all positions, class after class, at random within each."""
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(seed))
    return order[classes[order].argsort(stable=True)]
