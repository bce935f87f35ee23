"""What timm teachers say, compared with timm's own model and transform; and a student of one."""

import argparse
import io
import json

import pytest
import timm
import torch
from kcframe_teacher_timm.options import TimmOptions
from kcframe_teacher_timm.source import Timm
from safetensors.torch import save_file
from timm.data import create_transform, resolve_data_config
from torchvision.transforms.functional import to_pil_image

from kcframe.errors import DataError
from kcframe.taxonomy import Taxonomy
from kcframe.testing import modules_loaded_for_options, run_recipe, teacher_context

TAXONOMY = Taxonomy.build({"birds": ["wren", "crow", "swift"], "cars": ["sedan", "coupe"]})
CONTEXT = teacher_context(TAXONOMY, image_size=32)
NAMES = ["coupe", "wren", None, "swift"]
KEPT = [0, 1, 3]


def model(name="test_resnet", **options):
    torch.manual_seed(0)
    return timm.create_model(name, **{"num_classes": 4, "pretrained": False, **options}).eval()


@pytest.fixture
def path(tmp_path):
    save_file(model().state_dict(), tmp_path / "birds.v2.safetensors")
    return tmp_path / "birds.v2.safetensors"


def source(path, **options):
    options = {"model": "test_resnet", "label_map": NAMES, "outputs": "logits", **options}
    return Timm(TimmOptions(weights=str(path), **options))


def teacher(path, **options):
    """The teacher, of which the early check finds nothing to say."""
    made = source(path, **options)
    made.check(CONTEXT)
    (found,) = made.teachers(CONTEXT)
    return found.eval()


def refused(path, early=True, **options):
    """What is said of it, late and, if `early`, by the early check in the same words."""
    with pytest.raises(DataError) as caught:
        source(path, **options).teachers(CONTEXT)
    message = str(caught.value)
    if not early:
        source(path, **options).check(CONTEXT)
        return message
    with pytest.raises(DataError) as caught:
        source(path, **options).check(CONTEXT)
    assert str(caught.value) == message
    return message


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.fixture
def images():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))


# -- what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "resnet10t.c3_in1k"])
@torch.inference_mode()
def test_it_says_what_timm_says(tmp_path, name):
    own = model(name)
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    found = teacher(tmp_path / "w.safetensors", model=name)
    config = resolve_data_config({}, model=own)
    assert found.input_size == config["input_size"][1]
    assert found.label_map.tolist() == [TAXONOMY.class_id(n) for n in ("coupe", "wren", "swift")]
    size = found.input_size
    # Whole bytes at the model's own size, so that timm's transform, which crops, is its normalisation alone.
    images = torch.randint(256, (2, 3, size, size), generator=torch.Generator().manual_seed(0)) / 255
    transform = create_transform(**{**config, "crop_pct": 1.0}, is_training=False)
    expected = own(torch.stack([transform(to_pil_image(image)) for image in images]))
    close(found(images), expected[:, KEPT])


@torch.inference_mode()
def test_overrides(tmp_path, images):
    own = model("test_vit", img_size=32, in_chans=1)
    save_file(own.state_dict(), tmp_path / "w.safetensors")
    options = {"model": "test_vit", "channels": 1, "mean": [0.3], "std": [0.2], "input_size": 32}
    found = teacher(tmp_path / "w.safetensors", **options)
    close(found(images), own((images.mean(1, keepdim=True) - 0.3) / 0.2)[:, KEPT])
    message = refused(tmp_path / "w.safetensors", **{**options, "mean": None, "std": None})
    assert "'test_vit': mean has 3 numbers, not 1: set mean" in message
    message = refused(tmp_path / "w.safetensors", **{**options, "input_size": None})
    assert "of another shape: pos_embed [1, 5, 64] instead of [1, 101, 64]" in message
    message = refused(tmp_path / "w.safetensors", early=False, **{**options, "input_size": 33})
    assert "'test_vit' does not take pictures of 33 × 33: Input height (33)" in message
    message = refused(tmp_path / "w.safetensors", model="test_vit_relpos", input_size=1)
    assert "timm cannot build 'test_vit_relpos' for 3 channels and input_size 1: " in message


