"""A network's graph: read and cut as the package onnx does, stored once, run without the network's class."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx.utils import Extractor
from torch import Tensor, nn

import eenet
from eenet import EENet, Predictor
from eenet.common import sha256
from eenet.networks import (
    PIXELS,
    StoredNetwork,
    extract,
    from_array,
    network_graph,
    open_network,
    parse,
    to_array,
)

KINDS = [np.float32, np.float16, np.float64, np.uint8, np.int8, np.int32, np.int64, np.uint64, np.bool_]


def pixels_of(network: EENet | StoredNetwork, count: int = 16) -> Any:
    size = (count, *network.config.input_size)
    return np.random.default_rng(0).integers(0, 256, size=size, dtype=np.uint8)


@given(st.data(), st.sampled_from(KINDS))
def test_tensors_are_those_of_onnx(data: st.DataObject, kind: type[Any]) -> None:
    array = data.draw(arrays(kind, array_shapes(min_dims=0, max_dims=3, max_side=4)))
    read = onnx.TensorProto.FromString(from_array(array, "name").SerializeToString())
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(read), array)
    np.testing.assert_array_equal(to_array(from_array(array)), array)
    kinds = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    typed = onnx.helper.make_tensor("name", kinds, array.shape, array.flatten())  # not as raw bytes
    given_as = parse_tensor(typed)
    np.testing.assert_array_equal(to_array(given_as), array)


def parse_tensor(tensor: onnx.TensorProto) -> Any:
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["name"], ["out"])],
            "graph",
            [],
            [onnx.helper.make_tensor_value_info("out", tensor.data_type, None)],
            [tensor],
        )
    )
    return parse(model.SerializeToString(), "a model").graph.initializer[0]


def test_parts_are_those_that_onnx_cuts() -> None:
    model = network_graph(EENet.from_pretrained("digits-eenet8"))
    same = onnx.ModelProto.FromString(model.SerializeToString())
    onnx.checker.check_model(same)
    for inputs, outputs in (
        ([PIXELS], ["features_0", "probabilities_0", "confidence_0"]),
        ([PIXELS], ["probabilities_2"]),
        (["features_0"], ["features_1", "probabilities_1", "entropy_1"]),
    ):
        ours, theirs = extract(model, inputs, outputs), Extractor(same).extract_model(inputs, outputs)
        assert [node.output for node in ours.graph.node] == [node.output for node in theirs.graph.node]
        assert {t.name for t in ours.graph.initializer} == {t.name for t in theirs.graph.initializer}
        onnx.checker.check_model(onnx.ModelProto.FromString(ours.SerializeToString()))
    with pytest.raises(ValueError, match="no output 'features_7'"):
        extract(model, [PIXELS], ["features_7"])


def test_what_a_graph_inside_a_node_takes_is_cut_along() -> None:
    """An `If` uses tensors around it without listing them."""
    info = onnx.helper.make_tensor_value_info
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Add", ["doubled", "weight"], ["inner"])],
        "branch",
        [],
        [info("inner", onnx.TensorProto.FLOAT, None)],
    )
    nodes = [
        onnx.helper.make_node("Add", ["x", "x"], ["doubled"]),
        onnx.helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch),
    ]
    held = [
        onnx.numpy_helper.from_array(np.array(True), "yes"),
        onnx.numpy_helper.from_array(np.array([3], np.float32), "weight"),
    ]
    values = [info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph(nodes, "graph", values[:1], values[1:], held)
    opset = [onnx.helper.make_opsetid("", 18)]
    model = onnx.helper.make_model(graph, opset_imports=opset, ir_version=10)
    part = extract(parse(model.SerializeToString(), "a model"), ["x"], ["y"])
    session = ort.InferenceSession(part.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.array([1], np.float32)})[0] == 5


class Own(nn.Module):
    """Not in any library."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(nn.Conv2d(c, 8, 3, 1 + (c > 3), 1) for c in (3, 8, 8))
        self.norm, self.out = nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x).relu()
        return self.out(self.norm(x).mean((2, 3)))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a user's own class."""
    network = eenet.convert(Own().eval(), (3, 16, 16), num_exits=1)
    network.config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    return network.save_pretrained(tmp_path_factory.mktemp("own") / "checkpoint")


