"""Loads a specialist that kcframe saved as a teacher."""

from __future__ import annotations

from collections.abc import Mapping

from kcframe.interfaces.teacher import Teacher, TeacherContext
from kcframe.interfaces.toolkit.label_map import by_own_names, place_outputs


def saved_teacher(
    name: str, url: str, context: TeacherContext, renames: Mapping[str, str] | None = None
) -> Teacher:
    """Load a specialist and map its outputs to our class ids.

    renames: class name of the specialist -> our class name; other classes are ignored. None: the names are
    the same. Raises DataError, naming the file, if the specialist or its label map does not fit.
    """
    network, about = context.load_specialist(url)
    classes = about["classes"]
    return Teacher(
        name,
        network,
        place_outputs(by_own_names(classes, renames, url), len(classes), context.taxonomy, url, classes),
        channels=about["channels"],
        # The saved network includes its normalisation.
        mean=(0.0,),
        std=(1.0,),
        input_size=about["image_size"],
    )
