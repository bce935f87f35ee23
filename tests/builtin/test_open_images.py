"""Open Images' tables and hierarchy: against a slow reading of the same files with csv and sets."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from kcframe.assembly.plugins import construct
from kcframe.builtin.sources.open_images import index as indexing
from kcframe.builtin.sources.open_images.index import image_name
from kcframe.builtin.sources.open_images.options import OpenImagesOptions
from kcframe.errors import DataError
from kcframe.pictures import label_arrays
from kcframe.recipe.schema import PluginRef

PUBLISHED = Path(__file__).parent / "open_images"
MIDS = {
    "tortoise": "/m/011k07", "turtle": "/m/09dzg", "animal": "/m/0jbk", "bird": "/m/015p6",
    "sparrow": "/m/0h23m", "taxi": "/m/0pg52", "vehicle": "/m/07yv9", "wine": "/m/081qc",
    "drink": "/m/0271t", "traditional sport": "/g/1172hxxrk",
}  # fmt: skip


def image_id(number):
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}"


def write_labels(file, rows, header="ImageID,Source,LabelName,Confidence"):
    """rows: (image, MID, confidence)."""
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [header, *(f"{i},verification,{mid},{confidence}" for i, mid, confidence in rows)]
    file.write_text("\n".join(lines) + "\n")


@pytest.fixture
def tree(tmp_path):
    """Metadata of a small set: image 1 is a tortoise, 2 a sparrow and a taxi, and so on."""
    folder = tmp_path / "meta"
    folder.mkdir()
    for name in ("class-descriptions.csv", "bbox_hierarchy.json"):
        (folder / name).write_bytes((PUBLISHED / name).read_bytes())
    write_labels(
        folder / "train-annotations-human-imagelabels.csv",
        [
            (image_id(1), MIDS["tortoise"], 1),
            (image_id(2), MIDS["sparrow"], 1),
            (image_id(2), MIDS["taxi"], 1),
            (image_id(2), MIDS["wine"], 0),
            (image_id(3), MIDS["wine"], 1.0),
            (image_id(3), MIDS["wine"], 1),
            (image_id(4), MIDS["traditional sport"], 1),
            (image_id(5), "/m/unheard", 1),
            (image_id(6), MIDS["bird"], "0.7"),
        ],
    )
    write_labels(
        folder / "validation-annotations-human-imagelabels.csv",
        [
            (image_id(11), MIDS["tortoise"], 1),
            (image_id(12), MIDS["wine"], 1),
            (image_id(13), MIDS["taxi"], 0),
        ],
    )
    return folder


def source(metadata, **options):
    given = {
        "metadata": str(metadata),
        "images": str(metadata) + "/{split}/{id}.png",
        "cache": None,
        **options,
    }
    return construct("data", PluginRef(name="open-images", options=given))


def labels_of(found, split="train"):
    """Image id -> names."""
    images, taxonomy = found.split(split), found.taxonomy
    return {
        image_name(images.ids, i): {taxonomy.classes[c] for c in images.labels.of(i)}
        for i in range(len(images))
    }


# -- classes ---------------------------------------------------------------------------------------


def test_verticals_and_parents_come_from_the_hierarchy(tree):
    found = source(tree)
    taxonomy = found.taxonomy
    members = {
        name: {taxonomy.classes[c] for c in taxonomy.vertical_classes(v)}
        for v, name in enumerate(taxonomy.verticals)
    }
    assert members == {
        "animal": {"animal", "bird", "sparrow", "turtle", "tortoise"},
        "vehicle": {"vehicle", "land vehicle", "taxi"},
        "drink": {"drink", "wine"},
        "other": {"traditional sport"},
    }
    above = {
        name: [taxonomy.classes[a] for a in taxonomy.ancestors(taxonomy.class_id(name))]
        for name in ("tortoise", "sparrow", "taxi", "traditional sport")
    }
    # "Reptile & Amphibian" is no class of the descriptions: the next above counts.
    assert above == {
        "tortoise": ["turtle", "animal"],
        "sparrow": ["bird", "animal"],
        "taxi": ["land vehicle", "vehicle"],
        "traditional sport": [],
    }


def test_labels_have_ancestors_and_only_what_is_verified_present(tree):
    assert labels_of(source(tree)) == {
        image_id(1): {"tortoise", "turtle", "animal"},
        image_id(2): {"sparrow", "bird", "animal", "taxi", "land vehicle", "vehicle"},
        image_id(3): {"wine", "drink"},
        image_id(4): {"traditional sport"},
    }
    assert labels_of(source(tree), "test") == {
        image_id(11): {"tortoise", "turtle", "animal"},
        image_id(12): {"wine", "drink"},
    }
    assert labels_of(source(tree, min_confidence=0.7))[image_id(6)] == {"bird", "animal"}


def test_rare_classes_are_left_out_and_their_parents_stay(tree):
    found = source(tree, min_images=2)
    assert set(found.taxonomy.classes) == {"animal"}
    assert [len(labels) for labels in labels_of(found).values() if labels] == [1, 1]
    assert found.describe()["classes left out"] == 567


def test_no_rest_and_trainable_classes_only(tree):
    assert "other" not in source(tree, rest=None).taxonomy.verticals
    (tree / "classes-trainable.txt").write_text(f"{MIDS['tortoise']}\n{MIDS['wine']}\n")
    found = source(tree, trainable_only=True)
    assert set(found.taxonomy.classes) == {"tortoise", "turtle", "animal", "wine", "drink"}
    # A sparrow is a bird, also where sparrows are no class.
    (tree / "classes-trainable.txt").write_text(f"{MIDS['bird']}\n")
    assert labels_of(source(tree, trainable_only=True))[image_id(2)] == {"bird", "animal"}


def test_a_taxonomy_of_ones_own_by_name_or_mid(tree, tmp_path):
    (tmp_path / "t.csv").write_text(
        f"class,vertical,parents\nTaxi,moving,\n{MIDS['sparrow']},moving,\nwine,still,drink\ndrink,still,\n"
    )
    found = source(tree, verticals=str(tmp_path / "t.csv"), rest=None)
    taxonomy = found.taxonomy
    assert taxonomy.verticals == ("moving", "still")
    assert labels_of(found)[image_id(2)] == {"taxi", "sparrow"}
    assert labels_of(found)[image_id(3)] == {"wine", "drink"}
    (tmp_path / "t.csv").write_text("class,vertical\ntaxy,moving\n")
    with pytest.raises(DataError, match="'taxy' is no class of class-desc.*; did you mean 'taxi'?"):
        source(tree, verticals=str(tmp_path / "t.csv")).taxonomy  # noqa: B018 - built when asked


def test_descriptions_may_have_a_header_quotes_and_twins(tree):
    (tree / "class-descriptions.csv").write_text(
        'LabelName,DisplayName\n/m/1,"Fiat 500 ""topolino"""\n/m/2,organ\n/m/3,organ\n/m/4,"a, b"\n'
    )
    write_labels(
        tree / "train-annotations-human-imagelabels.csv", [(image_id(n), f"/m/{n}", 1) for n in range(1, 5)]
    )
    write_labels(tree / "validation-annotations-human-imagelabels.csv", [(image_id(9), "/m/2", 1)])
    names = set().union(*labels_of(source(tree)).values())
    assert names == {'Fiat 500 "topolino"', "organ (/m/2)", "organ (/m/3)", "a, b"}


