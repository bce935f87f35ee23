"""What a stage does, wherever it runs: train one network, measure it, keep it.

A stage is named by plain data, so that it can be sent to another process; everything it needs is
rebuilt there from the resolved recipe.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from kcframe.build.networks import build_specialist, build_student
from kcframe.build.plugins import build_callbacks, build_objective
from kcframe.build.source import build_source, transform_of
from kcframe.build.teacher_cache import asking, keep_outputs, kept_router, outputs_of, view_of
from kcframe.build.teachers import build_teachers, teacher_sources
from kcframe.engine.callbacks import Callbacks
from kcframe.engine.checkpoint import pack_weights
from kcframe.engine.data.split import parts_of, samples_of
from kcframe.engine.evaluation.evaluate import Evaluation, Settings, as_json, evaluate
from kcframe.engine.model import Student, count_parameters
from kcframe.engine.teachers.routing import Router
from kcframe.engine.trainer import Job, Listener, Trainer
from kcframe.engine.world import World
from kcframe.errors import DataError, RunDirError
from kcframe.interfaces.data import DataSource
from kcframe.recipe.differences import differences
from kcframe.recipe.schema import PluginRef, Recipe, Train
from kcframe.storage.layout import (
    CHECKPOINT,
    RESULT,
    STAGE,
    WEIGHTS,
    arm_folder,
    outputs_folder,
    specialist_folder,
)
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

EVALUATION_BATCH = 512
NO_EFFECT = {"log_every", "evaluate_every", "checkpoint_every"}  # on what a network becomes


@dataclass(frozen=True)
class Stage:
    """kind and name of a stage: a vertical's specialist, an arm, or a piece "I of N" of the work of keeping
    what teachers say."""

    kind: Literal["specialist", "outputs", "arm"]
    name: str

    @property
    def folder(self) -> str:
        """Below the run directory."""
        folders = {"specialist": specialist_folder, "outputs": outputs_folder, "arm": arm_folder}
        return folders[self.kind](self.name)

    def __str__(self) -> str:
        return f"{'teacher outputs' if self.kind == 'outputs' else self.kind} {self.name}"


def settings_of(stage: Stage, recipe: Recipe) -> dict[str, Any]:
    """The part of a recipe that decides what this stage produces."""
    settings: dict[str, Any] = {"seed": recipe.seed, "data": recipe.data.model_dump(mode="json")}
    if recipe.evaluation.split != "test":
        settings["evaluation"] = recipe.evaluation.model_dump(mode="json")
    if stage.kind == "specialist":
        settings["specialists"] = recipe.specialists.model_dump(mode="json")
        _forget_no_effect(settings["specialists"]["train"])
        return settings
    spec = recipe.arms[stage.name]
    settings["arm"] = spec.model_dump(mode="json")
    _forget_no_effect(settings["arm"]["train"])
    sources = teacher_sources(spec)
    if not sources:
        del settings["arm"]["teachers"]
    if any(source.needs_specialists for source in sources):
        settings["specialists"] = settings_of(Stage("specialist", ""), recipe)["specialists"]
    return settings


def _forget_no_effect(train: dict[str, Any]) -> None:
    for name in NO_EFFECT:
        train.pop(name, None)


def fingerprint(settings: dict[str, Any]) -> str:
    """A short hash of a stage's settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def refuse_changes(
    run_dir: RunDir, what: str, before: dict[str, Any], now: dict[str, Any], to_delete: str
) -> None:
    """RunDirError if the run directory holds `what` with other settings than now, naming each difference."""
    if fingerprint(before) == fingerprint(now):
        return
    changes = [f"  {path}: {old!r} -> {new!r}" for path, old, new in differences(before, now)]
    raise RunDirError(
        f"{run_dir}: holds {what} with other settings:\n"
        + "\n".join(changes[:8])
        + f"\ngive another --run-dir, or delete {to_delete} to begin anew"
    )


def mark(stage: Stage, recipe: Recipe, run_dir: RunDir) -> None:
    """Write down with which settings a stage is begun."""
    settings = settings_of(stage, recipe)
    about = {"stage": str(stage), "fingerprint": fingerprint(settings), "settings": settings}
    run_dir.write_json(f"{stage.folder}/{STAGE}", about)


