"""Every built-in plugin passes its kind's suite."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from kcframe.registry import installed
from kcframe.testing import SUITES
from kcframe.testing.checks import check_names, run_checks
from tests.labelled_files import COUNTS, write_parquet, write_shards

SMALL = {"s1": 16, "s2": 8}
PLUGINS = {
    ("pacing", "none"): [{}],
    ("pacing", "self-paced"): [{}, {"start": "base-rate", "level": "class", "learning_rate_scale": 30}],
    ("expander", "fc-fc"): [SMALL],
    ("expander", "fc-sc"): [SMALL],
    ("expander", "sc-sc"): [{**SMALL, "normalisation": "batch"}],
    ("expander", "fc-sc-shared"): [{**SMALL, "x": 2}, {**SMALL, "x": 8, "normalisation": "layer"}],
    ("objective", "hard-bce"): [{}],
    ("objective", "top-k-bce"): [{}, {"k": 2, "temperature": 2.0, "hard_weight": 0.5}],
    ("backbone", "small-cnn"): [
        {"widths": [4, 8]},
        {"widths": [8], "pool": "average", "normalisation": "group"},
    ],
    ("backbone", "torchvision"): [{"model": "squeezenet1_1"}],
    ("backbone", "inception-v2"): [{}],
    ("data", "synthetic"): [{"verticals": [5, 1, 3], "train_images": 40, "labels_per_image": 2}],
    ("data", "glyphs"): [
        {
            "test_faces": ["DejaVuSans-Bold"],
            "verticals": {"Cyrillic": {"scripts": ["Cyrl"]}, "Armenian": {"scripts": ["Armn"]}},
            "max_classes": 8,
            "image_size": 16,
        }
    ],
    ("data", "image-folder"): [{"image_size": 8, "threads": 1}],
    ("data", "webdataset"): [{"image_size": 8, "threads": 1}],
    ("data", "parquet"): [{"image_size": 8, "threads": 1}],
    ("data", "open-images"): [{"image_size": 8, "threads": 1, "cache": None}],
    ("teacher", "specialists"): [{}],
    ("teacher", "checkpoint"): [{}],
}
ATTRIBUTES = {
    # Enlarged to the 21 pixels that it can take; the paper's network takes 32.
    "torchvision": {"channels": (3,), "image_sizes": (16,)},
    "inception-v2": {"channels": (1,), "image_sizes": (32,)},
    "checkpoint": {"channels": 1},
}
CASES = [(kind, name, options) for (kind, name), each in PLUGINS.items() for options in each]


def test_no_builtin_is_forgotten():
    own = {key for key, component in installed().components.items() if component.distribution == "kcframe"}
    assert own == set(PLUGINS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures in root/SPLIT/VERTICAL/CLASS/, no two of them alike."""
    root = tmp_path_factory.mktemp("pictures")
    shade = 0
    for split, number in (("train", 3), ("test", 2)):
        for name in ("birds/wren", "birds/crow", "cars/coupe"):
            (root / split / name).mkdir(parents=True)
            for picture in range(number):
                shade += 10
                Image.new("RGB", (9, 12), (shade, 255 - shade, 7)).save(
                    root / split / name / f"{picture}.png"
                )
    return root


@pytest.fixture(scope="module")
def specialist():
    """(file, classes) of a specialist that was trained elsewhere."""
    suite = type("Suite", (SUITES["teacher"],), {"name": "specialists", "channels": 1})()
    files = suite.context.specialist_files
    return files["vertical 2"], suite.verticals["vertical 2"]


@pytest.fixture(scope="module")
def open_images(tmp_path_factory):
    """Metadata and pictures of two verticals, no two pictures alike."""
    root = tmp_path_factory.mktemp("open-images")
    names = ["bird", "wren", "crow", "car", "coupe"]
    (root / "class-descriptions.csv").write_text("".join(f"/m/{name},{name}\n" for name in names))
    kinds = {"bird": ["wren", "crow"], "car": ["coupe"]}
    tops = [
        {"LabelName": f"/m/{top}", "Subcategory": [{"LabelName": f"/m/{name}"} for name in below]}
        for top, below in kinds.items()
    ]
    hierarchy = {"LabelName": "/m/all", "Subcategory": tops}
    (root / "bbox_labels_600_hierarchy.json").write_text(json.dumps(hierarchy))
    number = 0
    for split, count in (("train", 9), ("validation", 6)):
        (root / split).mkdir()
        rows = ["ImageID,Source,LabelName,Confidence"]
        for place in range(count):
            number += 1
            rows.append(f"{number:016x},verification,/m/{('wren', 'crow', 'coupe')[place % 3]},1")
            Image.new("RGB", (10, 12), (9 * number, 7, 99)).save(root / split / f"{number:016x}.png")
        (root / f"{split}-annotations-human-imagelabels.csv").write_text("\n".join(rows) + "\n")
    return str(root)


@pytest.mark.parametrize(
    ("kind", "name", "options"), CASES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_builtins_pass(kind, name, options, request, tmp_path):
    if name == "image-folder":
        options = {**options, "root": str(request.getfixturevalue("folder"))}
    if name == "open-images":
        root = request.getfixturevalue("open_images")
        options = {**options, "metadata": root, "images": f"{root}/{{split}}/{{id}}.png"}
    if name in ("webdataset", "parquet"):
        for split in COUNTS:
            write_shards(tmp_path, split)
        write_parquet(tmp_path)
        ending = "tar" if name == "webdataset" else "parquet"
        addresses = {split: f"{tmp_path}/{split}-*.{ending}" for split in COUNTS}
        options = {**options, **addresses, "cache": str(tmp_path / "cache")}
    if name == "checkpoint":
        path, classes = request.getfixturevalue("specialist")
        (tmp_path / "map.json").write_text(json.dumps({classes[0]: classes[0]}))
        options = {"path": path, "label_map": str(tmp_path / "map.json")}
    attributes = {"name": name, "options": options, **ATTRIBUTES.get(name, {})}
    suite = type("Suite", (SUITES[kind],), attributes)
    found = list(run_checks(suite))
    assert [f"{c.name}: {c.why}" for c in found if c.outcome == "failed"] == []
    assert len(found) == len(check_names(suite)) >= 14


def test_a_check_that_is_set_to_none_is_left_out():
    suite = type("Suite", (SUITES["pacing"],), {"name": "none", "test_image_weights_fit": None})
    assert "test_image_weights_fit" in check_names(SUITES["pacing"])
    assert "test_image_weights_fit" not in check_names(suite)
