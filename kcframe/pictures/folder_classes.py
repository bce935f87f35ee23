"""The class of a picture, from the folder that contains it.

Names are compared in Unicode's form NFC: macOS writes é as two characters (NFD), other systems as one.
"""

from __future__ import annotations

from unicodedata import normalize

from kcframe.errors import DataError, did_you_mean
from kcframe.pictures.folders import Listing
from kcframe.taxonomy import Taxonomy


def taxonomy_of_folders(train: Listing, test: Listing) -> Taxonomy:
    """The taxonomy that the <vertical>/<class>/ folders of the train split make.

    Raises DataError for a picture at another depth, and for a test folder without train pictures.
    """
    verticals: dict[str, dict[str, None]] = {}
    for vertical, name in _folders(train):
        verticals.setdefault(vertical, {})[name] = None
    train_folders = {f"{vertical}/{name}" for vertical, names in verticals.items() for name in names}
    for vertical, name in _folders(test):
        if (folder := f"{vertical}/{name}") not in train_folders:
            raise DataError(
                f"{test.name}/{folder}: no such class in {train.name}, or no picture of it; "
                f"{did_you_mean(folder, train_folders)}"
            )
    return Taxonomy.build({vertical: list(names) for vertical, names in verticals.items()})


def _folders(listing: Listing) -> list[tuple[str, str]]:
    """(vertical, class) of each folder, in the order of the listing."""
    pairs: dict[tuple[str, str], None] = {}
    for file in listing.files:
        folders = normalize("NFC", file).split("/")[:-1]
        if len(folders) != 2:
            raise DataError(
                f"{listing.name}/{file}: not in <vertical>/<class>/; for other folders, give a taxonomy file "
                "(data.options.taxonomy)"
            )
        pairs[folders[0], folders[1]] = None
    return list(pairs)


def class_ids(listing: Listing, taxonomy: Taxonomy, source: str | None) -> list[int]:
    """The class id of each entry of `listing.files`, from its innermost folder.

    source: the taxonomy's file, for errors. Raises DataError for a folder that is no class.
    """
    ids = taxonomy.class_ids
    ids_of_files = []
    for file in listing.files:
        name = f"/{normalize('NFC', file)}".split("/")[-2]
        if name not in ids:
            if not name:
                raise DataError(f"{listing.name}/{file}: in no class folder")
            near = did_you_mean(name, ids)
            raise DataError(f"{listing.name}/{file}: {source} has no class '{name}'; {near}")
        ids_of_files.append(ids[name])
    return ids_of_files
