"""Folders of pictures, with everything that people keep in such folders."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from kcframe.assemble import construct
from kcframe.builtin.data.pictures import RATIO, SCALE, TRIES, decode, random_box
from kcframe.errors import DataError
from kcframe.interfaces.randomness import image_keys
from kcframe.recipe.schema import PluginRef

FORMATS = ["BMP", "GIF", "JPEG", "PNG", "WEBP"]


def picture(size=(40, 30), colour=(200, 30, 60), mode="RGB"):
    return Image.new("RGB", size, colour).convert(mode)


def save(folder, *names, image=None, **options):
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (image or picture()).save(file, **options)


def source(root, **options):
    return construct("data", PluginRef(name="image-folder", options={"root": str(root), **options}))


@pytest.fixture
def folder(tmp_path):
    """Two verticals; 'jaguar' is in both; both splits have every class."""
    for split in ("train", "test"):
        save(
            tmp_path,
            f"{split}/cats/lion/1.png",
            f"{split}/cats/jaguar/1.jpg",
            f"{split}/cars/jaguar/1.png",
            f"{split}/cars/beetle #2/a b.PNG",
        )
    return tmp_path


def test_a_class_in_two_verticals_is_one_class(folder):
    taxonomy = source(folder).taxonomy
    assert set(taxonomy.classes) == {"lion", "jaguar", "beetle #2"}
    assert taxonomy.verticals == ("cars", "cats")
    assert len(taxonomy.locate(taxonomy.classes.index("jaguar"))) == 2
    labels = source(folder).split("train").labels
    assert sorted(taxonomy.classes[labels.of(i)[0]] for i in range(4)) == [
        "beetle #2",
        "jaguar",
        "jaguar",
        "lion",
    ]


def test_what_is_no_picture_is_left_out_and_counted(folder):
    (folder / "train/cats/lion/.hidden.png").write_bytes(b"")
    (folder / "train/cats/.git").mkdir()
    save(folder, "train/cats/.git/x.png")
    (folder / "train/cats/lion/notes.txt").write_text("")
    (folder / "train/cats/lion/README").write_text("")
    (folder / "train/empty/class").mkdir(parents=True)
    (folder / "train/cats/lion/again").symlink_to(folder / "train/cats")
    found = source(folder)
    assert len(found.split("train")) == 4
    assert found.describe()["files left out"] == {".txt": 1, "no ending": 1}
    assert found.taxonomy.verticals == ("cars", "cats")


def test_a_link_to_a_folder_is_followed(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere, "2.png")
    (folder / "train/cats/tiger").symlink_to(elsewhere)
    assert "tiger" in source(folder).taxonomy.classes


def test_pictures_depend_on_their_key_alone(folder):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    save(folder, *(f"train/cats/lion/{n}.png" for n in range(6)), image=noise)
    images = source(folder, image_size=16).split("train")
    every = torch.arange(len(images))
    first, later = image_keys(1, 0, every), image_keys(1, 1, every)
    whole = images.load(every, first)
    assert whole.shape == (len(images), 3, 16, 16)
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() <= whole.max() <= 1
    backwards = images.load(every.flip(0), first.flip(0)).flip(0)
    assert torch.equal(whole, backwards)
    assert torch.equal(source(folder, image_size=16, threads=1).split("train").load(every, first), whole)
    assert not torch.equal(images.load(every, later), whole)
    assert torch.equal(images.load(every, None), images.load(every, None))


def test_half_of_the_pictures_are_mirrored_and_crops_stay_inside(folder):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1)))
    save(folder, *(f"train/cats/lion/{n}.png" for n in range(200)), image=ramp)
    images = source(folder, image_size=8, channels=1).split("train")
    lions = torch.tensor([i for i in range(len(images)) if "lion" in images.name(i)])
    loaded = images.load(lions, image_keys(0, 0, lions))
    mirrored = (loaded[:, 0, :, 0] > loaded[:, 0, :, -1]).float().mean()
    assert 0.4 < mirrored < 0.6
    draws = np.random.default_rng(1).random((500, TRIES, 4))
    for row in draws:
        left, top, right, bottom = random_box((50, 70), row)
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 70
        share = (right - left) * (bottom - top) / (50 * 70)
        assert SCALE[0] - 1e-9 <= share <= SCALE[1] + 1e-9
        assert RATIO[0] - 1e-9 <= (right - left) / (bottom - top) <= RATIO[1] + 1e-9


def as_bytes(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


RED, GREY = (200, 30, 60), (90, 90, 90)
MOVING = {"save_all": True, "append_images": [picture(colour=(0, 255, 0))]}
KINDS = {
    "cmyk": (as_bytes(picture(mode="CMYK"), "JPEG", quality=95), RED, 12),
    "grey": (as_bytes(Image.new("L", (20, 20), 90), "PNG"), GREY, 0),
    "palette": (as_bytes(picture().quantize(4), "PNG"), RED, 2),
    "gif": (as_bytes(picture().quantize(4), "GIF"), RED, 2),
    "animated": (as_bytes(picture().quantize(4), "GIF", **MOVING), RED, 2),
    "alpha": (as_bytes(picture(mode="RGBA"), "PNG"), RED, 0),
    "webp": (as_bytes(picture(), "WEBP", lossless=True), RED, 0),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture(kind):
    data, wanted, tolerance = KINDS[kind]
    found = np.asarray(decode(data, FORMATS, "RGB", 64)).astype(int)
    assert np.abs(found - np.array(wanted)).max() <= tolerance


def test_sixteen_bits_are_scaled_and_transparency_is_white():
    deep = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    assert np.asarray(decode(as_bytes(deep, "PNG"), FORMATS, "L", 8)).tolist() == [[128] * 4] * 4
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode(as_bytes(clear, "PNG"), FORMATS, "RGB", 8)).min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(orientation):
    """Red left half, as the viewer should see it, stored as each EXIF orientation stores it."""
    upright = Image.new("RGB", (40, 20), (0, 0, 255))
    upright.paste((255, 0, 0), (0, 0, 20, 10))
    store = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if store is None else upright.transpose(store)
    found = decode(as_bytes(stored, "PNG", exif=exif), FORMATS, "RGB", 64)
    assert np.array_equal(np.asarray(found), np.asarray(upright))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "zero bytes"),
        (b"\xff\xd8\xff\xe0" + b"\0" * 40, "damaged"),
        (as_bytes(picture((300, 300)), "JPEG")[:400], "cannot be decoded"),
        (b"<!DOCTYPE html><html>404</html>", "it is an HTML page"),
        (b"<svg xmlns='x'/>", "it is XML"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (as_bytes(picture(), "TIFF"), "it is none of"),
    ],
    ids=["empty", "damaged", "truncated", "html", "svg", "lfs", "other format"],
)
def test_what_cannot_be_decoded_is_named(folder, content, says):
    (folder / "train/cats/lion/1.png").write_bytes(content)
    images = source(folder).split("train")
    bad = next(i for i in range(len(images)) if images.name(i).endswith("lion/1.png"))
    with pytest.raises(DataError, match=f"train/cats/lion/1.png: .*{says}"):
        images.load(torch.tensor([bad]), None)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_no_picture_takes_unbounded_memory(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(Exception, match="pixels"):
        decode(as_bytes(Image.new("L", (40, 40)), "PNG"), FORMATS, "L", 8)


CSV = """class,vertical,parents
lion,cats,big cat
jaguar,cats,big cat
jaguar,cars,
beetle #2,cars,
big cat,cats,
"""
JSON = {
    "verticals": {"cats": ["lion", "jaguar", "big cat"], "cars": ["jaguar", "beetle #2"]},
    "parents": {"lion": ["big cat"], "jaguar": ["big cat"]},
}


@pytest.mark.parametrize("kind", ["csv", "json", "ours"])
def test_a_taxonomy_file_gives_verticals_and_parents(folder, kind):
    file = folder / "taxonomy"
    file.write_text(CSV if kind == "csv" else json.dumps(JSON))
    found = source(folder, taxonomy=str(file))
    if kind == "ours":
        file.write_text(found.taxonomy.to_json())
        found = source(folder, taxonomy=str(file))
    taxonomy, labels = found.taxonomy, found.split("train").labels
    assert taxonomy.verticals == ("cats", "cars")
    names = [sorted(taxonomy.classes[c] for c in labels.of(i)) for i in range(4)]
    assert sorted(names) == [["beetle #2"], ["big cat", "jaguar"], ["big cat", "jaguar"], ["big cat", "lion"]]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the first line must be class,vertical"),
        ("class,group\na,b\n", "the first line must be class,vertical.*not class,group"),
        ("class,vertical\na\n", "line 2: needs a class and a vertical"),
        ("class,vertical\nlion,cats\nlion,cats\n", "lion"),
        ('{"verticals": {"cats": "lion"}}', "verticals.cats: "),
        ('{"verticals": ', "taxonomy: "),
        ('{"verticals": {"cats": ["lino"]}}', "has no class 'beetle #2'|has no class 'lion'"),
    ],
)
def test_a_wrong_taxonomy_file_says_where(folder, text, says):
    (folder / "taxonomy").write_text(text)
    with pytest.raises(DataError, match=says):
        source(folder, taxonomy=str(folder / "taxonomy")).taxonomy.sizes  # noqa: B018


def test_wrong_folders_name_the_nearest(folder, tmp_path):
    with pytest.raises(DataError, match="tset: no such folder; did you mean 'test'"):
        source(folder, test="tset").split("test")
    with pytest.raises(DataError, match=r"data.options.root: no folder"):
        source(folder / "nowhere").split("train")
    save(folder, "test/cats/loin/1.png")
    with pytest.raises(DataError, match=r"cats/loin: no such class in .*train; did you mean 'cats/lion'"):
        source(folder).split("test")


def test_a_picture_at_another_depth_asks_for_a_taxonomy(folder):
    save(folder, "train/lost.png")
    with pytest.raises(
        DataError, match=r"train/lost.png: not in <vertical>/<class>/; .*data.options.taxonomy"
    ):
        source(folder).split("train")


def test_an_ending_that_nobody_reads(folder):
    with pytest.raises(DataError, match="Pillow reads no 'jpgg' files; did you mean 'jpg'"):
        source(folder, extensions=["jpgg"]).split("train")


def test_it_reads_any_fsspec_url(folder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/pictures", recursive=True)
    remote, local = source("memory://pictures", image_size=8), source(folder, image_size=8)
    assert remote.taxonomy == local.taxonomy
    every = torch.arange(4)
    assert torch.equal(remote.split("test").load(every, None), local.split("test").load(every, None))
