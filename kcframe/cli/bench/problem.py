"""The head and the made-up batches that `kcframe bench head` measures."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kcframe.assembly.plugins import build_objective, construct
from kcframe.builtin.sources.synthetic_options import SyntheticOptions
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.closed_form import Workspace
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.model import Head
from kcframe.interfaces.objective import BlockTargets, Objective
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.pacing import Pacing
from kcframe.recipe.schema import PluginRef
from kcframe.taxonomy import Taxonomy

SELF_PACED = PluginRef(name="self-paced", options={"start": "base-rate"})


@dataclass(frozen=True)
class Sizes:
    """The sizes of the measured head. B batch, N classes, M verticals, D features, K kept."""

    classes: int = 100_000
    verticals: int = 20
    features: int = 1024
    s1: int = 4096
    s2: int = 512
    kept: int = 100
    batch: int = 256
    expander: str = "fc-sc"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


class PlainPacing(Pacing):
    """Eq. 4 as the author of a plugin would write it."""

    def __init__(self, options, sizes, num_classes):
        super().__init__(options, sizes, num_classes)
        self.gamma = nn.ParameterList(nn.Parameter(torch.tensor(float(size) ** 0.5)) for size in sizes)

    def forward(self, logits: Tensor, vertical: int) -> Tensor:
        return self.gamma[vertical] * F.normalize(logits, dim=1)


class PlainObjective(Objective):
    """Eq. 2 as the author of a plugin would write it."""

    uses_teachers = True

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        loss = F.binary_cross_entropy_with_logits(logits, targets.soft.dense(), reduction="none")
        return {"soft": loss.sum(1)}


class Bench:
    """A head of the given sizes, and a batch that it learns from."""

    def __init__(self, sizes: Sizes):
        torch.manual_seed(0)
        self.sizes = sizes
        blocks = SyntheticOptions(verticals=sizes.verticals, classes=sizes.classes).sizes
        names = {f"v{v}": [f"v{v} {c}" for c in range(size)] for v, size in enumerate(blocks)}
        self.taxonomy = Taxonomy.build(names)
        self.index = SlotIndex(self.taxonomy, sizes.device)
        self.objective = build_objective(PluginRef(name="top-k-bce", options={"k": sizes.kept}))
        self.head = self._head(construct("pacing", SELF_PACED, blocks, sizes.classes))
        self.pictures = Pictures(sizes, self.taxonomy)
        self.workspace = Workspace()
        self.features, self.soft, self.hard = self.draw()

    def plain_head(self) -> Head:
        """The same matrices under `PlainPacing`."""
        blocks = self.taxonomy.sizes
        head = Head(self.head.expander, PlainPacing(PluginOptions(), blocks, self.sizes.classes), blocks)
        head.classifiers = self.head.classifiers
        return head.to(self.sizes.device)

    def _head(self, pacing: Pacing) -> Head:
        s, blocks = self.sizes, self.taxonomy.sizes
        ref = PluginRef(name=s.expander, options={"s1": s.s1, "s2": s.s2})
        expander = construct("expander", ref, s.features, blocks)
        return Head(expander, pacing, blocks).to(s.device)

    def draw(self) -> tuple[Tensor, SlotTargets, SlotTargets]:
        """A new batch: features [B, D], the teachers' targets and the labels."""
        s = self.sizes
        features, labels, rows, classes, values = self.pictures.draw()
        soft = SlotTargets(self.index, s.batch, rows, classes, values)
        ones = torch.ones(s.batch, device=s.device)
        hard = SlotTargets(self.index, s.batch, torch.arange(s.batch, device=s.device), labels, ones)
        return features, soft, hard

    def step(
        self,
        head: Head | None = None,
        objective: Objective | None = None,
        workspace: Workspace | None = None,
        filter_error: float | None = None,
    ) -> None:
        """Forward and backward pass of the head, as in training."""
        head, objective = head or self.head, objective or self.objective
        for parameter in head.parameters():
            parameter.grad = None
        features = self.features.detach().requires_grad_()
        with self._autocast():
            backward_by_block(
                head,
                objective,
                features,
                lambda vertical: block_targets(self.hard, self.soft, vertical),
                None,
                batch_size=self.sizes.batch,
                workspace=workspace or self.workspace,
                filter_error=filter_error,
            )

    def dense_step(self) -> None:
        """The same loss by autograd, with all logits and all targets in memory at once."""
        head, batch = self.head, self.sizes.batch
        for parameter in head.parameters():
            parameter.grad = None
        features = self.features.detach().requires_grad_()
        with self._autocast():
            shared = head.shared(features)
            logits = torch.cat([head.block(v, shared) for v in range(len(head.sizes))], 1)
            targets = torch.cat([self.soft.block(v).dense() for v in range(len(head.sizes))], 1)
            loss = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
            (loss / batch).backward()

    def train(self, steps: int) -> None:
        """Train the head, with a new batch in each step."""
        optimizer = torch.optim.Adam(self.head.parameters(), lr=1e-3, fused=True)
        for _ in range(steps):
            self.features, self.soft, self.hard = self.draw()
            self.step()
            optimizer.step()

    def gradients(self) -> dict[str, Tensor]:
        """A copy of the gradients of the head's matrices: name -> gradient."""
        return {name: p.grad.clone() for name, p in self.head.named_parameters() if p.ndim > 1}

    def gradient_bytes(self) -> int:
        return sum(p.grad.nbytes for p in self.head.parameters() if p.grad is not None)

    def _autocast(self):
        return torch.autocast(
            self.sizes.device.type, self.sizes.dtype, enabled=self.sizes.dtype != torch.float32
        )


class Pictures:
    """Features of made-up pictures: a centre for each vertical, one for each class, and noise."""

    CODE = 64  # directions in which classes differ

    def __init__(self, sizes: Sizes, taxonomy: Taxonomy):
        self.sizes, device = sizes, sizes.device
        self.offsets = torch.from_numpy(taxonomy.offsets).to(device)
        self.centres = torch.randn(taxonomy.num_verticals, sizes.features, device=device)
        self.codes = torch.randn(sizes.classes, self.CODE, device=device)
        self.basis = torch.randn(self.CODE, sizes.features, device=device) / self.CODE**0.5

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """features [B, D], labels [B], and the teachers' K largest outputs as (rows, classes, values)."""
        s, device = self.sizes, self.sizes.device
        labels = torch.randint(s.classes, (s.batch,), device=device)
        verticals = torch.bucketize(labels, self.offsets, right=True) - 1
        noise = 0.5 * torch.randn(s.batch, s.features, device=device)
        features = (self.centres[verticals] + self.codes[labels] @ self.basis + noise).relu()
        # The label comes first, then the next classes of its vertical. No class comes twice.
        first, size = self.offsets[verticals], self.offsets.diff()[verticals]
        num_kept = min(s.kept, int(self.offsets.diff().min()))
        steps = torch.arange(num_kept, device=device)
        classes = first[:, None] + (labels - first)[:, None].add(steps) % size[:, None]
        # The teacher is an expert: it gives the label 0.95 and the other classes almost 0.
        values = torch.randn(s.batch, num_kept, device=device).sub(7).sigmoid()
        values[:, 0] = 0.95
        rows = torch.arange(s.batch, device=device)[:, None].expand_as(classes)
        return features, labels, rows.flatten(), classes.flatten(), values.flatten()
