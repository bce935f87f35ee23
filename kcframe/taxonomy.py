"""Classes, the verticals they belong to, and their parents.

Three kinds of number name a class (N classes, M verticals, N_v classes of vertical v):

* class id: 0..N-1, the same everywhere in a run;
* (vertical, local id): its index among the N_v outputs of one vertical;
* slot: 0..S-1, `offsets[vertical] + local id`, its index in the concatenated outputs of all verticals.

A class may belong to several verticals; then it has several slots, and S > N.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import category

import numpy as np

from kcframe.errors import DataError, did_you_mean

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Taxonomy:
    """Build one with `Taxonomy.build`; read one with `Taxonomy.from_json`.

    classes: N names. verticals: M names. offsets: int64 [M+1], the first slot of each vertical.
    slot_class: int32 [S], the class id of each slot. parents: class id -> ids of its direct parents.
    """

    classes: tuple[str, ...]
    verticals: tuple[str, ...]
    offsets: np.ndarray
    slot_class: np.ndarray
    parents: Mapping[int, tuple[int, ...]]

    @classmethod
    def build(
        cls,
        verticals: Mapping[str, Sequence[str]],
        parents: Mapping[str, Iterable[str]] | None = None,
    ) -> Taxonomy:
        """From class names by vertical and, for hierarchical labels, parent names by class.

        Class ids are in the order of first appearance. Raises DataError for an empty vertical, for a name
        that is twice in one vertical, for a parent that is no class, and for parents that form a circle.
        """
        if not verticals:
            raise DataError("the taxonomy has no vertical: name at least one with its classes")
        ids: dict[str, int] = {}
        slots: list[int] = []
        offsets = [0]
        for vertical, names in verticals.items():
            if vertical in (".", "..") or any(category(character) == "Cc" for character in vertical):
                raise DataError(f"vertical {vertical!r}: becomes the name of a folder: give it another")
            if not names:
                raise DataError(f"vertical '{vertical}' has no classes: give it some or leave it out")
            seen: set[str] = set()
            for name in names:
                if name in seen:
                    raise DataError(f"class '{name}' stands twice in vertical '{vertical}'")
                seen.add(name)
                slots.append(ids.setdefault(name, len(ids)))
            offsets.append(len(slots))
        parent_ids: dict[int, tuple[int, ...]] = {}
        for child, above in (parents or {}).items():
            for name in (child, *above):
                if name not in ids:
                    raise DataError(
                        f"the hierarchy names '{name}', which is in no vertical; {did_you_mean(name, ids)}"
                    )
            if above_ids := tuple(dict.fromkeys(ids[name] for name in above)):
                parent_ids[ids[child]] = above_ids
        taxonomy = cls(
            tuple(ids),
            tuple(verticals),
            np.asarray(offsets, dtype=np.int64),
            np.asarray(slots, dtype=np.int32),
            parent_ids,
        )
        taxonomy._refuse_circles()
        return taxonomy

    # -- sizes ------------------------------------------------------------------------------------

    @property
    def num_classes(self) -> int:
        """N, the number of classes."""
        return len(self.classes)

    @property
    def num_verticals(self) -> int:
        """M, the number of verticals."""
        return len(self.verticals)

    @property
    def num_slots(self) -> int:
        """S: the sum of all verticals' sizes. A class in k verticals has k slots."""
        return len(self.slot_class)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """(N_1, …, N_M), the number of classes of each vertical."""
        return tuple(int(n) for n in np.diff(self.offsets))

    # -- ids --------------------------------------------------------------------------------------

    @cached_property
    def class_ids(self) -> dict[str, int]:
        """Class name -> class id."""
        return {name: index for index, name in enumerate(self.classes)}

    def class_id(self, name: str) -> int:
        """The id of a class name; DataError with the nearest name if there is none."""
        try:
            return self.class_ids[name]
        except KeyError:
            raise DataError(f"no class '{name}'; {did_you_mean(name, self.classes)}") from None

    def vertical_classes(self, vertical: int) -> np.ndarray:
        """int32 [N_v]: class ids of a vertical, in the order of its outputs."""
        return self.slot_class[self.offsets[vertical] : self.offsets[vertical + 1]]

    def local_ids(self, vertical: int) -> np.ndarray:
        """int64 [N]: each class's index among a vertical's outputs, -1 for classes of other verticals."""
        classes = self.vertical_classes(vertical)
        local_ids_of_classes = np.full(self.num_classes, -1)
        local_ids_of_classes[classes] = np.arange(len(classes))
        return local_ids_of_classes

    def class_of(self, vertical: int, local: int) -> int:
        """The class id at (vertical, local id)."""
        return int(self.vertical_classes(vertical)[local])

    def locate(self, class_id: int) -> tuple[tuple[int, int], ...]:
        """Every (vertical, local id) of a class; at least one."""
        start, stop = self.class_slot_offsets[class_id : class_id + 2]
        slots = self.class_slots[start:stop]
        verticals = self.slot_vertical[slots]
        return tuple((int(v), int(s - self.offsets[v])) for v, s in zip(verticals, slots, strict=True))

    @cached_property
    def slot_vertical(self) -> np.ndarray:
        """int32 [S]: the vertical of each slot."""
        return np.repeat(np.arange(self.num_verticals, dtype=np.int32), np.diff(self.offsets))

    @cached_property
    def class_slots(self) -> np.ndarray:
        """int64 [S]: slots by class; class c has `class_slots[o[c]:o[c+1]]`, o is `class_slot_offsets`."""
        return np.argsort(self.slot_class, kind="stable")

    @cached_property
    def class_slot_offsets(self) -> np.ndarray:
        """int64 [N+1]: the start of each class in `class_slots`."""
        counts = np.bincount(self.slot_class, minlength=self.num_classes)
        return np.concatenate([[0], np.cumsum(counts)])

    def only(self, vertical: int) -> Taxonomy:
        """A taxonomy with one vertical's classes only, renumbered in the order of its outputs."""
        names = [self.classes[c] for c in self.vertical_classes(vertical)]
        inside = set(names)
        parents = {
            name: [self.classes[p] for p in self.parents.get(int(c), ()) if self.classes[p] in inside]
            for name, c in zip(names, self.vertical_classes(vertical), strict=True)
        }
        return Taxonomy.build({self.verticals[vertical]: names}, parents)

    # -- hierarchy --------------------------------------------------------------------------------

    @cached_property
    def is_leaf(self) -> np.ndarray:
        """bool [N]: classes without children."""
        leaf = np.ones(self.num_classes, dtype=bool)
        for parents in self.parents.values():
            leaf[list(parents)] = False
        return leaf

    def ancestors(self, class_id: int) -> tuple[int, ...]:
        """Parents, their parents and so on, without duplicates, nearest first."""
        above: dict[int, None] = {}
        queue = list(self.parents.get(class_id, ()))
        while queue:
            parent = queue.pop(0)
            if parent not in above:
                above[parent] = None
                queue.extend(self.parents.get(parent, ()))
        return tuple(above)

    def with_ancestors(self, class_ids: Iterable[int]) -> tuple[int, ...]:
        """The labels of an image: the classes and all their ancestors, ascending."""
        labels = set()
        for class_id in class_ids:
            labels.add(int(class_id))
            labels.update(self.ancestors(int(class_id)))
        return tuple(sorted(labels))

    def _refuse_circles(self) -> None:
        for child in self.parents:
            if child in self.ancestors(child):
                raise DataError(f"the hierarchy goes in a circle through class '{self.classes[child]}'")

    # -- file -------------------------------------------------------------------------------------

    def to_json(self) -> str:
        """A compact JSON text; `from_json` makes an equal taxonomy of it."""
        return json.dumps(
            {
                "kcframe_taxonomy": FORMAT,
                "classes": self.classes,
                "verticals": [
                    {"name": name, "classes": self.vertical_classes(v).tolist()}
                    for v, name in enumerate(self.verticals)
                ],
                "parents": {str(child): parents for child, parents in self.parents.items()},
            },
            ensure_ascii=False,
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Taxonomy:
        """Reads the text of `to_json`. Raises DataError if it is something else."""
        try:
            content = json.loads(text)
            if content["kcframe_taxonomy"] != FORMAT:
                raise DataError(f"taxonomy format {content['kcframe_taxonomy']}: this kcframe reads {FORMAT}")
            verticals = content["verticals"]
            sizes = [len(vertical["classes"]) for vertical in verticals]
            return cls(
                tuple(content["classes"]),
                tuple(vertical["name"] for vertical in verticals),
                np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
                np.asarray([c for vertical in verticals for c in vertical["classes"]], dtype=np.int32),
                {int(child): tuple(parents) for child, parents in content["parents"].items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a kcframe taxonomy: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self.to_json() == other.to_json()
