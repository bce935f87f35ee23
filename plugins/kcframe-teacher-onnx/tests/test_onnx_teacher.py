"""What ONNX teachers say, compared with the torch networks that they were exported from."""

import io
import json
import sys
import warnings

import fsspec
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from kcframe_teacher_onnx import session
from kcframe_teacher_onnx.options import OnnxOptions
from kcframe_teacher_onnx.source import Onnx
from onnx import TensorProto, helper
from torch import nn

from kcframe.errors import DataError, PluginError
from kcframe.taxonomy import Taxonomy
from kcframe.testing import teacher_context

TAXONOMY = Taxonomy.build({"birds": ["wren", "crow", "swift"], "cars": ["sedan", "coupe"]})
CONTEXT = teacher_context(TAXONOMY, image_size=12)
NAMES = ["coupe", "wren", None, "swift"]
MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]


def network(num_outputs=4, channels=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, stride=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, num_outputs),
    ).eval()


def exported(model, path, batch=None, size=8, shape=None, dtype=torch.float32, **options):
    """Writes an ONNX file. batch: fixed; None leaves it open. size: pixels a side; None leaves them open.
    shape: of one picture, where it is not [3, size, size]."""
    open_dimensions = {} if batch else {0: "b"}
    if size is None:
        open_dimensions |= {2: "h", 3: "w"}
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter that needs no further package calls itself old
        torch.onnx.export(
            model,
            torch.rand(batch or 2, *(shape or (3, size or 9, size or 9))).to(dtype),
            buffer,
            dynamo=False,
            input_names=["pictures"],
            dynamic_axes={"pictures": open_dimensions, **({} if batch else {"said": {0: "b"}})},
            **{"output_names": ["said"], **options},
        )
    path.write_bytes(buffer.getvalue())
    return str(path)


def source(path, **options):
    options = {"mean": MEAN, "std": STD, "outputs": "logits", "label_map": NAMES, **options}
    return Onnx(OnnxOptions(path=str(path), **options))


def teacher(path, **options):
    """The teacher, of which the early check finds nothing to say."""
    made = source(path, **options)
    made.check(CONTEXT)
    (found,) = made.teachers(CONTEXT)
    return found


def refused(path, error=DataError, **options):
    """What is said of it, early and late alike."""
    with pytest.raises(error) as caught:
        source(path, **options).teachers(CONTEXT)
    message = str(caught.value)
    with pytest.raises(error) as early:
        source(path, **options).check(CONTEXT)
    assert str(early.value) == message
    if error is DataError:
        assert str(path) in message
    return message


def normalised(images):
    shift, scale = torch.tensor(MEAN).view(1, 3, 1, 1), torch.tensor(STD).view(1, 3, 1, 1)
    return (images - shift) / scale


@pytest.fixture
def images():
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def expected(images):
    with torch.no_grad():
        return network()(normalised(images))


@pytest.fixture
def path(tmp_path):
    return exported(network(), tmp_path / "birds.onnx")


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


# -- what it says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [None, 1, 2, 5, 7])
@pytest.mark.parametrize("size", [8, None])
def test_it_says_what_the_torch_network_says(tmp_path, images, expected, batch, size):
    found = teacher(exported(network(), tmp_path / "a.b.onnx", batch=batch, size=size))
    assert (found.name, found.channels, found.input_size) == ("a.b", 3, size)
    assert found.label_map.tolist() == [TAXONOMY.class_id(n) for n in ("coupe", "wren", "swift")]
    with torch.inference_mode():
        said = found(images)
    assert said.dtype == torch.float32
    close(said, expected[:, [0, 1, 3]])


def test_one_picture_and_other_sizes_are_made_to_fit(path, images):
    found = teacher(path)
    large = nn.functional.interpolate(images, size=(32, 32), mode="nearest")
    shrunk = nn.functional.interpolate(large, size=(8, 8), mode="bilinear", antialias=True)
    with torch.no_grad():
        close(found(large[:1]), network()(normalised(shrunk))[:1, [0, 1, 3]])


