"""Pacing `catch-up`: a teacher fades as the student catches up with it."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_pacing_catch_up.options import CatchUpOptions


@hookimpl(api=1)
def kcframe_pacing():
    return [
        Lazy(
            "catch-up",
            "kcframe_pacing_catch_up.catch_up:CatchUp",
            CatchUpOptions,
            "a teacher's weight falls as the student's accuracy nears its own (LFME)",
        )
    ]
