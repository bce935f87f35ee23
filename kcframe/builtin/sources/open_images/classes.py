"""Open Images' classes as a taxonomy: names, verticals, parents. N classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kcframe.builtin.sources.open_images.files import Node
from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy

Groups = tuple[dict[str, list[str]], dict[str, list[str]]]
"""Verticals, and parents of classes; classes by MID."""


def groups_of_hierarchy(root: Node, names: Mapping[str, str]) -> Groups:
    """A vertical for each child of the root that has kinds of its own, called like it; and all parents.

    names: MID -> name. The root itself is no class. A node that `names` does not know (the published files
    have such) is no class either: its kinds belong to the next node above.
    """
    find = _finder(names)

    verticals: dict[str, dict[str, None]] = {}
    parents: dict[str, dict[str, None]] = {}

    def walk(node: Node, above: str | None, members: dict[str, None]) -> None:
        mid = find(node.name)
        if mid is not None:
            members[mid] = None
            if above is not None and above != mid:
                parents.setdefault(mid, {})[above] = None
        for kind in node.kinds:
            walk(kind, mid or above, members)

    for top in root.kinds:
        members: dict[str, None] = {}
        walk(top, None, members)
        if top.kinds and members:
            mid = find(top.name)
            # Two tops of one name are one vertical.
            verticals.setdefault(names[mid] if mid else top.name, {}).update(members)
    return {name: list(members) for name, members in verticals.items()}, {
        child: list(above) for child, above in parents.items()
    }


def _finder(names: Mapping[str, str]) -> Callable[[str], str | None]:
    """A MID or a class's name -> its MID; capitals count only where two names differ in nothing else."""
    exact = {name: mid for mid, name in names.items()}
    folded: dict[str, list[str]] = {}
    for mid, name in names.items():
        folded.setdefault(name.casefold(), []).append(mid)

    def find(name: str) -> str | None:
        if name in names:
            return name
        alike = folded.get(name.casefold(), [])
        return exact.get(name) or (alike[0] if len(alike) == 1 else None)

    return find


def groups_of_taxonomy(given: Taxonomy, names: Mapping[str, str], source: str) -> Groups:
    """A user's taxonomy, whose classes are MIDs or names. DataError if one is neither."""
    find = _finder(names)

    def mid_of(name: str) -> str:
        if (mid := find(name)) is not None:
            return mid
        raise DataError(
            f"{source}: '{name}' is no class of class-descriptions.csv, or two are called so; "
            f"{did_you_mean(name, names.values())}"
        )

    verticals = {
        vertical: [mid_of(given.classes[c]) for c in given.vertical_classes(v)]
        for v, vertical in enumerate(given.verticals)
    }
    parents = {
        mid_of(given.classes[child]): [mid_of(given.classes[p]) for p in above]
        for child, above in given.parents.items()
    }
    return verticals, parents


def build_taxonomy(
    groups: Groups, names: Mapping[str, str], kept: Iterable[str], rest: str | None, source: str
) -> Taxonomy:
    """The taxonomy of the MIDs that are kept, by their names.

    A class whose parent is not kept becomes a kind of the next one above. rest: the vertical of classes in no
    other; None leaves them out. source: of the groups, for errors. DataError if nothing is left, or if
    classes are kinds of each other.
    """
    verticals, parents = groups
    wanted = dict.fromkeys(kept)
    found = {
        vertical: [names[mid] for mid in members if mid in wanted] for vertical, members in verticals.items()
    }
    placed = {mid for members in verticals.values() for mid in members}
    left = [names[mid] for mid in wanted if mid not in placed]
    if rest is not None and left:
        found.setdefault(rest, []).extend(left)
    found = {vertical: members for vertical, members in found.items() if members}
    if not found:
        raise DataError("data.options: no class has enough training images (min_images) and a vertical")
    inside = {name for members in found.values() for name in members}

    def above(mid: str, seen: frozenset[str] = frozenset()) -> list[str]:
        nearest: dict[str, None] = {}
        for parent in parents.get(mid, ()):
            if parent in seen:
                continue
            if parent in wanted and names[parent] in inside:
                nearest[names[parent]] = None
            else:
                nearest |= dict.fromkeys(above(parent, seen | {parent}))
        return list(nearest)

    kept_parents = {names[mid]: above(mid, frozenset({mid})) for mid in wanted if names[mid] in inside}
    try:
        return Taxonomy.build(found, {name: list_ for name, list_ in kept_parents.items() if list_})
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
