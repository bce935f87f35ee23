"""One network's training, from its first step (or its checkpoint) to its last: epochs, evaluations,
checkpoints, stops. What a step does: `step`. What a checkpoint holds: `state`."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kcframe.engine import state
from kcframe.engine.callbacks import Callbacks
from kcframe.engine.checkpoint import pack, unpack
from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.data.batches import Batch, BatchPlan, load_batches
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.data.split import Split
from kcframe.engine.divergence import refuse_broken_weights, refuse_loss
from kcframe.engine.ema import AveragedWeights
from kcframe.engine.evaluation.evaluate import Evaluation, Evaluator
from kcframe.engine.loss.blocks import Outcome
from kcframe.engine.loss.pacing_checks import readings_of
from kcframe.engine.metrics_log import MetricsLog
from kcframe.engine.model import Student
from kcframe.engine.observer import Observer, Silent
from kcframe.engine.optimizer import build_optimizer, learning_rate_at
from kcframe.engine.progress import Smoothed
from kcframe.engine.step import TrainStep
from kcframe.engine.teachers.routing import Router
from kcframe.engine.throughput import Throughput
from kcframe.engine.world import World
from kcframe.errors import Interrupted, TrainingError
from kcframe.interfaces.callback import StageInfo
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.schema import Train
from kcframe.storage.layout import CHECKPOINT
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True, kw_only=True)
class Job:
    """One network to train, with everything that it learns from.

    name: for messages. folder: the stage's, below the run directory. settings: the recipe's part that
    decides it, for trackers. split: what it learns from, in the taxonomy's ids. router: None if no teacher is
    asked. evaluator: what measures it; None: nothing does.
    """

    name: str
    folder: str
    student: Student
    objective: Objective
    taxonomy: Taxonomy
    split: Split
    train: Train
    seed: int
    router: Router | None = None
    evaluator: Evaluator | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Loop:
    """How this process goes through a job; nothing here is part of a stage's settings.

    loader_workers: processes that load pictures ahead; 0: none. images_per_pass: see
    `execution.images_per_pass`.
    """

    loader_workers: int = 0
    images_per_pass: int | None = None


class Trainer:
    """Runs a Job. `run` returns when it is finished; a checkpoint lets another Trainer go on from any
    saved step to exactly the same result."""

    def __init__(
        self,
        job: Job,
        run_dir: RunDir,
        world: World,
        observer: Observer | None = None,
        callbacks: Callbacks | None = None,
        *,
        loop: Loop | None = None,
    ):
        self.job, self.run_dir, self.world, self.loop = job, run_dir, world, loop or Loop()
        self.observer = observer or Silent()
        self.callbacks = callbacks or Callbacks((), self.observer.say)
        self.student = job.student.to(world.device)
        self.sampler = Sampler(job.split.indices, job.train.batch_size, job.seed)
        self._refuse_too_many_workers()
        self.num_steps = self.sampler.batches_per_epoch * job.train.epochs
        self.step = 0
        self._whole_at = -1  # the step after which all weights were last seen to be finite
        optimizer, objective = build_optimizer(self.student, job.train), job.objective.to(world.device)
        self.one_step = TrainStep(
            self.student,
            objective,
            optimizer,
            job.router,
            taxonomy=job.taxonomy,
            train=job.train,
            world=world,
            images_per_pass=self.loop.images_per_pass,
        )
        self.ema = None if job.train.ema is None else AveragedWeights(self.student, job.train.ema)
        self.smoothed = Smoothed(job.taxonomy.num_verticals)
        self.parts: dict[str, state.Part | None] = {
            "model": state.Module(self.student),
            "ema": self.ema,
            "objective": state.Module(objective),
            "optimizer": state.Optimizer(optimizer),
            "smoothed": self.smoothed,
            "random": state.RandomNumbers(torch.device("cpu")),
            "random_cuda": state.RandomNumbers(world.device) if world.device.type == "cuda" else None,
            "routed": job.router,
        }
        self.checkpoint_name = f"{job.folder}/{CHECKPOINT}"
        self.throughput = Throughput()
        self.bad = BadImages(len(job.split.images), job.split.max_bad_fraction)

    def _refuse_too_many_workers(self) -> None:
        smallest, job = self.sampler.smallest_batch, self.job
        if smallest < self.world.size:
            raise TrainingError(
                f"{job.name}: its batches are as small as {smallest} of its {len(job.split)} images, too few "
                f"for {self.world.size} workers: use fewer workers, or a larger train.batch_size than "
                f"{job.train.batch_size}"
            )

    def run(self) -> Evaluation | None:
        """Train to the end and measure the finished network (on rank 0; None elsewhere).

        Raises Interrupted after saving, TrainingError if the loss is not finite.
        """
        self._resume()
        self.log = MetricsLog(self.run_dir, self.job.folder, self.step)
        self.callbacks.tell("begin", self._about())
        finished = False
        try:
            evaluation = self._to_the_end()
            finished = True
        finally:
            self.callbacks.tell("end", finished)
        return evaluation

    @contextmanager
    def finished_network(self) -> Iterator[Student]:
        """The network that is measured and saved; with train.ema its weights are the average."""
        with nullcontext() if self.ema is None else self.ema.applied():
            yield self.student

    def _to_the_end(self) -> Evaluation | None:
        evaluation = None
        self.student.train()
        for batch, began in self._batches():
            outcome, loss = self.learn(batch, began)
            if self._is_due_to_log():
                self._note("step", self.step / self.sampler.batches_per_epoch, self._readings(outcome, loss))
            if self._is_due_to_evaluate():
                evaluation = self._evaluate_epoch()
            stop = self.world.any(self.observer.should_stop())
            if stop or self._is_due_to_save():
                self._save()
            if stop and self.step < self.num_steps:
                raise Interrupted(f"stopped at step {self.step} of {self.num_steps} of {self.job.name}")
        if self.world.rank or self.job.evaluator is None:
            return None
        # None if all that was left to do after an interruption is this.
        return evaluation or self._evaluate()

    def _batches(self) -> Iterator[tuple[Batch, float]]:
        """The batches that are left, each with the time at which this process began to wait for it."""
        job, world = self.job, self.world
        plan = BatchPlan(job.split, self.sampler, job.seed, world.rank, world.size)
        batches = load_batches(plan, range(self.step, self.num_steps), self.loop.loader_workers)
        while self.step < self.num_steps:
            began = time.perf_counter()
            yield next(batches), began

    def learn(self, batch: Batch, began: float) -> tuple[Outcome, float]:
        """One step, and its loss. began: when this process began to wait for the batch, by perf_counter.

        Raises TrainingError if the loss is not finite.
        """
        self.bad.add(batch.bad, len(batch.images))
        rate = learning_rate_at(self.job.train, self.step, self.num_steps)
        outcome = self.one_step(batch, self.progress(), rate)
        if self.ema is not None:
            self.ema.update(self.step)
        self.step += 1
        self.smoothed.add(outcome.loss_by_vertical(), outcome.tallies, self.world)
        loss = outcome.loss()
        self.throughput.add(batch.whole, time.perf_counter() - began)
        if not math.isfinite(loss):
            verticals = self.job.taxonomy.verticals
            refuse_loss(self.job.name, outcome.terms, verticals, self.step, self.job.train)
        self.observer.step(self.step, self.num_steps, loss)
        return outcome, loss

    # -- what is due after a step -------------------------------------------------------------------

    @property
    def _ends_epoch(self) -> bool:
        return self.step % self.sampler.batches_per_epoch == 0

    @property
    def _epoch(self) -> int:
        """Epochs finished."""
        return self.step // self.sampler.batches_per_epoch

    def _is_due_to_log(self) -> bool:
        return self.step % self.job.train.log_every == 0 or self.step == self.num_steps

    def _is_due_to_evaluate(self) -> bool:
        due = self._ends_epoch and self.job.train.evaluates_after(self._epoch)
        return due and self.world.rank == 0 and self.job.evaluator is not None

    def _is_due_to_save(self) -> bool:
        every = self.job.train.checkpoint_every
        return self._ends_epoch or (every is not None and self.step % every == 0)

    # -- evaluation and metrics ---------------------------------------------------------------------

    def _evaluate_epoch(self) -> Evaluation:
        self._refuse_broken_weights()
        evaluation = self._evaluate()
        self.observer.evaluated(self._epoch, evaluation)
        self._note("evaluation", self._epoch, evaluation.summary())
        return evaluation

    def _evaluate(self) -> Evaluation:
        """Measures the network; how often changes nothing, whatever random numbers it takes."""
        assert self.job.evaluator is not None  # nobody asks for figures where nothing gives them
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices), self.finished_network() as network:
            try:
                return self.job.evaluator(network)
            except TrainingError as error:
                raise TrainingError(f"{self.job.name}: after step {self.step}: {error}") from None

    def _note(self, kind: str, epoch: float, readings: dict[str, Any]) -> None:
        line = {"kind": kind, "step": self.step, "epoch": epoch, **readings}
        self.log.add(**line)
        self.callbacks.tell("step" if kind == "step" else "evaluated", line)

    def _about(self) -> StageInfo:
        job = self.job
        return StageInfo(
            name=job.name,
            folder=job.folder,
            run_dir=self.run_dir.url,
            settings=job.settings,
            verticals=job.taxonomy.verticals,
            step=self.step,
            num_steps=self.num_steps,
        )

    def progress(self) -> Progress:
        """Where training stands, for pacing."""
        smoothed, told = self.smoothed, self.student.head.pacing.uses_accuracy
        return Progress(
            step=self.step,
            num_steps=self.num_steps,
            epoch=self.step / self.sampler.batches_per_epoch,
            num_epochs=self.job.train.epochs,
            loss=smoothed.loss.clone(),
            accuracy=smoothed.accuracy if told else None,
            teacher_accuracy=smoothed.teacher_accuracy if told else None,
        )

    def _readings(self, outcome: Outcome, loss: float) -> dict[str, Any]:
        pacing, smoothed = self.student.head.pacing, self.smoothed
        paced = readings_of(pacing)
        if pacing.uses_accuracy:
            paced |= {"accuracy": smoothed.accuracy, "teacher_accuracy": smoothed.teacher_accuracy}
        return {
            "loss": loss,
            "terms": {name: float(term.sum()) for name, term in outcome.terms.items()},
            "learning_rate": self.one_step.learning_rate,
            "vertical_loss": _plain(smoothed.loss),
            **{name: _plain(values) for name, values in paced.items()},
        }

    def _refuse_broken_weights(self) -> None:
        """Looked at once a step, before the network is measured or saved."""
        if self._whole_at != self.step:
            refuse_broken_weights(self.job.name, self.student, self.step, self.job.train)
            self._whole_at = self.step

    # -- checkpoint ---------------------------------------------------------------------------------

    def _save(self) -> None:
        self._refuse_broken_weights()
        # Before the checkpoint: what it has passed is listed.
        self.bad.write(self.run_dir, self.job.folder, self.world.rank)
        self.bad.count(self.world)
        if self.world.rank == 0:
            self.log.flush()
            self.run_dir.write(self.checkpoint_name, pack({"step": self.step, **state.save(self.parts)}))

    def _resume(self) -> None:
        if not self.run_dir.exists(self.checkpoint_name):
            return
        self.bad.read(self.run_dir, self.job.folder, self.world.rank, self.world.size)
        saved = unpack(self.run_dir.read(self.checkpoint_name), self.run_dir.shown(self.checkpoint_name))
        self.step = saved["step"]
        if missing := state.restore(self.parts, saved):
            self.observer.say(
                f"its checkpoint was written by an older kcframe: it has no {', '.join(missing)}"
            )


def _plain(values: Tensor) -> list[float | None]:
    # JSON has no nan: a vertical without any reading yet has none.
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]
