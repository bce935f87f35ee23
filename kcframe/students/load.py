"""`kcframe.load`: loads a finished student from its run directory, ready for predictions."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from kcframe.assembly.networks import build_student
from kcframe.assembly.saved import read_file, restore
from kcframe.engine.checkpoint import unpack_weights
from kcframe.engine.divergence import first_not_finite
from kcframe.engine.model import Student, count_parameters
from kcframe.errors import DataError, KcframeError, RunDirError, did_you_mean
from kcframe.interfaces.toolkit.pictures import EVERY_FORMAT, decode, upright
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.recipe.schema import StudentSpec
from kcframe.storage.layout import RESULTS, TAXONOMY, WEIGHTS, arm_folder
from kcframe.storage.remote import without_secrets
from kcframe.storage.run_dir import RunDir
from kcframe.students.network import Hierarchy, Network
from kcframe.taxonomy import Taxonomy

Picture = str | os.PathLike[str] | bytes | Image.Image
"""A path or URL, a file's bytes, or a Pillow image."""


@dataclass(frozen=True)
class Guess:
    """A class that a picture may show. parents: its ancestors with their probabilities, nearest first."""

    name: str
    probability: float
    verticals: tuple[str, ...]
    parents: tuple[tuple[str, float], ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "class": self.name,
            "probability": round(self.probability, 6),
            "verticals": list(self.verticals),
            "parents": [{"class": name, "probability": round(p, 6)} for name, p in self.parents],
        }


class Classifier:
    """A finished student.

    run_dir: its run directory; None if it was loaded from an exported file. taxonomy: its classes. transform:
    converts a picture to its input. module: an nn.Module, pictures [B, C, S, S] in 0..1 -> logits [B, N] by
    class id. about: the metadata of its file.
    """

    def __init__(
        self,
        run_dir: RunDir | None,
        arm: str,
        student: Student,
        taxonomy: Taxonomy,
        transform: Transform,
        *,
        about: dict,
    ):
        self.run_dir, self.arm, self.about = run_dir, arm, about
        self.student, self.taxonomy, self.transform = student, taxonomy, transform
        self.module = Network(student, taxonomy).eval().requires_grad_(False)
        self.device = torch.device("cpu")
        self._leaf = torch.from_numpy(taxonomy.is_leaf)

    def __repr__(self) -> str:
        return (
            f"<Classifier {self.arm}: {self.taxonomy.num_classes:,} classes, "
            f"{count_parameters(self.student) / 1e6:.2f}M parameters>"
        )

    def to(self, device: str | torch.device) -> Classifier:
        """Moves the classifier to a device; returns itself."""
        self.device = torch.device(device)
        self.module.to(self.device)
        return self

    def predict(
        self,
        pictures: Sequence[Picture] | Tensor,
        top: int = 5,
        consistent: bool = False,
        batch_size: int = 64,
    ) -> list[list[Guess]]:
        """The `top` most probable leaf classes of each picture, most probable first.

        pictures: files, URLs, bytes or Pillow images; or a tensor [B, C, S, S] in 0..1, the result of
        `transform`. consistent: raise every parent's probability to that of its most probable child. Raises
        DataError, naming the picture, if one cannot be read.
        """
        if isinstance(pictures, (str, bytes, os.PathLike, Image.Image)):
            pictures = [pictures]
        guesses: list[list[Guess]] = []
        for start in range(0, len(pictures), batch_size):
            part = pictures[start : start + batch_size]
            if not isinstance(part, Tensor):
                part = self.transform([self._open(picture, start + n) for n, picture in enumerate(part)])
            guesses += self.guesses(self.logits(part), top, consistent)
        return guesses

    @torch.inference_mode()
    def logits(self, images: Tensor) -> Tensor:
        """images: float [B, C, S, S] in 0..1 -> float32 [B, N], on the CPU."""
        wanted = (self.transform.channels, self.transform.image_size, self.transform.image_size)
        if tuple(images.shape[1:]) != wanted:
            raise DataError(
                f"pictures of shape {tuple(images.shape[1:])}: this student takes {wanted} (use .transform)"
            )
        return self.module(images.to(self.device)).float().cpu()

    def guesses(self, logits: Tensor, top: int = 5, consistent: bool = False) -> list[list[Guess]]:
        """The most probable leaf classes by logits [B, N]; see `predict`."""
        if consistent:
            logits = self._hierarchy.lift(logits)
        probabilities = logits.sigmoid()
        # Rank by logit: for large logits all probabilities are rounded to 1.
        leaves = logits.masked_fill(~self._leaf, -torch.inf)
        best = leaves.topk(min(top, int(self._leaf.sum())), dim=1).indices
        return [
            [self._guess(class_id, row) for class_id in classes]
            for classes, row in zip(best.tolist(), probabilities, strict=True)
        ]

    @cached_property
    def _hierarchy(self) -> Hierarchy:
        return Hierarchy(self.taxonomy)

    def _guess(self, class_id: int, probabilities: Tensor) -> Guess:
        taxonomy = self.taxonomy
        return Guess(
            taxonomy.classes[class_id],
            float(probabilities[class_id]),
            tuple(taxonomy.verticals[v] for v, _ in taxonomy.locate(class_id)),
            tuple((taxonomy.classes[a], float(probabilities[a])) for a in taxonomy.ancestors(class_id)),
        )

    def _open(self, picture: Picture, place: int) -> Image.Image:
        mode = self.transform.mode
        name = os.fspath(picture) if isinstance(picture, (str, os.PathLike)) else f"picture {place}"
        try:
            if isinstance(picture, Image.Image):
                return upright(picture, mode)
            data = picture if isinstance(picture, bytes) else read_file(name)
            return decode(data, EVERY_FORMAT, mode, 2 * self.transform.image_size)
        except KcframeError:
            raise
        except Exception as error:  # damaged pictures fail in many ways
            raise DataError(f"{name}: cannot be decoded: {str(error) or type(error).__name__}") from None


