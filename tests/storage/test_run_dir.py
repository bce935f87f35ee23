import os

import pytest

import kcframe
from kcframe.assembly.saved import load_specialist
from kcframe.cli.compare import compare_runs
from kcframe.errors import KcframeError, RunDirError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.storage.layout import RESULTS, arm_folder, specialist_folder
from kcframe.storage.run_dir import RunDir
from kcframe.storage.writing import write_text

SECRET, NOWHERE = "memory://me:hidden@host/secret", "nosuchscheme://me:hidden@host/runs"


@pytest.fixture(params=["local", "file", "memory"])
def run_dir(request, tmp_path):
    urls = {
        "local": str(tmp_path / "r"),
        "file": f"file://{tmp_path}/r",
        "memory": f"memory://{tmp_path.name}/r",
    }
    return RunDir(urls[request.param])


def test_what_is_written_is_read(run_dir):
    assert not run_dir.exists("a/b.json")
    run_dir.write_json("a/b.json", {"x": [1, None, "é"]})
    run_dir.write("a/b.json", '{"x": 2}')
    assert run_dir.read_json("a/b.json") == {"x": 2}
    run_dir.write("a/c/d", b"\0")
    assert run_dir.folders("a") == ["c"]
    assert run_dir.folders("none") == []
    run_dir.delete("a/b.json")
    run_dir.delete("a/b.json")
    assert not run_dir.exists("a/b.json")


def test_a_missing_or_damaged_file_is_named(run_dir):
    with pytest.raises(RunDirError, match="a/b.json: no such file"):
        run_dir.read("a/b.json")
    run_dir.write("a/b.json", "{")
    with pytest.raises(RunDirError, match="a/b.json: damaged, not JSON"):
        run_dir.read_json("a/b.json")


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    run_dir = RunDir(tmp_path)
    run_dir.write("x", "old")

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunDirError, match="x: cannot be written: OSError.*No space left"):
        run_dir.write("x", "new")
    assert run_dir.read("x") == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_names_become_one_folder_each():
    assert arm_folder("+D+SC") == "arms/+D+SC"
    odd = specialist_folder("a/b: ../c")
    assert odd.count("/") == 1
    assert specialist_folder("a/b") != specialist_folder("a b")
    assert arm_folder("..") == "arms/%2E%2E"
    assert specialist_folder(".") == "specialists/%2E"


@pytest.mark.parametrize("url", ["nosuchscheme://x/y"])
def test_a_url_that_cannot_be_is_an_error_in_words(url):
    with pytest.raises(RunDirError, match="nosuchscheme"):
        RunDir(url).exists("x")


def test_a_url_is_opened_with_its_password_and_shown_without():
    there = RunDir("ftp://me:hidden@host/runs")
    assert there.path("a/b") == "ftp://me:hidden@host/runs/a/b"
    assert str(there) == "ftp://host/runs"
    assert there.shown("a/b") == "ftp://host/runs/a/b"


def damaged_student():
    RunDir(SECRET).write("x.safetensors", b"nothing")
    kcframe.load(f"{SECRET}/x.safetensors")


def runs_of_other_arms():
    for number in range(2):
        RunDir(f"{SECRET}/{number}").write_json(RESULTS, {"arms": {f"arm {number}": {}}})
    compare_runs([f"{SECRET}/0", f"{SECRET}/1"], markdown=False)


def broken_recipe():
    RunDir(SECRET).write("recipe.yaml", "kcframe: [1")
    load_recipe(f"{SECRET}/recipe.yaml", installed())


@pytest.mark.parametrize(
    "refused",
    [
        lambda: RunDir(NOWHERE).read("x"),
        lambda: load_specialist(f"{NOWHERE}/x"),
        lambda: write_text(f"{NOWHERE}/x", ""),
        lambda: load_recipe(f"{NOWHERE}/x.yaml", installed()),
        damaged_student,
        runs_of_other_arms,
        broken_recipe,
    ],
)
def test_no_error_shows_a_password(refused):
    with pytest.raises(KcframeError, match="://host/") as error:
        refused()
    assert "hidden" not in str(error.value)
