"""The glyph source: its classes, its split, its folder, and that a picture depends on its key alone."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from kcframe.builtin.sources.glyphs.characters import build_taxonomy
from kcframe.builtin.sources.glyphs.fonts import draw, find_faces
from kcframe.builtin.sources.glyphs.options import GlyphsOptions
from kcframe.builtin.sources.glyphs.source import Glyphs
from kcframe.builtin.sources.synthetic import Synthetic
from kcframe.builtin.sources.synthetic_options import SyntheticOptions
from kcframe.engine.data.holdout import held_out
from kcframe.errors import DataError
from kcframe.interfaces.toolkit.randomness import image_keys, keyed_uniforms

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
        (
            {"verticals": {"X": {"blocks": ["Cuneiform"]}}},
            "vertical 'X' has no character with 2 training faces and",
        ),
    ],
)
def test_options_that_cannot_be_met_are_named(changes, message):
    with pytest.raises(DataError, match=message):
        _ = Glyphs(options(**changes)).taxonomy


# -- one drawing of each character held out --------------------------------------------------------

DRAWINGS = {
    "fonts": ("matplotlib:DejaVuSans.ttf", "matplotlib:DejaVuSansMono.ttf", "matplotlib:DejaVuSerif*.ttf"),
    "held_out": "drawings",
    "test_faces": (),
    "min_train_faces": 1,
    "augmentation": 0.0,
    "verticals": {
        "Latin": {"codes": ["0041-005A", "00e9"]},
        "Greek": {"scripts": ["Grek"]},
        "Tifinagh": {"scripts": ["Tfng"]},  # in DejaVu Sans alone
    },
}


@pytest.fixture(scope="module")
def drawn():
    return Glyphs(options(**DRAWINGS))


def looks(images):
    """(character, its picture without augmentation) of each image."""
    pictures = images._plain(torch.from_numpy(images.pixels[images.rows.drawings])[:, None].float() / 255)
    return [
        (int(code), each.numpy().tobytes()) for code, each in zip(images.rows.codes, pictures, strict=True)
    ]


def test_of_each_character_one_drawing_is_held_out_if_it_has_two(drawn):
    train, test = looks(drawn.split("train")), looks(drawn.split("test"))
    views = set(drawn._drawn[0].views)
    assert {code for code, _ in train} == {code for code, _ in test}
    assert len(set(train)) == len(train)  # no drawing twice
    for code in {code for code, _ in train}:
        learned = [look for each, look in train if each == code]
        tested = [look for each, look in test if each == code]
        if code in views:
            assert learned == tested
            assert len(learned) == 1
        else:
            assert len(tested) == 1
            assert tested[0] not in learned
    assert {code for code in views if code > 0x2D00} == {code for code, _ in test if code > 0x2D00}
    assert len(views) < len(test) / 2


def test_no_two_characters_share_a_drawing(drawn):
    owner = {}
    for split in ("train", "test"):
        for code, look in looks(drawn.split(split)):
            assert owner.setdefault(look, code) == code
    counts = drawn.describe()
    assert counts["drawings: the same as another character's"] > 10  # Α and A
    assert counts["no drawing of their own"] > 5
    assert "Α U+0391" not in drawn.taxonomy.classes
    assert counts["characters"] == len({*drawn.split("train").rows.codes.tolist()})


def test_which_is_held_out_differs_from_character_to_character(drawn):
    test = drawn.split("test")
    faces = [test.name(i).partition(" in ")[2] for i in range(len(test)) if not test.unseen_views[i]]
    assert len(set(faces)) > 3


def test_views_are_told_apart_and_are_no_pictures_that_training_sees(drawn):
    test, plan = drawn.split("test"), drawn._drawn[0]
    told = test.told_apart
    assert set(told) == {"unseen drawings", "unseen views"}
    assert torch.equal(told["unseen views"], ~told["unseen drawings"])
    assert [c in plan.views for c in test.rows.codes.tolist()] == told["unseen views"].tolist()
    indices = torch.arange(len(test))
    pictures = test.load(indices, None)
    assert torch.equal(pictures, test.load(indices, None))
    changed = pictures != test._plain(
        torch.from_numpy(test.pixels[test.rows.drawings])[:, None].float() / 255
    )
    assert torch.equal(changed.flatten(1).any(1), told["unseen views"])
    assert drawn.split("train").told_apart == {}


def test_a_font_s_box_for_what_it_lacks_is_no_drawing(tmp_path):
    from fontTools.ttLib import TTFont

    path = find_faces(["matplotlib:DejaVuSans.ttf"])["DejaVuSans"].path
    font = TTFont(path)
    font["glyf"]["B"], font["hmtx"]["B"] = font["glyf"][".notdef"], font["hmtx"][".notdef"]
    font.save(tmp_path / "Boxed.ttf")
    given = {"fonts": (str(tmp_path / "Boxed.ttf"),), "verticals": {"x": {"codes": ["0041-0045"]}}}
    source = Glyphs(options(**DRAWINGS | given))
    assert [name[0] for name in source.taxonomy.classes] == list("ACDE")
    assert source.describe()["drawings: the box of a missing character"] == 1


def test_a_character_must_be_in_enough_files():
    few = {"verticals": {"Math": {"blocks": ["Mathematical Operators"]}}, "max_classes": None}
    every = Glyphs(options(**DRAWINGS | few)).describe()["characters"]
    some = Glyphs(options(**DRAWINGS | few | {"min_files": 5})).describe()["characters"]
    assert 0 < some < every


def named(source, split):
    """(character, face) -> drawing, of all of a split's."""
    images = source.split(split)
    pixels = images.pixels[images.rows.drawings]
    return {tuple(images.name(i).split(" in ")): drawing for i, drawing in enumerate(pixels)}


