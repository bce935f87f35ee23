"""`kcframe evaluate`: figures on other pictures, against the run's own and against counts by hand."""

from __future__ import annotations

import io
import json
import math
import shutil

import fsspec
import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from sklearn.calibration import calibration_curve

import kcframe
from kcframe.cli.main import cli
from kcframe.errors import DataError, RunDirError
from kcframe.pictures.stores.disk_cache import DiskCache
from kcframe.report.table import results_tables, vertical_table
from kcframe.students.labelled_pictures import source_of
from kcframe.students.measure import BINS, calibrate


def evaluate(*arguments):
    done = CliRunner().invoke(cli, ["evaluate", *map(str, arguments)], catch_exceptions=False)
    if done.exception is not None:
        raise done.exception
    return done.output


# -- calibration -----------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60))
def test_calibration_error_is_the_definitions(pairs):
    """Guo et al. 2017, equation 3, image by image."""
    expected = 0.0
    for number in range(BINS):
        own = [(p, r) for p, r in pairs if min(math.floor(np.float32(p) * BINS), BINS - 1) == number]
        if own:
            accuracy = sum(r for _, r in own) / len(own)
            confidence = sum(np.float32(p) for p, _ in own) / len(own)
            expected += len(own) / len(pairs) * abs(accuracy - confidence)
    shares = torch.tensor([p for p, _ in pairs], dtype=torch.float32)
    found = calibrate(shares, torch.tensor([r for _, r in pairs]))
    assert found.error == pytest.approx(100 * expected, abs=1e-4)
    assert sum(count for _, _, count in found.bins) == len(pairs)


def test_the_reliability_curve_is_scikit_learns():
    draws = np.random.default_rng(3)
    shares = draws.random(5000)
    right = draws.random(5000) < shares**2
    share_right, mean_share = calibration_curve(right, shares, n_bins=BINS)
    found = calibrate(torch.from_numpy(shares), torch.from_numpy(right))
    assert [row[0] for row in found.bins] == pytest.approx(list(mean_share))
    assert [row[1] for row in found.bins] == pytest.approx(list(share_right))


def test_no_image_has_no_calibration_error():
    assert calibrate(torch.empty(0), torch.empty(0, dtype=torch.bool)).error == 0


# -- the command -----------------------------------------------------------------------------------


def test_the_runs_own_pictures_give_the_runs_own_figures(finished, tmp_path):
    said = evaluate(finished, "--json", tmp_path / "e.json", "--html", tmp_path / "e.html")
    found = json.loads((tmp_path / "e.json").read_text())
    stored = json.loads((finished / "results.json").read_text())
    assert list(found["arms"]) == list(stored["arms"])
    for name, row in stored["arms"].items():
        for figure in ("mpvap", "top1", "top5", "routed_mpvap", "parameters", "gap_closed", "per_vertical"):
            assert found["arms"][name][figure] == row[figure], (name, figure)
    assert found["specialists"] == stored["specialists"]
    assert found["images"] == 20
    assert found["images_without_known_class"] == 0
    assert "expected calibration error" in said
    page = (tmp_path / "e.html").read_text()
    assert "<b>wren" not in page
    assert page.count("<svg") == 1


