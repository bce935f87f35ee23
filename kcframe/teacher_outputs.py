"""Which teachers' outputs a recipe's arms need, and where they are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kcframe.assemble import build_objective, build_teachers, construct
from kcframe.engine.outputs.ask import Need, View, compare, fill
from kcframe.engine.outputs.identity import data_facts, identity, looks_at_each_alone
from kcframe.engine.outputs.part import MANIFEST, Part, of_teacher, prefix
from kcframe.engine.outputs.router import KeptRouter
from kcframe.engine.world import World
from kcframe.errors import DataError, Interrupted, RecipeError
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.differences import differences
from kcframe.recipe.schema import Recipe, Student
from kcframe.run_dir import RunDir
from kcframe.storage import without_secrets
from kcframe.taxonomy import Taxonomy

AT_FIRST = 4  # images that each teacher is asked about again before its outputs are used


def check_teacher_cache(recipe: Recipe) -> None:
    """RecipeError for an arm that needs more of a teacher's outputs than the recipe keeps."""
    if recipe.teacher_cache is not None:
        for name in asking(recipe):
            _refuse_too_few(recipe, name, wanted_outputs(build_objective(recipe.arms[name].objective)))


def _refuse_too_few(recipe: Recipe, arm: str, wanted: int | None) -> None:
    kept = recipe.teacher_cache.k
    if kept is not None and (wanted is None or wanted > kept):
        how_many = "all" if wanted is None else wanted
        raise RecipeError(
            f"teacher_cache.k: keeps {kept} of a teacher's outputs, and arms.{arm} learns from {how_many}: "
            f"{'' if wanted is None else 'raise it, or '}leave it out"
        )


def asking(recipe: Recipe) -> list[str]:
    """The arms that ask teachers."""
    return [name for name, spec in recipe.arms.items() if build_objective(spec.objective).uses_teachers]


def wanted_outputs(objective: Objective) -> int | None:
    """How many of a teacher's outputs, the most probable, an objective needs to be known; None: all."""
    return objective.num_kept if looks_at_each_alone(objective.soften) else None


def view_of(recipe: Recipe, source: DataSource) -> View:
    """The training pictures as a run's arms see them."""
    return View(source.split("train"), recipe.seed, source.max_bad_fraction)


@dataclass
class Outputs:
    """What some arms need. of_arm: arm -> its teachers, and which of `needs` is whose."""

    needs: list[Need]
    of_arm: dict[str, tuple[list[Teacher], list[int]]]

    def listed(self) -> list[dict[str, Any]]:
        """What is kept of each teacher, as JSON."""
        return [
            {
                "teacher": need.part.teacher,
                "images": len(need.part.images),
                "outputs": need.part.width,
                "epochs": need.epochs,
                "files": need.part.num_files * need.epochs,
            }
            for need in self.needs
        ]


def outputs_of(recipe: Recipe, source: DataSource, run_dir: RunDir, arms: Sequence[str]) -> Outputs:
    """What these arms need to be kept, each part once, wherever it is to be or is already."""
    images = source.split("train")
    facts = data_facts(recipe.data.model_dump(mode="json"), images.labels, source.taxonomy)
    store = RunDir(recipe.teacher_cache.url)
    folders = store.folders("")
    likely = images.labels.likely()
    built: dict[str, list[Teacher]] = {}
    abouts: dict[tuple[int, str], dict] = {}
    found: dict[str, Need] = {}
    of_arm: dict[str, tuple[list[Teacher], list[str]]] = {}
    for name in arms:
        spec = recipe.arms[name]
        key = json.dumps([ref.model_dump(mode="json") for ref in spec.teachers])
        if key not in built:
            built[key] = build_teachers(spec, source, run_dir, recipe.specialists is not None)
        of_arm[name] = built[key], []
        wanted = wanted_outputs(build_objective(spec.objective))
        by_vertical = _has_temperatures(spec, source.taxonomy)
        for teacher in built[key]:
            memo = id(teacher), spec.train.precision
            if memo not in abouts:
                abouts[memo] = identity(teacher, facts, spec.train.precision)
            about, outputs = abouts[memo], len(teacher.label_map)
            needed = None if by_vertical and _spans_verticals(teacher, source.taxonomy) else wanted
            _refuse_too_few(recipe, name, needed if needed is None else min(needed, outputs))
            width = min(outputs, recipe.teacher_cache.k or needed or outputs)
            start = prefix(about)
            if start in found:
                width = max(width, found[start].part.width)
                asked, epochs = found[start].part.images, found[start].epochs
            else:
                asked, epochs = that_ask(teacher, likely, source.taxonomy.num_classes), 0
            found[start] = Need(
                Part(store, about, asked, width, outputs), teacher, max(epochs, spec.train.epochs)
            )
            of_arm[name][1].append(start)
    order = list(found)
    needs = [
        replace(need, part=_where_it_is(need.part, folders, recipe.seed, need.epochs))
        for need in found.values()
    ]
    return Outputs(
        needs,
        {name: (own, [order.index(start) for start in starts]) for name, (own, starts) in of_arm.items()},
    )


