"""A specialist that kcframe saved, as a teacher."""

from __future__ import annotations

from collections.abc import Mapping

from kcframe.interfaces.teacher import Teacher, TeacherContext
from kcframe.interfaces.toolkit.label_map import by_own_names, place_outputs


def saved_teacher(
    name: str, url: str, context: TeacherContext, renames: Mapping[str, str] | None = None
) -> Teacher:
    """Load a specialist and map its outputs to our class ids.

    renames: its class name -> ours; classes left out are not asked. None: its names are ours. Raises
    DataError, naming the file, if it or its label map does not fit.
    """
    network, about = context.load_specialist(url)
    own = about["classes"]
    return Teacher(
        name,
        network,
        place_outputs(by_own_names(own, renames, url), len(own), context.taxonomy, url, own),
        channels=about["channels"],
        # The saved network normalises by itself.
        mean=(0.0,),
        std=(1.0,),
        input_size=about["image_size"],
    )