def test_drawings_of_the_first_fonts_are_taken():
    given = DRAWINGS | {"max_classes": 10, "verticals": {"Latin": {"codes": ["0041-0051"]}}}
    every, least = Glyphs(options(**given)), Glyphs(options(**given | {"max_drawings": 3}))
    order = list(find_faces(DRAWINGS["fonts"]))
    for character in every.taxonomy.classes[:10]:
        has = {face for split in ("train", "test") for name, face in named(every, split) if name == character}
        kept = {
            face for split in ("train", "test") for name, face in named(least, split) if name == character
        }
        assert kept == set(sorted(has, key=order.index)[:3])


def test_a_character_owns_the_drawings_beyond_max_drawings_too():
    """DejaVu draws Α as A in most faces: with two of A's drawings kept, Α must get none of the others."""
    given = {
        "verticals": {"Alike": {"codes": ["0041-005A", "0391-03A9", "0410-042F"]}},
        "max_classes": None,
        "max_drawings": 2,
        "min_difference": 0.0,
    }
    source = Glyphs(options(**DRAWINGS | given))
    faces = {name: face.at(source.canvas, basic=True) for name, face in find_faces(DRAWINGS["fonts"]).items()}
    capital = {draw(face, ord("A"), source.canvas).tobytes() for face in faces.values()}
    alpha = {draw(face, 0x391, source.canvas).tobytes() for face in faces.values()}
    assert len(capital & alpha) > 2
    kept = named(source, "train") | named(source, "test")
    assert not any(drawing.tobytes() in capital for (name, _), drawing in kept.items() if name[0] == "Α")
    looks = [drawing.tobytes() for drawing in kept.values()]
    assert len({(look, name) for look, (name, _) in zip(looks, kept, strict=True)}) == len(set(looks))


def test_what_is_rejected_owns_nothing(tmp_path):
    """A, which only one font has and which is left out for that, does not keep its drawing from Α."""
    from fontTools.ttLib import TTFont

    sans, bold = find_faces(["matplotlib:DejaVuSans.ttf", "matplotlib:DejaVuSans-Bold.ttf"]).values()
    font = TTFont(bold.path)
    for table in font["cmap"].tables:
        table.cmap.pop(ord("A"), None)
    font.save(tmp_path / "WithoutA.ttf")
    alike = {"fonts": (str(sans.path), str(tmp_path / "WithoutA.ttf")), "min_train_faces": 2}
    given = options(**DRAWINGS | alike | {"verticals": {"x": {"codes": ["0041", "0391"]}}}, parents=False)
    assert Glyphs(given).taxonomy.classes == ("Α U+0391",)
    with pytest.raises(DataError, match="'x' has no character with drawings of its own, 3 or more, in the"):
        _ = Glyphs(given.model_copy(update={"min_train_faces": 3})).taxonomy


