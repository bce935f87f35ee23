"""The product with the vertices of a regular simplex, without the matrix of them.

Shapes: B images, K vertices, d = K - 1 dimensions, N_v <= K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def products(points: Tensor, num: int) -> Tensor:
    """The first `num` of w_1·z, …, w_K·z for points z [B, d] -> [B, num]; w_k are the vertices of a regular
    simplex in d = K - 1 >= 1 dimensions, unit vectors with w_k·w_l = -1/d and sum 0.

    They are the standard basis e_1 … e_d and a·(1, …, 1), a = (1 - sqrt(K)) / d, all sqrt(2) apart, moved so
    that their mean is 0 and stretched to length 1 (Pernici et al. 2021). As c·(1, …, 1) is the mean,

        w_k·z = s (z_k - c sum z),    w_K·z = s (a - c) sum z

    where c = (1 + a) / K and s = sqrt(K / d). Time and memory grow with d, those of the matrix with d^2.
    """
    d = points.shape[1]
    corner = _corner(d)
    centre = (1 + corner) / (d + 1)
    stretch = math.sqrt((d + 1) / d)
    sums = points.sum(1, keepdim=True)
    basis = stretch * (points[:, : min(num, d)] - centre * sums)
    return basis if num <= d else torch.cat([basis, stretch * (corner - centre) * sums], 1)


def with_the_rest_alike(points: Tensor, num_vertices: int) -> Tensor:
    """The first N_v <= d coordinates [B, N_v] -> all d [B, d], so that the K - N_v other vertices have the
    same product with a point: a student that does not know their classes says nothing about them.

    With r in each of the d - N_v coordinates that are to fill, alike means z_k = r = a sum z (see
    `products`), so r = a * (sum of the first) / (1 - a (d - N_v)).
    """
    d = num_vertices - 1
    corner, num_others = _corner(d), d - points.shape[1]
    rest = points.sum(1, keepdim=True) * (corner / (1 - corner * num_others))
    return torch.cat([points, rest.expand(-1, num_others)], 1)


def _corner(d: int) -> float:
    return (1 - math.sqrt(d + 1)) / d


class Vertices(nn.Module):
    """A vertical's classifier: [B, d] -> [B, N_v], class j at vertex j. Only the biases are learned.

    weight [1]: the vertices' length, 1. It stands for the matrix where a pacing's `start` multiplies that;
    directions never change. A simplex of one vertex has no dimension: it is the number 1, d = 1.
    """

    def __init__(self, num_vertices: int, size: int, bias: bool):
        super().__init__()
        self.num_vertices, self.size = num_vertices, size
        self.register_buffer("weight", torch.ones(1))
        self.bias = nn.Parameter(torch.zeros(size)) if bias else None

    def forward(self, points: Tensor) -> Tensor:
        # In full precision: a sum over d numbers is taken from each of them.
        with torch.autocast(points.device.type, enabled=False):
            points = points if points.dtype == torch.float64 else points.float()
            along = points if self.num_vertices == 1 else products(points, self.size)
            logits = self.weight * along
            return logits if self.bias is None else logits + self.bias
