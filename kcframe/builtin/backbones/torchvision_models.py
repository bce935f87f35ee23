"""Backbone `torchvision`: any of torchvision's classification models, without its classifier."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import metadata
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kcframe.builtin.backbones.options import TorchvisionOptions
from kcframe.builtin.backbones.weights import load_weights
from kcframe.errors import PluginError, RecipeError, did_you_mean
from kcframe.interfaces.backbone import Backbone

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FIXED_SIDE = {"maxvit": 224, "vit": 224}
"""Side of the pictures for model families that are built for one size (`input_size` sets another).

Keys: how the models' names begin."""

LEAST_SIDE = {
    "alexnet": 63,
    "convnext": 32,
    "densenet": 29,
    "googlenet": 15,
    "inception_v3": 75,
    "squeezenet": 21,
    "swin": 4,
    "vgg": 32,
}
"""Side of the smallest pictures that a family accepts; others accept any. Measured with torchvision 0.29."""

HALF_MEAN = ("efficientnet_v2_l", "googlenet", "inception_v3")
"""Models whose published weights expect (x - 0.5) / 0.5: they come from TensorFlow."""

WITH_AUXILIARY = ("googlenet", "inception_v3")
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")


class TorchvisionBackbone(Backbone):
    """The input of the model's last layer, its classifier, as features.

    With input_size null, pictures keep their size, with two exceptions: vit and maxvit take 224 pixels, and
    pictures that are too small for the model are enlarged to its smallest size. Weights: torchvision's
    published files fit, with or without classifier; `mean` and `std` are those of these files. Dropout before
    the classifier stays.

    Raises PluginError (torchvision is missing or does not match torch), RecipeError (unknown model, or a size
    that it does not accept), DataError (weights cannot be read or do not fit).
    """

    name = "torchvision"
    Options = TorchvisionOptions
    options: TorchvisionOptions

    def __init__(self, options: TorchvisionOptions, channels: int, image_size: int):
        super().__init__(options, channels, image_size)
        self.channels = 3
        models = _import_torchvision().models
        available = models.list_models(module=models)
        if options.model not in available:
            raise RecipeError(
                f"backbone 'torchvision': no classification model '{options.model}'; "
                f"{did_you_mean(options.model, available)}"
            )
        self.input_size = _input_size(options, image_size)
        if options.model not in HALF_MEAN:
            self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.network = _build(models, options)
        classifier, self.num_features = _remove_classifier(self.network)
        if options.weights is not None:
            auxiliary = AUXILIARY if options.model in WITH_AUXILIARY else ()
            load_weights(self.network, options.weights, (f"{classifier}.", *auxiliary))
        self.network.to(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, 3, H, W] -> features [B, D]."""
        return self.network(images)


def _import_torchvision() -> ModuleType:
    try:
        import torchvision
    except Exception as error:  # a mismatched pair fails in many ways, some only at the second import
        raise PluginError(
            f"backbone 'torchvision': torchvision cannot be imported ({type(error).__name__}: {error}). "
            f"Installed: torch {torch.__version__}, torchvision {_version('torchvision')}. They must be a "
            "matching pair from the same build, for example torch 2.15.0 with torchvision 0.29.2; a CPU "
            "build of torch needs a CPU build of torchvision. Install both in one command from one index: "
            "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        ) from error
    return torchvision


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _of_family(table: dict[str, int], model: str) -> int | None:
    return next((side for family, side in table.items() if model.startswith(family)), None)


def _input_size(options: TorchvisionOptions, image_size: int) -> int | None:
    least = _of_family(LEAST_SIDE, options.model) or 1
    if options.input_size is not None:
        if options.input_size < least:
            raise RecipeError(
                f"backbone 'torchvision': input_size {options.input_size} is too small for {options.model}, "
                f"which needs {least} or more"
            )
        return options.input_size
    return _of_family(FIXED_SIDE, options.model) or (least if image_size < least else None)


def _build(models: ModuleType, options: TorchvisionOptions) -> nn.Module:
    """The model with a classifier of one class, on torch's default device."""
    arguments: dict[str, Any] = {"num_classes": 1}
    if options.model in WITH_AUXILIARY:
        arguments |= {"aux_logits": False, "init_weights": options.weights is None}
    if options.input_size is not None:
        if options.model.startswith("vit"):
            arguments["image_size"] = options.input_size
        elif options.model.startswith("maxvit"):
            arguments["input_size"] = (options.input_size, options.input_size)
    on_meta = torch.get_default_device().type == "meta"
    with ExitStack() as stack:
        if on_meta:
            stack.enter_context(torch.device("cpu"))
            stack.enter_context(_ParametersOnMeta())
        try:
            network = models.get_model(options.model, weights=None, **arguments)
        except (AssertionError, ValueError) as error:
            raise RecipeError(
                f"backbone 'torchvision': {options.model} cannot be built for input_size "
                f"{options.input_size}: {error}"
            ) from error
    return network.to("meta") if on_meta else network


class _ParametersOnMeta(TorchFunctionMode):
    """Parameters on the meta device, arithmetic on the CPU: RegNets compute their widths with tensors."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.empty:
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def _remove_classifier(network: nn.Module) -> tuple[str, int]:
    """Replaces the last linear layer (in squeezenet a 1x1 convolution) by an identity.

    Returns the layer's name and its number of input features.
    """
    name, last = [pair for pair in network.named_modules() if isinstance(pair[1], (nn.Linear, nn.Conv2d))][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return name, last.in_features if isinstance(last, nn.Linear) else last.in_channels