def test_capitals_count_where_nothing_else_tells_two_names_apart(tree, tmp_path):
    (tree / "class-descriptions.csv").write_text("/m/1,Crane\n/m/2,crane\n/m/3,Heron\n")
    write_labels(
        tree / "train-annotations-human-imagelabels.csv", [(image_id(n), f"/m/{n}", 1) for n in (1, 2, 3)]
    )
    write_labels(tree / "validation-annotations-human-imagelabels.csv", [(image_id(9), "/m/2", 1)])
    (tmp_path / "t.csv").write_text("class,vertical\nCrane,machines\ncrane,birds\nheron,birds\n")
    found = source(tree, verticals=str(tmp_path / "t.csv"))
    assert labels_of(found) == {image_id(1): {"Crane"}, image_id(2): {"crane"}, image_id(3): {"Heron"}}
    (tmp_path / "t.csv").write_text("class,vertical\nCRANE,machines\n")
    with pytest.raises(DataError, match="'CRANE' is no class .* or two are called so"):
        source(tree, verticals=str(tmp_path / "t.csv")).taxonomy  # noqa: B018 - built when asked


def test_a_rest_that_is_called_like_a_vertical(tree):
    found = source(tree, rest="animal")
    assert "traditional sport" in labels_of(found)[image_id(4)]
    labels = found.split("train").labels
    for image in range(len(labels)):
        assert labels.of(image) == sorted(labels.of(image))


