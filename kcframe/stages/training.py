"""What specialists and student arms have in common: a network is trained, measured and saved."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kcframe.assembly.source import transform_of
from kcframe.engine.checkpoint import pack_weights
from kcframe.engine.data.split import Split, learned_and_measured
from kcframe.engine.evaluation.evaluate import Evaluation, Evaluator, Settings, as_json
from kcframe.engine.model import Student, count_parameters
from kcframe.engine.teachers.routing import Router
from kcframe.engine.trainer import Job, Loop, Trainer
from kcframe.errors import DataError
from kcframe.interfaces.data import DataSource
from kcframe.interfaces.objective import Objective
from kcframe.recipe.schema import Recipe, Train
from kcframe.stages.base import Reads, Stage
from kcframe.stages.context import Context
from kcframe.storage.layout import CHECKPOINT, RESULT, WEIGHTS
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

EVALUATION_BATCH = 512


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A network and what it learns with. about: what its file says of it, beside its pictures.

    seed: of its batches and augmentation. router: None if no teacher is asked.
    """

    student: Student
    objective: Objective
    taxonomy: Taxonomy
    seed: int
    about: dict[str, Any] = field(repr=False)
    router: Router | None = None


class TrainingStage(Stage):
    """Trains one network. A subclass says which, and of which classes."""

    @abstractmethod
    def subject(self, context: Context) -> Subject:
        """The network, before its first step."""

    @abstractmethod
    def train(self, recipe: Recipe) -> Train:
        """How it is trained."""

    @abstractmethod
    def class_ids(self, taxonomy: Taxonomy) -> Tensor:
        """int64 [N]: each class's id in this network, -1 if it has no output for it."""

    @property
    @abstractmethod
    def reader(self) -> str:
        """Under which name `kcframe describe` counts the pictures that it reads."""

    def samples(self, evaluation: Evaluation, context: Context) -> list[dict[str, Any]]:
        """What the network says of a few test images, for the report."""
        return []

    def run(self, context: Context) -> None:
        callbacks = context.callbacks()
        learned, measured = self.splits(context.recipe, context.source)
        if not len(learned):
            raise DataError(f"{self}: the train split has no image of its classes")
        subject = self.subject(context)
        settings = Settings(EVALUATION_BATCH, context.world.device)
        job = Job(
            name=str(self),
            folder=self.folder,
            settings=self.settings(context.recipe),
            student=subject.student,
            objective=subject.objective,
            taxonomy=subject.taxonomy,
            split=learned,
            router=subject.router,
            train=self.train(context.recipe),
            seed=subject.seed,
            evaluator=Evaluator(measured, subject.taxonomy, settings),
        )
        execution = context.recipe.execution
        loop = Loop(execution.loader_workers, execution.images_per_pass)
        trainer = Trainer(job, context.run_dir, context.world, context.observer, callbacks, loop=loop)
        evaluation = trainer.run()
        if evaluation is not None:
            self._finish(context, subject, trainer, evaluation)

    def is_finished(self, run_dir: RunDir) -> bool:
        """Its weights must be there whole, too. What is in them is checked when they are loaded."""
        if not super().is_finished(run_dir):
            return False
        result, size = run_dir.read_json(f"{self.folder}/{RESULT}"), run_dir.size(f"{self.folder}/{WEIGHTS}")
        # An earlier kcframe did not write down how large they are.
        written = result.get("weights_bytes", size) if isinstance(result, dict) else size
        return bool(size) and written == size

    def splits(self, recipe: Recipe, source: DataSource) -> tuple[Split, Split]:
        """What it learns from and what it is measured on, in its own class ids."""
        class_ids = self.class_ids(source.taxonomy)
        return learned_and_measured(source, recipe.evaluation, recipe.seed, class_ids)

    def _finish(self, context: Context, subject: Subject, trainer: Trainer, evaluation: Evaluation) -> None:
        run_dir, source, router = context.run_dir, context.source, subject.router
        about = {
            **subject.about,
            "channels": source.channels,
            "image_size": source.image_size,
            "transform": transform_of(source).model_dump(),
        }
        with trainer.finished_network() as network:
            weights = pack_weights(network.state_dict(), about)
        run_dir.write(f"{self.folder}/{WEIGHTS}", weights)
        run_dir.write_json(
            f"{self.folder}/{RESULT}",
            {
                "stage": str(self),
                "weights_bytes": len(weights),
                "parameters": count_parameters(subject.student),
                "train_images": len(trainer.job.split),
                "steps": trainer.num_steps,
                "images_per_second": trainer.throughput.images_per_second,
                "images_routed": router.images_routed if router else 0,
                "teacher_images": router.teacher_images if router else 0,
                "bad_images": {"train": trainer.bad.total, "test": len(evaluation.bad)},
                **as_json(evaluation),
                "samples": self.samples(evaluation, context),
            },
        )
        run_dir.delete(f"{self.folder}/{CHECKPOINT}")

    def reads(self, recipe: Recipe, source: DataSource) -> Iterable[Reads]:
        learned, measured = self.splits(recipe, source)
        train = self.train(recipe)
        evaluations = sum(train.evaluates_after(epoch) for epoch in range(1, train.epochs + 1))
        measured_split = "train" if measured.images is source.split("train") else "test"
        yield Reads(self.reader, "train", learned.indices, train.epochs)
        yield Reads(self.reader, measured_split, measured.indices, evaluations)
