"""Which of a network's outputs are which of our classes.

C outputs, numbered from 0; a label map names some of them. The same file is in kcframe-teacher-onnx.
"""
# twin of kcframe.builtin.teachers.checkpoint (the JSON file) and .saved (names to class ids)

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy

Names = Mapping[int, str] | Sequence[str | None]
"""Our class names by output: a mapping, or a list with an entry an output; None and absent: not asked."""


def read_names(path: str, read: Callable[[str], bytes]) -> Names:
    """A JSON file: an object {"output": our class name}, or a list of names and nulls, one an output.

    Raises DataError, naming the file, if it is neither.
    """
    try:
        found = json.loads(read(path))
    except ValueError as error:
        raise DataError(f"label map {path}: not JSON ({error})") from None
    if isinstance(found, list) and all(name is None or isinstance(name, str) for name in found):
        return found
    if isinstance(found, dict) and all(isinstance(name, str) for name in found.values()):
        if strange := next((key for key in found if not (key.isascii() and key.isdigit())), None):
            raise DataError(
                f"label map {path}: '{strange}' should be the number of an output, counted from 0"
            )
        return {int(key): name for key, name in found.items()}
    raise DataError(
        f'label map {path}: should be a JSON object {{"output": our class name}} or a JSON list of names'
    )


def place_outputs(
    names: Names, num_outputs: int, taxonomy: Taxonomy, url: str
) -> tuple[list[int], list[int]]:
    """(the outputs that are kept, ascending; the class id of each), both at least one.

    num_outputs: C. url: the network's file, for messages. Raises DataError if a name is no class of ours
    or stands twice, or if the map is for another number of outputs.
    """
    if isinstance(names, Mapping):
        if beyond := [output for output in sorted(names) if output >= num_outputs]:
            raise DataError(
                f"label map of {url}: it has no output {beyond[0]}; its {num_outputs} outputs are numbered "
                f"0 to {num_outputs - 1}"
            )
        named = sorted(names.items())
    else:
        if len(names) != num_outputs:
            raise DataError(
                f"label map of {url}: has {len(names)} entries for {num_outputs} outputs; put null for an "
                "output that is not to be asked"
            )
        named = [(output, name) for output, name in enumerate(names) if name is not None]
    if not named:
        raise DataError(f"label map of {url}: names none of its {num_outputs} outputs")
    known = {ours: class_id for class_id, ours in enumerate(taxonomy.classes)}
    taken: dict[str, int] = {}
    for output, ours in named:
        if ours not in known:
            raise DataError(
                f"label map of {url}: output {output} would be our '{ours}', which the data does not have "
                f"(any output may be left out); {did_you_mean(ours, known)}"
            )
        if (other := taken.setdefault(ours, output)) != output:
            raise DataError(
                f"label map of {url}: outputs {other} and {output} are both our '{ours}'; keep one of them"
            )
    return [output for output, _ in named], [known[ours] for _, ours in named]