def test_the_published_hierarchy_has_mids_and_parts(tree):
    (tree / "bbox_labels_600_hierarchy.json").write_text(
        json.dumps(
            {
                "LabelName": "/m/0bl9f",
                "Subcategory": [
                    {
                        "LabelName": MIDS["vehicle"],
                        "Subcategory": [{"LabelName": MIDS["taxi"]}],
                        "Part": [{"LabelName": MIDS["wine"]}],
                    },
                    {"LabelName": MIDS["drink"]},
                ],
            }
        )
    )
    taxonomy = source(tree).taxonomy
    assert set(taxonomy.verticals) == {"vehicle", "other"}
    assert taxonomy.ancestors(taxonomy.class_id("wine")) == ()
    assert [taxonomy.classes[a] for a in taxonomy.ancestors(taxonomy.class_id("taxi"))] == ["vehicle"]


# -- layouts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layout",
    [
        "{split}/{split}-annotations-human-imagelabels.csv",
        "oidv6-{split}-annotations-human-imagelabels.csv",
        "oidv7-{split}-annotations-human-imagelabels.csv",
        "{split}/annotations-human.csv",
    ],
)
def test_every_versions_names(tree, layout):
    expected = labels_of(source(tree))
    for split in ("train", "validation"):
        new = tree / layout.format(split=split)
        new.parent.mkdir(exist_ok=True)
        (tree / f"{split}-annotations-human-imagelabels.csv").rename(new)
    assert labels_of(source(tree)) == expected


def test_several_label_files(tree):
    write_labels(tree / "machine.csv", [(image_id(1), MIDS["wine"], 0.9), (image_id(99), MIDS["taxi"], 0.8)])
    files = ("train-annotations-human-imagelabels.csv", "machine.csv")
    found = labels_of(source(tree, labels={"train": files}, min_confidence=0.85))
    assert found[image_id(1)] == {"tortoise", "turtle", "animal", "wine", "drink"}
    assert image_id(99) not in found


