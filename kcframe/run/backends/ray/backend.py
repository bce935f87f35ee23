"""Stages on a Ray cluster.

A stage begins when those that it needs are finished. One with a single worker is a Ray task: all such stages
run side by side, and tasks share worker processes, which have imported torch already. One with more is a Ray
Train worker group, one after the other: starting a group costs seconds, and two half-started ones could wait
for each other's machines.

Checkpoints are the run directory's, the same as everywhere: a run can go on with another backend or
another number of workers. Ray's own storage holds only what Ray needs to watch over a group.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Sequence

import ray
from ray.exceptions import RayError, TaskCancelledError

from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.engine.observer import Observer
from kcframe.errors import Interrupted, TrainingError
from kcframe.recipe.schema import Recipe
from kcframe.run.backends.base import Backend, RunObserver, stages_failed
from kcframe.run.backends.ray.cluster import (
    ClusterError,
    check_shared,
    connect,
    in_short,
    lacking,
    resources_of_worker,
    storage_of_ray,
)
from kcframe.run.backends.ray.messages import Event, start_board
from kcframe.run.backends.ray.outcomes import WorkerGroups, reason
from kcframe.run.backends.ray.workers import run_in_task, run_in_worker_group
from kcframe.stages.base import Stage, Workers
from kcframe.storage.run_dir import RunDir

POLL = 0.2  # seconds between looks at the board
RAY_STATE = "ray"  # folder of Ray Train's own state, below the run directory
LONGEST_WAIT = 24 * 3600  # seconds that workers wait for the one that measures the network


class WorkersLost(ClusterError):
    """Stages lost their workers too often; nothing says that they cannot be trained."""


class RayBackend(Backend):
    """`execution: {backend: ray}`."""

    def run(self, stages: Sequence[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> None:
        if not stages:
            return
        connect(recipe.execution)
        check_shared(run_dir, recipe)
        try:
            _Run(stages, recipe, run_dir, observer).to_the_end()
        except RayError as error:
            raise ClusterError(
                f"the connection to the cluster was lost ({in_short(error)}); what is saved is kept: give "
                "the same command again to go on"
            ) from error


class _Run:
    """Some stages on their way, each started once those that it needs are finished."""

    def __init__(self, stages: Sequence[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver):
        self.recipe, self.run_dir, self.observer = recipe, run_dir, observer
        self.execution = recipe.execution
        self.stages = {stage.folder: stage for stage in stages}
        self.unfinished = set(self.stages)  # folders
        self.waiting = list(stages)  # for those that they need
        self.tasks: dict[ray.ObjectRef, Stage] = {}
        self.groups = WorkerGroups(self._fit)
        self.observers: dict[str, Observer] = {}
        self.failures: dict[str, str] = {}
        self.given_up: set[str] = set()  # stages that say themselves that another attempt mends nothing
        self.interrupted: list[str] = []
        self.stopped = False
        self.board = start_board()
        self.resources = resources_of_worker(self.execution)

    def to_the_end(self) -> None:
        """Start all, show what they post, and say what became of them."""
        logging.getLogger("ray.train").setLevel(logging.ERROR)
        if missing := lacking(self.resources, max(self._workers(s).least for s in self.stages.values())):
            self.observer.say(f"waiting for room in the cluster: asked for {missing}")
        try:
            self._start_ready()
            while self.tasks or self.groups.pending:
                if self.observer.should_stop():
                    self._stop()
                if not self.tasks:
                    time.sleep(POLL)
                ended = self._ended_tasks() | self.groups.ended()
                # Whatever a stage posted came before its end.
                for event in ray.get(self.board.take.remote()):
                    self._show(event)
                for stage, error in ended.items():
                    self._end(stage, error)
                self._start_ready()
        finally:
            for reference in self.tasks:
                ray.cancel(reference, force=True)
            self.groups.cancel()
            ray.kill(self.board)
        self._conclude()

    def _start_ready(self) -> None:
        if self.stopped:
            return
        for stage in self.waiting[:]:
            if not self.unfinished.isdisjoint(stage.needs):
                continue
            alone = self._workers(stage).alone
            # A group that waits beside tasks for room could wait until Ray gives it up. What stands first in
            # the plan goes first.
            if (self.groups.pending if alone else self.tasks) or stage.folder in self.failures:
                break
            self.waiting.remove(stage)
            if alone:
                self.tasks[self._task(stage)] = stage
            else:
                self.groups.start(stage)

    def _stop(self) -> None:
        """Ask what is at work for a checkpoint; what still waits for room is not waited for."""
        self.stopped = True
        # Said again and again: a board that started anew has not heard it.
        ray.get(self.board.ask_to_stop.remote())
        for reference, stage in list(self.tasks.items()):
            if stage.folder not in self.observers:
                ray.cancel(reference)
        self.groups.cancel()
        self.groups.leave([stage for stage in self.groups.pending if stage.folder not in self.observers])

    def _workers(self, stage: Stage) -> Workers:
        return stage.workers(self.execution)

    def _task(self, stage: Stage) -> ray.ObjectRef:
        wanted = dict(self.resources)
        cpus, gpus, memory = (wanted.pop(name, None) for name in ("CPU", "GPU", "memory"))
        # CUDA keeps the GPU that it saw first: a process that had one must not be used again.
        remote = (ray.remote(max_calls=1) if gpus else ray.remote)(run_in_task).options(
            num_cpus=cpus or 0,
            num_gpus=gpus or 0,
            memory=memory,
            resources=wanted,
            max_retries=self.execution.max_failures,
            retry_exceptions=True,
            name=str(stage),
        )
        return remote.remote(stage, self.recipe, self.run_dir.url, self.board)

    def _fit(self, stage: Stage) -> None:
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        workers = self._workers(stage)
        # A folder of its own: going on is the run directory's business, not Ray's.
        name = f"{stage.folder.partition('/')[0]}-{uuid.uuid4().hex[:12]}"
        own = f"{RAY_STATE}/{name}"
        path, filesystem = storage_of_ray(self.execution.storage or self.run_dir.path(own))
        trainer = TorchTrainer(
            run_in_worker_group,
            train_loop_config={
                "stage": stage,
                "recipe": self.recipe,
                "url": self.run_dir.url,
                "board": self.board,
            },
            torch_config=TorchConfig(timeout_s=LONGEST_WAIT),
            scaling_config=ScalingConfig(
                num_workers=workers.least if workers.least == workers.most else tuple(workers),
                resources_per_worker=self.resources,
                use_gpu=self.resources.get("GPU", 0) > 0,
            ),
            run_config=RunConfig(
                name=name,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=self.execution.max_failures),
            ),
        )
        try:
            trainer.fit()
        finally:
            if not self.execution.storage:
                # What it holds is of no use once the group has ended.
                self.run_dir.delete_folder(own)

    def _ended_tasks(self) -> dict[Stage, Exception | None]:
        if not self.tasks:
            return {}
        ended: dict[Stage, Exception | None] = {}
        ready, _ = ray.wait(list(self.tasks), num_returns=len(self.tasks), timeout=POLL)
        for reference in ready:
            stage = self.tasks.pop(reference)
            try:
                ray.get(reference)
                ended[stage] = None
            except RayError as error:
                ended[stage] = error
        return ended

    def _show(self, event: Event) -> None:
        folder, what, details = event
        stage = self.stages[folder]
        if what == "begin":
            if folder not in self.observers:
                self.observers[folder] = self.observer.begin(stage)
            return
        if what == "failed":
            if folder not in self.failures:
                self.observer.say(details)
            self.failures[folder] = details
            self.given_up.add(folder)
        elif what == "interrupted":
            self.interrupted.append(details)
        elif what == "step":
            self.observers[folder].step(*details)
        elif what == "said":
            self.observers[folder].say(details)
        elif what == "evaluated":
            epoch, per_vertical = details
            self.observers[folder].evaluated(epoch, Evaluation(per_vertical))

    def _end(self, stage: Stage, error: Exception | None) -> None:
        if isinstance(error, TaskCancelledError):
            return
        if error is not None:
            self.failures.setdefault(stage.folder, reason(error))
        elif stage.is_finished(self.run_dir):
            self.unfinished.discard(stage.folder)
            if stage.folder in self.observers:
                self.observer.end(stage)
        elif not self.stopped and not self.interrupted:
            self.failures.setdefault(stage.folder, "it ended without a result, and its words were lost")

    def _conclude(self) -> None:
        if self.failures:
            named = {str(self.stages[folder]): text for folder, text in self.failures.items()}
            blocked = 0 if self.stopped else len(self.waiting)
            kind = TrainingError if self.given_up & set(self.failures) else WorkersLost
            raise kind(stages_failed(named, len(self.stages), blocked))
        if self.interrupted:
            raise Interrupted(self.interrupted[0])
        missing = [stage for stage in self.stages.values() if stage.folder in self.unfinished]
        if missing:
            raise Interrupted(f"stopped before {missing[0]} began")
        if not self.execution.storage and not all(self._workers(s).alone for s in self.stages.values()):
            self.run_dir.delete_folder_if_empty(RAY_STATE)