def load(
    run: str | os.PathLike[str] | bytes, arm: str | None = None, device: str | torch.device = "cpu"
) -> Classifier:
    """Loads a finished student of a run.

    run: a run directory (path or URL), or `RUN:ARM`; or a safetensors file of `kcframe export`, or its bytes.
    arm: name of the student; None: the one with the highest mpvap, or the only one. Raises RunDirError if
    there is none, DataError if its weights do not fit.
    """
    if isinstance(run, bytes):
        return _from_file(run, "the exported file").to(device)
    if arm is None and os.fspath(run).endswith(".safetensors"):
        return _from_file(read_file(os.fspath(run)), without_secrets(os.fspath(run))).to(device)
    if arm is None:
        run, arm = split_arm(os.fspath(run))
    run_dir = RunDir(run)
    arm = choose_arm(run_dir, arm)
    taxonomy = Taxonomy.from_json(run_dir.read(TAXONOMY).decode())
    name = f"{arm_folder(arm)}/{WEIGHTS}"
    url = run_dir.shown(name)
    state, about = unpack_weights(run_dir.read(name), url)
    return _built(state, about, url, arm, taxonomy, run_dir=run_dir).to(device)


def _from_file(data: bytes, url: str) -> Classifier:
    state, about = unpack_weights(data, url)
    if "taxonomy" not in about:
        raise DataError(
            f"{url}: its classes are not in it: give the run directory, or a file that `kcframe export` wrote"
        )
    taxonomy = Taxonomy.from_json(json.dumps(about["taxonomy"]))
    return _built(state, about, url, about["arm"], taxonomy, run_dir=None)


def _built(
    state: dict[str, Tensor],
    about: dict[str, Any],
    url: str,
    arm: str,
    taxonomy: Taxonomy,
    *,
    run_dir: RunDir | None,
) -> Classifier:
    if about.get("kind") != "student":
        raise DataError(f"{url}: this is a {about.get('kind', 'file')}, not a student")
    if about.get("arm", arm) != arm:
        raise DataError(f"{url}: these are the weights of arm '{about['arm']}', not of '{arm}'")
    if (broken := first_not_finite(state.items())) is not None:
        raise DataError(f"{url}: {broken} is not finite: what this network says is no answer; train it again")
    try:
        spec = StudentSpec.model_validate(about["student"])
        channels, image_size = about["channels"], about["image_size"]
        fields = about.get("transform") or {"channels": channels, "image_size": image_size}
        transform = Transform.model_validate(fields)
    except (KeyError, ValidationError) as error:
        raise DataError(f"{url}: was written by another kcframe: {error}") from None
    student = restore(
        lambda: build_student(spec, channels, image_size, taxonomy), state, url, f"student '{arm}'"
    )
    return Classifier(run_dir, arm, student, taxonomy, transform, about=about)


def split_arm(run: str) -> tuple[str, str | None]:
    """'RUN:ARM' -> (RUN, ARM), 'RUN' -> (RUN, None).

    A colon of a URL's protocol or port, or of an existing path, is no separator.
    """
    url, colon, arm = run.rpartition(":")
    if not colon or not url or not arm or "/" in arm or Path(run).exists():
        return run, None
    return url, arm


def choose_arm(run_dir: RunDir, arm: str | None) -> str:
    """The name of a finished arm: `arm`, or the best one. Raises RunDirError, listing the finished arms."""
    named = _scores(run_dir)
    scores = _with_weights(run_dir, named)
    if arm is not None:
        if arm not in scores:
            raise RunDirError(f"{run_dir}: no finished arm '{arm}'; {did_you_mean(arm, scores)}")
        return arm
    best = max((score for score in scores.values() if score is not None), default=-1.0)
    for name, score in named.items():
        if name not in scores and score is not None and score > best:
            raise RunDirError(
                f"{run_dir}: the weights of '{name}', its best arm, are gone or empty: give its "
                f"`kcframe run` command again to train it, or write {run_dir}:ARM with one of "
                f"{', '.join(map(repr, scores))}"
            )
    if len(scores) > 1 and all(score is None for score in scores.values()):
        raise RunDirError(
            f"{run_dir}: which arm? Write {run_dir}:ARM with one of {', '.join(map(repr, scores))}"
        )
    return max(scores, key=lambda name: -1.0 if (score := scores[name]) is None else score)


def finished_arms(run_dir: RunDir) -> dict[str, float | None]:
    """A run's arms that have weights, in order, with their mpvap if the run is finished.

    Raises RunDirError if there is none.
    """
    return _with_weights(run_dir, _scores(run_dir))


def _with_weights(run_dir: RunDir, scores: dict[str, float | None]) -> dict[str, float | None]:
    """Those arms that have weights. Raises RunDirError if none has."""
    finished = {name: m for name, m in scores.items() if run_dir.size(f"{arm_folder(name)}/{WEIGHTS}")}
    if not finished:
        raise RunDirError(
            f"{run_dir}: no finished student in it: not a run directory, or the run is not finished"
        )
    return finished


def _scores(run_dir: RunDir) -> dict[str, float | None]:
    """The arms that a run names, with their mpvap if it is finished."""
    if run_dir.exists(RESULTS):
        return {name: row["mpvap"] for name, row in run_dir.read_json(RESULTS)["arms"].items()}
    return dict.fromkeys(unquote(folder) for folder in run_dir.folders("arms"))
