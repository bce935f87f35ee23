"""Targets as the engine makes them for an objective, from matrices, from labels, or from teachers.

Shapes: B images, M verticals, N classes, N_v classes of vertical v.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.teachers.routing import Router
from kcframe.interfaces.data import Labels
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.interfaces.teacher import Teacher
from kcframe.taxonomy import Taxonomy

CPU = torch.device("cpu")


def make_sparse_targets(matrix: Tensor, listed: Tensor | None = None) -> SparseTargets:
    """The entries of a matrix [B, N_v] as sparse targets, in the matrix's format.

    listed: bool [B, N_v], the entries that become targets, also where they are 0; None: those above 0.
    """
    rows, columns = (matrix > 0 if listed is None else listed).nonzero(as_tuple=True)
    return SparseTargets(rows, columns, matrix[rows, columns], tuple(matrix.shape))


def make_block_targets(
    hard: Tensor,
    soft: Tensor | None = None,
    *,
    listed: Tensor | None = None,
    absent: Tensor | None = None,
    vertical: int = 0,
    temperature_scale: Tensor | float = 1.0,
) -> BlockTargets:
    """The targets of one vertical, for a direct call of an objective.

    hard: [B, N_v], 1 for a label and 0 elsewhere. soft: [B, N_v], the teachers' probabilities; None if no
    teacher is asked. listed: bool [B, N_v], the entries of `soft` that a teacher named; None: those above 0.
    absent: [B, N_v], 1 for a class that is known to be absent; None if the data knows all labels.
    """
    return BlockTargets(
        vertical,
        make_sparse_targets(hard),
        None if soft is None else make_sparse_targets(soft, listed),
        temperature_scale,
        None if absent is None else make_sparse_targets(absent),
    )


def make_targets(
    sizes: Sequence[int],
    hard: Tensor | Sequence[Sequence[int]],
    soft: Tensor | None = None,
    *,
    absent: Tensor | Sequence[Sequence[int]] | None = None,
    temperatures: Tensor | None = None,
) -> list[BlockTargets]:
    """The targets of each vertical, for `head_gradients`.

    sizes: (N_1, …, N_M). Classes are numbered through all verticals, so that N is the sum of the sizes.
    hard, absent: [B, N], or a list of class ids for each image. soft: [B, N], the teachers' probabilities;
    None if no teacher is asked. Entries that are 0 are not listed.
    temperatures: [M], what the pacing's `temperatures` gave; None: all 1.
    """
    index = SlotIndex(_taxonomy(sizes), CPU)
    hard, soft, absent = (
        None if matrix is None else _slots(index, _as_matrix(matrix, sum(sizes)))
        for matrix in (hard, soft, absent)
    )
    return [block_targets(hard, soft, vertical, temperatures, absent) for vertical in range(len(sizes))]


def routed_targets(
    taxonomy: Taxonomy,
    teachers: Sequence[Teacher],
    objective: Objective,
    images: Tensor,
    labels: Sequence[Sequence[int]],
    *,
    temperatures: Tensor | None = None,
) -> list[BlockTargets]:
    """The targets of each vertical as a step makes them: each image asks the teachers that know one of its
    labels, and the objective's `soften` and `num_kept` make soft targets of their logits.

    images: float [B, C, H, W] in 0..1. labels: class ids of the taxonomy, a list for each image.
    temperatures: [M], what the pacing's `temperatures` gave; None: all 1.
    Raises PluginError if a teacher's output has a wrong shape or is not finite.
    """
    index = SlotIndex(taxonomy, CPU)
    label_lists = Labels.from_lists(labels)
    router = Router(teachers, taxonomy.num_classes, objective.soften, objective.num_kept, CPU)
    scale = None if temperatures is None else index.by_class(temperatures)
    soft = SlotTargets(index, len(label_lists), *router(images, label_lists, scale))
    hard = SlotTargets(index, len(label_lists), label_lists.rows(), label_lists.classes, label_lists.sure())
    verticals = range(len(taxonomy.verticals))
    return [block_targets(hard, soft, vertical, temperatures) for vertical in verticals]


def _taxonomy(sizes: Sequence[int]) -> Taxonomy:
    return Taxonomy.build({f"v{v}": [f"v{v} class {c}" for c in range(size)] for v, size in enumerate(sizes)})


def _as_matrix(labels: Tensor | Sequence[Sequence[int]], num_classes: int) -> Tensor:
    if isinstance(labels, Tensor):
        return labels
    matrix = torch.zeros(len(labels), num_classes)
    for row, classes in enumerate(labels):
        matrix[row, list(classes)] = 1
    return matrix


def _slots(index: SlotIndex, matrix: Tensor) -> SlotTargets:
    rows, classes = matrix.nonzero(as_tuple=True)
    return SlotTargets(index, len(matrix), rows, classes, matrix[rows, classes])
