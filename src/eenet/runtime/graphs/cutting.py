"""Parts of a network's ONNX graph, by the names of what goes in and comes out."""

from collections.abc import Sequence
from typing import Any

from eenet.networks import PIXELS, copy_of, extract, features_name, probabilities_name, score_name, state_name
from eenet.runtime.graphs.segments import Segment


def inputs_and_outputs(
    segment: Segment, score: str, final: int, *, with_state: bool = False
) -> tuple[list[str], list[str]]:
    """The names of what a segment takes and gives, in the order of `Outputs` without those that are none.

    Args:
        segment: of a network.
        score: that its exit gives.
        final: number of the final exit.
        with_state: a state is carried beside the features; then later segments may ask the pixels' size.
    """
    given = [PIXELS]
    if segment.first:
        given = [*carried_names(segment.first - 1, with_state=with_state), *([PIXELS] if with_state else [])]
    if segment.exit == final:
        return given, [probabilities_name(final)]
    wanted = carried_names(segment.last, with_state=with_state)
    if segment.exit is not None:
        wanted += [probabilities_name(segment.exit), score_name(score, segment.exit)]
    return given, wanted


def carried_names(stage: int, *, with_state: bool) -> list[str]:
    """What is carried on behind a stage."""
    return [features_name(stage), *([state_name(stage)] if with_state else [])]


class Cutter:
    """Cuts parts out of a graph by the names of what goes in and comes out."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._asks_pixels = any(map(_is_batch_size, model.graph.node))

    def cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """The part from one input on; what needs the batch size takes it from there, not from the pixels.

        Raises:
            ValueError: the graph makes no such output.
        """
        if not self._asks_pixels or PIXELS in inputs:
            return extract(self._model, inputs, outputs)
        model = copy_of(self._model)
        for node in model.graph.node:
            if _is_batch_size(node):
                node.input[0] = inputs[0]
        return extract(model, inputs, outputs)


def _is_batch_size(node: Any) -> bool:
    """Exporters ask the pixels for it, wherever it is needed."""
    if node.op_type != "Shape" or list(node.input) != [PIXELS]:
        return False
    asked = {attribute.name: attribute.i for attribute in node.attribute}
    return asked.get("start", 0) == 0 and asked.get("end") == 1
