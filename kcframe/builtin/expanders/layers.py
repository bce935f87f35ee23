"""The paper's four expanders (knowledge-concentration.md, section 3).

FC: every unit sees all inputs. SC (structurally connected): each vertical has its own block of units, and its
classes see that block only. The paper does not state these choices of ours: a ReLU after each layer, no
biases (the paper's parameter counts include none), normalisation by option.

Shapes: B batch, D backbone features, s1, s2, x as in the options.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kcframe.builtin.expanders.options import FcOptions, FcScSharedOptions
from kcframe.interfaces.expander import Expander


class Layer(nn.Sequential):
    """Linear without bias, optional normalisation, ReLU: [B, inputs] -> [B, units]."""

    def __init__(self, inputs: int, units: int, normalisation: str):
        linear = nn.Linear(inputs, units, bias=False)
        parts: list[nn.Module] = [linear]
        if normalisation == "batch":
            parts.append(nn.BatchNorm1d(units))
        elif normalisation == "layer":
            parts.append(nn.LayerNorm(units))
        super().__init__(*parts, nn.ReLU())
        nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")


class FcFc(Expander):
    """(a) FC(s1)-FC(s2). Parameters: D*s1 + s1*s2."""

    name = "fc-fc"
    Options = FcOptions
    options: FcOptions

    def __init__(self, options: FcOptions, num_features: int, sizes: Sequence[int]):
        super().__init__(options, num_features, sizes)
        self.rowwise = options.normalisation != "batch"
        self.layers = nn.Sequential(
            Layer(num_features, options.s1, options.normalisation),
            Layer(options.s1, options.s2, options.normalisation),
        )

    def shared(self, features: Tensor) -> Tensor:
        return self.layers(features)

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        return shared

    def block_features(self, vertical: int) -> int:
        return self.options.s2


class FcSc(Expander):
    """(b) FC(s1)-SC(s2), eq. 3b. Parameters: D*s1 + M*s1*s2."""

    name = "fc-sc"
    Options = FcOptions
    options: FcOptions

    def __init__(self, options: FcOptions, num_features: int, sizes: Sequence[int]):
        super().__init__(options, num_features, sizes)
        self.rowwise = options.normalisation != "batch"
        self.first = Layer(num_features, options.s1, options.normalisation)
        self.blocks = nn.ModuleList(Layer(options.s1, options.s2, options.normalisation) for _ in sizes)

    def shared(self, features: Tensor) -> Tensor:
        return self.first(features)

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        return self.blocks[vertical](shared)

    def block_features(self, vertical: int) -> int:
        return self.options.s2


class ScSc(Expander):
    """(c) SC(s1)-SC(s2). Parameters: M*D*s1 + M*s1*s2."""

    name = "sc-sc"
    Options = FcOptions
    options: FcOptions

    def __init__(self, options: FcOptions, num_features: int, sizes: Sequence[int]):
        super().__init__(options, num_features, sizes)
        self.rowwise = options.normalisation != "batch"
        self.blocks = nn.ModuleList(
            nn.Sequential(
                Layer(num_features, options.s1, options.normalisation),
                Layer(options.s1, options.s2, options.normalisation),
            )
            for _ in sizes
        )

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        return self.blocks[vertical](shared)

    def block_features(self, vertical: int) -> int:
        return self.options.s2


class FcScShared(Expander):
    """(d) FC(s1)-SC(s2, x): x units that all verticals share, and s2-x units per vertical.

    Parameters: D*s1 + s1*x + M*s1*(s2-x). x = s2 is (a), x = 0 is (b).
    """

    name = "fc-sc-shared"
    Options = FcScSharedOptions
    options: FcScSharedOptions

    def __init__(self, options: FcScSharedOptions, num_features: int, sizes: Sequence[int]):
        super().__init__(options, num_features, sizes)
        self.rowwise = options.normalisation != "batch"
        self.first = Layer(num_features, options.s1, options.normalisation)
        self.common = Layer(options.s1, options.x, options.normalisation) if options.x else None
        block_units = options.s2 - options.x
        self.blocks = nn.ModuleList(
            Layer(options.s1, block_units, options.normalisation) for _ in (sizes if block_units else ())
        )

    def shared(self, features: Tensor) -> Tensor:
        """[B, D] -> [B, x + s1]: the shared units, then the first layer's."""
        first = self.first(features)
        return first if self.common is None else torch.cat([self.common(first), first], 1)

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        common, first = shared.split([self.options.x, self.options.s1], 1)
        return torch.cat([common, self.blocks[vertical](first)], 1) if self.blocks else common

    def block_features(self, vertical: int) -> int:
        return self.options.s2
