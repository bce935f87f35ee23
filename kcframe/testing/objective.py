"""The suite of objective plugins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from kcframe.engine.teachers.routing import Router
from kcframe.errors import PluginError
from kcframe.interfaces.data import Labels
from kcframe.interfaces.objective import BlockTargets, Objective, SparseTargets
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.schema import Recipe
from kcframe.testing.blocks import head_gradients, make_head
from kcframe.testing.expect import expect, expect_finite, fail
from kcframe.testing.module import CPU, ModuleSuite, gradcheck
from kcframe.testing.sample import BATCH, SIZES, draw, expect_blocks_agree, rows_of, targets_of
from kcframe.testing.targets import make_sparse_targets
from kcframe.testing.tiny import tiny_recipe

FEATURES = 4
LARGE = 100.0  # logits that training may well reach; exp(-100) is nearly 0, log of it is not


class ObjectiveSuite(ModuleSuite):
    """Subclass it and name your objective plugin."""

    kind: ClassVar[str] = "objective"

    # An objective is not used where networks are measured, and not built where they are described.
    test_being_measured_changes_nothing = None
    test_it_can_be_counted_without_memory = None

    def make(self, seed: int | None = None) -> Objective:
        return self.construct(seed=seed)

    def in_recipe(self) -> dict[str, Any]:
        return {"objective": self.ref.model_dump()}

    def recipe(self) -> Recipe:
        return tiny_recipe(self.in_recipe(), teachers=self.make().uses_teachers)

    def use(self, module: Objective, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        terms = {}
        for vertical, size in enumerate(SIZES):
            targets = self.targets(module, vertical, seed=seed, device=device)
            for name, term in module(draw((BATCH, size), seed, device), targets).items():
                terms[f"'{name}' of vertical {vertical}"] = term
        return terms

    def targets(self, objective: Objective, vertical: int, rows: int = BATCH, **more: Any) -> BlockTargets:
        """Targets as the engine fills them for this objective."""
        return targets_of(vertical, SIZES[vertical], rows, soft=objective.uses_teachers, **more)

    # -- checks ------------------------------------------------------------------------------------

    def test_terms_are_named_and_have_one_loss_an_image(self):
        objective = self.make()
        names = set()
        for vertical, size in enumerate(SIZES):
            for rows, empty in ((BATCH, False), (BATCH, True), (1, False), (1, True)):
                terms = objective(draw((rows, size), 1), self.targets(objective, vertical, rows, empty=empty))
                self._expect_terms(terms, rows)
                names.add(tuple(terms))
        expect(
            len(names) == 1,
            f"the terms differ from batch to batch ({' or '.join(map(str, sorted(names)))}): give all of "
            "them always, with zeros where there is nothing to say; workers add them up",
        )

    def test_a_vertical_without_any_image_in_the_batch_gives_a_finite_loss(self):
        objective = self.make()
        for vertical, size in enumerate(SIZES):
            for rows in (BATCH, 1):
                logits = draw((rows, size), 2).requires_grad_()
                terms = objective(logits, self.targets(objective, vertical, rows, empty=True))
                for name, term in terms.items():
                    expect_finite(f"'{name}' of {rows} images, none of them of this vertical,", term)
                total = sum(term.sum() for term in terms.values())
                if total.requires_grad:
                    total.backward()
                    expect_finite("the gradient where no image is of this vertical", logits.grad)

    def test_large_logits_give_a_finite_loss(self):
        objective = self.make()
        for vertical, size in enumerate(SIZES):
            signs = draw((BATCH, size), 3).sign()
            logits = (LARGE * signs).requires_grad_()
            terms = objective(logits, self.targets(objective, vertical))
            for name, term in terms.items():
                expect_finite(f"'{name}' at logits of ±{LARGE:g} (softplus and logsigmoid stay finite)", term)
            sum(term.sum() for term in terms.values()).backward()
            expect_finite(f"the gradient at logits of ±{LARGE:g}", logits.grad)

    def test_gradients_flow_through_the_logits(self):
        self.skip_inexact()
        objective = self.make().double()
        for vertical, size in enumerate(SIZES):
            targets = self.targets(objective, vertical, dtype=torch.float64)
            gradcheck(
                lambda x, t=targets: sum(term.sum() for term in objective(x, t).values()),
                draw((BATCH, size), 4, dtype=torch.float64),
                f"the terms of {size} classes",
            )

    def test_an_image_has_its_own_loss(self):
        objective = self.make()
        for vertical, size in enumerate(SIZES):
            logits, targets = draw((BATCH, size), 5), self.targets(objective, vertical)
            together = objective(logits, targets)
            alone = [
                objective(logits[row : row + 1], _image(targets, row, objective.uses_teachers))
                for row in range(BATCH)
            ]
            for name, term in together.items():
                wanted = torch.stack([terms[name].sum() for terms in alone])
                wanted = wanted.sum() if term.dim() == 0 else wanted
                expect(
                    torch.allclose(term, wanted, rtol=1e-4, atol=1e-5),
                    f"'{name}' of an image depends on the others of its batch: a batch is shared out among "
                    "workers, and divided by its size by the engine (give sums, not means)",
                )

    def test_unknown_labels_are_no_negatives(self):
        objective = self.make()
        if not objective.handles_unknown:
            raise SkipTest("handles_unknown = False")
        size = SIZES[0]
        logits, targets = draw((BATCH, size), 5), self.targets(objective, 0)
        labelled = targets.hard.dense() > 0
        everything = replace(targets, absent=_ones(~labelled))
        nothing = replace(targets, absent=_ones(torch.zeros_like(labelled)))
        plain, whole, little = (objective(logits, given) for given in (targets, everything, nothing))
        for name, term in plain.items():
            expect(
                torch.allclose(term, whole[name], rtol=1e-4, atol=1e-5),
                f"'{name}' differs between absent = None and all but the labels being absent: it is the same",
            )
        changed = any(not torch.equal(little[name], term) for name, term in whole.items())
        # Where only teachers are listened to, labels make no difference at all.
        other = objective(logits, replace(targets, hard=_ones(~labelled)))
        looks = any(not torch.equal(other[name], term) for name, term in plain.items())
        expect(changed or not looks, "what is neither a label nor absent counts as a negative")

    def test_the_temperature_may_be_scaled(self):
        objective = self.make()
        size = SIZES[0]
        logits = draw((BATCH, size), 6)
        by_number = objective(logits, self.targets(objective, 0, temperature_scale=2.0))
        by_tensor = objective(logits, self.targets(objective, 0, temperature_scale=torch.tensor(2.0)))
        self._expect_terms(by_number, BATCH)
        for name, term in by_number.items():
            expect_finite(f"'{name}' at twice the temperature", term)
            expect(
                torch.allclose(term, by_tensor[name]),
                f"'{name}' differs between a temperature_scale of 2.0 and of torch.tensor(2.0)",
            )

    def test_teachers_are_softened_to_probabilities(self):
        objective = self.make()
        if not objective.uses_teachers:
            return
        logits = draw((BATCH, 5), 7) * 20
        logits[0] = torch.tensor([LARGE, -LARGE, 0, 1, 2])
        for scale in (1.0, torch.tensor([0.5, 1.0, 2.0, 4.0, 8.0])):
            softened = objective.soften(logits, scale)
            shapes = f"{list(softened.shape)} of {list(logits.shape)}"
            expect(softened.shape == logits.shape, f"soften() gives {shapes}")
            expect_finite("soften()", softened)
            inside = bool(((softened >= 0) & (softened <= 1)).all())
            bounds = f"{float(softened.min()):.3g} to {float(softened.max()):.3g}"
            expect(inside, f"soften() gives {bounds}, not 0 to 1")

    def test_more_classes_may_be_kept_than_a_teacher_has(self):
        objective = self.make()
        num_kept = objective.num_kept
        good = num_kept is None or (isinstance(num_kept, int) and num_kept >= 1)
        expect(good, f"num_kept is {num_kept!r}, not 1 or more")
        if not objective.uses_teachers:
            return
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 3))
        teacher = Teacher(
            "three", network, torch.arange(3), channels=1, mean=(0.0,), std=(1.0,), input_size=None
        )
        router = Router([teacher], 5, objective.soften, max(num_kept or 0, 4), CPU)
        rows, classes, values = router(torch.rand(2, 1, 4, 4), Labels.from_lists([[0], [4]]))
        expect(
            len(rows) == 4 and bool((classes < 5).all()),
            f"a teacher of 3 classes gave {len(rows) - 1} targets for one image, with K above 3",
        )
        expect_finite("the soft targets", values)

    def test_the_engine_works_block_by_block(self):
        objective = self.make().double()
        head = make_head(SIZES, num_features=FEATURES).double()
        features = draw((BATCH, FEATURES), 8, dtype=torch.float64)
        expect_blocks_agree(head, objective, features, soft=objective.uses_teachers)

    def test_its_closed_form_is_the_derivative(self):
        objective = self.make().double()
        if not objective.has_closed_form:
            raise SkipTest("has_closed_form = False")
        for vertical, size in enumerate(SIZES):
            for scale in (1.0, torch.tensor(2.0, dtype=torch.float64)):
                targets = self.targets(objective, vertical, dtype=torch.float64, temperature_scale=scale)
                logits = draw((BATCH, size), 9, dtype=torch.float64).requires_grad_()
                shares = {name: 0.5 + n for n, name in enumerate(objective(logits, targets))}
                terms = objective(logits, targets)
                sum(shares[name] * term.sum() for name, term in terms.items()).backward()
                given, out = logits.detach().clone(), torch.full_like(logits, torch.nan, requires_grad=False)
                with torch.no_grad():
                    closed = objective.gradient(given, targets, shares.__getitem__, out)
                expect(torch.equal(given, logits), "gradient() changes the logits that it is given")
                for name, term in terms.items():
                    same = name in closed and torch.allclose(closed[name], term, rtol=1e-6, atol=1e-9)
                    expect(same, f"gradient() gives another '{name}' than forward()")
                expect(
                    torch.allclose(out, logits.grad, rtol=1e-6, atol=1e-9),
                    "gradient() is not the gradient of forward(): it is used in training in its place",
                )

    def test_it_has_no_parameters_that_nobody_trains(self):
        trained = [name for name, p in self.make().named_parameters() if p.requires_grad]
        expect(
            not trained,
            f"parameter '{', '.join(trained)}' would never be trained: the optimizer has the student's "
            "parameters alone; make it a buffer, or a pacing's",
        )

    def _expect_terms(self, terms: object, rows: int) -> None:
        __tracebackhide__ = True
        if not isinstance(terms, dict) or not terms:
            fail(f"forward() gives a {type(terms).__name__}: give a dict of named terms, each [B]")
        # As the engine judges them, in its words.
        head = make_head((1,), num_features=1)
        try:
            head_gradients(head, _Fixed(terms), torch.zeros(rows, 1), [targets_of(0, 1, rows)])
        except PluginError as error:
            fail(str(error).removeprefix("_Fixed: "))


class _Fixed(Objective):
    """An objective that gives what another one gave."""

    def __init__(self, terms: dict[str, Tensor]):
        super().__init__(PluginOptions())
        self.terms = terms

    def forward(self, logits: Tensor, targets: BlockTargets) -> dict[str, Tensor]:
        pull = logits.sum() * 0
        return {k: t.detach() + pull if isinstance(t, Tensor) else t for k, t in self.terms.items()}


def _ones(mask: Tensor) -> SparseTargets:
    return make_sparse_targets(mask.float())


def _image(targets: BlockTargets, row: int, with_soft: bool) -> BlockTargets:
    hard, soft = rows_of(targets.hard, row), rows_of(targets.soft, row) if with_soft else None
    return BlockTargets(targets.vertical, hard, soft, targets.temperature_scale)
