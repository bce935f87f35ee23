"""Reads the sample pictures of a run directory. They are decoration: a damaged one stops nothing."""

from __future__ import annotations

import io

from PIL import Image

from kcframe.errors import KcframeError
from kcframe.storage.layout import sample_file
from kcframe.storage.run_dir import RunDir


def read_sample(run_dir: RunDir, number: int) -> Image.Image | None:
    """The picture of a sample, decoded; None if its file is gone or damaged."""
    try:
        picture = Image.open(io.BytesIO(run_dir.read(sample_file(number))), formats=["PNG"])
        picture.load()
    except (
        KcframeError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ):  # SyntaxError: Pillow's
        return None
    return picture
