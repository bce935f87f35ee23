"""Data sources that store each picture with its labels: builds the taxonomy and the class ids from them.

n pictures, L labels in all.
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

DIGITS = 19  # a class number has fewer digits than this


@dataclass(frozen=True)
class LabelledSplit:
    """A split as it is stored.

    store: its n pictures. labels: list<string> [n], at least one per picture, as the files write them.
    left_out: number of pictures without a label. files: path of each file -> its name for people. names: the
    class names that label numbers stand for, if the files contain them.
    """

    store: Store
    labels: pa.ListArray
    left_out: int
    files: Mapping[str, str] = field(default_factory=dict)
    names: Sequence[str] | None = None


class LabelledPictures(DataSource):
    """Base class: a subclass reads the files. Labels are `VERTICAL/CLASS`, or classes of a taxonomy file."""

    options: LabelledOptions
    transform: Transform

    def __init__(self, options: LabelledOptions):
        super().__init__(options)
        self.channels, self.image_size = options.channels, options.image_size
        self.max_bad_fraction = options.max_bad_fraction
        self.transform = Transform(channels=options.channels, image_size=options.image_size)

    @abstractmethod
    def read(self, split: str) -> LabelledSplit:
        """The split 'train' or 'test' as it is stored."""

    def check(self, splits: Mapping[str, LabelledSplit]) -> None:
        """Raises DataError if the two splits cannot be used together. Default: no check."""

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
        splits = {split: self.read(split) for split in ("train", "test")}
        if both := set(splits["train"].files) & set(splits["test"].files):
            name = splits["train"].files[min(both)]
            raise DataError(f"data.options.train and data.options.test both mean {name}: one may not")
        self.check(splits)
        classes = None if options.classes is None else _lines(options.classes, options.anonymous)
        spelled = {split: _spelled(stored, options.classes, classes) for split, stored in splits.items()}
        source = "the train split"
        if options.taxonomy is None:
            taxonomy, class_of = _taxonomy_of_labels(*spelled["train"], splits["train"])
        else:
            taxonomy = read_taxonomy(options.taxonomy, anonymous=options.anonymous)
            class_of = {name: name for name in taxonomy.classes}
            source = without_secrets(options.taxonomy)
        sets = {}
        for split, stored in splits.items():
            labels = _labels(*spelled[split], taxonomy, class_of, stored, source=source)
            sets[split] = StoredPictures(
                stored.store,
                labels,
                self.transform,
                EVERY_FORMAT,
                options.augmentation,
                threads=options.threads,
            )
        return taxonomy, sets, {split: stored.left_out for split, stored in splits.items()}


def _spelled(
    split: LabelledSplit, url: str | None, classes: Sequence[str] | None
) -> tuple[np.ndarray, list[str]]:
    """(codes int [L], texts): label i is texts[codes[i]]; class numbers are replaced by the class names.

    classes: the lines of the file at `url`, if there is one. Raises DataError for a number without a name.
    """
    encoded = pc.dictionary_encode(split.labels.flatten())
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    texts = [normalize("NFC", text.strip()) for text in encoded.dictionary.to_pylist()]
    source, names = "the files' schema", split.names
    if url is not None:
        source, names = without_secrets(url), classes
    if names is None:
        return codes, texts
    names_of_labels = []
    for code, text in enumerate(texts):
        if not text.isdecimal():
            names_of_labels.append(text)  # already a name
        elif len(text) < DIGITS and int(text) < len(names):
            names_of_labels.append(names[int(text)])
        else:
            first = _first_with(split, codes, code)
            raise DataError(
                f"{first}: label {text[:DIGITS]}: {source} has {len(names):,} classes, counted from 0"
            )
    return codes, names_of_labels


def _first_with(split: LabelledSplit, codes: np.ndarray, code: int) -> str:
    """The name of the first picture that has the label `code`."""
    return split.store.name(int(np.searchsorted(_offsets(split), (codes == code).argmax(), side="right")) - 1)


def _offsets(split: LabelledSplit) -> np.ndarray:
    """int64 [n+1]: the start of each picture's labels."""
    offsets = split.labels.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _lines(url: str, anonymous: bool) -> list[str]:
    text = as_text(read_file(url, "data.options.classes", anonymous), without_secrets(url))
    return [normalize("NFC", line.strip()) for line in text.splitlines()]


def _taxonomy_of_labels(
    codes: np.ndarray, texts: Sequence[str], split: LabelledSplit
) -> tuple[Taxonomy, dict[str, str]]:
    """The taxonomy of VERTICAL/CLASS labels, and a mapping from each label to its class."""
    verticals: dict[str, dict[str, None]] = {}
    for code, text in sorted(enumerate(texts), key=lambda pair: pair[1]):
        vertical, slash, name = text.partition("/")
        if not (vertical and slash and name):
            raise DataError(
                f"{_first_with(split, codes, code)}: its label '{text}' is not VERTICAL/CLASS; for other "
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
    split: LabelledSplit,
    *,
    source: str,
) -> Labels:
    """Labels as class ids of the taxonomy, with ancestors.

    codes: int [L], indices into `texts`. class_of: label text -> class name. source: where the classes come
    from, for errors. Raises DataError, naming a picture, for a label that is no class.
    """
    ids = taxonomy.class_ids
    lists = []
    for code, text in enumerate(texts):
        if text not in class_of:
            first = _first_with(split, codes, code)
            elsewhere = [label for label, name in class_of.items() if text.endswith(f"/{name}")]
            near = f"there is '{elsewhere[0]}'" if elsewhere else did_you_mean(text, class_of)
            raise DataError(f"{first}: {source} has no class '{text}'; {near}")
        lists.append(sorted(taxonomy.with_ancestors([ids[class_of[text]]])))
    offsets, classes, _ = expanded(_offsets(split), codes, lists)
    return Labels(torch.from_numpy(offsets), torch.from_numpy(classes))