def run_stage(
    stage: Stage,
    recipe: Recipe,
    run_dir: RunDir,
    world: World,
    listener: Listener,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train (or go on training) a stage's network and write its weights and result; or keep what teachers
    say."""
    source = build_source(recipe)
    if stage.kind == "outputs":
        _outputs(stage, recipe, source, run_dir, world, listener, should_stop)
        return
    work = (
        _specialist(stage, recipe, source, world)
        if stage.kind == "specialist"
        else _arm(stage, recipe, source, run_dir, world, listener, should_stop)
    )
    # One process of a worker group is enough to tell.
    callbacks = Callbacks(() if world.rank else build_callbacks(recipe), listener.say)
    trainer = Trainer(
        work.job, run_dir, world, listener, should_stop, recipe.execution.loader_workers, callbacks
    )
    found = trainer.run()
    if found is None:
        return
    run_dir.write(f"{stage.folder}/{WEIGHTS}", pack_weights(work.job.student.state_dict(), work.about))
    router = work.job.router
    run_dir.write_json(
        f"{stage.folder}/{RESULT}",
        {
            "stage": str(stage),
            "parameters": count_parameters(work.job.student),
            "train_images": len(work.job.indices),
            "steps": trainer.num_steps,
            "images_per_second": trainer.throughput.images_per_second,
            "images_routed": router.images_routed if router else 0,
            "teacher_images": router.teacher_images if router else 0,
            "bad_images": {"train": trainer.bad.total, "test": len(found.bad)},
            **as_json(found),
            "samples": work.samples(found) if work.samples else [],
        },
    )
    run_dir.delete(f"{stage.folder}/{CHECKPOINT}")


@dataclass
class _Work:
    job: Job
    about: dict[str, Any]
    samples: Callable[[Evaluation], list[dict[str, Any]]] | None = None


def _specialist(stage: Stage, recipe: Recipe, source: DataSource, world: World) -> _Work:
    vertical = source.taxonomy.verticals.index(stage.name)
    taxonomy = source.taxonomy.only(vertical)
    new_ids = classes_of(stage, source.taxonomy)
    spec = recipe.specialists
    # Each specialist has its own seed: else all of them would start alike.
    seed = recipe.seed * 10_007 + vertical + 1
    torch.manual_seed(seed)
    student = build_specialist(spec, source.channels, source.image_size, taxonomy.num_classes)
    objective = PluginRef(name="hard-bce")
    job = _job(stage, student, objective, spec.train, seed, recipe, source, taxonomy, new_ids, world)
    about = {
        "kind": "specialist",
        "vertical": stage.name,
        "backbone": spec.backbone.model_dump(mode="json"),
        "channels": source.channels,
        "image_size": source.image_size,
        "transform": transform_of(source).model_dump(),
        "classes": list(taxonomy.classes),
    }
    return _Work(job, about)


def _outputs(
    stage: Stage,
    recipe: Recipe,
    source: DataSource,
    run_dir: RunDir,
    world: World,
    listener: Listener,
    should_stop: Callable[[], bool],
) -> None:
    number, pieces = (int(text) for text in stage.name.split(" of "))
    outputs = outputs_of(recipe, source, run_dir, asking(recipe))
    written = keep_outputs(
        recipe,
        outputs,
        view_of(recipe, source),
        world,
        (number - 1, pieces),
        lambda done, every: listener.step(done, every, math.nan),
        should_stop,
    )
    result = {"stage": str(stage), "written": written, "kept": outputs.listed()}
    run_dir.write_json(f"{stage.folder}/{RESULT}", result)


def _arm(
    stage: Stage,
    recipe: Recipe,
    source: DataSource,
    run_dir: RunDir,
    world: World,
    listener: Listener,
    should_stop: Callable[[], bool],
) -> _Work:
    spec, taxonomy = recipe.arms[stage.name], source.taxonomy
    # All arms start from the same seed and see the same pictures: they differ in what they name.
    torch.manual_seed(recipe.seed)
    student = build_student(spec, source.channels, source.image_size, taxonomy)
    everything = classes_of(stage, taxonomy)
    job = _job(
        stage, student, spec.objective, spec.train, recipe.seed, recipe, source, taxonomy, everything, world
    )
    if job.objective.uses_teachers and recipe.teacher_cache is not None:
        job.router = kept_router(
            recipe,
            stage.name,
            job.objective,
            source,
            run_dir,
            world,
            lambda done, every: listener.step(done, every, math.nan),
            listener.say,
            should_stop,
        )
    elif job.objective.uses_teachers:
        teachers = build_teachers(spec, source, run_dir, recipe.specialists is not None)
        job.router = Router(
            teachers, taxonomy.num_classes, job.objective.soften, job.objective.num_kept, world.device
        )
    about = {
        "kind": "student",
        "arm": stage.name,
        "student": spec.model_dump(mode="json"),
        "channels": source.channels,
        "image_size": source.image_size,
        "transform": transform_of(source).model_dump(),
    }
    on_test = recipe.evaluation.split == "test"
    return _Work(job, about, (lambda found: samples_of(found, source)) if on_test else None)


def _job(
    stage: Stage,
    student: Student,
    objective: PluginRef,
    train: Train,
    seed: int,
    recipe: Recipe,
    source: DataSource,
    taxonomy: Taxonomy,
    new_ids: Tensor,
    world: World,
) -> Job:
    train_part, test_part = parts_of(recipe, source, new_ids)
    if not len(train_part.indices):
        raise DataError(f"{stage}: the train split has no image of its classes")
    settings = Settings(EVALUATION_BATCH, world.device, source.max_bad_fraction)
    measured = test_part.labels.take(test_part.indices)
    known = None if test_part.absent is None else test_part.absent.take(test_part.indices)
    return Job(
        name=str(stage),
        folder=stage.folder,
        settings=settings_of(stage, recipe),
        student=student,
        objective=build_objective(objective),
        taxonomy=taxonomy,
        images=train_part.images,
        labels=train_part.labels,
        indices=train_part.indices,
        router=None,
        train=train,
        seed=seed,
        evaluation=lambda: evaluate(
            student, test_part.images, measured, test_part.indices, taxonomy, settings, known
        ),
        max_bad_fraction=source.max_bad_fraction,
        absent=train_part.absent,
    )


def classes_of(stage: Stage, taxonomy: Taxonomy) -> Tensor:
    """int64 [N]: each class's id in a stage, -1 if it is not the stage's."""
    if stage.kind == "arm":
        return torch.arange(taxonomy.num_classes)
    return torch.from_numpy(taxonomy.local_ids(taxonomy.verticals.index(stage.name)))
