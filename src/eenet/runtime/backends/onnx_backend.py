"""ONNX Runtime as a backend, on the CPU.

The network is optimised as a whole and then cut where it is in the runtime's own blocked layout, or where
features are integers: nothing is converted at a cut, and operations are fused as in the plain backbone.
"""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from eenet.common import cores
from eenet.networks import FLOAT, PIXELS, Network, graph_of, parse, to_array, value_info
from eenet.runtime.backends.backend import Backend, Outputs, ThroughAll, packed
from eenet.runtime.graphs.cutting import Cutter, inputs_and_outputs
from eenet.runtime.graphs.nesting import nest_all, thresholds_given
from eenet.runtime.graphs.segments import Segment

CPU = "CPUExecutionProvider"


class OnnxRuntimeBackend(Backend):
    """Features are numpy arrays, in blocks of channels or as integers where the runtime has them so."""

    name = "onnxruntime"

    def __init__(
        self,
        network: Network,
        segments: Sequence[Segment],
        score: str,
        *,
        threads: int | None = None,
        providers: Sequence[str] = (),
    ) -> None:
        """Cut the network's graph.

        Args:
            threads: with 1, all is computed in the calling thread. Default: one per core.
            providers: ONNX Runtime's execution providers, the most wanted first. Default: the processor's.

        Raises:
            ValueError: a provider isn't there.
        """
        self.segments = list(segments)
        graph, final = graph_of(network), network.num_exits
        state = network.config.has_state
        names = [inputs_and_outputs(segment, score, final, with_state=state) for segment in self.segments]
        ends = list(dict.fromkeys(name for _, outputs in names for name in outputs))
        whole = Cutter(graph).cut([PIXELS], ends)
        features = {name for inputs, _ in names[1:] for name in inputs}
        fast, carried, apart = whole, dict[str, str](), bool(providers)
        if not apart:  # the blocked layout is the processor's own
            fast, carried = _optimized(whole, threads, features)
        own = [[[carried.get(name, name) for name in side] for side in sides] for sides in names]
        parts = _parts(fast, own)
        if not all(map(_is_closed, parts)):
            fast, apart, own = whole, True, [list(map(list, sides)) for sides in names]
            parts = _parts(fast, own)
        options: dict[str, Any] = {"optimize": apart, "providers": providers}
        self._weights = {  # one copy for all sessions, which it has to outlive
            tensor.name: ort.OrtValue.ortvalue_from_numpy(to_array(tensor))
            for tensor in fast.graph.initializer
        }
        self._sessions: list[tuple[ort.InferenceSession, list[str]]] = []
        shapes: dict[str, Sequence[int | str | None]] = {}
        for part, (inputs, _) in zip(parts, own, strict=True):
            for info in part.graph.input:
                if info.name in shapes:
                    # with the shape known, a residual block adds its shortcut in place instead of copying it
                    kind = info.type.tensor_type.elem_type
                    info.CopyFrom(value_info(info.name, kind, shapes[info.name]))
            session = session_of(part, threads, weights=self._weights, **options)
            shapes |= {output.name: output.shape for output in session.get_outputs()}
            self._sessions.append((session, inputs))
        self._through = [  # one image, several
            graph and session_of(graph, threads, weights=self._weights, **options)
            for graph in (nest_all(parts, self.segments, final, images) for images in ("one", "several"))
        ]

    def run(self, index: int, features: Any) -> Outputs:
        session, names = self._sessions[index]
        given = features if isinstance(features, tuple) else (features,)
        return packed(self.segments[index], session.run(None, dict(zip(names, given, strict=True))))

    def run_through(self, pixels_BCHW: NDArray[np.uint8], thresholds: Sequence[float]) -> ThroughAll | None:
        session = self._through[len(pixels_BCHW) > 1]
        if session is None:
            return None
        given: dict[str, Any] = {PIXELS: pixels_BCHW, **thresholds_given(tuple(thresholds))}
        found: Sequence[Any] = session.run(None, given)
        return found[0], found[1]


def _optimized(graph: Any, threads: int | None, features: Collection[str]) -> tuple[Any, dict[str, str]]:
    """The graph as the runtime would run it, and the names of what features are unpacked from there."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "optimized.onnx"
        session_of(graph, threads, path=path)
        fast = parse(path.read_bytes(), "the optimised graph")
    makers = {node.output[0]: node for node in fast.graph.node if node.output}
    kinds = {tensor.name: tensor.data_type for tensor in fast.graph.initializer}
    carried = dict[str, str]()
    for name in sorted(features & makers.keys()):
        maker, kind = makers[name], FLOAT
        if maker.op_type == "DequantizeLinear" and len(maker.input) > 2 and maker.input[2] in kinds:
            kind = kinds[maker.input[2]]
            before = makers.get(maker.input[0])
            maker = before if before is not None and before.op_type == "Transpose" else maker
        elif maker.op_type != "ReorderOutput":
            continue
        carried[name] = maker.input[0]
        fast.graph.value_info.append(value_info(carried[name], kind, ["batch", None, None, None]))
    return fast, carried


def _parts(graph: Any, names: Sequence[Sequence[Sequence[str]]]) -> list[Any]:
    """A model for each pair of inputs and outputs."""
    cutter = Cutter(graph)
    return [cutter.cut(*sides) for sides in names]


def _is_closed(part: Any) -> bool:
    """Whether a part takes nothing but its inputs: integers may go on by another way than the features."""
    there = {info.name for info in part.graph.input} | {tensor.name for tensor in part.graph.initializer}
    for node in part.graph.node:
        if not there.issuperset(name for name in node.input if name):
            return False
        there.update(node.output)
    return True


def session_of(
    graph: Any,
    threads: int | None,
    *,
    optimize: bool = True,
    path: Path | None = None,
    weights: Mapping[str, ort.OrtValue] | None = None,
    providers: Sequence[str] = (),
) -> ort.InferenceSession:
    """A graph, or a file, to be run on the CPU.

    Args:
        graph: an ONNX model, or its file.
        threads: that it may take. Default: one per core.
        optimize: leave it on, unless the graph is optimised already.
        path: the optimised graph is written there.
        weights: by name, to be used instead of copies of the graph's own.
        providers: see `OnnxRuntimeBackend`.

    Raises:
        ValueError: a provider isn't there.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3  # saving an optimised graph warns that it is for this machine only
    options.intra_op_num_threads = threads or cores()
    # Threads that go on spinning after a run would take the cores from the next segment's session.
    # One pool for the process is as fast, but ONNX Runtime then refuses a user's ordinary sessions.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in (weights or {}).items():
        options.add_initializer(name, value)
    if path:
        options.optimized_model_filepath = str(path)
    providers = [name for given in providers for name in given.split(",") if name]
    there = ort.get_available_providers()
    if missing := [name for name in providers if name not in there]:
        raise ValueError(f"ONNX Runtime has no {', '.join(missing)} here; it has {', '.join(there)}")
    model = str(graph) if isinstance(graph, Path) else graph.SerializeToString()
    return ort.InferenceSession(model, options, providers=list(dict.fromkeys([*providers, CPU])))
