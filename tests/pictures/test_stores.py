"""Pictures as files, in tar shards and in Parquet files: the same pictures and labels whichever way,
read one by one against what was written."""

from __future__ import annotations

import http.server
import io
import json
import math
import os
import pickle
import tarfile
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from kcframe.assembly.plugins import construct
from kcframe.errors import DataError, PluginError, StorageError
from kcframe.pictures.stores import disk_cache, row_groups
from kcframe.pictures.stores import tar as tars
from kcframe.pictures.stores.disk_cache import GIB
from kcframe.pictures.stores.files import find_files
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
    assert cost.room == 0.75 * int(0.1 * GIB) if kind == "webdataset" else cost.room == math.inf
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
        (None, {"train": "{root}/train-{{2..0}}.tar"}, r"data.options.train: .*\{2..0\} counts down"),
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


def test_files_that_differ_in_their_query_are_two(shards):
    """Addresses are compared as they are, and shown without."""

    class Server(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return str(shards / path.partition("?id=")[2])

        def log_message(self, *given): ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/get?id="
    try:
        found = source("webdataset", shards, train=f"{url}train-000.tar", test=f"{url}test-000.tar")
        assert names_of(found, "train") == [{text.partition("/")[2]} for _, text, _ in pictures("train")[:5]]
        twice = {"train": f"{url}train-000.tar", "test": f"{url}{{test,train}}-000.tar"}
        with pytest.raises(DataError, match="both mean http://127.0.0.1:[0-9]*/get: one"):
            taxonomy_of("webdataset", shards, **twice)
    finally:
        server.shutdown()


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


def test_a_class_of_another_vertical_than_the_train_splits(shards):
    write_shards(shards, "test", label=lambda text: ("cls", text.replace("birds/crow", "cars/crow").encode()))
    with pytest.raises(DataError, match=r"test001.png: the train split has no class 'cars/crow'.*birds/crow"):
        taxonomy_of("webdataset", shards)


def test_of_two_pictures_with_one_name_the_first_counts(tmp_path):
    (_, _, one), (_, _, two) = pictures("train")[:2]
    members = [
        ("x.png", one),
        ("x.jpg", two),
        ("x.cls", b"birds/wren"),
        ("y.cls", b"cars/coupe"),
        ("y.png", two),
    ]
    for split in COUNTS:
        write_tar(tmp_path / f"{split}-0.tar", members)
    found = source("webdataset", tmp_path)
    assert names_of(found, "train") == [{"wren"}, {"coupe"}]
    assert found.split("train").name(0).endswith("x.png")


def test_an_empty_list_of_labels_is_no_label(tmp_path):
    def as_list(text):
        return "json", json.dumps({"label": [] if "crow" in text else [text]}).encode()

    for split in COUNTS:
        write_shards(tmp_path, split, label=as_list)
    found = source("webdataset", tmp_path, label="json")
    own = [text.partition("/")[2] for _, text, _ in pictures("train")]
    assert names_of(found, "train") == [{name} for name in own if name != "crow"]
    assert found.describe()["train pictures without label"] == own.count("crow")
    kept = [row for row, name in enumerate(own) if name != "crow"]
    torch.testing.assert_close(pixels_of(found, "train"), expected_pixels("train")[kept], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"label": "\\ud800"}', "a.png: its .json member: .*surrogates"),
        (b'{"label": ' + b"[" * 9999 + b"]" * 9999 + b"}", "a.png: its .json member: is nested too deep"),
        (b'{"label": ' + b"9" * 5000 + b"}", "a.png: its .json member: Exceeds the limit"),
        (b'{"label": "' + b"9" * 5000 + b'"}', "a.png: label 9{19}: .*names has 1 classes"),
        (b"{", "a.png: its .json member: Expecting"),
    ],
)
def test_labels_that_are_none_are_named(shards, content, said):
    (shards / "names").write_text("birds/wren")
    write_shards(shards, "test", label=as_json)
    write_tar(shards / "train-000.tar", [("a.json", content), ("a.png", b"x")])
    with pytest.raises(DataError, match=said):
        taxonomy_of("webdataset", shards, label="json", classes=str(shards / "names"))


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
        "simplecache::HTTP://me:secret@127.0.0.1:9/x.tar?token=hidden",
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
        (
            {},
            {"cache_gib": 1e-6},
            r"data.options.cache_gib: 1e-06 are too few: 75% .* two splits.*GiB: give 0.1",
        ),
    ],
)
def test_what_is_wrong_with_parquet_files_is_said(tmp_path, how, options, said):
    write_parquet(tmp_path, **how)
    with pytest.raises(DataError, match=said):
        taxonomy_of("parquet", tmp_path, **options)


def test_the_cache_must_have_room_for_both_splits(tmp_path):
    write_parquet(tmp_path)
    found = source("parquet", tmp_path)
    sizes = {split: found.split(split).store.unpacked for split in COUNTS}
    enough = sum(sizes.values()) / 0.75 / GIB
    assert max(sizes.values()) < 0.99 * sum(sizes.values())
    taxonomy_of("parquet", tmp_path, cache_gib=enough * 1.001)
    with pytest.raises(DataError, match="too few"):
        taxonomy_of("parquet", tmp_path, cache_gib=enough * 0.99)


