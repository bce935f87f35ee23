"""MLflow runs."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

from kcframe.interfaces.callback import Callback, Readings, StageInfo
from kcframe_callback_trackers.options import MlflowOptions
from kcframe_callback_trackers.scalars import scalars

TAG = "kcframe.stage"  # a stage's folder: by it an interrupted stage finds its run again
AT_ONCE = 100  # parameters a request
LONGEST = 500  # characters of a parameter's value


class Mlflow(Callback):
    """An MLflow run a stage: its settings as parameters, its readings as metrics."""

    name = "mlflow"
    Options = MlflowOptions

    def begin(self, stage: StageInfo) -> None:
        from mlflow import MlflowClient

        uri = self.options.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{stage.run_dir}/mlruns"
        # MLflow wants to be asked by name for its folders of files, which need no database.
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = MlflowClient(uri)
        self.verticals = stage.verticals
        self.run_id = self._run(stage)
        # A stage that goes on repeats itself exactly, so what is there already is not told again.
        history = self.client.get_metric_history(self.run_id, "loss")
        self.last = max((point.step for point in history), default=0)

    def _run(self, stage: StageInfo) -> str:
        from mlflow.entities import Param

        known = self.client.get_experiment_by_name(self.options.experiment)
        experiment = known.experiment_id if known else self.client.create_experiment(self.options.experiment)
        for run in self.client.search_runs([experiment], max_results=1000):
            if stage.step and run.data.tags.get(TAG) == stage.place:
                self.client.set_terminated(run.info.run_id, "RUNNING")
                return run.info.run_id
        run = self.client.create_run(experiment, run_name=stage.name, tags={TAG: stage.place})
        settings = list(_flat(stage.settings, ""))
        for first in range(0, len(settings), AT_ONCE):
            some = [Param(_plain(name), str(value)[:LONGEST]) for name, value in settings[first:][:AT_ONCE]]
            self.client.log_batch(run.info.run_id, params=some)
        return run.info.run_id

    def step(self, readings: Readings) -> None:
        self._log(readings, readings["step"])

    def evaluated(self, readings: Readings) -> None:
        self._log({"evaluation": readings}, readings["step"])

    def end(self, finished: bool) -> None:
        self.client.set_terminated(self.run_id, "FINISHED" if finished else "KILLED")

    def _log(self, readings: Mapping[str, Any], step: int) -> None:
        if step <= self.last:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [
            Metric(_plain(name), value, now, step) for name, value in scalars(readings, self.verticals)
        ]
        self.client.log_batch(self.run_id, metrics=metrics)


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{number}")
    else:
        yield name, value


def _plain(name: str) -> str:
    """MLflow's names: letters, digits, and a few signs."""
    return re.sub(r"[^\w\-. /]", "_", name)
