"""Parts of a network's ONNX graph, by the names of what goes in and comes out."""

from collections.abc import Sequence

import onnx
from onnx.utils import Extractor

from eenet.runtime.segments import Segment

PIXELS = "pixels"


def features_name(stage: int | str) -> str:
    """The features behind a stage."""
    return f"features_{stage}"


def probabilities_name(exit_index: int | str) -> str:
    """Class probabilities of an exit."""
    return f"probabilities_{exit_index}"


def score_name(score: str, exit_index: int) -> str:
    """A kind of score at an early exit."""
    return f"{score}_{exit_index}"


def inputs_and_outputs(segment: Segment, score: str, final: int) -> tuple[list[str], list[str]]:
    """The names of what a segment takes and gives, in the order of `Outputs` without those that are none."""
    given = PIXELS if segment.first == 0 else features_name(segment.first - 1)
    if segment.exit == final:
        return [given], [probabilities_name(final)]
    wanted = [features_name(segment.last)]
    if segment.exit is not None:
        wanted += [probabilities_name(segment.exit), score_name(score, segment.exit)]
    return [given], wanted


class Cutter:
    """Cuts parts out of a graph by the names of what goes in and comes out."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self._graph = graph
        self._whole = Extractor(graph)
        self._sizes = [node.name for node in graph.graph.node if _is_batch_size(node)]

    def cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
        """The part from one input on; what needs the batch size takes it from there, not from the pixels."""
        if not self._sizes or inputs[0] == PIXELS:
            return self._whole.extract_model(list(inputs), list(outputs))
        graph = onnx.ModelProto()
        graph.CopyFrom(self._graph)
        for node in graph.graph.node:
            if _is_batch_size(node):
                node.input[0] = inputs[0]
        return Extractor(graph).extract_model(list(inputs), list(outputs))


def _is_batch_size(node: onnx.NodeProto) -> bool:
    """Exporters ask the pixels for it, wherever it is needed."""
    if node.op_type != "Shape" or list(node.input) != [PIXELS]:
        return False
    asked = {attribute.name: attribute.i for attribute in node.attribute}
    return asked.get("start", 0) == 0 and asked.get("end") == 1
