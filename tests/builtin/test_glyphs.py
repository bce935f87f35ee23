"""The glyph source: its classes, its split, and that a picture depends on its key alone."""

from __future__ import annotations

import pytest
import torch

from kcframe.builtin.data.glyphs import Glyphs
from kcframe.builtin.data.options import GlyphsOptions
from kcframe.builtin.data.synthetic import Synthetic, SyntheticOptions
from kcframe.errors import DataError
from kcframe.interfaces.randomness import image_keys, keyed_uniforms

HELD_OUT = "DejaVuSerif"


def options(**changes) -> GlyphsOptions:
    given = {
        "fonts": (
            "matplotlib:DejaVuSans.ttf",
            "matplotlib:DejaVuSans-Bold.ttf",
            "matplotlib:DejaVuSerif.ttf",
        ),
        "test_faces": (HELD_OUT,),
        "verticals": {
            "Latin": {"blocks": ["Basic Latin", "Latin-1 Supplement"]},
            "Greek": {"scripts": ["Grek"]},
        },
        "max_classes": 60,
        "image_size": 16,
    }
    return GlyphsOptions.model_validate(given | changes)


@pytest.fixture(scope="module")
def glyphs():
    return Glyphs(options())


def test_no_test_picture_comes_from_a_face_that_is_trained_on(glyphs):
    train, test = glyphs.split("train"), glyphs.split("test")
    assert all(test.name(i).endswith(f" in {HELD_OUT}") for i in range(len(test)))
    assert not any(train.name(i).endswith(f" in {HELD_OUT}") for i in range(len(train)))
    assert len(test) <= len(train) / 2


def test_no_test_drawing_is_one_that_some_training_face_has_too():
    """DejaVu's faces share their arrows, and most of their signs, to the pixel."""
    shared = {"Arrows": {"blocks": ["Arrows"]}, "Signs": {"blocks": ["Letterlike Symbols"]}}
    faces = ("matplotlib:DejaVuSans*.ttf", "matplotlib:DejaVuSerif*.ttf")
    given = options(fonts=faces, verticals=shared, test_faces=("DejaVuSerif", "DejaVuSansMono"))
    source = Glyphs(given.model_copy(update={"augmentation": 0.0}))
    train, test = source.split("train"), source.split("test")

    def looks(images):
        drawn = images.load(torch.arange(len(images)), None)
        names = [images.name(i).partition(" in ")[0] for i in range(len(images))]
        return {(name, picture.numpy().tobytes()) for name, picture in zip(names, drawn, strict=True)}

    assert not looks(train) & looks(test)
    assert source.describe()["drawn alike by all test faces and a training face"] > 50
    assert source.describe()["test drawings left out, a training face has them"] > 0
    assert test.labels.classes.unique().tolist() == list(range(source.taxonomy.num_classes))


def test_every_class_has_pictures_in_both_splits(glyphs):
    for name in ("train", "test"):
        assert glyphs.split(name).labels.classes.unique().tolist() == list(range(glyphs.taxonomy.num_classes))


def test_labels_are_hierarchical(glyphs):
    taxonomy, train = glyphs.taxonomy, glyphs.split("train")
    index = next(i for i in range(len(train)) if train.name(i).startswith("A "))
    names = [taxonomy.classes[c] for c in train.labels.of(index)]
    assert names == ["A U+0041", "Latin: Basic Latin", "Latin: capital letters"] or set(names) == {
        "A U+0041",
        "Latin: capital letters",
    }
    assert not taxonomy.is_leaf[taxonomy.class_id("Latin: capital letters")]


def test_characters_drawn_alike_are_dropped_or_merged(glyphs):
    assert "Α U+0391" not in glyphs.taxonomy.classes  # Greek Alpha looks like A
    assert glyphs.describe()["identical, dropped"] > 0
    merged = Glyphs(options(identical="merge", parents=False)).taxonomy
    assert [v for v, _ in merged.locate(merged.class_id("A U+0041"))] == [0, 1]


def test_characters_that_are_only_for_layout_are_no_classes():
    marks = {"Marks": {"blocks": ["General Punctuation"]}}
    names = Glyphs(options(verticals=marks, parents=False)).taxonomy.classes
    assert "† U+2020" in names
    assert not any(name.endswith(("U+200D", "U+2028", "U+202A")) for name in names)


def test_blanks_are_no_classes(glyphs):
    assert not any(name.endswith(("U+0020", "U+00A0")) for name in glyphs.taxonomy.classes)


@pytest.mark.parametrize("source", ["glyphs", "synthetic"])
def test_a_picture_depends_on_its_key_and_not_on_its_batch(glyphs, source):
    images = (
        glyphs.split("train")
        if source == "glyphs"
        else Synthetic(SyntheticOptions(labels_per_image=2)).split("train")
    )
    indices = torch.tensor([5, 17, 3])
    together = images.load(indices, image_keys(0, 1, indices))
    for place, index in enumerate(indices):
        alone = images.load(index[None], image_keys(0, 1, index[None]))
        torch.testing.assert_close(alone[0], together[place], rtol=0, atol=1e-6)
    other_epoch = images.load(indices, image_keys(0, 2, indices))
    assert not torch.equal(other_epoch, together)
    assert together.dtype == torch.float32
    assert 0 <= together.min() <= together.max() <= 1
    assert torch.equal(images.load(indices, None), images.load(indices, None))


def test_views_are_different_pictures_of_one_drawing():
    images = Glyphs(options(views=2)).split("train")
    pair = torch.tensor([0, len(images) // 2])
    assert images.name(int(pair[0])) == images.name(int(pair[1]))
    first, second = images.load(pair, image_keys(0, 0, pair))
    assert not torch.equal(first, second)


def test_keyed_uniforms_are_uniform_and_uncorrelated():
    drawn = keyed_uniforms(image_keys(3, 0, torch.arange(20_000)), 4)
    torch.testing.assert_close(drawn.mean(0), torch.full((4,), 0.5), atol=0.01, rtol=0)
    torch.testing.assert_close(drawn.var(0), torch.full((4,), 1 / 12), atol=0.005, rtol=0)
    assert (drawn.T.corrcoef() - torch.eye(4)).abs().max() < 0.03


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_faces": ("DejaVuSerf",)}, "no face 'DejaVuSerf'; did you mean 'DejaVuSerif'"),
        ({"fonts": ("/nowhere/*.ttf",)}, "no font file matches '/nowhere"),
        ({"fonts": ("matplotlib:DejaVuSerif.ttf",)}, "every face is held out"),
        ({"verticals": {"X": {"blocks": ["Basic Latn"]}}}, "did you mean 'Basic Latin'"),
        ({"verticals": {"X": {"scripts": ["Greek"]}}}, "no Unicode script 'Greek'; did you mean 'Grek'"),
        ({"verticals": {"X": {"blocks": ["Cuneiform"]}}}, "vertical 'X' has no characters"),
    ],
)
def test_options_that_cannot_be_met_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        _ = Glyphs(options(**changes)).taxonomy


@pytest.mark.parametrize(("verticals", "classes"), [(1, 1), (4, 40), (20, 100_000), (7, 7)])
def test_synthetic_sizes_add_up(verticals, classes):
    sizes = SyntheticOptions(verticals=verticals, classes=classes).sizes
    assert sum(sizes) == classes
    assert len(sizes) == verticals
    assert min(sizes) >= 1
