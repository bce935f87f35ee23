"""Self-paced learning (eq. 4): y_v = gamma_v * x_v / ||x_v||."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kcframe.builtin.pacing.options import SelfPacedOptions
from kcframe.interfaces.pacing import Pacing

BASE_RATE_BIAS = -1.0
BASE_RATE_WEIGHT_SCALE = 0.3
SMALLEST = 1e-12  # smallest norm that logits are divided by


class SelfPaced(Pacing):
    """Each vertical's logits, L2-normalised per image and scaled by a learned gamma (eq. 4).

    `start: paper` draws gamma from a normal distribution with mean `init` and `variance`, and sets output
    biases to 0. `start: base-rate` is ours: with output biases of -1 and small weights every normalised logit
    starts near -1/sqrt(N_v), and gamma's mean is multiplied by ln N. So every class starts at probability
    sigmoid(-ln N), about 1/N. With the paper's gamma = sqrt(N_v) a block cannot say "none of these": the mean
    of |y| over its classes is at most 1, so at least one of the N_v probabilities is 0.27 or more.

    A vertical with one class is not normalised, because x / ||x|| = ±1 has no gradient: y = gamma * x.
    """

    name = "self-paced"
    Options = SelfPacedOptions
    options: SelfPacedOptions

    def __init__(self, options: SelfPacedOptions, sizes: Sequence[int], num_classes: int):
        super().__init__(options, sizes, num_classes)
        self.learning_rate_scale = options.learning_rate_scale
        # If gamma is exactly 0, its gradient cannot be computed from the paced logits.
        self.has_closed_form = options.level == "vertical" and options.init != 0
        widths = [1 if options.level == "vertical" else size for size in sizes]
        self.gamma = nn.ParameterList(
            nn.Parameter(torch.empty(width), requires_grad=options.trainable) for width in widths
        )
        lift = math.log(max(num_classes, 2)) if options.start == "base-rate" else 1.0
        for gamma, size in zip(self.gamma, sizes, strict=True):
            init = math.sqrt(size) if options.init == "sqrt-classes" else options.init
            nn.init.normal_(gamma, init * lift, math.sqrt(options.variance))

    def start(self, classifiers: Sequence[nn.Linear]) -> None:
        base_rate = self.options.start == "base-rate"
        for classifier in classifiers:
            if classifier.bias is not None:
                nn.init.constant_(classifier.bias, BASE_RATE_BIAS if base_rate else 0.0)
            elif base_rate:
                raise ValueError("start: base-rate needs output biases: set classifier.bias to true")
            if base_rate:
                with torch.no_grad():
                    classifier.weight.mul_(BASE_RATE_WEIGHT_SCALE)

    def forward(self, logits: Tensor, vertical: int) -> Tensor:
        gamma = self.gamma[vertical]
        if logits.shape[1] == 1:
            return gamma * logits
        # The clamp avoids nan for an image whose logits are all zero: y stays 0.
        norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True).clamp_min(SMALLEST)
        return logits * (gamma / norm)

    def forward_(self, logits: Tensor, vertical: int) -> tuple[Tensor, Tensor] | Tensor:
        gamma = self.gamma[vertical]
        if logits.shape[1] == 1:
            before = logits.clone()
            logits.mul_(gamma)
            return before
        norm = torch.linalg.vector_norm(logits, dim=1, keepdim=True)
        scale = gamma / norm.clamp_min(SMALLEST)
        logits.mul_(scale)
        return scale, norm >= SMALLEST

    def pull_back_(self, gradient: Tensor, paced: Tensor, vertical: int, saved: Any) -> None:
        """dL/dx = gamma / ||x|| * (g - y (y . g) / gamma^2), dL/dgamma = sum over images of y . g / gamma."""
        gamma = self.gamma[vertical]
        if paced.shape[1] == 1:
            self._learn(gamma, (gradient * saved).sum(0))
            gradient.mul_(gamma)
            return
        scale, normalised = saved
        along = torch.linalg.vecdot(gradient, paced).unsqueeze(1)
        self._learn(gamma, along.sum(0) / gamma)
        gradient.addcmul_(paced, along * normalised / -gamma.square()).mul_(scale)

    @staticmethod
    def _learn(gamma: nn.Parameter, gradient: Tensor) -> None:
        if gamma.requires_grad:
            gamma.grad = gradient if gamma.grad is None else gamma.grad + gradient

    def readings(self) -> dict[str, Tensor]:
        """gamma: of each vertical, or the mean over its classes.

        floor (with one gamma per vertical): the lowest loss that an image of another vertical can have in
        this one, N_v * softplus(-gamma / sqrt(N_v)). For logits of norm gamma the sum of a convex function is
        lowest when all logits are equal.
        """
        gammas = torch.stack([gamma.detach().mean() for gamma in self.gamma])
        if self.options.level == "class":
            return {"gamma": gammas}
        sizes = torch.tensor(self.sizes, dtype=gammas.dtype, device=gammas.device)
        return {"gamma": gammas, "floor": sizes * F.softplus(-gammas / sizes.sqrt())}
