"""The suite of teacher plugins."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import ClassVar
from unittest import SkipTest

import torch
from torch import Tensor

from kcframe.assembly.teachers import check_label_map
from kcframe.engine.plugin_calls import call_for_tensor
from kcframe.engine.teachers.routing import Router
from kcframe.errors import DataError, KcframeError
from kcframe.interfaces.data import ImageSet, Labels
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource
from kcframe.interfaces.toolkit.randomness import keyed_uniforms
from kcframe.taxonomy import Taxonomy
from kcframe.testing.context import teacher_context
from kcframe.testing.expect import expect, expect_finite, expect_same, fail
from kcframe.testing.module import CPU
from kcframe.testing.runs import train_recipe
from kcframe.testing.steps import few_steps
from kcframe.testing.suite import PluginSuite
from kcframe.testing.tiny import tiny_recipe

BATCH = 4
MANY = 24  # pictures, flat, striped and noisy, whose outputs are looked at together


class TeacherSuite(PluginSuite):
    """Subclass it, name your teacher plugin, and say which classes there are.

        class TestBirds(TeacherSuite):
            name = "birds"
            options = {"path": "tests/birds.onnx"}
            verticals = {"birds": ["wren", "crow"], "cars": ["coupe"]}

    The verticals should have classes that the teachers do not know.
    """

    kind: ClassVar[str] = "teacher"

    verticals: Mapping[str, list[str]] = {
        f"vertical {v}": [f"v{v} class {c}" for c in range(size)] for v, size in enumerate((5, 1, 3))
    }
    """The run's classes, by vertical."""

    channels, image_size = 3, 16
    """Of the data source's pictures."""

    exact_batches = 1e-4
    """By how much (relatively) a picture's logits may change with the size of its batch."""

    def make(self) -> TeacherSource:
        return self.construct()

    @property
    def taxonomy(self) -> Taxonomy:
        return Taxonomy.build({name: list(classes) for name, classes in self.verticals.items()})

    @property
    def context(self) -> TeacherContext:
        """What a run gives its teacher sources; with specialists, if this one needs them."""
        needs = self.component.load().needs_specialists
        run = tuple(map(len, self.verticals.values())), self.channels, self.image_size
        return teacher_context(
            self.taxonomy,
            channels=self.channels,
            image_size=self.image_size,
            specialist_files=_specialists(*run) if needs else None,
        )

    def teachers(self) -> list[Teacher]:
        """As a run has them."""
        return [teacher.eval() for teacher in self.make().teachers(self.context)]

    # -- label maps --------------------------------------------------------------------------------

    def test_it_brings_teachers(self):
        teachers = self.make().teachers(self.context)
        expect(isinstance(teachers, list) and len(teachers) > 0, "teachers() brings no teacher")
        for teacher in teachers:
            expect(isinstance(teacher, Teacher), f"teachers() brings a {type(teacher).__name__}")
            expect(bool(teacher.name), "a teacher has no name")
            devices = {p.device.type for p in teacher.parameters()}
            expect(devices <= {"cpu"}, f"teacher '{teacher.name}' is on {devices}: the engine moves it")

    def test_label_maps_name_classes_that_there_are(self):
        for teacher in self.teachers():
            expect(len(teacher.label_map) > 0, f"teacher '{teacher.name}' knows no class")
            check_label_map(teacher, self.taxonomy.num_classes)

    def test_it_is_silent_outside_its_label_map(self):
        taxonomy = self.taxonomy
        for teacher in self.teachers():
            known = set(teacher.label_map.tolist())
            router = Router([teacher], taxonomy.num_classes, torch.sigmoid, None, CPU)
            labels = Labels.from_lists([[c] for c in range(taxonomy.num_classes)])
            rows, classes, values = router(self.pictures(taxonomy.num_classes), labels)
            for row, named in zip(rows.tolist(), classes.tolist(), strict=True):
                expect(
                    named in known if row in known else named == row,
                    f"teacher '{teacher.name}' speaks of class {named}, outside its label map",
                )
            expect_finite(f"what teacher '{teacher.name}' says", values)

    # -- what they say -----------------------------------------------------------------------------

    def test_outputs_are_a_logit_a_class(self):
        for teacher in self.teachers():
            for rows in (BATCH, 1):
                shape = (rows, len(teacher.label_map))
                logits = call_for_tensor(teacher, "forward", shape, self.pictures(rows))
                expect_finite(f"the logits of teacher '{teacher.name}'", logits)

    def test_outputs_are_logits_and_no_probabilities(self):
        with torch.inference_mode():
            for teacher in self.teachers():
                outputs = teacher(self.pictures(MANY)).float()
                advice = "; kcframe.interfaces.toolkit.log_odds.ToLogits makes logits of them"
                inside = bool(((outputs >= 0) & (outputs <= 1)).all())
                expect(
                    not inside, f"all outputs of '{teacher.name}' lie in 0..1, as probabilities do{advice}"
                )
                if outputs.shape[1] > 1:
                    whole = outputs.logsumexp(1).abs().max()
                    expect(
                        float(whole) > 1e-3,
                        f"the outputs of '{teacher.name}' are a softmax's log-probabilities{advice}",
                    )

    def test_it_says_the_same_of_the_same_picture(self):
        images = self.pictures(BATCH)
        with torch.inference_mode():
            for teacher in self.teachers():
                before = {name: value.clone() for name, value in teacher.state_dict().items()}
                first = teacher(images)
                again = teacher(images)
                expect_same(again, first, f"'{teacher.name}' says something else of the same pictures")
                expect_same(dict(teacher.state_dict()), before, f"'{teacher.name}' changes when it is asked")
                alone = torch.cat([teacher(image.unsqueeze(0)) for image in images])
                expect(
                    torch.allclose(alone, first, rtol=self.exact_batches, atol=self.exact_batches),
                    f"what '{teacher.name}' says of a picture depends on the others of its batch",
                )

    def test_every_worker_has_the_same_teachers(self):
        context = self.context
        sources, built = (self.make(), self.make()), []
        for seed, source in enumerate(sources):
            torch.manual_seed(seed)  # as it happens to stand: what a run trains must not depend on it
            built.append(source.teachers(context))
        one, other = built
        images = self.pictures(BATCH)
        with torch.inference_mode():
            expect(len(one) == len(other), "it brings another number of teachers the second time")
            for a, b in zip(one, other, strict=True):
                expect_same(b.label_map, a.label_map, f"'{a.name}' is built with another label map each time")
                expect_same(
                    b.eval()(images), a.eval()(images), f"'{a.name}' is built with other weights each time"
                )

    def test_it_moves_to_the_gpu(self):
        if not torch.cuda.is_available():
            raise SkipTest("no GPU here")
        with torch.inference_mode():
            for teacher in self.teachers():
                device = teacher.to("cuda")(self.pictures(BATCH).to("cuda")).device.type
                expect(device == "cuda", f"'{teacher.name}', moved to cuda, answers on {device}")

    # -- early errors ------------------------------------------------------------------------------

    def test_check_accepts_what_can_be_built(self):
        context = self.context
        before = replace(context, specialist_files={})  # none is trained yet
        self.make().check(before)

    def test_check_says_early_that_files_are_missing(self):
        def nothing(path: str) -> bytes:
            raise DataError(f"{path}: no such file")

        self._expect_early("its files are not there", read=nothing)

    def test_check_says_early_that_classes_are_unknown(self):
        strangers = Taxonomy.build({"strangers": ["nobody knows", "these classes"]})
        self._expect_early("none of its classes is there", taxonomy=strangers)

    def test_a_student_learns_from_it(self):
        taxonomy = self.taxonomy
        images = _Pictures(taxonomy, self.channels, self.image_size)
        few_steps(taxonomy, self.channels, images, images, self.teachers())

    # -- parts of checks ---------------------------------------------------------------------------

    def pictures(self, rows: int) -> Tensor:
        """Flat, striped and noisy pictures in 0..1: float [rows, channels, side, side]."""
        return _pictures(torch.arange(rows), self.channels, self.image_size)

    def _expect_early(self, why: str, **changes) -> None:
        """End the check if `teachers` refuses a context in which `check` sees nothing wrong."""
        __tracebackhide__ = True
        context = self.context
        if context.specialist_files:
            raise SkipTest("its files are this run's specialists, which come later")
        changed = replace(context, **changes)
        try:
            self.make().teachers(changed)
        except KcframeError as late:
            try:
                self.make().check(changed)
            except KcframeError:
                return
            fail(f"check() says nothing where {why}; hours later teachers() says: {late}")
        except Exception as error:
            fail(
                f"where {why}, teachers() raises {type(error).__name__}: {error}; raise a DataError that "
                "names file and class"
            )


