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
    own = (torch.arange(rows) % 2 == 0).unsqueeze(1) & (not empty)
    labelled = own & (chance >= chance.amax(1, keepdim=True))
    said = own & (chance > 0.3)
    as_soft = _sparse(said, chance, device, dtype) if soft else None
    return BlockTargets(
        vertical, _sparse(labelled, torch.ones_like(chance), device, dtype), as_soft, temperature_scale
    )


def _sparse(mask: Tensor, values: Tensor, device, dtype) -> SparseTargets:
    rows, columns = mask.nonzero().T
    return SparseTargets(
        rows.to(device), columns.to(device), values[rows, columns].to(device, dtype), tuple(mask.shape)
    )


def rows_of(targets: SparseTargets, row: int) -> SparseTargets:
    """The targets of one image alone."""
    own = targets.rows == row
    return SparseTargets(
        targets.rows[own] * 0, targets.columns[own], targets.values[own], (1, targets.shape[1])
    )


def expect_blocks_agree(head: Head, objective: Objective, features: Tensor, soft: bool = False) -> None:
    """End a check unless the engine's way, block by block, gives autograd's gradient of the whole loss.

    features: float64 [B, D]. head: in float64.
    """
    __tracebackhide__ = True

    def targets(vertical: int) -> BlockTargets:
        return targets_of(vertical, head.sizes[vertical], len(features), soft=soft, dtype=features.dtype)

    def engine(at: Tensor) -> None:
        backward_by_block(head, objective, at, targets, None, len(features))

    def dense(at: Tensor) -> None:
        shared = head.shared(at)
        loss = at.new_zeros(())
        for vertical in range(len(head.sizes)):
            logits, asked = head.block(vertical, shared), targets(vertical)
            shares = head.pacing.image_weights(logits.detach(), asked)
            for term in objective(logits, asked).values():
                loss = loss + (term if shares is None or term.dim() == 0 else term * shares).sum()
        (loss / len(features)).backward()

    found, wanted = _gradients(head, features, engine), _gradients(head, features, dense)
    for name, gradient in wanted.items():
        other = found[name]
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
