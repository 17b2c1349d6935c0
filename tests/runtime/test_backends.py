"""Fast equals slow: every backend and batch size against the reference, and engines against mock segments."""

import copy
import shutil
import subprocess
import sys
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray
from runtime_cases import Mock, cases, expected_exits, images_of, policy_with_shares, scores_of

from eenet.data.image_sets import ImageSet
from eenet.networks.building import create_model
from eenet.networks.graphs.messages import parse
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.policies.scores import plain_scores
from eenet.runtime.backends import compile_backend
from eenet.runtime.backends.choice import BACKENDS, create_backend
from eenet.runtime.backends.onnx_backend import session_of
from eenet.runtime.backends.torch_backend import TorchBackend
from eenet.runtime.compacting import run_batch
from eenet.runtime.graphs.nesting import Images, nest, thresholds_given
from eenet.runtime.graphs.segments import Segment, segments_of
from eenet.runtime.predictor import Predictor
from eenet.runtime.reference import run_one

GUARD = 1e-4  # kernels round differently; an image this near to a threshold may take either way


COMPILED = "torch-compile"  # seconds for each segment, batch size and kind of score
EVERYONE = ExitPolicy("margin", (-1.0,))
NOBODY = ExitPolicy("confidence", (2.0,) * 3)
QUICK = [name for name in BACKENDS if name != COMPILED]


