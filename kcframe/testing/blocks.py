"""The engine's head for a test: built from an expander and a pacing, and run one vertical at a time.

Shapes: B images, D features, M verticals, N_v classes of vertical v.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from unittest import mock

from torch import Tensor

from kcframe.engine.loss import closed_form
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.model import Direct, Head
from kcframe.interfaces.expander import Expander
from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing


@dataclass(frozen=True)
class HeadGradients:
    """What a step computes of a head.

    terms: each term of the loss by its name, float32 [M]: a number per vertical, summed over images and
    divided by B, before any weight. gradients: of the weighted loss, by the names of the head's parameters,
    and of 'features' [B, D]; a parameter without a gradient is not in it.
    """

    terms: dict[str, Tensor]
    gradients: dict[str, Tensor]


def make_head(
    sizes: Sequence[int],
    expander: Expander | None = None,
    pacing: Pacing | None = None,
    *,
    num_features: int | None = None,
    bias: bool = True,
    init_bias: float | str = 0.0,
) -> Head:
    """A head as a student has it: the expander, a classifier for each vertical, and the pacing.

    sizes: (N_1, …, N_M). expander: None: the classifiers see the features, and num_features is their D.
    pacing: None: logits stay as they are. bias, init_bias: as the recipe's `classifier` has them.

    The head is a module with the parts `expander`, `classifiers` (M modules) and `pacing`, and the methods
    `shared(features [B, D]) -> [B, D']` and `block(vertical, shared) -> paced logits [B, N_v]`.

    Raises ValueError unless there is either an expander or num_features.
    """
    if (expander is None) == (num_features is None):
        raise ValueError("give make_head an expander, or num_features for a head without one")
    expander = expander or Direct(num_features, sizes)
    pacing = pacing or Pacing(PluginOptions(), sizes, sum(sizes))
    return Head(expander, pacing, sizes, bias=bias, init_bias=init_bias)


def head_gradients(
    head: Head,
    objective: Objective,
    features: Tensor,
    targets: Sequence[BlockTargets],
    weights: Tensor | Mapping[str, Tensor] | None = None,
    *,
    images_at_a_time: int | None = None,
) -> HeadGradients:
    """Terms and gradients of a batch, computed as a step computes them: one vertical after the other, and in
    closed form where pacing and objective have one. To compare with a dense reference of your own.

    head: from `make_head`; `.double()` makes the comparison exact. features: [B, D], in the head's format.
    targets: one for each vertical, from `make_targets` or `routed_targets`. weights: what the pacing's
    `weights` gave. images_at_a_time: work in closed form on that many images of the largest vertical at a
    time, as the engine does with large verticals; None: the engine's own choice.

    The head's own `grad`s are deleted. Raises PluginError, which names the plugin, if what a plugin returns
    has a wrong shape or is not finite.
    """
    features = features.detach().clone().requires_grad_()
    head.zero_grad()
    with _images_at_a_time(images_at_a_time, max(head.sizes)):
        outcome = backward_by_block(
            head, objective, features, targets.__getitem__, weights, batch_size=len(features)
        )
    tensors = {"features": features, **dict(head.named_parameters())}
    gradients = {name: tensor.grad for name, tensor in tensors.items() if tensor.grad is not None}
    head.zero_grad()
    return HeadGradients(outcome.terms, gradients)


def _images_at_a_time(number: int | None, width: int) -> AbstractContextManager:
    if number is None:
        return nullcontext()
    return mock.patch.object(closed_form, "TILE", number * width)
