"""A picture of any size becomes what the network was trained on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from kcframe.errors import DataError
from kcframe.interfaces.toolkit.transform import Transform


def picture(pixels):
    return Image.fromarray(np.asarray(pixels, np.uint8))


def test_a_crop_is_the_middle_square():
    # 40 x 20: the middle 16 x 16 of it, each pixel its own column's number; resized to itself.
    columns = np.tile(np.arange(40) * 6, (20, 1))
    transform = Transform(channels=1, image_size=16, share=0.8)
    assert np.array_equal(
        transform.pixels(picture(columns))[:, :, 0], np.tile(np.arange(12, 28) * 6, (16, 1))
    )


def test_padding_keeps_everything_and_the_border_goes_on():
    pixels = np.full((4, 8), 40)
    pixels[1:3, 2:6] = 200
    found = Transform(channels=1, image_size=8, fit="pad").pixels(picture(pixels))[:, :, 0]
    expected = np.full((8, 8), 40)
    expected[2:6] = pixels
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("ground", ["any", "dark"])
def test_dark_on_light_is_inverted_where_light_on_dark_was_learned(ground):
    ink_on_paper = np.full((8, 8), 250)
    ink_on_paper[3:5] = 10
    transform = Transform(channels=1, image_size=8, fit="pad", ground=ground)
    found = transform.pixels(picture(ink_on_paper))[:, :, 0]
    assert np.array_equal(found, 255 - ink_on_paper if ground == "dark" else ink_on_paper)
    light_on_dark = transform.pixels(picture(255 - ink_on_paper))[:, :, 0]
    assert np.array_equal(light_on_dark, 255 - ink_on_paper)


def test_batches_are_numbers_from_0_to_1():
    transform = Transform(channels=3, image_size=4)
    batch = transform([Image.new("RGB", (9, 9), (255, 0, 51)), Image.new("L", (5, 7), 255)])
    assert batch.dtype == torch.float32
    assert torch.equal(batch[0, :, 0, 0], torch.tensor([1.0, 0.0, 0.2]))
    assert torch.equal(batch[1], torch.ones(3, 4, 4))
    assert transform([]).shape == (0, 3, 4, 4)


def test_what_files_do_not_have_is_refused():
    with pytest.raises(DataError, match="pictures of 4 channels: files have 1 or 3"):
        Transform(channels=4, image_size=4)([Image.new("RGB", (4, 4))])
    with pytest.raises(ValidationError):
        Transform(channels=3, image_size=4, blur=2)


def test_a_long_thin_picture_takes_no_more_memory_than_itself():
    """Padded first, it would be a square of 65,000 x 65,000."""
    found = Transform(channels=1, image_size=8, fit="pad").pixels(Image.new("L", (65_000, 1), 200))
    assert found.shape == (8, 8, 1)
    assert (found == 200).all()
