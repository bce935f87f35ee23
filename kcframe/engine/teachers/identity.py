"""What makes a teacher's outputs what they are: the teacher, and the pictures that it is shown."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kcframe.engine.checkpoint import MEMORY_ADDRESS, digest
from kcframe.errors import PluginError
from kcframe.interfaces.component import label
from kcframe.interfaces.data import Labels
from kcframe.interfaces.teacher import Teacher
from kcframe.storage.remote import without_secrets
from kcframe.taxonomy import Taxonomy

FORMAT = 1


def data_facts(settings: dict[str, Any], labels: Labels, taxonomy: Taxonomy) -> dict[str, Any]:
    """settings: the recipe's `data` section. labels: of the whole train split.

    Pictures are a function of these, a seed and an epoch; files that changed under the same names show when
    a sample is asked again.
    """
    return {
        "settings": settings,
        "labels": digest({"offsets": labels.offsets, "classes": labels.classes, "values": labels.sure()}),
        "classes": hashlib.sha256(taxonomy.to_json().encode()).hexdigest(),
    }


def identity(teacher: Teacher, data: dict[str, Any], precision: str) -> dict[str, Any]:
    """As plain data without secrets, for the manifest. precision: what the teacher computes in.

    PluginError for a teacher whose weights torch does not hold, and that does not say what they are.
    """
    weights = {k: v for k, v in teacher.state_dict().items() if k not in ("label_map", "columns")}
    if not weights and teacher.fingerprint is None:
        raise PluginError(
            f"{label(teacher)}: torch holds no weights of its network, so what it says cannot be told from "
            "what another says: give Teacher(…, fingerprint=…), the SHA-256 of its file, say, or leave "
            "teacher_cache out"
        )
    # What a network is beside its weights; some modules show where they lie in memory.
    built = MEMORY_ADDRESS.sub(
        "", f"{type(teacher).__module__}.{type(teacher).__qualname__} {teacher.network!r}"
    )
    about = {
        "kcframe_teacher_outputs": FORMAT,
        "teacher": {
            "name": teacher.name,
            "network": hashlib.sha256(built.encode()).hexdigest(),
            "fingerprint": teacher.fingerprint,
            "weights": digest(weights),
            "label_map": digest({"label_map": teacher.label_map, "columns": teacher.columns}),
            "pictures": {
                "channels": teacher.channels,
                "mean": list(teacher.mean),
                "std": list(teacher.std),
                "input_size": teacher.input_size,
            },
        },
        "data": data,
        "precision": precision,
    }
    return _without_secrets(about)


def _without_secrets(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_secrets(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_secrets(each) for each in value]
    return without_secrets(value) if isinstance(value, str) else value


def short(about: dict[str, Any]) -> str:
    """Names an identity in a folder's name."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]


def looks_at_each_alone(soften: Callable[..., Tensor]) -> bool:
    """Whether it makes a logit's probability of that logit alone and keeps their order, as a sigmoid does
    and a softmax does not: then the K best of what it gives are known from the K best logits.

    Found out by trying, on a few rows of logits, by themselves and among others.
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 13, generator=generator) * 5
    columns = [5, 2, 9]
    try:
        with torch.inference_mode():
            said = soften(logits)
            alone = [soften(logits[row : row + 1, columns]) for row in range(4)]
            scaled, part = soften(logits, 2.0), soften(logits[1:3, columns], 2.0)
    except Exception:  # a stranger's code: one that asks for a certain number of outputs, say
        return False
    ordered = said.gather(1, logits.argsort(dim=1)).diff(dim=1) >= 0
    same = torch.allclose(said[:, columns], torch.cat(alone), rtol=1e-5, atol=0)
    return bool(same and torch.allclose(scaled[1:3, columns], part, rtol=1e-5, atol=0) and ordered.all())