def test_a_network_of_an_own_class_runs_without_it(own: Path, tmp_path: Path) -> None:
    stored = open_network(own)
    assert isinstance(stored, StoredNetwork)
    network = EENet.from_pretrained(own, backbone=Own())
    pixels = pixels_of(network)
    for ours, theirs in zip(stored.answers(pixels), network.answers(pixels), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    for backend in ("onnxruntime", "openvino"):
        found, wanted = Predictor(own, backend=backend).run(pixels), Predictor(network).run(pixels)
        np.testing.assert_array_equal(found.exits_B, wanted.exits_B)
        np.testing.assert_allclose(found.probabilities_BN, wanted.probabilities_BN, atol=1e-5)
    with pytest.raises(ValueError, match="of a user's own class"):
        Predictor(own, backend="torch")
    found = eenet.export(own, tmp_path / "exported")
    assert found.max_difference < 1e-5
    assert eenet.info(own).to_dict()["backbone"] is None


def test_weights_are_stored_once(own: Path) -> None:
    model = onnx.load(own / "graph.onnx")  # the standard's external data, which every program reads
    held = sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    bare = onnx.load(own / "graph.onnx", load_external_data=False)
    inside = sum(len(tensor.raw_data) for tensor in bare.graph.initializer)
    assert inside < 0.2 * held


def test_saving_again_keeps_the_graph_only_if_it_still_fits(own: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(own, tmp_path / "copy")
    network = EENet.from_pretrained(directory, backbone=Own())
    before = (directory / "graph.onnx").read_bytes()
    network.config.class_names = list("abcd")
    network.save_pretrained(directory)
    assert (directory / "graph.onnx").read_bytes() == before
    with torch.no_grad():
        network.stages[0].get_parameter("blocks.0.weight").add_(1)
    network.save_pretrained(directory, graph=False)
    assert not (directory / "graph.onnx").exists()
    assert not network.config.hashes
    network.save_pretrained(directory)
    pixels = pixels_of(network)
    stored = open_network(directory)
    np.testing.assert_allclose(stored.answers(pixels)[0], network.answers(pixels)[0], atol=1e-4)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edited(*keys: str | int, value: Any) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        values = json.loads(path.read_text())
        at = values
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        path.write_text(json.dumps(values))

    return edit


def swapped(path: Path) -> None:
    other = path.with_name("stage_1.onnx")
    first = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(first)


DAMAGE: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "a truncated graph": ("graph.onnx", truncated, "graph.onnx is damaged"),
    "a bit in the graph": ("graph.onnx", flipped, "graph.onnx is damaged"),
    "no graph": ("graph.onnx", Path.unlink, "graph.onnx is missing"),
    "an empty graph": ("graph.onnx", lambda path: path.write_bytes(b""), "graph.onnx is damaged"),
    "a truncated stage": ("stage_0.onnx", truncated, "stage_0.onnx is damaged"),
    "a bit in a stage": ("stage_2.onnx", flipped, "stage_2.onnx is damaged"),
    "no stage": ("stage_1.onnx", Path.unlink, "stage_1.onnx is missing"),
    "swapped stages": ("stage_0.onnx", swapped, "stage_0.onnx is damaged"),
    "edited thresholds": ("eenet.json", edited("stages", 0, "threshold", value=0.1), "eenet.json was edited"),
    "another version": ("eenet.json", edited("format_version", value=9), "'format_version' is 9"),
    "a manifest that is no JSON": ("eenet.json", truncated, "not valid JSON"),
    "a manifest that is a list": ("eenet.json", lambda p: p.write_text("[]"), "'format_version' is None"),
    "a hash too few": ("eenet.json", edited("hashes", value={}), "eenet.json was edited"),
    "an edited configuration": ("config.json", edited("mean", value=[0.9]), "config.json is damaged"),
    "no configuration": ("config.json", Path.unlink, "config.json is missing"),
    "a truncated configuration": ("config.json", truncated, "config.json is damaged"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "digits"
    eenet.export("digits-eenet8", out)
    return out


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_artifact_is_one_clear_line(case: str, exported: Path, tmp_path: Path) -> None:
    name, damage, message = DAMAGE[case]
    directory = shutil.copytree(exported, tmp_path / "damaged")
    damage(directory / name)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        open_network(directory)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["../model.safetensors", "/etc/passwd", ""])
def test_weights_outside_of_the_directory_are_refused(where: str, own: Path, tmp_path: Path) -> None:
    directory = shutil.copytree(own, tmp_path / "copy")
    model = onnx.load(directory / "graph.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = where
    (directory / "graph.onnx").write_bytes(model.SerializeToString())
    hashes = {"graph.onnx": sha256(directory / "graph.onnx")}
    edited("hashes", value=hashes)(directory / "config.json")
    with pytest.raises(ValueError, match="outside of the directory"):
        open_network(directory)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input_size", [3, 9, 8], "doesn't take pixels of size"),
        ("num_classes", 9, "no exit 0 with 9 classes"),
    ],
)
def test_a_graph_of_another_network_is_refused(key: str, value: Any, message: str, tmp_path: Path) -> None:
    directory = shutil.copytree(Path(eenet.__file__).parent / "pretrained/digits-eenet8", tmp_path / "copy")
    config = json.loads((directory / "config.json").read_text()) | {"class_names": None, key: value}
    if key == "input_size":
        config |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        open_network(directory)
