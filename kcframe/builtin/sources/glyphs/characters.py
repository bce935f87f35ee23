"""Assigns characters to verticals; class names and parent classes of characters."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from kcframe.builtin.sources.glyphs.options import GlyphVertical
from kcframe.errors import DataError, did_you_mean
from kcframe.taxonomy import Taxonomy

CATEGORIES = {
    "Lu": "capital letters",
    "Ll": "small letters",
    "Lt": "titlecase letters",
    "Lm": "modifier letters",
    "Lo": "letters without case",
    "Mn": "combining marks",
    "Mc": "combining marks",
    "Nd": "digits",
    "Nl": "letter numbers",
    "No": "other numbers",
    "Sc": "currency signs",
    "Sk": "modifier symbols",
    "Sm": "mathematical symbols",
    "So": "other symbols",
}

# Controls and line ends (layout engines fail on some of them), and characters without a shape.
UNDRAWABLE = ("Cc", "Cf", "Zl", "Zp", "Cs")

FIRST_RADICAL, RADICALS = 0x2F00, 214  # the KangXi radicals as characters
UNIFIED = range(0x4E00, 0x9FA6)  # CJK Unified Ideographs of Unicode 1.1, in the order of KangXi's radicals
SYLLABLES = range(0xAC00, 0xD7A4)  # Hangul syllables


def class_name(code: int) -> str:
    """'α U+03B1': the character, then its code point."""
    shown = chr(code)
    if unicodedata.combining(shown):
        shown = "\u25cc" + shown
    return f"{shown} U+{code:04X}"


def assign(verticals: Mapping[str, GlyphVertical], codes: Sequence[int]) -> dict[str, list[int]]:
    """Assigns each code point to the first vertical that names it, its block or its script."""
    from fontTools import unicodedata as tables

    blocks: dict[str, str] = {}
    scripts: dict[str, str] = {}
    name_kinds = (
        (blocks, "block", set(tables.Blocks.VALUES)),
        (scripts, "script", set(tables.Scripts.NAMES)),
    )
    for vertical, wanted in verticals.items():
        for owners, kind, names in name_kinds:
            for name in getattr(wanted, f"{kind}s"):
                if name not in names:
                    raise DataError(
                        f"data.options.verticals.{vertical}.{kind}s: no Unicode {kind} '{name}'; "
                        f"{did_you_mean(name, names)}"
                    )
                owners.setdefault(name, vertical)
    ranges = [(name, first, last) for name, spec in verticals.items() for first, last in spec.ranges()]
    members: dict[str, list[int]] = {vertical: [] for vertical in verticals}
    order = {vertical: place for place, vertical in enumerate(members)}
    for code in codes:
        character = chr(code)
        named = blocks.get(tables.block(character)), scripts.get(tables.script(character))
        asking = {name for name in named if name is not None}
        asking |= {name for name, first, last in ranges if first <= code <= last}
        if asking:
            members[min(asking, key=order.__getitem__)].append(code)
    return members


def build_taxonomy(members: Mapping[str, Sequence[int]], with_parents: bool) -> Taxonomy:
    """A taxonomy with a class per character.

    with_parents: add a parent class for each group of characters that is a part of its vertical: block,
    general category, radical of an ideograph, first letter of a Hangul syllable.
    """
    verticals = {vertical: [class_name(code) for code in codes] for vertical, codes in members.items()}
    parents: dict[str, list[str]] = {}
    for vertical, codes in members.items() if with_parents else ():
        groups: dict[str, list[int]] = {}
        for code in codes:
            for kind in _kinds(code):
                groups.setdefault(f"{vertical}: {kind}", []).append(code)
        for group, group_codes in groups.items():
            if 2 <= len(group_codes) < len(codes):
                verticals[vertical].append(group)
                for code in group_codes:
                    parents.setdefault(class_name(code), []).append(group)
    return Taxonomy.build(verticals, parents)


def _kinds(code: int) -> Iterator[str]:
    from fontTools import unicodedata as tables

    category = unicodedata.category(chr(code))
    yield CATEGORIES.get(category, "punctuation" if category[0] in "PZ" else "other characters")
    yield tables.block(chr(code))
    if code in UNIFIED:
        radical = bisect_right(_radicals(), code) - 1
        yield f"radical {radical + 1} {chr(_radicals()[radical])}"
    elif code in SYLLABLES:
        yield f"syllables with {unicodedata.normalize('NFD', chr(code))[0]}"


@cache
def _radicals() -> list[int]:
    """The ideographs of KangXi's 214 radicals, ascending: each begins its radical's part of UNIFIED."""
    return [ord(unicodedata.normalize("NFKC", chr(FIRST_RADICAL + number))) for number in range(RADICALS)]
