"""Event files for TensorBoard."""

from __future__ import annotations

from kcframe.errors import RunDirError
from kcframe.interfaces.callback import Callback, Readings, StageInfo
from kcframe_callback_trackers.options import TensorBoardOptions
from kcframe_callback_trackers.scalars import scalars

REACHABLE = ("s3://", "gs://")  # besides folders, what tensorboardX writes to


class TensorBoard(Callback):
    """Event files for TensorBoard, one folder a stage: `tensorboard --logdir RUN/tensorboard`."""

    name = "tensorboard"
    Options = TensorBoardOptions

    def begin(self, stage: StageInfo) -> None:
        from tensorboardX import SummaryWriter

        folder = self.options.folder or f"{stage.run_dir}/tensorboard"
        if "://" in folder and not folder.startswith(REACHABLE):
            raise RunDirError(f"event files cannot be written to {folder}: set the option 'folder'")
        self.verticals = stage.verticals
        # What was told past this step belongs to an attempt that was lost: TensorBoard hides it.
        again = stage.step + 1 if stage.step else None
        self.writer = SummaryWriter(f"{folder}/{stage.folder}", purge_step=again)

    def step(self, readings: Readings) -> None:
        self._add(readings, readings["step"])

    def evaluated(self, readings: Readings) -> None:
        self._add({"evaluation": readings}, readings["step"])
        self.writer.flush()

    def end(self, finished: bool) -> None:
        self.writer.close()

    def _add(self, readings: Readings, step: int) -> None:
        for name, value in scalars(readings, self.verticals):
            self.writer.add_scalar(name, value, step)