def _has_temperatures(spec: Student, taxonomy: Taxonomy) -> bool:
    """Whether an arm's pacing gives verticals temperatures of their own."""
    pacing = construct("pacing", spec.pacing, taxonomy.sizes, taxonomy.num_classes)
    return type(pacing).temperatures is not Pacing.temperatures


def _spans_verticals(teacher: Teacher, taxonomy: Taxonomy) -> bool:
    """Whether its classes do not all stand in the same verticals: only then are the K best of its logits the
    K best at any temperatures."""
    standing = {tuple(v for v, _ in taxonomy.locate(c)) for c in teacher.label_map.tolist()}
    return len(standing) > 1


def that_ask(teacher: Teacher, labels: Labels, num_classes: int) -> Tensor:
    """int64, ascending: the images with a label that the teacher knows (see `Router.assign`)."""
    known = torch.zeros(num_classes, dtype=torch.bool)
    known[teacher.label_map.cpu()] = True
    return labels.rows()[known[labels.classes.long()]].unique()


def _where_it_is(part: Part, folders: Sequence[str], seed: int, epochs: int) -> Part:
    """The folder that holds as many outputs or more, if there is one; one with nothing missing before
    others."""
    start = prefix(part.about)
    widths = [name[len(start) :] for name in folders if name.startswith(start)]
    enough = sorted(int(width) for width in widths if width.isdecimal() and int(width) >= part.width)
    there = [replace(part, width=width) for width in enough if width <= part.outputs]
    if len(there) > 1:
        there.sort(key=lambda each: len(each.missing(seed, epochs)) > 0)
    return there[0] if there else part


def keep_outputs(
    recipe: Recipe,
    outputs: Outputs,
    view: View,
    world: World,
    share: tuple[int, int],
    told: Callable[[int, int], None],
    should_stop: Callable[[], bool],
) -> int:
    """Ask for what is missing (`fill`), if the recipe allows it. DataError, with what differs from what is
    there, if it does not."""
    if not recipe.teacher_cache.fill:
        kept_already(outputs, view.seed)
        return 0
    return fill(outputs.needs, view, world.device, recipe.execution.loader_workers, share, told, should_stop)


def kept_already(outputs: Outputs, seed: int) -> None:
    """DataError, with what differs from what is there, if anything is missing."""
    for need in outputs.needs:
        if lacking := need.part.missing(seed, need.epochs):
            raise DataError(_refused(need, seed, lacking))


def _refused(need: Need, seed: int, lacking: Sequence[tuple[int, int]]) -> str:
    """lacking: (epoch, number) of the files that are missing."""
    part = need.part
    said = f"teacher_cache: {part.store}: has no outputs of teacher '{part.teacher}'"
    if len(lacking) < need.epochs * part.num_files:
        said += f" for epoch {lacking[0][0] + 1} of seed {seed}"
    elif part.store.exists(f"{part.folder}/{MANIFEST}"):
        said += f" for seed {seed}"
    else:
        said += " as it is now"
        for path, there, now in changes(part)[:6]:
            said += f"\n  {path}: {_brief(there)} -> {_brief(now)}"
    return f"{said}\n`kcframe cache RECIPE --set teacher_cache.fill=true` makes them"


def changes(part: Part) -> list[tuple[str, object, object]]:
    """In what the nearest other outputs of a teacher of this name differ: (path, there, now)."""
    others = [name for name in part.store.folders("") if name.startswith(of_teacher(part.teacher))]
    found = []
    for name in others:
        if part.store.exists(f"{name}/{MANIFEST}"):
            there = part.store.read_json(f"{name}/{MANIFEST}")
            found.append(differences({key: there.get(key) for key in part.about}, part.about))
    return min(filter(None, found), key=len, default=[])


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:12]}…"


def kept_router(
    recipe: Recipe,
    arm: str,
    objective: Objective,
    source: DataSource,
    run_dir: RunDir,
    world: World,
    told: Callable[[int, int], None],
    say: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> KeptRouter:
    """An arm's router, after making sure that all it will read is there, and is what its teachers say."""
    outputs, view = outputs_of(recipe, source, run_dir, [arm]), view_of(recipe, source)
    devices = [world.device] if world.device.type == "cuda" else []
    # Whether anything is missing must not change what random numbers the student sees.
    with torch.random.fork_rng(devices):
        stopped, written = None, 0
        try:
            share = world.rank, world.size
            written = keep_outputs(recipe, outputs, view, world, share, told, should_stop)
        except Interrupted as error:
            stopped = error
        # All together: until every worker has written its share, and so that none waits for one that stopped.
        if world.any(stopped is not None):
            raise stopped or Interrupted("stopped while teachers were asked")
        if written:
            url = without_secrets(recipe.teacher_cache.url)
            say(f"its teachers were asked first: {written} files of {url} were missing")
        if world.rank == 0:
            for _ in compare(outputs.needs, view, world.device, AT_FIRST):
                pass
    teachers, places = outputs.of_arm[arm]
    parts = [outputs.needs[place].part for place in places]
    return KeptRouter(
        teachers,
        source.taxonomy.num_classes,
        objective.soften,
        objective.num_kept,
        world.device,
        parts,
        recipe.seed,
    )
