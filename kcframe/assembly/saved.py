"""Rebuilds networks from files: specialists that a run has saved, and the weights of any network."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from pydantic import ValidationError

from kcframe.assembly.networks import bare_specialist
from kcframe.assembly.plugins import build_backbone
from kcframe.engine.checkpoint import laid_out_like, unpack_weights
from kcframe.engine.model import Student
from kcframe.errors import DataError, StorageError
from kcframe.recipe.schema import PluginRef
from kcframe.storage.remote import HOPELESS, PAUSES_AT_FIRST, explained, patiently, without_secrets


def read_file(url: str) -> bytes:
    """Bytes of a path or URL.

    Raises DataError, with its name, if it does not exist or can never be read; StorageError if a later
    attempt may succeed.
    """
    import fsspec

    shown = without_secrets(url)
    try:
        storage, path = fsspec.url_to_fs(url)
        return patiently(lambda: storage.cat_file(path), PAUSES_AT_FIRST if "://" in url else ())
    except FileNotFoundError:
        raise DataError(f"{shown}: no such file") from None
    except (*HOPELESS, ImportError, ValueError) as error:
        raise DataError(f"{shown}: cannot be read: {explained(error)}") from None
    except Exception as error:  # each storage raises its own
        raise StorageError(f"{shown}: cannot be read: {explained(error)}") from error


def load_specialist(url: str) -> tuple[Student, dict[str, Any]]:
    """Rebuilds a saved specialist: (network: pictures in 0..1 -> logits, metadata of its file)."""
    data, url = read_file(url), without_secrets(url)
    state, about = unpack_weights(data, url)
    if about.get("kind") != "specialist":
        raise DataError(f"{url}: this is a {about.get('kind', 'file')}, not a specialist")
    try:
        ref, classes = PluginRef(**about["backbone"]), about["classes"]
        channels, image_size = about["channels"], about["image_size"]
    except (KeyError, TypeError, ValidationError) as error:
        raise DataError(f"{url}: was written by another kcframe: {error}") from None

    def build() -> Student:
        return bare_specialist(build_backbone(ref, channels, image_size), len(classes))

    return restore(build, state, url, f"backbone '{ref.name}'"), about


def restore(build: Callable[[], Student], state: dict[str, torch.Tensor], url: str, what: str) -> Student:
    """A network with the weights of a file, in evaluation mode. Raises DataError if they do not fit `what`.

    If its plugins allow it, the network is built on the meta device: no random initial weights, and no
    download of the pretrained weights that training began with.
    """
    network = _restored_without_memory(build, state)
    if network is None:
        network = build()
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            lines = str(error).strip().splitlines()
            reason = " ".join(line.strip() for line in lines[1:] or lines)
            raise DataError(f"{url}: its weights do not fit {what} as it is now: {reason[:300]}") from None
    return network.requires_grad_(False).eval()


def _restored_without_memory(build: Callable[[], Student], state: dict[str, torch.Tensor]) -> Student | None:
    """The network, built on the meta device; None if that does not work.

    Reasons: the weights do not fit, or a plugin uses the values of its tensors, or has tensors that are not
    in its state dict.
    """
    try:
        with torch.device("meta"):
            network = build()
        fresh = network.state_dict()
        laid_out = {k: laid_out_like(fresh[k], v) if k in fresh else v for k, v in state.items()}
        network.load_state_dict(laid_out, assign=True)
    except Exception:  # a plugin's code: its error is raised when it is built on the CPU
        return None
    attributes = chain.from_iterable(vars(module).values() for module in network.modules())
    every = chain(network.parameters(), network.buffers(), attributes)
    return None if any(isinstance(t, torch.Tensor) and t.is_meta for t in every) else network
