"""The interface of teachers: specialists for some of the classes.

A teacher has a label map, its own normalisation and its own input size. It gives no targets for classes
outside its label map. The plugin is a teacher source, which provides one or more teachers. Module `label_map`
reads label maps with class names; module `log_odds` converts outputs that are not logits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from kcframe.interfaces.options import PluginOptions
from kcframe.taxonomy import Taxonomy


def prepare_images(
    images: Tensor, mean: Sequence[float], std: Sequence[float], input_size: int | None, channels: int
) -> Tensor:
    """Converts pictures in 0..1 to the channels, size and normalisation of a network.

    images: float [B, C, H, W] -> float [B, channels, input_size, input_size]. Grey becomes colour by
    repeating, and colour becomes grey by averaging.
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
    """A network with the class ids of its outputs and the form of its images.

    name: for people; need not be unique. network: [b, channels, s, s] -> logits [b, C]. label_map: int64 [C],
    the class id of each output, -1 for an output without a class. fingerprint: for a network whose weights
    are not torch tensors (for example a session of another library), a text that changes whenever its outputs
    may; without it the outputs of such a teacher cannot be cached. Outputs with -1 are removed: afterwards
    label_map is int64 [C'], the class ids of the other outputs, and columns is int64 [C'], their indices
    among the C, or None if none was removed.
    """

    label_map: Tensor
    columns: Tensor | None
    provenance: str  # where it comes from, for messages; the engine sets it

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
        fingerprint: str | None = None,
    ):
        super().__init__()
        self.name, self.fingerprint = name, fingerprint
        self.network = network
        used = label_map != -1
        self.num_outputs = len(label_map)
        self.register_buffer("label_map", label_map[used].long())
        self.register_buffer("columns", None if used.all() else used.nonzero().flatten())
        self.channels, self.mean, self.std, self.input_size = channels, tuple(mean), tuple(std), input_size

    def forward(self, images: Tensor) -> Tensor:
        """images: float [b, any channels, H, W] in 0..1, from the data source -> logits [b, C'].

        The sigmoid of a logit must be the class's probability: objectives soften these logits. The logits of
        a softmax are different; `log_odds.from_softmax` converts them. Raises ValueError if outputs are to be
        removed, but the network does not have C outputs.
        """
        logits: Tensor = self.network(
            prepare_images(images, self.mean, self.std, self.input_size, self.channels)
        )
        if self.columns is None:
            return logits
        # Without this check, the columns of another network could be selected without an error.
        if logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"the network has {logits.shape[1]} outputs and the label map {self.num_outputs} entries"
            )
        return logits[:, self.columns]


@dataclass(frozen=True)
class TeacherContext:
    """Facts and functions for a teacher source.

    taxonomy: of the run. channels, image_size: of the data source's pictures. read: path or URL (any fsspec
    protocol) -> bytes of the file. specialist_files: vertical -> URL of this run's specialist; empty if the
    run trains none. load_specialist: URL of a saved specialist -> (network, about); network: pictures in 0..1
    [b, channels, s, s] -> logits [b, C]; about: its 'classes' (C names), 'channels' and 'image_size'.
    """

    taxonomy: Taxonomy
    channels: int
    image_size: int
    read: Callable[[str], bytes]
    specialist_files: Mapping[str, str]
    load_specialist: Callable[[str], tuple[nn.Module, dict[str, Any]]]


class TeacherSource(ABC):
    """Subclass it and return it from the hook `kcframe_teacher`.

    class Mine(TeacherSource):
        name = "mine"
        def teachers(self, context): return [Teacher("birds", network, label_map, ...)]
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    needs_specialists: ClassVar[bool] = False
    """True: the run trains its specialists before any arm with this source."""

    def __init__(self, options: PluginOptions):
        self.options = options

    def check(self, context: TeacherContext) -> None:
        """Reports errors before the first stage that `teachers` would report hours later. Default: no check.

        It is for cheap checks: does the file exist, does the label map fit, is the library installed. It runs
        once, on the machine that starts the run, which may not have the accelerator of the arms. The
        specialists of this run do not exist yet: `specialist_files` may be empty, or name files that will be
        written later. Raises DataError or PluginError, like `teachers`.
        """
        return None

    @abstractmethod
    def teachers(self, context: TeacherContext) -> list[Teacher]:
        """The teachers, on the CPU. Raises DataError, with file and class, if one does not fit."""
