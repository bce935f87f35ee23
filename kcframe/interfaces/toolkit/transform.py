"""Converts any picture to the input of a trained network. Stored with the network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from kcframe.errors import DataError

Box = tuple[float, float, float, float]
"""left, top, right, bottom, in pixels; may be fractions."""

MODES = {1: "L", 3: "RGB"}


class Transform(BaseModel):
    """A picture of any size -> [channels, image_size, image_size] in 0..1, as in evaluation.

    The backbone's own size, mean and std are not part of it: the backbone applies them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channels: int = Field(ge=1, description="1: grey; 3: colour")
    image_size: int = Field(ge=1, description="side of the result, in pixels")
    fit: Literal["crop", "pad"] = Field(
        "crop",
        description="crop: the square in the middle; pad: everything, made square by more of its border",
    )
    share: float = Field(7 / 8, gt=0, le=1, description="of the short side, that a crop keeps")
    ground: Literal["any", "dark"] = Field(
        "any", description="dark: a picture with a light border is inverted, since light on dark was learned"
    )
    interpolation: Literal["bilinear"] = Field("bilinear", description="antialiased, as Pillow does it")

    @property
    def mode(self) -> str:
        """Pillow's mode for this number of channels. Raises DataError if Pillow has none."""
        if self.channels not in MODES:
            raise DataError(
                f"the network was trained on pictures of {self.channels} channels: files have 1 or 3"
            )
        return MODES[self.channels]

    def box(self, size: tuple[int, int]) -> Box:
        """The square that a crop takes from a picture of (width, height)."""
        width, height = size
        side = min(size) * self.share
        left, top = (width - side) / 2, (height - side) / 2
        return left, top, left + side, top + side

    def pixels(self, picture: Image.Image, box: Box | None = None) -> np.ndarray:
        """uint8 [S, S, channels]. picture: upright, with 8 bits per channel, as from `pictures.decode`.

        box: the part to take; None: the one of method `box`, or with fit pad the whole picture.
        """
        if picture.mode != self.mode:
            picture = picture.convert(self.mode)
        border = _border(picture) if self.fit == "pad" or self.ground == "dark" else []
        if self.fit == "pad" and box is None:
            small = self._padded(picture, tuple(border))
        else:
            box = box or self.box(picture.size)
            small = picture.resize((self.image_size,) * 2, Image.Resampling.BILINEAR, box)
        pixels = np.array(small).reshape(self.image_size, self.image_size, self.channels)
        if self.ground == "dark" and np.mean(border) > 127.5:
            pixels = 255 - pixels
        return pixels

    def _padded(self, picture: Image.Image, ground: tuple[int, ...]) -> Image.Image:
        """The whole picture in the middle of a square.

        It is resized first: a square around a long, thin picture could be too large for the memory.
        """
        longest, side = max(picture.size), self.image_size
        width, height = (max(1, round(length * side / longest)) for length in picture.size)
        square = Image.new(picture.mode, (side, side), ground)
        small = picture.resize((width, height), Image.Resampling.BILINEAR)
        square.paste(small, ((side - width) // 2, (side - height) // 2))
        return square

    def __call__(self, pictures: Sequence[Image.Image]) -> Tensor:
        """float32 [B, channels, S, S] in 0..1."""
        return self.batch([self.pixels(picture) for picture in pictures])

    def batch(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Joins results of `pixels` to float32 [B, channels, S, S] in 0..1."""
        if not pixels:
            return torch.empty(0, self.channels, self.image_size, self.image_size)
        return as_images(np.stack(pixels))


def as_images(pixels: np.ndarray) -> Tensor:
    """uint8 [B, S, S, C] -> float32 [B, C, S, S] in 0..1."""
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return images.to(torch.float32, memory_format=torch.contiguous_format).div_(255)


def _border(picture: Image.Image) -> list[int]:
    """The median of a picture's outermost pixels, one value per channel."""
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    edges = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    return [int(value) for value in np.median(edges, axis=0)]
