"""Builds the taxonomy of Open Images' classes: names, verticals and parents. N classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kcframe.builtin.sources.open_images.files import Node
from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy

Groups = tuple[dict[str, list[str]], dict[str, list[str]]]
"""(vertical -> classes, class -> parents); classes and parents are MIDs."""


def groups_of_hierarchy(root: Node, names: Mapping[str, str]) -> Groups:
    """A vertical for each child of the root that has subclasses, with the child's name; and all parents.

    names: MID -> name. The root itself is no class. A node without an entry in `names` (the published files
    have some) is no class either: its subclasses belong to the next node above.
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
            # Two children of the root with the same name make one vertical.
            verticals.setdefault(names[mid] if mid else top.name, {}).update(members)
    return {name: list(members) for name, members in verticals.items()}, {
        child: list(above) for child, above in parents.items()
    }


def _finder(names: Mapping[str, str]) -> Callable[[str], str | None]:
    """Returns a function: MID or class name -> MID. Case matters only if two names differ in case alone."""
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


def groups_of_taxonomy(taxonomy: Taxonomy, names: Mapping[str, str], source: str) -> Groups:
    """The groups of a user's taxonomy, whose classes are MIDs or names.

    source: of the taxonomy, for errors. Raises DataError if a class is neither a MID nor a name.
    """
    find = _finder(names)

    def mid_of(name: str) -> str:
        if (mid := find(name)) is not None:
            return mid
        raise DataError(
            f"{source}: '{name}' is no class of class-descriptions.csv, or two are called so; "
            f"{did_you_mean(name, names.values())}"
        )

    verticals = {
        vertical: [mid_of(taxonomy.classes[c]) for c in taxonomy.vertical_classes(v)]
        for v, vertical in enumerate(taxonomy.verticals)
    }
    parents = {
        mid_of(taxonomy.classes[child]): [mid_of(taxonomy.classes[p]) for p in above]
        for child, above in taxonomy.parents.items()
    }
    return verticals, parents


def build_taxonomy(
    groups: Groups, names: Mapping[str, str], mids: Iterable[str], rest: str | None, source: str
) -> Taxonomy:
    """The taxonomy of the classes `mids`, by their names.

    If a class's parent is not in `mids`, the next ancestor that is becomes its parent. rest: the vertical for
    classes that are in no other; None leaves them out. source: of the groups, for errors. Raises DataError if
    no class is left, or if the parents form a circle.
    """
    verticals, parents = groups
    wanted = dict.fromkeys(mids)
    classes_of = {
        vertical: [names[mid] for mid in members if mid in wanted] for vertical, members in verticals.items()
    }
    placed = {mid for members in verticals.values() for mid in members}
    left = [names[mid] for mid in wanted if mid not in placed]
    if rest is not None and left:
        classes_of.setdefault(rest, []).extend(left)
    classes_of = {vertical: members for vertical, members in classes_of.items() if members}
    if not classes_of:
        raise DataError("data.options: no class has enough training images (min_images) and a vertical")
    inside = {name for members in classes_of.values() for name in members}

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

    parents_of = {names[mid]: above(mid, frozenset({mid})) for mid in wanted if names[mid] in inside}
    try:
        return Taxonomy.build(classes_of, {name: list_ for name, list_ in parents_of.items() if list_})
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
