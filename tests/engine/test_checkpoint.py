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


def flipped(data: bytes, place: int, bit: int) -> bytes:
    """With one bit of one byte the other way."""
    return data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


@pytest.mark.parametrize("kind", ["checkpoint", "weights"])
def test_no_flipped_bit_is_believed(kind):
    """Wherever it is: the file is refused, and the message names it."""
    state = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.ones(2, dtype=torch.bfloat16)}
    if kind == "checkpoint":
        data, read = pack({"step": 3, "model": state, "word": "ä"}), unpack
    else:
        about = {"kind": "student", "arm": "ours", "classes": ["x", "y"]}
        data, read = pack_weights(state, about), unpack_weights
    before = describe(read(data, "x"))
    believed = []
    for place in range(len(data)):
        try:
            again = read(flipped(data, place, place % 8), "file.safetensors")
        except RunDirError as error:
            assert str(error).startswith("file.safetensors: ")  # noqa: PT017
        else:
            believed.append(place)
            # Only where the checksum's own name was hit, and all the rest is as it was.
            if kind == "weights":
                again = again[0], {name: value for name, value in again[1].items() if name in about}
            assert describe(again) == before, place
    assert len(believed) < 10


def test_the_same_network_gives_the_same_bytes():
    state, about = {"a": torch.ones(3), "b": torch.zeros(2)}, {"kind": "student", "arm": "ours"}
    assert len({pack_weights(state, about) for _ in range(20)}) == 1
    assert len({pack({"x": state, "y": 1}) for _ in range(20)}) == 1


def describe(tree) -> str:
    """Everything in it, in a fixed order."""
    if isinstance(tree, torch.Tensor):
        return f"{tree.dtype} {tree.tolist()}"
    if isinstance(tree, dict):
        return str(sorted((str(key), describe(value)) for key, value in tree.items()))
    if isinstance(tree, (list, tuple)):
        return str([describe(value) for value in tree])
    return repr(tree)


def test_files_of_an_earlier_kcframe_have_no_checksum_and_are_read():
    import json

    from safetensors.torch import save

    state = {"a": torch.randn(3)}
    data = save(state, metadata={"kcframe": json.dumps({"kind": "student"})})
    tensors, about = unpack_weights(data, "x")
    assert about == {"kind": "student"}
    assert torch.equal(tensors["a"], state["a"])
