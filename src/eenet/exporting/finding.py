"""From what an exit answers to boxes, as ONNX operations, for programs that don't do it themselves."""

from typing import Any

import numpy as np

from eenet.common import require
from eenet.networks import FLOAT, INT64, Network, copy_of, parse, value_info
from eenet.tasks import BOX_CANDIDATES, SAME_OBJECT

ANSWERED = ("probabilities", "exit_index")
"""What goes in: float32 [B, N + 4, h, w] and int64 [B]."""
FOUND = ("boxes", "scores", "classes")
"""What comes out: float32 [B, M, 4], left, top, right and bottom in pixels of the image that went into the
network; float32 [B, M], the surest first; int64 [B, M], class numbers. Rows without a box are 0, 0 and -1."""


def finder(network: Network) -> Any:
    """A model of these operations for a network for boxes, the same as `boxes_of` in `eenet.tasks.detection`.

    It differs in one thing: what was added to bring an image to its size counts as part of the image.
    """
    config = network.config
    answered = network.answers(np.zeros((1, *config.input_size), np.uint8))[0]
    onnxscript: Any = require("onnxscript", "boxes in ONNX")
    helper: Any = require("onnx.helper", "boxes in ONNX")
    op = onnxscript.opset18
    cell, same = config.input_size[1] / answered.shape[-2], SAME_OBJECT
    most, classes = config.task_settings["most"], config.num_classes
    candidates = BOX_CANDIDATES * most
    scales = config.task_settings.get("scales") or [(1.0, 0.0)] * (len(config.exits) + 1)
    of_exits = helper.make_tensor("scales", 1, [len(scales), 2], np.array(scales, np.float32).ravel())
    none, one = (helper.make_tensor(f"{value:g}", 1, [1], [value]) for value in (0.0, 1.0))

    @onnxscript.script(default_opset=op)
    def find(probabilities, exit_index):  # type: ignore[no-untyped-def]
        count = op.Shape(probabilities, start=0, end=1)
        width = op.Shape(probabilities, start=3, end=4)
        height = op.Shape(probabilities, start=2, end=3)
        places = width * height
        flat = op.Reshape(probabilities[:, :-4], op.Concat(count, op.Constant(value_ints=[-1]), axis=0))
        some = op.Min(op.Shape(flat, start=1, end=2), op.Constant(value_ints=[candidates]))
        score, place = op.TopK(flat, some, axis=1)
        label = place / places
        inside = op.Mod(place, places)
        x = op.Cast(op.Mod(inside, width), to=1) + 0.5
        y = op.Cast(inside / width, to=1) + 0.5
        middle = op.Concat(
            op.Unsqueeze(x, [1]), op.Unsqueeze(y, [1]), op.Unsqueeze(x, [1]), op.Unsqueeze(y, [1]), axis=1
        )
        distances = op.Reshape(
            probabilities[:, -4:], op.Concat(count, op.Constant(value_ints=[4, -1]), axis=0)
        )
        rows = op.Expand(op.Unsqueeze(inside, [1]), op.Constant(value_ints=[1, 4, 1]))
        away = op.GatherElements(distances, rows, axis=2)
        signs = op.Reshape(op.Constant(value_floats=[-1.0, -1.0, 1.0, 1.0]), [1, 4, 1])
        limits = op.Reshape(op.Cast(op.Concat(width, height, width, height, axis=0), to=1), [1, 4, 1])
        corners = op.Min(op.Max(middle + signs * away, 0.0), limits)
        sides = corners[:, 2:] - corners[:, :2]
        there = op.ReduceMin(sides, [1], keepdims=0) > 0.0
        score = op.Where(there, score, 0.0)
        corners = op.Transpose(corners, perm=[0, 2, 1]) * cell
        kinds = op.Reshape(op.Range(0, classes, 1), [1, -1, 1])
        of_kind = op.Where(op.Equal(op.Unsqueeze(label, [1]), kinds), op.Unsqueeze(score, [1]), 0.0)
        chosen = op.NonMaxSuppression(corners, of_kind, most, same, 0.0)
        stays = op.ScatterND(
            op.ConstantOfShape(op.Shape(score), value=none),
            op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1),
            op.ConstantOfShape(op.Shape(chosen, start=0, end=1), value=one),
        )
        best, order = op.TopK(score * stays, op.Min(some, op.Constant(value_ints=[most])), axis=1)
        scale = op.Gather(op.Constant(value=of_exits), exit_index, axis=0)
        odds = op.Log(best) - op.Log(1.0 - best)
        is_box = best > 0.0
        scores = op.Where(is_box, op.Sigmoid(scale[:, :1] * odds + scale[:, 1:]), 0.0)
        classes_found = op.Where(is_box, op.GatherElements(label, order, axis=1), -1)
        wide = op.Expand(op.Unsqueeze(order, [2]), op.Constant(value_ints=[1, 1, 4]))
        boxes = op.Where(op.Unsqueeze(is_box, [2]), op.GatherElements(corners, wide, axis=1), 0.0)
        return boxes, scores, classes_found

    return _named(parse(find.to_model_proto().SerializeToString(), "boxes in ONNX"), config.num_classes)


def with_boxes(model: Any, finding: Any) -> Any:
    """A network in one file that gives boxes as well."""
    both = copy_of(model)
    both.graph.node.extend(finding.graph.node)
    both.graph.output.extend(finding.graph.output)
    return both


def _named(model: Any, classes: int) -> Any:
    """With the names and shapes of what goes in and out; others don't occur in a network's graph."""
    graph = model.graph
    ends = dict(zip([info.name for info in graph.output], FOUND, strict=True)) | {n: n for n in ANSWERED}
    for each in graph.node:
        each.input[:] = [ends.get(name, f"found_{name}") if name else "" for name in each.input]
        each.output[:] = [ends.get(name, f"found_{name}") for name in each.output]
        each.name = ""
    del graph.input[:], graph.output[:], graph.value_info[:]
    batch = "batch"
    graph.input.extend(
        [
            value_info(ANSWERED[0], FLOAT, [batch, classes + 4, "height", "width"]),
            value_info(ANSWERED[1], INT64, [batch]),
        ]
    )
    kinds = (FLOAT, [batch, "found", 4]), (FLOAT, [batch, "found"]), (INT64, [batch, "found"])
    graph.output.extend(value_info(name, *kind) for name, kind in zip(FOUND, kinds, strict=True))
    return model