def test_channels_last(tmp_path, images, expected):
    class ChannelsLast(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, pictures):
            return self.inner(pictures.permute(0, 3, 1, 2))

    path = exported(ChannelsLast(), tmp_path / "a.onnx", shape=(8, 8, 3))
    close(teacher(path, layout="NHWC")(images), expected[:, [0, 1, 3]])
    assert "is its layout NHWC?" in refused(path)
    assert "is its layout NCHW?" in refused(exported(network(), tmp_path / "b.onnx"), layout="NHWC")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-3), ("float64", 1e-5)])
def test_other_formats_of_numbers(tmp_path, images, dtype, tolerance):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4)).eval()
    with torch.no_grad():
        expected = model(normalised(images))
    as_torch = getattr(torch, dtype)
    found = teacher(exported(model.to(as_torch), tmp_path / "a.onnx", dtype=as_torch))
    assert found.network[0].signature.dtype is getattr(np, dtype)
    said = found(images)
    assert said.dtype == torch.float32
    close(said, expected[:, [0, 1, 3]], tolerance)


def test_bytes(tmp_path):
    """A model that takes bytes: the mean over each channel, by hand."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["pictures"], ["f"], to=TensorProto.FLOAT),
            helper.make_node("GlobalAveragePool", ["f"], ["said"]),  # [b, 3, 1, 1]
        ],
        "bytes",
        [helper.make_tensor_value_info("pictures", TensorProto.UINT8, ["b", 3, 4, 4])],
        [helper.make_tensor_value_info("said", TensorProto.FLOAT, ["b", 3, 1, 1])],
    )
    path = save(graph, tmp_path)
    whole = torch.arange(4 * 3 * 16).view(4, 3, 4, 4)
    images = (whole - 0.4) / 255  # below a byte's value: rounded, not cut off
    found = teacher(path, mean=[0], std=[1], label_map=["wren", "crow", "swift"])
    close(found(images), whole.float().mean((2, 3)), 1e-3)
    assert "set mean [0], std [1]" in refused(path, label_map=["wren", "crow", "swift"])


def save(graph, tmp_path, **metadata):
    path = tmp_path / "made.onnx"
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def pass_through(tmp_path, shape=("b", 4, 1, 1), inputs=(), dtype=TensorProto.FLOAT, **metadata):
    """A model whose outputs are its input's pixels."""
    nodes = [helper.make_node("Identity", ["pictures"], ["said"])]
    infos = [helper.make_tensor_value_info("pictures", dtype, shape)]
    infos += [helper.make_tensor_value_info(name, dtype, other) for name, other in inputs]
    said = [helper.make_tensor_value_info("said", dtype, None)]
    return save(helper.make_graph(nodes, "same", infos, said), tmp_path, **metadata)


def test_probabilities_of_sigmoids_become_their_logits(tmp_path, images, expected):
    found = teacher(
        exported(nn.Sequential(network(), nn.Sigmoid()), tmp_path / "a.onnx"), outputs="probabilities"
    )
    close(found(images), expected[:, [0, 1, 3]])


def test_a_softmax_becomes_logits_whose_sigmoid_is_its_probability(tmp_path, path, images, expected):
    probabilities = expected.double().softmax(1)[:, [0, 1, 3]].float()
    odds = torch.logit(expected.double().softmax(1))[:, [0, 1, 3]].float()
    as_logits = teacher(path, outputs="softmax-logits")(images)
    softmax = exported(nn.Sequential(network(), nn.Softmax(1)), tmp_path / "p.onnx")
    as_probabilities = teacher(softmax, outputs="probabilities")(images)
    for said in (as_logits, as_probabilities):
        close(said, odds)
        close(said.sigmoid(), probabilities)


