"""Which teachers' outputs a recipe's arms need, and where they are stored."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kcframe.assembly.arms import Arm
from kcframe.assembly.plugins import construct
from kcframe.assembly.teachers import build_teachers, teacher_context
from kcframe.engine.data.split import Split
from kcframe.engine.observer import Observer
from kcframe.engine.teachers.asking import Need, View, compare, fill
from kcframe.engine.teachers.cached_router import CachedRouter
from kcframe.engine.teachers.identity import data_facts, identity
from kcframe.engine.teachers.stored_outputs import MANIFEST, StoredOutputs, of_teacher, prefix
from kcframe.engine.world import World
from kcframe.errors import DataError, Interrupted, RecipeError
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.objective import Objective
from kcframe.interfaces.pacing import Pacing
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.differences import differences
from kcframe.recipe.schema import Recipe, StudentSpec
from kcframe.storage.remote import without_secrets
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

SAMPLES_AT_FIRST = 4  # images that each teacher is asked about again before its outputs are used


def check_teacher_cache(recipe: Recipe, arms: Mapping[str, Arm]) -> None:
    """RecipeError for an arm that needs more of a teacher's outputs than the recipe stores."""
    if recipe.teacher_cache is not None:
        for arm in arms.values():
            if arm.uses_teachers:
                _refuse_too_few(recipe, arm.name, arm.wanted_outputs)


def _refuse_too_few(recipe: Recipe, arm: str, wanted: int | None) -> None:
    width = None if recipe.teacher_cache is None else recipe.teacher_cache.k
    if width is not None and (wanted is None or wanted > width):
        how_many = "all" if wanted is None else wanted
        raise RecipeError(
            f"teacher_cache.k: keeps {width} of a teacher's outputs, and arms.{arm} learns from {how_many}: "
            f"{'' if wanted is None else 'raise it, or '}leave it out"
        )


def view_of(recipe: Recipe, source: DataSource) -> View:
    """The training pictures as a run's arms see them."""
    return View(Split.of(source, "train"), recipe.seed)


@dataclass
class CacheNeeds:
    """What some arms need. of_arm: arm -> its teachers, and which of `needs` is whose."""

    needs: list[Need]
    of_arm: dict[str, tuple[list[Teacher], list[int]]]

    def listed(self) -> list[dict[str, Any]]:
        """What is stored of each teacher, as JSON."""
        return [
            {
                "teacher": need.stored.teacher,
                "images": len(need.stored.images),
                "outputs": need.stored.width,
                "epochs": need.epochs,
                "files": need.stored.num_files * need.epochs,
            }
            for need in self.needs
        ]


def cache_needs(recipe: Recipe, source: DataSource, run_dir: RunDir, arms: Mapping[str, Arm]) -> CacheNeeds:
    """The outputs that these arms need, each once, wherever they are to be or are already."""
    collecting = _Collecting(recipe, source, run_dir)
    for arm in arms.values():
        collecting.add(arm)
    return collecting.needs()


