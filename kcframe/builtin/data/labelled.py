"""Data sources whose pictures come with their labels: a taxonomy from them, and class ids.

n pictures, L labels of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import normalize

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from kcframe.builtin.data.label_arrays import expanded
from kcframe.builtin.data.labelled_options import LabelledOptions
from kcframe.builtin.data.stores.pictures import StoredPictures, picture_counts
from kcframe.builtin.data.stores.store import Store
from kcframe.builtin.data.taxonomy_file import read_taxonomy
from kcframe.errors import DataError, did_you_mean
from kcframe.interfaces.data import DataSource, Labels
from kcframe.interfaces.pictures import EVERY_FORMAT
from kcframe.interfaces.transform import Transform
from kcframe.storage import explained
from kcframe.taxonomy import Taxonomy


@dataclass(frozen=True)
class Given:
    """A split as it is stored. store: its n pictures. labels: list<string> [n], at least one a picture, as
    they are written. files: what it is stored in. names: what numbers mean, if the files say so themselves.
    left_out: pictures without label."""

    store: Store
    labels: pa.ListArray
    left_out: int
    files: Sequence[str] = ()
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
            raise DataError(
                f"data.options.train and data.options.test both mean {sorted(both)[0]}: one may not"
            )
        said = {split: _spelled(each, options.classes) for split, each in given.items()}
        if options.taxonomy is None:
            taxonomy, class_of = _taxonomy_of_labels(*said["train"], given["train"])
        else:
            taxonomy, class_of = read_taxonomy(options.taxonomy), lambda text: text
        sets = {}
        for split, each in given.items():
            labels = _labels(*said[split], taxonomy, class_of, each, options.taxonomy or "the train split")
            sets[split] = StoredPictures(
                each.store, labels, self.transform, EVERY_FORMAT, options.augmentation, options.threads
            )
        return taxonomy, sets, {split: each.left_out for split, each in given.items()}


def _spelled(given: Given, classes: str | None) -> tuple[np.ndarray, list[str]]:
    """(int [L]: which of the different labels each is; those labels, numbers by their names)."""
    encoded = pc.dictionary_encode(given.labels.flatten())
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    texts = [normalize("NFC", text.strip()) for text in encoded.dictionary.to_pylist()]
    source, names = "the files' schema", given.names
    if classes is not None:
        source, names = classes, _lines(classes)
    if names is None:
        return codes, texts
    found = []
    for code, text in enumerate(texts):
        if not text.isdecimal():
            found.append(text)  # a name already
        elif int(text) < len(names):
            found.append(names[int(text)])
        else:
            first = _first_with(given, codes, code)
            raise DataError(f"{first}: label {text}: {source} has {len(names):,} classes, counted from 0")
    return codes, found


def _first_with(given: Given, codes: np.ndarray, code: int) -> str:
    """The name of the first picture with a label."""
    return given.store.name(int(np.searchsorted(_offsets(given), (codes == code).argmax(), side="right")) - 1)


def _offsets(given: Given) -> np.ndarray:
    """int64 [n+1]: where each picture's labels begin."""
    offsets = given.labels.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _lines(url: str) -> list[str]:
    try:
        with fsspec.open(url, "rt", encoding="utf-8-sig") as file:
            return [normalize("NFC", line.strip()) for line in file]
    except FileNotFoundError:
        raise DataError(f"data.options.classes: no file '{url}'") from None
    except Exception as error:  # each storage raises its own
        raise DataError(f"{url}: cannot be read: {explained(error)}") from None


def _taxonomy_of_labels(
    codes: np.ndarray, texts: Sequence[str], given: Given
) -> tuple[Taxonomy, Callable[[str], str]]:
    """The taxonomy of labels that are VERTICAL/CLASS, and what gives a label's class."""
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
    return taxonomy, lambda text: text.partition("/")[2]


def _labels(
    codes: np.ndarray,
    texts: Sequence[str],
    taxonomy: Taxonomy,
    class_of: Callable[[str], str],
    given: Given,
    source: str,
) -> Labels:
    """codes: int [L], places in `texts`. DataError, naming a picture, for a label that is no class."""
    ids = taxonomy.class_ids
    lists = []
    for code, text in enumerate(texts):
        if (name := class_of(text)) not in ids:
            first = _first_with(given, codes, code)
            raise DataError(f"{first}: {source} has no class '{text}'; {did_you_mean(name, ids)}")
        lists.append(sorted(taxonomy.with_ancestors([ids[name]])))
    offsets, classes, _ = expanded(_offsets(given), codes, lists)
    return Labels(torch.from_numpy(offsets), torch.from_numpy(classes))