def test_confused_pairs_and_retention_are_counts_by_hand(finished, pictures, tmp_path):
    evaluate(f"{finished}:generalist", "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    (arm,) = found["arms"].values()
    classifier = kcframe.load(finished, "generalist")
    within, across = {}, {}
    homes = {"bat": {0, 1}, "owl": {0}, "<b>wren": {0}, "kite": {1}, "mug": {1}}
    confidence = []
    for name in homes:
        for file in sorted((pictures / "test" / name).iterdir()):
            guess = classifier.predict([file])[0][0]
            confidence.append((guess.probability, guess.name == name))
            if guess.name != name:
                pairs = within if homes[name] & homes[guess.name] else across
                pairs[name, guess.name] = pairs.get((name, guess.name), 0) + 1
    assert within or across  # a student that is never wrong would test nothing
    assert {(a, b): n for a, b, n in arm["confused_within"]} == within
    assert {(a, b): n for a, b, n in arm["confused_across"]} == across
    assert [n for _, _, n in arm["confused_within"]] == sorted(within.values(), reverse=True)
    shares, right = (torch.tensor(column) for column in zip(*confidence, strict=True))
    assert arm["calibration_error"] == pytest.approx(calibrate(shares, right).error, abs=1e-3)
    for vertical, kept in arm["retention"].items():
        teacher = found["specialists"]["per_vertical"][vertical]["ap"]
        assert kept == pytest.approx(100 * arm["per_vertical"][vertical]["ap"] / teacher)


@pytest.mark.parametrize("case", ["a stranger's folder", "this user's cache", "named here"])
def test_a_run_directory_brings_no_place_for_a_cache(case, finished, tmp_path):
    """Evaluating a stranger's run directory must not make, or fill, a folder that he chose."""
    recipe, place = tmp_path / "recipe.yaml", tmp_path / "place"
    content = yaml.safe_load((finished / "recipe.yaml").read_text())
    content["data"]["options"]["cache"] = str(place)
    recipe.write_text(yaml.safe_dump(content))
    if case == "this user's cache":
        DiskCache(place / "pictures", 1).claim()
    overrides = [f"data.options.cache={place}"] if case == "named here" else []
    transform = kcframe.load(finished).transform
    source, _ = source_of(str(recipe), overrides, transform, places_of_others=True)
    usual = type(source.options)(root="x").cache
    assert source.options.cache == (usual if case == "a stranger's folder" else str(place))


def test_a_folder_of_class_folders(finished, pictures, tmp_path):
    """The same pictures, laid out by class: the same figures."""
    evaluate(finished, pictures / "test", "--json", tmp_path / "folder.json")
    evaluate(finished, "--json", tmp_path / "own.json")
    folder, own = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("folder", "own"))
    for name in own["arms"]:
        assert folder["arms"][name]["per_vertical"] == own["arms"][name]["per_vertical"]
    assert folder["specialists"] == own["specialists"]


def test_a_folder_where_one_stands_and_a_storages_root(finished, pictures, monkeypatch):
    monkeypatch.chdir(pictures / "test")
    assert "20 pictures of ." in evaluate(finished, ".")
    fsspec.filesystem("memory").rm("/", recursive=True)
    fsspec.filesystem("memory").put(f"{pictures}/test/", "/", recursive=True)
    assert "20 pictures of memory://" in evaluate(finished, "memory://")
    with pytest.raises(DataError, match="--split is for recipes"):
        evaluate(finished, ".", "--split", "train")
    with pytest.raises(DataError, match="nowhere: no such folder"):
        evaluate(finished, "nowhere")


def test_bad_pictures_are_counted_and_not_measured_on(finished, pictures, tmp_path):
    folder = shutil.copytree(pictures / "test", tmp_path / "test")
    (folder / "owl/0.png").write_bytes(b"")
    said = evaluate(finished, folder, "--json", tmp_path / "e.json")
    assert "20 pictures of" in said
    assert "1 of them cannot be used, the first: " in said
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["arms"]["paced"]["per_vertical"]["animals"]["images"] == 11


def test_names_in_brackets_are_names():
    row = {"ap": 1.0, "routed_ap": 1.0}
    arm = {"mpvap": 1.0, "parameters": 1, "per_vertical": {"birds [/small]": row}}
    results = {"name": "[a]", "seed": 0, "arms": {"[old]": arm}, "baseline": None, "specialists": None}
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(*results_tables([results]), vertical_table(results))
    said = console.export_text()
    for name in ("[a], seed 0", "[old]", "birds [/small]"):
        assert name in said


def test_a_folder_with_a_class_that_is_not_known(finished, pictures, tmp_path):
    for name in ("owl", "ovl"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (20, 20)).save(tmp_path / name / "a.png")
    with pytest.raises(DataError, match="the student has no class 'ovl'; did you mean 'owl'?"):
        evaluate(finished, tmp_path)


