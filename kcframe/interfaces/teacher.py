"""The interface of teachers: specialists that know some of the classes.

A teacher declares its label map, its own normalisation and its input size, and is silent about every
class outside its label map. A teacher source is the plugin: it brings one teacher or many. Label maps of
names are read in `label_map`; outputs that are no logits yet become so in `log_odds`.
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

    name: for people; others may have the same. network: [b, channels, s, s] -> logits [b, C]. label_map:
    int64 [C], the class id of each output, -1 for one that stands for no class. fingerprint: for a network
    whose weights torch does not hold (a session of another library, say), text that changes when what it says
    may; what such a teacher says can be kept only with one. Outputs with -1 are cut:
    afterwards label_map is int64 [C'], the class ids of those kept, and columns int64 [C'], which of the
    C they are, or None if all are kept.
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
        kept = label_map != -1
        self.num_outputs = len(label_map)
        self.register_buffer("label_map", label_map[kept].long())
        self.register_buffer("columns", None if kept.all() else kept.nonzero().flatten())
        self.channels, self.mean, self.std, self.input_size = channels, tuple(mean), tuple(std), input_size

    def forward(self, images: Tensor) -> Tensor:
        """images: float [b, any channels, H, W] in 0..1, as the data source gives them -> logits [b, C'].

        The sigmoid of a logit is that class's probability: this is what objectives soften. A softmax's own
        logits will not do; `log_odds.from_softmax` makes these of them. Raises ValueError if outputs are
        to be cut of a network that has not C of them.
        """
        logits: Tensor = self.network(
            prepare_images(images, self.mean, self.std, self.input_size, self.channels)
        )
        if self.columns is None:
            return logits
        # Cutting would hide it: the columns of some other network.
        if logits.shape[1] != self.num_outputs:
            raise ValueError(
                f"the network has {logits.shape[1]} outputs and the label map {self.num_outputs} entries"
            )
        return logits[:, self.columns]


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
    """True makes the run train its specialists before any arm with this source."""

    def __init__(self, options: PluginOptions):
        self.options = options

    def check(self, context: TeacherContext) -> None:
        """Says before the first stage is trained what `teachers` would say hours later.

        For what is cheap: is the file there, does the label map fit, is the library installed. It runs
        once, where the run is started, which may be a machine without the arms' accelerator. This run's
        specialists are not there yet: `specialist_files` may be empty or name files to come. Raises
        DataError or PluginError, as `teachers` does; unless overridden it does nothing.
        """
        return None

    @abstractmethod
    def teachers(self, context: TeacherContext) -> list[Teacher]:
        """The teachers, on the CPU. Raises DataError, naming file and class, if one does not fit."""
