import pickle

import pytest
import torch

from kcframe.engine.checkpoint import pack, pack_weights, unpack, unpack_weights
from kcframe.engine.optimizer import restore_optimizer
from kcframe.errors import RunDirError


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b and type(a) is type(b)


def test_a_tree_comes_back_bit_for_bit():
    shared = torch.randn(4, 3)
    tree = {
        "step": 3,
        "optimizer": {
            "state": {0: {"exp_avg": shared, "step": torch.tensor(2.0)}},
            "groups": [{"lr": 1e-300}],
        },
        "alias": shared,
        "slice": shared.T,
        "bytes": torch.get_rng_state(),
        "none": None,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.empty(0, 5),
    }
    assert same(tree, unpack(pack(tree), "x"))


def at_one_go_and_in_two(network, step, restore):
    """The network after two steps, and after two with all of it saved and restored in between."""
    net, optimizer = network()
    step(net, optimizer)
    saved = unpack(pack({"net": net.state_dict(), "optimizer": optimizer.state_dict()}), "x")
    step(net, optimizer)
    again, other = network()
    again.load_state_dict(saved["net"])
    restore(other, saved["optimizer"])
    step(again, other)
    return net, again


def test_a_real_optimizers_state_goes_on_as_if_never_saved():
    def network():
        torch.manual_seed(0)
        net = torch.nn.Linear(3, 2)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(torch.ones(1, 3)).pow(2).sum().backward()
        optimizer.step()

    net, again = at_one_go_and_in_two(network, step, torch.optim.Optimizer.load_state_dict)
    assert torch.equal(net.weight, again.weight)


@pytest.mark.parametrize("fused", [False, True])
def test_states_are_laid_out_as_their_weights_are(fused):
    """A fused step goes through weights and states in the order of their memory."""

    def network():
        torch.manual_seed(0)
        net = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return net, torch.optim.AdamW(net.parameters(), lr=0.1, fused=fused)

    def step(net, optimizer):
        optimizer.zero_grad()
        generator = torch.Generator().manual_seed(1)
        net(torch.rand(2, 3, 5, 5, generator=generator)).pow(2).sum().backward()
        optimizer.step()

    net, again = at_one_go_and_in_two(network, step, restore_optimizer)
    assert not net.weight.is_contiguous()
    assert torch.equal(net.weight, again.weight)


def test_weights_keep_their_names_for_other_tools(tmp_path):
    from safetensors.torch import load_file

    net = torch.nn.Linear(2, 1)
    path = tmp_path / "w.safetensors"
    path.write_bytes(pack_weights(net.state_dict(), {"kind": "specialist"}))
    assert set(load_file(path)) == {"weight", "bias"}
    assert unpack_weights(path.read_bytes(), "x")[1] == {"kind": "specialist"}


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"hello", id="text"),
        pytest.param(pickle.dumps({"a": 1}), id="a pickle"),
        pytest.param(pack({"a": torch.ones(9)})[:-3], id="cut off"),
        pytest.param(b"\xff" * 64, id="a header of a wrong length"),
    ],
)
def test_damaged_files_and_pickles_are_refused_by_name(data):
    with pytest.raises(RunDirError, match=r"s3://x/y: not a file that kcframe wrote"):
        unpack(data, "s3://x/y")
