"""The interface of capacity expanders: what sits between a backbone's features and the classifiers.

The head works one vertical's block at a time, so an expander has two halves: `shared` runs once a
batch, `block` once a vertical. The head then applies that vertical's classifier [N_v, hidden], which is
learned, unless the expander brings one of its own.
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
    """True says that an image's hidden units depend on that image alone (no batch statistics, nothing
    random): only then may `train.gradient_filter` leave images out of a block's backward products."""

    def __init__(self, options: PluginOptions, num_features: int, sizes: Sequence[int]):
        """num_features: D of the backbone. sizes: (N_1, …, N_M)."""
        super().__init__()
        self.options = options

    def shared(self, features: Tensor) -> Tensor:
        """features [B, D] -> what all verticals see [B, D']. Default: the features themselves."""
        return features

    @abstractmethod
    def block(self, vertical: int, shared: Tensor) -> Tensor:
        """shared [B, D'] -> one vertical's hidden units [B, block_features(vertical)].

        May not depend on other verticals' blocks, and gradients flow to `shared` through autograd.
        """

    @abstractmethod
    def block_features(self, vertical: int) -> int:
        """How many hidden units that vertical's classifier sees."""

    def classifier(self, vertical: int, size: int, bias: bool) -> nn.Module | None:
        """A classifier of its own: a new module, [B, block_features(vertical)] -> logits [B, size].

        size: N_v. bias: whether the recipe gives classes biases; then the module has a parameter `bias`
        [size], whose start the head sets. A pacing's `start` may set it, too, and multiply a tensor
        `weight` in place. None, the default: an nn.Linear, which is learned.
        """
        return None
