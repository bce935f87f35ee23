"""Which teacher is asked, what it sees, and what becomes of its answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kcframe.engine.loss.targets import SlotIndex, SlotTargets
from kcframe.engine.teachers.routing import Router
from kcframe.errors import PluginError
from kcframe.interfaces.data import Labels
from kcframe.interfaces.teacher import Teacher, prepare_images
from kcframe.taxonomy import Taxonomy

CPU = torch.device("cpu")
# Three verticals of 3, 2 and 1 classes; class 2 stands in the first two.
TAXONOMY = Taxonomy.build({"a": ["0", "1", "2"], "b": ["2", "3"], "c": ["4"]})


class Fixed(nn.Module):
    """Says the same logits of every image and keeps what it was shown."""

    def __init__(self, logits: list[float]):
        super().__init__()
        self.logits, self.seen, self.grad_mode = torch.tensor(logits).float(), [], None

    def forward(self, images):
        self.seen += images[:, 0, 0, 0].tolist()
        self.grad_mode = torch.is_inference_mode_enabled()
        return self.logits.expand(len(images), -1)


def teacher(logits: list[float], label_map: list[int]) -> Teacher:
    return Teacher(
        "t", Fixed(logits), torch.tensor(label_map), channels=1, mean=(0.0,), std=(1.0,), input_size=None
    )


def route(teachers, labels, num_kept=None):
    router = Router(teachers, TAXONOMY.num_classes, torch.sigmoid, num_kept, CPU)
    images = torch.arange(len(labels)).float().view(-1, 1, 1, 1).expand(-1, 1, 2, 2)
    rows, classes, values = router(images, Labels.from_lists(labels))
    dense = torch.zeros(len(labels), TAXONOMY.num_classes)
    dense[rows, classes] = values
    return router, dense


def test_each_image_goes_to_the_teachers_of_its_labels_and_to_no_other():
    a, b, c = teacher([0, 0, 0], [0, 1, 2]), teacher([0, 0], [2, 3]), teacher([0], [4])
    router, _ = route([a, b, c], [[0], [3], [1], [0, 3], [2], [4]])
    assert a.network.seen == [0, 2, 3, 4]
    assert b.network.seen == [1, 3, 4]
    assert c.network.seen == [5]
    assert (router.images_routed, router.teacher_images) == (6, 8)
    assert a.network.grad_mode is True


def test_one_label_in_one_vertical_means_one_teacher_an_image():
    a, b = teacher([0, 0], [0, 1]), teacher([0], [3])
    router, _ = route([a, b], [[0], [1], [3], [0, 1]])
    assert router.teacher_images == router.images_routed == 4


def test_targets_are_the_teachers_probabilities_and_zero_elsewhere():
    _, dense = route([teacher([0.0, 2.0, -1.0], [0, 1, 2]), teacher([1.0], [3])], [[0], [3]])
    torch.testing.assert_close(dense[0, :3], torch.tensor([0.0, 2.0, -1.0]).sigmoid())
    assert dense[0, 3:].eq(0).all()
    assert dense[1, :3].eq(0).all()
    torch.testing.assert_close(dense[1, 3], torch.tensor(1.0).sigmoid())


def test_the_k_most_probable_are_kept():
    logits = [0.0, 2.0, 1.0]
    _, dense = route([teacher(logits, [0, 1, 2])], [[0]], num_kept=2)
    torch.testing.assert_close(
        dense[0, :3], torch.tensor([0.0, 2.0, 1.0]).sigmoid() * torch.tensor([0, 1, 1])
    )
    _, everything = route([teacher(logits, [0, 1, 2])], [[0]], num_kept=100)  # K > N_v
    assert everything[0, :3].gt(0).all()


def test_an_image_of_two_verticals_unites_both_teachers_and_agrees_on_the_larger():
    a, b = teacher([0.0, 0.0, -3.0], [0, 1, 2]), teacher([3.0, 1.0], [2, 3])
    _, dense = route([a, b], [[0, 3]])
    torch.testing.assert_close(dense[0, 2], torch.tensor(3.0).sigmoid())
    torch.testing.assert_close(dense[0, 0], torch.tensor(0.5))


def test_overlapping_outputs_of_one_teacher_are_united_too():
    _, dense = route([teacher([-1.0, 2.0], [3, 3])], [[3]])
    torch.testing.assert_close(dense[0, 3], torch.tensor(2.0).sigmoid())


def test_outputs_that_stand_for_no_class_are_cut_before_the_most_probable_are_kept():
    _, dense = route([teacher([9.0, 1.0, 8.0, 2.0, 0.0], [-1, 3, -1, 0, 4])], [[0]], num_kept=2)
    expected = torch.tensor([2.0, -torch.inf, -torch.inf, 1.0, -torch.inf]).sigmoid()
    torch.testing.assert_close(dense[0], expected)


def test_a_network_with_another_number_of_outputs_than_its_label_map_is_refused():
    for label_map in ([0, 1, 2], [0, -1, 2]):
        with pytest.raises(PluginError, match=r"Teacher: forward\(\)"):
            route([teacher([0.0] * 4, label_map)], [[0]])


def test_teachers_of_one_name_are_two_teachers():
    a, b = teacher([1.0], [0]), teacher([2.0], [3])
    assert a.name == b.name
    _, dense = route([a, b], [[0, 3]])
    torch.testing.assert_close(dense[0, [0, 3]], torch.tensor([1.0, 2.0]).sigmoid())


def test_a_label_that_no_teacher_knows_stays_as_it_is():
    _, dense = route([teacher([0.0], [0])], [[0, 4], [4]])
    assert dense[0, 4] == dense[1, 4] == 1
    assert dense[0, 0] == 0.5


def test_a_label_that_is_more_likely_wrong_asks_no_teacher():
    a, b = teacher([0.0], [0]), teacher([0.0], [3])
    router = Router([a, b], TAXONOMY.num_classes, torch.sigmoid, None, CPU)
    given = Labels.from_lists([[0, 3, 4], [3]])
    labels = Labels(given.offsets, given.classes, torch.tensor([0.9, 0.4, 0.3, 0.5]))
    rows, classes, values = router(torch.rand(2, 1, 2, 2), labels)
    # Nobody knows class 4: it stays as sure as it is.
    said = dict(zip(zip(rows.tolist(), classes.tolist(), strict=True), values.tolist(), strict=True))
    assert said == pytest.approx({(0, 0): 0.5, (0, 4): 0.3, (1, 3): 0.5})


def test_teachers_are_frozen_and_in_evaluation_mode():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 1))
    t = Teacher("t", network, torch.tensor([0]), channels=1, mean=(0.0,), std=(1.0,), input_size=None).train()
    before = {k: v.clone() for k, v in t.state_dict().items()}
    Router([t], 5, torch.sigmoid, None, CPU)(torch.rand(3, 1, 2, 2), Labels.from_lists([[0]] * 3))
    assert all(torch.equal(v, before[k]) for k, v in t.state_dict().items())
    assert not any(p.requires_grad for p in t.parameters())


def test_each_teacher_gets_its_own_size_channels_and_normalisation():
    images = torch.rand(2, 3, 8, 8)
    prepared = prepare_images(images, (0.5,), (0.25,), 4, 1)
    assert prepared.shape == (2, 1, 4, 4)
    same = prepare_images(images, (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), None, 3)
    torch.testing.assert_close(same[:, 2], (images[:, 2] - 0.3) / 4)
    grey = prepare_images(images[:, :1], (0.0,), (1.0,), None, 3)
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_targets_of_a_class_in_two_verticals_reach_both_blocks():
    index = SlotIndex(TAXONOMY, CPU)
    values = torch.tensor([0.5, 0.25, 1.0])
    targets = SlotTargets(index, 2, torch.tensor([0, 1, 1]), torch.tensor([2, 3, 2]), values)
    assert targets.block(0).dense().tolist() == [[0, 0, 0.5], [0, 0, 1.0]]
    assert targets.block(1).dense().tolist() == [[0.5, 0], [1.0, 0.25]]


def test_a_vertical_with_no_image_in_the_batch_is_all_zero():
    index = SlotIndex(TAXONOMY, CPU)
    targets = SlotTargets(index, 2, torch.tensor([0]), torch.tensor([0]), torch.ones(1))
    assert targets.block(2).dense().tolist() == [[0], [0]]
    nothing = torch.empty(0, dtype=torch.long)
    empty = SlotTargets(index, 2, nothing, nothing, torch.empty(0))
    assert empty.block(1).dense().eq(0).all()


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="no image"),
        pytest.param([[]], id="an image without labels"),
        pytest.param([[3], [], [0, 1, 4]], id="none, one and three labels"),
    ],
)
def test_labels_take_and_restrict_agree_with_lists(rows):
    labels = Labels.from_lists(rows)
    order = list(range(len(rows)))[::-1]
    assert [labels.take(torch.tensor(order, dtype=torch.long)).of(i) for i in range(len(rows))] == rows[::-1]
    new_ids = torch.tensor([-1, 0, -1, 1, 2])
    restricted = labels.restrict(new_ids)
    expected = [[int(new_ids[c]) for c in row if new_ids[c] >= 0] for row in rows]
    assert [restricted.of(i) for i in range(len(rows))] == expected
