"""Which images' gradients a block's backward products can do without.

An image of a bird has next to nothing to say to 5,000 dishes: once a class's probability is near zero, so
is its gradient. Cut Cross-Entropy (Wijmans et al. 2025) leaves out parts of one huge softmax whose gradient
vanishes in the number format; here whole rows of a vertical's block are left out, up to a stated error.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rows_that_matter(gradient: Tensor, hidden: Tensor, error: float) -> Tensor:
    """int64 [b]: the images to keep, ascending.

    gradient: dL/dlogits [B, N_v]. hidden: [B, H]. error: what leaving out the others may cost.

    The weight's gradient is the sum over images of the outer products g_i h_i^T, of norm |g_i| |h_i|. The
    smallest are left out as long as their norms add up to no more than `error` times the root of the sum of
    all squared norms, which is the gradient's norm if no two images agree. (Where they cancel each other the
    relative error can be larger.)
    """
    norms = torch.linalg.vector_norm(gradient, dim=1).double()
    norms *= torch.linalg.vector_norm(hidden.float(), dim=1)
    ascending, order = norms.sort()
    left_out = ascending.cumsum(0) <= error * torch.linalg.vector_norm(norms)
    return order[~left_out].sort().values
