"""A run from its recipe to its report. A finished stage is not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from kcframe.assembly.arms import resolve_arms
from kcframe.assembly.source import build_source
from kcframe.assembly.teacher_cache import check_teacher_cache
from kcframe.interfaces.data import DataSource
from kcframe.recipe.schema import Recipe, StudentSpec
from kcframe.report.build import build_report
from kcframe.report.results import collect
from kcframe.run.backends import get_backend
from kcframe.run.backends.base import RunObserver
from kcframe.run.checks import check_objectives, check_teachers
from kcframe.run.provenance import write_provenance
from kcframe.stages.base import Stage
from kcframe.stages.plan import Plan, plan_stages
from kcframe.stages.samples import write_samples
from kcframe.storage import layout
from kcframe.storage.run_dir import RunDir


def run(recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> dict[str, Any]:
    """Do whatever of the recipe is not done yet in this run directory; returns results.json's content.

    Raises RunDirError before any work if the directory holds stages that were trained with other settings or
    data, Interrupted once the observer says that it should stop and all is saved.
    """
    source = train(recipe, run_dir, observer)
    results = collect(recipe, run_dir, source.taxonomy.verticals)
    run_dir.write_json(layout.RESULTS, results)
    write_samples(source, run_dir)
    build_report(run_dir)
    return results


def train(
    recipe: Recipe,
    run_dir: RunDir,
    observer: RunObserver,
    choose: Callable[[Plan], Iterable[Stage]] = iter,
    learners: Mapping[str, StudentSpec] | None = None,
) -> DataSource:
    """The training of `run`; returns the data source.

    choose: the stages of the plan that are trained; all of them if left out. learners: see `plan_stages`.
    """
    source = build_source(recipe)
    arms = resolve_arms(recipe)
    check_objectives(arms, source)
    check_teachers(recipe, arms, source, run_dir)
    check_teacher_cache(recipe, arms)
    stages = list(choose(plan_stages(recipe, source.taxonomy, learners)))
    for stage in stages:
        stage.refuse_other_settings(recipe, run_dir)
    write_provenance(recipe, source, run_dir, observer.say)
    _train_pending(stages, recipe, run_dir, observer)
    return source


def _train_pending(stages: list[Stage], recipe: Recipe, run_dir: RunDir, observer: RunObserver) -> None:
    """Train those that are not finished, where the recipe says."""
    for stage in stages:
        if stage.always_again:
            run_dir.delete(f"{stage.folder}/{layout.RESULT}")
    pending = [stage for stage in stages if not stage.is_finished(run_dir)]
    for stage in pending:
        if run_dir.exists(name := f"{stage.folder}/{layout.RESULT}"):
            observer.say(f"{stage}: its weights are gone or incomplete: it is trained again")
            run_dir.delete(name)
    done = len(stages) - len(pending)
    if done:
        observer.say(f"{done} of {len(stages)} stages are finished and kept")
    observer.plan(stages, done)
    for stage in pending:
        stage.begin(recipe, run_dir)
    get_backend(recipe.execution.backend).run(pending, recipe, run_dir, observer)
