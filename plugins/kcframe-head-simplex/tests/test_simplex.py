"""Expander `simplex`: its vertices against a matrix written out in numpy, and the head that has them."""

import math

import numpy as np
import pytest
import torch
from kcframe_head_simplex.expander import SimplexHead
from kcframe_head_simplex.options import SimplexOptions
from kcframe_head_simplex.vertices import Vertices, products, with_the_rest_alike

from kcframe.testing import (
    build_plugin,
    count_parameters,
    head_gradients,
    make_head,
    make_targets,
    modules_loaded_for_options,
)

SIZES, FEATURES, BATCH = (5, 1, 2, 8), 7, 6


def matrix(num):
    """[K, K - 1]: e_1 … e_d and a·1 (Pernici et al.), moved to their mean and made unit vectors."""
    d = num - 1
    points = np.vstack([np.eye(d), np.full((1, d), (1 - math.sqrt(d + 1)) / d)])
    points -= points.mean(0)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


@pytest.mark.parametrize("num", [2, 3, 4, 17, 300])
def test_products_are_those_with_the_matrix(num):
    w = matrix(num)
    # A regular simplex: unit vectors, all at the same angle, with sum 0.
    np.testing.assert_allclose(w @ w.T, (1 + 1 / (num - 1)) * np.eye(num) - 1 / (num - 1), atol=1e-12)
    z = torch.randn(6, num - 1, dtype=torch.float64)
    for some in {1, num // 2, num - 1, num}:
        torch.testing.assert_close(products(z, some), z @ torch.from_numpy(w[:some]).T)
    own = torch.from_numpy(w)
    torch.testing.assert_close(products(own, num), own @ own.T)


def test_float32_is_enough():
    z = torch.randn(4, 4999)
    exact = products(z.double(), 5000)
    torch.testing.assert_close(products(z, 5000).double(), exact, atol=1e-4, rtol=1e-4)


def test_the_matrix_is_never_there():
    """Its 200,000 x 199,999 numbers would be 160 GB."""
    classifier = Vertices(200_000, 200_000, bias=True)
    z = torch.zeros(2, 199_999, requires_grad=True)
    y = classifier(z)
    y[0, 7].backward()
    # The gradient is the vertex itself.
    assert float(z.grad[0].norm()) == pytest.approx(1, abs=1e-4)
    assert int(z.grad[0].argmax()) == 7
    assert count_parameters(classifier) == 200_000
    assert sum(b.numel() for b in classifier.buffers()) == 1


@pytest.mark.parametrize(
    ("num", "size"),
    [
        pytest.param(4, 3, id="4 vertices, 3 classes"),
        pytest.param(9, 5, id="9 vertices, 5 classes"),
        pytest.param(50, 1, id="50 vertices, 1 class"),
        pytest.param(1000, 8, id="1000 vertices, 8 classes"),
    ],
)
def test_vertices_of_classes_to_come_are_all_alike(num, size):
    known = torch.randn(5, size, dtype=torch.float64)
    z = with_the_rest_alike(known, num)
    assert z.shape == (5, num - 1)
    along = z @ torch.from_numpy(matrix(num)).T
    torch.testing.assert_close(along[:, size:], along[:, size:].mean(1, keepdim=True).expand(-1, num - size))
    # And what can be said of the known ones is unchanged: any logits that sum to minus the rest's.
    assert torch.linalg.matrix_rank(along) == min(5, size)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("num", "size"),
    [
        pytest.param(1, 1, id="1 vertex, 1 class"),
        pytest.param(2, 2, id="2 vertices, 2 classes"),
        pytest.param(5, 5, id="5 vertices, 5 classes"),
        pytest.param(9, 4, id="9 vertices, 4 classes"),
    ],
)
def test_gradients(num, size, bias):
    classifier = Vertices(num, size, bias).double()
    z = torch.randn(3, max(num - 1, 1), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(classifier, z)
    assert [name for name, _ in classifier.named_parameters()] == (["bias"] if bias else [])


def test_short_formats_become_float32():
    classifier = Vertices(4, 4, bias=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert classifier(torch.randn(2, 3).bfloat16()).dtype == torch.float32
    assert classifier.double()(torch.randn(2, 3).double()).dtype == torch.float64


def build(sizes=SIZES, pacing=None, bias=True, **options):
    torch.manual_seed(0)
    expander = SimplexHead(SimplexOptions(s1=6, s2=4, **options), FEATURES, sizes)
    return make_head(sizes, expander, pacing, bias=bias, init_bias="base-rate")


@pytest.mark.parametrize("sizes", [SIZES, (1,), (6,)], ids=["uneven", "one class", "one vertical"])
@pytest.mark.parametrize("vertices", [None, 9], ids=["one more than classes", "9 vertices"])
@pytest.mark.parametrize("normalisation", ["none", "batch", "layer"])
def test_blocks_have_their_shapes_and_parameters(sizes, vertices, normalisation):
    head = build(sizes, vertices=vertices, normalisation=normalisation)
    shared = head.shared(torch.randn(BATCH, FEATURES))
    for v, size in enumerate(sizes):
        width = (vertices or size + 1) - 1
        assert head.expander.block_features(v) == width
        assert head.expander.block(v, shared).shape == (BATCH, width)
        assert head.block(v, shared).shape == (BATCH, size)
    assert head.expander.rowwise == (normalisation != "batch")
    if normalisation == "none":
        # As fc-sc, whose classifiers are these matrices and biases.
        expected = FEATURES * 6 + len(sizes) * 6 * 4 + 4 * sum(sizes) + sum(sizes)
        assert count_parameters(head) == expected


@pytest.mark.parametrize(
    "vertices",
    [None, 9, SIZES, (5, 1, 3, 30)],
    ids=["one more than classes", "9", "as many as classes", "classes to come in two verticals"],
)
def test_the_engine_learns_through_it(vertices):
    """Every gradient against autograd on dense logits, by the matrices written out."""
    head = build(vertices=vertices).double()
    z = (torch.rand(BATCH, sum(SIZES)) < 0.3).double()
    features = torch.randn(BATCH, FEATURES, dtype=torch.float64, requires_grad=True)
    objective = build_plugin("objective", "hard-bce")
    engine = head_gradients(head, objective, features, make_targets(SIZES, hard=z))
    shared, y = head.shared(features), []
    for v, size in enumerate(SIZES):
        hidden, num = head.expander.block(v, shared), head.expander.vertices[v]
        w = torch.from_numpy(matrix(num)[:size]) if num > 1 else torch.ones(1, 1).double()
        y.append(hidden @ w.T + head.classifiers[v].bias)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(torch.cat(y, 1), z, reduction="sum")
    (loss / BATCH).backward()
    expected = {name: p.grad for name, p in head.named_parameters()} | {"features": features.grad}
    for name, gradient in expected.items():
        torch.testing.assert_close(engine.gradients[name], gradient, rtol=1e-6, atol=1e-8)


def test_students_differ_in_everything_but_their_classifiers():
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        expander = SimplexHead(SimplexOptions(s1=6, s2=4), FEATURES, SIZES)
        heads.append(make_head(SIZES, expander))
    for v, classifier in enumerate(heads[0].classifiers):
        z = torch.randn(3, heads[0].expander.block_features(v))
        assert torch.equal(classifier(z), heads[1].classifiers[v](z))
    assert not torch.equal(heads[0].expander.first[0].weight, heads[1].expander.first[0].weight)


@pytest.mark.parametrize("start", ["paper", "base-rate"])
def test_the_self_paced_gamma_works_on_it(start):
    options = {"start": start, "variance": 0}
    pacing = build_plugin("pacing", "self-paced", SIZES, sum(SIZES), options=options)
    head = build(pacing=pacing, normalisation="layer")
    for classifier in head.classifiers:
        assert classifier.weight.tolist() == pytest.approx([0.3 if start == "base-rate" else 1])
        assert set(classifier.bias.tolist()) == {-1.0 if start == "base-rate" else 0.0}
    shared = head.shared(torch.randn(BATCH, FEATURES))
    norms = head.block(3, shared).norm(dim=1)
    torch.testing.assert_close(norms, pacing.gamma[3].expand(BATCH), rtol=1e-4, atol=1e-4)


def test_none_of_these_has_a_vertex():
    """Without one the products sum to 0, and no image can lower all of them; with one, all go down alike."""
    along = products(torch.randn(9, 7), 8)
    torch.testing.assert_close(along.sum(1), torch.zeros(9), atol=1e-5, rtol=0)
    head = build()
    assert head.expander.vertices == (6, 2, 3, 9)
    none = torch.from_numpy(matrix(9)[-1:]).float()
    lowered = head.classifiers[3](40 * none) - head.classifiers[3](0 * none)
    torch.testing.assert_close(lowered, torch.full((1, 8), -5.0))


@pytest.mark.parametrize(
    ("vertices", "message"),
    [
        pytest.param(
            4, "vertices: 4 are too few for vertical 0 .from 0., which has 5 classes", id="one number"
        ),
        pytest.param((5, 1, 2, 7), "vertices: 7 are too few for vertical 3", id="a number per vertical"),
        pytest.param((5, 1, 2), "vertices has 3 numbers, the data has 4 verticals", id="a number missing"),
    ],
)
def test_vertices_that_do_not_fit(vertices, message):
    with pytest.raises(ValueError, match=message):
        build(vertices=vertices)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"s1": 0}, id="no units"),
        pytest.param({"vertices": 0}, id="no vertices"),
        pytest.param({"vertices": [3, 0]}, id="no vertices of one vertical"),
        pytest.param({"vertexes": 3}, id="a misspelt option"),
    ],
)
def test_options(options):
    with pytest.raises(ValueError, match="|".join(options)):
        SimplexOptions(**options)


def test_a_recipe_is_checked_without_torch():
    assert "torch" not in modules_loaded_for_options("expander", "simplex")