# -- against csv and sets --------------------------------------------------------------------------


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 12),
            st.sampled_from([*MIDS.values(), "/m/unheard"]),
            st.sampled_from(["0", "0.3", "0.9", "1", "1.0"]),
        ),
        max_size=60,
    ),
    least=st.sampled_from([0.3, 0.9, 1.0]),
)
def test_labels_are_those_of_a_slow_reading(tree, rows, least):
    rows = [*rows, (1, MIDS["taxi"], "1")]
    write_labels(
        tree / "train-annotations-human-imagelabels.csv", [(image_id(n), mid, c) for n, mid, c in rows]
    )
    above = {
        "tortoise": {"turtle", "animal"}, "turtle": {"animal"}, "bird": {"animal"},
        "sparrow": {"bird", "animal"}, "taxi": {"land vehicle", "vehicle"}, "wine": {"drink"},
    }  # fmt: skip
    names = {mid: name for name, mid in MIDS.items()}
    with (tree / "train-annotations-human-imagelabels.csv").open() as file:
        read = [
            (row["ImageID"], names[row["LabelName"]], float(row["Confidence"]))
            for row in csv.DictReader(file)
            if row["LabelName"] in names
        ]
    gone = {(image, name) for image, name, sure in read if sure == 0}
    expected: dict[str, dict[str, float]] = {}
    for image, name, sure in read:
        kinds = {name, *above.get(name, ())}
        # A machine is not believed where a person says no, of the class or of what it is a kind of.
        if sure >= least and (sure == 1 or not any((image, kind) in gone for kind in kinds)):
            own = expected.setdefault(image, {})
            own.update({kind: max(sure, own.get(kind, 0)) for kind in kinds})
    found = source(tree, min_confidence=least)
    assert {image: own for image, own in labels_of(found).items() if own} == {
        image: set(own) for image, own in expected.items()
    }
    assert found.split("train").labels.values is None
    weighed = source(tree, min_confidence=least, confidence="weight")
    images, classes = weighed.split("train"), weighed.taxonomy.classes
    values = images.labels.values if least < 1 else torch.ones(len(images.labels.classes))
    told: dict[str, dict[str, float]] = {}
    for row, c, sure in zip(images.labels.rows(), images.labels.classes, values, strict=True):
        name = image_name(images.ids, int(row))
        told.setdefault(name, {})[classes[c]] = round(float(sure), 6)
    assert told == expected
    for split in ("train", "test"):
        labels = found.split(split).labels
        for image in range(len(labels)):
            assert labels.of(image) == sorted(set(labels.of(image)))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(1, 6),
            st.sampled_from([*MIDS.values(), "/m/unheard"]),
            st.sampled_from(["0", "0.0", "0.5", "1"]),
        ),
        max_size=40,
    )
)
def test_absent_labels_are_those_of_a_slow_reading(tree, rows):
    """Where an animal is absent so are all its kinds; what is present is not absent."""
    rows = [*rows, (1, MIDS["taxi"], "1")]
    write_labels(
        tree / "train-annotations-human-imagelabels.csv", [(image_id(n), mid, c) for n, mid, c in rows]
    )
    found = source(tree, unknown="ignore")
    taxonomy, images = found.taxonomy, found.split("train")
    names = {mid: name for name, mid in MIDS.items()}
    below: dict[str, set[str]] = {name: {name} for name in taxonomy.classes}
    for class_id, name in enumerate(taxonomy.classes):
        for ancestor in taxonomy.ancestors(class_id):
            below[taxonomy.classes[ancestor]].add(name)
    present = labels_of(found)
    expected: dict[str, set[str]] = {image: set() for image in present}
    for number, mid, confidence in rows:
        name = names.get(mid)
        if float(confidence) == 0 and mid in names:
            assert image_id(number) in present  # also where it has no label at all
            expected[image_id(number)] |= below.get(name, set())
    for place in range(len(images)):
        image = image_name(images.ids, place)
        ours = [taxonomy.classes[c] for c in images.absent.of(place)]
        assert set(ours) == expected[image] - present[image]
        assert len(ours) == len(set(ours))


def test_nobody_asks_for_absent_labels_by_default(tree, tmp_path):
    assert source(tree).split("train").absent is None
    kept = str(tmp_path / "cache")
    for _ in range(2):
        absent = source(tree, unknown="ignore", cache=kept).split("train").absent
        assert len(absent.classes) == 1
        (gone,) = (i for i in range(len(absent)) if absent.of(i))
        assert gone == next(
            i
            for i, name in enumerate(sorted([image_id(1), image_id(2), image_id(3), image_id(4)]))
            if name == image_id(2)
        )
    assert source(tree, cache=kept).split("train").absent is None


def test_more_images_than_get_their_ancestors_at_once(tree, monkeypatch):
    draws = random.Random(0)
    rows = [(image_id(n), draws.choice(list(MIDS.values())), 1) for n in range(1, 200) for _ in range(3)]
    write_labels(tree / "train-annotations-human-imagelabels.csv", rows)
    whole = labels_of(source(tree))
    monkeypatch.setattr(label_arrays, "IMAGES_AT_ONCE", 7)
    assert labels_of(source(tree)) == whole


def test_rows_in_many_blocks(tree, monkeypatch):
    rows = [(image_id(n), list(MIDS.values())[n % 10], 1) for n in range(1, 500)]
    write_labels(tree / "train-annotations-human-imagelabels.csv", rows)
    whole = labels_of(source(tree))
    monkeypatch.setattr(indexing, "BLOCK", 1000)
    assert labels_of(source(tree)) == whole
    assert len(whole) == 499


# -- pictures --------------------------------------------------------------------------------------


