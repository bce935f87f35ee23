"""What a run tells a teacher source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kcframe.assembly.saved import load_specialist, read_file
from kcframe.interfaces.teacher import TeacherContext
from kcframe.taxonomy import Taxonomy


def teacher_context(
    classes: Taxonomy | Mapping[str, Sequence[str]],
    *,
    channels: int = 3,
    image_size: int = 32,
    specialist_files: Mapping[str, str] | None = None,
) -> TeacherContext:
    """The TeacherContext of a run with these classes, which reads files as a run does.

    classes: the taxonomy, or class names by vertical. channels, image_size: of the data source's pictures.
    specialist_files: the run's specialists by vertical (`Run.specialist_file`); None: it trains none.
    """
    taxonomy = classes if isinstance(classes, Taxonomy) else Taxonomy.build(classes)
    return TeacherContext(
        taxonomy=taxonomy,
        channels=channels,
        image_size=image_size,
        read=read_file,
        specialist_files=dict(specialist_files or {}),
        load_specialist=load_specialist,
    )
