"""`kcframe bench step`: what teachers cost a training step, and what routing saves of it."""

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

from kcframe.build.networks import build_specialist, build_student
from kcframe.build.plugins import build_objective
from kcframe.build.source import build_source
from kcframe.build.teacher_cache import that_ask
from kcframe.cli.bench.figures import name_of, spread, waited_for, write_json
from kcframe.engine.data.batches import Batch
from kcframe.engine.loss.targets import SlotIndex, SlotTargets
from kcframe.engine.teachers.asking import Need, View, fill
from kcframe.engine.teachers.cached_router import KeptRouter
from kcframe.engine.teachers.identity import identity
from kcframe.engine.teachers.routing import Router
from kcframe.engine.teachers.stored_outputs import Part
from kcframe.engine.trainer import Job, Trainer
from kcframe.engine.world import World
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.teacher import Teacher
from kcframe.recipe.schema import PluginRef, Recipe
from kcframe.run.backends.local import choose_device
from kcframe.storage.run_dir import RunDir
from kcframe.taxonomy import Taxonomy

STUDENT_ONLY, KEPT = "student only", "+ what teachers said, kept"
ROUTED, ALL = "+ routed teachers", "+ all teachers on all images"


class _Silent:
    def step(self, step: int, num_steps: int, loss: float) -> None: ...

    def evaluated(self, epoch: int, evaluation: Any) -> None: ...

    def say(self, text: str) -> None: ...


class _AskAll(Router):
    """Every teacher sees every image, the way peers do it."""

    def assign(self, labels: Labels) -> Tensor:
        return torch.ones(len(labels), len(self.teachers), dtype=torch.bool)


class _Free(nn.Module):
    """A network that costs nothing: what is left of asking it is routing."""

    def __init__(self, num_outputs: int):
        super().__init__()
        self.register_buffer("said", torch.randn(1, num_outputs))

    def forward(self, images: Tensor) -> Tensor:
        return self.said.expand(len(images), -1)


def bench_step(
    rounds: int,
    steps: int,
    batch: int,
    teachers: int,
    image_size: int,
    device: str,
    dtype: str,
    json_file: str | None,
) -> None:
    """Whole training steps on pictures from memory: without teachers, with what they said before, with routed
    ones, with all of them on all images; and routing (sorting a batch, top-K, scatter) by itself."""
    world = World(device=choose_device(device))
    recipe = _recipe(batch, teachers, image_size, dtype)
    source = build_source(recipe)
    batches = _batches(source, batch, steps + 1)
    with tempfile.TemporaryDirectory() as folder:
        ways = _trainers(recipe, source, world, batches, folder)
        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, trainer in ways.items():
                trainer.one_step(batches[0])  # warms up what the other ways have cooled
                for each in batches[1:]:
                    times[way].append(waited_for(world.device, lambda t=trainer, b=each: t.one_step(b)))
    routing = [_routing(recipe, source, world, each) for each in batches[1:] for _ in range(rounds)]
    speeds = {way: [batch / seconds for seconds in values] for way, values in times.items()}
    middle = {way: median(values) for way, values in times.items()}
    found = {
        "device": name_of(world.device),
        "dtype": dtype,
        "batch": batch,
        "teachers": teachers,
        "image_size": image_size,
        "images_per_second": {way: median(values) for way, values in speeds.items()},
        "kept_over_student": middle[KEPT] / middle[STUDENT_ONLY],
        "routed_over_student": middle[ROUTED] / middle[STUDENT_ONLY],
        "all_over_routed": middle[ALL] / middle[ROUTED],
        "routing_share": median(routing) / middle[ROUTED],
        "rows": [{"way": way, "seconds": values} for way, values in times.items()],
    }
    Console().print(_table(found, speeds, routing, middle))
    write_json(found, json_file)


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
    found = []
    for number in range(num):
        indices = torch.arange(number * size, (number + 1) * size) % len(images)
        found.append(Batch(images.load(indices, None), images.labels.take(indices), size, indices=indices))
    return found