def test_the_rotation_column_makes_pictures_upright(tree):
    """Degrees counterclockwise, as Open Images means them."""
    (tree / "train-images-with-labels-with-rotation.csv").write_text(
        "ImageID,Subset,OriginalURL,Rotation\n"
        f"{image_id(1)},train,u,90.0\n{image_id(2)},train,u,\n{image_id(3)},train,u,180.0\n"
        f"{image_id(4)},train,u,270.0\n{image_id(77)},train,u,90.0\n"
    )
    (tree / "train").mkdir()
    # The top left quarter is white once a picture is upright.
    upright = np.zeros((40, 40), np.uint8)
    upright[:20, :20] = 255
    for number, turns in ((1, 1), (2, 0), (3, 2), (4, 3)):
        stored = np.rot90(upright, -turns)  # np.rot90 turns counterclockwise
        Image.fromarray(stored).save(tree / f"train/{image_id(number)}.png")
    images = source(tree, image_size=8).split("train")
    loaded = images.load(torch.arange(4), None)
    assert (loaded[:, :, :3, :3] > 0.9).all()
    assert (loaded[:, :, 5:, :] < 0.1).all()
    assert (loaded[:, :, :, 5:] < 0.1).all()


def test_the_table_knows_better_than_the_file(tree):
    """Both say how a picture was held: it is turned once."""
    (tree / "train-images-with-labels-with-rotation.csv").write_text(
        f"ImageID,Subset,Rotation\n{image_id(1)},train,270.0\n{image_id(2)},train,\n{image_id(3)},train,0\n"
    )
    (tree / "train").mkdir()
    upright = np.zeros((40, 40), np.uint8)
    upright[:20, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees counterclockwise
    stored = np.rot90(upright, -3)
    for number, pixels in ((1, stored), (2, stored), (3, upright)):
        Image.fromarray(pixels).save(tree / f"train/{image_id(number)}.png", exif=exif)
    images = source(tree, image_size=8).split("train")
    order = {image_name(images.ids, i): i for i in range(len(images))}
    loaded = images.load(torch.tensor([order[image_id(n)] for n in (1, 2, 3)]), None)
    assert (loaded[:, :, :3, :3] > 0.9).all()
    assert (loaded[:, :, 5:, :] < 0.1).all()


def test_addresses_are_shown_without_their_secrets(tree):
    images = source(tree, images="https://me:secret@host/{split}/{id}.jpg?token=hidden").split("train")
    assert images.name(0).startswith("https://host/train/")
    assert "secret" not in images.name(0)
    assert "hidden" not in images.name(0)
    assert images.store.place(0).path.startswith("https://me:secret@host/train/")


def test_a_missing_picture_is_named_and_skipped(tree):
    (tree / "train").mkdir()
    for number in (1, 2, 4):
        Image.new("RGB", (9, 9), (200, 0, 0)).save(tree / f"train/{image_id(number)}.png")
    images = source(tree, image_size=8).split("train")
    order = {image_name(images.ids, i): i for i in range(4)}
    pictures, bad = images.load_readable(torch.tensor([order[image_id(n)] for n in (1, 2, 3, 4)]), None)
    assert list(bad) == [2]
    assert bad[2] == f"{tree}/train/{image_id(3)}.png: no such file (any more), or a link to none"
    assert pictures[0].mean() > 0


# -- on the web ------------------------------------------------------------------------------------


class Web(http.server.SimpleHTTPRequestHandler):
    """Files of a folder, some of which fail once or twice before they come, or are cut in the middle."""

    fails: ClassVar[dict[str, list[int]]] = {}

    def log_message(self, *_):
        pass

    def do_GET(self):
        left = self.fails.get(self.path.rpartition("/")[2], [])
        if not left:
            super().do_GET()
            return
        status = left.pop()
        if status != 200:
            self.send_error(status)
            return
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"ImageID,Source,LabelName,Confidence\n")
        self.connection.close()


@pytest.fixture
def web(tree):
    handler = functools.partial(Web, directory=str(tree))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    Web.fails = {}
    server.shutdown()
    server.server_close()


def test_metadata_on_the_web_that_fails_now_and_then(tree, web):
    (tree / "train-images-with-labels-with-rotation.csv").write_text(
        f"ImageID,Subset,Rotation\n{image_id(1)},train,90.0\n"
    )
    expected = source(tree)
    Web.fails = {
        "train-images-with-labels-with-rotation.csv": [503],
        "train-annotations-human-imagelabels.csv": [200, 200],
        "class-descriptions.csv": [500],
    }
    found = source(web, images=str(tree) + "/{split}/{id}.png")
    assert labels_of(found) == labels_of(expected)
    assert found.split("train").turns.tolist() == expected.split("train").turns.tolist()
    assert not any(Web.fails.values())


