"""An onnxruntime session for a model's bytes, and what it says of the model."""

from __future__ import annotations

import ast
import os
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from kcframe.errors import DataError, PluginError, did_you_mean

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INSTALL = "pip install 'kcframe-teacher-onnx[cpu]', or [gpu] on a machine with an NVIDIA GPU"
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
LONGEST = 400  # characters of onnxruntime's own messages
ON_A_DEVICE = (CUDA, "TensorrtExecutionProvider", "MIGraphXExecutionProvider")  # take a device_id


def open_session(
    model: bytes, url: str, providers: Sequence[str] | None, device: torch.device
) -> InferenceSession:
    """model: the file's content. url: where it came from. providers: None picks them by device.

    Raises DataError if it is no model that onnxruntime can run here, PluginError without onnxruntime.
    """
    onnxruntime = _runtime()
    wanted = _providers(providers, onnxruntime.get_available_providers(), url, device)
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; they come as exceptions too, so that warnings are just noise
    # As torch does, or several teachers' threads would fight over the cores, also while they wait.
    settings.intra_op_num_threads = torch.get_num_threads()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if folder := _folder(url):
        # Where weights beside the model are looked for.
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    try:
        session = onnxruntime.InferenceSession(
            model, settings, providers=[(name, _settings(name, device)) for name in wanted]
        )
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise DataError(f"{url}: {_remedy(error, folder)}") from None
    if providers is not None and session.get_providers()[0] != providers[0]:
        raise DataError(
            f"{url}: onnxruntime has {providers[0]} but cannot start it here; is what it needs (CUDA, cuDNN "
            "…) installed in the versions it wants?"
        )
    if providers is None and device.type == "cuda" and session.get_providers()[0] == CPU:
        warnings.warn(
            f"teacher {url} runs on the CPU: onnxruntime has no {CUDA}, or cannot start it here. Most likely "
            "cure: pip uninstall onnxruntime, then pip install 'kcframe-teacher-onnx[gpu]'",
            stacklevel=2,
        )
    return session


def refuse_misspelt(providers: Sequence[str], url: str) -> None:
    """Raises DataError for a provider that no onnxruntime has, PluginError without onnxruntime.

    One that only the one installed here lacks may be there where the teacher will run.
    """
    onnxruntime = _runtime()
    known = {*onnxruntime.get_all_providers(), *onnxruntime.get_available_providers()}
    for name in providers:
        if name not in known:
            raise DataError(f"{url}: onnxruntime has no provider '{name}'; {did_you_mean(name, known)}")


def _runtime() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise PluginError(f"teacher 'onnx' needs onnxruntime ({error}): {INSTALL}") from None
    return onnxruntime


def _providers(
    asked: Sequence[str] | None, available: Sequence[str], url: str, device: torch.device
) -> Sequence[str]:
    if asked is not None:
        for name in asked:
            if name not in available:
                raise DataError(
                    f"{url}: this onnxruntime has no provider '{name}'; {did_you_mean(name, available)}"
                )
        return asked
    return [CUDA, CPU] if device.type == "cuda" and CUDA in available else [CPU]


def _settings(provider: str, device: torch.device) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if provider in ON_A_DEVICE and device.type == "cuda":
        settings["device_id"] = device.index or 0
    if provider == CUDA:
        # The default tries every algorithm for each new batch size, and teachers get a new one each step.
        settings["cudnn_conv_algo_search"] = "HEURISTIC"
    return settings


def _folder(url: str) -> str | None:
    """The folder of a local path; None for any other URL."""
    path = url.removeprefix("file://")
    return None if "://" in path else os.path.dirname(os.path.abspath(os.path.expanduser(path)))


def _remedy(error: Exception, folder: str | None) -> str:
    # Without onnxruntime's own "[ONNXRuntimeError] : 1 : FAIL : ".
    message = str(error).split(" : ", 3)[-1].strip()[:LONGEST]
    if "No graph was found" in message or type(error).__name__ == "InvalidProtobuf":
        return f"not an ONNX model ({message})"
    if "external" in message.lower() and folder is None:
        return (
            "its weights lie in a file of their own (external data), which is read from local folders only: "
            f"copy both files to one, or save it as one file ({message})"
        )
    return f"onnxruntime cannot load it: {message}"


def own_names(session: InferenceSession) -> dict[int, str] | None:
    """The metadata entry `names`, {output: class name} as Ultralytics writes it; None if there is none."""
    try:
        names = ast.literal_eval(session.get_modelmeta().custom_metadata_map["names"])
        return {int(output): str(name) for output, name in names.items()}
    except (KeyError, ValueError, SyntaxError, AttributeError, TypeError):
        return None
