"""`kcframe bench step --backend local`: how much time teachers add to a training step, with and without
routing."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from kcframe.assembly.networks import build_specialist, build_student
from kcframe.assembly.plugins import build_objective
from kcframe.assembly.source import build_source
from kcframe.assembly.teacher_cache import images_that_ask
from kcframe.cli.bench.figures import name_of, spread, waited_for, write_json
from kcframe.engine.data.batches import Batch
from kcframe.engine.data.split import Split
from kcframe.engine.loss.targets import SlotIndex, SlotTargets
from kcframe.engine.teachers.asking import Need, View, fill
from kcframe.engine.teachers.cached_router import CachedRouter
from kcframe.engine.teachers.identity import identity
from kcframe.engine.teachers.routing import Router
from kcframe.engine.teachers.stored_outputs import StoredOutputs
from kcframe.engine.trainer import Job, Trainer
from kcframe.engine.world import World
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.run.backends.local import choose_device
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

STUDENT_ONLY, CACHED = "student only", "+ what teachers said, kept"
ROUTED, ALL = "+ routed teachers", "+ all teachers on all images"


class _AskAll(Router):
    """Asks every teacher about every image, as other implementations do."""

    def assign(self, labels: Labels) -> Tensor:
        return torch.ones(len(labels), len(self.teachers), dtype=torch.bool)


class _Free(nn.Module):
    """A network that costs nothing, so that the time of asking it is the time of routing."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.register_buffer("logits", torch.randn(1, num_outputs))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), -1)


