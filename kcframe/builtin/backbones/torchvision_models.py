"""Backbone `torchvision`: any of torchvision's classification models, without its classifier."""

from __future__ import annotations

import io
import re
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from importlib import metadata
from types import ModuleType
from typing import Any

import fsspec
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kcframe.builtin.backbones.options import TorchvisionOptions
from kcframe.errors import DataError, PluginError, RecipeError, did_you_mean
from kcframe.interfaces.backbone import Backbone

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FIXED_SIDE = {"maxvit": 224, "vit": 224}
"""Families built for one size (other sizes: `input_size`), by the beginning of their names."""

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
"""The smallest pictures a family can take; families not named take any. Measured with torchvision 0.29."""

HALF_MEAN = ("efficientnet_v2_l", "googlenet", "inception_v3")
"""Models whose published weights want (x - 0.5) / 0.5: they come from TensorFlow."""

WITH_AUXILIARY = ("googlenet", "inception_v3")
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
PARALLEL = "module."  # what DataParallel puts before every key
NAMED = 5  # keys that an error names before it only counts them


class TorchvisionBackbone(Backbone):
    """The features that the model's last layer, its classifier, would see.

    input_size null takes pictures as they come; vit and maxvit take 224 pixels, and pictures smaller than
    the model can take are enlarged to its smallest size. Weights: torchvision's published files fit, with
    or without classifier, and `mean` and `std` are theirs. Dropout before the classifier stays.

    Raises PluginError (torchvision is missing or does not match torch), RecipeError (unknown model, size it
    cannot take), DataError (weights cannot be read or do not fit).
    """

    name = "torchvision"
    Options = TorchvisionOptions

    def __init__(self, options: TorchvisionOptions, channels: int, image_size: int):
        super().__init__(options, channels, image_size)
        self.channels = 3
        models = _import_torchvision().models
        known = models.list_models(module=models)
        if options.model not in known:
            raise RecipeError(
                f"backbone 'torchvision': no classification model '{options.model}'; "
                f"{did_you_mean(options.model, known)}"
            )
        self.input_size = _input_size(options, image_size)
        if options.model not in HALF_MEAN:
            self.mean, self.std = IMAGENET_MEAN, IMAGENET_STD
        self.network = _build(models, options)
        classifier, self.num_features = _remove_classifier(self.network)
        if options.weights is not None:
            auxiliary = AUXILIARY if options.model in WITH_AUXILIARY else ()
            load_weights(self.network, options.weights, (f"{classifier}.", *auxiliary))

    def forward(self, images: Tensor) -> Tensor:
        """images: float [B, 3, H, W] -> features [B, D]."""
        return self.network(images)


def _import_torchvision() -> ModuleType:
    try:
        import torchvision
    except Exception as error:  # a mismatched pair fails in many ways, some of them only the second time
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
    """Put an identity in place of the last linear layer (squeezenet's is a 1x1 convolution).

    Returns its name and the number of features that came into it.
    """
    name, last = [pair for pair in network.named_modules() if isinstance(pair[1], (nn.Linear, nn.Conv2d))][-1]
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return name, last.in_features if isinstance(last, nn.Linear) else last.in_channels


# -- weights from a file --------------------------------------------------------------------------


def load_weights(network: nn.Module, url: str, ignored: Sequence[str] = ()) -> None:
    """Give a network the weights of a file; on the meta device, where there are none to give, do nothing.

    url: path or fsspec URL of a safetensors or torch state-dict file. ignored: beginnings of keys that the
    network may lack. Raises DataError, naming the first keys, if the file is anything but its weights.
    """
    if any(parameter.is_meta for parameter in network.parameters()):
        return
    state = _read_state(url)
    for key in [key for key in state if key.startswith(tuple(ignored))]:
        del state[key]
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise DataError(f"{url}: these weights do not fit: {error}") from None
    # Files from before PyTorch 0.4.1 do not count batches.
    missing = [key for key in missing if not key.endswith(".num_batches_tracked")]
    problems = [
        f"{what} {', '.join(keys[:NAMED])}{f' and {len(keys) - NAMED} more' if len(keys) > NAMED else ''}"
        for what, keys in (("it lacks", missing), ("it has besides", unexpected))
        if keys
    ]
    if problems:
        raise DataError(f"{url}: these weights are of another network: {'; '.join(problems)}")


def _read_state(url: str) -> OrderedDict[str, Tensor]:
    try:
        with fsspec.open(url, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        raise DataError(f"{url}: no such file") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{url}: cannot be read: {type(error).__name__}: {error}") from None
    try:
        if data[8:9] == b"{":  # safetensors: the header's length in 8 bytes, then the header in JSON
            from safetensors.torch import load

            found: Any = load(data)
        else:
            found = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in many ways
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"{url}: neither a safetensors file nor a torch state dict that can be read without running code "
            f"from it ({type(error).__name__}: {reason})"
        ) from None
    for wrapper in ("state_dict", "model"):  # as training scripts save it
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    if not isinstance(found, dict) or not found or not all(isinstance(v, Tensor) for v in found.values()):
        raise DataError(f"{url}: not a state dict: names and their tensors, nothing else")
    state = OrderedDict((_current_name(key), value) for key, value in found.items())
    # Some modules read older layouts by the version noted here; MNASNet refuses to do without.
    noted = None if next(iter(found)).startswith(PARALLEL) else getattr(found, "_metadata", None)
    state._metadata = noted or {"": {"version": 2}}  # type: ignore[attr-defined]
    return state


def _current_name(key: str) -> str:
    """Without DataParallel's prefix, and with the names DenseNet has had since PyTorch 0.4."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key.removeprefix(PARALLEL))
