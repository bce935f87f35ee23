"""The suite of pacing plugins."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from kcframe.builtin.objectives.bce import HardBce
from kcframe.engine.loss.pacing_checks import readings_of, temperatures_of, weights_of
from kcframe.engine.model import Head
from kcframe.engine.plugin_calls import shaped
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing, Progress
from kcframe.recipe.schema import Recipe
from kcframe.testing.blocks import make_head
from kcframe.testing.expect import expect, expect_finite, expect_same
from kcframe.testing.module import CPU, ModuleSuite, gradcheck
from kcframe.testing.progress import NUM_STEPS, progress_at
from kcframe.testing.sample import BATCH, SIZES, draw, expect_blocks_agree, targets_of
from kcframe.testing.tiny import tiny_recipe

FEATURES = 4


class PacingSuite(ModuleSuite):
    """Subclass it and name your pacing plugin."""

    kind: ClassVar[str] = "pacing"

    def make(self, seed: int | None = None) -> Pacing:
        return self.construct(SIZES, sum(SIZES), seed=seed)

    def in_recipe(self) -> dict[str, Any]:
        return {"pacing": self.ref.model_dump()}

    def recipe(self) -> Recipe:
        # With teachers, and with both terms: the pacing may weigh them, or ask for accuracies.
        both = {"name": "top-k-bce", "options": {"hard_weight": 0.5}}
        return tiny_recipe({"objective": both, **self.in_recipe()}, teachers=True)

    def use(self, module: Pacing, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        if module.training and device.type != "meta":
            weights_of(module, progress(module, 10 + seed))
            temperatures_of(module, progress(module, 10 + seed))
        paced = {}
        for vertical, size in enumerate(SIZES):
            logits = draw((BATCH, size), seed, device)
            paced[f"paced logits of vertical {vertical}"] = module(logits, vertical)
        return paced

    def head(self, bias: bool = True) -> Head:
        """Classifiers and the pacing, in float64."""
        return make_head(SIZES, pacing=self.make(), num_features=FEATURES, bias=bias).double()

    # -- checks ------------------------------------------------------------------------------------

    def test_paced_logits_keep_their_shape(self):
        pacing = self.make()
        for vertical, size in enumerate(SIZES):
            for rows in (BATCH, 1):
                paced = pacing(draw((rows, size), 1), vertical)
                shaped(pacing, "forward", (rows, size), paced)
                expect_finite("what forward() gives", paced)

    def test_logits_of_zero_stay_finite(self):
        pacing = self.make()
        for vertical, size in enumerate(SIZES):
            logits = torch.zeros(2, size, requires_grad=True)
            paced = pacing(logits, vertical)
            expect_finite(f"paced, logits that are all 0 (of {size} classes)", paced)
            if paced.requires_grad:
                paced.sum().backward()
                expect_finite(f"the gradient at logits that are all 0 (of {size} classes)", logits.grad)

    def test_gradients_flow_through_the_logits(self):
        self.skip_inexact()
        pacing = self.make().double()
        for vertical, size in enumerate(SIZES):
            logits = draw((3, size), 2, dtype=torch.float64)
            gradcheck(lambda x, v=vertical: pacing(x, v), logits, f"forward() with {size} classes")

    def test_an_image_is_paced_by_itself(self):
        pacing = self.make().eval()
        for vertical, size in enumerate(SIZES):
            logits = draw((BATCH, size), 3)
            together = pacing(logits, vertical)
            alone = torch.cat([pacing(row.unsqueeze(0), vertical) for row in logits])
            expect(
                torch.allclose(together, alone, rtol=1e-4, atol=1e-5),
                "in evaluation mode an image's paced logits depend on the other images of the batch",
            )

    def test_the_engine_works_block_by_block(self):
        features = draw((BATCH, FEATURES), 4, dtype=torch.float64)
        expect_blocks_agree(self.head(), HardBce(PluginOptions()), features)

    def test_its_closed_form_is_the_derivative(self):
        pacing = self.make().double()
        if not pacing.has_closed_form:
            raise SkipTest("has_closed_form = False")
        for vertical, size in enumerate(SIZES):
            logits, sent = (draw((BATCH, size), seed, dtype=torch.float64) for seed in (6, 7))
            wanted = _by_autograd(pacing, vertical, logits, sent)
            paced, back = logits.clone(), sent.clone()
            pacing.zero_grad()
            with torch.no_grad():
                saved = pacing.forward_(paced, vertical)
                pacing.pull_back_(back, paced.clone(), vertical, saved)
            closed = {"forward_()": paced, "pull_back_()": back, **_gradients(pacing)}
            for (name, one), (wanted_name, other) in zip(closed.items(), wanted.items(), strict=True):
                expect(
                    _close(one, other),
                    f"{name} differs from {wanted_name}, with {size} classes: it is used in training in its "
                    "place",
                )

    def test_it_starts_classifiers_that_can_be_used(self):
        for bias in (True, False):
            try:
                head = self.head(bias)
            except ValueError:
                continue  # start() says in words what it cannot do
            for vertical, classifier in enumerate(head.classifiers):
                expect_finite(f"start(): the weights of vertical {vertical}", classifier.weight)
                if bias:
                    expect_finite(f"start(): the biases of vertical {vertical}", classifier.bias)

    def test_weights_and_temperatures_fit_at_any_time(self):
        pacing = self.make()
        for step in (0, 1, NUM_STEPS // 2, NUM_STEPS - 1):
            now = progress(pacing, step)
            before = [None if t is None else t.clone() for t in (now.loss, now.accuracy)]
            weights_of(pacing, now)
            temperatures_of(pacing, now)
            expect_same([now.loss, now.accuracy], before, "it changes the Progress that it is given")

    def test_image_weights_fit(self):
        pacing = self.make()
        for vertical, size in enumerate(SIZES):
            for rows, empty in ((BATCH, False), (BATCH, True), (1, False), (1, True)):
                for soft in (True, False):
                    targets = targets_of(vertical, size, rows, soft=soft, empty=empty)
                    given = pacing.image_weights(draw((rows, size), 5), targets)
                    if given is None:
                        continue
                    shaped(pacing, "image_weights", (rows,), given)
                    what = f"image_weights() of {rows} images" + (" of other verticals" if empty else "")
                    expect_finite(what, given)

    def test_readings_are_a_number_a_vertical(self):
        pacing = self.make()
        self.use(pacing)
        for name, values in readings_of(pacing).items():
            expect(not values.requires_grad, f"readings(): detach '{name}'")

    def test_its_learning_rate_scale_can_be_used(self):
        scale = self.make().learning_rate_scale
        good = isinstance(scale, int | float) and scale > 0
        expect(good, f"learning_rate_scale is {scale!r}: give a number above 0")


def _by_autograd(pacing: Pacing, vertical: int, logits: Tensor, sent: Tensor) -> dict[str, Tensor | None]:
    pacing.zero_grad()
    at = logits.clone().requires_grad_()
    paced = pacing(at, vertical)
    paced.backward(sent)
    gradients = {f"autograd's {name}": gradient for name, gradient in _gradients(pacing).items()}
    return {"forward()": paced.detach(), "the gradient of forward()": at.grad, **gradients}


def _close(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None:
        return one is other
    return torch.allclose(one, other, rtol=1e-6, atol=1e-9)


def _gradients(pacing: Pacing) -> dict[str, Tensor | None]:
    return {f"the gradient of '{name}'": p.grad for name, p in pacing.named_parameters()}


def progress(pacing: Pacing, step: int) -> Progress:
    """What the engine would tell after `step` steps: losses that fall unevenly, a vertical without images."""
    generator = torch.Generator().manual_seed(step)
    loss = torch.rand(len(SIZES), generator=generator) * (1 - step / NUM_STEPS) + 0.01
    rates = [torch.rand(len(SIZES), generator=generator) for _ in range(2)]
    if step == 0:
        loss = torch.full_like(loss, torch.nan)
    if step < 2:
        rates = [torch.full_like(rate, torch.nan) for rate in rates]
    rates[0][1] = rates[1][1] = torch.nan
    accuracy, teacher_accuracy = rates if pacing.uses_accuracy else (None, None)
    return progress_at(step, loss, accuracy=accuracy, teacher_accuracy=teacher_accuracy)
