"""Which class a picture is of, by the folder that it lies in.

Names count as equal if they look equal: macOS writes é in two characters (NFD) where others write one (NFC).
"""

from __future__ import annotations

from unicodedata import normalize

from kcframe.errors import DataError, did_you_mean
from kcframe.pictures.folders import Listing
from kcframe.taxonomy import Taxonomy


def taxonomy_of_folders(train: Listing, test: Listing) -> Taxonomy:
    """The train split's <vertical>/<class>/ folders as a taxonomy.

    Raises DataError for a picture at another depth and for a test folder that has no train pictures.
    """
    verticals: dict[str, dict[str, None]] = {}
    for vertical, name in _folders(train):
        verticals.setdefault(vertical, {})[name] = None
    known = {f"{vertical}/{name}" for vertical, names in verticals.items() for name in names}
    for vertical, name in _folders(test):
        if (folder := f"{vertical}/{name}") not in known:
            raise DataError(
                f"{test.name}/{folder}: no such class in {train.name}, or no picture of it; "
                f"{did_you_mean(folder, known)}"
            )
    return Taxonomy.build({vertical: list(names) for vertical, names in verticals.items()})


def _folders(listing: Listing) -> list[tuple[str, str]]:
    """(vertical, class) of each folder, in order."""
    found: dict[tuple[str, str], None] = {}
    for file in listing.files:
        folders = normalize("NFC", file).split("/")[:-1]
        if len(folders) != 2:
            raise DataError(
                f"{listing.name}/{file}: not in <vertical>/<class>/; for other folders, give a taxonomy file "
                "(data.options.taxonomy)"
            )
        found[folders[0], folders[1]] = None
    return list(found)


def class_ids(listing: Listing, taxonomy: Taxonomy, source: str | None) -> list[int]:
    """One an entry of `listing.files`, by the innermost folder. source: the taxonomy's file, for errors."""
    ids = taxonomy.class_ids
    found = []
    for file in listing.files:
        name = f"/{normalize('NFC', file)}".split("/")[-2]
        if name not in ids:
            if not name:
                raise DataError(f"{listing.name}/{file}: in no class folder")
            near = did_you_mean(name, ids)
            raise DataError(f"{listing.name}/{file}: {source} has no class '{name}'; {near}")
        found.append(ids[name])
    return found
