"""The interface of pacing: how fast each vertical learns.

Pacing here is Knowledge Concentration's (eq. 4): a module on a vertical's logits, a weight a vertical
computed from the progress of training (for all terms of the loss, or for each), a weight an image, a
temperature a vertical, or all of them. (Curriculum learning's "pacing function", how many
examples are shown when, is something else.)
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from kcframe.interfaces.objective import BlockTargets
from kcframe.interfaces.options import PluginOptions


@dataclass(frozen=True)
class Progress:
    """Where training stands, the same on all workers.

    step: steps finished, of num_steps. epoch: epochs finished (a fraction), of num_epochs.
    loss: float32 [M], each vertical's loss an image, smoothed over steps (exponential, 0.98);
    nan before the first step.
    accuracy, teacher_accuracy: float32 [M], 0..1, smoothed likewise: of the training images with a label in
    the vertical, the share whose first class there is a label, for the student and for its teachers; nan
    before a vertical's first image. None unless the pacing sets `uses_accuracy`.
    """

    step: int
    num_steps: int
    epoch: float
    num_epochs: int
    loss: Tensor
    accuracy: Tensor | None = None
    teacher_accuracy: Tensor | None = None


class Pacing(nn.Module, ABC):
    """Subclass it, override what you need, and return it from the hook `kcframe_pacing`.

    class Warm(Pacing):
        name = "warm"
        def weights(self, progress):
            return torch.full((len(self.sizes),), min(1.0, progress.step / 100))
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    learning_rate_scale: float = 1.0
    """The learning rate of the pacing's own parameters, times the recipe's. They have no weight decay."""

    uses_accuracy: bool = False
    """True asks the engine to fill `Progress.accuracy` and `.teacher_accuracy`, at a small cost a step."""

    has_closed_form: bool = False
    """True says that `forward_` and `pull_back_` do what `forward` does, faster than autograd. They are used
    where the objective has a closed form as well; a pacing that leaves `forward` alone needs neither."""

    def __init__(self, options: PluginOptions, sizes: Sequence[int], num_classes: int):
        """sizes: (N_1, …, N_M). num_classes: N."""
        super().__init__()
        self.options = options
        self.sizes = tuple(sizes)
        self.num_classes = num_classes

    def start(self, classifiers: Sequence[nn.Linear]) -> None:
        """Called once before training: may set the classifiers' [N_v, hidden] weights and biases."""

    def forward(self, logits: Tensor, vertical: int) -> Tensor:
        """One vertical's logits [B, N_v] -> paced logits [B, N_v]. Default: unchanged."""
        return logits

    def forward_(self, logits: Tensor, vertical: int) -> Any:
        """`forward` in place: logits [b, N_v], some of a block's images, become the paced ones.

        Called without autograd. Returns whatever `pull_back_` needs.
        """
        return None

    def pull_back_(self, gradient: Tensor, paced: Tensor, vertical: int, saved: Any) -> None:
        """Turns dL/dpaced [b, N_v] into dL/dlogits in place, and adds to the `grad` of the pacing's own
        parameters. paced: what `forward_` left; saved: what it returned."""

    def weights(self, progress: Progress) -> Tensor | Mapping[str, Tensor] | None:
        """float [M]: each vertical's share in the loss of the coming step. None: all 1.

        A mapping gives the objective's terms weights of their own: {"soft": [M], "hard": [M]}; a term that
        is not in it keeps 1.
        """
        return None

    def temperatures(self, progress: Progress) -> Tensor | None:
        """float [M]: what the objective's temperature is multiplied by, in the coming step. None: all 1."""
        return None

    def image_weights(self, logits: Tensor, targets: BlockTargets) -> Tensor | None:
        """float [B]: each image's share in one vertical's loss. None: all 1.

        logits: paced, [B, N_v], detached. Needs an objective whose terms are [B].
        """
        return None

    def readings(self) -> dict[str, Tensor]:
        """Named values a vertical, each float [M], written to the metrics: {"gamma": …}."""
        return {}
