"""Teacher source `timm`."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.data import resolve_data_config
from torch import Tensor, nn

from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource
from kcframe.interfaces.toolkit.label_map import Names, place_outputs, read_names
from kcframe.interfaces.toolkit.log_odds import ToLogits
from kcframe_teacher_timm.options import TimmOptions
from kcframe_teacher_timm.weights import read_state_dict, refuse_others


@dataclass(frozen=True)
class _Checkpoint:
    """What options and files say before there is a model.

    about: timm's `pretrained_cfg`. state: the weights. label_map: int64 [C]. channels: of the pictures.
    """

    about: Mapping[str, Any]
    state: Mapping[str, Tensor]
    label_map: Tensor
    to_logits: ToLogits
    channels: int


class Timm(TeacherSource):
    """One timm model whose weights are in a file. Nothing is ever downloaded from a model hub."""

    name = "timm"
    Options = TimmOptions

    def check(self, context: TeacherContext) -> None:
        # All but whether the model takes pictures of its input size: only running it tells.
        checkpoint = self._checkpoint(context)
        try:
            with torch.device("meta"):  # shapes without numbers: no time, no memory
                model = self._model(checkpoint)
        except DataError:  # it cannot be built, or not without numbers; the second attempt tells
            model = self._model(checkpoint)
        refuse_others(model, checkpoint.state, self.options.weights, self.options.model)
        self._pictures(model, checkpoint)

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        options: TimmOptions = self.options
        checkpoint = self._checkpoint(context)
        model = self._model(checkpoint).eval()
        refuse_others(model, checkpoint.state, options.weights, options.model)
        model.load_state_dict(checkpoint.state)
        mean, std, input_size = self._pictures(model, checkpoint)
        _try(model, checkpoint.channels, input_size, options.model)
        return [
            Teacher(
                options.name or posixpath.splitext(posixpath.basename(options.weights))[0],
                nn.Sequential(model, checkpoint.to_logits),
                checkpoint.label_map,
                channels=checkpoint.channels,
                mean=mean,
                std=std,
                input_size=input_size,
            )
        ]

    def _checkpoint(self, context: TeacherContext) -> _Checkpoint:
        options: TimmOptions = self.options
        names = options.label_map
        if isinstance(names, str):
            names = read_names(names, context.read)
        about = _about(options.model)
        state = read_state_dict(context.read(options.weights), options.weights)
        num_outputs = _num_outputs(state, about, names)
        return _Checkpoint(
            about=about,
            state=state,
            label_map=place_outputs(names, num_outputs, context.taxonomy, options.weights),
            to_logits=ToLogits(options.outputs, num_outputs, options.weights),
            channels=options.channels or about["input_size"][0],
        )

    def _model(self, checkpoint: _Checkpoint) -> nn.Module:
        """The network with random weights, C outputs."""
        options: TimmOptions = self.options
        size = options.input_size
        # Only networks with position embeddings and the like are built for one size.
        sized = {"img_size": size} if size and checkpoint.about.get("fixed_input_size") else {}
        num_outputs, channels = len(checkpoint.label_map), checkpoint.channels
        try:
            model = timm.create_model(
                options.model, pretrained=False, num_classes=num_outputs, in_chans=channels, **sized
            )
            return model.to(memory_format=torch.channels_last)
        except (AssertionError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            asked = f"{channels} channels" + (f" and input_size {size}" if sized else "")
            raise DataError(f"timm cannot build '{options.model}' for {asked}: {error}") from None

    def _pictures(
        self, model: nn.Module, checkpoint: _Checkpoint
    ) -> tuple[Sequence[float], Sequence[float], int]:
        """(mean, std, pixels a side)."""
        options: TimmOptions = self.options
        own = resolve_data_config({}, model=model)
        _, height, width = own["input_size"]
        if options.input_size is None and height != width:
            raise DataError(
                f"'{options.model}' takes pictures of {height} × {width}; kcframe makes square ones: set "
                "input_size if it takes those"
            )
        mean = own["mean"] if options.mean is None else options.mean
        std = own["std"] if options.std is None else options.std
        for what, numbers in (("mean", mean), ("std", std)):
            if len(numbers) not in (1, checkpoint.channels):
                raise DataError(
                    f"'{options.model}': {what} has {len(numbers)} numbers, not {checkpoint.channels}: "
                    f"set {what}"
                )
        return mean, std, options.input_size or height


def _about(name: str) -> dict[str, Any]:
    """What timm knows of a model, `pretrained_cfg`. Raises DataError with the nearest name.

    Names that timm would look up elsewhere (hf-hub:…, local-dir:…) are none of its own, so refused.
    """
    architecture = name.partition(".")[0]
    if not timm.is_model(name):
        near = did_you_mean(architecture, timm.list_models())
        raise DataError(f"timm {timm.__version__} has no model '{name}'; {near}")
    try:
        return timm.get_pretrained_cfg(name).to_dict()
    except RuntimeError:  # its word for a tag that it does not know
        near = did_you_mean(name, timm.list_models(f"{architecture}.*", pretrained=True))
        raise DataError(f"timm {timm.__version__} has no such tag: '{name}'; {near}") from None


@torch.inference_mode()
def _try(model: nn.Module, channels: int, input_size: int, name: str) -> None:
    """Asks it once: not every network takes pictures of every size, and few say so before."""
    try:
        model(torch.zeros(1, channels, input_size, input_size))
    except (AssertionError, RuntimeError, ValueError) as error:
        raise DataError(f"'{name}' does not take pictures of {input_size} × {input_size}: {error}") from None


def _num_outputs(state: Mapping[str, Tensor], about: Mapping[str, Any], names: Names) -> int:
    """C: rows of the classifier in the file; if it is not there, what a label map suggests."""
    layer = about.get("classifier")
    layer = layer[0] if isinstance(layer, (tuple, list)) else layer
    if (weight := state.get(f"{layer}.weight")) is not None:
        return len(weight)
    return max(names) + 1 if isinstance(names, Mapping) and names else len(names)