@pytest.fixture
def other(recipe_file, tmp_path):
    """A recipe on other data: `change` edits its options."""

    def write(**options):
        recipe = yaml.safe_load(recipe_file.read_text())
        recipe["data"]["options"] |= options
        file = tmp_path / "other.yaml"
        file.write_text(yaml.safe_dump(recipe))
        return file

    return write


def test_other_data_with_some_of_the_classes(finished, pictures, other, tmp_path):
    """Other class ids, other verticals, no parents, and classes that the student lacks."""
    taxonomy = {"verticals": {"x": ["mug", "zebra"], "y": ["owl", "bat"]}}
    (tmp_path / "t.json").write_text(json.dumps(taxonomy))
    for split in ("train", "test"):
        for name in ("mug", "owl", "bat"):
            folder = tmp_path / "data" / split / name
            folder.mkdir(parents=True)
            for number in range(2):
                data = (pictures / split / name / f"{number}.png").read_bytes()
                (folder / f"{number}.png").write_bytes(data)
        folder = tmp_path / "data" / split / "zebra"
        folder.mkdir()
        Image.new("RGB", (20, 20), "white").save(folder / "0.png")
    recipe = other(root=str(tmp_path / "data"), taxonomy=str(tmp_path / "t.json"))
    said = evaluate(finished, recipe, "--json", tmp_path / "e.json")
    assert "1 more have no class that the student knows (zebra)" in said
    found = json.loads((tmp_path / "e.json").read_text())
    assert (found["images"], found["images_without_known_class"]) == (6, 1)
    assert found["unknown_classes"] == ["zebra"]
    # Parents came back from the student's own taxonomy: an owl is a bird, and flies.
    classifier = kcframe.load(finished, "paced")
    names = [(n, k) for n in ("mug", "owl", "bat") for k in range(2)]
    logits = classifier.logits(
        classifier.transform([Image.open(pictures / f"test/{n}/{k}.png") for n, k in names])
    )
    from sklearn.metrics import average_precision_score

    aps = []
    for name, members in {
        "bat": {"bat"}, "owl": {"owl"}, "bird": {"owl"}, "flying": {"owl", "bat"}
    }.items():  # fmt: skip
        scores = classifier.student(classifier.transform(
            [Image.open(pictures / f"test/{n}/{k}.png") for n, k in names]
        ))[:, ["bat", "owl", "<b>wren", "bird", "flying"].index(name)]  # fmt: skip
        aps.append(average_precision_score([n in members for n, _ in names], scores.detach()))
    assert found["arms"]["paced"]["per_vertical"]["animals"]["ap"] == pytest.approx(100 * np.mean(aps))
    assert len(logits) == 6


def test_pictures_of_another_size_are_refused(finished, other):
    with pytest.raises(DataError, match="are 3 x 24 x 24, the student takes 3 x 16 x 16: --set data"):
        evaluate(finished, other(image_size=24))
    assert "20 pictures" in evaluate(finished, other(image_size=24), "--set", "data.options.image_size=16")


def test_data_of_which_nothing_is_known_is_refused(finished, other, pictures, tmp_path):
    (tmp_path / "t.json").write_text(json.dumps({"verticals": {"x": ["zebra", "gnu"]}}))
    for split in ("train", "test"):
        folder = tmp_path / "data" / split / "gnu"
        folder.mkdir(parents=True)
        Image.new("RGB", (20, 20)).save(folder / "0.png")
    recipe = other(root=str(tmp_path / "data"), taxonomy=str(tmp_path / "t.json"))
    with pytest.raises(DataError, match=r"no picture has a class that the student knows \(it has zebra, gnu"):
        evaluate(finished, recipe)


def test_a_run_without_specialists_has_no_retention(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    shutil.rmtree(copy / "specialists")
    evaluate(copy, "--json", tmp_path / "e.json")
    found = json.loads((tmp_path / "e.json").read_text())
    assert found["specialists"] is None
    assert set(found["arms"]["paced"]["retention"].values()) == {None}
    with pytest.raises(RunDirError, match="no finished student"):
        evaluate(tmp_path)
