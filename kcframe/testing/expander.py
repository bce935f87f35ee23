"""The suite of expander plugins."""

from __future__ import annotations

from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from kcframe.builtin.objectives.bce import HardBce
from kcframe.engine.model import Head
from kcframe.interfaces.expander import Expander
from kcframe.interfaces.options import PluginOptions
from kcframe.testing.blocks import make_head
from kcframe.testing.expect import expect, expect_finite
from kcframe.testing.module import CPU, ModuleSuite, gradcheck
from kcframe.testing.sample import BATCH, SIZES, draw, expect_blocks_agree

MANY = 64  # images: enough that no unit is idle for all of them
SIZE = 4
MORE_NUMBERS = 1.25  # a block beside others may use this many times the numbers of one alone


class ExpanderSuite(ModuleSuite):
    """Subclass it and name your expander plugin."""

    kind: ClassVar[str] = "expander"

    num_features = 11
    """D: of the backbone whose features it is given."""

    def make(self, seed: int | None = None, sizes: tuple[int, ...] = SIZES) -> Expander:
        return self.construct(self.num_features, sizes, seed=seed)

    def in_recipe(self) -> dict[str, Any]:
        return {"expander": self.ref.model_dump()}

    def use(self, module: Expander, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        shared = module.shared(self.features(MANY, seed, device))
        return {f"block {v}": module.block(v, shared) for v in range(len(SIZES))}

    def features(self, rows: int, seed: int, device=CPU, dtype=torch.float32) -> Tensor:
        return draw((rows, self.num_features), seed, device, dtype)

    def head(self) -> Head:
        """The expander under classifiers, in float64."""
        return make_head(SIZES, self.make()).double()

    # -- checks ------------------------------------------------------------------------------------

    def test_block_features_says_how_many_there_are(self):
        expander = self.make()
        for training in (True, False):
            expander.train(training)
            for rows in (BATCH,) if training else (BATCH, 1):
                shared = expander.shared(self.features(rows, 1))
                for vertical in range(len(SIZES)):
                    hidden, width = expander.block(vertical, shared), expander.block_features(vertical)
                    expect(
                        hidden.shape == (rows, width),
                        f"block({vertical}) gives {list(hidden.shape)} for {rows} images, "
                        f"block_features({vertical}) is {width}",
                    )
                    expect_finite(f"block({vertical})", hidden)

    def test_gradients_flow_through_the_features(self):
        self.skip_inexact()
        expander = self.make().double()
        for vertical in range(len(SIZES)):
            gradcheck(
                lambda x, v=vertical: expander.block(v, expander.shared(x)),
                self.features(BATCH, 2, dtype=torch.float64),
                f"block({vertical})",
            )

    def test_the_engine_works_block_by_block(self):
        features = self.features(BATCH, 3, dtype=torch.float64)
        expect_blocks_agree(self.head(), HardBce(PluginOptions()), features)

    def test_a_block_uses_its_own_verticals_numbers_alone(self):
        alone = self._numbers_used(self.make(sizes=(SIZE,)))
        beside_others = self._numbers_used(self.make(sizes=(SIZE,) * 3))
        expect(
            beside_others <= MORE_NUMBERS * alone,
            f"with three verticals a block uses {beside_others:,} parameters, with one of the same size "
            f"{alone:,}: it uses other verticals' as well; what all of them need belongs into `shared`",
        )

    def test_nothing_in_it_is_idle(self):
        expander = self.make()
        total = sum(block.square().sum() for block in self.use(expander).values())
        if not total.requires_grad:
            return
        total.backward()
        for name, parameter in expander.named_parameters():
            if parameter.requires_grad:
                used = parameter.grad is not None and bool(parameter.grad.any())
                expect(used, f"no vertical uses parameter '{name}': does block() look at `vertical`?")

    def test_the_order_of_blocks_does_not_matter(self):
        expander = self.make().eval()
        shared = expander.shared(self.features(BATCH, 4))
        forward = [expander.block(v, shared) for v in range(len(SIZES))]
        backward = [expander.block(v, shared) for v in reversed(range(len(SIZES)))][::-1]
        same = all(torch.equal(a, b) for a, b in zip(forward, backward, strict=True))
        expect(same, "a block gives something else when other blocks were asked before it")

    def test_an_image_is_expanded_by_itself(self):
        expander = self.make().eval()
        features = self.features(BATCH, 5)
        for vertical in range(len(SIZES)):
            together = expander.block(vertical, expander.shared(features))
            rows = [expander.block(vertical, expander.shared(row.unsqueeze(0))) for row in features]
            expect(
                torch.allclose(together, torch.cat(rows), rtol=1e-4, atol=1e-5),
                "in evaluation mode an image's units depend on the other images of the batch",
            )

    def test_rowwise_is_true_where_it_says_so(self):
        expander = self.make()
        if not expander.rowwise:
            raise SkipTest("rowwise = False")
        shared = expander.shared(self.features(BATCH, 7))
        some = torch.tensor([0, 3, 4])
        for vertical in range(len(SIZES)):
            torch.manual_seed(0)
            whole = expander.block(vertical, shared)[some]
            torch.manual_seed(1)
            part = expander.block(vertical, shared[some])
            expect(
                torch.allclose(whole, part, rtol=1e-4, atol=1e-6),
                "it says rowwise = True, but an image's units depend on other images or on chance",
            )

    def _numbers_used(self, expander: Expander) -> int:
        """Parameters (single numbers) that move block 0, what `shared` gives held fast."""
        shared = expander.shared(self.features(MANY, 6)).detach()
        hidden = expander.block(0, shared)
        if not hidden.requires_grad:
            return 0
        hidden.square().sum().backward()
        return sum(int(p.grad.count_nonzero()) for p in expander.parameters() if p.grad is not None)
