"""Pacing `curriculum` and `fade`: what comes when."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_pacing_curriculum.options import CurriculumOptions, FadeOptions


@hookimpl(api=1)
def kcframe_pacing():
    return [
        Lazy(
            "curriculum",
            "kcframe_pacing_curriculum.curriculum:Curriculum",
            CurriculumOptions,
            "verticals come in one after another, the hardest last or first",
        ),
        Lazy(
            "fade",
            "kcframe_pacing_curriculum.fade:Fade",
            FadeOptions,
            "soft targets fade into hard ones over the run",
        ),
    ]
