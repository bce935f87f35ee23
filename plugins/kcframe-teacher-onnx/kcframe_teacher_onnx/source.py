"""Teacher source `onnx`."""

from __future__ import annotations

import posixpath
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn

from kcframe.errors import DataError
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource, prepare_images
from kcframe_teacher_onnx.label_map import Names, place_outputs, read_names
from kcframe_teacher_onnx.log_odds import TOLERANCE, Columns, FromProbabilities, FromSoftmaxLogits
from kcframe_teacher_onnx.network import OnnxNetwork
from kcframe_teacher_onnx.options import OnnxOptions
from kcframe_teacher_onnx.session import open_session, own_names

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Onnx(TeacherSource):
    """One classifier in an ONNX file, with a label map."""

    name = "onnx"
    Options = OnnxOptions

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        options: OnnxOptions = self.options
        network = OnnxNetwork(partial(self._open, context), options)
        said = self._tried(network, context)
        columns, classes = place_outputs(
            self._names(network, context), said.shape[1], context.taxonomy, options.path
        )
        steps: list[nn.Module] = [network]
        if options.outputs == "softmax-logits":
            steps.append(FromSoftmaxLogits())
        elif options.outputs == "probabilities":
            steps.append(FromProbabilities(options.path))
        if columns != list(range(said.shape[1])):
            steps.append(Columns(columns))
        return [
            Teacher(
                options.name or posixpath.basename(options.path).removesuffix(".onnx"),
                nn.Sequential(*steps),
                torch.tensor(classes),
                channels=network.signature.channels,
                mean=options.mean,
                std=options.std,
                input_size=network.signature.input_size,
            )
        ]

    def _open(self, context: TeacherContext, device: torch.device) -> InferenceSession:
        path, providers = self.options.path, self.options.providers
        return open_session(context.read(path), path, providers, device)

    def _tried(self, network: OnnxNetwork, context: TeacherContext) -> torch.Tensor:
        """What the model says of two made-up pictures, [2, C]: shapes in ONNX files are often left open."""
        size = network.signature.input_size or context.image_size
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(2, network.signature.channels, size, size, generator=generator)
        pictures[1] *= 0.5
        options = self.options
        said = network(prepare_images(pictures, options.mean, options.std, size, network.signature.channels))
        if options.outputs == "probabilities":
            FromProbabilities(options.path)(said)
        elif said.shape[1] > 1 and said.min() >= 0 and bool(((said.sum(1) - 1).abs() < TOLERANCE).all()):
            raise DataError(
                f"{options.path}: its outputs are never negative and sum to 1: set outputs to probabilities"
            )
        if options.outputs == "softmax-logits" and said.shape[1] == 1:
            raise DataError(f"{options.path}: a softmax over one output always says 1: set outputs to logits")
        return said

    def _names(self, network: OnnxNetwork, context: TeacherContext) -> Names:
        given = self.options.label_map
        if isinstance(given, str):
            return read_names(given, context.read)
        if given is None and (given := own_names(network.session)) is None:
            raise DataError(f"{self.options.path}: its metadata names no classes: give it a label_map")
        return given
