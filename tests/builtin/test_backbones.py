"""Backbones give the features that they promise, at any size that they take."""

from __future__ import annotations

import sys

import pytest
import torch
from safetensors.torch import save_file
from torch.utils._python_dispatch import TorchDispatchMode

from kcframe.assembly.plugins import build_backbone
from kcframe.assembly.saved import restore
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


# Each width after the first halves the side, rounded up: 17 -> 9 -> 5 -> 3.
@pytest.mark.parametrize(("side", "last"), [(1, 1), (8, 1), (17, 3), (32, 4), (45, 6)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("normalisation", ["batch", "group", "none"])
def test_small_cnn_at_odd_sizes(side, last, channels, normalisation):
    widths = [4, 6, 8, 16]
    for pool, wanted in (("average", 16), ("flatten", 16 * last**2)):
        backbone = build("small-cnn", channels, side, widths=widths, pool=pool, normalisation=normalisation)
        assert backbone.num_features == wanted
        found = features(backbone, channels, side)
        assert found.shape == (2, wanted)
        assert (found >= 0).all()
        # Nine weights a pair of channels; a bias, or scale and shift: no bias before a normalisation.
        pairs = sum(before * width for before, width in zip([channels, *widths[:-1]], widths, strict=True))
        each = 1 if normalisation == "none" else 2
        assert sum(p.numel() for p in backbone.parameters()) == 9 * pairs + each * sum(widths)


@pytest.mark.parametrize(
    "ref",
    [
        {"name": "small-cnn", "options": {"widths": [4, 8]}},
        {"name": "torchvision", "options": {"model": "squeezenet1_1"}},
        {"name": "inception-v2", "options": {"input_size": 64}},
    ],
    ids=lambda ref: ref["name"],
)
def test_convolutions_are_channels_last_and_stay_so_in_a_restored_network(ref):
    def build():
        return build_backbone(PluginRef(**ref), 3, 64)

    made = build().eval()
    plain = {name: value.contiguous() for name, value in made.state_dict().items()}  # as a file has them
    again = restore(build, plain, "weights.safetensors", "it")
    for network in (made, again):
        maps = [p for p in network.parameters() if p.dim() == 4]
        assert maps
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in maps)
    pictures = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made(pictures), again(pictures))


def test_small_cnn_without_normalisation_does_not_mix_pictures():
    backbone = build("small-cnn", 1, 16, widths=[4], normalisation="none").train()
    pictures = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(backbone(pictures)[:1], backbone(pictures[:1]))


FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "efficientnet_v2_s": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "maxvit_t": 512,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "resnext50_32x4d": 2048,
    "shufflenet_v2_x0_5": 1024,
    "squeezenet1_1": 512,
    "swin_t": 768,
    "swin_v2_t": 768,
    "vgg11": 4096,
    "vit_b_32": 768,
    "wide_resnet50_2": 2048,
}
"""One of each family, and its paper's last width."""

ELSEWHERE = {
    "inception_v3": 3_326_696,  # the auxiliary classifier, which is left out
    "maxvit_t": -1000,  # its classifier has no bias
}
"""Parameters that torchvision counts and that the formula below does not."""


