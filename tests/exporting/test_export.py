"""Exported files, run without this library, do what the network does, and stop where it stops."""

import importlib.util
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from eenet import Predictor, data
from eenet.backbones.names import create_backbone
from eenet.cli import main
from eenet.evaluation.evaluating import collect, evaluate
from eenet.exporting import comparing
from eenet.exporting.formats import FORMATS
from eenet.exporting.writing import Export, export
from eenet.networks.building import create_model, without_exits
from eenet.networks.graphs.stored import open_network
from eenet.networks.network import EENet
from eenet.policies.budget import policies_for_budgets
from eenet.policies.policy import ExitPolicy
from eenet.runtime.backends.choice import create_backend, installed
from eenet.runtime.backends.exported import MANIFEST_FILE, load_exported
from eenet.runtime.compacting import Answers, run_batch
from eenet.runtime.graphs.segments import segments_of

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/reference/eenet.schema.json").read_text())
CHECKPOINT = "digits-eenet8"
ONNX = [name for name in FORMATS if name.startswith("onnx")]


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    images = data.load("digits", "test")
    return np.asarray(images.pixels(list(range(len(images)))))


@pytest.fixture(scope="module")
def expected(pixels: NDArray[np.uint8]) -> Any:
    return Predictor(CHECKPOINT, backend="torch").run(pixels)


def manifest_in(directory: Path) -> dict[str, Any]:
    return json.loads((directory / MANIFEST_FILE).read_text())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("format", [*ONNX, "openvino", "openvino-single"])
