"""Teacher source `onnx`."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kcframe.errors import DataError
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource, prepare_images
from kcframe.interfaces.toolkit.label_map import Names, place_outputs, read_names
from kcframe.interfaces.toolkit.log_odds import TOLERANCE, ToLogits
from kcframe_teacher_onnx.network import OnnxNetwork
from kcframe_teacher_onnx.options import OnnxOptions
from kcframe_teacher_onnx.session import CPU, open_session, own_names, refuse_misspelt

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class Onnx(TeacherSource):
    """One classifier in an ONNX file, with a label map."""

    name = "onnx"
    Options = OnnxOptions

    def check(self, context: TeacherContext) -> None:
        options: OnnxOptions = self.options
        providers = options.providers
        refuse_misspelt(providers or (), options.path)
        if providers is None or CPU in providers:
            # Only opening the file tells its outputs, and takes well under a second (329 MB: 0.4 s). On the
            # CPU, since the teacher's GPU may be in another machine.
            self._fitted(context, (CPU,))
        else:
            context.read(options.path)
            if isinstance(options.label_map, str):
                read_names(options.label_map, context.read)

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        options: OnnxOptions = self.options
        network, label_map, to_logits = self._fitted(context, options.providers)
        return [
            Teacher(
                options.name or posixpath.basename(options.path).removesuffix(".onnx"),
                nn.Sequential(network, to_logits),
                label_map,
                channels=network.signature.channels,
                mean=options.mean,
                std=options.std,
                input_size=network.signature.input_size,
                fingerprint=self._fingerprint(context),
            )
        ]

    def _fingerprint(self, context: TeacherContext) -> str:
        """Of the file and of how it is run: torch holds no weights of it."""
        file = hashlib.sha256(context.read(self.options.path)).hexdigest()
        how = self.options.model_dump_json(exclude={"path", "name", "label_map", "providers"})
        return f"{file} {how}"

    def _fitted(
        self, context: TeacherContext, providers: Sequence[str] | None
    ) -> tuple[OnnxNetwork, Tensor, ToLogits]:
        """(the network, its label map int64 [C], its last step), which go with each other."""
        options: OnnxOptions = self.options

        def opened(device: torch.device) -> InferenceSession:
            return open_session(context.read(options.path), options.path, providers, device)

        network = OnnxNetwork(opened, options)
        said = self._tried(network, context)
        num_outputs = said.shape[1]
        to_logits = ToLogits(options.outputs, num_outputs, options.path)
        to_logits(said)
        names = self._names(network, context)
        return network, place_outputs(names, num_outputs, context.taxonomy, options.path), to_logits

    def _tried(self, network: OnnxNetwork, context: TeacherContext) -> Tensor:
        """What the model says of two made-up pictures, [2, C]: shapes in ONNX files are often left open."""
        size = network.signature.input_size or context.image_size
        generator = torch.Generator().manual_seed(0)
        pictures = torch.rand(2, network.signature.channels, size, size, generator=generator)
        pictures[1] *= 0.5
        options = self.options
        said = network(prepare_images(pictures, options.mean, options.std, size, network.signature.channels))
        looks_like_a_softmax = said.min() >= 0 and bool(((said.sum(1) - 1).abs() < TOLERANCE).all())
        if options.outputs != "probabilities" and said.shape[1] > 1 and looks_like_a_softmax:
            raise DataError(
                f"{options.path}: its outputs are never negative and sum to 1: set outputs to probabilities"
            )
        return said

    def _names(self, network: OnnxNetwork, context: TeacherContext) -> Names:
        given = self.options.label_map
        if isinstance(given, str):
            return read_names(given, context.read)
        if given is None and (given := own_names(network.session)) is None:
            raise DataError(f"{self.options.path}: its metadata names no classes: give it a label_map")
        return given
