"""A sweep on Ray Tune. A trial is a student arm of the run directory that shares its specialists.

A trial with one worker trains in the trial's own process, which later trials use again; one with more
starts a worker group from there.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import ASHAScheduler

import kcframe.run.backends as backends
import kcframe.run.backends.ray as ray_backends
from kcframe.engine.evaluation.evaluate import Evaluation
from kcframe.engine.world import World
from kcframe.errors import Interrupted, KcframeError, RecipeError, StorageError
from kcframe.recipe.schema import Distribution, Recipe, Search
from kcframe.recipe.search import searched_arm, with_values
from kcframe.registry import installed
from kcframe.run.backends.local import choose_device
from kcframe.run.backends.ray import cluster
from kcframe.run.backends.ray.backend import RAY_STATE, RayBackend
from kcframe.run.backends.ray.cluster import (
    ClusterError,
    check_shared,
    connect,
    resources_of_worker,
    room_for,
    storage_of_ray,
)
from kcframe.stages.arm import ArmStage
from kcframe.stages.base import Stage, refuse_changes
from kcframe.stages.context import Context
from kcframe.storage.layout import RESULT
from kcframe.storage.run_dir import RunDir

NAME = "tune"  # Ray Tune's folder, below the run directory
SETTINGS = "sweep-settings.json"  # what the sweep was begun with
FAILED = "failed"  # a trial's result if its values make training impossible


@dataclass(frozen=True)
class Trial:
    """name: its arm in the run directory. state: finished, stopped early, or failed. mpvap: its last one."""

    name: str
    values: dict[str, Any]
    mpvap: float | None
    epochs: int
    state: str


def sweep(recipe: Recipe, run_dir: RunDir, say: Callable[[str], None]) -> list[Trial]:
    """Try what the recipe's search asks for; go on with a sweep that this run directory holds unfinished.

    The specialists must be there. Raises Interrupted if it was stopped; everything so far is kept.
    """
    connect(recipe.execution)
    check_shared(run_dir, recipe)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what it says of a lost process, _Progress says
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    _Progress.say = staticmethod(say)
    if _search(recipe).stop_early and not recipe.arms[searched_arm(recipe)].train.evaluate_every:
        say("note: stop_early has nothing to go by: train.evaluate_every is 0")
    _refuse_other_sweep(recipe, run_dir)
    if _has_begun(run_dir):
        say("going on with the sweep that is here")
    tune_trials = _fit(recipe, run_dir)
    # Ray counts a process that is lost between two trials twice, and gives the second trial up.
    if any(trial.status == trial.ERROR and trial.should_recover() for trial in tune_trials):
        say("going on with trials whose process was lost before they began")
        tune_trials = _fit(recipe, run_dir)
    trials = [_as_trial(trial) for trial in tune_trials]
    wanted, ended = _num_trials(recipe), sum(trial.state != "unfinished" for trial in trials)
    if ended < wanted:
        raise Interrupted(f"stopped after {ended} of {wanted} trials")
    run_dir.delete_folder_if_empty(RAY_STATE)
    return trials


def _know_earlier_places() -> None:
    """Ray pickles a sweep's callbacks and file system by the names of their modules: those of an earlier
    kcframe are these now."""
    places = {"": backends, ".ray": ray_backends, ".ray.tune": sys.modules[__name__], ".ray.cluster": cluster}
    for name, module in places.items():
        sys.modules.setdefault(f"kcframe.backends{name}", module)


def _fit(recipe: Recipe, run_dir: RunDir) -> list[TuneTrial]:
    """Run what is left of the sweep; Ray's own record of all its trials."""
    _know_earlier_places()
    path, filesystem = storage_of_ray(run_dir.url)
    experiment = f"{path}/{NAME}"
    trainable = _trainable(recipe, run_dir)
    if _has_begun(run_dir) and tune.Tuner.can_restore(experiment, storage_filesystem=filesystem):
        tuner = tune.Tuner.restore(
            experiment,
            trainable,
            resume_errored=True,
            resume_unfinished=True,
            param_space=_space(recipe),
            storage_filesystem=filesystem,
        )
    else:
        run_dir.delete_folder(NAME)  # what a driver left that was lost before it had written its state
        tuner = tune.Tuner(
            trainable,
            param_space=_space(recipe),
            tune_config=_tune_config(recipe),
            run_config=tune.RunConfig(
                name=NAME,
                storage_path=path,
                storage_filesystem=filesystem,
                failure_config=tune.FailureConfig(max_failures=recipe.execution.max_failures),
                verbose=0,
                callbacks=[_Progress()],
            ),
        )
    tuner.fit()
    return tune.ExperimentAnalysis(experiment, storage_filesystem=filesystem).trials


