"""Exports a student as a file for other runtimes: ONNX, torch.export, or its weights alone.

The file contains metadata under the key `kcframe`, and a JSON file next to it has the same: classes,
verticals, parents, and how pictures are prepared for the network. Shapes: B batch, C channels, S side of a
picture, N classes, k most probable classes.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

import kcframe
from kcframe.engine.checkpoint import HEADER, pack_weights
from kcframe.errors import DataError, PluginError
from kcframe.storage.layout import SAMPLES
from kcframe.storage.samples import read_sample
from kcframe.storage.writing import write_json, write_text, writing
from kcframe.students.card import Exported, model_card
from kcframe.students.extras import need
from kcframe.students.load import Classifier, load

Format = Literal["onnx", "torch.export", "safetensors"]
ENDINGS: dict[Format, str] = {"onnx": ".onnx", "torch.export": ".pt2", "safetensors": ".safetensors"}
ONNX_OPSET = 20
MADE_UP = 8  # random pictures for the comparison if the run has no samples


class TopK(nn.Module):
    """The network's k most probable leaf classes."""

    def __init__(self, network: nn.Module, is_leaf: Tensor, k: int):
        super().__init__()
        self.network, self.k = network, min(k, int(is_leaf.sum()))
        self.register_buffer("parents", torch.zeros(len(is_leaf)).masked_fill(~is_leaf, -torch.inf))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """images: float [B, C, S, S] in 0..1 -> (probabilities [B, k], class ids int64 [B, k])."""
        logits, classes = (self.network(images) + self.parents).topk(self.k, dim=1)
        return logits.sigmoid(), classes


def export(classifier: Classifier, to: Format, out: str, top_k: int | None, licence: str | None) -> Exported:
    """Writes a student as a file, its JSON file and its model card, and compares the file with PyTorch.

    out: path or URL. top_k: the file returns the k most probable leaf classes and their probabilities instead
    of all logits. Raises DataError if the format `to` cannot do that, PluginError if a library is missing.
    """
    if to == "safetensors" and top_k is not None:
        raise DataError("--top-k is for files that run: a safetensors file holds weights alone")
    classifier.to("cpu")
    network: nn.Module = classifier.module
    if top_k is not None:
        network = TopK(network, torch.from_numpy(classifier.taxonomy.is_leaf), top_k).eval()
    about = description(classifier, top_k)
    images, compared_on = sample_images(classifier)
    with _laid_out_plainly(network):
        data, run = _FORMATS[to](classifier, network, images, about)
    with writing(out) as file:
        file.write(data)
    difference, agrees = (None, True) if run is None else _compare(network, run, classifier, images)
    stem, compared = out.removesuffix(ENDINGS[to]), "logits" if top_k is None else "probabilities"
    exported = Exported((out, f"{stem}.json", f"{stem}.md"), difference, compared_on, compared, agrees)
    write_json(exported.files[1], about)
    write_text(exported.files[2], model_card(classifier, exported, to, about, licence))
    return exported


@contextmanager
def _laid_out_plainly(network: nn.Module) -> Iterator[None]:
    """Makes all parameters contiguous inside the block.

    They may be in channels-last format, which is faster here, but torch.export.save warns of it ("No complete
    tensor found in the group!").
    """
    before = [(tensor, tensor.data) for tensor in network.parameters() if not tensor.is_contiguous()]
    try:
        for parameter, values in before:
            parameter.data = values.contiguous()
        yield
    finally:
        for parameter, values in before:
            parameter.data = values


def description(classifier: Classifier, top_k: int | None) -> dict[str, Any]:
    """The metadata that is written into the file and next to it."""
    backbone, transform = classifier.student.backbone, classifier.transform
    outputs = (
        {"logits": "float32 [B, N] by class id; the sigmoid of a logit is the class's probability"}
        if top_k is None
        else {
            "probabilities": "float32 [B, k], the most probable leaf class first",
            "classes": "int64 [B, k], class ids",
        }
    )
    return {
        "kcframe": kcframe.__version__,
        "arm": classifier.arm,
        "input": {
            "images": "float32 [B, channels, image_size, image_size] in 0..1",
            "transform": transform.model_dump(),
            # For information: the network includes normalisation and resizing.
            "normalised_inside": {
                "mean": list(backbone.mean),
                "std": list(backbone.std),
                "input_size": backbone.input_size,
            },
        },
        "outputs": outputs,
        "taxonomy": json.loads(classifier.taxonomy.to_json()),
    }


