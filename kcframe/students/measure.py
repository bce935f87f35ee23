"""Evaluates a student on any pictures: its figures, its calibration and its confusions.

n images, N classes. All figures are percentages (0-100) unless said otherwise.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor

from kcframe.assembly.saved import load_specialist
from kcframe.engine.data.split import Split
from kcframe.engine.evaluation.evaluate import Evaluation, Settings, as_json, evaluate
from kcframe.engine.model import count_parameters
from kcframe.interfaces.data import Labels
from kcframe.report.results import FIGURES, apart, gap_closed, united
from kcframe.storage.layout import RESULTS, WEIGHTS, specialist_folder
from kcframe.storage.run_dir import RunDir
from kcframe.students.labelled_pictures import Pictures
from kcframe.students.load import Classifier
from kcframe.taxonomy import Taxonomy

BINS = 15  # bins of confidence, as in Guo et al. 2017
PAIRS = 10  # number of most confused pairs, within verticals and across
TIMED = 5  # timed passes of the network alone


@dataclass(frozen=True)
class Calibration:
    """Calibration: is a class with probability 0.8 correct in 80 of 100 cases?

    See Guo et al. 2017, "On Calibration of Modern Neural Networks". It is computed for the most probable leaf
    class of each image that has a leaf label.

    error: the expected calibration error, the mean over images of |share correct - mean probability| of the
    image's bin. bins: (mean probability, share correct, images) of each bin that is not empty, in 0..1.
    """

    error: float
    bins: tuple[tuple[float, float, int], ...]


def calibrate(probabilities: Tensor, right: Tensor, num_bins: int = BINS) -> Calibration:
    """Calibration with bins of equal width. probabilities: float [n] in 0..1. right: bool [n]."""
    places = (probabilities * num_bins).long().clamp(0, num_bins - 1)
    counts = torch.bincount(places, minlength=num_bins)
    confidence = torch.bincount(places, probabilities.double(), num_bins)
    hits = torch.bincount(places, right.double(), num_bins)
    filled = counts > 0
    error = float((hits - confidence).abs().sum() / max(len(probabilities), 1))
    rows = zip(
        (confidence[filled] / counts[filled]).tolist(),
        (hits[filled] / counts[filled]).tolist(),
        counts[filled].tolist(),
        strict=True,
    )
    return Calibration(100 * error, tuple(rows))


@dataclass(frozen=True)
class Measured:
    """The results of one arm on some pictures.

    within, across: confusions (true class, predicted class, images), most images first; the two classes have
    a vertical in common (within) or not (across). seconds: for loading, network and figures together.
    network_images_per_second: of the network alone. retention: vertical -> AP of the arm / AP of the
    specialist, in percent; None without a specialist.
    """

    evaluation: Evaluation
    calibration: Calibration
    within: list[tuple[str, str, int]]
    across: list[tuple[str, str, int]]
    seconds: float
    network_images_per_second: float
    parameters: int
    retention: dict[str, float | None]


def measure(
    classifier: Classifier, pictures: Pictures, specialists: dict[str, Any] | None, settings: Settings
) -> Measured:
    """Evaluates one arm. specialists: the result of `measure_specialists`."""
    taxonomy, split = classifier.taxonomy, pictures.split
    began = time.perf_counter()
    evaluation = evaluate(classifier.student, split, taxonomy, settings)
    seconds = time.perf_counter() - began
    assert evaluation.measured is not None  # an evaluation just made knows what it was about
    assert evaluation.top_classes is not None
    assert evaluation.top_probabilities is not None
    labels = split.labels.take(evaluation.measured).likely()
    leaf = torch.from_numpy(taxonomy.is_leaf)
    rows, classes = labels.rows(), labels.classes.long()
    has_leaf = torch.zeros(len(labels), dtype=torch.bool)
    has_leaf[rows[leaf[classes]]] = True
    right = _is_label(evaluation.top_classes[:, 0], labels)
    within, across = _pairs(evaluation.top_classes[:, 0], right, labels, taxonomy)
    teachers = {} if specialists is None else specialists["per_vertical"]
    retention = {
        name: _share(row["ap"], teachers.get(name, {}).get("ap"))
        for name, row in evaluation.per_vertical.items()
    }
    return Measured(
        evaluation=evaluation,
        calibration=calibrate(evaluation.top_probabilities[has_leaf, 0], right[has_leaf]),
        within=within,
        across=across,
        seconds=seconds,
        network_images_per_second=_network_speed(classifier, split, settings),
        parameters=count_parameters(classifier.student),
        retention=retention,
    )


def measure_specialists(
    run_dir: RunDir, pictures: Pictures, taxonomy: Taxonomy, settings: Settings
) -> dict[str, Any] | None:
    """Evaluates the run's specialists, each on its own vertical's pictures; the result is as in results.json.

    None if the run directory has no specialist, or none whose vertical has pictures.
    """
    measured = []
    for vertical, name in enumerate(taxonomy.verticals):
        file = f"{specialist_folder(name)}/{WEIGHTS}"
        if not run_dir.exists(file):
            continue
        network, _ = load_specialist(run_dir.path(file))
        class_ids = torch.from_numpy(taxonomy.local_ids(vertical))
        split = pictures.split.renumbered(class_ids).that_can_be_measured_on()
        if not len(split):
            continue
        alone = evaluate(network.to(settings.device), split, taxonomy.only(vertical), settings)
        measured.append({**alone.summary(), "parameters": count_parameters(network)})
    return united(measured) if measured else None


def as_results(
    measured: dict[str, Measured], specialists: dict[str, Any] | None, run_dir: RunDir, split: str | None
) -> dict[str, Any]:
    """The results in the form of results.json, so that the same tables can show them. split: of the data."""
    about = run_dir.read_json(RESULTS) if run_dir.exists(RESULTS) else {"name": str(run_dir), "seed": "?"}
    baseline = about.get("baseline") if about.get("baseline") in measured else None
    base = measured[baseline].evaluation.mean("ap") if baseline else None
    top = specialists["mpvap"] if specialists else None
    arms = {}
    for name, result in measured.items():
        summary = result.evaluation.summary()
        arms[name] = {
            **{figure: summary[figure] for figure in FIGURES},
            "parameters": result.parameters,
            "gap_closed": gap_closed(summary["mpvap"], base, top),
            "per_vertical": summary["per_vertical"],
            **apart(summary["per_vertical"]),
        }
    return {
        "name": about["name"],
        "seed": about["seed"],
        "split": split,
        "baseline": baseline,
        "arms": arms,
        "specialists": specialists,
    }


def details(measured: Measured) -> dict[str, Any]:
    """The results that results.json does not have, as plain data."""
    return {
        "calibration_error": measured.calibration.error,
        "reliability": [list(row) for row in measured.calibration.bins],
        "retention": measured.retention,
        "confused_within": measured.within,
        "confused_across": measured.across,
        "confusion": as_json(measured.evaluation)["confusion"],
        "seconds": measured.seconds,
        "network_images_per_second": measured.network_images_per_second,
    }


def _share(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else 100 * value / of


def _is_label(guesses: Tensor, labels: Labels) -> Tensor:
    """bool [n]: whether each image's guess [n] is one of its labels."""
    right = torch.zeros(len(labels), dtype=torch.bool)
    rows = labels.rows()
    right[rows[labels.classes.long() == guesses[rows]]] = True
    return right


