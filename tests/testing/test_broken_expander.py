"""Expanders that are broken on purpose are caught, and told what to do."""

from __future__ import annotations

import pytest
from torch import nn

from kcframe.interfaces.expander import Expander


class Blocks(Expander):
    """A good one, to be broken."""

    def __init__(self, options, num_features, sizes):
        super().__init__(options, num_features, sizes)
        self.first = nn.Linear(num_features, 12)
        self.blocks = nn.ModuleList(nn.Linear(12, 8) for _ in sizes)

    def shared(self, features):
        return self.first(features).tanh()

    def block(self, vertical, shared):
        return self.blocks[vertical](shared).tanh()

    def block_features(self, vertical):
        return 8


class IgnoresItsVertical(Blocks):
    def block(self, vertical, shared):
        return self.blocks[0](shared).tanh()


class MixesVerticals(Blocks):
    def block(self, vertical, shared):
        return sum(block(shared) for block in self.blocks).tanh()


class BorrowsFromItsNeighbour(Blocks):
    def block(self, vertical, shared):
        return (self.blocks[vertical](shared) + self.blocks[vertical - 1](shared)).tanh()


class Lies(Blocks):
    def block_features(self, vertical):
        return 9


class GoesBehindTheEngine(Blocks):
    """Keeps what `shared` computed, and uses that instead of what `block` is given."""

    def shared(self, features):
        self.kept = super().shared(features)
        return self.kept

    def block(self, vertical, shared):
        return super().block(vertical, self.kept)


class ComparesImages(Blocks):
    def block(self, vertical, shared):
        return super().block(vertical, shared - shared.mean(0))


class ClaimsRowwise(ComparesImages):
    rowwise = True


class NeedsNumbers(Blocks):
    """Looks at its weights while it is built, which the meta device has not."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        if float(self.first.weight.abs().max()) > 0.1:
            nn.init.normal_(self.first.weight, std=0.01)


@pytest.mark.parametrize(
    ("plugin", "check", "said"),
    [
        (IgnoresItsVertical, "nothing in it is idle", "no vertical uses parameter 'blocks.1.weight'"),
        (MixesVerticals, "a block uses its own verticals numbers alone", "it uses other verticals' as well"),
        (BorrowsFromItsNeighbour, "a block uses its own verticals numbers alone", "208 parameters"),
        (Lies, "block features says how many there are", "gives [6, 8] for 6 images, block_features(0) is 9"),
        (GoesBehindTheEngine, "the engine works block by block", "share a part of the graph"),
        (ComparesImages, "an image is expanded by itself", "depend on the other images of the batch"),
        (ClaimsRowwise, "rowwise is true where it says so", "it says rowwise = True"),
        (NeedsNumbers, "it can be counted without memory", "cannot be built on torch's meta device"),
    ],
)
def test_expanders(why, plugin, check, said):
    if "rowwise" not in check:
        assert why("expander", Blocks, check) == ""
    assert said in why("expander", plugin, check)
