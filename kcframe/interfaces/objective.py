"""The interface of objectives: paced logits and targets of one vertical's block to named losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from kcframe.interfaces.options import PluginOptions


@dataclass(frozen=True)
class SparseTargets:
    """Targets that are zero but for a few entries, in a matrix of `shape`.

    rows, columns: int64 [n], rows ascending; values: float32 [n]; no (row, column) stands twice.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    def dense(self) -> Tensor:
        """float32 `shape`."""
        full = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        full[self.rows, self.columns] = self.values
        return full

    def in_turn(self, starts: Sequence[int]) -> list[SparseTargets]:
        """Cut before each of the rows `starts`, ascending from 0; rows are counted from the cut."""
        first = torch.tensor(starts, device=self.rows.device)
        cuts = [*torch.searchsorted(self.rows, first).tolist(), len(self.rows)]
        ends = [*starts[1:], self.shape[0]]
        return [
            SparseTargets(
                self.rows[low:high] - start,
                self.columns[low:high],
                self.values[low:high],
                (end - start, self.shape[1]),
            )
            for low, high, start, end in zip(cuts, cuts[1:], starts, ends, strict=False)
        ]


@dataclass(frozen=True)
class BlockTargets:
    """What the B images of a batch should be in one vertical's N_v classes.

    hard: 1 for each label, less where the data is less sure. soft: the teachers' probabilities (eq. 2's
    z*), or None where no teacher is asked. Everything not listed is 0: a negative, not a gap; only where
    the data knows of gaps (absent is not None) is what is neither in hard nor in absent unknown.
    temperature_scale: what the pacing multiplies this vertical's temperature by, a number or a tensor of
    one.
    """

    vertical: int
    hard: SparseTargets
    soft: SparseTargets | None
    temperature_scale: Tensor | float = 1.0
    absent: SparseTargets | None = None

    def in_turn(self, starts: Sequence[int]) -> list[BlockTargets]:
        """The targets of the images from each of `starts` (ascending from 0) to the next."""
        hard = self.hard.in_turn(starts)
        soft, absent = (
            [None] * len(starts) if each is None else each.in_turn(starts)
            for each in (self.soft, self.absent)
        )
        return [
            BlockTargets(self.vertical, hard, soft, self.temperature_scale, absent)
            for hard, soft, absent in zip(hard, soft, absent, strict=True)
        ]


class Objective(nn.Module, ABC):
    """Subclass it and return it from the hook `kcframe_objective`.

    class Mine(Objective):
        name = "mine"
        uses_teachers = True
        def forward(self, logits, targets):
            return {"soft": ((logits.sigmoid() - targets.soft.dense()) ** 2).sum(1)}
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    uses_teachers: bool = False
    """True asks the engine to run teachers and fill `BlockTargets.soft`."""

    num_kept: int | None = None
    """K: how many of a teacher's most probable classes are kept an image; None keeps all."""

    handles_unknown: bool = False
    """True says that `BlockTargets.absent` is looked at: without it, data with unknown labels is refused."""

    has_closed_form: bool = False
    """True says that `gradient` is there too: faster than autograd on `forward`, and never needed."""

    def __init__(self, options: PluginOptions):
        super().__init__()
        self.options = options

    def soften(self, teacher_logits: Tensor, temperature_scale: Tensor | float = 1.0) -> Tensor:
        """A teacher's logits [b, C] -> the probabilities kept as soft targets.

        temperature_scale: what the pacing multiplies the temperature by, [C] or a number.
        """
        return (teacher_logits / temperature_scale).sigmoid()

    @abstractmethod
    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        """Paced logits [B, N_v] -> named terms, each [B]: an image's loss, summed over the block's classes.

        A term may also be a scalar, summed over images too; then no pacing can weigh images. The engine
        divides by the batch size, applies the pacing's weights and adds up the terms.
        """

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        """The terms of `forward`, each [b], and into `out` [b, N_v] the gradient of
        sum over terms of share(its name) * its sum, with respect to the paced logits [b, N_v].

        Called without autograd, with some of a block's images at a time; may not change `logits`.
        """
        raise NotImplementedError