def test_row_groups_that_another_run_deletes_are_unpacked_again(tmp_path, monkeypatch):
    write_parquet(tmp_path)
    found = source("parquet", tmp_path)
    real, deleted = row_groups._mapped, []

    def deleted_once(path):
        if path.exists() and path not in deleted:
            deleted.append(path)
            path.unlink()
        return real(path)

    monkeypatch.setattr(row_groups, "_mapped", deleted_once)
    torch.testing.assert_close(pixels_of(found, "train"), expected_pixels("train"), atol=1e-6, rtol=0)
    assert len(deleted) == 4


def test_a_row_group_that_was_never_written_to_the_end_is_unpacked_again(tmp_path):
    write_parquet(tmp_path)
    pixels_of(source("parquet", tmp_path), "train")
    kept = [file for file in (tmp_path / "cache/pictures").rglob("??/*") if file.suffix != ".lock"]
    assert len(kept) == 4
    for file in kept:
        file.write_bytes(file.read_bytes()[:100])
    again = pixels_of(source("parquet", tmp_path), "train")
    torch.testing.assert_close(again, expected_pixels("train"), atol=1e-6, rtol=0)


def test_many_rows_in_a_group_are_unpacked_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(row_groups, "ROWS", 3)
    write_parquet(tmp_path, rows=100)
    found = source("parquet", tmp_path)
    torch.testing.assert_close(pixels_of(found, "train"), expected_pixels("train"), atol=1e-6, rtol=0)
    assert found.split("train").store._pictures(0, 0).num_chunks == 2


def test_a_missing_file_is_a_bad_picture_and_a_cache_that_fails_is_not(tmp_path, monkeypatch):
    """Else a full disk would be taken for damaged pictures, and training would go on without them."""
    write_parquet(tmp_path)
    found = source("parquet", tmp_path, max_bad_fraction=1.0)
    train = found.split("train")
    (tmp_path / "train-1.parquet").rename(tmp_path / "elsewhere")
    _, bad = train.load_readable(torch.arange(12), None)
    assert list(bad) == list(range(6, 12))
    (tmp_path / "elsewhere").rename(tmp_path / "train-1.parquet")
    for error in (PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")):

        def refuses(self, *given, error=error, **named):
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(disk_cache.FileLock, "acquire", refuses)
            with pytest.raises(
                StorageError, match=r"data.options.cache: .*/pictures: cannot be used: (Perm|No)"
            ):
                train.load_readable(torch.arange(12), None)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux' /dev/full")
def test_a_full_disk_is_said_as_such(tmp_path, monkeypatch):
    write_parquet(tmp_path)
    train = source("parquet", tmp_path, max_bad_fraction=1.0).split("train")
    real = row_groups.pa.ipc.new_file
    monkeypatch.setattr(row_groups.pa.ipc, "new_file", lambda _, schema: real("/dev/full", schema))
    with pytest.raises(StorageError, match="data.options.cache: .*No space left on device; make room"):
        train.load_readable(torch.arange(12), None)


def test_a_cache_for_row_groups_that_cannot_be_written_is_said(tmp_path):
    write_parquet(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"data.options.cache: .*file/pictures: cannot be written: Not a dir"):
        taxonomy_of("parquet", tmp_path, cache=str(tmp_path / "file"))


def test_row_groups_in_use_are_said_to_be(tmp_path, monkeypatch):
    write_parquet(tmp_path)
    train = source("parquet", tmp_path).split("train")
    train.load(torch.arange(12), None)
    kept = [file for file in (tmp_path / "cache/pictures").rglob("??/*") if file.suffix != ".lock"]
    for file in kept:
        os.utime(file, (1, 1))
    train.load(torch.arange(12), None)
    assert {file.stat().st_mtime for file in kept} == {1}
    monkeypatch.setattr(row_groups, "SAID_EVERY", 0.0)
    train.load(torch.arange(12), None)
    assert min(file.stat().st_mtime for file in kept) > 1


def test_a_file_that_has_changed_is_unpacked_anew(tmp_path):
    write_parquet(tmp_path)
    pixels_of(source("parquet", tmp_path), "train")
    black = io.BytesIO()
    Image.new("RGB", (14, 12)).save(black, "PNG")
    write_parquet(tmp_path, image=lambda data: black.getvalue().ljust(len(data), b"\0"))
    assert pixels_of(source("parquet", tmp_path), "train").max() == 0


def test_the_room_of_a_column_with_a_dot_in_its_name(tmp_path):
    write_parquet(tmp_path)
    for file in tmp_path.glob("*.parquet"):
        pq.write_table(pq.read_table(file).rename_columns(["the.image", "label"]), file)
    assert source("parquet", tmp_path, image="the.image").split("train").store.unpacked > 500


def test_the_file_that_is_wrong_is_named(tmp_path):
    write_parquet(tmp_path, label=lambda text: [text])
    wrong = pq.read_table(tmp_path / "train-1.parquet")
    labels = pa.array([[None]] * len(wrong), pa.list_(pa.string()))
    pq.write_table(wrong.set_column(1, "label", labels), tmp_path / "train-1.parquet")
    with pytest.raises(DataError, match=r"train-1.parquet: an empty \(null\) label in a list"):
        taxonomy_of("parquet", tmp_path)


def test_a_file_that_is_no_parquet_file(tmp_path):
    write_parquet(tmp_path)
    (tmp_path / "train-1.parquet").write_bytes(b"hello")
    with pytest.raises(DataError, match="train-1.parquet: no Parquet file, or damaged"):
        taxonomy_of("parquet", tmp_path)
