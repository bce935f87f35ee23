"""timm models for kcframe. timm is imported only where a run uses it."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_teacher_timm.options import TimmOptions


@hookimpl
def kcframe_teacher():
    return [
        Lazy(
            "timm",
            "kcframe_teacher_timm.source:Timm",
            TimmOptions,
            "one timm model with weights from a file and a label map",
        )
    ]
