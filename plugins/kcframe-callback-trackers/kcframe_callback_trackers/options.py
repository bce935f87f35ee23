"""Options of both trackers; imports neither."""

from pydantic import Field

from kcframe.interfaces.options import PluginOptions


class TensorBoardOptions(PluginOptions):
    folder: str | None = Field(
        None,
        description="folder or s3:// URL of the event files; null: tensorboard/ in the run directory",
    )


class MlflowOptions(PluginOptions):
    tracking_uri: str | None = Field(
        None,
        description="a server or a folder; null: $MLFLOW_TRACKING_URI, else the run directory's mlruns/",
    )
    experiment: str = Field("kcframe", min_length=1, description="the experiment that its runs belong to")