def test_what_is_not_on_the_web_is_said(tree, web):
    with pytest.raises(DataError, match="no labels of split 'vaildation': looked for vaildation-annot"):
        source(web, images="x/{id}", test_split="vaildation").taxonomy  # noqa: B018 - built when asked


# -- tar shards ------------------------------------------------------------------------------------


def in_shards(tree, root):
    """The files of a split's images, in two shards and other folders, as Open Images publishes them."""
    root.mkdir()
    for split in ("train", "validation"):
        files = sorted((tree / split).glob("*"))
        for shard in range(2):
            with tarfile.open(root / f"{split}_{shard}.tar", "w") as archive:
                for file in files[shard::2]:
                    archive.add(file, f"{split}/{file.stem.upper() if shard else file.stem}.jpg")
                archive.addfile(tarfile.TarInfo("README.txt"))


def test_pictures_in_tar_shards_are_those_in_files(tree, tmp_path):
    for split, images in (("train", (1, 2, 3, 4)), ("validation", (11,))):
        (tree / split).mkdir()
        for number in images:
            Image.new("RGB", (9, 7), (20 * number, 5, 99)).save(tree / split / f"{image_id(number)}.png")
    in_shards(tree, tmp_path / "tars")
    options = {"cache": str(tmp_path / "cache"), "image_size": 8}
    files = source(tree, images=f"{tree}/{{split}}/{{id}}.png", **options)
    for stars in ("{split}_*.tar", "{split}_{0..1}.tar"):
        shards = source(tree, images=f"{tmp_path}/tars/{stars}", **options)
        for split in ("train", "test"):
            found, expected = (
                each.split(split).load_readable(torch.arange(len(each.split(split))), None)
                for each in (shards, files)
            )
            assert torch.equal(found[0], expected[0])
            assert list(found[1]) == list(expected[1])
    assert f"in no shard: {image_id(12)}: no such file" in next(iter(found[1].values()))
    assert "train_0.tar: " in shards.split("train").name(0) + shards.split("train").name(1)


def test_what_is_wrong_with_addresses_of_shards_is_said(tree, tmp_path):
    in_shards(tree, tmp_path / "tars")
    for images, said in (
        (f"{tmp_path}/tars/{{split}}_9*.tar", "data.options.images: no file '.*train_9"),
        (
            f"{tmp_path}/tars/{{split}}_*.tar",
            "images: .*train_0.tar: no picture in it is called",
        ),
    ):
        with pytest.raises(DataError, match=said):
            source(tree, images=images).split("train")


# -- cache -----------------------------------------------------------------------------------------


START = """
import sys
from kcframe.assembly.plugins import construct
from kcframe.builtin.sources.open_images import index
from kcframe.recipe.schema import PluginRef

real = index.build_index
index.build_index = lambda tables: print("built", flush=True) or real(tables)
options = {"metadata": sys.argv[1], "images": "x/{id}.jpg", "cache": sys.argv[2]}
print(len(construct("data", PluginRef(name="open-images", options=options)).split("train")))
"""


