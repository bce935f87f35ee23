"""Data source `glyphs`.

Verticals are scripts, blocks or code points; a class is a character; its pictures are drawings by several
font faces. The test split consists of whole faces, or of one drawing per character. Font families share
drawings: an arrow of DejaVu Serif is the same as in DejaVu Sans. A held-out drawing that training has, too,
would test nothing and is left out.
"""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kcframe.builtin.sources.glyphs.characters import build_taxonomy, class_name
from kcframe.builtin.sources.glyphs.drawings import Plan
from kcframe.builtin.sources.glyphs.drawings_folder import checksum, drawings
from kcframe.builtin.sources.glyphs.options import GlyphsOptions
from kcframe.interfaces.data import DataSource, ImageSet, Labels
from kcframe.interfaces.toolkit.randomness import image_keys, keyed_uniforms
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.taxonomy import Taxonomy

CANVAS = 1.5  # drawings are this much larger than pictures, so that they stay sharp when they are turned
TEST_SEED = 2**32  # seed of the test split's own views; a recipe cannot have this seed
TEST_STRENGTH = 1.0  # strength of their augmentation, fixed so that figures of different recipes compare


class Glyphs(DataSource):
    """Draws characters with FreeType (through Pillow) and stores the drawings in memory or in a folder."""

    name = "glyphs"
    Options = GlyphsOptions
    options: GlyphsOptions

    def __init__(self, options: GlyphsOptions):
        super().__init__(options)
        self.channels, self.image_size = 1, options.image_size
        self.canvas = round(options.image_size * CANVAS)
        # For a photograph or screenshot of a character: the whole picture, white on black like the drawings.
        self.transform = Transform(channels=1, image_size=self.image_size, fit="pad", ground="dark")
        self._sets: dict[str, GlyphSet] = {}

    @cached_property
    def _drawn(self) -> tuple[Plan, np.ndarray]:
        return drawings(self.options, self.canvas)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        return build_taxonomy(self._drawn[0].verticals, self.options.parents)

    def split(self, name: str) -> GlyphSet:
        if name not in self._sets:
            self._sets[name] = GlyphSet(*self._drawn, name, self.taxonomy, self.options)
        return self._sets[name]

    def describe(self) -> dict[str, object]:
        plan = self._drawn[0]
        facts: dict[str, object] = {"checksum": checksum(plan)[:16]}
        if self.options.held_out == "faces":
            facts["faces"] = {face: split for split, faces in plan.faces.items() for face in faces}
        else:
            facts["faces"] = len(plan.fonts)
        return facts | plan.counts


class GlyphSet(ImageSet):
    """The drawings of one split; in the train split each drawing is there `views` times."""

    def __init__(
        self, plan: Plan, pixels: np.ndarray, split: str, taxonomy: Taxonomy, options: GlyphsOptions
    ):
        """pixels: uint8 [n, C, C]."""
        self.plan, self.pixels, self.split, self.options = plan, pixels, split, options
        self.size, self.rows = options.image_size, plan.rows[split]
        views = options.views if split == "train" else 1
        codes = np.unique(self.rows.codes)
        labels = [taxonomy.with_ancestors([taxonomy.class_id(class_name(code))]) for code in codes.tolist()]
        places = np.searchsorted(codes, self.rows.codes).tolist()
        self.labels = Labels.from_lists([labels[place] for place in places] * views)
        # A validation split holds out whole faces, or all views of a drawing, like the test split.
        groups = self.rows.faces if options.held_out == "faces" else self.rows.drawings
        self._groups = torch.from_numpy(groups).repeat(views)
        self.unseen_views = None
        if split == "test" and plan.views:
            self.unseen_views = torch.from_numpy(np.isin(self.rows.codes, plan.views))

    def __getstate__(self) -> dict:
        """A process that unpickles this opens the folder's file again."""
        pixels = self.pixels.filename if isinstance(self.pixels, np.memmap) else self.pixels
        return self.__dict__ | {"pixels": pixels}

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state
        if not isinstance(self.pixels, np.ndarray):
            self.pixels = np.load(self.pixels, mmap_mode="r")

    @property
    def groups(self) -> Tensor:
        return self._groups

    @property
    def told_apart(self) -> dict[str, Tensor]:
        if self.unseen_views is None:
            return {}
        return {"unseen drawings": ~self.unseen_views, "unseen views": self.unseen_views}

    def name(self, index: int) -> str:
        row = index % len(self.rows.codes)
        code, face = int(self.rows.codes[row]), int(self.rows.faces[row])
        return f"{class_name(code)} in {self.plan.faces[self.split][face]}"

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        places = self.rows.drawings[indices.numpy() % len(self.rows.drawings)]
        drawn = torch.from_numpy(self.pixels[places]).unsqueeze(1).float().div_(255)
        if keys is None and self.unseen_views is not None:
            pictures, views = self._plain(drawn), self.unseen_views[indices]
            if views.any():
                keys = image_keys(TEST_SEED, 0, indices[views])
                pictures[views] = self._augmented(drawn[views], keys, TEST_STRENGTH)
            return pictures
        strength = self.options.augmentation
        return self._plain(drawn) if keys is None or not strength else self._augmented(drawn, keys, strength)

    def _plain(self, drawn: Tensor) -> Tensor:
        grid = F.affine_grid(torch.eye(2, 3).expand(len(drawn), 2, 3), self._shape(drawn), False)
        return F.grid_sample(drawn, grid, align_corners=False)

    def _augmented(self, drawn: Tensor, keys: Tensor, strength: float) -> Tensor:
        u = keyed_uniforms(keys, 8) * 2 - 1
        turn = u[:, 0] * math.radians(10) * strength
        scale_x, scale_y = 1 + 0.15 * strength * u[:, 1], 1 + 0.15 * strength * u[:, 2]
        shear = 0.15 * strength * u[:, 3]
        shift = u[:, 4:6] * strength * 2 / 16  # 2 of 32 pixels; the grid spans -1..1
        cos, sin = turn.cos(), turn.sin()
        rows = [cos * scale_x, (shear - sin) * scale_y, sin * scale_x, cos * scale_y]
        theta = torch.cat([torch.stack(rows, 1).view(-1, 2, 2), shift.unsqueeze(2)], 2)
        grid = F.affine_grid(theta, self._shape(drawn), False)
        pictures = F.grid_sample(drawn, grid, align_corners=False)
        ink = 1 - 0.2 * strength * (u[:, 6] + 1)  # from full contrast down to 0.6 of it
        paper = 0.1 * strength * (u[:, 7] + 1)
        return (pictures * ink.view(-1, 1, 1, 1) + paper.view(-1, 1, 1, 1)).clamp(0, 1)

    def _shape(self, drawn: Tensor) -> list[int]:
        return [len(drawn), 1, self.size, self.size]