def test_every_format_is_described_and_runs(
    format: str, precision: str, tmp_path: Path, pixels: NDArray[np.uint8], expected: Any
) -> None:
    if not installed("openvino") and format.startswith("openvino"):
        pytest.skip("OpenVINO isn't installed")
    found = export(CHECKPOINT, tmp_path / "out", format=format, precision=precision)
    manifest = manifest_in(tmp_path / "out")
    jsonschema.validate(manifest, SCHEMA)
    assert sorted(found.files) == sorted(str(path) for path in (tmp_path / "out").iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    backend, policy = load_exported(tmp_path / "out")
    answers = run_batch(backend, policy, pixels)
    same_exit = (answers.exits_B == expected.exits_B).mean()
    same_label = (answers.probabilities_BN.argmax(1) == expected.probabilities_BN.argmax(1)).mean()
    if precision == "fp32":
        assert same_exit == 1
        assert np.abs(answers.probabilities_BN - expected.probabilities_BN).max() < 1e-5
        assert found.milliseconds is None
        assert manifest["measured"] == {}
    else:
        assert same_label > 0.98
        assert same_exit > 0.85
        sizes = ["1"] if format == "openvino-single" else ["1", "64"]
        for times in (found.milliseconds, found.fp32_milliseconds):
            assert times
            assert list(times) == sizes
        if format == "openvino":  # whose threads mixed up images, in files as well
            again = [run_batch(backend, policy, pixels).probabilities_BN for _ in range(50)]
            assert all((each == answers.probabilities_BN).all() for each in again)
        for key, value in manifest["measured"].items():
            assert getattr(found, key) == value
        assert f"At batch 1 {precision}" in str(found)
    written = [tmp_path / "out" / name for name in manifest["files"]]
    assert found.bytes == sum(path.stat().st_size for path in written)


@pytest.fixture(scope="module")
def int8(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single file of integers."""
    place = tmp_path_factory.mktemp("int8") / "out"
    export(CHECKPOINT, place, format="onnx-single", precision="int8")
    return place


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_int8_goes_on_across_cuts(
    name: str, int8: Path, pixels: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Segments hand on integers, and say the same one after the other as in one graph, alone or together.

    And as another backend does, but for rounding: OpenVINO gets int8 wrong in one graph.
    """
    if not installed(name):
        pytest.skip(f"{name} isn't installed")
    network = open_network(int8)
    policy = ExitPolicy("confidence", (0.9,) * network.num_exits)
    names, segments = (name, "onnxruntime"), segments_of(policy, None)
    backend, other = (create_backend(each, network, segments, policy.score) for each in names)
    exits_B = run_batch(other, policy, pixels).exits_B
    assert backend.run(0, pixels).features.dtype == np.uint8
    together = run_batch(backend, policy, pixels)
    alone = [run_batch(backend, policy, pixels[i : i + 1]) for i in range(len(pixels))]
    monkeypatch.setattr(type(backend), "run_through", lambda *_: None)
    apart = run_batch(backend, policy, pixels)
    assert len(set(apart.exits_B.tolist())) > 1
    assert (apart.exits_B != exits_B).mean() < 0.05
    pairs = zip(*((one.probabilities_BN, one.exits_B) for one in alone), strict=True)
    for found in (together, Answers(*map(np.concatenate, pairs))):
        assert found.exits_B.tolist() == apart.exits_B.tolist()
        np.testing.assert_allclose(found.probabilities_BN, apart.probabilities_BN, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_int8_says_the_same_every_time(name: str, int8: Path, pixels: NDArray[np.uint8]) -> None:
    """On two threads, too: OpenVINO mixes up images that they share, where 8 channels meet a stride."""
    if not installed(name):
        pytest.skip(f"{name} isn't installed")
    network = open_network(int8)
    policy = ExitPolicy("confidence", (1.0,) * network.num_exits)  # all go to the end
    backend = create_backend(name, network, segments_of(policy, None), policy.score, threads=2)
    first = run_batch(backend, policy, pixels).probabilities_BN
    for _ in range(100):
        np.testing.assert_array_equal(run_batch(backend, policy, pixels).probabilities_BN, first)


def test_weights_in_int8_lie_in_the_branches_that_use_them(int8: Path) -> None:
    """Above them, ONNX Runtime would pack them anew for every image."""
    graph = onnx.load(int8 / manifest_in(int8)["single"]["file"]).graph
    taken = {name for node in graph.node for name in node.input}
    above = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.INT8}
    assert above <= taken
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    assert any(tensor.data_type == onnx.TensorProto.INT8 for part in inner for tensor in part.initializer)


def test_a_lower_precision_that_is_slower_here_is_said_to_be() -> None:
    figures: dict[str, Any] = {
        "files": ["out/a"],
        "compared": 9,
        "max_difference": 0.01,
        "hardware": "this one",
    }
    figures |= {"precision": "int8", "bytes": 300_000, "fp32_bytes": 900_000}
    figures |= {"milliseconds": {"1": 0.559, "64": 8.0}, "fp32_milliseconds": {"1": 0.315, "64": 12.0}}
    mixed = Export(**figures, speedup_low={"1": 0.5, "64": 1.4}, speedup_high={"1": 0.6, "64": 1.6})
    said = " ".join(str(mixed).split())
    assert "size 0.3 MB; in fp32 0.9 MB" in said
    assert "At batch 1 int8 takes 1.77 times as long as fp32 here: 0.559 against 0.315 ms." in said
    assert "At batch 64 int8 is 1.5 times as fast as fp32 here: 8 against 12 ms." in said
    assert "keep fp32" not in said
    figures |= {"milliseconds": {"1": 0.559}, "fp32_milliseconds": {"1": 0.315}}
    slower = Export(**figures, speedup_low={"1": 0.5}, speedup_high={"1": 0.6})
    assert "So int8 is slower on this machine, this one; keep fp32 for speed." in str(slower)


def test_fp32_is_not_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing to compare with")

    monkeypatch.setattr(comparing, "times_in_turn", clock)
    found = export(CHECKPOINT, tmp_path / "a")
    assert found.fp32_bytes is None
    with pytest.raises(AssertionError, match="nothing to compare"):
        export(CHECKPOINT, tmp_path / "b", precision="fp16")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_stages_are_run_by_a_dozen_lines_of_any_program(
    tmp_path: Path, pixels: NDArray[np.uint8], expected: Any
) -> None:
    export(CHECKPOINT, tmp_path, format="onnx")
    manifest = manifest_in(tmp_path)
    sessions = [ort.InferenceSession(tmp_path / stage["file"]) for stage in manifest["stages"]]
    for i, image in enumerate(pixels[:100]):
        given: Any = image[None]
        joined: Any = 0
        stage: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for stage, session in zip(manifest["stages"], sessions, strict=True):
            found = dict(zip(stage["outputs"], session.run(None, {stage["inputs"][0]: given}), strict=True))
            own, before = stage["weights"]
            joined = own * np.log(found["probabilities"].clip(1e-12)) + before * joined
            if "threshold" not in stage or found["score"][0] > stage["threshold"]:
                break
            given = found["features"]
        assert stage["exit"] == expected.exits_B[i]
        assert np.allclose(
            np.exp(joined[0]) / np.exp(joined[0]).sum(), expected.probabilities_BN[i], atol=1e-5
        )


def test_a_single_file_does_not_run_what_lies_behind_the_exit(
    tmp_path: Path, pixels: NDArray[np.uint8]
) -> None:
    export(CHECKPOINT, tmp_path / "out", format="onnx-single")
    names: list[set[str]] = []
    for threshold, taken in ((-1.0, 0), (2.0, 2)):
        options = ort.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(tmp_path / f"profile{taken}")
        session = ort.InferenceSession(tmp_path / "out/network.onnx", options)
        wanted = np.array([threshold], np.float32)
        given = {"pixels": pixels[:1], "threshold_0": wanted, "threshold_1": wanted}
        exit_index: Any = session.run(["exit_index"], given)[0]
        assert exit_index[0] == taken
        events = json.loads(Path(session.end_profiling()).read_text())
        names.append({event["name"] for event in events if event.get("cat") == "Node"})
    left, stayed = (sum("onv" in name and "kernel_time" in name for name in group) for group in names)
    assert 0 < left < stayed


def test_a_single_file_has_thresholds_that_can_be_changed(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    export(CHECKPOINT, tmp_path, format="onnx-single")
    manifest = manifest_in(tmp_path)
    session = ort.InferenceSession(tmp_path / "network.onnx")
    for budget in ("0.500", "0.900"):
        predictor = Predictor(CHECKPOINT, budget=float(budget), backend="torch")
        thresholds = manifest["budgets"][budget]
        given = {
            name: np.array([t], np.float32)
            for name, t in zip(manifest["single"]["inputs"][1:], thresholds, strict=True)
        }
        for images in (pixels[:50], pixels[7:8]):  # of any number
            exits_B: Any = session.run(["exit_index"], {"pixels": images, **given})[0]
            assert exits_B.tolist() == predictor.run(images).exits_B.tolist()
    default: Any = session.run(["exit_index"], {"pixels": pixels[:1]})[0]
    assert default[0] == Predictor(CHECKPOINT, backend="torch").run(pixels[:1]).exits_B[0]


def test_int8_says_what_became_of_accuracy_and_cost(tmp_path: Path, expected: Any) -> None:
    found = export(CHECKPOINT, tmp_path, precision="int8")
    for stage in manifest_in(tmp_path)["stages"][1:]:
        graph = onnx.load(tmp_path / stage["file"]).graph
        readers = {node.op_type for node in graph.node if set(stage["inputs"]) & set(node.input)}
        assert readers == {"QuantizeLinear"}, "else its first layers compute in floats"
    labels = np.asarray(data.load("digits", "test").labels_B)
    assert found.fp32_accuracy == (expected.probabilities_BN.argmax(1) == labels).mean()
    assert found.accuracy is not None
    assert found.relative_cost is not None
    assert found.fp32_relative_cost is not None
    assert found.fp32_accuracy is not None
    assert abs(found.accuracy - found.fp32_accuracy) <= 0.01
    assert abs(found.relative_cost - found.fp32_relative_cost) <= 0.03
    for key, value in manifest_in(tmp_path)["measured"].items():
        assert getattr(found, key) == value


def test_exits_that_are_off_are_not_exported(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    network = EENet.from_pretrained(CHECKPOINT)
    network.config.policies["last"] = {"score": "margin", "thresholds": [0.5, 0.9], "enabled": [False, True]}
    network.save_pretrained(tmp_path / "network")
    export(tmp_path / "network", tmp_path / "out", policy="last")
    manifest = manifest_in(tmp_path / "out")
    assert [stage["exit"] for stage in manifest["stages"]] == [1, 2]
    assert manifest["score"] == "margin"
    backend, policy = load_exported(tmp_path / "out")
    wanted = Predictor(network, policy="last").run(pixels)
    answers = run_batch(backend, policy, pixels)
    assert (answers.exits_B == wanted.exits_B).all()


def test_a_library_compiled_by_torch(tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    network = create_model("resnet8_w2_cifar", num_exits=1, num_classes=10, input_size=(1, 8, 8))
    digits = data.load("digits", "validation")
    network.config.mean, network.config.std = digits.mean_std()
    records = collect(network.eval(), digits)
    network.config.budgets = {k: v.to_dict() for k, v in policies_for_budgets(records).items()}
    network.config.policy = network.config.budgets["0.900"]
    network.save_pretrained(tmp_path / "network")
    found = export(tmp_path / "network", tmp_path / "out", format="aoti", data="digits")
    assert found.max_difference < 1e-4
    backend, policy = load_exported(tmp_path / "out")
    share = np.bincount(run_batch(backend, policy, pixels).exits_B) / len(pixels)
    counts = evaluate(collect(network, data.load("digits", "test")), policy).exit_counts
    assert np.allclose(share, np.array(counts) / len(pixels), atol=0.01)


def test_force_replaces_an_export_and_leaves_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["export", CHECKPOINT, "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["max_difference"] < 1e-4
    (out / "notes.txt").write_text("mine")
    assert main(["export", CHECKPOINT, "--out", str(out)]) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["export", CHECKPOINT, "--out", str(out), "--force", "--format", "onnx-single"]) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json",
        "eenet.json",
        "graph.onnx",
        "network.onnx",
        "notes.txt",
    ]


class Bessel(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.bessel_j0(x)


class WithBessel(nn.Module):
    """ONNX has no Bessel functions."""

    def __init__(self, num_classes: int = 10, in_chans: int = 1) -> None:
        super().__init__()
        self.num_classes = num_classes
        widths = [in_chans, 4, 4, 4]
        self.blocks = nn.Sequential(
            *(nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU()) for a, b in pairwise(widths))
        )
        self.bessel, self.fc = Bessel(), nn.Linear(4, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bessel(self.blocks(x)).mean((2, 3)))


@pytest.mark.parametrize("format", ["onnx", "openvino-single"])
def test_an_operator_that_is_missing_is_named(
    format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_bessel(num_classes: int, in_chans: int, **_: Any) -> nn.Module:
        return WithBessel(num_classes, in_chans)

    monkeypatch.setitem(timm.models._registry._model_entrypoints, "with_bessel", with_bessel)
    digits = data.load("digits", "test")
    network = create_model("with_bessel", num_classes=10, in_chans=1, input_size=(1, 8, 8), num_exits=1)
    network.config.mean, network.config.std = digits.mean_std()
    network.config.class_names = digits.class_names
    network.save_pretrained(tmp_path / "network")
    with pytest.raises(ValueError, match=r"ONNX has no operator for prims\.bessel_j0"):
        export(tmp_path / "network", tmp_path / "out", format=format, data="digits")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("format", [name for name in FORMATS if name.startswith(("onnx", "openvino"))])
def test_a_network_without_exits(format: str, tmp_path: Path, pixels: NDArray[np.uint8]) -> None:
    digits, arguments = data.load("digits", "test"), {"num_classes": 10, "in_chans": 1}
    network = without_exits(create_backbone("resnet8_w4_cifar", arguments), digits.image_size)
    network.config.backbone, network.config.backbone_args = "resnet8_w4_cifar", arguments
    network.config.mean, network.config.std = digits.mean_std()
    network.config.class_names = digits.class_names
    network.save_pretrained(tmp_path / "plain")
    export(tmp_path / "plain", tmp_path / "out", format=format, data="digits")
    backend, policy = load_exported(tmp_path / "out")
    found = run_batch(backend, policy, pixels[:20])
    wanted = Predictor(tmp_path / "plain", backend="torch").run(pixels[:20])
    assert found.exits_B.tolist() == [0] * 20
    assert np.allclose(found.probabilities_BN, wanted.probabilities_BN, atol=1e-5)


def test_a_missing_library_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "executorch" else object())
    with pytest.raises(ValueError, match=r"pip install 'eenet\[executorch\]'"):
        export(CHECKPOINT, tmp_path / "out", format="executorch")


def test_images_are_those_that_were_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Data that is named and can't be read is no reason to compare on something else without a word."""
    photos = tmp_path / "photos"
    for name in "0123456789":
        for split in ("train", "test"):
            (photos / split / name).mkdir(parents=True)
            for i in range(4):
                Image.new("L", (8, 8), 20 * int(name) + i).save(photos / split / name / f"{i}.png")
    for path in ("train/3/0.png", "test/4/1.png"):
        (photos / path).write_text("no image")
    where: dict[str, Any] = {"data": str(photos), "precision": "int8"}
    with pytest.raises(ValueError, match="2 of 80 images"):
        export(CHECKPOINT, tmp_path / "out", data=str(photos))
    with pytest.raises(ValueError, match="2 of 80 images"):
        export(CHECKPOINT, tmp_path / "out", **where)
    assert export(CHECKPOINT, tmp_path / "out", **where, skip_damaged=True).compared == 39
    network = EENet.from_pretrained(CHECKPOINT)
    network.config.provenance["train_config"]["data"] = str(tmp_path / "gone")
    capsys.readouterr()
    assert export(network, tmp_path / "other").compared == 256
    assert "compared on random images: unknown data set" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"format": "tflite"}, "unknown format 'tflite'"),
        ({"precision": "int4"}, "unknown precision"),
        ({"format": "aoti", "precision": "fp16"}, "fp32, not in fp16"),
        ({"budget": 0.1}, "no policy for budget"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        export(CHECKPOINT, tmp_path / "out", **arguments)
    assert not list(tmp_path.iterdir())


def test_what_answers_differently_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from eenet.networks.graphs import whole as graph

    other = EENet.from_pretrained(CHECKPOINT)
    for parameter in other.parameters():
        parameter.data += 0.05
    wrong = graph.network_graph(other)
    monkeypatch.setattr("eenet.exporting.writing.graph_of", lambda _: wrong)
    with pytest.raises(ValueError, match=r"differ by|another exit"):
        export(CHECKPOINT, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_an_export_of_the_first_version_still_loads(
    tmp_path: Path, pixels: NDArray[np.uint8], expected: Any
) -> None:
    """eenet 0.1 wrote no hashes, no graph and no configuration."""
    export(CHECKPOINT, tmp_path)
    for name in ("graph.onnx", "config.json"):
        (tmp_path / name).unlink()
    manifest = {key: value for key, value in manifest_in(tmp_path).items() if key not in ("hashes", "digest")}
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**manifest, "format_version": 1}))
    backend, policy = load_exported(tmp_path)
    np.testing.assert_array_equal(run_batch(backend, policy, pixels).exits_B, expected.exits_B)
    with pytest.raises(ValueError, match=r"was exported by eenet 0\.1 as onnx, .* export the network again"):
        Predictor(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / MANIFEST_FILE).unlink(), "was not written by"),
        (lambda d: (d / MANIFEST_FILE).write_text("{"), "not valid JSON"),
        (lambda d: (d / MANIFEST_FILE).write_text('{"format_version": 9}'), "format_version"),
        (lambda d: (d / MANIFEST_FILE).write_text('{"format_version": 1, "stages": []}'), "damaged"),
        (lambda d: (d / "stage_1.onnx").unlink(), "stage_1.onnx is missing"),
    ],
)
def test_a_damaged_export_is_refused(damage: Any, message: str, tmp_path: Path) -> None:
    export(CHECKPOINT, tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_exported(tmp_path)
