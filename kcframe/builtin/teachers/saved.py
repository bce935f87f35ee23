"""A specialist that kcframe saved, as a teacher."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.teacher import Teacher, TeacherContext


def saved_teacher(
    name: str, url: str, context: TeacherContext, names: Mapping[str, str] | None = None
) -> Teacher:
    """Load a specialist and map its outputs to our class ids.

    names: its class name -> ours; classes left out are cut from its outputs. None: names are the same.
    """
    network, about = context.load_specialist(url)
    known = {ours: class_id for class_id, ours in enumerate(context.taxonomy.classes)}
    if names is not None and (strangers := sorted(set(names) - set(about["classes"]))):
        hint = did_you_mean(strangers[0], about["classes"])
        raise DataError(f"label map of {url}: it has no class '{strangers[0]}'; {hint}")
    kept, label_map = [], []
    for output, theirs in enumerate(about["classes"]):
        ours = theirs if names is None else names.get(theirs)
        if ours is None:
            continue
        if ours not in known:
            raise DataError(
                f"{url}: its class '{theirs}' would be our '{ours}', which the data does not have; "
                f"{did_you_mean(ours, known)} Give the teacher a label_map that leaves it out"
            )
        kept.append(output)
        label_map.append(known[ours])
    if not kept:
        raise DataError(f"{url}: the label map leaves none of its {len(about['classes'])} classes")
    if len(kept) < len(about["classes"]):
        network = torch.nn.Sequential(network, _Columns(torch.tensor(kept)))
    return Teacher(
        name,
        network,
        torch.tensor(label_map),
        channels=about["channels"],
        # The saved network normalises by itself.
        mean=(0.0,),
        std=(1.0,),
        input_size=about["image_size"],
    )


class _Columns(torch.nn.Module):
    """Keeps some of the outputs."""

    def __init__(self, columns: torch.Tensor):
        super().__init__()
        self.register_buffer("columns", columns)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits[:, self.columns]
