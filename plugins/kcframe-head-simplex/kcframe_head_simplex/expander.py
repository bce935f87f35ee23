"""Expander `simplex`: features that stay comparable when a student is trained anew.

Pernici, Bruni, Baecchi, Del Bimbo, "Regular polytope networks" (2021; its d-simplex fixed classifier);
Biondi, Pernici, Bruni, Del Bimbo, "CoReS: Compatible representations via stationarity" (2023).
Shapes: B batch, D backbone features, M verticals, K_v vertices of a vertical's simplex.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from kcframe.interfaces.expander import Expander
from kcframe_head_simplex.options import SimplexOptions
from kcframe_head_simplex.vertices import Vertices, with_the_rest_alike


class SimplexHead(Expander):
    """FC(s1)-SC(s2)-SC(d_v), and classifiers that are the vertices of a regular simplex in d_v dimensions.

    What `block` gives are the features: d_v = K_v - 1 numbers, in which class j's direction is vertex j, in
    every student with the same classes in the same order and the same `vertices`. The last layer is linear,
    since vertices point to all sides, and learns min(N_v, d_v) of these numbers; the others follow from
    them. Parameters: D*s1 + M*s1*s2 + s2 * sum of min(N_v, d_v), and the classifiers' biases: as fc-sc.

    Products with all vertices sum to 0, so at K_v = N_v an image cannot lower all logits of a vertical at
    once. One vertex more, the default, is where "none of these" goes.
    """

    name = "simplex"
    Options = SimplexOptions

    def __init__(self, options: SimplexOptions, num_features: int, sizes: Sequence[int]):
        super().__init__(options, num_features, sizes)
        self.rowwise = options.normalisation != "batch"
        self.vertices = _vertices(options.vertices, sizes)
        self.first = _layer(num_features, options.s1, options.normalisation)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                _layer(options.s1, options.s2, options.normalisation),
                nn.Linear(options.s2, min(size, self.block_features(v)), bias=False),
            )
            for v, size in enumerate(sizes)
        )

    def shared(self, features: Tensor) -> Tensor:
        return self.first(features)

    def block(self, vertical: int, shared: Tensor) -> Tensor:
        learned = self.blocks[vertical](shared)
        if learned.shape[1] == self.block_features(vertical):
            return learned
        return with_the_rest_alike(learned, self.vertices[vertical])

    def block_features(self, vertical: int) -> int:
        return max(self.vertices[vertical] - 1, 1)

    def classifier(self, vertical: int, size: int, bias: bool) -> nn.Module:
        return Vertices(self.vertices[vertical], size, bias)


def _layer(inputs: int, units: int, normalisation: str) -> nn.Sequential:
    """Linear without bias, optional normalisation, ReLU: [B, inputs] -> [B, units]."""
    linear = nn.Linear(inputs, units, bias=False)
    nn.init.kaiming_normal_(linear.weight, nonlinearity="relu")
    norm = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm}.get(normalisation)
    return nn.Sequential(linear, *([norm(units)] if norm else []), nn.ReLU())


def _vertices(given: int | Sequence[int] | None, sizes: Sequence[int]) -> tuple[int, ...]:
    """K_1, …, K_M. ValueError if there are too few of them."""
    if given is None:
        return tuple(size + 1 for size in sizes)
    wanted = (given,) * len(sizes) if isinstance(given, int) else tuple(given)
    if len(wanted) != len(sizes):
        raise ValueError(f"vertices has {len(wanted)} numbers, the data has {len(sizes)} verticals")
    for vertical, (num, size) in enumerate(zip(wanted, sizes, strict=True)):
        if num < size:
            raise ValueError(
                f"vertices: {num} are too few for vertical {vertical} (from 0), which has {size} classes"
            )
    return wanted
