"""The suite of backbone plugins."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kcframe.engine.model import Student
from kcframe.interfaces.backbone import Backbone
from kcframe.interfaces.teacher import prepare_images
from kcframe.recipe.schema import Recipe
from kcframe.testing.blocks import make_head
from kcframe.testing.expect import expect, expect_finite
from kcframe.testing.module import CPU, ModuleSuite
from kcframe.testing.sample import draw
from kcframe.testing.tiny import tiny_recipe

BATCH = 4


class BackboneSuite(ModuleSuite):
    """Subclass it and name your backbone plugin."""

    kind: ClassVar[str] = "backbone"

    channels: tuple[int, ...] = (1, 3)
    """Of the data sources' pictures that it is built for."""

    image_sizes: tuple[int, ...] = (32, 40)
    """Likewise, in pixels."""

    def make(
        self, seed: int | None = None, channels: int | None = None, image_size: int | None = None
    ) -> Backbone:
        return self.construct(channels or self.channels[-1], image_size or self.image_sizes[0], seed=seed)

    def in_recipe(self) -> dict[str, Any]:
        return {
            "backbone": self.ref.model_dump(),
            "train": {"epochs": 2, "batch_size": 8, "learning_rate": 0.01, "log_every": 1},
        }

    def recipe(self) -> Recipe:
        data = {
            "verticals": [5, 1, 3],
            "train_images": 24,
            "test_images": 12,
            "image_size": self.image_sizes[0],
            "channels": self.channels[-1],
        }
        return tiny_recipe(self.in_recipe(), data={"name": "synthetic", "options": data})

    def use(self, module: Backbone, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        images = self.images(BATCH, seed, self.channels[-1], self.image_sizes[0]).to(device)
        return {"features": _student(module).features(images)}

    def images(self, rows: int, seed: int, channels: int, side: int) -> Tensor:
        """Pictures in 0..1, as a data source gives them: float [rows, channels, side, side]."""
        return draw((rows, channels, side, side), seed).sigmoid()

    # -- checks ------------------------------------------------------------------------------------

    def test_num_features_says_how_many_there_are(self):
        for channels in self.channels:
            for side in self.image_sizes:
                backbone = self.make(channels=channels, image_size=side)
                expect(
                    isinstance(getattr(backbone, "num_features", None), int),
                    "it sets no num_features, the D of its features [B, D]",
                )
                for training in (True, False):
                    student = _student(backbone).train(training)
                    features = student.backbone(_prepared(student, self.images(BATCH, 1, channels, side)))
                    expect(
                        features.shape == (BATCH, backbone.num_features),
                        f"forward() gives {list(features.shape)} for {BATCH} pictures of {channels} x {side} "
                        f"x {side}, num_features is {backbone.num_features}",
                    )
                    expect_finite("the features", features)

    def test_its_normalisation_fits_its_channels(self):
        for channels in self.channels:
            backbone = self.make(channels=channels)
            for what in ("mean", "std"):
                values = getattr(backbone, what)
                expect(
                    len(values) in (1, backbone.channels),
                    f"{what} has {len(values)} numbers for {backbone.channels} channels: give 1, or one each",
                )
            expect(min(backbone.std) > 0, f"std is {tuple(backbone.std)}: it divides by it")

    def test_its_input_size_is_a_side(self):
        side = self.make().input_size
        good = side is None or (isinstance(side, int) and side >= 1)
        expect(good, f"input_size is {side!r}: give a side in pixels, or None")

    def test_one_picture_is_enough_for_evaluation(self):
        student = _student(self.make()).eval()
        images = self.images(BATCH, 2, self.channels[-1], self.image_sizes[0])
        with torch.inference_mode():
            together = student.features(images)
            alone = torch.cat([student.features(image.unsqueeze(0)) for image in images])
        expect(
            torch.allclose(together, alone, rtol=1e-3, atol=1e-4),
            "in evaluation mode a picture's features depend on the other pictures of the batch",
        )

    def test_different_pictures_have_different_features(self):
        student = _student(self.make())
        features = student.features(self.images(BATCH, 3, self.channels[-1], self.image_sizes[0]))
        varied = bool((features.amax(0) > features.amin(0)).any())
        expect(varied, "all pictures get the same features: nothing can be learned from them")


def _student(backbone: Backbone) -> Student:
    """The backbone as the engine calls it, which resizes and normalises."""
    return Student(backbone, make_head((1,), num_features=1)).train(backbone.training)


def _prepared(student: Student, images: Tensor) -> Tensor:
    b = student.backbone
    return prepare_images(images, b.mean, b.std, b.input_size, b.channels)
