"""Objective `softened`: softmax distillation with a temperature."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_objective_softened.options import SoftenedOptions


@hookimpl(api=1)
def kcframe_objective():
    return [
        Lazy(
            "softened",
            "kcframe_objective_softened.softened:Softened",
            SoftenedOptions,
            "softmaxes with a temperature within each teacher's classes (Hinton, UHC), beside the labels",
        )
    ]
