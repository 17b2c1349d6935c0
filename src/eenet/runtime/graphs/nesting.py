"""Segments as one ONNX graph that stops by itself: each lies in an `If` behind the one before."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eenet.networks import (
    BOOL,
    FLOAT,
    INT8,
    INT64,
    UINT8,
    Graph,
    copy_of,
    from_array,
    make_node,
    to_array,
    value_info,
)
from eenet.policies import FLOOR
from eenet.runtime.graphs.segments import Segment

Level = tuple[list[Any], list[str]]
"""Nodes, and the names of the probabilities and exits they give."""
Images = Literal["one", "several", "any"]
ENDS = ["probabilities", "exit_index"]
node = make_node


def threshold_name(segment: int) -> str:
    """What a nested graph compares the scores at the end of a segment with."""
    return f"threshold_{segment}"


@lru_cache(maxsize=64)
def thresholds_given(thresholds: tuple[float, ...]) -> dict[str, NDArray[np.float32]]:
    """What a nested graph takes beside the pixels; the same every time, to be left as it is."""
    return {threshold_name(k): np.array([value], np.float32) for k, value in enumerate(thresholds)}


def nest_all(
    parts: Sequence[Any], segments: Sequence[Segment], final: int, images: Images = "any"
) -> Any | None:
    """The segments from the first to the final exit as one model.

    None if no early exit is on; or if a weight is NaN or infinite, since nobody sees the scores
    inside of one model.
    """
    count = next((i for i, segment in enumerate(segments) if segment.exit == final), 0)
    chosen = segments[: count + 1]
    whole = count and all(segment.exit is not None for segment in chosen) and all(map(_is_finite, parts))
    return nest(parts[: count + 1], chosen, images) if whole else None


def nest(parts: Sequence[Any], segments: Sequence[Segment], images: Images = "any") -> Any:
    """Segments as one model.

    Args:
        parts: each gives features, probabilities and scores, the last one probabilities.
        segments: what they are; all with an exit.
        images: how many it is to take at a time. For `one`, fewer operations do; `any` has both ways.

    Returns:
        A model that also takes `threshold_0`, `threshold_1`, ..., one for each segment but the last, and
        gives `probabilities` [B, N] and `exit_index` [B].
    """
    nodes, found = _level(parts, segments, images)
    ends = dict(zip(found, ENDS, strict=True))
    for each in nodes:
        each.input[:] = [ends.get(name, name) for name in each.input]
        each.output[:] = [ends.get(name, name) for name in each.output]
    model, rank = copy_of(parts[0]), _rank(parts)
    graph = model.graph
    del graph.node[:], graph.output[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(nodes)
    held = {tensor.name: tensor for part in parts for tensor in part.graph.initializer}
    if any(tensor.data_type in (UINT8, INT8) for tensor in held.values()):
        graph.initializer.extend(_placed(graph.node, held))
    else:
        graph.initializer.extend(held.values())  # above all branches, since they share them
    thresholds = [threshold_name(k) for k in range(len(parts) - 1)]
    graph.input.extend(value_info(t, FLOAT, [1]) for t in thresholds)
    graph.output.extend(_values(ENDS, rank))
    return model


def _placed(nodes: Sequence[Any], weights: Mapping[str, Any]) -> list[Any]:
    """Those that nodes use themselves; the others are put into the branches that use them.

    ONNX Runtime packs integer weights, and makes one integer operation of several, only if the weights are of
    the same branch: two to three times as fast. Branches for one image and for several get a copy each.
    """
    own = {name for node in nodes for name in node.input} & weights.keys()
    others = {name: tensor for name, tensor in weights.items() if name not in own}
    for each in nodes:
        for attribute in each.attribute:
            if attribute.HasField("g"):
                attribute.g.initializer.extend(_placed(attribute.g.node, others))
    return [weights[name] for name in sorted(own)]


def _rank(parts: Sequence[Any]) -> int:
    """How many axes the probabilities have: 2, or of answers for pixels 4."""
    return len(parts[-1].graph.output[0].type.tensor_type.shape.dim)


def _level(parts: Sequence[Any], segments: Sequence[Segment], images: Images) -> Level:
    given = parts[0].graph.input[0].name
    if images == "one":
        return _Nest(parts, segments).alone(0, [given])
    if images == "several":
        return _Nest(parts, segments).together(0, [given])
    rank = _rank(parts)
    alone, together = (_branch(*_level(parts, segments, way), rank) for way in ("one", "several"))
    either = [
        node("Shape", [given], ["count"], end=1),
        _constant("one", [1]),
        node("Equal", ["count", "one"], ["is_one"]),
        node("If", ["is_one"], ENDS, then_branch=alone, else_branch=together),
    ]
    return either, ENDS


def _is_finite(part: Any) -> bool:
    weights = map(to_array, part.graph.initializer)
    return all(np.isfinite(values).all() for values in weights if values.dtype.kind == "f")


class _Nest:
    """Builds the levels of a nested graph, each a segment and those behind it."""

    def __init__(self, parts: Sequence[Any], segments: Sequence[Segment]) -> None:
        self.parts, self.segments, self.rank = parts, segments, _rank(parts)
        self.made: set[str] = set()

    def alone(self, k: int, given: Sequence[str], joined: str | None = None) -> Level:
        """Segment k and those behind it, for one image; `joined` is what the exits before said."""
        nodes, outputs = self._segment(k, given)
        number, last = f"number_{k}", k == len(self.parts) - 1
        nodes.append(_constant(number, [self.segments[k].exit]))
        probabilities = outputs[0] if last else outputs[-2]
        joining, joined, answering, answer = _joined(self.segments[k], k, probabilities, joined)
        if last:
            return [*nodes, *joining, *answering], [answer, number]
        *features, _, score = outputs
        behind, answers = self.alone(k + 1, features, joined)
        if answering:
            nodes += joining
        else:  # only those who stay need it
            behind = [*joining, *behind]
        nodes.append(node("LessOrEqual", [score, threshold_name(k)], [f"stays_{k}"]))
        found = [f"probabilities_from_{k}", f"number_from_{k}"]
        onward = _branch(behind, answers, self.rank)
        nodes.append(_if(f"stays_{k}", found, onward, [answer, number], self.rank, answering))
        return nodes, found

    def together(self, k: int, given: Sequence[str], joined: str | None = None) -> Level:
        """Segment k and those behind it, each for the images that stay; `joined` as for one."""
        nodes, outputs = self._segment(k, given)
        number, last = f"number_{k}", k == len(self.parts) - 1
        probabilities = outputs[0] if last else outputs[-2]
        joining, joined, answering, probabilities = _joined(self.segments[k], k, probabilities, joined)
        nodes += [*joining, *answering]
        value = from_array(np.array([self.segments[k].exit], np.int64))
        nodes += [
            node("Shape", [probabilities], [f"count_{k}"], end=1),
            node("ConstantOfShape", [f"count_{k}"], [number], value=value),
        ]
        if last:
            return nodes, [probabilities, number]
        *features, _, score = outputs
        nodes += [
            node("LessOrEqual", [score, threshold_name(k)], [f"stays_{k}"]),
            node("NonZero", [f"stays_{k}"], [f"row_{k}"]),
            node("Shape", [f"row_{k}"], [f"staying_{k}"], start=1),
            node("Cast", [f"staying_{k}"], [f"some_stay_{k}"], to=BOOL),
        ]
        rows, merged = f"rows_{k}", [f"probabilities_on_{k}", f"number_on_{k}"]
        kept = [f"kept_{k}_{i}" for i in range(len(features))]
        kept_joined = None if joined is None else f"kept_joined_{k}"
        behind, answers = self.together(k + 1, kept, kept_joined)
        onward = [
            node("Transpose", [f"row_{k}"], [rows], perm=[1, 0]),
            *(node("GatherND", [part, rows], [name]) for part, name in zip(features, kept, strict=True)),
            *([node("GatherND", [joined, rows], [kept_joined])] if joined and kept_joined else []),
            *behind,
            node("ScatterND", [probabilities, rows, answers[0]], [merged[0]]),
            node("ScatterND", [number, rows, answers[1]], [merged[1]]),
        ]
        # with the shape known in the branch, ONNX Runtime adds a shortcut in place
        infos = []
        for name, taken in zip(kept, self.parts[k + 1].graph.input, strict=True):
            kind = taken.type.tensor_type
            shape = [f"kept_{k}", *(dim.dim_value or None for dim in kind.shape.dim[1:])]
            infos.append(value_info(name, kind.elem_type, shape))
        found = [f"probabilities_from_{k}", f"number_from_{k}"]
        onward = _branch(onward, merged, self.rank, *infos)
        nodes.append(_if(f"some_stay_{k}", found, onward, [probabilities, number], self.rank))
        return nodes, found

    def _segment(self, k: int, given: Sequence[str]) -> tuple[list[Any], list[str]]:
        """A segment's nodes on other inputs, and its outputs; names that are made already get a suffix."""
        graph = self.parts[k].graph
        names: dict[str, str] = {info.name: name for info, name in zip(graph.input, given, strict=True)}
        names |= {name: f"{name}_in_{k}" for old in graph.node for name in old.output if name in self.made}
        nodes = []
        for old in graph.node:
            new = copy_of(old)
            new.input[:] = [names.get(name, name) for name in old.input]
            new.output[:] = [names.get(name, name) for name in old.output]
            nodes.append(new)
        self.made.update(name for new in nodes for name in new.output)
        return nodes, [str(names.get(output.name, output.name)) for output in graph.output]


