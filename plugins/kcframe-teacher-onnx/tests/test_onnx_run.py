"""Whole runs: students of ONNX teachers, beside students of the networks that those were exported from."""

import json
import subprocess
import sys
import warnings

import pytest
import torch
import yaml

from kcframe.build.saved import load_specialist
from kcframe.errors import RecipeError
from kcframe.recipe.load import load_recipe
from kcframe.registry import installed
from kcframe.run.pipeline import run
from kcframe.storage.run_dir import RunDir

SPECIALISTS = {
    "kcframe": 1,
    "name": "tiny",
    "data": {
        "name": "synthetic",
        # 9 classes and 45 images: 5 of each.
        "options": {"verticals": [5, 1, 3], "train_images": 45, "test_images": 27, "image_size": 8},
    },
    "specialists": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "train": {"epochs": 2, "batch_size": 15, "learning_rate": 0.01},
    },
    "student": {
        "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
        "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
        "objective": "top-k-bce",
        "train": {"epochs": 3, "batch_size": 15, "learning_rate": 0.01, "log_every": 1},
    },
    "arms": {"concentrated": {}},
}


def go(folder, recipe, name):
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(recipe))

    class Quiet:
        def begin(self, stage):
            return self

        def __getattr__(self, name):
            return lambda *_: None

    checked = load_recipe(str(path), installed(), ["execution.device=cpu"])
    run(checked, RunDir(folder / name), Quiet(), lambda text: None, lambda: False)
    return json.loads((folder / name / "results.json").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run, and its specialists of verticals 0 and 2 as ONNX files."""
    folder = tmp_path_factory.mktemp("onnx")
    go(folder, SPECIALISTS, "first")
    for v in (0, 2):
        specialist, about = load_specialist(f"{folder}/first/specialists/vertical {v}/weights.safetensors")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                specialist,
                torch.rand(2, about["channels"], 8, 8),
                f"{folder}/{v}.onnx",
                dynamo=False,
                input_names=["pictures"],
                dynamic_axes={"pictures": {0: "b"}} if v else None,  # vertical 0's: two at once, exactly
            )
        (folder / f"{v}.json").write_text(json.dumps(about["classes"]))
    return folder


def students_of(*teachers):
    recipe = {key: value for key, value in SPECIALISTS.items() if key != "specialists"}
    return {**recipe, "student": {**SPECIALISTS["student"], "teachers": list(teachers)}}


def onnx(folder, v, **options):
    own = {"path": f"{folder}/{v}.onnx", "label_map": f"{folder}/{v}.json", "outputs": "logits"}
    return {"name": "onnx", "options": {**own, "mean": [0], "std": [1], **options}}


def losses(folder, name):
    text = (folder / name / "arms/concentrated/metrics.jsonl").read_text()
    return [line["loss"] for line in map(json.loads, text.splitlines()) if line["kind"] == "step"]


def test_a_student_learns_the_same_from_the_exported_networks(folder):
    saved = [
        {
            "name": "checkpoint",
            "options": {"path": f"{folder}/first/specialists/vertical {v}/weights.safetensors"},
        }
        for v in (0, 2)
    ]
    theirs = go(folder, students_of(*saved), "theirs")
    ours = go(folder, students_of(onnx(folder, 0), onnx(folder, 2)), "ours")
    assert len(losses(folder, "ours")) == 9
    assert losses(folder, "ours") == pytest.approx(losses(folder, "theirs"), rel=1e-4)
    assert losses(folder, "ours")[-1] < losses(folder, "ours")[0]
    # Vertical 1, one class of nine, has no teacher.
    assert ours["teacher_images_per_image"] == theirs["teacher_images_per_image"] == pytest.approx(8 / 9)


def test_teachers_that_overlap_are_both_asked(folder):
    inline = {0: "v0 class 0", 1: "v0 class 1", 2: "v2 class 0"}
    more = students_of(onnx(folder, 0), onnx(folder, 2, label_map=inline))
    results = go(folder, more, "overlap")
    # The first knows five classes, the second two of those and another one.
    assert results["teacher_images_per_image"] == pytest.approx((5 + 3) / 9)
    assert go(folder, more, "overlap") == results  # finished: the same recipe, read back, is still the same


def test_what_is_wrong_with_options_is_said_before_anything_runs(folder):
    wrong = onnx(folder, 0, layuot="NHWC", std=[0])
    del wrong["options"]["outputs"]
    path = folder / "wrong.yaml"
    path.write_text(yaml.safe_dump(students_of(wrong)))
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(path), installed())
    said = str(caught.value)
    assert "unknown option of teacher 'onnx'; did you mean 'layout'?" in said
    assert "outputs: is missing (logits: their sigmoid" in said


def test_a_recipe_is_checked_without_onnxruntime():
    check = (
        "import sys; from kcframe.registry import installed; "
        "assert installed().options_schema('teacher', 'onnx'); "
        "assert not {'onnxruntime', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)
