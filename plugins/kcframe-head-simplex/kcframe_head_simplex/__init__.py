"""Expander `simplex`: classifiers that are the same in every student, so that their features compare."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_head_simplex.options import SimplexOptions


@hookimpl(api=1)
def kcframe_expander():
    return [
        Lazy(
            "simplex",
            "kcframe_head_simplex.expander:SimplexHead",
            SimplexOptions,
            "FC(s1)-SC(s2), and classifiers fixed to the vertices of a regular simplex (RePoNet, CoReS)",
        )
    ]
