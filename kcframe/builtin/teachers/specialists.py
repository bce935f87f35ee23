"""The specialists trained in this run."""

from __future__ import annotations

from kcframe.builtin.teachers.options import SpecialistsOptions
from kcframe.builtin.teachers.saved import saved_teacher
from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource


class Specialists(TeacherSource):
    """One teacher a vertical: T(V_v) of eq. 2."""

    name = "specialists"
    Options = SpecialistsOptions
    needs_specialists = True

    def teachers(self, context: TeacherContext) -> list[Teacher]:
        files = context.specialist_files
        wanted = self.options.verticals or tuple(files)
        for vertical in wanted:
            if vertical not in files:
                raise DataError(
                    f"teacher 'specialists': no vertical '{vertical}'; {did_you_mean(vertical, files)}"
                )
        return [saved_teacher(vertical, files[vertical], context) for vertical in wanted]
