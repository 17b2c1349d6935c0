"""Parts of a network's ONNX graph, by the names of what goes in and comes out."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from eenet.networks import (
    PIXELS,
    copy_of,
    extract,
    features_name,
    from_array,
    make_node,
    probabilities_name,
    score_name,
    state_name,
    value_info,
)
from eenet.runtime.graphs.segments import Segment


def inputs_and_outputs(
    segment: Segment, score: str, final: int, *, with_state: bool = False
) -> tuple[list[str], list[str]]:
    """The names of what a segment takes and gives, in the order of `Outputs` without those that are none.

    Args:
        segment: of a network.
        score: that its exit gives.
        final: number of the final exit.
        with_state: a state is carried beside the features.
    """
    given = carried_names(segment.first - 1, with_state=with_state) if segment.first else [PIXELS]
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
        self._asks_pixels = any(_asked(node) is not None for node in model.graph.node)
        unpacking = (node for node in model.graph.node if node.op_type == "DequantizeLinear")
        self._scales = {node.output[0]: list(node.input[1:]) for node in unpacking}
        self._same = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Identity"}

    @property
    def in_integers(self) -> bool:
        """Whether the graph computes in int8."""
        return bool(self._scales)

    def carry_integers(self, features: Collection[str]) -> dict[str, str]:
        """Which features are unpacked from integers, and the names of these: a cut may carry them instead.

        They take a fourth of the memory, and the next part need not pack them again.
        """
        kinds = {tensor.name: tensor.data_type for tensor in self._model.graph.initializer}
        found, infos = dict[str, str](), []
        for node in self._model.graph.node:
            if node.op_type != "DequantizeLinear" or node.output[0] not in features or len(node.input) < 3:
                continue
            integers, _, zero = node.input
            if zero in kinds:
                found[node.output[0]] = integers
                infos.append(value_info(integers, kinds[zero], ["batch", None, None, None]))
        if found:
            self._model = copy_of(self._model)
            self._model.graph.value_info.extend(infos)
        return found

    def cut(self, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        """The part from some inputs on; what needs sizes takes them from there, not from the pixels.

        An input that was unpacked from integers is packed again: nothing is lost by that, and layers that
        take it compute in integers. Else they would do so with floats, on weights unpacked for every image.

        Raises:
            ValueError: the graph makes no such output.
        """
        model = self._model
        if self._asks_pixels and PIXELS not in inputs:
            model = copy_of(self._model)
            del model.graph.node[:]
            for node in self._model.graph.node:
                model.graph.node.extend(self._from_inputs(node, inputs))
        part = extract(self._renamed(model, inputs), inputs, outputs)
        for name in self._scales.keys() & set(inputs):
            self._pack(part.graph, name)
        return part

    def _renamed(self, model: Any, inputs: Sequence[str]) -> Any:
        """The graph where what is the same as an input, made before, goes by the name of the input.

        As the image of a cascade: it goes from stage to stage as it is.
        """
        names = {self._origin(name): name for name in inputs if name in self._same}
        if not names:
            return model
        model = copy_of(model)
        for node in model.graph.node:
            if node.output[0] not in inputs:
                node.input[:] = [names.get(self._origin(each), each) for each in node.input]
        return model

    def _origin(self, name: str) -> str:
        """What it is a copy of."""
        while name in self._same:
            name = self._same[name]
        return name

    def _pack(self, graph: Any, name: str) -> None:
        """Pack an input of a part by the scale it was unpacked by, and unpack it where it is taken."""
        scale, integers, again = self._scales[name], f"{name}_packed", f"{name}_unpacked"
        there = {tensor.name for tensor in graph.initializer}
        missing = (t for t in self._model.graph.initializer if t.name in scale and t.name not in there)
        graph.initializer.extend(missing)
        nodes = [copy_of(node) for node in graph.node]
        for node in nodes:
            node.input[:] = [again if each == name else each for each in node.input]
        del graph.node[:]
        graph.node.append(make_node("QuantizeLinear", [name, *scale], [integers]))
        graph.node.append(make_node("DequantizeLinear", [integers, *scale], [again]))
        graph.node.extend(nodes)

    def _from_inputs(self, node: Any, inputs: Sequence[str]) -> Iterator[Any]:
        """A node, or those that give the same without the pixels."""
        axis = _asked(node)
        if axis is None:
            yield node
        elif axis == 0:
            yield make_node("Shape", [inputs[0]], node.output, end=1)
        else:
            # Only sizes of the state or coarser ones are asked for, and these are the same for all
            # images that have this state: also for the largest, whose sides are multiples of the stride.
            size, stride = f"{node.output[0]}_of_state", f"{node.output[0]}_stride"
            value = from_array(np.array([_stride(self._model)], np.int64))
            yield make_node("Shape", [inputs[-1]], [size], start=axis, end=axis + 1)
            yield make_node("Constant", [], [stride], value=value)
            yield make_node("Mul", [size, stride], node.output)


def _asked(node: Any) -> int | None:
    """The axis whose size a node asks of the pixels: exporters do, wherever a size is needed."""
    if node.op_type != "Shape" or list(node.input) != [PIXELS]:
        return None
    asked = {attribute.name: attribute.i for attribute in node.attribute}
    start = asked.get("start", 0)
    return start if asked.get("end") == start + 1 else None


def _stride(model: Any) -> int:
    """Of the state, by the size that the graph says it has, such as `(height + 3)//4`."""
    outputs = (info for info in model.graph.output if info.name.startswith(state_name("")))
    size = next(outputs).type.tensor_type.shape.dim[2].dim_param
    found = re.search(r"//\s*(\d+)", size)
    return int(found[1]) if found else 1