def test_drawings_that_are_nearly_alike_are_one():
    given = {"max_classes": None, "verticals": {"Latin": {"blocks": ["Basic Latin", "Latin-1 Supplement"]}}}
    every = Glyphs(options(**DRAWINGS | given | {"min_difference": 0.0}))
    apart = Glyphs(options(**DRAWINGS | given | {"min_difference": 0.3}))
    said = "drawings: nearly the same as another face's"
    assert said not in every.describe()
    assert apart.describe()[said] > 10

    def least(source):
        kept = named(source, "train") | named(source, "test")
        found = []
        for (name, face), drawing in kept.items():
            for (other, another), second in kept.items():
                if name == other and face < another:
                    larger = max(drawing.astype(float).sum(), second.astype(float).sum())
                    found.append(np.abs(drawing.astype(float) - second.astype(float)).sum() / larger)
        return min(found)

    assert least(every) < 0.3 <= least(apart)


def test_a_validation_cut_leaves_every_class_a_drawing(drawn):
    train = drawn.split("train")
    every = set(train.labels.classes.tolist())

    def left(labels):
        held = held_out(train.groups, len(train), 0.3, 0, labels)
        assert 0.3 * len(train) <= held.sum() < 0.35 * len(train)
        return set(train.labels.take((~held).nonzero().flatten()).classes.tolist())

    assert left(None) < every
    assert left(train.labels) == every


def test_mixed_classes_come_from_all_over_the_vertical():
    given = DRAWINGS | {"max_classes": 10, "verticals": {"Latin": {"codes": ["0041-024F"]}}}
    codes = Glyphs(options(**given | {"which": "mixed"}))._drawn[0].verticals["Latin"]
    assert len(codes) == 10
    assert codes == sorted(codes)
    assert max(codes) > 0x180
    assert max(Glyphs(options(**given))._drawn[0].verticals["Latin"]) < 0x50


# -- fonts ----------------------------------------------------------------------------------------


def test_faces_of_a_collection(tmp_path):
    from fontTools.ttLib import TTCollection, TTFont

    faces = find_faces(["matplotlib:DejaVuSans.ttf", "matplotlib:DejaVuSerif.ttf"])
    collection = TTCollection()
    collection.fonts = [TTFont(face.path) for face in faces.values()]
    collection.save(tmp_path / "both.ttc")
    found = find_faces([str(tmp_path / "*.ttc")])
    assert list(found) == ["both#0", "both#1"]
    for face, single in zip(found.values(), faces.values(), strict=True):
        assert face.characters == single.characters
        assert np.array_equal(draw(face.at(32), ord("g"), 32), draw(single.at(32), ord("g"), 32))
    assert list(find_faces([str(tmp_path / "both.ttc#1")])) == ["both#1"]
    with pytest.raises(DataError, match="both.ttc: it has 2 faces, from #0 on: no #2"):
        find_faces([str(tmp_path / "both.ttc#2")])


