"""A specialist saved by another run."""

from __future__ import annotations

import json

from kcframe.builtin.teachers.options import CheckpointOptions
from kcframe.builtin.teachers.saved import saved_teacher
from kcframe.errors import DataError
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource


class Checkpoint(TeacherSource):
    """One `specialists/V/weights.safetensors` of any run directory, with its own label map."""

    name = "checkpoint"
    Options = CheckpointOptions

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        names = None
        if (path := self.options.label_map) is not None:
            try:
                names = json.loads(context.read(path))
            except ValueError as error:
                raise DataError(f"label map {path}: not JSON ({error})") from None
            if not isinstance(names, dict) or not all(isinstance(v, str) for v in names.values()):
                raise DataError(
                    f"label map {path}: should be a JSON object {{its class name: our class name}}"
                )
        return [saved_teacher(self.options.path, self.options.path, context, names)]