@pytest.mark.parametrize("outputs", ["softmax-logits", "probabilities"])
def test_very_certain_outputs_stay_finite(tmp_path, outputs):
    path = pass_through(tmp_path)
    options = {"mean": [0], "std": [1], "label_map": {0: "wren", 2: "crow"}, "outputs": outputs}
    logits = torch.tensor([[60.0, -60, 0, 0], [200, 0, 0, 0], [5, 5, -5, 0]])
    given = logits.softmax(1) if outputs == "probabilities" else logits
    said = teacher(path, **options)(given.view(3, 4, 1, 1))
    # In the first row the odds of output 0 are e^60 to 2 (and e^-60), of output 2 about 1 to e^60.
    exact = torch.tensor([[60 - np.log(2), -60], [200 - np.log(3), -200]], dtype=torch.float32)
    if outputs == "probabilities":
        exact = exact.clamp(-87.34, 16.64)  # where float32's probabilities end
    close(said[:2], exact, 1e-2)
    close(said[2], torch.logit(logits[2].double().softmax(0))[[0, 2]].float())


def test_the_names_may_be_a_file_or_in_the_metadata(tmp_path, path):
    want = teacher(path).label_map.tolist()
    file = tmp_path / "names.json"
    for names in (NAMES, {"0": "coupe", "3": "swift", "1": "wren"}):
        file.write_text(json.dumps(names))
        assert teacher(path, label_map=str(file)).label_map.tolist() == want
    assert teacher(path, label_map={3: "swift", 0: "coupe", 1: "wren"}).label_map.tolist() == want
    model = onnx.load(path)
    helper.set_model_props(model, {"names": "{0: 'wren', 1: 'crow', 2: 'sedan', 3: 'swift'}"})
    onnx.save(model, path)
    assert teacher(path, label_map=None).label_map.tolist() == [0, 1, 3, 2]


def test_the_last_outputs_may_be_left_out(path, images, expected):
    found = teacher(path, label_map={0: "swift", 1: "wren"})
    assert found.label_map.tolist() == [2, 0]
    close(found(images), expected[:, :2])


def test_one_of_several_outputs(tmp_path, images, expected):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, pictures):
            features = self.inner[:4](pictures)
            return features, self.inner[4](features)

    path = exported(Two(), tmp_path / "two.onnx", output_names=["features", "classes"])
    for output in ("classes", 1):
        close(teacher(path, output=output)(images), expected[:, [0, 1, 3]])
    said = refused(path)
    assert "set output to the one with the classes: 'features' [" in said
    assert "'classes' ['b', 4]" in said
    assert "did you mean 'classes'?" in refused(path, output="clases")
    assert "no output number 2; it has 2, counted from 0" in refused(path, output=2)


def test_weights_in_a_file_of_their_own(tmp_path, path, images, expected):
    beside = tmp_path / "beside" / "model.onnx"
    beside.parent.mkdir()
    onnx.save(onnx.load(path), beside, save_as_external_data=True, location="w.bin", size_threshold=0)
    for url in (beside, f"file://{beside}"):
        close(teacher(url)(images), expected[:, [0, 1, 3]])
    for name in ("model.onnx", "w.bin"):
        fsspec.filesystem("memory").pipe(f"/beside/{name}", (beside.parent / name).read_bytes())
    assert "read from local folders only" in refused("memory://beside/model.onnx")
    (beside.parent / "w.bin").unlink()
    assert "w.bin" in refused(beside)


def test_it_is_read_by_url(path, images, expected):
    with open(path, "rb") as file:
        fsspec.filesystem("memory").pipe("/birds.onnx", file.read())
    close(teacher("memory://birds.onnx")(images), expected[:, [0, 1, 3]])


# -- what is refused ---------------------------------------------------------------------------------


def test_a_file_that_is_no_model(tmp_path):
    for content in (b"", b"nonsense", b"x" * 1000):
        (tmp_path / "a.onnx").write_bytes(content)
        assert "not an ONNX model" in refused(tmp_path / "a.onnx")
    assert "no such file" in refused(tmp_path / "b.onnx")


