"""A folder of made-up JPEG files and a recipe that reads it, for when a benchmark is given none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml
from PIL import Image

VERTICALS, CLASSES, PICTURES, SIZE = 4, 5, {"train": 40, "test": 4}, (320, 256)


def made_up_recipe(folder: Path) -> Path:
    """Write 880 pictures, 320 x 256, noise that is blown up smoothly, and a recipe; returns its file."""
    random = np.random.default_rng(0)
    for split, num in PICTURES.items():
        for vertical in range(VERTICALS):
            for label in range(CLASSES):
                own = folder / "pictures" / split / f"v{vertical}" / f"v{vertical}c{label}"
                own.mkdir(parents=True)
                for number in range(num):
                    noise = random.integers(0, 255, (16, 16, 3), dtype=np.uint8)
                    picture = Image.fromarray(noise).resize(SIZE, Image.Resampling.BICUBIC)
                    picture.save(own / f"{number}.jpg", quality=90)
    recipe = {
        "kcframe": 1,
        "name": "made-up JPEG files",
        "data": {"name": "image-folder", "options": {"root": str(folder / "pictures"), "image_size": 128}},
        "student": {
            "backbone": "small-cnn",
            "expander": {"name": "fc-sc", "options": {"s1": 64, "s2": 32}},
            "objective": "hard-bce",
            "train": {"epochs": 1, "batch_size": 32, "learning_rate": 0.01},
        },
        "arms": {"student": {}},
    }
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(recipe))
    return file
