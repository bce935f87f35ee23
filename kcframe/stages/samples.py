"""A few test images for the report, and what a measured student says of them."""

from __future__ import annotations

import io
from typing import Any

import torch

from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.interfaces.data import DataSource, Labels
from kcframe.storage.layout import SAMPLES, sample_file
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

SAMPLES_PER_VERTICAL = 3


def sample_indices(labels: Labels, taxonomy: Taxonomy) -> list[int]:
    """A few images of each vertical, spread evenly over its images."""
    rows, classes = labels.rows(), labels.classes.long()
    chosen: list[int] = []
    for vertical in range(taxonomy.num_verticals):
        class_ids = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
        images = rows[torch.isin(classes, class_ids)].unique()  # type: ignore[no-untyped-call]
        places = torch.linspace(0, len(images) - 1, min(SAMPLES_PER_VERTICAL, len(images))).round().long()
        chosen += images[places].tolist()
    return chosen


def samples_of(evaluation: Evaluation, source: DataSource) -> list[dict[str, Any]]:
    """What a measured student says of the sample images, for a run's report."""
    labels, taxonomy = source.split("test").labels.likely(), source.taxonomy
    assert evaluation.measured is not None
    assert evaluation.top_classes is not None
    assert evaluation.top_probabilities is not None
    places = {image: place for place, image in enumerate(evaluation.measured.tolist())}
    samples = []
    for image in sample_indices(labels, taxonomy):
        if (place := places.get(image)) is None:
            continue  # it could not be read
        classes, shares = evaluation.top_classes[place], evaluation.top_probabilities[place]
        best = zip(classes.tolist(), shares.tolist(), strict=True)
        top = [{"class": taxonomy.classes[c], "probability": round(p, 4)} for c, p in best]
        samples.append({"image": image, "top": top})
    return samples


def write_samples(source: DataSource, run_dir: RunDir) -> None:
    """A few test images of each vertical with their labels."""
    from PIL import Image

    test, taxonomy = source.split("test"), source.taxonomy
    labels = test.labels.likely()
    listed: list[dict[str, Any]] = []
    for index in sample_indices(labels, taxonomy):
        images, bad = test.load_readable(torch.tensor([index]), None)
        if bad:
            continue
        picture = images[0].mul(255).round().byte()
        grey = picture.shape[0] == 1
        array = picture[0].numpy() if grey else picture[:3].permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        run_dir.write(sample_file(len(listed)), buffer.getvalue())
        names = [taxonomy.classes[c] for c in labels.of(index)]
        listed.append({"image": index, "name": test.name(index), "labels": names})
    run_dir.write_json(SAMPLES, listed)
