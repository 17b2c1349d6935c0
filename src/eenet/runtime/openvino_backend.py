"""OpenVINO as a backend, on the CPU."""

import threading
from collections.abc import Sequence
from functools import cache
from typing import Any

import openvino
from onnx.utils import Extractor

from eenet.network import EENet
from eenet.runtime.backends import Backend, Outputs, packed
from eenet.runtime.graph import inputs_and_outputs, network_graph
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
        extractor, core = Extractor(network_graph(network)), _core()
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": precision,  # the default is bf16 on some processors
            "INFERENCE_NUM_THREADS": threads or 0,
        }
        parts = [
            extractor.extract_model(*inputs_and_outputs(segment, score, network.num_exits))
            for segment in self.segments
        ]
        self._models = [
            core.compile_model(core.read_model(part.SerializeToString()), "CPU", options) for part in parts
        ]
        self._local = threading.local()

    def run(self, index: int, features: Any) -> Outputs:
        request = self._request(index)
        request.set_input_tensor(openvino.Tensor(features, shared_memory=True))
        request.infer()
        outputs = packed(
            self.segments[index],
            [request.get_output_tensor(i).data for i in range(len(request.model_outputs))],
        )
        # the request writes into the same memory the next time
        answers = [None if a is None else a.copy() for a in (outputs.probabilities_BN, outputs.score_B)]
        return Outputs(outputs.features, *answers)

    def _request(self, index: int) -> openvino.InferRequest:
        """The thread's own: a request serves one at a time."""
        requests = self._local.__dict__.setdefault("requests", {})
        if index not in requests:
            requests[index] = self._models[index].create_infer_request()
        return requests[index]


@cache
def _core() -> openvino.Core:
    """One for the process, never given up.

    Where a core was made, the thread has a signal stack of OpenVINO's. A core that ends in another
    thread, as the garbage collector pleases, takes that stack away, and the next signal that has a
    handler kills the process (openvinotoolkit/openvino, pull request 11894).
    """
    return openvino.Core()
