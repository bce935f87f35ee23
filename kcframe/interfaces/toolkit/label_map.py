"""Label maps for teacher sources: which outputs of a network are which of our classes.

A network has C outputs, numbered from 0. A label map gives our class names for some of them. If the network
has its own class names, `by_own_names` translates them; else the label map names the outputs by number.
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
"""Our class names by output: a mapping, or a list with one entry per output. None or no entry: not used."""


def read_names(path: str, read: Callable[[str], bytes]) -> Names:
    """Reads a JSON file: an object {"output": our class name}, or a list with a name or null per output.

    Raises DataError, with the file's name, if it is neither.
    """
    content = _json(path, read)
    if isinstance(content, list) and all(name is None or isinstance(name, str) for name in content):
        return content
    if not _names_by_key(content):
        raise DataError(
            f'label map {path}: should be a JSON object {{"output": our class name}} or a JSON list of names'
        )
    if strange := [key for key in content if not (key.isascii() and key.isdigit())]:
        raise DataError(f"label map {path}: '{strange[0]}' should be the number of an output, counted from 0")
    return {int(key): name for key, name in content.items()}


def read_renames(path: str, read: Callable[[str], bytes]) -> dict[str, str]:
    """Reads a JSON file for `by_own_names`: an object {the network's class name: our class name}.

    Raises DataError, with the file's name, if it is something else.
    """
    renames: dict[str, str] = _json(path, read)
    if not _names_by_key(renames):
        raise DataError(f"label map {path}: should be a JSON object {{its class name: our class name}}")
    return renames


def by_own_names(own: Sequence[str], given: Mapping[str, str] | None, url: str) -> Names:
    """Our class names for a network with its own class names.

    own: the network's C names. given: name of the network -> our name; other outputs are not used. None: the
    names are the same. url: the network's file, for messages. Raises DataError if `given` has a name that the
    network does not have.
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
    """The label map of a `Teacher`, int64 [C]: each output's class id, or -1; at least one is not -1.

    num_outputs: C. url: the network's file. own: the network's C names, if it has names. Both are for
    messages. Raises DataError if a name is not a class of the taxonomy or occurs twice, if there is no name,
    or if the map is for another number of outputs.
    """
    placed = torch.full((num_outputs,), -1)
    class_ids = taxonomy.class_ids
    taken: dict[str, int] = {}

    def called(output: int) -> str:
        return f"output {output}" if own is None else f"its class '{own[output]}'"

    for output, ours in _named(names, num_outputs, url):
        if ours not in class_ids:
            raise DataError(
                f"{url}: {called(output)} would be our '{ours}', which the data does not have "
                f"(a label map may leave it out); {did_you_mean(ours, class_ids)}"
            )
        if (other := taken.setdefault(ours, output)) != output:
            raise DataError(
                f"{url}: {called(other)} and {called(output)} are both our '{ours}': leave one out of the "
                "label map"
            )
        placed[output] = class_ids[ours]
    return placed


def _named(names: Names, num_outputs: int, url: str) -> list[tuple[int, str]]:
    """(output, our class name) pairs, at least one, ascending."""
    if isinstance(names, Mapping):
        if beyond := [output for output in sorted(names) if not 0 <= output < num_outputs]:
            raise DataError(
                f"label map of {url}: it has no output {beyond[0]}; its {num_outputs} outputs are numbered "
                f"0 to {num_outputs - 1}"
            )
        pairs = sorted(names.items())
    else:
        if len(names) != num_outputs:
            raise DataError(
                f"label map of {url}: has {len(names)} entries for {num_outputs} outputs; put null for an "
                "output that is not to be asked"
            )
        pairs = [(output, name) for output, name in enumerate(names) if name is not None]
    if not pairs:
        raise DataError(f"label map of {url}: names none of its {num_outputs} outputs")
    return pairs


def _json(path: str, read: Callable[[str], bytes]) -> Any:
    try:
        return json.loads(read(path))
    except ValueError as error:
        raise DataError(f"label map {path}: not JSON ({error})") from None


def _names_by_key(content: Any) -> bool:
    return isinstance(content, dict) and all(isinstance(name, str) for name in content.values())