@torch.inference_mode()
def test_softmax_logits_become_log_odds(path, images):
    with_softmax, without = teacher(path, outputs="softmax-logits"), teacher(path, label_map=_all())
    exact = torch.logit(without(images).double().softmax(1))[:, KEPT].float()
    close(with_softmax(images), exact)
    assert TimmOptions(model="a", weights="b", label_map="c").outputs == "softmax-logits"


def _all():
    return ["coupe", "wren", "crow", "swift"]


def prefixed(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(lambda state: state, id="bare"),
        pytest.param(lambda state: prefixed("module.", state), id="DataParallel"),
        pytest.param(lambda state: prefixed("module._orig_mod.", state), id="DataParallel, compiled"),
        pytest.param(
            lambda state: {"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)},
            id="timm's checkpoint",
        ),
        pytest.param(
            lambda state: {"model": prefixed("_orig_mod.module.", state)}, id="compiled, under 'model'"
        ),
        pytest.param(
            lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
            id="the moving average comes first",
        ),
    ],
)
@torch.inference_mode()
def test_files_that_torch_wrote(tmp_path, path, images, wrap):
    torch.save(wrap(model().state_dict()), tmp_path / "w.pth")
    found = teacher(tmp_path / "w.pth")
    assert found.name == "w"
    assert teacher(path).name == "birds.v2"
    close(found(images), teacher(path)(images))


@torch.inference_mode()
def test_the_label_map_may_be_a_file_or_a_mapping(tmp_path, path, images):
    file = tmp_path / "names.json"
    mapping = {"3": "swift", "1": "wren", "0": "coupe"}
    for names in (NAMES, mapping):
        file.write_text(json.dumps(names))
        assert teacher(path, label_map=str(file)).label_map.tolist() == teacher(path).label_map.tolist()
    close(teacher(path, label_map={int(k): v for k, v in mapping.items()})(images), teacher(path)(images))
    close(
        teacher(path, label_map={0: "wren", 1: "crow"})(images),
        teacher(path, label_map=_all())(images)[:, :2],
    )


# -- what is refused ---------------------------------------------------------------------------------