def sample_images(classifier: Classifier) -> tuple[Tensor, str]:
    """Pictures [B, C, S, S] for the comparison, and their description: samples of the run, or random ones."""
    run_dir, transform = classifier.run_dir, classifier.transform
    pictures = []
    if run_dir is not None and run_dir.exists(SAMPLES):
        for number in range(len(run_dir.read_json(SAMPLES))):
            picture = read_sample(run_dir, number)
            if picture is None:
                continue
            pixels = np.asarray(picture)
            pixels = pixels.reshape(*pixels.shape[:2], -1)
            if pixels.shape == (transform.image_size, transform.image_size, transform.channels):
                pictures.append(torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255)
    if pictures:
        # At least two: with a batch of one, exporters treat the batch size as a constant.
        return torch.stack(
            pictures * (2 if len(pictures) == 1 else 1)
        ), f"{len(pictures)} test pictures of the run"
    shape = (MADE_UP, transform.channels, transform.image_size, transform.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)), f"{MADE_UP} pictures of noise"


Run = Callable[[np.ndarray], list[np.ndarray]]


def _to_onnx(
    classifier: Classifier, network: nn.Module, images: Tensor, about: dict[str, Any]
) -> tuple[bytes, Run | None]:
    need("--to onnx", "export", {"onnx": "onnx", "onnxscript": "onnxscript"})
    names = list(about["outputs"])
    with _quiet():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=ONNX_OPSET,
            input_names=["images"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None  # dynamo=True gives one
    model = program.model_proto
    entry = model.metadata_props.add()
    entry.key, entry.value = HEADER, json.dumps(about, ensure_ascii=False)
    try:
        data = model.SerializeToString()
    except Exception as error:  # the type of protobuf's error depends on its version
        raise DataError(
            f"the student is too large for one ONNX file (2 GB): {error}; use --to torch.export"
        ) from None
    if find_spec("onnxruntime") is None:
        return data, None

    def run(pictures: np.ndarray) -> list[np.ndarray]:
        import onnxruntime

        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        return session.run(names, {"images": pictures})

    return data, run


def _to_torch(
    classifier: Classifier, network: nn.Module, images: Tensor, about: dict[str, Any]
) -> tuple[bytes, Run | None]:
    with _quiet():
        program = torch.export.export(
            network, (images,), dynamic_shapes=({0: torch.export.Dim("batch")},), strict=False
        )
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={f"{HEADER}.json": json.dumps(about, ensure_ascii=False)})

    def run(pictures: np.ndarray) -> list[np.ndarray]:
        again = torch.export.load(io.BytesIO(buffer.getvalue())).module()
        outputs = again(torch.from_numpy(pictures))
        return [tensor.numpy() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,))]

    return buffer.getvalue(), run


def _to_safetensors(
    classifier: Classifier, network: nn.Module, images: Tensor, about: dict[str, Any]
) -> tuple[bytes, Run | None]:
    # With the taxonomy in its header the file can be loaded without its run.
    whole = {**classifier.about, "taxonomy": about["taxonomy"]}
    data = pack_weights(classifier.student.state_dict(), whole)

    def run(pictures: np.ndarray) -> list[np.ndarray]:
        return [load(data).logits(torch.from_numpy(pictures)).numpy()]

    return data, run


_FORMATS: dict[Format, Callable[..., tuple[bytes, Run | None]]] = {
    "onnx": _to_onnx,
    "torch.export": _to_torch,
    "safetensors": _to_safetensors,
}


def _compare(network: nn.Module, run: Run, classifier: Classifier, images: Tensor) -> tuple[float, bool]:
    """(largest difference of logits or probabilities, whether it is only rounding)."""
    differences, agrees = [], True
    for batch in (images, images[:1]):  # two batch sizes: a file may have one of them as a constant
        with torch.inference_mode():
            expected, shares = network(batch), classifier.module(batch).sigmoid()
        outputs = [torch.from_numpy(np.asarray(output)) for output in run(batch.numpy())]
        if isinstance(expected, Tensor):
            agrees &= outputs[0].shape == expected.shape and _alike(outputs[0].sigmoid(), shares)
            differences.append(float((outputs[0] - expected).abs().max()))
        else:
            # Compare values and classes separately: two classes with equal probability may be swapped.
            agrees &= _alike(outputs[0], expected[0]) and _alike(outputs[0], shares.gather(1, outputs[1]))
            differences.append(float((outputs[0] - expected[0]).abs().max()))
    return max(differences), agrees


def _alike(theirs: Tensor, ours: Tensor) -> bool:
    """Whether probabilities differ by one percent of themselves or less."""
    return torch.allclose(theirs, ours, rtol=1e-2, atol=1e-8)


@contextmanager
def _quiet():
    """Silences the exporters' messages, and turns their errors into PluginError."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise PluginError(
            f"this student cannot be exported so: {type(error).__name__}: {reason}; a plugin of it may do "
            "what exporters do not know. --to safetensors always works"
        ) from error
    finally:
        logging.disable(level)
