"""`kcframe.load`: the student that was trained, whole, from wherever its run directory lies now."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import kcframe
from kcframe.assembly.networks import build_student
from kcframe.assembly.plugins import construct
from kcframe.assembly.saved import restore
from kcframe.assembly.source import build_source, transform_of
from kcframe.builtin.backbones.options import SmallCnnOptions
from kcframe.engine.checkpoint import pack_weights, unpack_weights
from kcframe.engine.model import Direct, Head, Student
from kcframe.errors import DataError, PluginError, RunDirError
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.recipe.load import load_recipe
from kcframe.recipe.schema import PluginRef, StudentSpec
from kcframe.registry import installed
from kcframe.storage.run_dir import RunDir
from kcframe.students.load import split_arm
from kcframe.taxonomy import Taxonomy


def weights(folder, arm="paced"):
    return folder / "arms" / arm / "weights.safetensors"


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "elsewhere")


# -- what it says ----------------------------------------------------------------------------------


def test_it_sees_in_files_what_the_run_saw(finished, recipe_file):
    classifier = kcframe.load(finished, "paced")
    source = build_source(load_recipe(str(recipe_file), installed()))
    test = source.split("test")
    files = [test.name(index) for index in range(len(test))]
    images = test.load(torch.arange(len(test)), None)
    from_files = classifier.predict(files)
    assert from_files == classifier.predict(images)
    assert from_files == classifier.predict([Image.open(file) for file in files])
    # And what the run wrote down of its samples, as its own evaluation saw them.
    stored = json.loads((finished / "arms/paced/result.json").read_text())["samples"]
    assert stored
    for sample in stored:
        told = [(top["class"], top["probability"]) for top in sample["top"]]
        seen = [(guess.name, round(guess.probability, 4)) for guess in from_files[sample["image"]]]
        assert told == seen


def test_a_class_of_two_verticals_has_its_best_logit(finished):
    classifier = kcframe.load(finished)
    images = torch.rand(5, 3, 16, 16)
    head = classifier.student.head
    with torch.no_grad():
        shared = head.shared(classifier.student.features(images))
        animals, things = head.block(0, shared), head.block(1, shared)
    logits = classifier.module(images)
    names = classifier.taxonomy.classes
    expected = {
        "bat": torch.maximum(animals[:, 0], things[:, 0]),
        **{name: animals[:, place] for place, name in enumerate(["bat", *names[1:5]]) if place},
        "kite": things[:, 1],
        "mug": things[:, 2],
    }
    assert set(expected) == set(names)
    for class_id, name in enumerate(names):
        assert torch.equal(logits[:, class_id], expected[name])
    (guesses, *_) = classifier.predict(images)
    assert {guess.name: guess.verticals for guess in guesses}["bat"] == ("animals", "things")


def test_parents_are_told_and_never_guessed(finished):
    classifier = kcframe.load(finished)
    images = torch.rand(6, 3, 16, 16)
    probabilities = classifier.module(images).sigmoid()
    ids = {name: classifier.taxonomy.class_id(name) for name in classifier.taxonomy.classes}
    for row, guesses in zip(probabilities, classifier.predict(images, top=99), strict=True):
        assert sorted(guess.name for guess in guesses) == ["<b>wren", "bat", "kite", "mug", "owl"]
        shares = [guess.probability for guess in guesses]
        assert shares == sorted(shares, reverse=True)
        for guess in guesses:
            assert guess.probability == float(row[ids[guess.name]])
            assert guess.parents == tuple((name, float(row[ids[name]])) for name, _ in guess.parents)
    parents = {guess.name: [name for name, _ in guess.parents] for guess in guesses}
    assert parents == {
        "owl": ["bird", "flying"], "<b>wren": ["bird", "flying"], "bat": ["flying"], "kite": [], "mug": []
    }  # fmt: skip


def test_consistent_parents_are_at_least_their_children(finished):
    classifier = kcframe.load(finished)
    logits = torch.randn(50, 7, generator=torch.Generator().manual_seed(1)) * 3
    lifted = 0
    for row, guesses in zip(logits, classifier.guesses(logits, 99, consistent=True), strict=True):
        share = dict(zip(classifier.taxonomy.classes, row.sigmoid().tolist(), strict=True))
        bird = max(share["bird"], share["owl"], share["<b>wren"])
        expected = {"bird": bird, "flying": max(share["flying"], bird, share["bat"])}
        lifted += expected["flying"] > share["flying"]
        for guess in guesses:
            assert guess.probability == pytest.approx(share[guess.name])
            assert dict(guess.parents) == pytest.approx({n: expected[n] for n, _ in guess.parents})
    assert lifted > 10


def test_no_teacher_and_nothing_to_train_is_in_the_module(finished):
    classifier = kcframe.load(finished)
    assert not classifier.module.training
    assert not any(parameter.requires_grad for parameter in classifier.module.parameters())
    names = {type(module).__name__ for module in classifier.module.modules()}
    assert "Teacher" not in names


def test_a_pillow_image_is_seen_like_its_file(finished, tmp_path):
    """Turned by its EXIF data, transparent, of 16 bits."""
    draws = np.random.default_rng(5)
    pixels = draws.integers(0, 255, (30, 50, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels[:, :, :3]).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(pixels).save(tmp_path / "glass.png")
    Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257).save(tmp_path / "deep.png")
    classifier = kcframe.load(finished)
    for name in ("turned.jpg", "glass.png", "deep.png"):
        file = tmp_path / name
        assert classifier.predict([Image.open(file)]) == classifier.predict([file])


# -- which -----------------------------------------------------------------------------------------


def test_the_best_arm_unless_one_is_named(finished):
    results = json.loads((finished / "results.json").read_text())["arms"]
    best = max(results, key=lambda name: results[name]["mpvap"])
    assert kcframe.load(finished).arm == best
    assert kcframe.load(f"{finished}:generalist").arm == "generalist"
    with pytest.raises(RunDirError, match="no finished arm 'packed'; did you mean 'paced'?"):
        kcframe.load(f"{finished}:packed")


def test_a_run_that_is_not_finished_has_the_arms_that_are(copy):
    (copy / "results.json").unlink()
    with pytest.raises(RunDirError, match="which arm.*'generalist', 'paced'"):
        kcframe.load(copy)
    weights(copy, "generalist").unlink()
    assert kcframe.load(copy).arm == "paced"
    weights(copy).unlink()
    with pytest.raises(RunDirError, match="no finished student in it"):
        kcframe.load(copy)


@pytest.mark.parametrize(
    ("given", "run", "arm"),
    [
        ("runs/a", "runs/a", None),
        ("runs/a:+D+SC", "runs/a", "+D+SC"),
        ("s3://bucket/a", "s3://bucket/a", None),
        ("s3://bucket/a:b", "s3://bucket/a", "b"),
        ("runs/a:", "runs/a:", None),
    ],
)
def test_an_arm_stands_behind_a_colon(given, run, arm):
    assert split_arm(given) == (run, arm)


def test_a_colon_in_a_path_is_no_arm(tmp_path):
    (tmp_path / "a:b").mkdir()
    assert split_arm(str(tmp_path / "a:b")) == (str(tmp_path / "a:b"), None)


# -- from where ------------------------------------------------------------------------------------


def test_a_copied_run_needs_neither_its_data_nor_its_old_place(finished, copy, pictures):
    images = torch.rand(4, 3, 16, 16)
    expected = kcframe.load(finished).predict(images)
    # Whatever would look for the data fails.
    recipe = (copy / "recipe.yaml").read_text()
    (copy / "recipe.yaml").write_text(recipe.replace(str(pictures), "/nowhere"))
    assert kcframe.load(copy).predict(images) == expected


def test_weights_that_training_began_with_are_not_asked_for(tmp_path):
    """A backbone with `weights: FILE`, on a machine without the file."""
    torchvision = pytest.importorskip("torchvision")
    began = tmp_path / "began.pth"
    torch.save(torchvision.models.squeezenet1_1(num_classes=1).state_dict(), began)
    spec = StudentSpec.model_validate(
        {
            "backbone": {
                "name": "torchvision",
                "options": {"model": "squeezenet1_1", "weights": str(began)},
            },
            "expander": {"name": "fc-sc", "options": {"s1": 8, "s2": 4}},
            "objective": {"name": "hard-bce"},
            "train": {"epochs": 1, "batch_size": 1, "learning_rate": 1},
        }
    )
    taxonomy = Taxonomy.build({"a": ["x", "y"], "b": ["z"]})
    student = build_student(spec, 3, 32, taxonomy).eval()
    about = {"kind": "student", "student": spec.model_dump(), "channels": 3, "image_size": 32}
    run_dir = RunDir(tmp_path / "run")
    run_dir.write("taxonomy.json", taxonomy.to_json())
    run_dir.write("arms/only/weights.safetensors", pack_weights(student.state_dict(), about))
    began.unlink()
    classifier = kcframe.load(tmp_path / "run")
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(classifier.module(images), student(images))
    # A file of before transforms were kept has the one that every source had.
    assert classifier.transform.model_dump() == {
        "channels": 3, "image_size": 32, "fit": "crop", "share": 0.875, "ground": "any",
        "interpolation": "bilinear",
    }  # fmt: skip


def test_a_source_without_a_transform_has_the_usual_one():
    source = build_source(load_recipe("recipes/quickstart.yaml", installed()))
    assert transform_of(source).fit == "pad"
    source.transform = None
    assert transform_of(source).model_dump()["fit"] == "crop"


class LooksAtItsNumbers(Pacing):
    def start(self, classifiers):
        assert all(float(classifier.weight.detach().std()) > 0 for classifier in classifiers)


class KeepsATensor(Pacing):
    def __init__(self, options, sizes, num_classes):
        super().__init__(options, sizes, num_classes)
        self.scale = torch.full((1,), 2.0)

    def forward(self, logits, vertical):
        return logits * self.scale


class Computes(Pacing):
    def __init__(self, options, sizes, num_classes):
        super().__init__(options, sizes, num_classes)
        self.factor = torch.linspace(1, 3, 5)[2].item()

    def forward(self, logits, vertical):
        return logits * self.factor


@pytest.mark.parametrize("pacing", [LooksAtItsNumbers, KeepsATensor, Computes])
def test_plugins_that_cannot_be_built_without_memory(pacing):
    def build():
        expander = Direct(3, (2, 1))
        head = Head(expander, pacing(PluginOptions(), (2, 1), 3), (2, 1))
        options = SmallCnnOptions(widths=(3,), pool="average")
        return Student(
            construct("backbone", PluginRef(name="small-cnn", options=options.model_dump()), 1, 8), head
        )

    trained = build().eval()
    images = torch.rand(2, 1, 8, 8)
    again = restore(build, trained.state_dict(), "file", "it")
    with torch.no_grad():
        assert torch.equal(again(images), trained(images))


# -- what is refused -------------------------------------------------------------------------------


def test_a_pickle_is_refused(copy):
    torch.save({"a": torch.ones(1)}, weights(copy))
    with pytest.raises(RunDirError, match="weights.safetensors: not a file that kcframe wrote"):
        kcframe.load(copy, "paced")


def test_weights_of_another_network_are_refused(copy):
    state, about = unpack_weights(weights(copy).read_bytes(), "")
    about["student"]["expander"]["options"]["s2"] = 9
    weights(copy).write_bytes(pack_weights(state, about))
    with pytest.raises(DataError, match="do not fit student 'paced' as it is now.*size mismatch"):
        kcframe.load(copy, "paced")
    about["student"]["expander"]["options"]["s2"] = 8
    about["student"]["expander"]["options"]["s3"] = 8
    weights(copy).write_bytes(pack_weights(state, about))
    with pytest.raises(PluginError, match="expander 'fc-sc' of kcframe .*: its option 's3': Extra inputs"):
        kcframe.load(copy, "paced")
    weights(copy).write_bytes((copy / "specialists/animals/weights.safetensors").read_bytes())
    with pytest.raises(DataError, match="this is a specialist, not a student"):
        kcframe.load(copy, "paced")
    weights(copy).write_bytes(pack_weights(state, {"kind": "student"}))
    with pytest.raises(DataError, match="was written by another kcframe"):
        kcframe.load(copy, "paced")


def test_weights_that_are_not_finite_are_refused(copy):
    state, about = unpack_weights(weights(copy).read_bytes(), "")
    next(iter(state.values()))[0] = np.nan
    weights(copy).write_bytes(pack_weights(state, about))
    with pytest.raises(DataError, match="is not finite.*train it again"):
        kcframe.load(copy, "paced")


def test_weights_under_another_arms_name_are_refused(copy):
    shutil.copy(weights(copy, "paced"), weights(copy, "generalist"))
    with pytest.raises(DataError, match="these are the weights of arm 'paced', not of 'generalist'"):
        kcframe.load(copy, "generalist")


@pytest.mark.parametrize("gone", [lambda file: file.unlink(), lambda file: file.write_bytes(b"")])
def test_the_second_best_arm_is_never_taken_for_the_best(copy, gone):
    results = json.loads((copy / "results.json").read_text())["arms"]
    last, *_, best = sorted(results, key=lambda name: results[name]["mpvap"])
    gone(weights(copy, best))
    with pytest.raises(RunDirError, match=f"the weights of '{best}', its best arm, are gone"):
        kcframe.load(copy)
    assert kcframe.load(copy, last).arm == last


def test_pictures_that_cannot_be_are_named(finished, tmp_path):
    classifier = kcframe.load(finished)
    (tmp_path / "a.jpg").write_bytes(b"<!doctype html>")
    with pytest.raises(DataError, match="a.jpg: cannot be decoded: it is an HTML page"):
        classifier.predict([tmp_path / "a.jpg"])
    with pytest.raises(DataError, match="picture 1: cannot be decoded: the file has zero bytes"):
        classifier.predict([Image.new("L", (3, 3)), b""])
    with pytest.raises(DataError, match="no such file"):
        classifier.predict(tmp_path / "b.jpg")
    with pytest.raises(DataError, match=r"shape \(1, 16, 16\): this student takes \(3, 16, 16\)"):
        classifier.predict(torch.rand(2, 1, 16, 16))
    assert classifier.predict([]) == []


def test_grey_and_odd_pictures_are_taken(finished):
    classifier = kcframe.load(finished)
    odd = [
        Image.new("L", (1, 1), 9),
        Image.new("RGBA", (90, 5)),
        Image.fromarray(np.zeros((7, 300), "uint8")),
    ]
    assert [len(guesses) for guesses in classifier.predict(odd, top=2)] == [2, 2, 2]