def _refuse_other_sweep(recipe: Recipe, run_dir: RunDir) -> None:
    """RunDirError if the sweep that is here was begun with other settings; else write them down."""
    arm = ArmStage(arm=searched_arm(recipe)).settings(recipe)
    search = _search(recipe).model_dump(mode="json", exclude={"parallel"})
    now = {**arm, "search": search}
    if run_dir.exists(SETTINGS):
        refuse_changes(
            run_dir,
            "a sweep that was begun",
            run_dir.read_json(SETTINGS),
            now,
            f"{run_dir.shown(NAME)} and {run_dir.shown(SETTINGS)}",
        )
    run_dir.write_json(SETTINGS, now)


def _has_begun(run_dir: RunDir) -> bool:
    """Whether the driver has written down what trials there are."""
    return any(name.startswith("experiment_state") for name in run_dir.files(NAME))


def arm_of(recipe: Recipe, name: str, values: dict[str, Any]) -> Recipe:
    """The recipe with one arm, the searched one with some values changed."""
    spec = recipe.arms[searched_arm(recipe)]
    changed = with_values(spec, values, installed().options_schema)
    return recipe.model_copy(update={"arms": {name: changed}, "baseline": None, "search": None})


def _search(recipe: Recipe) -> Search:
    """A sweep is of a recipe that has one."""
    assert recipe.search is not None
    return recipe.search


def _num_trials(recipe: Recipe) -> int:
    search = _search(recipe)
    if search.searcher != "grid":
        return search.trials
    total = 1
    for distribution in search.fields.values():
        total *= len(distribution.choice or ())
    return total


def _trainable(recipe: Recipe, run_dir: RunDir):
    resources = resources_of_worker(recipe.execution)
    if _in_groups(recipe):
        # The workers are asked for by the trial itself; Tune refuses to ask for nothing at all.
        resources = {"CPU": 0, "memory": 1}
    bound = tune.with_parameters(_trial, recipe=recipe.model_dump_json(), url=run_dir.url)
    return tune.with_resources(bound, resources)


def _trial(config: dict[str, Any], recipe: str, url: str) -> None:
    """One trial, in a process of Tune's."""
    name, run_dir = tune.get_context().get_trial_id(), RunDir(url)
    given = Recipe.model_validate_json(recipe)
    stage = ArmStage(arm=name)
    try:
        own = arm_of(given, name, config)
    except ValueError as error:
        # Each value is valid by itself, these together are not.
        tune.report({"mpvap": 0.0, "epoch": 0, FAILED: str(error)})
        return
    epochs = own.arms[name].train.epochs
    if not stage.is_finished(run_dir):
        stage.begin(own, run_dir)
        reports = _Reports(epochs)
        try:
            if _in_groups(own):
                RayBackend().run([stage], own, run_dir, reports)
            else:
                world = World(device=choose_device(own.execution.device))
                stage.run(Context.build(own, run_dir, world, reports))
        except (StorageError, ClusterError):
            raise  # another attempt may succeed
        except KcframeError as error:
            # Values with which one cannot train are a result: trying them again changes nothing.
            tune.report({"mpvap": 0.0, "epoch": epochs, FAILED: str(error)})
            return
    result = run_dir.read_json(f"{stage.folder}/{RESULT}")
    tune.report({"mpvap": result["mpvap"] or 0.0, "epoch": epochs, "finished": True})


class _Reports:
    """Observes a run and its stage, and tells Tune of every evaluation but the last: at that report Tune ends
    the trial, so it has to wait until all is written."""

    def __init__(self, epochs: int):
        self.epochs = epochs

    def plan(self, stages: Any, done: int) -> None: ...

    def begin(self, stage: Stage) -> _Reports:
        return self

    def end(self, stage: Stage) -> None: ...

    def say(self, text: str) -> None: ...

    def step(self, step: int, num_steps: int, loss: float) -> None: ...

    def should_stop(self) -> bool:
        return False

    def evaluated(self, epoch: int, evaluation: Evaluation) -> None:
        if epoch < self.epochs:
            tune.report({"mpvap": evaluation.mean("ap") or 0.0, "epoch": epoch})


