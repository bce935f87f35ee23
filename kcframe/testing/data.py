"""The suite of data plugins."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from kcframe.engine.data.batches import BatchPlan, load_batches
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.interfaces.data import DataSource, ImageSet
from kcframe.interfaces.toolkit.randomness import image_keys
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.taxonomy import Taxonomy
from kcframe.testing.expect import expect, expect_same, fail
from kcframe.testing.steps import few_steps
from kcframe.testing.suite import PluginSuite

SPLITS = ("train", "test")
FEW = 8  # pictures that are loaded where any will do
COMPARED = 500  # pictures a split that are compared with the other's
LISTED = 20_000  # images whose labels are read


class DataSuite(PluginSuite):
    """Subclass it, name your data plugin, and give it options with which a small set of pictures is there.

    A large set is looked at in part, so that the checks take seconds.
    """

    kind: ClassVar[str] = "data"

    may_look_alike = 0.0
    """The share of test pictures that may be equal to a training picture (drawings of the same sign, say)
    without being the same picture."""

    def make(self) -> DataSource:
        return self.construct()

    @cached_property
    def source(self) -> DataSource:
        """The source that this check looks at."""
        return self.make()

    @property
    def splits(self) -> Iterator[tuple[str, ImageSet]]:
        for name in SPLITS:
            yield name, self.source.split(name)

    # -- what it says ------------------------------------------------------------------------------

    def test_pictures_have_a_size(self):
        for what in ("channels", "image_size"):
            value = getattr(self.source, what, None)
            expect(isinstance(value, int) and value >= 1, f"{what} is {value!r}: set it, to 1 or more")

    def test_pictures_from_elsewhere_become_as_large(self):
        source = self.source
        transform = source.transform
        if transform is None:
            return
        expect(isinstance(transform, Transform), f"transform is a {type(transform).__name__}: use Transform")
        have, want = (transform.channels, transform.image_size), (source.channels, source.image_size)
        expect(have == want, f"transform has (channels, image_size) {have}, the source {want}")

    def test_a_taxonomy_comes_with_it(self):
        taxonomy = self.source.taxonomy
        expect(isinstance(taxonomy, Taxonomy), f"taxonomy is a {type(taxonomy).__name__}: use Taxonomy.build")
        expect(self.make().taxonomy == taxonomy, "two sources with the same options have other taxonomies")

    def test_labels_are_classes_with_their_ancestors(self):
        taxonomy = self.source.taxonomy
        for split, images in self.splits:
            labels = images.labels
            expect(len(labels) > 0, f"the {split} split has no images")
            for what, dtype in (("offsets", torch.int64), ("classes", torch.int32)):
                actual = getattr(labels, what).dtype
                expect(
                    actual == dtype, f"{split}: labels.{what} is {actual}, not {dtype}: use Labels.from_lists"
                )
            if (values := labels.values) is not None:
                fits = len(values) == len(labels.classes) and bool(((values > 0) & (values <= 1)).all())
                expect(fits, f"{split}: labels.values should be one for each of classes, above 0 and up to 1")
            for index in _some(len(labels), LISTED):
                classes = labels.of(index)
                where = f"{split}: {images.name(index)}: labels {classes}"
                inside = all(0 <= c < taxonomy.num_classes for c in classes)
                expect(inside, f"{where}: classes are numbered 0 to {taxonomy.num_classes - 1}")
                whole = list(taxonomy.with_ancestors(classes))
                expect(classes == whole, f"{where} should be {whole} (taxonomy.with_ancestors)")

    def test_every_vertical_has_images_to_learn_from(self):
        labels, taxonomy = self.source.split("train").labels, self.source.taxonomy
        seen = torch.bincount(labels.classes.long(), minlength=taxonomy.num_classes)
        for vertical, name in enumerate(taxonomy.verticals):
            classes = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
            expect(bool(seen[classes].any()), f"the train split has no image of vertical '{name}'")

    def test_images_have_names_and_groups(self):
        for split, images in self.splits:
            for index in _some(len(images), FEW):
                name = images.name(index)
                expect(isinstance(name, str) and name != "", f"{split}: name({index}) gives {name!r}")
            groups = images.groups
            if groups is not None:
                good = groups.dtype == torch.int64 and groups.shape == (len(images),)
                expect(good, f"{split}: groups is {groups.dtype} {list(groups.shape)}, not int64 [n]")

    def test_its_facts_can_be_written_down(self):
        try:
            json.dumps(self.source.describe(), allow_nan=False)
        except (TypeError, ValueError) as error:
            fail(f"describe() goes into data.json, but is no JSON: {error}")

    # -- pictures ----------------------------------------------------------------------------------

    def test_pictures_are_what_they_should_be(self):
        source = self.source
        size = (source.channels, source.image_size, source.image_size)
        for split, images in self.splits:
            indices = torch.tensor(_some(len(images), FEW))
            for some in (indices, indices[:1]):
                for keys in (None, image_keys(0, 0, some)):
                    given = images.load(some, keys)
                    expect(
                        given.dtype == torch.float32 and given.shape == (len(some), *size),
                        f"{split}: load() gives {given.dtype} {list(given.shape)} for {len(some)} pictures, "
                        f"not float32 {[len(some), *size]}",
                    )
                    inside = bool(((given >= 0) & (given <= 1)).all())
                    expect(
                        inside, f"{split}: pixels go from {given.min():.3g} to {given.max():.3g}, not 0..1"
                    )

    def test_a_picture_is_a_function_of_its_key(self):
        for split, images in self.splits:
            indices = torch.tensor(_some(len(images), FEW))
            for keys in (None, image_keys(0, 0, indices)):
                self._expect_function(split, images, indices, keys)

    def _expect_function(self, split: str, images: ImageSet, indices: Tensor, keys: Tensor | None) -> None:
        how = "without augmentation" if keys is None else "with the same key"
        _seed_everything(1)
        before = torch.get_rng_state()
        first = images.load(indices, keys)
        expect(
            torch.equal(torch.get_rng_state(), before),
            f"{split}: load() draws from torch's generator: what is random may come from the key alone "
            "(kcframe.interfaces.toolkit.randomness.keyed_uniforms)",
        )
        _seed_everything(2)
        again = images.load(indices, keys)
        expect_same(again, first, f"{split}: the same picture {how} is not the same the second time")
        alone = images.load(indices[:1], None if keys is None else keys[:1])
        back = images.load(indices.flip(0), None if keys is None else keys.flip(0)).flip(0)
        for other, wanted, what in ((alone, first[:1], "others of"), (back, first, "order of")):
            expect(
                torch.allclose(other, wanted, atol=1e-5),
                f"{split}: a picture {how} depends on the {what} its batch",
            )

    def test_every_worker_has_the_same(self):
        other = self.make()
        for split, images in self.splits:
            twin = other.split(split)
            expect_same(
                [twin.labels.offsets, twin.labels.classes],
                [images.labels.offsets, images.labels.classes],
                f"{split}: a source that is built anew, as each worker does, has other labels or order",
            )
            indices = torch.tensor(_some(len(images), FEW))
            keys = image_keys(0, 0, indices)
            expect_same(
                twin.load(indices, keys), images.load(indices, keys), f"{split}: it has other pictures, too"
            )

    def test_processes_that_load_ahead_change_nothing(self):
        images = self.source.split("train")
        few = torch.tensor(_some(len(images), FEW))
        plan = BatchPlan(Split.whole(images), Sampler(few, 4, 0), 0)
        here, ahead = (list(load_batches(plan, range(3), processes)) for processes in (0, 1))
        for one, other in zip(here, ahead, strict=True):
            expect_same(
                other.images,
                one.images,
                "execution.loader_workers changes pictures: is something open or drawn before the fork?",
            )

    # -- the test split ----------------------------------------------------------------------------

    def test_training_images_do_not_depend_on_the_test_split(self):
        one, other = self.make(), self.make()
        train = one.split("train")
        other.split("test").load(torch.tensor([0]), None)
        after = other.split("train")
        message = "the train split differs once the test split was read"
        expect_same(
            [after.labels.offsets, after.labels.classes],
            [train.labels.offsets, train.labels.classes],
            message,
        )
        few = torch.tensor(_some(len(train), FEW))
        expect_same(after.load(few, None), train.load(few, None), message)

    def test_no_picture_is_in_both_splits(self):
        train, test = (self.source.split(name) for name in SPLITS)
        if type(train).name is not ImageSet.name:
            named = {train.name(i) for i in _some(len(train), LISTED)}
            both = [name for i in _some(len(test), LISTED) if (name := test.name(i)) in named]
            expect(not both, f"'{both[0] if both else ''}' is in the train split and in the test split")
        known = {_digest(picture): index for index, picture in _pictures(train)}
        leaked = [
            (index, known[key]) for index, picture in _pictures(test) if (key := _digest(picture)) in known
        ]
        looked_at = min(len(test), COMPARED)
        if len(leaked) > self.may_look_alike * looked_at:
            index, twin = leaked[0]
            fail(
                f"{len(leaked)} of {looked_at} test pictures are training pictures, to the bit: "
                f"{test.name(index)} is {train.name(twin)}. If they are two that look alike, set "
                "may_look_alike"
            )

    def test_a_student_learns_from_it(self):
        source = self.source
        few_steps(source.taxonomy, source.channels, source.split("train"), source.split("test"), None)


def _some(total: int, most: int) -> list[int]:
    """At most `most` indices, spread evenly over all."""
    return torch.linspace(0, total - 1, min(total, most)).round().long().tolist() if total else []


def _pictures(images: ImageSet) -> Iterator[tuple[int, Tensor]]:
    for part in torch.tensor(_some(len(images), COMPARED)).split(50):
        yield from zip(part.tolist(), images.load(part, None), strict=True)


def _digest(picture: Tensor) -> bytes:
    return picture.numpy().tobytes()


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