def test_processes_that_start_together_read_the_tables_once(tree, tmp_path):
    command = [sys.executable, "-c", START, str(tree), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert [each[-1] for each in said] == ["4", "4"]
    assert sum(each.count("built") for each in said) == 2  # one a split


def test_the_second_start_reads_no_table(tree, tmp_path, monkeypatch):
    first = labels_of(source(tree, cache=str(tmp_path / "cache")))
    calls = []
    built = indexing.build_index
    monkeypatch.setattr(indexing, "build_index", lambda *a: calls.append(a) or built(*a))
    assert labels_of(source(tree, cache=str(tmp_path / "cache"))) == first
    assert not calls
    # Another file, another confidence, a damaged cache: made anew.
    labels_of(source(tree, cache=str(tmp_path / "cache"), min_confidence=0.7))
    assert len(calls) == 2
    table = tree / "train-annotations-human-imagelabels.csv"
    table.write_text(table.read_text() + f"{image_id(50)},verification,{MIDS['taxi']},1\n")
    assert image_id(50) in labels_of(source(tree, cache=str(tmp_path / "cache")))
    for file in (tmp_path / "cache/open-images").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert image_id(50) in labels_of(source(tree, cache=str(tmp_path / "cache")))


def test_a_cache_that_cannot_be_written_is_said(tree, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="data.options.cache: .*file/open-images.*: cannot be written"):
        labels_of(source(tree, cache=str(tmp_path / "file")))


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: (t / "class-descriptions.csv").rename(t / "class-description.csv"),
         "no class descriptions: looked for .*did you mean 'class-description.csv'"),
        (lambda t: (t / "bbox_hierarchy.json").unlink(), "no hierarchy: looked for bbox_labels_600"),
        (lambda t: (t / "bbox_hierarchy.json").write_text("{\n]"), "bbox_hierarchy.json: line 2: "),
        (lambda t: (t / "bbox_hierarchy.json").write_text("[1]"), 'should be {"LabelName": MID'),
        (lambda t: (t / "class-descriptions.csv").write_text("/m/1,a\nb\n"), "line 2: should be MID,desc"),
        (lambda t: (t / "class-descriptions.csv").write_text('/m/1,"a\n' + "x" * 200_000),
         "class-descriptions.csv: line .*: field larger than field limit.*is a quote left open"),
        (lambda t: (t / "bbox_hierarchy.json").write_text('{"LabelName": "x", "Subcategory": null}'),
         "its Subcategory should be a list"),
        (lambda t: (t / "class-descriptions.csv").write_bytes(b"/m/1,a\n/m/2,\xff\n"), "line 2: not UTF-8"),
        (lambda t: write_labels(t / "train-annotations-human-imagelabels.csv", [("xyz", MIDS["taxi"], 1)]),
         "imagelabels.csv: line 2: ImageID 'xyz' is not 16 hexadecimal digits"),
        (lambda t: write_labels(
            t / "train-annotations-human-imagelabels.csv",
            [(image_id(1), MIDS["taxi"], 1), ("x", "/m/unheard", 1), ("g" * 16, MIDS["taxi"], 1)]),
         "line 4: ImageID 'gggggggggggggggg' is not 16"),
        (lambda t: (t / "bbox_hierarchy.json").write_text(json.dumps({"name": "Entity", "children": [
            {"name": "bird", "children": [{"name": "sparrow", "children": [{"name": "bird"}]}]}]})),
         "/meta: the hierarchy goes in a circle through class"),
        (lambda t: write_labels(
            t / "train-annotations-human-imagelabels.csv", [], header="Image,Source,LabelName,Confidence"),
         "no column 'ImageID': its first line is Image,Source"),
        (lambda t: write_labels(
            t / "train-annotations-human-imagelabels.csv", [(image_id(1), MIDS["taxi"], "sure")]),
         "train-annotations-human-imagelabels.csv: .*sure"),
        (lambda t: write_labels(t / "train-annotations-human-imagelabels.csv", [(image_id(1), "/m/x", 1)]),
         "no label in .* is of a known class"),
        (lambda t: write_labels(t / "train-annotations-human-imagelabels.csv", []), "no label in"),
        (lambda t: (t / "validation-annotations-human-imagelabels.csv").unlink(),
         "no labels of split 'validation': looked for validation-annotations"),
    ],
)  # fmt: skip
def test_wrong_files_are_named(tree, change, said):
    change(tree)
    with pytest.raises(DataError, match=said):
        source(tree).taxonomy  # noqa: B018 - built when asked


def test_wrong_places_are_named(tmp_path):
    with pytest.raises(DataError, match="no folder '.*nowhere'"):
        source(tmp_path / "nowhere").taxonomy  # noqa: B018 - built when asked
    for wrong, said in (
        ({"test_split": "train"}, "are both 'train': no picture may be in both"),
        ({"labels": {"test": ("mine.csv",)}}, "'test' should be one of .'train', 'validation'"),
        ({"labels": {"train": ()}}, "'train' should be one of .*, with a file at least"),
        ({"cache": "s3://bucket/cache"}, "the cache is a folder of this machine"),
    ):
        with pytest.raises(ValidationError, match=said):
            OpenImagesOptions(metadata="x", **wrong)
    with pytest.raises(ValidationError, match="should have {id} in it"):
        OpenImagesOptions(metadata="x", images="s3://bucket/{split}/1.jpg")
    with pytest.raises(ValidationError, match="should have {id} in it"):
        OpenImagesOptions(metadata="x", images="s3://bucket/{image}.jpg")
