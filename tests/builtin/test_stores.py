"""Pictures as files, in tar shards and in Parquet files: the same pictures and labels whichever way,
read one by one against what was written; and the cache between."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import pickle
import shutil
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kcframe.assemble import construct
from kcframe.builtin.data.stores import tar as tars
from kcframe.builtin.data.stores.disk_cache import GIB, DiskCache
from kcframe.builtin.data.stores.files import find_files
from kcframe.errors import DataError, PluginError
from kcframe.recipe.schema import PluginRef
from tests.labelled_files import CLASSES, COUNTS, pictures, write_parquet, write_shards, write_tar


def source(kind, root, **options):
    ending = "tar" if kind == "webdataset" else "parquet"
    given = {split: f"{root}/{split}-*.{ending}" for split in COUNTS} | {
        "image_size": 8, "cache": str(root / "cache"), "max_bad_fraction": 0.0,
    }  # fmt: skip
    return construct("data", PluginRef(name=kind, options=given | options))


def taxonomy_of(*given, **options):
    return source(*given, **options).taxonomy


@pytest.fixture
def shards(tmp_path):
    for split in COUNTS:
        write_shards(tmp_path, split)
    return tmp_path


def names_of(found, split):
    labels, classes = found.split(split).labels, found.taxonomy.classes
    return [{classes[c] for c in labels.of(image)} for image in range(len(labels))]


def pixels_of(found, split):
    images = found.split(split)
    return images.load(torch.arange(len(images)), None)


def expected_pixels(split):
    colours = [Image.open(io.BytesIO(data)).getpixel((0, 0)) for _, _, data in pictures(split)]
    return torch.tensor(colours).float()[:, :, None, None].expand(-1, 3, 8, 8) / 255


# -- the same whichever way ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_pictures_and_labels_are_those_that_were_written(tmp_path, kind):
    for split in COUNTS:
        write_shards(tmp_path, split)
    write_parquet(tmp_path)
    found = source(kind, tmp_path)
    assert found.taxonomy.verticals == ("birds", "cars")
    for split in COUNTS:
        assert names_of(found, split) == [{text.partition("/")[2]} for _, text, _ in pictures(split)]
        torch.testing.assert_close(pixels_of(found, split), expected_pixels(split), atol=1e-6, rtol=0)
        # Another process opens its own connections and threads.
        again = pickle.loads(pickle.dumps(found.split(split)))
        assert torch.equal(again.load(torch.tensor([3, 1]), None), pixels_of(found, split)[[3, 1]])


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_the_same_from_a_bucket(bucket, tmp_path, kind, proxy):
    import s3fs

    for split in COUNTS:
        write_shards(tmp_path, split)
    write_parquet(tmp_path)
    storage = s3fs.S3FileSystem()
    for file in tmp_path.glob("t*-*.*"):
        storage.pipe_file(f"{bucket}/{file.name}", file.read_bytes())
    ending = "tar" if kind == "webdataset" else "parquet"
    addresses = {split: f"{bucket}/{split}-*.{ending}" for split in COUNTS}
    found = source(kind, tmp_path, cache_gib=0.1, **addresses)
    for split in COUNTS:
        torch.testing.assert_close(pixels_of(found, split), expected_pixels(split), atol=1e-6, rtol=0)
    reads = proxy.reads
    for split in COUNTS:
        torch.testing.assert_close(pixels_of(found, split), expected_pixels(split), atol=1e-6, rtol=0)
    assert proxy.reads == reads  # this machine has them now
    cost = found.split("train").read_cost()
    assert not cost.again
    assert cost.requests == (1 if kind == "webdataset" else pytest.approx(4 / 12))
    sizes = [len(data) for _, _, data in pictures("train")]
    assert cost.bytes == pytest.approx(np.mean(sizes), rel=0.01 if kind == "webdataset" else 0.6)


# -- webdataset ---------------------------------------------------------------------------------------


def as_json(text):
    return "json", json.dumps({"label": text, "width": 14}).encode()


def as_numbers(text):
    return "cls", str(CLASSES.index(text)).encode()


@pytest.mark.parametrize(
    ("label", "options"), [(as_json, {"label": "json"}), (as_numbers, {"classes": "names"})]
)
def test_labels_in_json_and_as_numbers(tmp_path, label, options):
    for split in COUNTS:
        write_shards(tmp_path, split, label=label)
    (tmp_path / "names").write_text("\n".join(CLASSES) + "\n")
    if "classes" in options:
        options = {"classes": str(tmp_path / "names")}
    found = source("webdataset", tmp_path, **options)
    assert names_of(found, "test") == [{text.partition("/")[2]} for _, text, _ in pictures("test")]


def test_several_labels_and_a_taxonomy_with_parents(tmp_path):
    def two(text):
        return "txt", f"{text.partition('/')[2]}\n coupe \n".encode()

    for split in COUNTS:
        write_shards(tmp_path, split, label=two)
    (tmp_path / "classes.csv").write_text(
        "class,vertical,parents\nbird,birds,\nwren,birds,bird\ncrow,birds,bird\ncoupe,cars,\n"
    )
    found = source("webdataset", tmp_path, label="txt", taxonomy=str(tmp_path / "classes.csv"))
    assert names_of(found, "train")[:3] == [{"wren", "bird", "coupe"}, {"crow", "bird", "coupe"}, {"coupe"}]
    own = found.split("train").labels
    assert all(own.of(image) == sorted(own.of(image)) for image in range(len(own)))


def test_names_in_two_shards_folders_and_other_members(tmp_path):
    """One key in two shards is two samples; what has no label, or no picture, is left out and counted."""
    (_, _, one), (_, _, two), (_, _, three) = pictures("train")[:3]
    write_tar(tmp_path / "train-0.tar", [
        ("x.cls", b"birds/wren"), ("x.png", one), ("x.json", b"{}"), ("lonely.png", three),
        ("y.cls", b"cars/coupe"),
        ("long" * 60 + "/ü.PNG", three), ("long" * 60 + "/ü.cls", b"cars/coupe"),
    ])  # fmt: skip
    write_tar(tmp_path / "train-1.tar", [("x.png", two), ("x.cls", b"birds/crow")])
    write_shards(tmp_path, "test")
    found = source("webdataset", tmp_path)
    assert names_of(found, "train") == [{"wren"}, {"coupe"}, {"crow"}]
    assert found.describe()["train pictures without label"] == 1
    colours = pixels_of(found, "train")[:, :, 0, 0].mul(255).round().int().tolist()
    assert colours == [list(Image.open(io.BytesIO(data)).getpixel((0, 0))) for data in (one, three, two)]


def test_a_shard_is_listed_once_and_anew_when_it_changes(shards, monkeypatch):
    before = names_of(source("webdataset", shards), "train")
    listed = []
    real = tars._listed
    monkeypatch.setattr(tars, "_listed", lambda *given: listed.append(given[1]) or real(*given))
    assert names_of(source("webdataset", shards), "train") == before
    assert listed == []
    time.sleep(0.01)
    write_tar(shards / "train-001.tar", [("new.cls", b"cars/coupe"), ("new.png", pictures("train")[0][2])])
    assert len(names_of(source("webdataset", shards), "train")) == 12 - 5 + 1
    assert [os.path.basename(path) for path in listed] == ["train-001.tar"]


def test_a_damaged_picture_in_a_shard_is_named(shards):
    data = pictures("train")[0][2]
    write_tar(shards / "train-000.tar", [("bad.cls", b"cars/coupe"), ("bad.png", data[:30])])
    found = source("webdataset", shards)
    with pytest.raises(DataError, match=r"train-000.tar: bad.png: cannot be decoded"):
        found.split("train").load(torch.tensor([0]), None)


def cut(file):
    file.write_bytes(file.read_bytes()[:1000])


def garbage(file):
    file.write_bytes(b"hello" * 999)


def compressed(file):
    import gzip

    file.write_bytes(gzip.compress(file.read_bytes()))


def not_json(file):
    write_tar(file, [("a.json", b"[1]"), ("a.png", b"x")])


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (cut, {}, "train-000.tar: (is cut off|no tar file, or damaged)"),
        (garbage, {}, "train-000.tar: no tar file, or damaged"),
        (compressed, {}, r"train-000.tar: is compressed.*gunzip"),
        (not_json, {"label": "json"}, "a.png: its .json member: has no field 'label'"),
        (None, {"label": "txt"}, r"no picture with a label in a .txt member.*\.cls, \.png"),
        (None, {"train": "{root}/nothing-*.tar"}, r"data.options.train: no file '.*nothing"),
        (None, {"train": "{root}/train-{{000..007}}.tar"}, r"data.options.train: no file '.*train-003.tar'"),
        (None, {"classes": "{root}/missing"}, "data.options.classes: no file"),
        (
            None,
            {"taxonomy": "{root}/tax.csv"},
            r"a/b/train000.png: .*tax.csv has no class 'birds/wren'.*wren",
        ),
    ],
)
def test_what_is_wrong_with_shards_is_said(shards, change, options, said):
    (shards / "tax.csv").write_text("class,vertical\nbird-wren,birds\n")
    if change is not None:
        change(shards / "train-000.tar")
    options = {name: value.format(root=shards) for name, value in options.items()}
    with pytest.raises(DataError, match=said):
        taxonomy_of("webdataset", shards, **options)


@pytest.mark.parametrize("change", ["flip", "in a header", "between members"])
def test_no_sample_is_lost_behind_damage(shards, change):
    file = shards / "train-000.tar"
    with tarfile.open(file) as archive:
        third = archive.getmembers()[4].offset
    data = bytearray(file.read_bytes())
    if change == "flip":
        data[third + 5] ^= 255
    file.write_bytes(data if change == "flip" else data[: third + (100 if change == "in a header" else 0)])
    with pytest.raises(DataError, match=f"train-000.tar: is cut off or damaged at byte {third:,}"):
        taxonomy_of("webdataset", shards)


def test_an_empty_member_is_no_range(shards):
    write_tar(shards / "train-000.tar", [("bad.cls", b"cars/coupe"), ("bad.png", b"")])
    with pytest.raises(DataError, match=r"bad.png: cannot be decoded: the file has zero bytes"):
        source("webdataset", shards).split("train").load(torch.tensor([0]), None)


def test_splits_whose_patterns_meet_are_refused(shards):
    with pytest.raises(DataError, match="both mean .*train-001.tar"):
        taxonomy_of("webdataset", shards, test=f"{shards}/train-001.tar")


def test_files_that_number_classes_otherwise_are_refused(tmp_path):
    write_parquet(tmp_path, label=CLASSES.index, types={"metadata": hugging_face(CLASSES)})
    other = pq.read_table(tmp_path / "train-1.parquet").replace_schema_metadata(hugging_face(CLASSES[::-1]))
    pq.write_table(other, tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match="train-1.parquet: its schema has other class names for 'label'"):
        taxonomy_of("parquet", tmp_path)


def test_labels_that_name_no_vertical_or_an_unknown_class(shards):
    write_shards(shards, "test", label=lambda text: ("cls", text.replace("crow", "craw").encode()))
    with pytest.raises(DataError, match=r"test001.png: the train split has no class 'birds/craw'.*crow"):
        taxonomy_of("webdataset", shards)
    write_shards(shards, "train", label=lambda text: ("cls", b"wren"))
    with pytest.raises(DataError, match="train000.png: its label 'wren' is not VERTICAL/CLASS"):
        taxonomy_of("webdataset", shards)


def test_a_number_beyond_the_list_of_classes(tmp_path):
    for split in COUNTS:
        write_shards(tmp_path, split, label=as_numbers)
    (tmp_path / "names").write_text("birds/wren\nbirds/crow")
    with pytest.raises(DataError, match=r"train002.png: label 2: .*names has 2 classes"):
        taxonomy_of("webdataset", tmp_path, classes=str(tmp_path / "names"))


def test_addresses_are_shown_without_their_secrets(shards):
    for address in (
        "https://me:secret@127.0.0.1:9/x.tar?token=hidden",
        "ftp://me:secret@127.0.0.1:9/x-*.tar",
    ):
        with pytest.raises(DataError, match="data.options.train: .*127.0.0.1:9/x") as caught:
            taxonomy_of("webdataset", shards, train=address)
        assert "secret" not in str(caught.value)
        assert "hidden" not in str(caught.value)


def test_files_of_one_split_lie_in_one_storage(shards):
    with pytest.raises(DataError, match="data.options.train: .*memory://x.* lie in different storages"):
        taxonomy_of("webdataset", shards, train=[f"{shards}/train-*.tar", "memory://x/*.tar"])


def test_one_file_in_both_splits_is_refused(shards):
    with pytest.raises(PluginError, match="train and test both name"):
        source("webdataset", shards, test=f"{shards}/train-*.tar")


def test_addresses_with_braces(tmp_path):
    for name in ("a-08", "a-09", "a-10", "b-1", "c[1]"):
        (tmp_path / name).write_bytes(b"")
    found = find_files([f"{tmp_path}/a-{{08..10}}", f"{tmp_path}/{{b-1,a-09}}"], "here", False)
    assert [os.path.basename(path) for path in found.paths] == ["a-08", "a-09", "a-10", "b-1"]


# -- parquet ------------------------------------------------------------------------------------------


def hugging_face(names, sequence=False):
    feature = {"names": names, "_type": "ClassLabel"}
    if sequence:
        feature = {"feature": feature, "_type": "Sequence"}
    return {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}


@pytest.mark.parametrize(
    "how",
    [
        {"types": {"image": pa.large_binary(), "label": pa.large_string()}},
        {"label": lambda text: [text], "rows": 1},
        {"types": {"label": pa.dictionary(pa.int32(), pa.string())}, "rows": 100},
        {
            "image": lambda data: {"bytes": data, "path": None},
            "label": CLASSES.index,
            "types": {
                "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
                "label": pa.int64(),
                "metadata": hugging_face(CLASSES),
            },
        },
        {
            "label": lambda text: [CLASSES.index(text)],
            "types": {"label": pa.list_(pa.int16()), "metadata": hugging_face(CLASSES, True)},
        },
    ],
)
def test_kinds_of_columns(tmp_path, how):
    write_parquet(tmp_path, **how)
    found = source("parquet", tmp_path)
    for split in COUNTS:
        assert names_of(found, split) == [{text.partition("/")[2]} for _, text, _ in pictures(split)]
        torch.testing.assert_close(pixels_of(found, split), expected_pixels(split), atol=1e-6, rtol=0)


def test_rows_without_label_or_picture(tmp_path):
    write_parquet(
        tmp_path,
        image=lambda data: None if data == pictures("train")[5][2] else data,
        label=lambda text: None if text == "birds/crow" else text,
    )
    found = source("parquet", tmp_path, max_bad_fraction=0.5)
    assert found.describe()["train pictures without label"] == 4
    train = found.split("train")
    assert len(train) == 8
    _, bad = train.load_readable(torch.arange(8), None)
    assert list(bad) == [3]
    assert "train-0.parquet: row 5: no such file" in bad[3]


@pytest.mark.parametrize(
    ("how", "options", "said"),
    [
        ({}, {"image": "picture"}, r"train-0.parquet: no column 'picture' \(data.options.image\).*image"),
        ({}, {"label": "class"}, r"no column 'class' \(data.options.label\).*label"),
        ({"image": lambda data: "a.png"}, {}, "column 'image' is of string: it should hold the bytes"),
        ({"label": lambda text: 0.5}, {}, "column 'label' is of double: it should hold texts or numbers"),
        ({"label": lambda text: None, "types": {"label": pa.string()}}, {}, "no row with a label"),
        ({"label": lambda text: [text, None]}, {}, r"an empty \(null\) label in a list"),
        ({}, {"cache_gib": 1e-6}, r"unpacked, its pictures are .*cache_gib"),
    ],
)
def test_what_is_wrong_with_parquet_files_is_said(tmp_path, how, options, said):
    write_parquet(tmp_path, **how)
    with pytest.raises(DataError, match=said):
        taxonomy_of("parquet", tmp_path, **options)


def test_row_groups_that_another_run_deletes_are_unpacked_again(tmp_path, monkeypatch):
    write_parquet(tmp_path)
    found = source("parquet", tmp_path)
    real = DiskCache.file

    def deleted_once(cache, key, make):
        path = real(cache, key, make)
        if key not in deleted:
            deleted.append(key)
            path.unlink()
        return path

    deleted = []
    monkeypatch.setattr(DiskCache, "file", deleted_once)
    torch.testing.assert_close(pixels_of(found, "train"), expected_pixels("train"), atol=1e-6, rtol=0)
    assert len(deleted) == 4


def test_a_cache_for_row_groups_that_cannot_be_written_is_said(tmp_path):
    write_parquet(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.options.cache: .*file/pictures: cannot be written: Not a dir"):
        taxonomy_of("parquet", tmp_path, cache=str(tmp_path / "file"))


def test_a_file_that_is_no_parquet_file(tmp_path):
    write_parquet(tmp_path)
    (tmp_path / "train-1.parquet").write_bytes(b"hello")
    with pytest.raises(DataError, match="train-1.parquet: no Parquet file, or damaged"):
        taxonomy_of("parquet", tmp_path)


# -- the cache ----------------------------------------------------------------------------------------


def total(folder):
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file() and not f.name.endswith("lock"))


def test_the_cache_stays_below_its_limit_and_drops_what_was_unused_longest(tmp_path):
    cache = DiskCache(tmp_path, 100_000)
    made = []

    def get(key):
        return cache.read(key, lambda: made.append(key) or key.encode() * 100)

    for number in range(400):
        assert get(f"{number:010d}") == f"{number:010d}".encode() * 100
        assert total(tmp_path) <= 100_000 * (1 + 1 / 64) + 1000
        now = 1_000_000_000 + number
        for file in (cache._path("0000000003"), cache._path(f"{number:010d}")):
            if file.exists():
                os.utime(file, (now, now))  # whose clock is finer than a turn of this loop
    made.clear()
    get("0000000003")  # was used all the time
    get("0000000399")
    assert made == []
    get("0000000005")
    assert made == ["0000000005"]


def test_a_folder_that_disappears_does_no_harm(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "c", 10)

    def gone():
        shutil.rmtree(tmp_path / "c")
        os.scandir(tmp_path / "c")

    monkeypatch.setattr(cache, "_shrink", gone)
    assert cache.read("a", lambda: b"data") == b"data"
    assert cache.read("a", lambda: b"anew") == b"anew"


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = DiskCache(tmp_path / "file", 1000)
    assert cache.read("a", lambda: b"data") == b"data"


def _make_once(folder, started, made):
    def make(path):
        with made.get_lock():
            made.value += 1
        time.sleep(0.2)
        path.write_bytes(b"x" * 10)

    started.wait()
    assert DiskCache(folder, GIB).file("key", make).read_bytes() == b"x" * 10


def test_one_process_makes_a_file_and_the_others_wait(tmp_path):
    context = multiprocessing.get_context("fork")
    started, made = context.Event(), context.Value("i", 0)
    processes = [context.Process(target=_make_once, args=(tmp_path, started, made)) for _ in range(3)]
    for process in processes:
        process.start()
    started.set()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert made.value == 1


def test_threads_share_what_is_kept(tmp_path):
    cache, found = DiskCache(tmp_path, GIB), []
    threads = [
        threading.Thread(target=lambda n=n: found.append(cache.read(str(n % 3), lambda: b"%d" % (n % 3))))
        for n in range(30)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [b"0"] * 10 + [b"1"] * 10 + [b"2"] * 10
