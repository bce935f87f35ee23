"""What a pacing says about the coming step and of itself, checked."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from kcframe.engine.plugin_calls import call_plugin, finite, shaped
from kcframe.errors import PluginError
from kcframe.interfaces.component import label
from kcframe.interfaces.pacing import Pacing, Progress

TAKEN = {
    *("kind", "step", "epoch", "loss", "terms", "learning_rate"),
    *("vertical_loss", "accuracy", "teacher_accuracy"),
}
"""What a line of the metrics says anyway."""


def weights_of(pacing: Pacing, progress: Progress) -> Tensor | Mapping[str, Tensor] | None:
    """`Pacing.weights`. PluginError unless they are finite and not negative, one a vertical."""
    given = call_plugin(pacing, "weights", progress)
    several = isinstance(given, Mapping)
    for name, weights in given.items() if several else [(None, given)]:
        if weights is not None:
            what = f"the weights of term '{name}' of weights" if several else "weights"
            _checked(pacing, what, weights)
            if bool((weights < 0).any()):
                raise PluginError(f"{label(pacing)}: {what}() gave a negative one")
    return given


def temperatures_of(pacing: Pacing, progress: Progress) -> Tensor | None:
    """`Pacing.temperatures`. PluginError unless they are finite and above 0, one a vertical."""
    given = call_plugin(pacing, "temperatures", progress)
    if given is not None:
        _checked(pacing, "temperatures", given)
        if bool((given <= 0).any()):
            raise PluginError(f"{label(pacing)}: temperatures() gave one that is not above 0")
    return given


def readings_of(pacing: Pacing) -> dict[str, Tensor]:
    """`Pacing.readings`. PluginError unless they are floats, one a vertical, under names that are free."""
    given = call_plugin(pacing, "readings")
    if not isinstance(given, Mapping):
        raise PluginError(f"{label(pacing)}: readings() gave a {type(given).__name__}, not named values")
    for name, values in given.items():
        if name in TAKEN:
            raise PluginError(f"{label(pacing)}: readings() gave '{name}', which the metrics have already")
        shaped(pacing, f"the reading '{name}' of readings", (len(pacing.sizes),), values)
    return dict(given)


def _checked(pacing: Pacing, what: str, given: Tensor) -> None:
    finite(pacing, what, shaped(pacing, what, (len(pacing.sizes),), given))