def test_label_maps_that_do_not_fit(tmp_path, path):
    said = refused(path, label_map=["coupe", "wrem", None, None])
    assert "output 1 would be our 'wrem', which the data does not have" in said
    assert said.endswith("did you mean 'wren'?")
    assert "has 3 entries for 4 outputs" in refused(path, label_map=["coupe", "wren", "swift"])
    assert "has 5 entries for 4 outputs" in refused(path, label_map=[*NAMES, None])
    assert "no output 4; its 4 outputs are numbered 0 to 3" in refused(path, label_map={4: "wren"})
    assert "output 1 and output 3 are both our 'wren'" in refused(path, label_map={3: "wren", 1: "wren"})
    assert "names none of its 4 outputs" in refused(path, label_map=[None] * 4)
    assert "its metadata names no classes: give it a label_map" in refused(path, label_map=None)
    file = tmp_path / "names.json"
    for text, message in {
        "{": "not JSON",
        '{"wren": "wren"}': "'wren' should be the number of an output",
        '{"0": 1}': 'should be a JSON object {"output": our class name}',
        "[1]": "or a JSON list of names",
    }.items():
        file.write_text(text)
        with pytest.raises(DataError, match="names.json") as caught:
            source(path, label_map=str(file)).check(CONTEXT)
        assert message in str(caught.value)


def test_pictures_that_do_not_fit(tmp_path, path):
    assert "input_size is 9, but the model's own is 8" in refused(path, input_size=9)
    assert "channels is 1, but the model's own is 3" in refused(path, channels=1, mean=[0], std=[1])
    assert "mean and std have 2 numbers for 3 channels" in refused(path, mean=[0, 0], std=[1, 1])
    assert "4 × 5" in refused(pass_through(tmp_path, ("b", 3, 4, 5)))
    open_channels = pass_through(tmp_path, ("b", "c", 1, 1))
    assert "set channels" in refused(open_channels)
    assert teacher(open_channels, channels=4, mean=[0.1], std=[1]).channels == 4
    assert "is a tensor(int8)" in refused(
        pass_through(tmp_path, ("b", 3, 1, 1), dtype=TensorProto.INT8), label_map=["wren", None, None]
    )


def test_inputs_that_do_not_fit(tmp_path, path):
    assert "no input 'picture'; did you mean 'pictures'?" in refused(path, input="picture")
    assert "none of its inputs could be pictures: 'pictures' ['b', 3]" in refused(
        pass_through(tmp_path, ("b", 3))
    )
    assert "2 of its inputs" in refused(pass_through(tmp_path, inputs=[("more", ("b", 3, 2, 2))]))
    masked = pass_through(tmp_path, inputs=[("mask", ("b", 3))])
    assert "besides pictures it wants 'mask'" in refused(masked)
    assert "this input cannot be pictures: 'mask' ['b', 3]" in refused(masked, input="mask")


def test_outputs_that_do_not_fit(tmp_path, path):
    options = {"mean": [0], "std": [1]}
    said = refused(pass_through(tmp_path, ("b", 3, 2, 2)), **options)
    assert "output 'said' is [2, 3, 2, 2] for 2 pictures; a classifier's is [pictures, classes]" in said
    assert "outputs go from -" in refused(path, outputs="probabilities")
    softmax = exported(nn.Sequential(network(), nn.Softmax(1)), tmp_path / "p.onnx")
    for outputs in ("logits", "softmax-logits"):
        assert "set outputs to probabilities" in refused(softmax, outputs=outputs)
    one = exported(network(1), tmp_path / "one.onnx")
    assert "a softmax over one output" in refused(one, outputs="softmax-logits", label_map=["wren"])
    assert teacher(one, label_map=["wren"])(torch.rand(3, 3, 8, 8)).shape == (3, 1)


