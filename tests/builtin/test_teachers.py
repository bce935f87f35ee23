"""Label maps, log-odds, the cut of a teacher's outputs, and the built-in teacher sources."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kcframe.builtin.teachers.checkpoint import Checkpoint
from kcframe.builtin.teachers.options import CheckpointOptions, SpecialistsOptions
from kcframe.builtin.teachers.specialists import Specialists
from kcframe.errors import DataError
from kcframe.interfaces.options import PluginOptions
from kcframe.interfaces.teacher import Teacher, TeacherContext, TeacherSource
from kcframe.interfaces.toolkit.label_map import by_own_names, place_outputs, read_names, read_renames
from kcframe.interfaces.toolkit.log_odds import ToLogits, from_probabilities, from_softmax
from kcframe.taxonomy import Taxonomy

TAXONOMY = Taxonomy.build({"birds": ["wren", "crow", "swift"], "cars": ["sedan", "coupe"]})


def said(error, ask, *arguments):
    with pytest.raises(error) as caught:
        ask(*arguments)
    return str(caught.value)


# -- label maps --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ('["wren", null, "crow"]', ["wren", None, "crow"]),
        ('{"2": "crow", "0": "wren"}', {2: "crow", 0: "wren"}),
        ("[]", []),
        ("{}", {}),
    ],
)
def test_names_are_read_from_a_list_or_an_object(text, names):
    assert read_names("m.json", {"m.json": text.encode()}.__getitem__) == names


NEITHER = 'should be a JSON object {"output": our class name} or a JSON list of names'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not JSON (Expecting property name enclosed in double quotes"),
        (b"\xff\xfe\xff", "not JSON ("),
        (b"7", NEITHER),
        (b"[1]", NEITHER),
        (b'{"0": null}', NEITHER),
        (b'{"0": "wren", "crow": "crow"}', "'crow' should be the number of an output, counted from 0"),
        (b'{"": "wren"}', "'' should be the number of an output, counted from 0"),
        (b'{"-1": "wren"}', "'-1' should be the number of an output, counted from 0"),
        ('{"٣": "wren"}'.encode(), "'٣' should be the number of an output, counted from 0"),
    ],
)
def test_what_cannot_be_names(content, message):
    assert said(DataError, read_names, "a/m.json", lambda path: content).startswith(
        f"label map a/m.json: {message}"
    )


def test_renames_are_an_object_of_names_which_may_look_like_numbers():
    assert read_renames("m.json", lambda path: b'{"0": "wren"}') == {"0": "wren"}
    for content in (b'["wren"]', b'{"a": 1}', b"null"):
        assert said(DataError, read_renames, "m.json", lambda path, content=content: content) == (
            "label map m.json: should be a JSON object {its class name: our class name}"
        )
    assert said(DataError, read_renames, "m.json", lambda path: b"").startswith(
        "label map m.json: not JSON ("
    )


def test_outputs_with_names_of_their_own():
    own = ["zaunkönig", "krähe", "segler"]
    assert by_own_names(own, None, "w") == own
    assert by_own_names(own, {"segler": "swift", "zaunkönig": "wren"}, "w") == ["wren", None, "swift"]
    assert said(DataError, by_own_names, own, {"krähe": "crow", "seglr": "swift"}, "w") == (
        "label map of w: it has no class 'seglr'; did you mean 'segler'?"
    )


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_each_output_gets_the_id_of_its_name(data):
    """For any choice and order of our classes among any number of outputs, given in either form."""
    chosen = data.draw(st.lists(st.sampled_from(TAXONOMY.classes), min_size=1, unique=True))
    row = data.draw(st.permutations([*chosen, *[None] * data.draw(st.integers(0, 4))]))
    mapping = {output: name for output, name in reversed(list(enumerate(row))) if name is not None}
    for names in (row, mapping):
        placed = place_outputs(names, len(row), TAXONOMY, "w")
        assert placed.dtype == torch.int64
        assert [None if c == -1 else TAXONOMY.classes[c] for c in placed.tolist()] == row


WHOLE = ["coupe", "wren", "crow", "swift"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({4: "wren", 9: "crow"}, "label map of w: it has no output 4; its 4 outputs are numbered 0 to 3"),
        ({-1: "wren"}, "label map of w: it has no output -1; its 4 outputs are numbered 0 to 3"),
        (
            WHOLE[:3],
            "label map of w: has 3 entries for 4 outputs; put null for an output that is not to be asked",
        ),
        (
            [*WHOLE, None],
            "label map of w: has 5 entries for 4 outputs; put null for an output that is not to be asked",
        ),
        ([None] * 4, "label map of w: names none of its 4 outputs"),
        ({}, "label map of w: names none of its 4 outputs"),
        (
            {0: "crow", 2: "wrem"},
            "w: output 2 would be our 'wrem', which the data does not have (a label map may leave it out); "
            "did you mean 'wren'?",
        ),
        (
            {3: "lorry"},
            "w: output 3 would be our 'lorry', which the data does not have (a label map may leave it out); "
            "known: coupe, crow, sedan, swift, wren",
        ),
        (
            {3: "wren", 1: "wren"},
            "w: output 1 and output 3 are both our 'wren': leave one out of the label map",
        ),
    ],
)
def test_label_maps_that_do_not_fit(names, message):
    assert said(DataError, place_outputs, names, 4, TAXONOMY, "w") == message


def test_outputs_are_called_by_their_own_names_if_they_have_them():
    assert said(DataError, place_outputs, ["wren", "wren"], 2, TAXONOMY, "w", ["a", "b"]) == (
        "w: its class 'a' and its class 'b' are both our 'wren': leave one out of the label map"
    )
    assert said(DataError, place_outputs, ["wren", "crown"], 2, TAXONOMY, "w", ["a", "b"]) == (
        "w: its class 'b' would be our 'crown', which the data does not have (a label map may leave it out); "
        "did you mean 'crow'?"
    )


# -- log-odds ----------------------------------------------------------------------------------------


def odds_of_a_softmax(row):
    """x_i - log sum_{j != i} exp(x_j), in float64, one output at a time."""
    row = np.asarray(row, dtype=np.float64)
    return [x - np.logaddexp.reduce(np.delete(row, i)) for i, x in enumerate(row)]


EXTREMES = [
    [0.0, 0.0, 0.0],
    [3.0, -1.0, 0.5],
    [60.0, -60.0, 0.0],
    [200.0, 0.0, -200.0],
    [1e4, 1e4, -1e4],
    [1e4, 1e4 + 1, 1e4 + 2],
    [-1e30, 0.0, 1e30],
    [17.0, 0.0, -17.0],
    [5.0, 5.0, 4.9999],
]


def test_a_softmax_agrees_with_the_closed_form_also_where_it_is_certain():
    expected = torch.tensor([odds_of_a_softmax(row) for row in EXTREMES])
    found = from_softmax(torch.tensor(EXTREMES))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6)


@given(st.lists(st.floats(-300, 300, width=32), min_size=2, max_size=20), st.integers(0, 10))
@settings(max_examples=200, deadline=None)
def test_any_softmax_agrees_with_the_closed_form(row, shift):
    expected = torch.tensor(odds_of_a_softmax(row))
    torch.testing.assert_close(from_softmax(torch.tensor([row]))[0].double(), expected, rtol=1e-5, atol=1e-5)
    # What a softmax does not mind, its log-odds do not either; float32 rounds the shifted logits.
    moved = from_softmax(torch.tensor([row]).double().add(2.0**shift).float())[0].double()
    torch.testing.assert_close(moved, expected, rtol=1e-5, atol=1e-3)


def test_of_two_outputs_the_log_odds_are_the_difference():
    logits = torch.randn(50, 2, generator=torch.Generator().manual_seed(0)) * 20
    difference = logits[:, 0] - logits[:, 1]
    torch.testing.assert_close(from_softmax(logits), torch.stack([difference, -difference], 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_formats_are_computed_in_float32(dtype):
    logits = torch.tensor([[8.0, -8.0, 1.0], [0.5, 0.25, 0.0]], dtype=dtype)
    assert torch.equal(from_softmax(logits), from_softmax(logits.float()))
    assert from_probabilities(logits.softmax(1)).dtype == torch.float32


TINY, LARGEST = Fraction(2) ** -126, 1 - Fraction(2) ** -24  # float32's own limits between 0 and 1


@pytest.mark.parametrize(
    ("p", "meant"),
    [
        (0.0, TINY),
        (-0.0009, TINY),
        (2.0**-140, TINY),
        (2.0**-126, TINY),
        (1e-20, None),
        (2.0**-24, None),
        (0.5, None),
        (0.75, None),
        (0.999, None),
        (1 - 2.0**-23, None),
        (1 - 2.0**-24, LARGEST),
        (1.0, LARGEST),
        (1.0009, LARGEST),
    ],
)
def test_probabilities_agree_with_the_closed_form(p, meant):
    p = torch.tensor([[p]])
    exact = Fraction(float(p)) if meant is None else meant  # what float32 holds, without rounding
    expected = math.log(exact) - math.log(1 - exact)
    assert from_probabilities(p).item() == pytest.approx(expected, rel=1e-6, abs=1e-7)
    assert -87.4 < expected < 16.7
    assert from_probabilities(p).sigmoid().item() == pytest.approx(float(exact), rel=1e-5)


def test_last_steps():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert ToLogits("logits", 3, "w")(logits) is logits
    assert torch.equal(ToLogits("softmax-logits", 3, "w")(logits), from_softmax(logits))
    torch.testing.assert_close(ToLogits("probabilities", 3, "w")(logits.sigmoid()), logits)
    torch.testing.assert_close(ToLogits("probabilities", 3, "w")(logits.softmax(1)), from_softmax(logits))


def test_outputs_that_cannot_be_what_they_are_said_to_be():
    assert said(DataError, ToLogits, "softmax-logits", 1, "w") == (
        "w: a softmax over one output always says 1: set outputs to logits"
    )
    step = ToLogits("probabilities", 2, "w")
    assert said(DataError, step, torch.tensor([[-3.0, 2.5]])) == (
        "w: its outputs go from -3 to 2.5, so they are no probabilities: set outputs to logits or "
        "softmax-logits"
    )
    for strange in (1.01, -0.01, math.nan, math.inf):
        with pytest.raises(DataError, match="no probabilities"):
            step(torch.tensor([[0.5, strange]]))
    assert step(torch.tensor([[1.0005, -0.0005]])).isfinite().all()


# -- teachers ----------------------------------------------------------------------------------------


def teacher(network, label_map):
    return Teacher(
        "t", network, torch.tensor(label_map), channels=1, mean=(0.0,), std=(1.0,), input_size=None
    )


def test_all_outputs_are_kept_as_they_are():
    whole = teacher(nn.Flatten(), [4, 0, 0, 2])
    assert whole.columns is None
    assert whole.label_map.tolist() == [4, 0, 0, 2]
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(whole(images), images.flatten(1))


def test_outputs_of_no_class_are_cut():
    cut = teacher(nn.Flatten(), [-1, 3, -1, 0])
    assert cut.label_map.tolist() == [3, 0]
    assert cut.columns.tolist() == [1, 3]
    assert {"label_map", "columns"} <= dict(cut.named_buffers()).keys()  # they move with the teacher
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(cut(images), images.flatten(1)[:, [1, 3]])
    # Only -1 means nothing: what else is wrong stays, for the engine to refuse.
    assert teacher(nn.Flatten(), [-2, -1, 0, 99]).label_map.tolist() == [-2, 0, 99]


def test_the_columns_of_another_network_are_not_taken():
    with pytest.raises(ValueError, match="the network has 4 outputs and the label map 3 entries"):
        teacher(nn.Flatten(), [-1, 3, 0])(torch.rand(3, 1, 2, 2))


# -- sources -----------------------------------------------------------------------------------------

OWN = ["wren", "jay", "swift", "rook"]
LOGITS = torch.tensor([[0.0, 1.0, 2.0, 3.0]])


class Saved(nn.Module):
    def forward(self, images):
        return LOGITS.expand(len(images), -1)


def load_specialist(url):
    if url != "w.safetensors":
        raise DataError(f"{url}: no such file")
    return Saved(), {"classes": OWN, "channels": 1, "image_size": 8}


def checkpoint(label_map=None, path="w.safetensors"):
    """What the source says early and what teachers it has; both must agree on what is wrong."""
    options = CheckpointOptions(path=path, label_map=None if label_map is None else "m.json")
    context = TeacherContext(TAXONOMY, 3, 8, lambda _: label_map.encode(), {}, load_specialist)
    source = Checkpoint(options)
    said_of_both = [_outcome(ask, context) for ask in (source.check, source.teachers)]
    early, late = said_of_both
    if isinstance(late, DataError):
        assert str(early) == str(late)
        raise late
    assert early is None
    return late


def _outcome(ask, context):
    try:
        return ask(context)
    except DataError as error:
        return error


def test_a_checkpoint_under_other_names():
    (found,) = checkpoint('{"rook": "crow", "wren": "wren"}')
    assert found.name == "w.safetensors"
    assert found.label_map.tolist() == [0, 1]
    assert found(torch.rand(2, 3, 8, 8)).tolist() == [[0.0, 3.0]] * 2


@pytest.mark.parametrize(
    ("label_map", "message"),
    [
        (
            None,
            "w.safetensors: its class 'jay' would be our 'jay', which the data does not have "
            "(a label map may leave it out); known: coupe, crow, sedan, swift, wren",
        ),
        (
            '{"rook": "crow", "jay": "crow"}',
            "w.safetensors: its class 'jay' and its class 'rook' are both our 'crow': leave one out of the "
            "label map",
        ),
        (
            '{"rok": "crow"}',
            "label map of w.safetensors: it has no class 'rok'; did you mean 'rook'?",
        ),
        ("{}", "label map of w.safetensors: names none of its 4 outputs"),
        ("[]", "label map m.json: should be a JSON object {its class name: our class name}"),
    ],
)
def test_checkpoints_that_do_not_fit(label_map, message):
    assert said(DataError, checkpoint, label_map) == message


def test_a_checkpoint_that_is_not_there():
    assert said(DataError, checkpoint, None, "x.safetensors") == "x.safetensors: no such file"


def test_specialists_are_checked_before_they_are_there():
    context = TeacherContext(TAXONOMY, 3, 8, None, {}, load_specialist)
    for verticals in (None, ("cars",), ("cars", "birds")):
        Specialists(SpecialistsOptions(verticals=verticals)).check(context)
    wrong = Specialists(SpecialistsOptions(verticals=("cars", "bird")))
    message = "teacher 'specialists': no vertical 'bird'; did you mean 'birds'?"
    assert said(DataError, wrong.check, context) == message
    assert said(DataError, wrong.teachers, context) == message.replace(
        "did you mean 'birds'?", "nothing is known by any name here"
    ).replace("'bird'", "'cars'")


def test_a_source_need_not_check():
    class Plain(TeacherSource):
        def teachers(self, context):
            raise AssertionError("not yet")

    assert Plain(PluginOptions()).check(None) is None
