"""Files kept on this machine's disk up to a size: whatever other processes, users and clocks do to them."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from kcframe.errors import DataError
from kcframe.pictures.stores import disk_cache
from kcframe.pictures.stores.disk_cache import GIB, DiskCache


def total(folder):
    return sum(f.stat().st_size for f in folder.rglob("??/*") if not f.name.endswith("lock"))


def own_files(cache):
    return [file for file in cache.folder.rglob("??/*") if file.suffix != ".lock"]


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
    assert DiskCache(folder, GIB).opened("key", Path.read_bytes, make) == b"x" * 10


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


def test_what_cannot_be_marked_as_used_is_read_all_the_same(tmp_path, monkeypatch):
    """Another user's file, say."""
    cache = DiskCache(tmp_path, GIB)
    cache.read("a", lambda: b"data")

    def refuses(*given):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuses)
    assert cache.read("a", lambda: pytest.fail("made again")) == b"data"
    assert cache.opened("a", Path.read_bytes, lambda path: pytest.fail("made again")) == b"data"


def test_one_that_cannot_be_deleted_keeps_no_other(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path, 10_000)
    cache.read("stuck", lambda: b"x" * 1000)
    stuck = own_files(cache)[0]
    os.utime(stuck, (1, 1))
    unlink = os.unlink

    def refuses(path, *given, **named):
        if str(path) == str(stuck):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, *given, **named)

    monkeypatch.setattr(os, "unlink", refuses)
    for number in range(60):
        cache.read(str(number), lambda: b"x" * 1000)
        assert total(tmp_path) <= 10_000 + 1000
    assert stuck.exists()


def test_files_are_only_looked_at_when_they_are_too_much(tmp_path, monkeypatch):
    looked = []
    real = DiskCache._files
    monkeypatch.setattr(DiskCache, "_files", lambda cache: looked.append(1) or real(cache))
    cache = DiskCache(tmp_path, 100_000)
    for number in range(90):
        cache.read(str(number), lambda: b"x" * 1000)
    assert len(looked) == 1  # the first time: nobody had said yet how much there is
    for number in range(90, 140):
        cache.read(str(number), lambda: b"x" * 1000)
    assert len(looked) <= 7  # near the limit perhaps in vain, and above it once to choose, once to delete
    assert total(tmp_path) <= 100_000


def test_processes_that_end_soon_keep_below_the_limit_too(tmp_path):
    """They have said beforehand what they may add."""
    for number in range(300):
        cache = DiskCache(tmp_path, 100_000)
        cache.read(f"{number}a", lambda: b"x" * 10)
        cache.read(f"{number}b", lambda: b"x" * 1500)
        assert total(tmp_path) <= 100_000 + 1510


def test_what_is_in_the_making_is_not_deleted(tmp_path):
    cache = DiskCache(tmp_path, 10_000)

    def make(part):
        part.write_bytes(b"x" * 1000)
        os.utime(part, (time.time() - 600,) * 2)  # a slow storage
        other = DiskCache(tmp_path, 10_000)
        for number in range(40):
            other.read(str(number), lambda: b"y" * 1000)

    assert cache.opened("slow", Path.read_bytes, make) == b"x" * 1000


def test_left_over_parts_go(tmp_path):
    cache = DiskCache(tmp_path, 10_000)
    cache.read("a", lambda: b"x")
    left = own_files(cache)[0].parent / ".a.part"
    left.write_bytes(b"x" * 5000)
    os.utime(left, (1, 1))
    for number in range(20):
        cache.read(str(number), lambda: b"x" * 1000)
    assert not left.exists()


@pytest.mark.parametrize("said", [None, b"", b"nonsense", b"0 99999999999999", b"0 0"])
def test_what_is_said_to_be_there_is_not_trusted_for_ever(tmp_path, said):
    first = DiskCache(tmp_path, 100_000)
    for number in range(90):
        first.read(str(number), lambda: b"x" * 1000)
    counted = tmp_path / disk_cache.COUNTED
    counted.unlink() if said is None else counted.write_bytes(said)
    DiskCache(tmp_path, 50_000).read("new", lambda: b"x" * 1000)
    assert total(tmp_path) <= 0.75 * 50_000


