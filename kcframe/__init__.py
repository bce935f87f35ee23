"""kcframe: concentrate what many specialist classifiers know into one student.

Importing this package is cheap: no torch, no ray. `kcframe.load(RUN)` gives a finished student.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name == "load":  # brings torch in, so only when it is asked for
        from importlib import import_module

        return import_module("kcframe.students.load").load
    raise AttributeError(f"module 'kcframe' has no attribute '{name}'")
