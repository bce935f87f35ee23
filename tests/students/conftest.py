"""A finished run on picture files: classes in two verticals, parents, names that a page must escape."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet

TAXONOMY = {
    # "bat" is an animal and a thing; "bird" and "flying" are parents without pictures of their own.
    "verticals": {
        "animals": ["bat", "owl", "<b>wren", "bird", "flying"],
        "things": ["bat", "kite", "mug"],
    },
    "parents": {"owl": ["bird"], "<b>wren": ["bird"], "bird": ["flying"], "bat": ["flying"]},
}
COLOURS = {
    "bat": (200, 30, 30),
    "owl": (30, 200, 30),
    "<b>wren": (30, 30, 200),
    "kite": (200, 200, 30),
    "mug": (30, 200, 200),
}


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """<split>/<class>/<n>.png and taxonomy.json: a class is a colour."""
    root = tmp_path_factory.mktemp("pictures")
    (root / "taxonomy.json").write_text(json.dumps(TAXONOMY))
    draws = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 4)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = draws.normal(0, 60, (20, 24, 3))
                pixels = (np.array(colour) + noise).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def recipe_file(pictures, tmp_path_factory) -> Path:
    network = {"name": "small-cnn", "options": {"widths": [4, 8]}}
    recipe = {
        "kcframe": 1,
        "name": "colours",
        "data": {
            "name": "image-folder",
            "options": {
                "root": str(pictures),
                "taxonomy": str(pictures / "taxonomy.json"),
                "image_size": 16,
            },
        },
        "specialists": {
            "backbone": network,
            "train": {"epochs": 4, "batch_size": 12, "learning_rate": 0.01},
        },
        "student": {
            "backbone": network,
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": "top-k-bce",
            "train": {"epochs": 6, "batch_size": 12, "learning_rate": 0.01},
        },
        "baseline": "generalist",
        "arms": {
            "generalist": {"expander": "fc-fc", "objective": "hard-bce", "train": {"epochs": 1}},
            "paced": {"pacing": {"name": "self-paced", "options": {"start": "base-rate"}}},
        },
    }
    file = tmp_path_factory.mktemp("recipe") / "colours.yaml"
    file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return file


@pytest.fixture(scope="session")
def finished(recipe_file, tmp_path_factory) -> Path:
    """The run directory. Do not write into it: it serves all tests."""
    folder = tmp_path_factory.mktemp("runs") / "colours"
    quiet = Quiet()
    run(load_recipe(str(recipe_file), installed()), RunDir(folder), quiet)
    return folder
