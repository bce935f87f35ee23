"""The checks that every plugin of this kind has to pass."""

from __future__ import annotations

from kcframe.testing import CallbackSuite


class TestTensorBoard(CallbackSuite):
    name = "tensorboard"


class TestMlflow(CallbackSuite):
    name = "mlflow"
