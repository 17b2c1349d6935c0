"""OpenVINO as a backend, on the CPU."""

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import opset13 as ops
from openvino.utils import replace_node

from eenet.networks import PIXELS, Network, graph_of
from eenet.runtime.backends.backend import Backend, Outputs, ThroughAll, packed
from eenet.runtime.graphs.cutting import Cutter, inputs_and_outputs
from eenet.runtime.graphs.nesting import nest_all, thresholds_given
from eenet.runtime.graphs.segments import Segment


class OpenVINOBackend(Backend):
    """Features are numpy arrays, integers where the network computes in int8."""

    name = "openvino"

    def __init__(
        self,
        network: Network,
        segments: Sequence[Segment],
        score: str,
        *,
        threads: int | None = None,
        precision: str = "f32",
    ) -> None:
        """`threads`: by default all cores. `precision`: f32, or bf16 where the processor has it."""
        self.segments = list(segments)
        cutter, final, state = Cutter(graph_of(network)), network.num_exits, network.config.has_state
        names = [inputs_and_outputs(segment, score, final, with_state=state) for segment in self.segments]
        carried = cutter.carry_integers({name for inputs, _ in names[1:] for name in inputs})
        parts = [cutter.cut(*([carried.get(name, name) for name in side] for side in each)) for each in names]
        self._models = [Compiled(part.SerializeToString(), threads, precision) for part in parts]
        self._unused = [
            {i for i, given in enumerate(part.graph.input) if given.name not in model.inputs}
            for part, model in zip(parts, self._models, strict=True)
        ]
        # in branches OpenVINO 2026.4 computes int8 wrongly
        whole = None if cutter.in_integers else nest_all(parts, self.segments, final, "several")
        self._whole = whole and Compiled(whole.SerializeToString(), threads, precision)

    def run(self, index: int, features: Any) -> Outputs:
        given = features if isinstance(features, tuple) else (features,)
        if unused := self._unused[index]:  # OpenVINO takes none that isn't used, as features before a network
            given = tuple(part for i, part in enumerate(given) if i not in unused)
        outputs = packed(self.segments[index], self._models[index].runner(len(given[0]))(*given))
        # it writes into the same memory the next time
        answers = [None if a is None else a.copy() for a in (outputs.probabilities_BN, outputs.score_B)]
        return Outputs(outputs.features, *answers)

    def run_through(self, pixels_BCHW: NDArray[np.uint8], thresholds: Sequence[float]) -> ThroughAll | None:
        if self._whole is None or len(pixels_BCHW) == 1:  # its `If` takes longer than calls from here
            return None
        request = self._whole.request(len(pixels_BCHW))
        request.infer({PIXELS: pixels_BCHW, **thresholds_given(tuple(thresholds))}, share_outputs=True)
        probabilities_BN, exits_B = (request.get_output_tensor(i).data.copy() for i in range(2))
        return probabilities_BN, exits_B


class Compiled:
    """A model on the CPU, with requests for each thread: one serves one at a time.

    A single input gets a model of its own, compiled when the first one comes: with fixed shapes the
    cut-up ResNet-20 takes 15 % less time, the plain one 8 %.
    """

    def __init__(self, model: bytes | Path, threads: int | None = None, precision: str = "f32") -> None:
        self._options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,  # the default is bf16 on some processors
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        self._model = read_openvino(model)
        self.inputs = {name for port in self._model.inputs for name in port.names}
        self._for_any = core().compile_model(self._model, "CPU", self._options)
        self._for_one: openvino.CompiledModel | None = None
        self._making, self._local = threading.Lock(), threading.local()

    def request(self, count: int) -> openvino.InferRequest:
        """The thread's own for so many inputs."""
        return self.runner(count).request

    def runner(self, count: int) -> "Runner":
        """The same, to be called."""
        name = "one" if count == 1 else "any"
        if not hasattr(self._local, name):
            compiled = self._single() if count == 1 else self._for_any
            setattr(self._local, name, Runner(compiled))
        return getattr(self._local, name)

    def _single(self) -> openvino.CompiledModel:
        with self._making:
            if self._for_one is None:
                inputs = self._model.inputs
                self._model.reshape({given: [1, *list(given.partial_shape)[1:]] for given in inputs})
                self._for_one = core().compile_model(self._model, "CPU", self._options)
            return self._for_one


class Runner:
    """Runs a compiled model for one thread.

    A segment takes a single image half a millisecond. So nothing is asked of OpenVINO's Python
    interface that stays as it was: 20 to 40 microseconds a run, 3 to 5 % for a ResNet-56 with exits.
    """

    def __init__(self, compiled: openvino.CompiledModel) -> None:
        self.request = compiled.create_infer_request()
        self._count = len(compiled.outputs)
        self._is_fixed = all(port.partial_shape.is_static for port in [*compiled.inputs, *compiled.outputs])
        self._given: list[NDArray[Any] | None] = [None] * len(compiled.inputs)
        self._outputs: list[NDArray[Any]] = []

    def __call__(self, *given: NDArray[Any]) -> list[NDArray[Any]]:
        """The outputs of a model, in memory that the next run writes into."""
        for i, array in enumerate(given):
            if array is not self._given[i]:
                self.request.set_input_tensor(i, openvino.Tensor(array, shared_memory=True))
                self._given[i] = array
        self.request.infer(share_outputs=True)  # else all are copied, features as well
        if not (self._is_fixed and self._outputs):
            self._outputs = [self.request.get_output_tensor(i).data for i in range(self._count)]
        return self._outputs


@cache
def core() -> openvino.Core:
    """One for the process, never given up.

    Where a core was made, the thread has a signal stack of OpenVINO's. A core that ends in another
    thread, as the garbage collector pleases, takes that stack away, and the next signal that has a
    handler kills the process (openvinotoolkit/openvino, pull request 11894).
    """
    return openvino.Core()


def read_openvino(model: bytes | Path) -> openvino.Model:
    """A model in ONNX or OpenVINO's own format, rewritten where OpenVINO 2026.4 computes wrongly.

    In int8 without AVX-512, a 1×1 convolution with a stride first copies the pixels that it needs, 16
    channels at a time. Where 8 are left over, a thread writes into what the next one has copied: one
    image in some hundreds is answered wrongly, another one in each run. So an operation of its own
    picks the pixels, and the convolution has no stride.
    """
    read = core().read_model(model)
    for node in read.get_ops():
        if node.get_type_name() == "Convolution" and _is_int8(node):
            channels, *size = list(node.input(1).get_shape())[1:]
            told = node.get_attributes()
            pads = {*told["pads_begin"], *told["pads_end"]}
            if channels % 16 == 8 and set(size) == {1} != set(told["strides"]) and pads == {0}:
                replace_node(node, _picked_first(node, list(told["strides"])))
    return read


def _is_int8(convolution: openvino.Node) -> bool:
    """Whether its weights are."""
    node = convolution.input_value(1).get_node()
    while node.get_input_size():
        node = node.input_value(0).get_node()
    return node.get_element_type() in (openvino.Type.i8, openvino.Type.u8)


def _picked_first(convolution: openvino.Node, strides: list[int]) -> openvino.Node:
    sides, ignored = len(strides), [1] * (2 + len(strides))
    none, steps = np.zeros(2 + sides, np.int64), np.array([1, 1, *strides])
    picked = ops.strided_slice(convolution.input_value(0), none, none, steps, ignored, ignored)
    ones, zeros = [1] * sides, [0] * sides
    made = ops.convolution(picked, convolution.input_value(1), ones, zeros, zeros, ones)
    made.set_friendly_name(convolution.get_friendly_name())
    return made
