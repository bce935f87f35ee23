"""Taxonomy files: three ways to write one taxonomy, and where a wrong one is wrong."""

from __future__ import annotations

import json
import re

import pytest

from kcframe.errors import DataError
from kcframe.pictures.taxonomy_file import read_taxonomy
from kcframe.taxonomy import Taxonomy

CSV = """class,vertical,parents
lion,cats,big cat; animal
jaguar,cats,big cat
jaguar,cars,
"beetle, #2",cars
big cat,cats,animal
animal,cats,
"""
JSON = {
    "verticals": {
        "cats": ["lion", "jaguar", "big cat", "animal"],
        "cars": ["jaguar", "beetle, #2"],
    },
    "parents": {"lion": ["big cat", "animal"], "jaguar": ["big cat"], "big cat": ["animal"]},
}
WAYS = {
    "csv": CSV,
    "csv of a spreadsheet": "\ufeff" + CSV.replace("\n", "\r\n"),
    "csv with blanks": CSV.replace(",", ",  ").replace("beetle,   #2", "beetle, #2").replace("\n", "\n\n"),
    "csv, other columns first": "vertical,parents,class\n"
    + "cats,big cat;animal,lion\ncats,big cat,jaguar\ncars,,jaguar\n"
    + 'cars,,"beetle, #2"\ncats,animal,big cat\ncats,,animal\n',
    "json": json.dumps(JSON),
    "ours": Taxonomy.build(JSON["verticals"], JSON["parents"]).to_json(),
}


@pytest.fixture
def read(tmp_path):
    def write_and_read(content: str | bytes) -> Taxonomy:
        file = tmp_path / "taxonomy"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return read_taxonomy(str(file))

    return write_and_read


@pytest.mark.parametrize("way", WAYS)
def test_verticals_and_parents(read, way):
    found = read(WAYS[way])
    assert found.verticals == ("cats", "cars")
    for vertical, names in enumerate(JSON["verticals"].values()):
        assert {found.classes[c] for c in found.vertical_classes(vertical)} == set(names)
    assert [v for v, _ in found.locate(found.class_id("jaguar"))] == [0, 1]
    above = {
        child: [found.classes[c] for c in found.ancestors(found.class_id(child))] for child in found.classes
    }
    assert above == {
        "lion": ["big cat", "animal"],
        "jaguar": ["big cat", "animal"],
        "big cat": ["animal"],
        "animal": [],
        "beetle, #2": [],
    }


def test_a_class_may_be_called_as_our_format_is(read):
    assert read('{"verticals": {"v": ["kcframe_taxonomy"]}}').classes == ("kcframe_taxonomy",)


HEAD = "class,vertical,parents\n"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the first line must be class,vertical"),
        ("class,group\na,b\n", "the first line must be class,vertical .*not class,group"),
        ("class,class,vertical\na,b,c\n", "the first line must be .*not class,class,vertical"),
        ("class;vertical\na;b\n", "the first line must be .*not class;vertical"),
        (HEAD, "has no vertical"),
        (HEAD + "a,v\n\nb\n", "line 4: needs a class and a vertical"),
        (HEAD + "a,v\n  ,v\n", "line 3: needs a class and a vertical"),
        (HEAD + "a,v,b,c\n", "line 2: .*3 columns at most"),
        (HEAD + "lion,cats\nlion,cars\nlion,cats\n", "line 4: class 'lion' stands in 'cats' .*line 2"),
        (HEAD + "big cat,cats\nlion,cats,bigcat\n", "line 3: the parent 'bigcat' .*did you mean 'big cat'"),
        (HEAD + "a,v,b\nb,v,a\n", "circle through class 'a'"),
        (HEAD + 'a,v\n"b,v\n', "line 3: .*is a quote open"),
        (HEAD.encode() + b"lion,cats\ncaf\xe9,food\n", "line 3: not UTF-8"),
        (HEAD.encode("utf-16"), "line 1: not UTF-8"),
        ('{"verticals":\n {"cats": [}}', "line 2, column 12"),
        ('{"verticals": {"cats": "lion"}}', "verticals.cats: .*list"),
        ('{"verticals": {"cats": ["lion", ""]}}', "verticals.cats.1: .*at least 1 character"),
        ('{"verticals": {"cats": ["lion", 7]}}', "verticals.cats.1: .*string"),
        ('{"vertical": {"cats": ["lion"]}}', "verticals: .*required"),
        ('{"verticals": {"cats": ["lion"]}, "parent": {}}', "parent: unknown; did you mean 'parents'"),
        ('{"verticals": {"cats": ["lion"], "cats": ["tiger"]}}', "'cats' is given 2 times"),
        ('["lion"]', "must be {"),
        ('{"kcframe_taxonomy": 99}', "taxonomy format 99"),
    ],
)
def test_a_wrong_file_is_named_with_the_place(read, content, says):
    with pytest.raises(DataError, match=f"/taxonomy: .*{says}"):
        read(content)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    missing = str(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=re.escape(f"data.options.taxonomy: no file '{missing}'")):
        read_taxonomy(missing)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path}: cannot be read")):
        read_taxonomy(str(tmp_path))
