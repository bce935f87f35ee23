"""The interface of capacity expanders: the layers between a backbone's features and the classifiers.

The head processes one vertical's block at a time. So an expander has two parts: `shared` runs once per batch,
`block` once per vertical. The head then applies the vertical's classifier [N_v, hidden]: a learned linear
layer, or one that the expander provides.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from kcframe.interfaces.options import PluginOptions


class Expander(nn.Module, ABC):
    """Subclass it and return it from the hook `kcframe_expander`.

    class Mine(Expander):
        name = "mine"
        def __init__(self, options, num_features, sizes):
            super().__init__(options, num_features, sizes)
            self.blocks = nn.ModuleList(nn.Linear(num_features, 64) for _ in sizes)
        def block(self, vertical, shared): return self.blocks[vertical](shared).relu()
        def block_features(self, vertical): return 64
    """

    name: ClassVar[str]
    Options: ClassVar[type[PluginOptions]] = PluginOptions

    rowwise: bool = False
    """True: an image's hidden units depend on that image alone (no batch statistics, nothing random).

    `train.gradient_filter`, which leaves images out of a block's backward products, needs this.
    """

    def __init__(self, options: PluginOptions, num_features: int, sizes: Sequence[int]):
        """num_features: D of the backbone. sizes: (N_1, …, N_M)."""
        super().__init__()
        self.options = options

    def shared(self, features: Tensor) -> Tensor:
        """features [B, D] -> the input of all verticals' blocks [B, D']. Default: the features themselves."""
        return features

    @abstractmethod
    def block(self, vertical: int, shared: Tensor) -> Tensor:
        """shared [B, D'] -> one vertical's hidden units [B, block_features(vertical)].

        Must not depend on other verticals' blocks. Gradients flow to `shared` through autograd.
        """

    @abstractmethod
    def block_features(self, vertical: int) -> int:
        """Number of hidden units that are the input of the vertical's classifier."""

    def classifier(self, vertical: int, size: int, bias: bool) -> nn.Module | None:
        """The vertical's classifier, a new module: [B, block_features(vertical)] -> logits [B, size].

        Default: None, for a learned nn.Linear. size: N_v. bias: whether the recipe gives classes biases; then
        the module must have a parameter `bias` [size], which the head initialises. A pacing's `start` may
        also set it, and may multiply a tensor `weight` in place.
        """
        return None