def _joined(
    segment: Segment, k: int, probabilities: str, before: str | None
) -> tuple[list[Any], str | None, list[Any], str]:
    """Nodes for `eenet.policies.join` and what they give, nodes for the exit's answer and its name."""
    if segment.weights is None:
        return [], None, [], probabilities
    log_own, joined, answer = (f"ensemble_{kind}_{k}" for kind in ("log", "joined", "answer"))
    nodes = [
        _constant(f"ensemble_floor_{k}", [FLOOR]),
        node("Max", [probabilities, f"ensemble_floor_{k}"], [f"ensemble_floored_{k}"]),
        node("Log", [f"ensemble_floored_{k}"], [log_own]),
    ]
    if before is None:
        return nodes, log_own, [], probabilities
    nodes += [
        _constant(f"ensemble_weight_own_{k}", [segment.weights.own]),
        _constant(f"ensemble_weight_before_{k}", [segment.weights.before]),
        node("Mul", [log_own, f"ensemble_weight_own_{k}"], [f"ensemble_own_{k}"]),
        node("Mul", [before, f"ensemble_weight_before_{k}"], [f"ensemble_before_{k}"]),
        node("Add", [f"ensemble_own_{k}", f"ensemble_before_{k}"], [joined]),
    ]
    return nodes, joined, [node("Softmax", [joined], [answer], axis=1)], answer


def _if(
    condition: str,
    found: Sequence[str],
    onward: Any,
    here: Sequence[str],
    rank: int,
    before: Sequence[Any] = (),
) -> Any:
    """Go on, or keep what is there; what only those need who leave is done `before`."""
    names = [f"{name}_here" for name in found]
    copies = [*before, *(node("Identity", [a], [b]) for a, b in zip(here, names, strict=True))]
    return node("If", [condition], found, then_branch=onward, else_branch=_branch(copies, names, rank))


def _branch(nodes: Sequence[Any], found: Sequence[str], rank: int, *infos: Any) -> Any:
    return Graph(name="branch", node=nodes, output=_values(found, rank), value_info=infos)


def _values(names: Sequence[str], rank: int) -> list[Any]:
    """Probabilities [B, N, ...] and exits [B]."""
    probabilities, number = names
    return [
        value_info(probabilities, FLOAT, [None] * rank),
        value_info(number, INT64, [None]),
    ]


def _constant(name: str, value: Any) -> Any:
    """Whole numbers as int64, others as float32."""
    array = np.array(value)
    tensor = from_array(array.astype(np.float32) if array.dtype.kind == "f" else array)
    return node("Constant", [], [name], value=tensor)
