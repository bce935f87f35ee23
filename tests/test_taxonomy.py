import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kcframe.errors import DataError
from kcframe.taxonomy import Taxonomy

BIRDS = {"birds": ["bird", "black bird", "duck"], "food": ["dish", "duck"]}


def test_ids_go_round_trip_through_verticals_and_slots():
    taxonomy = Taxonomy.build(BIRDS)
    assert (taxonomy.num_classes, taxonomy.num_verticals, taxonomy.num_slots) == (4, 2, 5)
    assert taxonomy.sizes == (3, 2)
    for class_id in range(taxonomy.num_classes):
        for vertical, local in taxonomy.locate(class_id):
            assert taxonomy.class_of(vertical, local) == class_id


def test_a_class_in_two_verticals_is_one_class_with_two_places():
    taxonomy = Taxonomy.build(BIRDS)
    assert taxonomy.locate(taxonomy.class_id("duck")) == ((0, 2), (1, 1))


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=4).filter(
            lambda name: name not in (".", "..")
        ),
        st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=6, unique=True),
        min_size=1,
        max_size=5,
    )
)
def test_every_slot_is_found_again_and_json_keeps_everything(verticals):
    taxonomy = Taxonomy.build(verticals)
    places = [place for c in range(taxonomy.num_classes) for place in taxonomy.locate(c)]
    assert sorted(places) == [(v, i) for v, n in enumerate(taxonomy.sizes) for i in range(n)]
    for v, names in enumerate(verticals.values()):
        assert [taxonomy.classes[c] for c in taxonomy.vertical_classes(v)] == names
    assert Taxonomy.from_json(taxonomy.to_json()) == taxonomy


def test_labels_gain_all_ancestors_once():
    taxonomy = Taxonomy.build(
        {"v": ["animal", "bird", "black", "black bird"]},
        {"black bird": ["bird", "black"], "bird": ["animal"], "black": ["animal"]},
    )
    names = [taxonomy.classes[c] for c in taxonomy.with_ancestors([taxonomy.class_id("black bird")])]
    assert names == ["animal", "bird", "black", "black bird"]
    assert taxonomy.is_leaf.tolist() == [False, False, False, True]


def test_one_vertical_alone_keeps_its_order_and_hierarchy():
    taxonomy = Taxonomy.build(BIRDS, {"black bird": ["bird"], "duck": ["bird", "dish"]})
    birds = taxonomy.only(0)
    assert birds.classes == ("bird", "black bird", "duck")
    assert birds.ancestors(2) == (0,)


@pytest.mark.parametrize(
    ("verticals", "parents", "message"),
    [
        ({}, {}, "no vertical"),
        ({"v": []}, {}, "vertical 'v' has no classes"),
        ({"..": ["a"]}, {}, "becomes the name of a folder"),
        ({"v\x1b[2J": ["a"]}, {}, "becomes the name of a folder"),
        ({"v": ["a", "a"]}, {}, "'a' stands twice in vertical 'v'"),
        ({"v": ["bird"]}, {"bird": ["brid"]}, "did you mean 'bird'"),
        ({"v": ["a", "b"]}, {"a": ["b"], "b": ["a"]}, "in a circle"),
    ],
)
def test_what_cannot_be_is_refused(verticals, parents, message):
    with pytest.raises(DataError, match=message):
        Taxonomy.build(verticals, parents)


@pytest.mark.parametrize("text", ["", "[]", "{}", json.dumps({"kcframe_taxonomy": 99})])
def test_another_file_is_refused(text):
    with pytest.raises(DataError):
        Taxonomy.from_json(text)


def test_an_unknown_class_is_answered_with_the_nearest():
    with pytest.raises(DataError, match="did you mean 'black bird'"):
        Taxonomy.build(BIRDS).class_id("blackbird")
