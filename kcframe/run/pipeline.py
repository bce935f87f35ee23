"""The stages of a run, in order: specialists, student arms, results, report. A finished stage is kept."""

from __future__ import annotations

import io
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import yaml

from kcframe.build.plugins import build_objective
from kcframe.build.source import build_source
from kcframe.build.teacher_cache import asking, check_teacher_cache
from kcframe.build.teachers import teacher_context, teacher_sources
from kcframe.engine.data.split import sample_indices
from kcframe.errors import PluginError, RecipeError, RunDirError
from kcframe.interfaces.component import label
from kcframe.interfaces.data import DataSource
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.registry import installed
from kcframe.report.build import build_report
from kcframe.report.results import collect
from kcframe.run.backends import get_backend
from kcframe.run.backends.base import Watcher
from kcframe.stages.stages import Stage, mark, refuse_changes, settings_of
from kcframe.storage import layout as names
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

PACKAGES = (
    "kcframe",
    "torch",
    "torchvision",
    "ray",
    "numpy",
    "pillow",
    "fonttools",
    "matplotlib",
    "safetensors",
)


def run(
    recipe: Recipe,
    run_dir: RunDir,
    watcher: Watcher,
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Do whatever of the recipe is not done yet in this run directory; returns results.json's content.

    say: for a line to the user. Raises RunDirError before any work if the directory holds stages that
    were trained with other settings or data, Interrupted once `should_stop` says so and all is saved.
    """
    source = train(recipe, run_dir, watcher, say, should_stop)
    results = collect(recipe, run_dir, source.taxonomy.verticals)
    run_dir.write_json(names.RESULTS, results)
    write_samples(source, run_dir)
    build_report(run_dir)
    return results


def train(
    recipe: Recipe,
    run_dir: RunDir,
    watcher: Watcher,
    say: Callable[[str], None],
    should_stop: Callable[[], bool] = lambda: False,
    kinds: Sequence[str] = ("specialist", "outputs", "arm"),
    learners: Recipe | None = None,
) -> DataSource:
    """The training of `run`, of all stages or of some kinds; returns the data source.

    learners: the recipe with the arms that teachers are asked for; None: this one.
    """
    source = build_source(recipe)
    check_objectives(recipe, source)
    check_teachers(recipe, source, run_dir)
    check_teacher_cache(recipe)
    stages = [stage for stage in plan(recipe, source.taxonomy) if stage.kind in kinds]
    for stage in stages:
        refuse_other_settings(stage, recipe, run_dir)
    prepare(recipe, source, run_dir, say)
    for stage in stages:
        if stage.kind == "outputs":
            # Whether anything is missing is known only when specialists are trained.
            run_dir.delete(f"{stage.folder}/{names.RESULT}")
    pending = [stage for stage in stages if not run_dir.exists(f"{stage.folder}/{names.RESULT}")]
    done = len(stages) - len(pending)
    if done:
        say(f"{done} of {len(stages)} stages are finished and kept")
    watcher.plan(stages, done)
    for stage in pending:
        if stage.kind != "outputs":
            mark(stage, recipe, run_dir)
    backend = get_backend(recipe.execution.backend)
    for kind in kinds:
        group = [stage for stage in pending if stage.kind == kind]
        given = learners if learners is not None and kind == "outputs" else recipe
        backend.run(group, given, run_dir, watcher, should_stop)
    return source


def plan(recipe: Recipe, taxonomy: Taxonomy) -> list[Stage]:
    """All stages, in order: specialists by vertical, what teachers say if it is kept, then the arms as the
    recipe lists them."""
    verticals = taxonomy.verticals if recipe.specialists is not None else ()
    pieces = 0
    if recipe.teacher_cache is not None and recipe.teacher_cache.fill and asking(recipe):
        # On a cluster, as many as train side by side.
        e = recipe.execution
        pieces = max(e.workers, taxonomy.num_verticals) if e.backend == "ray" else 1
    return [
        *(Stage("specialist", name) for name in verticals),
        *(Stage("outputs", f"{piece + 1} of {pieces}") for piece in range(pieces)),
        *(Stage("arm", name) for name in recipe.arms),
    ]


def check_objectives(recipe: Recipe, source: DataSource) -> None:
    """PluginError for an arm whose objective would take unknown labels for negatives."""
    for name, spec in recipe.arms.items():
        objective = build_objective(spec.objective)
        if not objective.handles_unknown and source.split("train").absent is not None:
            raise PluginError(
                f"arms.{name}: {label(objective)} does not tell unknown labels from negatives, and this data "
                "has unknown ones: take hard-bce or top-k-bce, or data.options.unknown: negative"
            )


def check_teachers(recipe: Recipe, source: DataSource, run_dir: RunDir) -> None:
    """What teachers would say hours later, said now: RecipeError for an arm that needs specialists the recipe
    does not train, DataError or PluginError for a teacher that does not fit."""
    context = teacher_context(source, run_dir, recipe.specialists is not None)
    checked: list[PluginRef] = []
    for name, spec in recipe.arms.items():
        for ref, teachers in zip(spec.teachers, teacher_sources(spec), strict=False):
            if teachers.needs_specialists and recipe.specialists is None:
                raise RecipeError(
                    f"arms.{name}: learns from this run's specialists, but the recipe has no 'specialists' "
                    "section: add one, or name other teachers"
                )
            if ref not in checked:  # arms mostly share their teachers
                checked.append(ref)
                teachers.check(context)


def refuse_other_settings(stage: Stage, recipe: Recipe, run_dir: RunDir) -> None:
    """RunDirError if this stage was begun here with other settings, naming each difference."""
    name = f"{stage.folder}/{names.STAGE}"
    if not run_dir.exists(name):
        return
    before, now = run_dir.read_json(name)["settings"], settings_of(stage, recipe)
    refuse_changes(run_dir, f"{stage}, trained", before, now, run_dir.shown(stage.folder))


def prepare(recipe: Recipe, source: DataSource, run_dir: RunDir, say: Callable[[str], None]) -> None:
    """Write what the run starts from, and compare it with what an earlier start wrote."""
    taxonomy = source.taxonomy
    if run_dir.exists(names.TAXONOMY):
        before = Taxonomy.from_json(run_dir.read(names.TAXONOMY).decode())
        if before != taxonomy:
            raise RunDirError(
                f"{run_dir}: was begun with other data ({before.num_classes} classes in "
                f"{before.num_verticals} verticals, now {taxonomy.num_classes} in {taxonomy.num_verticals}, "
                "or other names): give another --run-dir"
            )
    found = versions()
    if run_dir.exists(names.VERSIONS):
        before = run_dir.read_json(names.VERSIONS)
        for package in sorted(set(before) | set(found)):
            if before.get(package) != found.get(package):
                was, now = (each.get(package, "not installed") for each in (before, found))
                say(f"note: {package} was {was} when this run began, now {now}")
    else:
        run_dir.write_json(names.VERSIONS, found)
    plain = recipe.model_dump(mode="json")
    run_dir.write(names.RECIPE, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
    run_dir.write(names.TAXONOMY, taxonomy.to_json())
    splits = {name: len(source.split(name)) for name in ("train", "test")}
    run_dir.write_json(names.DATA, {"images": splits, **source.describe()})


def versions() -> dict[str, str]:
    """Python, packages and plugin distributions with their versions."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found | installed().versions()


def write_samples(source: DataSource, run_dir: RunDir) -> None:
    """A few test images of each vertical with their labels, for the report."""
    from PIL import Image

    test, taxonomy = source.split("test"), source.taxonomy
    known = test.labels.likely()
    chosen = sample_indices(known, taxonomy)
    listed = []
    for index in chosen:
        images, bad = test.load_readable(torch.tensor([index]), None)
        if bad:
            continue
        picture = images[0].mul(255).round().byte()
        grey = picture.shape[0] == 1
        array = picture[0].numpy() if grey else picture[:3].permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(array).save(buffer, "PNG")
        run_dir.write(names.sample_file(len(listed)), buffer.getvalue())
        labels = [taxonomy.classes[c] for c in known.of(index)]
        listed.append({"image": index, "name": test.name(index), "labels": labels})
    run_dir.write_json(names.SAMPLES, listed)
