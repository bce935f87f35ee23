"""The interface of objectives: from paced logits and targets of one vertical's block to named losses."""

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
    """Targets as a sparse matrix of `shape`; entries that are not listed are 0.

    rows, columns: int64 [n], rows ascending. values: float32 [n]. Each (row, column) occurs once.
    """

    rows: Tensor
    columns: Tensor
    values: Tensor
    shape: tuple[int, int]

    def dense(self) -> Tensor:
        """The whole matrix, float32 of `shape`."""
        full = torch.zeros(self.shape, dtype=self.values.dtype, device=self.values.device)
        full[self.rows, self.columns] = self.values
        return full

    def in_turn(self, starts: Sequence[int]) -> list[SparseTargets]:
        """Splits the matrix before each row of `starts` (ascending, from 0). Each part has rows from 0 on."""
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
    """The targets of the B images of a batch for one vertical's N_v classes.

    hard: 1 for each label, or its confidence if the data has confidences. soft: the teachers' probabilities
    (z* of eq. 2), or None without teachers. An entry that is not listed is 0, a negative. Exception: if
    absent is not None, entries that are in neither hard nor absent are unknown. temperature_scale: factor of
    the pacing for this vertical's temperature, a number or a tensor with one element.
    """

    vertical: int
    hard: SparseTargets
    soft: SparseTargets | None
    temperature_scale: Tensor | float = 1.0
    absent: SparseTargets | None = None

    def in_turn(self, starts: Sequence[int]) -> list[BlockTargets]:
        """Splits the targets before each of the images `starts` (ascending, from 0)."""
        hard = self.hard.in_turn(starts)
        soft, absent = (
            [None] * len(starts) if targets is None else targets.in_turn(starts)
            for targets in (self.soft, self.absent)
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
    """True: the engine runs teachers and fills `BlockTargets.soft`."""

    num_kept: int | None = None
    """K: number of a teacher's most probable classes that are used per image; None: all."""

    handles_unknown: bool = False
    """True: the objective uses `BlockTargets.absent`. If False, data with unknown labels is an error."""

    has_closed_form: bool = False
    """True: the objective has `gradient`, too. It is optional, and faster than autograd on `forward`."""

    def __init__(self, options: PluginOptions):
        super().__init__()
        self.options = options

    def soften(self, teacher_logits: Tensor, temperature_scale: Tensor | float = 1.0) -> Tensor:
        """A teacher's logits [b, C] -> the probabilities that are used as soft targets.

        temperature_scale: factor of the pacing for the temperature, [C] or a number.
        """
        return (teacher_logits / temperature_scale).sigmoid()

    @abstractmethod
    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        """Paced logits [B, N_v] -> named terms, each [B]: an image's loss, summed over the block's classes.

        A term may also be a scalar, the sum over images; then a pacing cannot weight images. The engine
        divides by the batch size, applies the pacing's weights and adds up the terms.
        """

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        """Returns the terms of `forward`, each [b], and writes a gradient to `out` [b, N_v].

        It is the gradient, with respect to the paced logits [b, N_v], of the sum over terms of share(name of
        the term) * (sum of the term). Called without autograd, with a part of a block's images at a time.
        Must not change `logits`.
        """
        raise NotImplementedError
