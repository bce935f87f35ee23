"""One network's training, from its first step (or its checkpoint) to its last."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from kcframe.engine.callbacks import Callbacks
from kcframe.engine.checkpoint import pack, unpack
from kcframe.engine.data.bad_images import BadImages
from kcframe.engine.data.batches import Batch, Plan, load_batches
from kcframe.engine.data.sampler import Sampler
from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.engine.loss.blocks import backward_by_block
from kcframe.engine.loss.closed_form import Workspace
from kcframe.engine.loss.pacing_checks import readings_of, temperatures_of, weights_of
from kcframe.engine.loss.targets import SlotIndex, SlotTargets, block_targets
from kcframe.engine.metrics_log import MetricsLog
from kcframe.engine.model import Student
from kcframe.engine.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate_at,
    restore_optimizer,
    set_learning_rate,
)
from kcframe.engine.progress import Smoothed
from kcframe.engine.teachers.routing import Router
from kcframe.engine.throughput import Throughput
from kcframe.engine.world import World
from kcframe.errors import Interrupted, TrainingError
from kcframe.interfaces.callback import StageInfo
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.pacing import Progress
from kcframe.recipe.schema import Train
from kcframe.storage.layout import CHECKPOINT
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy


class Listener(Protocol):
    """Told what happens while it happens; shows it to someone."""

    def step(self, step: int, num_steps: int, loss: float) -> None: ...

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None: ...

    def say(self, text: str) -> None: ...


@dataclass
class Job:
    """One network to train, with everything it learns from.

    name: for messages. folder: the stage's, below the run directory. settings: the recipe's part that
    decides it, for trackers. labels: of `images`, in the
    taxonomy's ids. indices: int64 [n], the images to learn from. router: None if no teacher is asked.
    evaluation: measures the network as it is. max_bad_fraction: of the split, that may be unreadable.
    absent: of `images`, in the taxonomy's ids; None: nothing is unknown.
    """

    name: str
    folder: str
    settings: Mapping[str, Any]
    student: Student
    objective: Objective
    taxonomy: Taxonomy
    images: ImageSet
    labels: Labels
    indices: Tensor
    router: Router | None
    train: Train
    seed: int
    evaluation: Callable[[], Evaluation]
    max_bad_fraction: float = 0.0
    absent: Labels | None = None


class Trainer:
    """Runs a Job. `run` returns when it is finished; a checkpoint lets another Trainer go on from any
    saved step to exactly the same result."""

    def __init__(
        self,
        job: Job,
        run_dir: RunDir,
        world: World,
        listener: Listener,
        should_stop: Callable[[], bool] = lambda: False,
        loader_workers: int = 0,
        callbacks: Callbacks | None = None,
    ):
        """loader_workers: processes that load pictures ahead; 0: none, this one loads them."""
        self.loader_workers = loader_workers
        self.callbacks = callbacks or Callbacks((), listener.say)
        self.job, self.run_dir, self.world, self.listener = job, run_dir, world, listener
        self.should_stop = should_stop
        self.student = job.student.to(world.device)
        self.objective = job.objective.to(world.device)
        self.optimizer = build_optimizer(self.student, job.train)
        self.sampler = Sampler(job.indices, job.train.batch_size, job.seed)
        self.index = SlotIndex(job.taxonomy, world.device)
        if self.sampler.smallest_batch < world.size:
            raise TrainingError(
                f"{job.name}: its batches are as small as {self.sampler.smallest_batch} of its "
                f"{len(job.indices)} images, too few for {world.size} workers: use fewer workers, or a "
                f"larger train.batch_size than {job.train.batch_size}"
            )
        self.num_steps = self.sampler.batches_per_epoch * job.train.epochs
        self.step = 0
        self.smoothed = Smoothed(job.taxonomy.num_verticals)
        self.checkpoint_name = f"{job.folder}/{CHECKPOINT}"
        self.throughput = Throughput()
        self.workspace = Workspace()
        self.bad = BadImages(len(job.images), job.max_bad_fraction)

    def run(self) -> Evaluation | None:
        """Train to the end and measure the finished network (on rank 0; None elsewhere).

        Raises Interrupted after saving, TrainingError if the loss is not finite.
        """
        self._resume()
        self.log = MetricsLog(self.run_dir, self.job.folder, self.step)
        self.callbacks.tell("begin", self._about())
        finished = False
        try:
            found = self._to_the_end()
            finished = True
        finally:
            self.callbacks.tell("end", finished)
        return found

    def _to_the_end(self) -> Evaluation | None:
        found = None
        job, world = self.job, self.world
        skips = job.max_bad_fraction > 0
        plan = Plan(job.images, job.labels, self.sampler, job.seed, world.rank, world.size, skips, job.absent)
        batches = load_batches(plan, range(self.step, self.num_steps), self.loader_workers)
        train, per_epoch = self.job.train, self.sampler.batches_per_epoch
        self.student.train()
        while self.step < self.num_steps:
            began = time.perf_counter()
            batch = next(batches)
            self.bad.add(batch.bad, len(batch.images))
            terms = self.one_step(batch)
            loss = sum(float(term.sum()) for term in terms.values())
            self.throughput.add(batch.whole, time.perf_counter() - began)
            if not math.isfinite(loss):
                self._diverged(terms)
            self.listener.step(self.step, self.num_steps, loss)
            if self.step % train.log_every == 0 or self.step == self.num_steps:
                self._note("step", self.step / per_epoch, self._readings(terms, loss))
            end_of_epoch = self.step % per_epoch == 0
            if self.world.rank == 0 and end_of_epoch and train.evaluates_after(self.step // per_epoch):
                found = self._evaluate()
                self.listener.evaluated(self.step // per_epoch, found)
                self._note("evaluation", self.step // per_epoch, found.summary())
            stop = self.world.any(self.should_stop())
            due = train.checkpoint_every and self.step % train.checkpoint_every == 0
            if end_of_epoch or due or stop:
                # Before the checkpoint: what it has passed is listed.
                self.bad.write(self.run_dir, job.folder, world.rank)
                self.bad.count(world)
            if self.world.rank == 0 and (end_of_epoch or due or stop):
                self.log.flush()
                self.run_dir.write(self.checkpoint_name, pack(self.state()))
            if stop and self.step < self.num_steps:
                raise Interrupted(f"stopped at step {self.step} of {self.num_steps} of {self.job.name}")
        if self.world.rank:
            return None
        # None if all that was left to do after an interruption is this.
        return found or self._evaluate()

    def _evaluate(self) -> Evaluation:
        """Measures the network as it is; how often changes nothing, whatever random numbers it takes."""
        devices = [self.world.device] if self.world.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            return self.job.evaluation()

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

    def one_step(self, batch: Batch) -> dict[str, Tensor]:
        """Learn from one batch; each term of the loss, float32 [M]."""
        job, world = self.job, self.world
        images, labels = batch.images.to(world.device, non_blocking=True), batch.labels
        hard, soft = self._listed(labels), None
        absent = None if batch.absent is None else self._listed(batch.absent)
        with self._autocast():
            pacing, progress = self.student.head.pacing, self.progress()
            weights, temperatures = weights_of(pacing, progress), temperatures_of(pacing, progress)
            if job.router is not None:
                scale = None if temperatures is None else self.index.by_class(temperatures)
                said = job.router(images, labels, scale, batch.epoch, batch.indices)
                soft = SlotTargets(self.index, len(labels), *said)
            self.optimizer.zero_grad(set_to_none=True)
            set_learning_rate(self.optimizer, learning_rate_at(job.train, self.step, self.num_steps))
            outcome = backward_by_block(
                self.student.head,
                self.objective,
                self.student.features(images),
                lambda vertical: block_targets(hard, soft, vertical, temperatures, absent),
                weights,
                batch.whole,
                self.workspace,
                None if job.train.gradient_filter == "off" else job.train.gradient_filter,
            )
        # Each worker divided by the whole batch, so the sum is the whole batch's mean.
        world.sum(p.grad for p in self.student.parameters() if p.grad is not None)
        terms = outcome.terms
        world.sum(terms.values())
        clip_gradients(self.student, job.train.clip_gradient_norm)
        self.optimizer.step()
        self.step += 1
        self.smoothed.add(torch.stack(list(terms.values())).sum(0), outcome.tallies, world)
        return terms

    def _listed(self, labels: Labels) -> SlotTargets:
        """As targets: how sure each of them is."""
        listed = (t.to(self.world.device) for t in (labels.rows(), labels.classes, labels.sure()))
        return SlotTargets(self.index, len(labels), *listed)

    def _autocast(self):
        if self.job.train.precision == "bfloat16":
            return torch.autocast(self.world.device.type, dtype=torch.bfloat16)
        return nullcontext()

    def progress(self) -> Progress:
        """Where training stands, for pacing."""
        epoch = self.step / self.sampler.batches_per_epoch
        smoothed, told = self.smoothed, self.student.head.pacing.uses_accuracy
        return Progress(
            self.step,
            self.num_steps,
            epoch,
            self.job.train.epochs,
            smoothed.loss.clone(),
            smoothed.accuracy if told else None,
            smoothed.teacher_accuracy if told else None,
        )

    def _readings(self, terms: dict[str, Tensor], loss: float) -> dict[str, Any]:
        pacing, smoothed = self.student.head.pacing, self.smoothed
        paced = readings_of(pacing)
        if pacing.uses_accuracy:
            paced |= {"accuracy": smoothed.accuracy, "teacher_accuracy": smoothed.teacher_accuracy}
        return {
            "loss": loss,
            "terms": {name: float(term.sum()) for name, term in terms.items()},
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "vertical_loss": _plain(smoothed.loss),
            **{name: _plain(values) for name, values in paced.items()},
        }

    def _diverged(self, terms: dict[str, Tensor]) -> None:
        bad = {
            self.job.taxonomy.verticals[v]
            for term in terms.values()
            for v in (~term.isfinite()).nonzero().flatten().tolist()
        }
        raise TrainingError(
            f"{self.job.name}: the loss is not finite at step {self.step} (in {', '.join(sorted(bad)[:5])}); "
            "the last checkpoint is kept. Lower train.learning_rate, now "
            f"{self.job.train.learning_rate}, or set train.clip_gradient_norm"
        )

    # -- checkpoint -------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        router = self.job.router
        return {
            "step": self.step,
            "model": self.student.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "smoothed": self.smoothed.state(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if self.world.device.type == "cuda" else None,
            "routed": [router.images_routed, router.teacher_images] if router else None,
        }

    def _resume(self) -> None:
        if not self.run_dir.exists(self.checkpoint_name):
            return
        self.bad.read(self.run_dir, self.job.folder, self.world.rank, self.world.size)
        saved = unpack(self.run_dir.read(self.checkpoint_name), self.run_dir.shown(self.checkpoint_name))
        self.student.load_state_dict(saved["model"])
        self.objective.load_state_dict(saved["objective"])
        restore_optimizer(self.optimizer, saved["optimizer"])
        self.step = saved["step"]
        self.smoothed.restore(saved["smoothed"])
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"] is not None and self.world.device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"])
        if self.job.router is not None and saved["routed"]:
            self.job.router.images_routed, self.job.router.teacher_images = saved["routed"]


def _plain(values: Tensor) -> list[float | None]:
    # JSON has no nan: a vertical without any reading yet has none.
    return [round(value, 6) if math.isfinite(value) else None for value in values.tolist()]
