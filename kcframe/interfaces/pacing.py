"""The interface of pacing: how fast each vertical learns.

Pacing is meant as in Knowledge Concentration (eq. 4). A pacing may be a module on a vertical's logits, a
weight per vertical that depends on the progress of training (one for the whole loss, or one per term), a
weight per image, a temperature per vertical, or several of these. (The "pacing function" of curriculum
learning, the number of examples at each time, is something else.)
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
    """The progress of training, the same on all workers.

    step: finished steps, of num_steps. epoch: finished epochs (with fraction), of num_epochs. loss: float32
    [M], each vertical's loss per image, smoothed over steps (exponentially, 0.98); nan before the first step.
    accuracy, teacher_accuracy: float32 [M] in 0..1, smoothed in the same way: the share of training images,
    among those with a label in the vertical, whose most probable class of the vertical is a label; of the
    student and of its teachers. nan before a vertical's first image; None unless the pacing sets
    `uses_accuracy`.
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
    """Factor for the learning rate of the pacing's own parameters, which have no weight decay."""

    uses_accuracy: bool = False
    """True: the engine fills `Progress.accuracy` and `.teacher_accuracy`, at a small cost per step."""

    has_closed_form: bool = False
    """True: `forward_` and `pull_back_` do the same as `forward` with autograd, but faster.

    They are used if the objective has a closed form, too. A pacing that does not override `forward` needs
    neither.
    """

    def __init__(self, options: PluginOptions, sizes: Sequence[int], num_classes: int):
        """sizes: (N_1, …, N_M). num_classes: N."""
        super().__init__()
        self.options = options
        self.sizes = tuple(sizes)
        self.num_classes = num_classes

    def start(self, classifiers: Sequence[nn.Linear]) -> None:
        """Called once before training; may set weights [N_v, hidden] and biases of the classifiers."""

    def forward(self, logits: Tensor, vertical: int) -> Tensor:
        """One vertical's logits [B, N_v] -> paced logits [B, N_v]. Default: unchanged."""
        return logits

    def forward_(self, logits: Tensor, vertical: int) -> Any:
        """`forward` in place: changes logits [b, N_v], of a part of a block's images, into paced logits.

        Called without autograd. Returns any value that `pull_back_` needs.
        """
        return None

    def pull_back_(self, gradient: Tensor, paced: Tensor, vertical: int, saved: Any) -> None:
        """Changes dL/dpaced [b, N_v] into dL/dlogits in place, and adds to `grad` of the pacing's parameters.

        paced: the result of `forward_`. saved: the value that it returned.
        """

    def weights(self, progress: Progress) -> Tensor | Mapping[str, Tensor] | None:
        """float [M]: each vertical's weight in the loss of the next step. None: all 1.

        A mapping gives the terms of the objective different weights: {"soft": [M], "hard": [M]}. A term that
        is not in it has weight 1.
        """
        return None

    def temperatures(self, progress: Progress) -> Tensor | None:
        """float [M]: factors for the objective's temperature in the next step. None: all 1."""
        return None

    def image_weights(self, logits: Tensor, targets: BlockTargets) -> Tensor | None:
        """float [B]: each image's weight in one vertical's loss. None: all 1.

        logits: paced, [B, N_v], detached. The objective's terms must be [B].
        """
        return None

    def readings(self) -> dict[str, Tensor]:
        """Named values per vertical, each float [M], which are written to the metrics: {"gamma": …}."""
        return {}
