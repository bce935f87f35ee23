"""The specialists trained in this run."""

from __future__ import annotations

from collections.abc import Iterable

from kcframe.builtin.teachers.options import SpecialistsOptions
from kcframe.builtin.teachers.saved import saved_teacher
from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource


class Specialists(TeacherSource):
    """One teacher per vertical: T(V_v) of eq. 2."""

    name = "specialists"
    Options = SpecialistsOptions
    options: SpecialistsOptions
    needs_specialists = True

    def check(self, context: TeacherContext) -> None:
        self._wanted(context.taxonomy.verticals)

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        files = context.specialist_files
        return [saved_teacher(vertical, files[vertical], context) for vertical in self._wanted(files)]

    def _wanted(self, verticals: Iterable[str]) -> tuple[str, ...]:
        """The verticals of the options, or all. Raises DataError if one of them is not in `verticals`."""
        available = tuple(verticals)
        for vertical in self.options.verticals or ():
            if vertical not in available:
                raise DataError(
                    f"teacher 'specialists': no vertical '{vertical}'; {did_you_mean(vertical, available)}"
                )
        return self.options.verticals or available
