"""Whole runs: students of ONNX teachers, beside students of the networks that those were exported from."""

import json
import warnings

import pytest
import torch

from kcframe.errors import RecipeError
from kcframe.testing import modules_loaded_for_options, run_recipe

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


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A finished run with specialists."""
    return run_recipe(SPECIALISTS, tmp_path_factory.mktemp("first"))


@pytest.fixture(scope="module")
def folder(first, tmp_path_factory):
    """The specialists of verticals 0 and 2 as ONNX files, and room for the runs of their students."""
    folder = tmp_path_factory.mktemp("onnx")
    for v in (0, 2):
        specialist, about = first.specialist(f"vertical {v}")
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
    files = {"path": f"{folder}/{v}.onnx", "label_map": f"{folder}/{v}.json", "outputs": "logits"}
    return {"name": "onnx", "options": {**files, "mean": [0], "std": [1], **options}}


def losses(run):
    return [line["loss"] for line in run.metrics("concentrated", "step")]


def test_a_student_learns_the_same_from_the_exported_networks(first, folder):
    saved = [
        {"name": "checkpoint", "options": {"path": first.specialist_file(f"vertical {v}")}} for v in (0, 2)
    ]
    theirs = run_recipe(students_of(*saved), folder / "theirs")
    ours = run_recipe(students_of(onnx(folder, 0), onnx(folder, 2)), folder / "ours")
    assert len(losses(ours)) == 9
    assert losses(ours) == pytest.approx(losses(theirs), rel=1e-4)
    assert losses(ours)[-1] < losses(ours)[0]
    # Vertical 1, one class of nine, has no teacher.
    asked_by_ours, asked_by_theirs = (run.results["teacher_images_per_image"] for run in (ours, theirs))
    assert asked_by_ours == asked_by_theirs == pytest.approx(8 / 9)


def test_teachers_that_overlap_are_both_asked(folder):
    inline = {0: "v0 class 0", 1: "v0 class 1", 2: "v2 class 0"}
    more = students_of(onnx(folder, 0), onnx(folder, 2, label_map=inline))
    results = run_recipe(more, folder / "overlap").results
    # The first knows five classes, the second two of those and another one.
    assert results["teacher_images_per_image"] == pytest.approx((5 + 3) / 9)
    # Finished: the same recipe, read back, is still the same.
    assert run_recipe(more, folder / "overlap").results == results


def test_what_is_wrong_with_options_is_said_before_anything_runs(folder):
    wrong = onnx(folder, 0, layuot="NHWC", std=[0])
    del wrong["options"]["outputs"]
    with pytest.raises(RecipeError) as caught:
        run_recipe(students_of(wrong), folder / "wrong")
    assert not (folder / "wrong").exists()
    said = str(caught.value)
    assert "unknown option of teacher 'onnx'; did you mean 'layout'?" in said
    assert "outputs: is missing (logits: their sigmoid" in said


def test_a_recipe_is_checked_without_onnxruntime():
    assert not {"onnxruntime", "torch"} & modules_loaded_for_options("teacher", "onnx")
