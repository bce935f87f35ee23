"""The teachers of an arm, built from files that its specialists or other people left."""

from __future__ import annotations

from kcframe.assembly.arms import Arm, teacher_sources
from kcframe.assembly.saved import load_specialist, read_file
from kcframe.errors import PluginError
from kcframe.interfaces.component import label
from kcframe.interfaces.data import DataSource
from kcframe.interfaces.teacher import Teacher, TeacherContext
from kcframe.storage.layout import WEIGHTS, specialist_folder
from kcframe.storage.run_dir import RunDir


def teacher_context(source: DataSource, run_dir: RunDir, has_specialists: bool) -> TeacherContext:
    """What teacher sources are told of the run."""
    names = source.taxonomy.verticals if has_specialists else ()
    return TeacherContext(
        taxonomy=source.taxonomy,
        channels=source.channels,
        image_size=source.image_size,
        read=read_file,
        specialist_files={v: run_dir.path(f"{specialist_folder(v)}/{WEIGHTS}") for v in names},
        load_specialist=load_specialist,
    )


def build_teachers(arm: Arm, context: TeacherContext) -> list[Teacher]:
    """All teachers of an arm, from files that are there by now. The sources are built anew: what one keeps of
    its teachers is not another caller's."""
    teachers = []
    for source in teacher_sources(arm.spec) if arm.uses_teachers else ():
        for teacher in source.teachers(context):
            teacher.provenance = f"{label(source)}: teacher '{teacher.name}'"
            check_label_map(teacher, context.taxonomy.num_classes)
            teachers.append(teacher)
    return teachers


def check_label_map(teacher: Teacher, num_classes: int) -> None:
    """PluginError if a teacher names a class that there is not."""
    wrong = teacher.label_map[(teacher.label_map < 0) | (teacher.label_map >= num_classes)]
    if len(wrong):
        raise PluginError(
            f"{label(teacher)}: its label map names class {int(wrong.max())}, the taxonomy has 0 to "
            f"{num_classes - 1}"
        )
