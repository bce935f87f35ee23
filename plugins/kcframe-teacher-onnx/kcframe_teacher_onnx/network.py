"""An ONNX model as a torch module."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from kcframe.errors import DataError
from kcframe_teacher_onnx.options import OnnxOptions
from kcframe_teacher_onnx.signature import read_signature

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


class OnnxNetwork(nn.Module):
    """float [b, channels, s, s], normalised -> what the model says, float32 [b, C], on the same device.

    The model runs where the images are. Where it wants exactly n pictures at once it is asked several
    times. Raises DataError, naming the file, if it does not run or its output is no classifier's.
    """

    def __init__(self, opened: Callable[[torch.device], InferenceSession], options: OnnxOptions):
        """opened: makes the session for images on a device."""
        super().__init__()
        self.opened, self.url = opened, options.path
        self.device = torch.device("cpu")
        self.session = opened(self.device)
        self.signature = read_signature(self.session, options)

    def forward(self, images: Tensor) -> Tensor:
        if images.device != self.device:
            self.session, self.device = self.opened(images.device), images.device
        pictures = self._pictures(images)
        at_once = self.signature.batch_size or len(pictures)
        said = [self._ask(pictures[first:][:at_once]) for first in range(0, len(pictures), at_once)]
        return torch.from_numpy(np.concatenate(said)).to(images.device)

    def _pictures(self, images: Tensor) -> np.ndarray:
        images = images.permute(0, 2, 3, 1) if self.signature.nhwc else images
        images = images.float()
        if self.signature.dtype is np.uint8:
            images = (images * 255).round().clamp(0, 255)
        return images.cpu().contiguous().numpy().astype(self.signature.dtype, copy=False)

    def _ask(self, pictures: np.ndarray) -> np.ndarray:
        """At most n pictures, in the model's own layout and format -> float32 [b, C]."""
        b = len(pictures)
        if missing := (self.signature.batch_size or b) - b:
            filler = np.zeros_like(pictures, shape=(missing, *pictures.shape[1:]))
            pictures = np.concatenate([pictures, filler])
        output = self.signature.output
        try:
            (said,) = self.session.run([output], {self.signature.input: pictures})
        except Exception as error:  # onnxruntime's exceptions have no common base
            shown = list(pictures.shape)
            raise DataError(f"{self.url}: onnxruntime cannot run it on pictures {shown}: {error}") from None
        # [b, C, 1, 1] and the like are a classifier's too.
        if said.ndim < 2 or len(said) != len(pictures) or said[0].size != max(said.shape[1:]):
            raise DataError(
                f"{self.url}: output '{output}' is {list(said.shape)} for {len(pictures)} pictures; a "
                "classifier's is [pictures, classes]"
            )
        return said.reshape(len(pictures), -1)[:b].astype(np.float32)
