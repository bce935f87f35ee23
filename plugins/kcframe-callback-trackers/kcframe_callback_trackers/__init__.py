"""TensorBoard and MLflow for kcframe. The trackers' own packages are imported only where a run uses them."""

from kcframe.interfaces.component import Lazy
from kcframe.interfaces.hooks import hookimpl
from kcframe_callback_trackers.options import MlflowOptions, TensorBoardOptions


@hookimpl
def kcframe_callback():
    return [
        Lazy(
            "tensorboard",
            "kcframe_callback_trackers.tensorboard:TensorBoard",
            TensorBoardOptions,
            "event files for TensorBoard, one folder a stage",
        ),
        Lazy(
            "mlflow",
            "kcframe_callback_trackers.mlflow:Mlflow",
            MlflowOptions,
            "an MLflow run a stage, in a tracking server or a folder",
        ),
    ]