def _trainers(
    recipe: Recipe, source: DataSource, world: World, batches: list[Batch], folder: str
) -> dict[str, Trainer]:
    """One for each way, with students that start alike. folder: for what teachers say of the batches."""
    spec, taxonomy = recipe.arms["student"], source.taxonomy
    objective = build_objective(spec.objective)

    def trainer(ref: PluginRef, router: Callable[..., Router] | None) -> Trainer:
        torch.manual_seed(0)
        job = Job(
            name="bench",
            folder="arms/bench",
            settings={},
            student=build_student(spec, source.channels, source.image_size, taxonomy),
            objective=build_objective(ref),
            taxonomy=taxonomy,
            images=source.split("train"),
            labels=source.split("train").labels,
            indices=torch.arange(taxonomy.num_classes),
            router=None,
            train=spec.train,
            seed=0,
            evaluation=lambda: None,
        )
        if router is not None:
            asked = _specialists(recipe, source, taxonomy)
            job.router = router(
                asked, taxonomy.num_classes, objective.soften, objective.num_kept, world.device
            )
        made = Trainer(job, RunDir("memory://bench"), world, _Silent())
        made.student.train()
        return made

    def kept(asked: list[Teacher], *how: Any) -> KeptRouter:
        images = torch.cat([each.indices for each in batches]).unique()
        labels = source.split("train").labels.take(images)
        needs = []
        for teacher in asked:
            own = images[that_ask(teacher, labels, taxonomy.num_classes)]
            about, outputs = identity(teacher, {}, spec.train.precision), len(teacher.label_map)
            width = min(objective.num_kept, outputs)
            needs.append(Need(Part(RunDir(folder), about, own, width, outputs), teacher, 1))
        fill(needs, View(source.split("train"), 0), world.device)
        return KeptRouter(asked, *how, [need.part for need in needs], 0)

    labels_only = PluginRef(name="hard-bce")
    return {
        STUDENT_ONLY: trainer(labels_only, None),
        KEPT: trainer(spec.objective, kept),
        ROUTED: trainer(spec.objective, Router),
        ALL: trainer(spec.objective, _AskAll),
    }


def _specialists(recipe: Recipe, source: DataSource, taxonomy: Taxonomy) -> list[Teacher]:
    def teacher(vertical: int) -> Teacher:
        own = torch.from_numpy(taxonomy.vertical_classes(vertical)).long()
        network = build_specialist(recipe.specialists, source.channels, source.image_size, len(own))
        return _teacher(network, own, source)

    return [teacher(vertical) for vertical in range(taxonomy.num_verticals)]


def _teacher(network: nn.Module, own: Tensor, source: DataSource) -> Teacher:
    return Teacher(
        "bench",
        network,
        own,
        channels=source.channels,
        mean=(0.0,),
        std=(1.0,),
        input_size=source.image_size,
    )


def _routing(recipe: Recipe, source: DataSource, world: World, batch: Batch) -> float:
    """Seconds that routing takes by itself: teachers that cost nothing are asked, and what they say is put
    where each vertical's block finds it."""
    taxonomy = source.taxonomy
    objective = build_objective(recipe.arms["student"].objective)
    own = [torch.from_numpy(taxonomy.vertical_classes(v)).long() for v in range(taxonomy.num_verticals)]
    teachers = [_teacher(_Free(len(each)), each, source) for each in own]
    router = Router(teachers, taxonomy.num_classes, objective.soften, objective.num_kept, world.device)
    index, images = SlotIndex(taxonomy, world.device), batch.images.to(world.device)

    def route() -> None:
        SlotTargets(index, len(batch.labels), *router(images, batch.labels, None))

    route()
    return waited_for(world.device, route)


def _table(
    found: dict[str, Any], speeds: dict[str, list[float]], routing: list[float], middle: dict[str, float]
) -> Table:
    title = (
        f"a training step: resnet18 student, {found['teachers']} resnet18 teachers, batch {found['batch']}, "
        f"{found['image_size']} pixels, {found['dtype']}, {found['device']}"
    )
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for column in ("", "images/s", "time, over student only"):
        table.add_column(column, justify="left" if not column else "right")
    for way, values in speeds.items():
        table.add_row(way, spread(values, 1), f"{middle[way] / middle[STUDENT_ONLY]:.2f}")
    shares = [seconds / middle[ROUTED] for seconds in routing]
    table.add_row("routing alone, of a step with routed teachers", "", f"{median(shares):.2%}")
    return table