class Largest(TorchDispatchMode):
    """Remembers the most numbers of a tensor that was made in memory."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and not made.is_meta:
            self.numel = max(self.numel, made.numel())
        return made


@pytest.mark.parametrize("model", ["vit_l_16", "regnet_y_16gf"])
def test_on_the_meta_device_nothing_is_allocated(model):
    with torch.device("meta"), Largest() as largest:
        build("torchvision", model=model)
    assert largest.numel < 10_000


@pytest.mark.parametrize("model", FAMILIES)
def test_torchvision_families_on_the_meta_device(model):
    """Only the classifier is gone: with 1000 classes again, there are as many parameters as published."""
    from torchvision.models import get_model_weights

    with torch.device("meta"):
        backbone = build("torchvision", 1, 9, model=model)
        side = backbone.input_size or 9
        found = backbone.eval()(torch.empty(2, 3, side, side))
    assert found.is_meta
    assert all(parameter.is_meta for parameter in backbone.parameters())
    assert backbone.num_features == FAMILIES[model]
    assert found.shape == (2, FAMILIES[model])
    counted = sum(p.numel() for p in backbone.parameters()) + 1000 * (FAMILIES[model] + 1)
    published = next(iter(get_model_weights(model))).meta["num_params"]
    assert counted == published - ELSEWHERE.get(model, 0)


@pytest.mark.parametrize(
    "model", ["densenet121", "googlenet", "mobilenet_v3_small", "regnet_y_400mf", "squeezenet1_1", "swin_t"]
)
@pytest.mark.parametrize(("channels", "side"), [(1, 7), (3, 41)])
def test_torchvision_families_take_small_and_grey_pictures(model, channels, side):
    backbone = build("torchvision", channels, side, model=model)
    found = features(backbone, channels, side)
    assert found.shape == (2, FAMILIES[model])
    assert found.isfinite().all()


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


def branch(width, *convolutions):
    """Parameters of convolutions (side, next width) in a row, each with batch normalisation, no bias."""
    total = 0
    for side, next_width in convolutions:
        total += side * side * width * next_width + 2 * next_width
        width = next_width
    return total


# Ioffe & Szegedy 2015, figure 5 (4c and 4d as in TF-slim): in, 1x1, 3x3 reduce, 3x3, double reduce,
# double, projection; 0 where there is none.
FIGURE_5 = """
192 64 64 64 64 96 32     256 64 64 96 64 96 64       320 0 128 160 64 96 0      576 224 64 96 96 128 128
576 192 96 128 96 128 128 576 160 128 160 128 160 96  576 96 128 192 160 192 96  576 0 128 192 192 256 0
1024 352 192 320 160 224 128   1024 352 192 320 192 224 128
"""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("option", "width"), [("1024", 1024), ("3x3x1024", 9216)])
def test_inception_v2_has_its_parameters_and_features(channels, option, width):
    backbone = build("inception-v2", channels, 96, features=option)
    wanted = branch(channels, (7, 64), (1, 64), (3, 192))
    numbers = list(map(int, FIGURE_5.split()))
    for before, one, three1, three, double1, double, projection in zip(*[iter(numbers)] * 7, strict=True):
        wanted += branch(before, (1, three1), (3, three))
        wanted += branch(before, (1, double1), (3, double), (3, double))
        wanted += (branch(before, (1, one)) + branch(before, (1, projection))) if one else 0
    assert sum(p.numel() for p in backbone.parameters()) == wanted
    if channels == 3:
        assert wanted == 10_169_984
    assert backbone.num_features == width
    assert features(backbone, channels, 96).shape == (2, width)


@pytest.mark.parametrize("side", [32, 45, 100])
def test_inception_v2_at_other_sizes(side):
    backbone = build("inception-v2", 3, side)
    assert features(backbone, 3, side).shape == (2, 1024)
    maps = backbone.inception(backbone.stem(torch.rand(1, 3, side, side)))
    assert maps.shape == (1, 1024, -(-side // 32), -(-side // 32))


def test_inception_v2_says_what_the_paper_counts():
    """Knowledge Concentration's totals contain a base network of 11.7M, M being 2^20."""
    assert round(build("inception-v2").published_parameters / 2**20, 6) == 11.7
    assert build("small-cnn").published_parameters is None


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("resnet81", "did you mean 'resnet18'"),
        ("ResNet50", "did you mean 'resnet50'"),
        ("vit-b-16", "did you mean 'vit_b_16'"),
        ("fasterrcnn_resnet50_fpn", "known: alexnet, "),  # torchvision's, but it does not classify
    ],
)
def test_an_unknown_model_names_the_nearest(model, near):
    with pytest.raises(RecipeError, match=f"no classification model '{model}'; {near}"):
        build("torchvision", model=model)


def test_a_model_is_no_backbone_of_its_own():
    with pytest.raises(PluginError, match=r"no backbone 'resnet18' is installed.*name: torchvision, options"):
        build("resnet18")


@pytest.mark.parametrize(
    ("model", "side", "says"),
    [
        ("vgg11", 20, "input_size 20 is too small for vgg11, which needs 32"),
        ("vit_b_16", 100, "vit_b_16 cannot be built for input_size 100: "),
        ("maxvit_t", 100, "maxvit_t cannot be built for input_size 100: "),
    ],
)
def test_a_size_that_a_model_cannot_take(model, side, says):
    with torch.device("meta"), pytest.raises(RecipeError, match=says):
        build("torchvision", model=model, input_size=side)


def test_another_size_for_models_that_are_built_for_one():
    with torch.device("meta"):
        backbone = build("torchvision", model="vit_b_16", input_size=64).eval()
        assert backbone(torch.empty(2, 3, 64, 64)).shape == (2, 768)
    assert backbone.network.encoder.pos_embedding.shape[1] == 4 * 4 + 1


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
    with pytest.raises(DataError, match="no file .*nowhere.pth"):
        build("torchvision", model="resnet18", weights=str(tmp_path / "nowhere.pth"))