def test_fonts_by_any_name_and_in_the_order_of_names(tmp_path):
    path = find_faces(["matplotlib:DejaVuSans.ttf"])["DejaVuSans"].path
    for name in ("z/A.ttf", "a/B.ttf", "a/Sans Display[wght].ttf"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(path.read_bytes())
    assert list(find_faces([str(tmp_path / "?/?.ttf")])) == ["A", "B"]
    assert list(find_faces([str(tmp_path / "a/Sans Display[wght].ttf")])) == ["Sans Display[wght]"]
    assert list(find_faces([str(tmp_path / "a/Sans*")])) == ["Sans Display[wght]"]


def test_fonts_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = find_faces(["matplotlib:DejaVuSans.ttf"])["DejaVuSans"].path
    (tmp_path / "Mine.ttf").write_bytes(path.read_bytes())
    assert list(find_faces(["~/Mi*.ttf"])) == ["Mine"]


@pytest.mark.skipif(shutil.which("fc-list") is None, reason="fc-list is not installed")
def test_faces_that_fontconfig_knows():
    listed = subprocess.run(["fc-list", "-f", "%{file}\n"], capture_output=True, text=True, check=True)
    files = {Path(line).stem for line in listed.stdout.split() if line.endswith(".ttf")}
    if not files:
        pytest.skip("fontconfig knows no TrueType font")
    assert {face.path.stem for face in find_faces(["fontconfig:"]).values()} >= files
    with pytest.raises(DataError, match="no font file matches 'fontconfig:No Such Family'"):
        find_faces(["fontconfig:No Such Family"])


def test_what_is_wrong_with_fonts_is_said(tmp_path, monkeypatch):
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    (tmp_path / "broken.ttc").write_bytes(b"no font")
    with pytest.raises(DataError, match=r"broken.ttf: no font that can be read"):
        Glyphs(options(fonts=(str(tmp_path / "broken.ttf"),), test_faces=("broken",))).taxonomy  # noqa: B018
    with pytest.raises(DataError, match=r"broken.ttc: no font that can be read"):
        find_faces([str(tmp_path / "broken.ttc")])
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.ttf").write_bytes(folder.encode())
    with pytest.raises(DataError, match=r"a/same.ttf and .*b/same.ttf have one name"):
        find_faces([str(tmp_path / "?/same.ttf")])
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="asks fc-list, which is not installed"):
        find_faces(["fontconfig:x"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"test_faces": ()}, "test_faces: names at least one face"),
        ({"held_out": "drawings"}, "holds out no face"),
        ({"held_out": "drawings", "test_faces": (), "identical": "merge"}, "merge needs held_out: faces"),
        ({"max_drawings": 2}, "max_drawings: needs held_out: drawings"),
        (
            {"held_out": "drawings", "test_faces": (), "max_drawings": 2, "min_train_faces": 2},
            "max_drawings: one more than min_train_faces",
        ),
        ({"verticals": {"x": {"codes": ["0050-0040"]}}}, "0050-0040 ends before it begins"),
        ({"verticals": {"x": {"codes": ["A-B"]}}}, "should match pattern"),
        ({"verticals": {"x": {}}}, "at least one of blocks, scripts or codes"),
    ],
)
def test_options_that_contradict_each_other(changes, said):
    with pytest.raises(ValidationError, match=said):
        options(**changes)


# -- parents ---------------------------------------------------------------------------------------


def test_radicals_of_ideographs_and_first_letters_of_syllables():
    """As the Unihan database has them (kRSUnicode): 人 9.0, 們 9.8, 水 85.0, 河 85.5, 龥 214.9."""
    members = {"Han": [0x4EBA, 0x5011, 0x6C34, 0x6CB3, 0x9FA5], "Hangul": [0xAC00, 0xAC01, 0xB098, 0xB099]}
    taxonomy = build_taxonomy(members, True)
    names = [taxonomy.classes[p] for p in taxonomy.with_ancestors([taxonomy.class_id("們 U+5011")])]
    assert "Han: radical 9 人" in names
    river = [taxonomy.classes[p] for p in taxonomy.with_ancestors([taxonomy.class_id("河 U+6CB3")])]
    assert "Han: radical 85 水" in river
    assert not any("214" in name for name in taxonomy.classes)  # of one character: no class of its own
    assert {"Hangul: syllables with ᄀ", "Hangul: syllables with ᄂ"} <= set(taxonomy.classes)


# -- a folder of drawings -------------------------------------------------------------------------


def same(one, other):
    assert one.taxonomy == other.taxonomy
    for split in ("train", "test"):
        a, b = one.split(split), other.split(split)
        indices = torch.arange(len(a))
        keys = image_keys(0, 1, indices)
        assert torch.equal(a.load(indices, keys), b.load(indices, keys))
        assert torch.equal(a.load(indices, None), b.load(indices, None))
        assert torch.equal(a.labels.classes, b.labels.classes)
        assert torch.equal(a.groups, b.groups)
        assert [a.name(i) for i in range(0, len(a), 50)] == [b.name(i) for i in range(0, len(a), 50)]
        assert a.told_apart.keys() == b.told_apart.keys()
    assert one.describe() == other.describe()


def test_a_file_of_somebody_elses_is_never_drawn_over(tmp_path):
    (tmp_path / "drawings.npy").write_bytes(b"mine")
    with pytest.raises(DataError, match="drawings.npy without manifest.json.*move it away"):
        _ = Glyphs(options(drawings=str(tmp_path))).taxonomy
    assert (tmp_path / "drawings.npy").read_bytes() == b"mine"


