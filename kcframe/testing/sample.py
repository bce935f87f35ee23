"""Inputs of a head: logits and targets of uneven verticals, and the head run in the engine's way and densely.

Shapes: B images, M verticals, N_v classes of one, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.model import Head
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.testing.expect import fail
from kcframe.testing.targets import make_sparse_targets

SIZES = (5, 1, 3)
BATCH = 6


def draw(shape: Sequence[int], seed: int, device: torch.device | str = "cpu", dtype=torch.float32) -> Tensor:
    """Normal numbers, the same for the same seed whatever the device."""
    generator = torch.Generator().manual_seed(seed)
    # Drawn on the CPU also inside torch.device("meta").
    numbers = torch.randn(*shape, generator=generator, device="cpu", dtype=torch.float64)
    return numbers.to(device=device, dtype=dtype)


def targets_of(
    vertical: int,
    size: int,
    rows: int = BATCH,
    *,
    soft: bool = True,
    empty: bool = False,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    temperature_scale: Tensor | float = 1.0,
) -> BlockTargets:
    """Targets of a block [rows, size]: half of the images are of this vertical; empty: none is."""
    chance = draw((rows, size), 100 + seed + vertical).sigmoid()
    of_vertical = (torch.arange(rows) % 2 == 0).unsqueeze(1) & (not empty)
    labelled = of_vertical & (chance >= chance.amax(1, keepdim=True))
    named_by_teachers = of_vertical & (chance > 0.3)
    hard_targets = _sparse(labelled, torch.ones_like(chance), device, dtype)
    soft_targets = _sparse(named_by_teachers, chance, device, dtype) if soft else None
    return BlockTargets(vertical, hard_targets, soft_targets, temperature_scale)


def _sparse(listed: Tensor, values: Tensor, device, dtype) -> SparseTargets:
    sparse = make_sparse_targets(values.to(dtype), listed)
    rows, columns, values = (tensor.to(device) for tensor in (sparse.rows, sparse.columns, sparse.values))
    return SparseTargets(rows, columns, values, sparse.shape)


def rows_of(targets: SparseTargets, row: int) -> SparseTargets:
    """The targets of one image alone."""
    of_image = targets.rows == row
    rows = targets.rows[of_image] * 0
    return SparseTargets(rows, targets.columns[of_image], targets.values[of_image], (1, targets.shape[1]))


def expect_blocks_agree(head: Head, objective: Objective, features: Tensor, soft: bool = False) -> None:
    """End a check unless the engine's way, block by block, gives autograd's gradient of the whole loss.

    features: float64 [B, D]. head: in float64.
    """
    __tracebackhide__ = True

    def targets(vertical: int) -> BlockTargets:
        return targets_of(vertical, head.sizes[vertical], len(features), soft=soft, dtype=features.dtype)

    def block_by_block(at: Tensor) -> None:
        backward_by_block(head, objective, at, targets, None, batch_size=len(features))

    def dense(at: Tensor) -> None:
        shared = head.shared(at)
        loss = at.new_zeros(())
        for vertical in range(len(head.sizes)):
            logits, of_block = head.block(vertical, shared), targets(vertical)
            image_weights = head.pacing.image_weights(logits.detach(), of_block)
            for term in objective(logits, of_block).values():
                plain = image_weights is None or term.dim() == 0
                loss = loss + (term if plain else term * image_weights).sum()
        (loss / len(features)).backward()

    by_block, wanted = _gradients(head, features, block_by_block), _gradients(head, features, dense)
    for name, gradient in wanted.items():
        other = by_block[name]
        if (gradient is None) != (other is None) or (
            gradient is not None and not torch.allclose(gradient, other, rtol=1e-6, atol=1e-9)
        ):
            fail(
                f"the engine works one vertical at a time, and so gets another gradient of {name} than the "
                "loss of all verticals at once: a block may depend on what it is given and on its own "
                "vertical alone, not on what another call has left behind"
            )


def _gradients(head: Head, features: Tensor, run: Callable[[Tensor], None]) -> dict[str, Tensor | None]:
    torch.manual_seed(0)
    head.zero_grad()
    at = features.clone().requires_grad_()
    try:
        run(at)
    except RuntimeError as error:
        if "backward through the graph a second time" not in str(error):
            raise
        fail(
            "its blocks share a part of the graph that they were not given: each block's gradient is "
            "computed at once, so a block may use what `shared` returned, and nothing else that was computed "
            "before"
        )
    gradients = {name: p.grad for name, p in head.named_parameters()}
    head.zero_grad()
    return {"the features": at.grad, **gradients}
