"""Folders of pictures: their classes, their labels, and that a picture depends on its key alone."""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
from unicodedata import normalize

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.utils.data import DataLoader

from kcframe.assembly.plugins import construct
from kcframe.assembly.source import build_source
from kcframe.builtin.sources.image_folder_options import ImageFolderOptions
from kcframe.errors import DataError
from kcframe.interfaces.toolkit.augmentation import RATIO, SCALE, TRIES, random_box
from kcframe.interfaces.toolkit.randomness import image_keys
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import PluginRef
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir
from tests.conftest import Quiet

COLOURS = {"lion": (200, 150, 50), "jaguar": (20, 20, 20), "beetle #2": (0, 160, 80)}


def save(folder, *names, image=None):
    """Pictures of one colour, by class."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        (image or Image.new("RGB", (40, 30), COLOURS.get(file.parent.name, (9, 9, 9)))).save(file)


def source(root, **options):
    return construct("data", PluginRef(name="image-folder", options={"root": str(root), **options}))


def labels_by_name(images, taxonomy):
    """File -> the names of its classes."""
    split = images.listing.name
    return {
        images.name(i).removeprefix(f"{split}/"): {taxonomy.classes[c] for c in images.labels.of(i)}
        for i in range(len(images))
    }


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


# -- classes and labels ---------------------------------------------------------------------------


def test_a_class_in_two_verticals_is_one_class(folder):
    found = source(folder)
    assert found.taxonomy.verticals == ("cars", "cats")
    assert set(found.taxonomy.classes) == {"lion", "jaguar", "beetle #2"}
    assert [v for v, _ in found.taxonomy.locate(found.taxonomy.class_id("jaguar"))] == [0, 1]
    for split in ("train", "test"):
        assert labels_by_name(found.split(split), found.taxonomy) == {
            "cars/beetle #2/a b.PNG": {"beetle #2"},
            "cars/jaguar/1.png": {"jaguar"},
            "cats/jaguar/1.jpg": {"jaguar"},
            "cats/lion/1.png": {"lion"},
        }
    assert found.describe()["classes in several verticals"] == 1


def test_what_is_no_picture_is_left_out_and_counted(folder):
    (folder / "train/cats/lion/.hidden.png").write_bytes(b"")
    save(folder, "train/cats/.git/x.png")
    (folder / "train/cats/lion/notes.txt").write_text("")
    (folder / "train/cats/lion/README").write_text("")
    (folder / "train/empty/class").mkdir(parents=True)
    found = source(folder)
    assert len(found.split("train")) == 4
    assert found.describe() == {
        "train pictures": 4,
        "test pictures": 4,
        "classes without train pictures": 0,
        "classes without test pictures": 0,
        "classes in several verticals": 1,
        "files left out": {".txt": 1, "no ending": 1},
    }
    assert found.taxonomy.verticals == ("cars", "cats")


def test_links_are_followed_but_not_in_circles(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    save(elsewhere, "2.png")
    (folder / "train/cats/tiger").symlink_to(elsewhere)
    lion, beetle = folder / "train/cats/lion", folder / "train/cars/beetle #2"
    (lion / "up").symlink_to(folder / "train/cats")
    assert "tiger" in source(folder, taxonomy=taxonomy_file(folder, "tiger")).taxonomy.classes
    files = source(folder, taxonomy=taxonomy_file(folder, "tiger")).split("train").listing.files
    assert "cats/tiger/2.png" in files
    (lion / "up").unlink()
    assert source(folder).split("train").listing.files == [f for f in files if "/up/" not in f]
    # Two folders that hold each other: each appears once in the other.
    (lion / "to").symlink_to(beetle)
    (beetle / "back").symlink_to(lion)
    names = ("tiger", "to", "back")
    files = source(folder, taxonomy=taxonomy_file(folder, *names)).split("train").listing.files
    assert [f for f in files if "/to/" in f or "/back/" in f] == [
        "cars/beetle #2/back/1.png",
        "cats/lion/to/a b.PNG",
    ]


def taxonomy_file(folder, *more):
    names = ["lion", "jaguar", "beetle #2", "cats", *more]
    (folder / "taxonomy.json").write_text(json.dumps({"verticals": {"all": names}}))
    return str(folder / "taxonomy.json")


def test_names_that_look_equal_are_equal(folder):
    """macOS stores é as e and an accent."""
    save(
        folder, f"train/food/{normalize('NFD', 'café')}/1.png", f"test/food/{normalize('NFC', 'café')}/1.png"
    )
    found = source(folder)
    assert normalize("NFC", "café") in found.taxonomy.classes
    assert found.describe()["classes without test pictures"] == 0
    file = folder / "t.csv"
    file.write_text("class,vertical\nlion,a\njaguar,a\nbeetle #2,a\n" + normalize("NFD", "café,a\n"))
    assert source(folder, taxonomy=str(file)).taxonomy.classes[-1] == normalize("NFC", "café")
    images = source(folder, taxonomy=str(file)).split("train")
    assert images.load(torch.arange(len(images)), None).shape[0] == 5


def test_a_taxonomy_file_gives_parents_and_classes_without_pictures(folder):
    (folder / "t.csv").write_text(
        "class,vertical,parents\nlion,cats,big cat\njaguar,cats,big cat\njaguar,cars,\nbeetle #2,cars,\n"
        "big cat,cats,\nlynx,cats,\n"
    )
    shutil.move(folder / "train/cars", folder / "train/any/depth/at/all")
    found = source(folder, taxonomy=str(folder / "t.csv"))
    assert found.taxonomy.verticals == ("cats", "cars")
    assert labels_by_name(found.split("train"), found.taxonomy) == {
        "any/depth/at/all/beetle #2/a b.PNG": {"beetle #2"},
        "any/depth/at/all/jaguar/1.png": {"jaguar", "big cat"},
        "cats/jaguar/1.jpg": {"jaguar", "big cat"},
        "cats/lion/1.png": {"lion", "big cat"},
    }
    assert found.describe()["classes without train pictures"] == 1  # lynx


# -- pictures -------------------------------------------------------------------------------------


@pytest.fixture
def noisy(folder):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    save(folder, *(f"train/cats/lion/{n}.png" for n in range(6)), image=noise)
    return folder


def test_pictures_depend_on_their_key_alone(noisy):
    images = source(noisy, image_size=16).split("train")
    every = torch.arange(len(images))
    first, later = image_keys(1, 0, every), image_keys(1, 1, every)
    whole = images.load(every, first)
    assert whole.shape == (len(images), 3, 16, 16)
    assert whole.dtype == torch.float32
    assert 0 <= whole.min() <= whole.max() <= 1
    assert torch.equal(images.load(every.flip(0), first.flip(0)).flip(0), whole)
    for alone in every:
        assert torch.equal(images.load(alone[None], first[alone][None])[0], whole[alone])
    again = pickle.loads(pickle.dumps(images))
    assert torch.equal(again.load(every, first), whole)
    assert torch.equal(source(noisy, image_size=16, threads=1).split("train").load(every, first), whole)
    lions = [i for i in range(len(images)) if "/lion/" in images.name(i)][1:]
    following = images.load(every, later)
    assert not any(torch.equal(following[i], whole[i]) for i in lions)
    # One picture under six names: another index is another key, another key another crop.
    assert not any(torch.equal(whole[i], whole[lions[0]]) for i in lions[1:])


def test_augmentation_can_be_less(noisy):
    every = torch.arange(9)
    keys = image_keys(0, 0, every)
    both, crop, none = (
        source(noisy, image_size=16, augmentation=kind).split("train")
        for kind in ("crop-flip", "crop", "none")
    )
    assert torch.equal(none.load(every, keys), both.load(every, None))
    mirrored = 0
    for with_mirror, without in zip(both.load(every, keys), crop.load(every, keys), strict=True):
        assert torch.equal(with_mirror, without) or torch.equal(with_mirror, without.flip(-1))
        mirrored += not torch.equal(with_mirror, without)
    assert 0 < mirrored < 6


def test_without_a_key_it_is_the_middle(tmp_path):
    """The grey at x is 4x, so the middle 56 of 64 pixels show 28 to 228; a wide picture loses its sides."""
    ramp = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))
    wide = np.pad(ramp, ((0, 0), (64, 64)))
    for split in ("train", "test"):
        save(tmp_path, f"{split}/v/square/1.png", image=Image.fromarray(ramp))
        save(tmp_path, f"{split}/v/wide/1.png", image=Image.fromarray(wide))
    square, middle = source(tmp_path, image_size=8, channels=1).split("test").load(torch.tensor([0, 1]), None)
    centres = 4 + 7 * torch.arange(1, 7) + 3.5 - 0.5  # of the inner outputs, 7 pixels wide each
    for picture in (square, middle):
        assert (picture[0, :, 1:-1] * 255 - 4 * centres).abs().max() <= 2
    assert torch.equal(square[0, 0], square[0, -1])


def test_half_of_the_pictures_are_mirrored_and_crops_stay_inside(folder):
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 64, dtype=np.uint8), (64, 1)))
    save(folder, *(f"train/cats/lion/{n}.png" for n in range(200)), image=ramp)
    images = source(folder, image_size=8, channels=1).split("train")
    lions = torch.tensor([i for i in range(len(images)) if "/lion/" in images.name(i)])
    loaded = images.load(lions, image_keys(0, 0, lions))
    mirrored = (loaded[:, 0, :, 0] > loaded[:, 0, :, -1]).float().mean()
    assert 0.4 < mirrored < 0.6
    shares, places = [], []
    for row in np.random.default_rng(1).random((500, TRIES, 4)):
        if (box := random_box((50, 70), row)) is None:
            continue
        left, top, right, bottom = box
        assert 0 <= left < right <= 50
        assert 0 <= top < bottom <= 70
        shares.append((right - left) * (bottom - top) / (50 * 70))
        places.append((left / (50 - right + left), top / (70 - bottom + top)))
        assert SCALE[0] - 1e-9 <= shares[-1] <= SCALE[1] + 1e-9
        assert RATIO[0] - 1e-9 <= (right - left) / (bottom - top) <= RATIO[1] + 1e-9
    assert len(shares) > 490
    assert min(shares) < 0.4
    assert max(shares) > 0.9
    assert np.abs(np.mean(places, axis=0) - 0.5).max() < 0.05
    assert abs(np.corrcoef(np.transpose(places))[0, 1]) < 0.1


def test_a_jpeg_decoded_small_is_as_sharp_as_a_png(tmp_path):
    """Stripes of 8 pixels, shifted by 4: at an eighth of its size, a JPEG shows a grey area."""
    stripes = Image.fromarray(np.tile(np.roll(np.repeat(np.uint8([0, 255]), 8), 4), (128, 8)))
    for split in ("train", "test"):
        save(tmp_path, f"{split}/v/c/1.png", image=stripes)
        stripes.save(tmp_path / f"{split}/v/c/2.jpg", quality=95)
    png, jpeg = source(tmp_path, image_size=16).split("test").load(torch.tensor([0, 1]), None)
    assert png.std() > 0.2
    assert (png - jpeg).abs().mean() < 0.05


def test_a_picture_too_narrow_for_any_crop_shows_its_middle():
    draws = np.random.default_rng(2).random((TRIES, 4))
    assert random_box((1000, 10), draws) is None
    assert Transform(channels=1, image_size=8).box((1000, 10)) == (495.625, 0.625, 504.375, 9.375)


# -- storage --------------------------------------------------------------------------------------


def test_it_reads_any_fsspec_url(folder, tmp_path_factory):
    fsspec.filesystem("memory").put(str(folder), "/pictures", recursive=True)
    archive = shutil.make_archive(str(tmp_path_factory.mktemp("zip") / "z"), "zip", folder)
    local, every = source(folder, image_size=8), torch.arange(4)
    for root in ("memory://pictures", f"zip://::{archive}"):
        remote = source(root, image_size=8)
        assert remote.taxonomy == local.taxonomy
        assert torch.equal(remote.split("test").load(every, None), local.split("test").load(every, None))


class Single(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __getitem__(self, index):
        return self.images.load(torch.tensor([index]), None)[0]


def test_a_forked_process_has_connections_and_threads_of_its_own(bucket, folder):
    for split in ("train", "test"):
        fsspec.filesystem("s3").put(str(folder / split), f"{bucket}/{split}", recursive=True)
    local, remote = (source(root, image_size=8).split("train") for root in (folder, bucket))
    every = torch.arange(4)
    wanted = local.load(every, None)
    assert torch.equal(remote.load(every, None), wanted)
    loader = DataLoader(
        Single(remote),
        batch_size=None,
        sampler=every.tolist(),
        num_workers=1,
        multiprocessing_context="fork",
        timeout=20,
    )
    assert torch.equal(torch.stack(list(loader)), wanted)


# -- what is wrong --------------------------------------------------------------------------------


def problem(root, split="train", **options):
    with pytest.raises(DataError) as caught:
        source(root, **options).split(split)
    return str(caught.value)


def test_wrong_folders_name_the_nearest(folder):
    assert f"{folder}/tset: no such folder; did you mean 'test'" in problem(folder, test="tset")
    nowhere = folder / "nowhere"
    assert f"data.options.root: no folder '{nowhere}'" in problem(nowhere)
    file = folder / "train/cats/lion/1.png"
    assert f"data.options.root: '{file}' is a file" in problem(file)
    (folder / "bare").mkdir()
    assert re.search("bare: no picture in it that ends in jpg, ", problem(folder, train="bare"))
    assert "nosuch://x/train: cannot be listed: " in problem("nosuch://x")


def test_a_test_class_without_train_pictures_is_named(folder):
    save(folder, "test/cats/loin/1.png")
    (folder / "train/cats/loin").mkdir()
    said = problem(folder)
    assert f"{folder}/test/cats/loin: no such class in {folder}/train, or no picture of it" in said
    assert "did you mean 'cats/lion'" in said


@pytest.mark.parametrize("place", ["lost.png", "cats/lost.png", "cats/lion/sub/lost.png"])
def test_a_picture_at_another_depth_asks_for_a_taxonomy(folder, place):
    save(folder, f"train/{place}")
    assert re.search(f"train/{place}: not in <vertical>/<class>/; .*data.options.taxonomy", problem(folder))


def test_a_class_that_the_taxonomy_lacks_is_named(folder):
    file = folder / "t.csv"
    file.write_text("class,vertical\nlion,a\njaguar,a\nbeetle 2,a\n")
    said = problem(folder, taxonomy=str(file))
    assert said.endswith(f"beetle #2/a b.PNG: {file} has no class 'beetle #2'; did you mean 'beetle 2'?")
    file.write_text("class,vertical\nlion,a\njaguar,a\nbeetle #2,a\n")
    save(folder, "train/lost.png")
    assert problem(folder, taxonomy=str(file)).endswith("train/lost.png: in no class folder")


def test_a_name_that_is_no_text_is_refused_at_once(folder):
    """It could be listed, but neither the taxonomy nor the report could be written."""
    shutil.copytree(folder / "train/cats/lion", folder / "train/cats" / os.fsdecode(b"caf\xe9"))
    (folder / "train/cats/lion" / os.fsdecode(b"notes.\xe9")).touch()
    assert re.search(r"train/cats/caf\\udce9/1.png: the name is not UTF-8; rename it", problem(folder))
    shutil.rmtree(folder / "train/cats" / os.fsdecode(b"caf\xe9"))
    assert source(folder).describe()["files left out"] == {r".\udce9": 1}


def test_a_folder_that_may_not_be_read_is_not_passed_over(folder, monkeypatch):
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("jaguar"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert re.search("train: cannot be listed: PermissionError: .*/jaguar", problem(folder))


@pytest.mark.parametrize(
    ("train", "test"), [("a", "a"), ("a", "./a/"), ("a", "b/../a"), ("a", "a/b"), ("a/b", "a"), ("a", "/")]
)
def test_splits_that_would_share_pictures_are_refused(train, test):
    with pytest.raises(ValidationError, match="must share no picture"):
        ImageFolderOptions(root="r", train=train, test=test)
    ImageFolderOptions(root="r", train="ab", test="a")


def test_pictures_that_cannot_be_loaded_are_named(folder):
    for name, content in {
        "2.png": b"",
        "3.jpg": (folder / "train/cats/jaguar/1.jpg").read_bytes()[:300],
    }.items():
        (folder / "train/cats/lion" / name).write_bytes(content)
    (folder / "train/cats/lion/4.png").symlink_to(folder / "nowhere")
    images = source(folder).split("train")
    place = {images.name(i).rpartition("/")[2]: i for i in range(len(images)) if "/lion/" in images.name(i)}
    for name, says in {
        "2.png": "cannot be decoded: the file has zero bytes; replace or remove it",
        "3.jpg": "cannot be decoded: .*(?i:truncated).*; replace or remove it",
        "4.png": "no such file .any more., or a link to none",
    }.items():
        with pytest.raises(DataError, match=f"^{folder}/train/cats/lion/{name}: {says}"):
            images.load(torch.tensor([0, place[name]]), None)


def test_an_error_without_words_still_says_something(folder, monkeypatch):
    def fail(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("kcframe.pictures.stores.pictures.decode", fail)
    with pytest.raises(DataError, match="cannot be decoded: MemoryError"):
        source(folder).split("train").load(torch.tensor([0]), None)


# -- a whole run ----------------------------------------------------------------------------------


def test_a_run_on_folders(tiny, folder, tmp_path_factory):
    for n in range(12):
        save(folder, f"train/cats/lion/more{n}.png", f"train/cars/beetle #2/more{n}.png")
    changes = (f"data={{name: image-folder, options: {{root: '{folder}', image_size: 8}}}}",)
    recipe = load_recipe(str(tiny(*changes)), installed())
    assert build_source(recipe).taxonomy.verticals == ("cars", "cats")
    run_dir = tmp_path_factory.mktemp("run")
    quiet = Quiet()
    results = run(recipe, RunDir(run_dir), quiet)
    assert set(results["arms"]["student"]["per_vertical"]) == {"cars", "cats"}
    facts = json.loads((run_dir / "data.json").read_text())
    assert (facts["train pictures"], facts["test pictures"]) == (28, 4)
