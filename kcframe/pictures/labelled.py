"""Data sources whose pictures come with their labels: a taxonomy from them, and class ids.

n pictures, L labels of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from unicodedata import normalize

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.toolkit.pictures import EVERY_FORMAT
from kcframe.interfaces.toolkit.transform import Transform
from kcframe.pictures.label_arrays import expanded
from kcframe.pictures.labelled_options import LabelledOptions
from kcframe.pictures.stores.pictures import StoredPictures, picture_counts
from kcframe.pictures.stores.store import Store
from kcframe.pictures.taxonomy_file import read_taxonomy
from kcframe.storage.remote import as_text, read_file, without_secrets
from kcframe.taxonomy import Taxonomy

DIGITS = 19  # that no number of a class has


@dataclass(frozen=True)
class Given:
    """A split as it is stored. store: its n pictures. labels: list<string> [n], at least one a picture, as
    they are written. files: what it is stored in, path -> what to call it. names: what numbers mean, if the
    files say so themselves. left_out: pictures without label."""

    store: Store
    labels: pa.ListArray
    left_out: int
    files: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[str] | None = None


class LabelledPictures(DataSource):
    """Subclasses say what is stored; labels are `VERTICAL/CLASS`, or classes of a taxonomy file."""

    options: LabelledOptions

    def __init__(self, options: LabelledOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size
        self.max_bad_fraction = options.max_bad_fraction
        self.transform = Transform(channels=options.channels, image_size=options.image_size)

    @abstractmethod
    def read(self, split: str) -> Given:
        """What is stored of 'train' or 'test'."""

    def check(self, given: Mapping[str, Given]) -> None:
        """DataError if the splits cannot both be read as they are."""

    @property
    def taxonomy(self) -> Taxonomy:
        return self._built[0]

    def split(self, name: str) -> StoredPictures:
        return self._built[1][name]

    def describe(self) -> dict[str, object]:
        taxonomy, sets, left_out = self._built
        unlabelled = {f"{name} pictures without label": count for name, count in left_out.items()}
        return picture_counts(taxonomy, sets) | unlabelled

    @cached_property
    def _built(self) -> tuple[Taxonomy, dict[str, StoredPictures], dict[str, int]]:
        options = self.options
        given = {split: self.read(split) for split in ("train", "test")}
        if both := set(given["train"].files) & set(given["test"].files):
            name = given["train"].files[min(both)]
            raise DataError(f"data.options.train and data.options.test both mean {name}: one may not")
        self.check(given)
        classes = None if options.classes is None else _lines(options.classes, options.anonymous)
        said = {split: _spelled(each, options.classes, classes) for split, each in given.items()}
        source = "the train split"
        if options.taxonomy is None:
            taxonomy, class_of = _taxonomy_of_labels(*said["train"], given["train"])
        else:
            taxonomy = read_taxonomy(options.taxonomy, anonymous=options.anonymous)
            class_of = {name: name for name in taxonomy.classes}
            source = without_secrets(options.taxonomy)
        sets = {}
        for split, each in given.items():
            labels = _labels(*said[split], taxonomy, class_of, each, source)
            sets[split] = StoredPictures(
                each.store, labels, self.transform, EVERY_FORMAT, options.augmentation, options.threads
            )
        return taxonomy, sets, {split: each.left_out for split, each in given.items()}


def _spelled(given: Given, url: str | None, classes: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """(int [L]: which of the different labels each is; those labels, numbers by their names). classes: the
    lines of the file at `url`, if there is one."""
    encoded = pc.dictionary_encode(given.labels.flatten())
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    texts = [normalize("NFC", text.strip()) for text in encoded.dictionary.to_pylist()]
    source, names = "the files' schema", given.names
    if url is not None:
        source, names = without_secrets(url), classes
    if names is None:
        return codes, texts
    found = []
    for code, text in enumerate(texts):
        if not text.isdecimal():
            found.append(text)  # a name already
        elif len(text) < DIGITS and int(text) < len(names):
            found.append(names[int(text)])
        else:
            first = _first_with(given, codes, code)
            raise DataError(
                f"{first}: label {text[:DIGITS]}: {source} has {len(names):,} classes, counted from 0"
            )
    return codes, found


def _first_with(given: Given, codes: np.ndarray, code: int) -> str:
    """The name of the first picture with a label."""
    return given.store.name(int(np.searchsorted(_offsets(given), (codes == code).argmax(), side="right")) - 1)


def _offsets(given: Given) -> np.ndarray:
    """int64 [n+1]: where each picture's labels begin."""
    offsets = given.labels.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _lines(url: str, anonymous: bool) -> list[str]:
    text = as_text(read_file(url, "data.options.classes", anonymous), without_secrets(url))
    return [normalize("NFC", line.strip()) for line in text.splitlines()]


def _taxonomy_of_labels(
    codes: np.ndarray, texts: Sequence[str], given: Given
) -> tuple[Taxonomy, dict[str, str]]:
    """The taxonomy of labels that are VERTICAL/CLASS, and each label's class."""
    verticals: dict[str, dict[str, None]] = {}
    for code, text in sorted(enumerate(texts), key=lambda each: each[1]):
        vertical, slash, name = text.partition("/")
        if not (vertical and slash and name):
            raise DataError(
                f"{_first_with(given, codes, code)}: its label '{text}' is not VERTICAL/CLASS; for other "
                "labels, give a taxonomy file (data.options.taxonomy)"
            )
        verticals.setdefault(vertical, {})[name] = None
    taxonomy = Taxonomy.build({vertical: list(names) for vertical, names in verticals.items()})
    return taxonomy, {text: text.partition("/")[2] for text in texts}


def _labels(
    codes: np.ndarray,
    texts: Sequence[str],
    taxonomy: Taxonomy,
    class_of: Mapping[str, str],
    given: Given,
    source: str,
) -> Labels:
    """codes: int [L], places in `texts`. DataError, naming a picture, for a label that is no class."""
    ids = taxonomy.class_ids
    lists = []
    for code, text in enumerate(texts):
        if text not in class_of:
            first = _first_with(given, codes, code)
            elsewhere = [each for each, name in class_of.items() if text.endswith(f"/{name}")]
            near = f"there is '{elsewhere[0]}'" if elsewhere else did_you_mean(text, class_of)
            raise DataError(f"{first}: {source} has no class '{text}'; {near}")
        lists.append(sorted(taxonomy.with_ancestors([ids[class_of[text]]])))
    offsets, classes, _ = expanded(_offsets(given), codes, lists)
    return Labels(torch.from_numpy(offsets), torch.from_numpy(classes))
