"""The interface of teachers: specialists that know some of the classes.

A teacher declares its label map, its own normalisation and its input size, and is silent about every
class outside its label map. A teacher source is the plugin: it brings one teacher or many.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy


def prepare_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], input_size: int | None, channels: int
) -> Tensor:
    """Pictures in 0..1 as one network wants them: its channels, size and normalisation.

    images: float [B, C, H, W] -> float [B, channels, input_size, input_size]. Grey becomes colour by
    repeating, colour grey by averaging.
    """
    if images.shape[1] != channels:
        images = images.mean(1, keepdim=True).expand(-1, channels, -1, -1)
    if input_size is not None and images.shape[-1] != input_size:
        images = F.interpolate(
            images, size=(input_size, input_size), mode="bilinear", antialias=True, align_corners=False
        )
    shift = images.new_tensor(mean).view(1, -1, 1, 1)
    scale = images.new_tensor(std).view(1, -1, 1, 1)
    return (images - shift) / scale


class Teacher(nn.Module):
    """A network, which of our classes its outputs are, and how it wants its images.

    network: [b, channels, s, s] -> logits [b, C]. label_map: int64 [C], the class id of each output.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        label_map: Tensor,
        *,
        channels: int,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: int | None,
    ):
        super().__init__()
        self.name = name
        self.network = network
        self.register_buffer("label_map", label_map.long())
        self.channels, self.mean, self.std, self.input_size = channels, tuple(mean), tuple(std), input_size

    def forward(self, images: Tensor) -> Tensor:
        """images: float [b, C, H, W] in 0..1, as the data source gives them -> logits [b, C]."""
        return self.network(prepare_images(images, self.mean, self.std, self.input_size, self.channels))


@dataclass(frozen=True)
class TeacherContext:
    """What a teacher source may need.

    taxonomy: the run's. channels, image_size: of the data source's pictures. read: bytes of a file by path
    or URL (any fsspec protocol). specialist_files: URLs of this run's specialists by vertical, empty if
    it trains none. load_specialist: URL of a saved specialist -> (network: pictures in 0..1
    [b, channels, s, s] -> logits [b, C], about: its 'classes' (C names), 'channels', 'image_size').
    """

    taxonomy: Taxonomy
    channels: int
    image_size: int
    read: Callable[[str], bytes]
    specialist_files: Mapping[str, str]
    load_specialist: Callable[[str], tuple[nn.Module, dict]]


class TeacherSource(ABC):
    """Subclass it and return it from the hook `kcframe_teacher`.

    class Mine(TeacherSource):
        name = "mine"
        def teachers(self, context): return [Teacher("birds", network, label_map, ...)]
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    needs_specialists: ClassVar[bool] = False
    """True makes the run train its specialists before any arm with this source."""

    def __init__(self, options: PluginOptions):
        self.options = options

    @abstractmethod
    def teachers(self, context: TeacherContext) -> list[Teacher]:
        """The teachers, on the CPU. Raises DataError, naming file and class, if one does not fit."""