def bench_teachers(
    rounds: int,
    steps: int,
    json_file: str | None,
    *,
    batch: int,
    teachers: int,
    image_size: int,
    device: str,
    dtype: str,
) -> None:
    """Time whole training steps on pictures in memory, and routing (sort a batch, top-K, scatter) by itself.

    The steps: without teachers, with cached outputs of teachers, with routed teachers, and with all teachers
    on all images.
    """
    world = World(device=choose_device(device))
    recipe = _recipe(batch, teachers, image_size, dtype)
    source = build_source(recipe)
    batches = _batches(source, batch, steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        ways = _trainers(recipe, source, world, batches, folder)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, trainer in ways.items():
                # Not timed: the other ways have filled the caches with their data.
                trainer.learn(batches[0], 0.0)
                for data in batches[1:]:
                    times[way].append(waited_for(world.device, lambda t=trainer, b=data: t.learn(b, 0.0)))
    routing = [_routing(recipe, source, world, data) for data in batches[1:] for _ in range(rounds)]
    speeds = {way: [batch / seconds for seconds in values] for way, values in times.items()}
    middle = {way: median(values) for way, values in times.items()}
    figures = {
        "device": name_of(world.device),
        "dtype": dtype,
        "batch": batch,
        "teachers": teachers,
        "image_size": image_size,
        "images_per_second": {way: median(values) for way, values in speeds.items()},
        "kept_over_student": middle[CACHED] / middle[STUDENT_ONLY],
        "routed_over_student": middle[ROUTED] / middle[STUDENT_ONLY],
        "all_over_routed": middle[ALL] / middle[ROUTED],
        "routing_share": median(routing) / middle[ROUTED],
        "rows": [{"way": way, "seconds": values} for way, values in times.items()],
    }
    Console().print(_table(figures, speeds, routing, middle))
    write_json(figures, json_file)


def _recipe(batch: int, teachers: int, image_size: int, dtype: str) -> Recipe:
    network = {"name": "torchvision", "options": {"model": "resnet18"}}
    classes = 1000 * teachers
    data = {"verticals": teachers, "classes": classes, "image_size": image_size, "channels": 3}
    student = {
        "backbone": network,
        "expander": {"name": "fc-sc", "options": {"s1": 1024, "s2": 256}},
        "pacing": {"name": "self-paced", "options": {"start": "base-rate"}},
        "objective": {"name": "top-k-bce"},
        "train": {"epochs": 1, "batch_size": batch, "learning_rate": 1e-3, "precision": dtype},
    }
    return Recipe.model_validate(
        {
            "kcframe": 1,
            "name": "bench",
            "data": {"name": "synthetic", "options": {**data, "train_images": classes, "test_images": 1}},
            "specialists": {"backbone": network, "train": student["train"]},
            "arms": {"student": student},
        }
    )


def _batches(source: DataSource, size: int, num: int) -> list[Batch]:
    images = source.split("train")
    batches = []
    for number in range(num):
        indices = torch.arange(number * size, (number + 1) * size) % len(images)
        batches.append(Batch(images.load(indices, None), images.labels.take(indices), size, indices=indices))
    return batches


def _trainers(
    recipe: Recipe, source: DataSource, world: World, batches: list[Batch], folder: str
) -> dict[str, Trainer]:
    """A trainer for each way; their students start with the same weights. folder: for the teachers' cached
    outputs."""
    spec, taxonomy = recipe.arms["student"], source.taxonomy
    objective = build_objective(spec.objective)

    def trainer(ref: PluginRef, router: Callable[..., Router] | None) -> Trainer:
        torch.manual_seed(0)
        student = build_student(spec, source.channels, source.image_size, taxonomy)
        routed = None
        if router is not None:
            asked = _specialists(recipe, source, taxonomy)
            routed = router(asked, taxonomy.num_classes, objective.soften, objective.num_kept, world.device)
        job = Job(
            name="bench",
            folder="arms/bench",
            student=student,
            objective=build_objective(ref),
            taxonomy=taxonomy,
            split=Split.of(source, "train").only(torch.arange(taxonomy.num_classes)),
            router=routed,
            train=spec.train,
            seed=0,
        )
        made = Trainer(job, RunDir("memory://bench"), world)
        made.student.train()
        return made

    def cached(asked: list[Teacher], *how: Any) -> CachedRouter:
        images = torch.cat([batch.indices for batch in batches]).unique()
        labels = source.split("train").labels.take(images)
        needs = []
        for teacher in asked:
            routed = images[images_that_ask(teacher, labels, taxonomy.num_classes)]
            about, outputs = identity(teacher, {}, spec.train.precision), len(teacher.label_map)
            width = min(objective.num_kept, outputs)
            needs.append(Need(StoredOutputs(RunDir(folder), about, routed, width, outputs), teacher, 1))
        fill(needs, View(Split.of(source, "train"), 0), world.device)
        return CachedRouter(asked, *how, stored=[need.stored for need in needs], seed=0)

    labels_only = PluginRef(name="hard-bce")
    return {
        STUDENT_ONLY: trainer(labels_only, None),
        CACHED: trainer(spec.objective, cached),
        ROUTED: trainer(spec.objective, Router),
        ALL: trainer(spec.objective, _AskAll),
    }


def _specialists(recipe: Recipe, source: DataSource, taxonomy: Taxonomy) -> list[Teacher]:
    def teacher(vertical: int) -> Teacher:
        classes = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
        network = build_specialist(recipe.specialists, source.channels, source.image_size, len(classes))
        return _teacher(network, classes, source)

    return [teacher(vertical) for vertical in range(taxonomy.num_verticals)]


def _teacher(network: nn.Module, classes: Tensor, source: DataSource) -> Teacher:
    return Teacher(
        "bench",
        network,
        classes,
        channels=source.channels,
        mean=(0.0,),
        std=(1.0,),
        input_size=source.image_size,
    )


def _routing(recipe: Recipe, source: DataSource, world: World, batch: Batch) -> float:
    """Seconds that routing takes by itself. It asks teachers that cost nothing, and writes their outputs to
    the targets of each vertical's block."""
    taxonomy = source.taxonomy
    objective = build_objective(recipe.arms["student"].objective)
    verticals = [torch.from_numpy(taxonomy.vertical_classes(v)).long() for v in range(taxonomy.num_verticals)]
    teachers = [_teacher(_Free(len(classes)), classes, source) for classes in verticals]
    router = Router(teachers, taxonomy.num_classes, objective.soften, objective.num_kept, world.device)
    index, images = SlotIndex(taxonomy, world.device), batch.images.to(world.device)

    def route() -> None:
        SlotTargets(index, len(batch.labels), *router(images, batch.labels, None))

    route()
    return waited_for(world.device, route)


def _table(
    figures: dict[str, Any], speeds: dict[str, list[float]], routing: list[float], middle: dict[str, float]
) -> Table:
    title = (
        f"a training step: resnet18 student, {figures['teachers']} resnet18 teachers, "
        f"batch {figures['batch']}, {figures['image_size']} pixels, {figures['dtype']}, {figures['device']}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "images/s", "time, over student only"):
        table.add_column(column, justify="left" if not column else "right")
    for way, values in speeds.items():
        table.add_row(way, spread(values, 1), f"{middle[way] / middle[STUDENT_ONLY]:.2f}")
    shares = [seconds / middle[ROUTED] for seconds in routing]
    table.add_row("routing alone, of a step with routed teachers", "", f"{median(shares):.2%}")
    return table
