"""`kcframe export`: every file says what PyTorch says, and carries what its user needs."""

from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner

import kcframe
from kcframe.cli.main import cli
from kcframe.errors import DataError, TrainingError
from kcframe.students import export as exporting
from kcframe.students.export import sample_images
from kcframe.taxonomy import Taxonomy


def export(*arguments):
    done = CliRunner().invoke(cli, ["export", *map(str, arguments)], catch_exceptions=False)
    if done.exception is not None:
        raise done.exception
    return done.output.splitlines()


def images(count):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("arm", ["generalist", "paced"])
def test_onnx_says_what_pytorch_says_for_any_batch(finished, tmp_path, arm):
    said = export(f"{finished}:{arm}", "--out", tmp_path / "s.onnx")
    assert "largest difference of logits" in said[0]
    assert said[1:] == [str(tmp_path / f"s.{ending}") for ending in ("onnx", "json", "md")]
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    module = kcframe.load(finished, arm).module
    for count in (1, 2, 17):
        (logits,) = session.run(["logits"], {"images": images(count).numpy()})
        assert np.abs(logits - module(images(count)).numpy()).max() < 1e-4


def test_top_k_is_part_of_the_graph(finished, tmp_path):
    export(finished, "--out", tmp_path / "s.onnx", "--top-k", 3)
    session = onnxruntime.InferenceSession(tmp_path / "s.onnx")
    shares, classes = session.run(["probabilities", "classes"], {"images": images(9).numpy()})
    classifier = kcframe.load(finished)
    for row, (own_shares, own_classes) in zip(
        classifier.predict(images(9), top=3), zip(shares, classes, strict=True), strict=True
    ):
        assert [guess.name for guess in row] == [classifier.taxonomy.classes[c] for c in own_classes]
        assert [guess.probability for guess in row] == pytest.approx(list(own_shares), abs=1e-5)
    # More than there are leaf classes: parents are never among them.
    export(finished, "--out", tmp_path / "all.onnx", "--top-k", 99)
    (all_classes,) = onnxruntime.InferenceSession(tmp_path / "all.onnx").run(
        ["classes"], {"images": images(1).numpy()}
    )
    assert sorted(classifier.taxonomy.classes[c] for c in all_classes[0]) == [
        "<b>wren", "bat", "kite", "mug", "owl"
    ]  # fmt: skip


@pytest.mark.filterwarnings("error:No complete tensor")
def test_torch_export_runs_without_kcframe(finished, tmp_path):
    export(finished, "--to", "torch.export", "--out", tmp_path / "s.pt2")
    extra = {"kcframe.json": ""}
    module = torch.export.load(tmp_path / "s.pt2", extra_files=extra).module()
    for count in (1, 5):
        expected = kcframe.load(finished).module(images(count))
        assert torch.allclose(module(images(count)), expected, atol=1e-5)
    assert json.loads(extra["kcframe.json"])["outputs"].keys() == {"logits"}


def test_safetensors_is_a_student_of_its_own(finished, tmp_path):
    export(finished, "--to", "safetensors", "--out", tmp_path / "s.safetensors")
    classifier, own = kcframe.load(tmp_path / "s.safetensors"), kcframe.load(finished)
    assert classifier.predict(images(4)) == own.predict(images(4))
    assert classifier.taxonomy == own.taxonomy
    assert classifier.transform == own.transform
    # A run's own weights lack the classes.
    with pytest.raises(DataError, match="its classes are not in it"):
        kcframe.load(finished / "arms/paced/weights.safetensors")
    with pytest.raises(DataError, match="holds weights alone"):
        export(finished, "--to", "safetensors", "--top-k", "3", "--out", tmp_path / "x.safetensors")
    # It can be exported further, with made-up pictures to compare with.
    said = export(tmp_path / "s.safetensors", "--out", tmp_path / "again.onnx")
    assert "pictures of noise" in said[0]
    with pytest.raises(DataError, match="say where to write it: --out FILE"):
        export(tmp_path / "s.safetensors")


def test_what_travels_with_a_file(finished, tmp_path):
    export(finished, "--out", tmp_path / "s.onnx", "--licence", "CC-BY 4.0")
    (entry,) = onnx.load(tmp_path / "s.onnx").metadata_props
    inside, beside = json.loads(entry.value), json.loads((tmp_path / "s.json").read_text())
    assert entry.key == "kcframe"
    assert inside == beside
    classifier = kcframe.load(finished)
    assert Taxonomy.from_json(json.dumps(inside["taxonomy"])) == classifier.taxonomy
    assert inside["input"]["transform"] == classifier.transform.model_dump()
    card = (tmp_path / "s.md").read_text()
    for words in (
        "**Licence:** CC-BY 4.0",
        "7 classes in 2 verticals",
        "top-k-bce; teachers: specialists",
        "source `image-folder`, pictures: 60 train, 20 test",
        "| animals | 12 |",
        "which is rounding",
        "`s.json`",
    ):
        assert words in card, words


def test_the_card_of_an_arm_that_asked_nobody(finished, tmp_path):
    export(f"{finished}:generalist", "--to", "safetensors", "--out", tmp_path / "s.safetensors")
    assert "**Learned with:** hard-bce; teachers: none" in (tmp_path / "s.md").read_text()


def test_a_run_of_one_picture_is_exported_for_any_batch(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    samples = json.loads((copy / "samples/samples.json").read_text())
    (copy / "samples/samples.json").write_text(json.dumps(samples[:1]))
    (first, *_) = export(copy, "--to", "torch.export", "--out", tmp_path / "s.pt2")
    assert "on 1 test pictures" in first
    module = torch.export.load(tmp_path / "s.pt2").module()
    assert module(images(5)).shape == (5, 7)


def test_a_damaged_sample_stops_no_export(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    (copy / "samples/000.png").write_bytes(b"\x89PNG\r\n")
    assert sample_images(kcframe.load(copy))[1] == "5 test pictures of the run"


def test_it_is_compared_on_the_runs_pictures(finished):
    found, what = sample_images(kcframe.load(finished))
    assert what == "6 test pictures of the run"
    assert found.shape == (6, 3, 16, 16)
    assert 0.2 < found.mean() < 0.8


def test_a_file_that_says_something_else_is_an_error(finished, tmp_path, monkeypatch):
    right = exporting._FORMATS["torch.export"]

    def wrong(*arguments):
        data, run = right(*arguments)
        return data, lambda pictures: [-found for found in run(pictures)]

    monkeypatch.setitem(exporting._FORMATS, "torch.export", wrong)
    with pytest.raises(TrainingError, match="does not say what the student says"):
        export(finished, "--to", "torch.export", "--out", tmp_path / "s.pt2")
    assert "NOT rounding: do not use it" in (tmp_path / "s.md").read_text()

    def shuffled(*arguments):
        data, run = right(*arguments)

        def other(pictures):
            shares, classes = run(pictures)
            return [shares, classes[:, [0, 2, 1]]]

        return data, other

    monkeypatch.setitem(exporting._FORMATS, "torch.export", shuffled)
    with pytest.raises(TrainingError, match="does not say what the student says"):
        export(finished, "--to", "torch.export", "--out", tmp_path / "s.pt2", "--top-k", "3")


def test_by_default_it_lies_beside_the_weights(finished, tmp_path):
    copy = shutil.copytree(finished, tmp_path / "copy")
    said = export(f"{copy}:paced", "--to", "safetensors")
    assert said[1] == str(copy / "arms/paced/student.safetensors")
    assert kcframe.load(copy, "paced").arm == "paced"