@pytest.mark.parametrize(("backend", "score"), [*product(QUICK, plain_scores()), (COMPILED, "margin")])
def test_equals_the_reference(
    trained: EENet, digits: ImageSet, backend: str, score: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == COMPILED and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler")
    monkeypatch.setattr(compile_backend, "BUCKETS", (16,))  # 7 images are padded, 60 go in parts
    monkeypatch.setattr(
        trained.config, "ensemble", [[[0.7, 0.3 * (j + 1)] for j in range(k)] for k in range(4)]
    )
    enabled = (True, score != "margin", True)
    policy = policy_with_shares(trained, digits, score, enabled)
    pixels = np.asarray(digits.pixels_BCHW[:60])
    inputs = images_of(trained, pixels)
    slow = [run_one(trained, policy, image) for image in inputs]
    exits_B = np.array([exit_index for _, exit_index in slow])
    assert len(set(exits_B.tolist())) > (1 if score == "patience" else sum(enabled))
    with torch.inference_mode():
        outputs = trained(inputs)
    scores = scores_of(outputs, score, enabled)
    distances_KB = np.abs(np.stack(scores) - np.array(policy.thresholds)[:, None])
    sure_B = distances_KB.min(0) > GUARD
    assert sure_B.sum() > 50
    fast = create_backend(backend, trained, segments_of(policy, trained.config.ensemble), score)
    for batch_size in (1, 7, 60):
        parts = [pixels[i : i + batch_size] for i in range(0, 60, batch_size)]
        answers = [run_batch(fast, policy, part) for part in parts]
        taken_B = np.concatenate([a.exits_B for a in answers])
        assert taken_B[sure_B].tolist() == exits_B[sure_B].tolist()
        given_BN = np.concatenate([a.probabilities_BN for a in answers])
        wanted_BN = np.stack([p.numpy() for p, _ in slow])
        np.testing.assert_allclose(given_BN[sure_B], wanted_BN[sure_B], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", QUICK)
def test_parts_of_the_backbone(trained: EENet, digits: ImageSet, backend: str) -> None:
    """Without exits it is the plain backbone; a part of it gives the features behind its last stage."""
    policy = ExitPolicy("confidence", (0.0,) * 3, (False,) * 3)
    pixels = np.asarray(digits.pixels_BCHW[:5])
    fast = create_backend(backend, trained, [*segments_of(policy, None), Segment(0, 1, None)], "confidence")
    inputs = images_of(trained, pixels)
    with torch.inference_mode():
        wanted_BN = trained(inputs).logits_KBN[-1].softmax(1).numpy()
    answers = run_batch(fast, policy, pixels)
    np.testing.assert_allclose(answers.probabilities_BN, wanted_BN, rtol=1e-4, atol=1e-5)
    assert answers.exits_B.tolist() == [3] * 5
    outputs = fast.run(1, pixels)
    assert outputs.probabilities_BN is outputs.score_B is None
    assert len(outputs.features) == 5


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_stages_that_ask_for_the_batch_size(backend: str) -> None:
    """ConvNeXt's do. The exporter asks the pixels, which only the first stage has."""
    torch.manual_seed(0)
    network = create_model("test_convnext", num_exits=2, num_classes=5, input_size=(3, 64, 64), head="pool")
    network.eval().config.mean, network.config.std = [0.5] * 3, [0.25] * 3
    pixels = torch.randint(256, (9, 3, 64, 64), dtype=torch.uint8).numpy()
    scores = run_batch(create_backend("torch", network, [Segment(0, 0, 0)], "margin"), EVERYONE, pixels)
    middle = float(np.median(np.diff(np.sort(scores.probabilities_BN, 1)[:, -2:], axis=1))) + 1e-6
    policy = ExitPolicy("margin", (middle, 2.0))
    slow, fast = (
        create_backend(name, network, segments_of(policy, None), "margin") for name in ("torch", backend)
    )
    wanted = run_batch(slow, policy, pixels)
    assert set(wanted.exits_B) == {0, 2}
    for size in (1, 9):
        answers = [run_batch(fast, policy, pixels[i : i + size]) for i in range(0, 9, size)]
        assert np.concatenate([answer.exits_B for answer in answers]).tolist() == wanted.exits_B.tolist()
        found = np.concatenate([answer.probabilities_BN for answer in answers])
        assert np.abs(found - wanted.probabilities_BN).max() < 1e-4


def test_torch_folds_every_norm(trained: EENet) -> None:
    """Those of heads as well; the network itself keeps its own."""
    policy = ExitPolicy("confidence", (0.5,) * 3)
    fast = create_backend("torch", trained, segments_of(policy, None), "confidence")
    assert isinstance(fast, TorchBackend)
    kinds = [type(part) for module in fast._modules for part in module.modules()]
    assert torch.nn.Conv2d in kinds
    assert torch.nn.BatchNorm2d not in kinds
    assert torch.nn.BatchNorm2d in [type(part) for part in trained.heads.modules()]


def test_graph_is_kept_and_made_again_for_other_weights(
    trained: EENet, monkeypatch: Any, tmp_path: Path
) -> None:
    monkeypatch.setenv("EENET_CACHE", str(tmp_path))
    policy = ExitPolicy("max_softmax", (0.9,) * 3)
    create_backend("onnxruntime", trained, segments_of(policy, None), "max_softmax")
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    create_backend("openvino", trained, segments_of(policy, None), "entropy")
    assert {path.name for path in tmp_path.iterdir()} == first.keys()
    weight = trained.heads.get_parameter("0.classifier.weight")
    with torch.no_grad():
        weight += 1
        create_backend("onnxruntime", trained, segments_of(policy, None), "max_softmax")
        weight -= 1
    assert len(list(tmp_path.iterdir())) == 2


DROPPED_ELSEWHERE = """
import signal, subprocess, threading
from eenet import create_model
from eenet.policies import ExitPolicy
from eenet.runtime import create_backend
from eenet.runtime import segments_of

network = create_model("resnet8_w4_cifar", num_classes=10, input_size=(1, 8, 8), num_exits=1)
network.config.mean, network.config.std = [0.5], [0.5]
policy = ExitPolicy("confidence", (0.5,))
held = [create_backend("openvino", network.eval(), segments_of(policy, None), policy.score)]
thread = threading.Thread(target=held.clear)
thread.start()
thread.join()
signal.signal(signal.SIGCHLD, lambda *_: print("handled"))
subprocess.run(["true"])
"""


def test_openvino_may_be_given_up_in_another_thread() -> None:
    """It once took the first thread's signal stack with it: the next signal was the end."""
    done = subprocess.run(
        [sys.executable, "-c", DROPPED_ELSEWHERE], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr


def test_refusals(trained: EENet) -> None:
    segments = segments_of(ExitPolicy("confidence", (0.5,) * 3), None)
    with pytest.raises(
        ValueError, match="unknown backend 'tvm'; choose from torch, torch-compile, onnxruntime, openvino"
    ):
        create_backend("tvm", trained, segments, "confidence")
    with pytest.raises(ValueError, match="'onnxruntime' has no option 'precision'"):
        create_backend("onnxruntime", trained, segments, "confidence", precision="bf16")
    with pytest.raises(ValueError, match="unknown precision 'int3'"):
        create_backend("openvino", trained, segments, "confidence", precision="int3")
    with pytest.raises(ValueError, match="batch_size is 0"):
        Predictor(trained, batch_size=0)


# Engines against mock segments --------------------------------------------------------


@given(cases())
@settings(max_examples=5000, deadline=None)
def test_compacting(case: tuple[NDArray[np.float32], ExitPolicy]) -> None:
    scores_KB, policy = case
    backend, count = Mock(scores_KB, policy), scores_KB.shape[1]
    answers = run_batch(backend, policy, np.arange(count, dtype=np.uint8)[:, None, None, None])
    wanted = expected_exits(scores_KB, policy)
    assert answers.exits_B.tolist() == wanted
    assert answers.probabilities_BN.tolist() == [[b, k] for b, k in enumerate(wanted)]
    on = [segment.exit or 0 for segment in backend.segments]
    alive = [sum(k >= exit_index for k in wanted) for exit_index in on]
    assert backend.ran == [n for n in alive if n]  # nothing is run for an image that has left


@cache
def nested(segments: tuple[Segment, ...], images: Images) -> ort.InferenceSession:
    """Made-up segments as one graph: features are an image's number and its score at every exit."""
    node, constant = onnx.helper.make_node, onnx.numpy_helper.from_array
    made = partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT)
    parts = []
    for i, segment in enumerate(segments):
        k = segment.exit or 0
        nodes = [node("Gather", ["x", "first"], ["p"], axis=1), node("Identity", ["x"], ["y"])]
        nodes += [node("Gather", ["x", f"column_{k}"], ["s"], axis=1)]
        outputs = [made("y", shape=["B", None]), made("p", shape=["B", 1]), made("s", shape=["B"])]
        last = i == len(segments) - 1
        graph = onnx.helper.make_graph(
            nodes[:1] if last else nodes,
            "part",
            [made("x", shape=["B", None])],
            outputs[1:2] if last else outputs,
            [constant(np.array([0]), "first"), constant(np.array(1 + k), f"column_{k}")],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
        parts.append(parse(model.SerializeToString(), "a part"))
    return session_of(nest(parts, segments, images), 1)


@given(cases())
@settings(max_examples=2000, deadline=None)
def test_nested_graph(case: tuple[NDArray[np.float32], ExitPolicy]) -> None:
    """The whole way in one call, with a batch of any size and with one image."""
    scores_KB, policy = case
    segments, count = tuple(segments_of(policy, None)), scores_KB.shape[1]
    features_BF = np.concatenate([np.arange(count, dtype=np.float32)[None], scores_KB, np.ones((1, count))]).T
    thresholds = thresholds_given(tuple(policy.thresholds[s.exit or 0] for s in segments[:-1]))
    wanted = expected_exits(scores_KB, policy)
    for images in get_args(Images):
        session = nested(segments, images)
        for rows in [[b] for b in range(count)] if images == "one" else [list(range(count))]:
            given_BF = features_BF[rows].astype(np.float32)
            probabilities_B1, exits_B = session.run(None, {"x": given_BF, **thresholds})
            assert np.asarray(exits_B).tolist() == [wanted[b] for b in rows]
            assert np.asarray(probabilities_B1)[:, 0].tolist() == rows


@pytest.mark.parametrize("backend", QUICK)
def test_nan_of_a_gate_is_an_error(trained: EENet, digits: ImageSet, backend: str) -> None:
    """Its probabilities are numbers, so that only the score tells."""
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken.heads.get_parameter("1.confidence.output.bias").fill_(torch.nan)
    fast = create_backend(backend, broken, segments_of(NOBODY, None), NOBODY.score)
    for count in (1, 5):
        with pytest.raises(ValueError, match="exit 1 gives NaN"):
            run_batch(fast, NOBODY, np.asarray(digits.pixels_BCHW[:count]))


def test_nan_is_an_error() -> None:
    policy = ExitPolicy("confidence", (0.5,))
    backend = Mock(np.array([[0.1, np.nan]], np.float32), policy)
    with pytest.raises(ValueError, match="exit 0 gives NaN"):
        run_batch(backend, policy, np.arange(2, dtype=np.uint8)[:, None, None, None])