def test_models_that_timm_does_not_have(path):
    assert "did you mean 'resnet50'?" in refused(path, model="resnet-50")
    assert "no such tag: 'resnet10t.c3_in2k'; did you mean 'resnet10t.c3_in1k'?" in refused(
        path, model="resnet10t.c3_in2k"
    )


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet50.a1_in1k", "local-dir:/tmp/x", "hf_hub:a/b"])
def test_nothing_is_looked_up_elsewhere(path, name, monkeypatch):
    import socket

    def forbidden(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", forbidden)
    assert "has no model" in refused(path, model=name)


def test_weights_that_do_not_fit(tmp_path, path):
    state = model().state_dict()
    missing = list(state)[:5]
    changed = {**{key: value for key, value in state.items() if key not in missing}, "more": torch.zeros(1)}
    save_file(changed, tmp_path / "w.safetensors")
    said = refused(tmp_path / "w.safetensors")
    assert "w.safetensors: not the weights of this 'test_resnet'" in said
    assert f"missing: {', '.join(missing[:3])} and 2 more; unexpected: more" in said
    assert "not the weights of this 'test_efficientnet'; missing: " in refused(
        path, model="test_efficientnet"
    )
    assert "conv1.0.weight [" in refused(path, channels=1, mean=[0], std=[1])


class Stranger:
    """What a pickle may run."""

    def __reduce__(self):
        return (print, ("run",))


def test_files_that_are_no_weights(tmp_path, path, capsys):
    whole = path.read_bytes()
    buffer = io.BytesIO()
    torch.save({"state_dict": model().state_dict(), "hook": Stranger()}, buffer)
    for content, message in {
        b"": "neither a safetensors file nor",
        b"nonsense": "neither a safetensors file nor",
        whole[:1000]: "not a whole safetensors file",
        buffer.getvalue(): "write its weights anew: safetensors.torch.save_file",
    }.items():
        (tmp_path / "w").write_bytes(content)
        said = refused(tmp_path / "w")
        assert said.startswith(str(tmp_path / "w"))
        assert message in said
    assert capsys.readouterr().out == ""
    for content, message in (([1], "holds a list"), ({}, "holds nothing"), ({"lr": 1}, "a mapping with lr")):
        torch.save(content, tmp_path / "w")
        assert message in refused(tmp_path / "w")
    assert "no such file" in refused(tmp_path / "none")


def test_label_maps_that_do_not_fit(tmp_path, path):
    said = refused(path, label_map=["coupe", "wrem", None, None])
    assert "output 1 would be our 'wrem', which the data does not have" in said
    assert said.endswith("did you mean 'wren'?")
    assert "has 3 entries for 4 outputs" in refused(path, label_map=["coupe", "wren", "swift"])
    assert "no output 4; its 4 outputs are numbered 0 to 3" in refused(path, label_map={4: "wren"})
    assert "output 1 and output 3 are both our 'wren'" in refused(path, label_map={3: "wren", 1: "wren"})
    assert "names none of its 4 outputs" in refused(path, label_map={})
    (tmp_path / "names.json").write_text('{"wren": "wren"}')
    assert "'wren' should be the number of an output" in refused(path, label_map=f"{tmp_path}/names.json")
    save_file(model(num_classes=1).state_dict(), tmp_path / "one.safetensors")
    message = refused(tmp_path / "one.safetensors", label_map=["wren"], outputs="softmax-logits")
    assert "a softmax over one output" in message


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        pytest.param("std", [0], "above 0", id="a std of 0"),
        pytest.param("std", [1, 1], "give as many", id="another number of stds than of means"),
        pytest.param("label_map", {-1: "wren"}, "numbered from 0", id="a negative number in the label map"),
        pytest.param("outputs", "probabilities", "Input should be", id="an unknown kind of outputs"),
        pytest.param("wieghts", "a", "Extra inputs", id="a misspelt option"),
    ],
)
def test_options(option, value, message):
    good = {"model": "a", "weights": "b", "label_map": ["wren"], "mean": [0]}
    with pytest.raises(ValueError, match=message):
        TimmOptions(**{**good, option: value})


def test_a_recipe_is_checked_without_timm():
    assert not {"timm", "torch"} & modules_loaded_for_options("teacher", "timm")


# -- a student of one --------------------------------------------------------------------------------


def test_a_student_learns_from_a_timm_teacher(tmp_path):
    data = {"verticals": [5, 1, 3], "train_images": 45, "test_images": 27, "image_size": 32, "channels": 3}
    save_file(model().state_dict(), tmp_path / "w.safetensors")
    names = {0: "v0 class 3", 1: "v2 class 0", 3: "v1 class 0"}
    options = {
        "model": "test_resnet",
        "weights": f"{tmp_path}/w.safetensors",
        "label_map": names,
        "input_size": 32,
    }
    recipe = {
        "kcframe": 1,
        "name": "tiny",
        "data": {"name": "synthetic", "options": data},
        "student": {
            "backbone": {"name": "small-cnn", "options": {"widths": [4, 8]}},
            "expander": {"name": "fc-sc", "options": {"s1": 16, "s2": 8}},
            "objective": "top-k-bce",
            "teachers": [{"name": "timm", "options": options}],
            "train": {"epochs": 3, "batch_size": 15, "learning_rate": 0.01, "log_every": 1},
        },
        "arms": {"concentrated": {}},
    }
    run = run_recipe(recipe, tmp_path / "run")
    # 5 images of each of 9 classes; the teacher knows three classes.
    assert run.results["teacher_images_per_image"] == pytest.approx(3 / 9)
    losses = [line["loss"] for line in run.metrics("concentrated", "step")]
    assert len(losses) == 9
    assert losses[-1] < losses[0]