class _Collecting:
    """Goes through arms and unites what they need of the same teacher."""

    def __init__(self, recipe: Recipe, source: DataSource, run_dir: RunDir):
        assert recipe.teacher_cache is not None
        self.recipe, self.source, self.section = recipe, source, recipe.teacher_cache
        self.context = teacher_context(source, run_dir, recipe.specialists is not None)
        images = source.split("train")
        self.facts = data_facts(recipe.data.model_dump(mode="json"), images.labels, source.taxonomy)
        self.labels = images.labels.likely()
        self.store = RunDir(self.section.url)
        self.teachers: dict[str, list[Teacher]] = {}
        self.identities: dict[tuple[int, str], dict[str, Any]] = {}
        self.by_prefix: dict[str, Need] = {}
        self.of_arm: dict[str, tuple[list[Teacher], list[str]]] = {}

    def add(self, arm: Arm) -> None:
        teachers = self._teachers(arm)
        self.of_arm[arm.name] = teachers, []
        by_vertical = _has_temperatures(arm.spec, self.source.taxonomy)
        for teacher in teachers:
            outputs = len(teacher.label_map)
            spans = by_vertical and _spans_verticals(teacher, self.source.taxonomy)
            needed = None if spans else arm.wanted_outputs
            _refuse_too_few(self.recipe, arm.name, needed if needed is None else min(needed, outputs))
            width = min(outputs, self.section.k or needed or outputs)
            about = self._identity(teacher, arm.spec.train.precision)
            self.of_arm[arm.name][1].append(self._unite(about, teacher, width, arm.spec.train.epochs))

    def _teachers(self, arm: Arm) -> list[Teacher]:
        """Arms with the same teacher sources share the teachers."""
        key = json.dumps([ref.model_dump(mode="json") for ref in arm.spec.teachers])
        if key not in self.teachers:
            self.teachers[key] = build_teachers(arm, self.context)
        return self.teachers[key]

    def _identity(self, teacher: Teacher, precision: str) -> dict[str, Any]:
        memo = id(teacher), precision
        if memo not in self.identities:
            self.identities[memo] = identity(teacher, self.facts, precision)
        return self.identities[memo]

    def _unite(self, about: dict[str, Any], teacher: Teacher, width: int, epochs: int) -> str:
        start = prefix(about)
        if (before := self.by_prefix.get(start)) is not None:
            images = before.stored.images
            width, epochs = max(width, before.stored.width), max(epochs, before.epochs)
        else:
            images = images_that_ask(teacher, self.labels, self.source.taxonomy.num_classes)
        stored = StoredOutputs(self.store, about, images, width, len(teacher.label_map))
        self.by_prefix[start] = Need(stored, teacher, epochs)
        return start

    def needs(self) -> CacheNeeds:
        folders, order = self.store.folders(""), list(self.by_prefix)
        needs = [
            replace(need, stored=_where_it_is(need.stored, folders, self.recipe.seed, need.epochs))
            for need in self.by_prefix.values()
        ]
        of_arm = {
            name: (teachers, [order.index(start) for start in starts])
            for name, (teachers, starts) in self.of_arm.items()
        }
        return CacheNeeds(needs, of_arm)


def _has_temperatures(spec: StudentSpec, taxonomy: Taxonomy) -> bool:
    """Whether an arm's pacing gives verticals temperatures of their own."""
    pacing = construct("pacing", spec.pacing, taxonomy.sizes, taxonomy.num_classes)
    return type(pacing).temperatures is not Pacing.temperatures


def _spans_verticals(teacher: Teacher, taxonomy: Taxonomy) -> bool:
    """Whether its classes do not all stand in the same verticals: only then are the K best of its logits the
    K best at any temperatures."""
    standing = {tuple(v for v, _ in taxonomy.locate(c)) for c in teacher.label_map.tolist()}
    return len(standing) > 1


def images_that_ask(teacher: Teacher, labels: Labels, num_classes: int) -> Tensor:
    """int64, ascending: the images with a label that the teacher knows (see `Router.assign`)."""
    known = torch.zeros(num_classes, dtype=torch.bool)
    known[teacher.label_map.cpu()] = True
    return labels.rows()[known[labels.classes.long()]].unique()


def _where_it_is(stored: StoredOutputs, folders: Sequence[str], seed: int, epochs: int) -> StoredOutputs:
    """The folder that holds as many outputs or more, if there is one; one with nothing missing before
    others."""
    start = prefix(stored.about)
    widths = [name[len(start) :] for name in folders if name.startswith(start)]
    enough = sorted(int(width) for width in widths if width.isdecimal() and int(width) >= stored.width)
    there = [replace(stored, width=width) for width in enough if width <= stored.outputs]
    if len(there) > 1:
        there.sort(key=lambda candidate: len(candidate.missing(seed, epochs)) > 0)
    return there[0] if there else stored


