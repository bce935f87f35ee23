"""Which of a network's outputs are which of our classes: for teacher sources.

C outputs, numbered from 0; a label map names some of them. A network whose outputs have names of their own
is renamed by `by_own_names`; one whose outputs have numbers alone is named outright.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy

Names = Mapping[int, str] | Sequence[str | None]
"""Our class names by output: a mapping, or a list with an entry an output; None and absent: not asked."""


def read_names(path: str, read: Callable[[str], bytes]) -> Names:
    """A JSON file: an object {"output": our class name}, or a list of names and nulls, one an output.

    Raises DataError, naming the file, if it is neither.
    """
    found = _json(path, read)
    if isinstance(found, list) and all(name is None or isinstance(name, str) for name in found):
        return found
    if not _names_by_key(found):
        raise DataError(
            f'label map {path}: should be a JSON object {{"output": our class name}} or a JSON list of names'
        )
    if strange := [key for key in found if not (key.isascii() and key.isdigit())]:
        raise DataError(f"label map {path}: '{strange[0]}' should be the number of an output, counted from 0")
    return {int(key): name for key, name in found.items()}


def read_renames(path: str, read: Callable[[str], bytes]) -> dict[str, str]:
    """A JSON file: an object {its class name: our class name}, what `by_own_names` is given.

    Raises DataError, naming the file, if it is something else.
    """
    renames: dict[str, str] = _json(path, read)
    if not _names_by_key(renames):
        raise DataError(f"label map {path}: should be a JSON object {{its class name: our class name}}")
    return renames


def by_own_names(own: Sequence[str], given: Mapping[str, str] | None, url: str) -> Names:
    """Names for a network that calls its outputs `own`, C names.

    given: its name -> ours; outputs left out are not asked. None: its names are ours. url: the network's
    file, for messages. Raises DataError if `given` names an output that it does not have.
    """
    if given is None:
        return own
    if strangers := [name for name in given if name not in set(own)]:
        raise DataError(
            f"label map of {url}: it has no class '{strangers[0]}'; {did_you_mean(strangers[0], own)}"
        )
    return [given.get(name) for name in own]


def place_outputs(
    names: Names, num_outputs: int, taxonomy: Taxonomy, url: str, own: Sequence[str] | None = None
) -> Tensor:
    """int64 [C], what `Teacher` takes as its label map: each output's class id, or -1; not all are -1.

    num_outputs: C. url: the network's file; own: its own C names, if it has them; both for messages.
    Raises DataError if a name is no class of ours or stands twice, if there is none, or if the map is for
    another number of outputs.
    """
    placed = torch.full((num_outputs,), -1)
    known = taxonomy.class_ids
    taken: dict[str, int] = {}

    def called(output: int) -> str:
        return f"output {output}" if own is None else f"its class '{own[output]}'"

    for output, ours in _named(names, num_outputs, url):
        if ours not in known:
            raise DataError(
                f"{url}: {called(output)} would be our '{ours}', which the data does not have "
                f"(a label map may leave it out); {did_you_mean(ours, known)}"
            )
        if (other := taken.setdefault(ours, output)) != output:
            raise DataError(
                f"{url}: {called(other)} and {called(output)} are both our '{ours}': leave one out of the "
                "label map"
            )
        placed[output] = known[ours]
    return placed


def _named(names: Names, num_outputs: int, url: str) -> list[tuple[int, str]]:
    """(output, our class name), at least one, ascending."""
    if isinstance(names, Mapping):
        if beyond := [output for output in sorted(names) if not 0 <= output < num_outputs]:
            raise DataError(
                f"label map of {url}: it has no output {beyond[0]}; its {num_outputs} outputs are numbered "
                f"0 to {num_outputs - 1}"
            )
        found = sorted(names.items())
    else:
        if len(names) != num_outputs:
            raise DataError(
                f"label map of {url}: has {len(names)} entries for {num_outputs} outputs; put null for an "
                "output that is not to be asked"
            )
        found = [(output, name) for output, name in enumerate(names) if name is not None]
    if not found:
        raise DataError(f"label map of {url}: names none of its {num_outputs} outputs")
    return found


def _json(path: str, read: Callable[[str], bytes]) -> Any:
    try:
        return json.loads(read(path))
    except ValueError as error:
        raise DataError(f"label map {path}: not JSON ({error})") from None


def _names_by_key(found: Any) -> bool:
    return isinstance(found, dict) and all(isinstance(name, str) for name in found.values())
