"""OpenVINO as a backend, on the CPU."""

import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import openvino

from eenet.network import EENet
from eenet.runtime.backends import Backend, Outputs, packed
from eenet.runtime.graph import Cutter, inputs_and_outputs, network_graph
from eenet.runtime.segments import Segment


class OpenVINOBackend(Backend):
    """Features are numpy arrays."""

    name = "openvino"

    def __init__(
        self,
        network: EENet,
        segments: Sequence[Segment],
        score: str,
        *,
        threads: int | None = None,
        precision: str = "f32",
    ) -> None:
        """`threads`: by default all cores. `precision`: f32, or bf16 where the processor has it."""
        self.segments = list(segments)
        cutter = Cutter(network_graph(network))
        parts = [
            cutter.cut(*inputs_and_outputs(segment, score, network.num_exits)) for segment in self.segments
        ]
        self._models = [Compiled(part.SerializeToString(), threads, precision) for part in parts]

    def run(self, index: int, features: Any) -> Outputs:
        request = self._models[index].request()
        request.set_input_tensor(openvino.Tensor(features, shared_memory=True))
        request.infer()
        outputs = packed(
            self.segments[index],
            [request.get_output_tensor(i).data for i in range(len(request.model_outputs))],
        )
        # the request writes into the same memory the next time
        answers = [None if a is None else a.copy() for a in (outputs.probabilities_BN, outputs.score_B)]
        return Outputs(outputs.features, *answers)


class Compiled:
    """A model on the CPU, with a request for each thread: one serves one at a time."""

    def __init__(self, model: bytes | Path, threads: int | None = None, precision: str = "f32") -> None:
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,  # the default is bf16 on some processors
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        self._compiled = core().compile_model(core().read_model(model), "CPU", options)
        self._local = threading.local()

    def request(self) -> openvino.InferRequest:
        """The thread's own."""
        if not hasattr(self._local, "request"):
            self._local.request = self._compiled.create_infer_request()
        return self._local.request


@cache
def core() -> openvino.Core:
    """One for the process, never given up.

    Where a core was made, the thread has a signal stack of OpenVINO's. A core that ends in another
    thread, as the garbage collector pleases, takes that stack away, and the next signal that has a
    handler kills the process (openvinotoolkit/openvino, pull request 11894).
    """
    return openvino.Core()