def _pairs(
    guesses: Tensor, right: Tensor, labels: Labels, taxonomy: Taxonomy
) -> tuple[list[tuple[str, str, int]], list[tuple[str, str, int]]]:
    """The most frequent confusions: (within a vertical of the true class, across verticals)."""
    within: Counter[tuple[int, int]] = Counter()
    across: Counter[tuple[int, int]] = Counter()
    for image in (~right).nonzero().flatten().tolist():
        guess = int(guesses[image])
        homes = {v for v, _ in taxonomy.locate(guess)}
        for true in labels.of(image):
            if taxonomy.is_leaf[true]:
                near = any(v in homes for v, _ in taxonomy.locate(true))
                (within if near else across)[true, guess] += 1
    return _named(within, taxonomy), _named(across, taxonomy)


def _named(pairs: Counter[tuple[int, int]], taxonomy: Taxonomy) -> list[tuple[str, str, int]]:
    ranked = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
    names = taxonomy.classes
    return [(names[true], names[guess], count) for (true, guess), count in ranked[:PAIRS]]


def _network_speed(classifier: Classifier, split: Split, settings: Settings) -> float:
    """Images per second of the network alone: median over a few passes of one batch."""
    images, _ = split.images.load_readable(split.indices[: settings.batch_size], None)
    classifier.logits(images)
    turns = []
    for _ in range(TIMED):
        began = time.perf_counter()
        classifier.logits(images)
        turns.append(time.perf_counter() - began)
    return len(images) / median(turns)
