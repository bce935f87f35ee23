"""`kcframe predict`: pictures from anywhere, in every nasty format; what cannot be used is counted."""

from __future__ import annotations

import functools
import http.server
import json
import os
import shutil
import threading

import fsspec
import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

import kcframe
from kcframe.cli.main import cli
from kcframe.errors import DataError, RunDirError
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.storage.writing import writing
from kcframe.students.picture_files import PictureFile, list_files, read_pictures
from kcframe.students.prediction_files import MAX_ON_PAGE, Page


def predict(*arguments):
    """What the command printed; its errors come through."""
    done = CliRunner().invoke(cli, ["predict", *map(str, arguments)], catch_exceptions=False)
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.fixture
def nasty(tmp_path):
    """Files that people have: four that can be used, four that cannot."""
    image = Image.new("RGB", (30, 20), (200, 30, 30))
    image.save(tmp_path / "a.jpg")
    image.convert("CMYK").save(tmp_path / "b.JPG", "JPEG")
    image.quantize(4).save(tmp_path / "c.gif", save_all=True, append_images=[image.quantize(4)])
    image.convert("RGBA").save(tmp_path / "d.webp")
    (tmp_path / "e.png").write_bytes(b"")
    (tmp_path / "f.jpeg").write_bytes(b"<!doctype html><p>404")
    (tmp_path / "g.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:200])
    (tmp_path / "h.bmp").write_bytes(b"\x80\x04cposix\nsystem\n")
    (tmp_path / "notes.txt").write_text("no picture, and not named like one")
    (tmp_path / ".hidden.jpg").write_bytes(b"")
    return tmp_path


def test_what_cannot_be_used_is_counted_and_named(finished, nasty):
    (nasty / "i.HEIC").write_bytes(b"of a telephone")
    said = predict(finished, nasty, nasty / "missing.jpg", "--html", nasty / "page.html")
    assert f"4 of 9 pictures, seen by {kcframe.load(finished).arm}" in said
    assert "e.png: cannot be decoded: the file has zero bytes" in said
    assert "f.jpeg: cannot be decoded: it is an HTML page" in said
    assert "missing.jpg: no such file" in said
    assert "not looked at, by their names: 1 .heic, 1 .txt" in said


def test_nothing_that_can_be_used_is_an_error(finished, nasty):
    with pytest.raises(DataError, match="no picture could be used"):
        predict(finished, nasty / "e.png")
    (nasty / "empty").mkdir()
    with pytest.raises(DataError, match="empty: no picture in it that ends in jpg"):
        predict(finished, nasty / "empty")


def test_the_table_names_class_vertical_and_parents(finished, pictures):
    said = predict(finished, pictures / "test" / "owl" / "0.png", "--top", "1")
    (guess,) = kcframe.load(finished).predict([pictures / "test/owl/0.png"], top=1)[0]
    for word in ("0.png", guess.name, f"{100 * guess.probability:.1f}", *guess.verticals):
        assert word in said


def test_lines_rows_and_pages_say_the_same(finished, pictures, tmp_path):
    lines, rows, page = (tmp_path / name for name in ("p.jsonl", "p.parquet", "p.html"))
    (tmp_path / "bad.png").write_bytes(b"")
    predict(
        finished, pictures / "test", tmp_path / "bad.png", "--json", lines, "--parquet", rows, "--html", page,
        "--batch", "3", "--top", "2",
    )  # fmt: skip
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(found) == 21
    assert [row["error"] for row in found[:-1]] == [None] * 20
    assert found[-1] == {
        "picture": str(tmp_path / "bad.png"),
        "error": "cannot be decoded: the file has zero bytes",
        "top": [],
    }
    again = pq.read_table(rows).to_pylist()
    assert [row["picture"] for row in again] == [row["picture"] for row in found]
    for ours, theirs in zip(found, again, strict=True):
        assert [top["class"] for top in ours["top"]] == [top["class"] for top in theirs["top"]]
        for a, b in zip(ours["top"], theirs["top"], strict=True):
            assert a["probability"] == pytest.approx(b["probability"])
            assert a["verticals"] == b["verticals"]
            assert [p["class"] for p in a["parents"]] == [p["class"] for p in b["parents"]]
    text = page.read_text()
    assert text.count("<img ") == 20
    assert "&lt;b&gt;wren" in text
    assert "<b>wren" not in text
    assert "1 could not be used" in text
    seen = kcframe.load(finished).predict([row["picture"] for row in found[:-1]], top=2, batch_size=3)
    assert [[guess.as_json() for guess in guesses] for guesses in seen] == [row["top"] for row in found[:-1]]


def test_json_can_go_through_a_pipe(finished, pictures, tmp_path):
    done = CliRunner().invoke(
        cli, ["predict", str(finished), str(pictures / "test/mug"), str(tmp_path / "x.png"), "--json", "-"]
    )
    assert done.exit_code == 0
    assert [len(json.loads(line)["top"]) for line in done.stdout.splitlines()] == [5, 5, 5, 5, 0]
    assert "4 of 5 pictures" in done.stderr


def test_a_file_that_cannot_be_written_is_said_before_the_work(finished, pictures, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(RunDirError, match="file/p.html: cannot be written: "):
        predict(finished, pictures / "test", "--html", tmp_path / "file/p.html")
    predict(finished, pictures / "test/owl", "--html", tmp_path / "new folder/p.html")
    assert (tmp_path / "new folder/p.html").exists()


def test_a_page_has_an_end(finished, tmp_path):
    found = PictureFile("x", np.zeros((2, 2, 1), np.uint8), "aGk=")
    with open(tmp_path / "p.html", "wb") as file:
        page = Page(file, kcframe.load(finished))
        page.add([(found, [])] * (MAX_ON_PAGE + 7))
        page.close()
    text = (tmp_path / "p.html").read_text()
    assert text.count("<img ") == MAX_ON_PAGE
    assert f"The first {MAX_ON_PAGE} are shown" in text


# -- from anywhere ---------------------------------------------------------------------------------


def test_folders_patterns_and_urls(pictures, tmp_path):
    memory = fsspec.filesystem("memory")
    memory.rm("/", recursive=True)  # of other tests
    memory.put(str(pictures / "test"), "/seen", recursive=True)
    local = places(pictures / "test")
    names = [place.name for place in local]
    assert len(names) == 20
    assert names == sorted(names)
    some = [f"{pictures}/test/owl/{n}.png" for n in (0, 1)]
    assert [place.name for place in places(f"{pictures}/test/owl/[01].png")] == some
    archive = shutil.make_archive(str(tmp_path / "z"), "zip", pictures / "test")
    # One of a storage's folders, its root, a chain of storages.
    for url, start in (
        ("memory://seen", "memory://seen/"),
        ("memory://", "memory://seen/"),
        (f"zip://::{archive}", f"zip://::{archive}/"),
    ):
        remote = places(url)
        assert [place.name.removeprefix(start) for place in remote] == [
            name.removeprefix(f"{pictures}/test/") for name in names
        ]
        for ours, theirs in zip(_read(local), _read(remote), strict=True):
            assert np.array_equal(ours.pixels, theirs.pixels)
    with pytest.raises(DataError, match=r"owl/\*\.jpg: no picture in it"):
        list_files([f"{pictures}/test/owl/*.jpg"])
    with pytest.raises(DataError, match="nosuch://x: cannot be listed: ValueError"):
        list_files(["nosuch://x"])


def test_a_file_whose_name_looks_like_a_pattern(pictures, tmp_path):
    shutil.copy(pictures / "test/owl/0.png", tmp_path / "a[1].png")
    assert [place.name for place in places(tmp_path / "a[1].png")] == [str(tmp_path / "a[1].png")]


def test_a_name_that_is_no_text_is_shown_and_read(finished, pictures, tmp_path):
    folder = os.fsencode(tmp_path / "odd")
    os.mkdir(folder)
    shutil.copy(pictures / "test/owl/0.png", os.path.join(folder, b"caf\xe9.png"))
    predict(finished, tmp_path / "odd", "--json", tmp_path / "p.jsonl", "--html", tmp_path / "p.html")
    found = json.loads((tmp_path / "p.jsonl").read_text())
    assert found["picture"].endswith("odd/caf\\udce9.png")
    assert found["error"] is None


def test_pictures_from_a_web_server(pictures):
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    handler = functools.partial(quiet, directory=str(pictures))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        root = f"http://127.0.0.1:{server.server_address[1]}/test"
        good, bad = _read([*places(f"{root}/owl/0.png"), *places(f"{root}/owl/99.png")])
        assert good.pixels.shape == (16, 16, 3)
        assert bad.error == "no such file"
    finally:
        server.shutdown()
        server.server_close()


def places(name):
    return list_files([str(name)])[0]


def _read(found):
    transform = Transform(channels=3, image_size=16)
    return [each for batch in read_pictures(found, transform, 4) for each in batch]


# -- files that are written ------------------------------------------------------------------------


def test_what_goes_wrong_in_between_is_not_blamed_on_the_file(tmp_path):
    """And the old file stays whole."""
    (tmp_path / "p.html").write_text("old")

    def fail(url):
        with writing(url) as file:
            file.write(b"half")
            raise RuntimeError("out of memory")

    for url in (str(tmp_path / "p.html"), "memory://p.html"):
        with pytest.raises(RuntimeError, match="out of memory"):
            fail(url)
    assert (tmp_path / "p.html").read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["p.html"]
    assert not fsspec.filesystem("memory").exists("/p.html")


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(RunDirError, match="cannot be written: is a folder"), writing(str(tmp_path)):
        pass
