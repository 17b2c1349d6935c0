"""ONNX Runtime as a backend, on the CPU.

The network is optimised as a whole and then cut where it is in the runtime's own blocked
layout: nothing is converted at a cut, and operations are fused as in the plain backbone.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx.utils import Extractor

from eenet.network import EENet
from eenet.runtime.backends import Backend, Outputs, cores, packed
from eenet.runtime.graph import PIXELS, inputs_and_outputs, network_graph
from eenet.runtime.segments import Segment


class OnnxRuntimeBackend(Backend):
    """Features are numpy arrays, in blocks of channels where the runtime wants that."""

    name = "onnxruntime"

    def __init__(
        self, network: EENet, segments: Sequence[Segment], score: str, *, threads: int | None = None
    ) -> None:
        """`threads`: with 1, all is computed in the calling thread. Default: one per core."""
        self.segments = list(segments)
        graph, final = network_graph(network), network.num_exits
        names = [inputs_and_outputs(segment, score, final) for segment in self.segments]
        ends = list(dict.fromkeys(name for _, outputs in names for name in outputs))
        fast, blocked = _optimized(Extractor(graph).extract_model([PIXELS], ends), threads)
        cutter, parts = Extractor(fast), []
        self._sessions: list[tuple[ort.InferenceSession, str]] = []
        for inputs, outputs in names:
            inputs, outputs = ([blocked.get(name, name) for name in side] for side in (inputs, outputs))
            parts.append(cutter.extract_model(inputs, outputs))
            self._sessions.append((_session(parts[-1], threads, optimize=False), inputs[0]))
        early = [k for k, s in enumerate(self.segments) if s.exit is not None and s.exit < final]
        self._alone = None
        if early and self.segments[len(early)].exit == final:
            exits = [s.exit or 0 for s in self.segments[: len(early) + 1]]
            nested = nest(parts[: len(early) + 1], exits)
            self._alone = _session(nested, threads, optimize=False)

    def run(self, index: int, features: Any) -> Outputs:
        session, name = self._sessions[index]
        return packed(self.segments[index], session.run(None, {name: features}))

    def run_alone(
        self, pixels_BCHW: NDArray[np.uint8], thresholds: Sequence[float]
    ) -> tuple[NDArray[np.float32], int] | None:
        if self._alone is None:
            return None
        given: dict[str, Any] = {
            f"threshold_{k}": np.array([threshold], np.float32) for k, threshold in enumerate(thresholds)
        }
        found: Sequence[Any] = self._alone.run(None, {PIXELS: pixels_BCHW, **given})
        return found[0], int(found[1][0])


def nest(parts: Sequence[onnx.ModelProto], exits: Sequence[int]) -> onnx.ModelProto:
    """Segments as one model for one image: each but the first lies in an `If` behind the one before.

    It also takes `threshold_0`, `threshold_1`, ..., one for each segment but the last, and gives
    `probabilities` and the number of the `exit`.
    """

    made: set[str] = set()

    def level(k: int) -> tuple[list[onnx.NodeProto], list[str]]:
        """The nodes from segment k on, and the names of probabilities and exit."""
        graph, number = parts[k].graph, f"exit_number_{k}"
        value = onnx.numpy_helper.from_array(np.array([exits[k]], np.int64))
        nodes = [node for node in graph.node if node.output[0] not in made]  # two parts may share some
        made.update(name for node in nodes for name in node.output)
        nodes.append(onnx.helper.make_node("Constant", [], [number], value=value))
        if k == len(parts) - 1:
            return nodes, [graph.output[0].name, number]
        _, probabilities, score = [output.name for output in graph.output]
        here = [f"probabilities_here_{k}", f"number_here_{k}"]
        copies = [
            onnx.helper.make_node("Identity", [a], [b])
            for a, b in zip([probabilities, number], here, strict=True)
        ]
        leave, onward = _branch("leave", copies, here), _branch("go_on", *level(k + 1))
        sure, found = f"sure_{k}", [f"probabilities_from_{k}", f"number_from_{k}"]
        nodes.append(onnx.helper.make_node("Greater", [score, f"threshold_{k}"], [sure]))
        nodes.append(onnx.helper.make_node("If", [sure], found, then_branch=leave, else_branch=onward))
        return nodes, found

    nodes, found = level(0)
    nodes += [
        onnx.helper.make_node("Identity", [a], [b])
        for a, b in zip(found, ["probabilities", "exit"], strict=True)
    ]
    model = onnx.ModelProto()
    model.CopyFrom(parts[0])
    del model.graph.node[:], model.graph.output[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    held = {tensor.name: tensor for part in parts for tensor in part.graph.initializer}
    model.graph.initializer.extend(held.values())  # above all branches, since they may share some
    for k in range(len(parts) - 1):
        info = onnx.helper.make_tensor_value_info(f"threshold_{k}", onnx.TensorProto.FLOAT, [1])
        model.graph.input.append(info)
    model.graph.output.extend(_values(["probabilities", "exit"]))
    return model


def _branch(name: str, nodes: Sequence[onnx.NodeProto], found: Sequence[str]) -> onnx.GraphProto:
    return onnx.helper.make_graph(nodes, name, [], _values(found))


def _values(names: Sequence[str]) -> list[onnx.ValueInfoProto]:
    """Probabilities [B, N] and an exit's number."""
    probabilities, number = names
    return [
        onnx.helper.make_tensor_value_info(probabilities, onnx.TensorProto.FLOAT, [None, None]),
        onnx.helper.make_tensor_value_info(number, onnx.TensorProto.INT64, [1]),
    ]


def _optimized(graph: onnx.ModelProto, threads: int | None) -> tuple[onnx.ModelProto, dict[str, str]]:
    """The graph as the runtime would run it, and the names that outputs have in its blocked layout."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "optimized.onnx"
        _session(graph, threads, path=path)
        fast = onnx.load(path)
    known = {output.name for output in fast.graph.output}
    blocked = {}
    for node in fast.graph.node:
        if node.op_type == "ReorderOutput" and node.output[0] in known:
            blocked[node.output[0]] = node.input[0]
    for name in blocked.values():
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", None, None, None])
        fast.graph.value_info.append(info)
    return fast, blocked


def _session(
    graph: onnx.ModelProto, threads: int | None, *, optimize: bool = True, path: Path | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # saving an optimised graph warns that it is for this machine only
    options.intra_op_num_threads = threads or cores()
    # Threads that go on spinning after a run would take the cores from the next segment's session.
    # One pool for the process is as fast, but ONNX Runtime then refuses a user's ordinary sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if path:
        options.optimized_model_filepath = str(path)
    return ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
