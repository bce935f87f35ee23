"""What is checked of every plugin that is a torch module: pacing, expanders, objectives and backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import SkipTest

import torch
from torch import Tensor, nn

from kcframe.engine.checkpoint import pack, unpack
from kcframe.engine.model import count_parameters
from kcframe.recipe.schema import Recipe
from kcframe.testing.expect import expect, expect_finite, expect_same, fail
from kcframe.testing.suite import PluginSuite
from kcframe.testing.tiny import expect_exact_resumption, tiny_recipe

CPU = torch.device("cpu")
OTHER_DEVICE = ("same device", "expected device")  # in what torch says where two devices meet


class ModuleSuite(PluginSuite):
    """A suite says how to build its module and how to use it; the checks here do both in many ways."""

    exact_gradients = True
    """False where the gradient is meant to be another than the derivative (a straight-through estimate)."""

    def make(self, seed: int | None = None) -> nn.Module:
        """The module, in training mode."""
        raise NotImplementedError

    def use(self, module: nn.Module, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        """What the module makes of inputs drawn with a seed, by name."""
        raise NotImplementedError

    def in_recipe(self) -> dict[str, Any]:
        """What a recipe's student section says to use it."""
        raise NotImplementedError

    def used(self, module: nn.Module, device: torch.device = CPU, seed: int = 0) -> dict[str, Tensor]:
        """`use`, where dropout and the like draw the same each time."""
        torch.manual_seed(seed)
        return self.use(module, device, seed)

    # -- checks ------------------------------------------------------------------------------------

    def test_it_is_built_alike_from_the_same_seed(self):
        one, other = self.make(), self.make()
        expect_same(other.state_dict(), one.state_dict(), "two builds under the same seed differ")
        expect_same(
            self.used(other),
            self.used(one),
            "two builds under the same seed give different results: torch's "
            "default generator is the only randomness that a run seeds",
        )

    def test_its_gradients_are_finite_and_reach_its_parameters(self):
        module = self.make()
        total = sum(tensor.sum() for tensor in self.used(module).values() if tensor.requires_grad)
        trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        if not trained:
            return
        expect(
            isinstance(total, Tensor),
            f"it has parameters ({next(iter(trained))}), but nothing that it gives depends on them: is there "
            "a detach() or no_grad()?",
        )
        total.backward()
        for name, parameter in trained.items():
            expect(
                parameter.grad is not None,
                f"parameter '{name}' gets no gradient: nothing uses it, or a detach() or no_grad() is in the "
                "way; leave it out, or set requires_grad=False",
            )
            expect_finite(f"the gradient of '{name}'", parameter.grad)

    def test_its_state_survives_a_checkpoint(self):
        module = self.make()
        self._train_a_little(module)
        state = module.state_dict()
        saved = _saved(state)
        other = self.make(seed=self.seed + 1)
        other.load_state_dict(saved)
        expect_same(other.state_dict(), state, "the state that was loaded is not the one that was saved")
        expect_same(
            self.used(other),
            self.used(module),
            "a module with the state of another gives different results: "
            "something that matters is not in the state_dict; register_buffer puts it there",
        )

    def test_it_moves_to_another_device(self):
        module = self.make().to("meta")
        try:
            given = self.used(module, torch.device("meta"))
        except (RuntimeError, NotImplementedError) as error:
            # Numbers that are looked at cannot be had from a meta tensor: that is no mistake.
            if any(words in str(error) for words in OTHER_DEVICE):
                fail(f"after .to(device) it meets a tensor left behind: make it a buffer ({error})")
            given = {}
        _expect_on("meta", given)
        if torch.cuda.is_available():
            _expect_on("cuda", self.used(self.make().to("cuda"), torch.device("cuda")))

    def test_it_can_be_counted_without_memory(self):
        module = self.make()
        try:
            with torch.device("meta"):
                counted = self.make()
        except Exception as error:
            fail(f"it cannot be built on torch's meta device, as `kcframe describe` does: {error}")
        expect(
            count_parameters(counted) == count_parameters(module),
            f"`kcframe describe` counts {count_parameters(counted):,} parameters, it has "
            f"{count_parameters(module):,}",
        )

    def test_being_measured_changes_nothing(self):
        one, other = self.make(), self.make()
        self.used(one)
        self.used(other)
        other.eval()
        with torch.inference_mode():
            first, second = self.used(other, seed=7), self.use(other, seed=7)
        other.train()
        message = (
            "after an evaluation it goes on differently: what it learns from must not be the test images; "
            "look at self.training before you keep anything"
        )
        expect_same(other.state_dict(), one.state_dict(), message)
        expect_same(self.used(other, seed=1), self.used(one, seed=1), message)
        expect_same(second, first, "in evaluation mode the same input gives another result")

    def test_it_works_in_bfloat16(self):
        module = self.make()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            for name, tensor in self.used(module).items():
                expect_finite(f"{name}, with precision: bfloat16,", tensor)

    def test_an_interrupted_run_goes_on_to_the_same_result(self):
        expect_exact_resumption(self.recipe())

    # -- parts of checks ---------------------------------------------------------------------------

    def skip_inexact(self) -> None:
        """Leave a check of gradients out, where the author says so."""
        if not self.exact_gradients:
            raise SkipTest("exact_gradients = False")

    def recipe(self) -> Recipe:
        """A tiny recipe that uses the plugin."""
        return tiny_recipe(self.in_recipe())

    def _train_a_little(self, module: nn.Module) -> None:
        for seed in range(3):
            module.zero_grad()
            total = sum(tensor.sum() for tensor in self.used(module, seed=seed).values())
            if isinstance(total, Tensor) and total.requires_grad:
                total.backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.grad is not None:
                        parameter -= 1e-3 * parameter.grad.clamp(-1, 1)


def gradcheck(function: Callable[[Tensor], Tensor], tensor: Tensor, what: str) -> None:
    """End a check unless autograd's gradient of `function` at a float64 tensor is its derivative."""
    __tracebackhide__ = True

    def seeded(given: Tensor) -> Tensor:
        torch.manual_seed(0)  # dropout and the like draw the same each time
        return function(given)

    at = tensor.detach().requires_grad_()
    result = seeded(at)
    expect(
        result.requires_grad,
        f"no gradient flows from {what}: is there a detach(), a no_grad() or a .data?",
    )
    expect(
        result.dtype == torch.float64,
        f"{what}, given float64, gives {str(result.dtype).removeprefix('torch.')}: keep to the format that "
        "is given, or the gradient cannot be checked (the suite's exact_gradients = False leaves it)",
    )
    try:
        torch.autograd.gradcheck(seeded, at, fast_mode=True, nondet_tol=0.0)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        fail(
            f"the gradient of {what} is not its derivative: is there a detach() on a part of it? If it is "
            f"meant so, set exact_gradients = False ({first})"
        )


def _expect_on(device: str, given: dict[str, Tensor]) -> None:
    for name, tensor in given.items():
        expect(
            tensor.device.type == device,
            f"after .to('{device}') its {name} is on {tensor.device.type}: make tensors buffers, or new ones "
            "with device=input.device",
        )


def _saved(state: dict[str, Any]) -> dict[str, Any]:
    try:
        return unpack(pack(state), "the checkpoint")
    except (TypeError, ValueError) as error:
        fail(
            "its state cannot be saved: a state_dict may hold tensors, numbers, text, lists and dicts "
            f"({error}; it has {', '.join(sorted(state))})"
        )