@pytest.mark.parametrize("how", [{}, DRAWINGS])
def test_drawings_from_a_folder_are_the_same(tmp_path, how, monkeypatch):
    given = options(**how)
    kept = given.model_copy(update={"drawings": str(tmp_path / "d")})
    same(Glyphs(given), Glyphs(kept))
    # Another machine: without fonts.
    monkeypatch.setattr(
        "kcframe.builtin.sources.glyphs.drawings.find_faces", lambda _: pytest.fail("drawn again")
    )
    same(Glyphs(kept), Glyphs(kept.model_copy(update={"views": 1})))
    images = pickle.loads(pickle.dumps(Glyphs(kept).split("train")))
    assert isinstance(images.pixels, np.memmap)
    assert len(pickle.dumps(images)) < images.pixels.nbytes
    about = json.loads((tmp_path / "d/manifest.json").read_text())
    assert (
        about["drawings"]["sha256"] == hashlib.sha256((tmp_path / "d/drawings.npy").read_bytes()).hexdigest()
    )


def test_a_folder_of_other_drawings_or_a_damaged_one_is_refused(tmp_path):
    folder = tmp_path / "d"
    kept = options(drawings=str(folder))
    _ = Glyphs(kept).taxonomy
    with pytest.raises(
        DataError, match="was drawn with another data.options.max_classes: name another folder"
    ):
        _ = Glyphs(kept.model_copy(update={"max_classes": 50})).taxonomy
    manifest = (folder / "manifest.json").read_text()
    for text, said in (
        (manifest.replace('"Latin": "', '"Latin": "x'), "was changed after it was written"),
        (manifest[:-10], "damaged .*remove drawings.npy and manifest.json there"),
        ("{}", "damaged"),
        (manifest.replace('"kcframe_glyphs": 2', '"kcframe_glyphs": 0'), "of another version of kcframe"),
    ):
        (folder / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=said):
            _ = Glyphs(kept).taxonomy
    (folder / "manifest.json").write_text(manifest)
    pixels = np.load(folder / "drawings.npy")
    for other in (pixels[:3], np.roll(pixels, 1, 0)):
        np.save(folder / "drawings.npy", other)
        with pytest.raises(DataError, match="drawings.npy: its SHA-256 is not what manifest.json says"):
            _ = Glyphs(kept).taxonomy


def test_the_order_of_verticals_is_that_of_the_folder(tmp_path):
    kept = options(drawings=str(tmp_path))
    _ = Glyphs(kept).taxonomy
    turned = kept.model_copy(update={"verticals": dict(reversed(kept.verticals.items()))})
    with pytest.raises(DataError, match="drawn with another data.options.verticals"):
        _ = Glyphs(turned).taxonomy


def test_a_drawer_that_was_killed_leaves_nothing_behind(tmp_path):
    (tmp_path / ".drawings.npy.0123.part").write_bytes(b"half")
    _ = Glyphs(options(drawings=str(tmp_path))).taxonomy
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "drawings.npy", "manifest.json"]
    about = json.loads((tmp_path / "manifest.json").read_text())
    assert set(about["made_with"]) == {"kcframe", "pillow", "freetype", "fonttools"}


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.options.drawings: .*file/d: Not a directory"):
        _ = Glyphs(options(drawings=str(tmp_path / "file/d"))).taxonomy


def test_the_checksum_is_of_what_there_is(drawn):
    again = Glyphs(options(**DRAWINGS | {"augmentation": 1.0, "views": 3}))
    assert again.describe()["checksum"] == drawn.describe()["checksum"]
    other = Glyphs(options(**DRAWINGS | {"max_classes": 59}))
    assert other.describe()["checksum"] != drawn.describe()["checksum"]


# -- made-up classes ----


@pytest.mark.parametrize(("verticals", "classes"), [(1, 1), (4, 40), (20, 100_000), (7, 7)])
def test_synthetic_sizes_add_up(verticals, classes):
    sizes = SyntheticOptions(verticals=verticals, classes=classes).sizes
    assert sum(sizes) == classes
    assert len(sizes) == verticals
    assert min(sizes) >= 1
