"""A specialist saved by another run."""

from __future__ import annotations

from kcframe.builtin.teachers.options import CheckpointOptions
from kcframe.builtin.teachers.saved import saved_teacher
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource
from kcframe.interfaces.toolkit.label_map import read_renames


class Checkpoint(TeacherSource):
    """One `specialists/V/weights.safetensors` of any run directory, with its own label map."""

    name = "checkpoint"
    Options = CheckpointOptions
    options: CheckpointOptions

    def check(self, context: TeacherContext) -> None:
        # A specialist is small: loading it is a cheap check.
        self.teachers(context)

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        path, label_map = self.options.path, self.options.label_map
        renames = None if label_map is None else read_renames(label_map, context.read)
        return [saved_teacher(path, path, context, renames)]