def test_a_number_of_outputs_that_the_file_leaves_open(tmp_path):
    """Here the outputs are the means of the picture's rows: as many as it has."""
    mean = helper.make_node("ReduceMean", ["pictures"], ["said"], axes=[1, 3], keepdims=0)
    graph = helper.make_graph(
        [mean],
        "rows",
        [helper.make_tensor_value_info("pictures", TensorProto.FLOAT, ["b", 3, "h", "w"])],
        [helper.make_tensor_value_info("said", TensorProto.FLOAT, ["b", "h"])],
    )
    path = save(graph, tmp_path)
    options = {"mean": [0], "std": [1]}
    assert f"has 4 entries for {CONTEXT.image_size} outputs" in refused(path, **options)
    images = torch.rand(3, 3, 4, 4)
    found = teacher(path, **options, input_size=4)
    assert found.input_size == 4
    close(found(images), images.mean((1, 3))[:, [0, 1, 3]])


def test_without_onnxruntime(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install 'kcframe-teacher-onnx[cpu]'" in refused(path, PluginError)


def test_providers(path, monkeypatch):
    for ask in ("check", "teachers"):
        with pytest.raises(DataError, match="'CPUExecutionProvidr'; did you mean 'CPUExecutionProvider'?"):
            getattr(source(path, providers=["CPUExecutionProvidr"]), ask)(CONTEXT)
    assert teacher(path, providers=["CPUExecutionProvider"]) is not None
    gpu = torch.device("cuda", 1)
    assert session._providers(None, [session.CUDA, session.CPU], "m", gpu) == [session.CUDA, session.CPU]
    assert session._providers(None, [session.CUDA, session.CPU], "m", torch.device("cpu")) == [session.CPU]
    assert session._settings(session.CUDA, gpu)["device_id"] == 1
    real = session.open_session(CONTEXT.read(path), path, None, torch.device("cpu"))
    monkeypatch.setattr(onnxruntime, "InferenceSession", lambda *_, **__: real)
    with pytest.warns(UserWarning, match="birds.onnx runs on the CPU: .* no CUDAExecutionProvider"):
        session.open_session(b"", path, None, gpu)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [session.CUDA, session.CPU])
    with pytest.raises(DataError, match="cannot start it here"):
        source(path, providers=[session.CUDA]).teachers(CONTEXT)


def test_providers_that_only_another_machine_has_are_no_reason_to_refuse_early(tmp_path, path):
    source(path, providers=[session.CUDA]).check(CONTEXT)
    source(path, providers=[session.CUDA, session.CPU]).check(CONTEXT)
    with pytest.raises(DataError, match="has 1 entries for 4 outputs"):
        source(path, providers=[session.CUDA, session.CPU], label_map=["wren"]).check(CONTEXT)
    with pytest.raises(DataError, match="b.onnx: no such file"):
        source(tmp_path / "b.onnx", providers=[session.CUDA]).check(CONTEXT)
    with pytest.raises(DataError, match="no.json: no such file"):
        source(path, providers=[session.CUDA], label_map=f"{tmp_path}/no.json").check(CONTEXT)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        pytest.param("std", [0], "above 0", id="a std of 0"),
        pytest.param("mean", [0, 0], "give as many", id="another number of means than of stds"),
        pytest.param("label_map", {-1: "wren"}, "numbered from 0", id="a negative number in the label map"),
        pytest.param("output", -1, "numbered from 0", id="a negative number of an output"),
        pytest.param("outputs", "logit", "Input should be", id="an unknown kind of outputs"),
        pytest.param("pth", "a", "Extra inputs", id="a misspelt option"),
    ],
)
def test_options(option, value, message):
    good = {"path": "a", "outputs": "logits", "mean": [0], "std": [1]}
    with pytest.raises(ValueError, match=message):
        OnnxOptions(**{**good, option: value})
