"""Distillation with softmaxes: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network" (2015);
Vongkulbhisal, Vinayavekhin, Visentini-Scarzanella, "Unifying heterogeneous classifiers with distillation"
(UHC, CVPR 2019)."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe_objective_softened.label_term import (
    sigmoid_gradient,
    sigmoid_loss,
    softmax_gradient,
    softmax_loss,
)
from kcframe_objective_softened.options import SoftenedOptions
from kcframe_objective_softened.soft_term import add_gradient, divergence


class Softened(Objective):
    """soft: soft_weight * T^2 * KL(teacher's softmax || student's), both of logits / T. hard: hard_weight
    times the labels' cross-entropy over all classes, left out where hard_weight is 0.

    Both softmaxes are within the classes that the teachers named for the image in this vertical; about
    others they are silent (UHC). With K, what is not kept counts as 0, as in eq. 2, and the student's
    softmax is over the whole vertical.

    A block is one vertical, and targets of several teachers come united, so this is exact where one teacher
    speaks for an image in a vertical, be it about all or a part of its classes. Otherwise:

    - A teacher of classes in two verticals: p is its softmax over all of them. Each vertical gets its part
      of KL(p || q) = KL(masses) + sum over v of m_v KL(p_v || q_v), m_v being p's mass in v: the second
      sum. That the masses agree, a block cannot see; the hard term teaches which vertical it is.
    - Several teachers asked about one vertical: a class has the largest of their probabilities, and the
      softmax is within all of their classes together. Where these are disjoint, it is the sum of UHC's
      terms, plus one that wants equal masses for the teachers.
    - A label that no teacher knows stands in the targets with 1: it shares the mass with what teachers say,
      and alone in its vertical it says nothing, as a softmax of one class does.
    """

    name = "softened"
    Options = SoftenedOptions
    uses_teachers = True
    has_closed_form = True

    def __init__(self, options: SoftenedOptions):
        super().__init__(options)
        self.num_kept = options.k

    def soften(self, teacher_logits: Tensor, temperature_scale: Tensor | float = 1.0) -> Tensor:
        """A teacher's logits [b, C] -> its softmax over its own classes."""
        scores = teacher_logits if self.options.teacher == "logits" else F.logsigmoid(teacher_logits)
        return (scores / (self.options.temperature * temperature_scale)).softmax(1)

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        return self._terms(logits, targets, self._temperature(targets))

    def gradient(
        self, logits: Tensor, targets: BlockTargets, share: Callable[[str], Tensor | float], out: Tensor
    ) -> dict[str, Tensor]:
        """d soft/dy = soft_weight * T * (m q - p), the hard term's as `label_term` has it."""
        options, temperature = self.options, self._temperature(targets)
        if options.hard_weight:
            of_labels = sigmoid_gradient if options.labels == "sigmoid" else softmax_gradient
            of_labels(logits, targets.hard, out)
            out.mul_(share("hard") * options.hard_weight)
        else:
            out.zero_()
        if targets.soft is not None:
            factor = share("soft") * options.soft_weight * temperature
            add_gradient(logits / temperature, targets.soft, self._over_all, factor, out)
        return self._terms(logits, targets, temperature)

    def _terms(self, logits: Tensor, targets: BlockTargets, temperature: Tensor | float) -> dict[str, Tensor]:
        options = self.options
        terms = {"soft": logits.new_zeros(len(logits))}
        if targets.soft is not None:
            # T^2: the gradient of the KL shrinks as 1 / T^2 (Hinton), and so would its share in the loss.
            weight = options.soft_weight * temperature * temperature
            terms["soft"] = weight * divergence(logits / temperature, targets.soft, self._over_all)
        if options.hard_weight:
            of_labels = sigmoid_loss if options.labels == "sigmoid" else softmax_loss
            terms["hard"] = options.hard_weight * of_labels(logits, targets.hard)
        return terms

    def _temperature(self, targets: BlockTargets) -> Tensor | float:
        return self.options.temperature * targets.temperature_scale

    @property
    def _over_all(self) -> bool:
        return self.num_kept is not None
