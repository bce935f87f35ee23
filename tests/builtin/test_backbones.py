"""Backbones give the features that they promise, at any size that they take."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file

from kcframe.assemble import build_backbone
from kcframe.errors import DataError, PluginError, RecipeError
from kcframe.interfaces.teacher import prepare_images
from kcframe.recipe.schema import PluginRef


def build(name, channels=3, image_size=64, **options):
    return build_backbone(PluginRef(name=name, options=options), channels, image_size)


def features(backbone, channels, side):
    """Features of two pictures as a source would give them, prepared as the student prepares them."""
    pictures = torch.rand(2, channels, side, side)
    b = backbone.eval()
    with torch.inference_mode():
        return b(prepare_images(pictures, b.mean, b.std, b.input_size, b.channels))


@pytest.mark.parametrize("side", [8, 17, 32, 45])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pool", ["average", "flatten"])
def test_small_cnn_at_odd_sizes(side, channels, pool):
    backbone = build("small-cnn", channels, side, widths=[4, 6], pool=pool)
    assert features(backbone, channels, side).shape == (2, backbone.num_features)


def test_small_cnn_without_normalisation_does_not_mix_pictures():
    backbone = build("small-cnn", 1, 16, widths=[4], normalisation="none").train()
    pictures = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(backbone(pictures)[:1], backbone(pictures[:1]))


FAMILIES = {
    "resnet18": 512,
    "vgg11": 4096,
    "densenet121": 1024,
    "mobilenet_v3_small": 1024,
    "shufflenet_v2_x0_5": 1024,
    "regnet_y_400mf": 440,
    "squeezenet1_1": 512,
    "googlenet": 1024,
}


@pytest.mark.parametrize("model", FAMILIES)
def test_torchvision_families(model):
    """The numbers are the papers' last widths, and what forward gives."""
    backbone = build("torchvision", 1, 40, model=model)
    assert backbone.num_features == FAMILIES[model]
    assert features(backbone, 1, 40).shape == (2, FAMILIES[model])


def test_resnet18_gives_torchvisions_own_features(tmp_path):
    import torchvision

    torch.manual_seed(0)
    whole = torchvision.models.resnet18().eval()
    save_file(whole.state_dict(), tmp_path / "r.safetensors")
    torch.save(whole.state_dict(), tmp_path / "r.pth")
    pictures = torch.rand(2, 3, 64, 64)
    for file in ("r.safetensors", "r.pth"):
        backbone = build("torchvision", model="resnet18", weights=str(tmp_path / file)).eval()
        with torch.inference_mode():
            torch.testing.assert_close(whole.fc(backbone(pictures)), whole(pictures))


def test_a_model_on_the_meta_device_allocates_nothing():
    with torch.device("meta"):
        backbone = build("torchvision", image_size=224, model="vit_h_14")
    assert backbone.num_features == 1280
    assert all(parameter.is_meta for parameter in backbone.parameters())


@pytest.mark.parametrize(("option", "width"), [("1024", 1024), ("3x3x1024", 9216)])
def test_inception_v2_has_its_parameters_and_features(option, width):
    backbone = build("inception-v2", 3, 96, features=option)
    assert sum(p.numel() for p in backbone.parameters()) == 10_169_984
    assert backbone.num_features == width
    assert features(backbone, 3, 96).shape == (2, width)


def test_an_unknown_model_names_the_nearest():
    with pytest.raises(RecipeError, match="no classification model 'resnet81'; did you mean 'resnet18'"):
        build("torchvision", model="resnet81")


def test_a_size_that_a_model_cannot_take():
    with pytest.raises(RecipeError, match="input_size 20 is too small for vgg11, which needs 32"):
        build("torchvision", model="vgg11", input_size=20)


def test_a_torch_that_torchvision_does_not_match_says_which_pair(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(PluginError, match=r"cannot be imported.*matching pair from the same build"):
        build("torchvision", model="resnet18")


class Evil:
    def __reduce__(self):
        return (print, ("code from a weights file ran",))


def test_weights_of_another_network_damaged_ones_and_pickles_are_refused(tmp_path, capsys):
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match=r"other.safetensors: these weights are of another network: it lacks"):
        build("torchvision", model="resnet18", weights=str(tmp_path / "other.safetensors"))
    (tmp_path / "broken.pth").write_bytes(b"not weights")
    torch.save({"a": Evil()}, tmp_path / "evil.pth")
    for file in ("broken.pth", "evil.pth"):
        with pytest.raises(DataError, match=rf"{file}: neither a safetensors file nor a torch state dict"):
            build("torchvision", model="resnet18", weights=str(tmp_path / file))
    assert "code from" not in capsys.readouterr().out
    with pytest.raises(DataError, match="nowhere.pth: no such file"):
        build("torchvision", model="resnet18", weights=str(tmp_path / "nowhere.pth"))