def store_outputs(
    recipe: Recipe,
    wanted: CacheNeeds,
    view: View,
    world: World,
    observer: Observer,
    *,
    share: tuple[int, int],
) -> int:
    """Ask for what is missing (`fill`), if the recipe allows it; returns how many files were written.

    share: (i, n), the i-th of n that share the work. DataError, with what differs from what is there, if the
    recipe does not allow it.
    """
    if recipe.teacher_cache is None or not recipe.teacher_cache.fill:
        refuse_missing(wanted, view.seed)
        return 0
    processes = recipe.execution.loader_workers
    return fill(wanted.needs, view, world.device, processes=processes, share=share, observer=observer)


def refuse_missing(wanted: CacheNeeds, seed: int) -> None:
    """DataError, with what differs from what is there, if anything is missing."""
    for need in wanted.needs:
        if missing := need.stored.missing(seed, need.epochs):
            raise DataError(_refused(need, seed, missing))


def _refused(need: Need, seed: int, missing: Sequence[tuple[int, int]]) -> str:
    """missing: (epoch, number) of the files that are not there."""
    stored = need.stored
    text = f"teacher_cache: {stored.store}: has no outputs of teacher '{stored.teacher}'"
    if len(missing) < need.epochs * stored.num_files:
        text += f" for epoch {missing[0][0] + 1} of seed {seed}"
    elif stored.store.exists(f"{stored.folder}/{MANIFEST}"):
        text += f" for seed {seed}"
    else:
        text += " as it is now"
        for path, there, now in changes(stored)[:6]:
            text += f"\n  {path}: {_brief(there)} -> {_brief(now)}"
    return f"{text}\n`kcframe cache RECIPE --set teacher_cache.fill=true` makes them"


def changes(stored: StoredOutputs) -> list[tuple[str, object, object]]:
    """In what the nearest other outputs of a teacher of this name differ: (path, there, now)."""
    folders = [name for name in stored.store.folders("") if name.startswith(of_teacher(stored.teacher))]
    by_folder = []
    for name in folders:
        if stored.store.exists(f"{name}/{MANIFEST}"):
            manifest = stored.store.read_json(f"{name}/{MANIFEST}")
            by_folder.append(differences({key: manifest.get(key) for key in stored.about}, stored.about))
    return min(filter(None, by_folder), key=len, default=[])


def _brief(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 40 else f"{shown[:12]}…"


def cached_router(
    arm: Arm,
    recipe: Recipe,
    source: DataSource,
    run_dir: RunDir,
    world: World,
    *,
    objective: Objective,
    observer: Observer,
) -> CachedRouter:
    """An arm's router, after making sure that all it will read is there, and is what its teachers say.

    objective: the one that is trained with the router's soft targets.
    """
    wanted, view = cache_needs(recipe, source, run_dir, {arm.name: arm}), view_of(recipe, source)
    devices = [world.device] if world.device.type == "cuda" else []
    # Whether anything is missing must not change what random numbers the student sees.
    with torch.random.fork_rng(devices):
        stopped, written = None, 0
        try:
            share = world.rank, world.size
            written = store_outputs(recipe, wanted, view, world, observer, share=share)
        except Interrupted as error:
            stopped = error
        # All together: until every worker has written its share, and so that none waits for one that stopped.
        if world.any(stopped is not None):
            raise stopped or Interrupted("stopped while teachers were asked")
        if written and recipe.teacher_cache is not None:
            url = without_secrets(recipe.teacher_cache.url)
            observer.say(f"its teachers were asked first: {written} files of {url} were missing")
        if world.rank == 0:
            for _ in compare(wanted.needs, view, world.device, SAMPLES_AT_FIRST):
                pass
    teachers, places = wanted.of_arm[arm.name]
    return CachedRouter(
        teachers,
        source.taxonomy.num_classes,
        objective.soften,
        objective.num_kept,
        world.device,
        stored=[wanted.needs[place].stored for place in places],
        seed=recipe.seed,
    )