def _space(recipe: Recipe) -> dict[str, Any]:
    grid = _search(recipe).searcher == "grid"
    return {name: _domain(d, grid) for name, d in _search(recipe).fields.items()}


def _domain(distribution: Distribution, grid: bool) -> Any:
    if distribution.choice is not None:
        values = list(distribution.choice)
        return tune.grid_search(values) if grid else tune.choice(values)
    low, high = distribution.range()
    if distribution.integer:
        # Ray's ranges of whole numbers end before their upper bound.
        draw = tune.lograndint if distribution.log else tune.randint
        return draw(int(low), int(high) + 1)
    return (tune.loguniform if distribution.log else tune.uniform)(low, high)


def _tune_config(recipe: Recipe) -> tune.TuneConfig:
    search, execution = _search(recipe), recipe.execution
    searched = search.fields.get("train.epochs")
    epochs = max(searched.examples()) if searched else recipe.arms[searched_arm(recipe)].train.epochs
    parallel = search.parallel
    if _in_groups(recipe):
        # Two half-started worker groups would wait for each other.
        each = execution.min_workers or execution.workers
        room = max(1, room_for(resources_of_worker(execution)) // each)
        parallel = min(parallel or room, room)
    scheduler = None
    if search.stop_early:
        grace = max(1, epochs // 4)
        scheduler = ASHAScheduler(time_attr="epoch", max_t=epochs, grace_period=grace, reduction_factor=2)
    return tune.TuneConfig(
        metric="mpvap",
        mode="max",
        num_samples=1 if search.searcher == "grid" else search.trials,
        search_alg=_searcher(recipe, parallel),
        scheduler=scheduler,
        # The other searchers know it themselves, and Ray would not pass it on.
        max_concurrent_trials=parallel if search.searcher == "optuna" else None,
        reuse_actors=True,
    )


def _in_groups(recipe: Recipe) -> bool:
    """Whether a trial is trained by a worker group, and not by the trial's own process."""
    return recipe.execution.workers > 1 or recipe.execution.min_workers is not None


def _searcher(recipe: Recipe, parallel: int | None) -> Any:
    if _search(recipe).searcher == "optuna":
        try:
            import optuna
            from ray.tune.search.optuna import OptunaSearch
        except ImportError:
            raise RecipeError(
                "search.searcher: optuna is not installed: pip install 'kcframe[optuna]', or use random"
            ) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return OptunaSearch(seed=recipe.seed)
    from ray.tune.search.basic_variant import BasicVariantGenerator

    return BasicVariantGenerator(random_state=recipe.seed, max_concurrent=parallel or 0)


def _as_trial(trial: TuneTrial) -> Trial:
    metrics = trial.last_result or {}
    if trial.status == trial.ERROR or FAILED in metrics:
        state = "failed"
    elif metrics.get("finished", False):
        state = "finished"
    elif metrics.get("done"):
        state = "stopped early"
    else:
        state = "unfinished"
    mpvap = None if state == "failed" else metrics.get("mpvap")
    return Trial(trial.trial_id, dict(trial.config), mpvap, metrics.get("epoch", 0), state)


class _Progress(tune.Callback):
    """A line when a trial ends. Tune pickles it with the sweep: what it says it to is no part of it."""

    say: ClassVar[Callable[..., None]] = staticmethod(print)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        last = trial.last_result or {}
        values = ", ".join(
            f"{name.rsplit('.', 1)[-1]} {_short(value)}" for name, value in trial.config.items()
        )
        how = f"mpvap {last.get('mpvap', 0):5.1f} after {last.get('epoch', 0)} epochs"
        if FAILED in last:
            how = last[FAILED]
        self.say(f"  trial {trial.trial_id}   {how}   {values}")

    def on_trial_recover(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.say(f"  trial {trial.trial_id}   lost its process; it goes on from its last checkpoint")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        self.say(f"  trial {trial.trial_id}   lost its process too often and is given up")


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
