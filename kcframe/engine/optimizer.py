"""Optimizer, parameter groups and learning-rate schedule, as a recipe's `train` section says."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kcframe.engine.checkpoint import laid_out_like
from kcframe.engine.model import Student
from kcframe.recipe.schema import Train

FUSED_FROM = 2**22  # parameters: 16 MiB, and as much for each of their states


def build_optimizer(student: Student, train: Train) -> torch.optim.Optimizer:
    """AdamW or SGD over groups: matrices (with weight decay), biases and norms, of the head and of the
    backbone, and pace.

    Each group carries `scale`, its learning rate as a multiple of the recipe's.
    """
    paced = {id(p) for p in student.head.pacing.parameters()}
    below = {id(p) for p in student.backbone.parameters()}
    decay, scale = train.backbone_weight_decay, train.backbone_learning_rate_scale
    kinds = {
        "head matrices": (train.weight_decay, 1.0),
        "head vectors": (0.0, 1.0),
        "pace": (0.0, student.head.pacing.learning_rate_scale),
        "backbone matrices": (train.weight_decay if decay is None else decay, scale),
        "backbone vectors": (0.0, scale),
    }
    by_kind: dict[str, dict[str, Any]] = {
        kind: {"params": [], "weight_decay": decay, "scale": scale} for kind, (decay, scale) in kinds.items()
    }
    for parameter in student.parameters():
        if not parameter.requires_grad:
            continue
        part = "backbone" if id(parameter) in below else "head"
        shape = "matrices" if parameter.ndim > 1 else "vectors"
        kind = "pace" if id(parameter) in paced else f"{part} {shape}"
        by_kind[kind]["params"].append(parameter)
    groups = [group for group in by_kind.values() if group["params"]]
    options: dict[str, Any] = {"lr": train.learning_rate, "fused": _fused(groups)}
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, betas=(train.momentum, 0.999), **options)
    return torch.optim.SGD(groups, momentum=train.momentum, **options)


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Whether all of a step is done in one pass over the memory; None: torch's default.

    On the CPU a tenth of the time for networks beyond its caches, and nothing gained for those within.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    if parameters[0].device.type == "cpu" and sum(p.numel() for p in parameters) < FUSED_FROM:
        return None
    able = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return True if able else None


def restore_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Load what `state_dict` gave, laid out in memory as the parameters are: a fused step relies on that."""
    optimizer.load_state_dict(saved)
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor):
                state[name] = laid_out_like(parameter, value)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of a learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def learning_rate_at(train: Train, step: int, num_steps: int) -> float:
    """The rate of a step (from 0): linear warm-up, then constant, or half a cosine down to 0."""
    warmup = round(train.warmup * num_steps)
    if step < warmup:
        return train.learning_rate * (step + 1) / (warmup + 1)
    if train.schedule == "constant":
        return train.learning_rate
    return train.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (num_steps - warmup)))


def clip_gradients(module: nn.Module, largest: float | None) -> None:
    """Scale the whole gradient down to a norm, if it is larger."""
    if largest is not None:
        nn.utils.clip_grad_norm_(module.parameters(), largest)