@cache
def _specialists(sizes: tuple[int, ...], channels: int, image_size: int) -> dict[str, str]:
    """Vertical -> file of a specialist, trained once in this process."""
    options = {"verticals": list(sizes), "channels": channels, "image_size": image_size, "train_images": 30}
    data = {"name": "synthetic", "options": options}
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    recipe = tiny_recipe({}, teachers=True, data=data)
    run = train_recipe(recipe, folder, choose=lambda plan: plan.specialists)
    return {vertical: run.specialist_file(vertical) for vertical in run.source.taxonomy.verticals}


class _Pictures(ImageSet):
    """An image of each class, twice."""

    def __init__(self, taxonomy: Taxonomy, channels: int, image_size: int):
        self.channels, self.image_size = channels, image_size
        self.labels = Labels.from_lists([c] for c in [*range(taxonomy.num_classes)] * 2)

    def load(self, indices: Tensor, keys: Tensor | None) -> Tensor:
        return _pictures(indices, self.channels, self.image_size)


def _pictures(indices: Tensor, channels: int, side: int) -> Tensor:
    keys = indices * 2_654_435_761 + 1
    noise = keyed_uniforms(keys, channels * side * side).view(-1, channels, side, side)
    level, shade = keyed_uniforms(keys + 7, 2).view(-1, 2, 1, 1, 1).unbind(1)
    stripes = ((torch.arange(side) * 4 // side) % 2).float()
    kind = (indices % 3).view(-1, 1, 1, 1)
    striped = torch.where(kind == 1, shade * stripes, noise)
    return torch.where(kind == 0, level.expand_as(noise), striped)