def test_what_is_deleted_over_and_over_is_said(tmp_path):
    def gone(path):
        raise FileNotFoundError(path)

    with pytest.raises(OSError, match="was deleted 5 times before it was opened"):
        DiskCache(tmp_path, GIB).opened("a", gone, lambda path: path.write_bytes(b"x"))


# -- nothing of the user's is deleted --------------------------------------------------------------


def fill(cache, count=60):
    for number in range(count):
        cache.read(str(number), lambda: b"x" * 1000)


def test_a_new_folder_is_for_its_user_alone_and_says_whose_it_is(tmp_path):
    cache = DiskCache(tmp_path / "a/b", GIB)
    cache.read("k", lambda: b"data")
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700
    assert "kcframe" in (tmp_path / "a/b" / disk_cache.MARK).read_text()


def test_a_folder_of_the_users_own_is_refused_and_stays_as_it_is(tmp_path):
    """`cache: /home/me`, where `me/pictures` has albums."""
    albums = tmp_path / "pictures"
    for album in ("ab", "cats"):  # one with a name like the cache's own
        (albums / album).mkdir(parents=True)
        (albums / album / "holiday.jpg").write_bytes(b"x" * 5000)
        os.utime(albums / album / "holiday.jpg", (1, 1))
    with pytest.raises(DataError, match=r"data.options.cache: .*pictures: holds 'cats', which no cache"):
        fill(DiskCache(albums, 10_000))
    assert len(list(albums.rglob("*.jpg"))) == 2
    assert sorted(path.name for path in albums.iterdir()) == ["ab", "cats"]


def test_only_files_of_the_caches_shape_are_deleted(tmp_path):
    folder = tmp_path / "cache"
    cache = DiskCache(folder, 10_000)
    cache.read("a", lambda: b"x")
    inside = own_files(cache)[0].parent
    mine = [inside / "holiday.jpg", folder / "letters" / "a.txt"]
    for file in mine:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x" * 20_000)
        os.utime(file, (1, 1))
    outside = tmp_path / "outside"
    outside.mkdir()
    target = outside / ("0" * 38)
    target.write_bytes(b"x" * 20_000)
    os.utime(target, (1, 1))
    (folder / "ff").symlink_to(outside)
    (inside / ("1" * 38)).symlink_to(target)
    fill(DiskCache(folder, 10_000))
    assert all(file.exists() for file in (*mine, target))


@pytest.mark.parametrize("kind", ["a link", "open to others", "another user's"])
def test_a_folder_that_others_can_change_is_refused(kind, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    DiskCache(folder, GIB).read("a", lambda: b"data")
    said = {
        "a link": "is a link",
        "open to others": "can be written by other",
        "another user's": "is another",
    }
    if kind == "a link":
        (tmp_path / "link").symlink_to(folder)
        folder = tmp_path / "link"
    elif kind == "open to others":
        folder.chmod(0o777)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    with pytest.raises(DataError, match=said[kind]):
        DiskCache(folder, GIB).read("a", lambda: b"data")


def test_a_planted_link_is_not_written_through(tmp_path):
    """Where the total is written, and where a file would lie."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    cache = DiskCache(tmp_path / "cache", 10_000)
    cache.claim()
    (cache.folder / disk_cache.COUNTED).symlink_to(victim)
    path = cache._path("b")
    path.parent.mkdir()
    path.symlink_to(victim)
    assert cache.read("b", lambda: b"anew") in (b"anew", b"mine")
    other = cache._path("a")
    if not other.parent.exists():
        other.parent.symlink_to(tmp_path)
        assert cache.read("a", lambda: b"anew") == b"anew"
        assert not (tmp_path / other.name).exists()
    fill(cache)
    assert victim.read_text() == "mine"


def test_an_earlier_kcframes_folder_is_adopted(tmp_path):
    cache = DiskCache(tmp_path / "cache", 100_000)
    fill(cache, 3)
    (cache.folder / disk_cache.MARK).unlink()
    cache.folder.chmod(0o775)  # as with Ubuntu's umask
    assert DiskCache(tmp_path / "cache", 100_000).read("1", lambda: pytest.fail("made again")) == b"x" * 1000
    assert (cache.folder / disk_cache.MARK).exists()
    assert cache.folder.stat().st_mode & 0o777 == 0o700
