"""Lower precision for an ONNX graph of a network: float16 weights and arithmetic, or int8 by calibration."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxscript.optimizer
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from eenet.data import Images, in_order, sample
from eenet.networks import PIXELS, Network, features_name, probabilities_name, score_name
from eenet.policies import Records, logarithm, logit
from eenet.runtime import session_of

CALIBRATION_IMAGES = 256
BATCH = 64


def simplified(model: Any) -> onnx.ModelProto:
    """A network's graph with BatchNorm folded and without what has no effect, for other programs to run."""
    given = onnx_ir.from_proto(onnx.ModelProto.FromString(model.SerializeToString()))
    onnxscript.optimizer.optimize_ir(given)
    return onnx_ir.to_proto(given)


def to_float16(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Stages in float16; exit heads, small and full of logarithms, in- and outputs stay float32."""
    kept = _backbone(graph)
    heads = [node.name for node in graph.graph.node if node.name not in kept]
    lowered = onnx.ModelProto()
    lowered.CopyFrom(graph)
    sorted_ = OnnxModel(convert_float_to_float16(lowered, keep_io_types=True, node_block_list=heads))
    sorted_.topological_sort()  # casts are put at the end
    return sorted_.model


def to_int8(graph: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    """The convolutions in int8, by static quantisation on some images; all else as it was.

    Weights have a scale for each channel and 7 bits, since processors without VNNI overflow with 8.
    """
    pixels_BCHW = sample(images, CALIBRATION_IMAGES)
    with tempfile.TemporaryDirectory() as directory:
        prepared, written = Path(directory) / "prepared.onnx", Path(directory) / "int8.onnx"
        onnx.save(graph, str(written))  # given in memory, its weights would be moved to a file
        quant_pre_process(str(written), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(written),
            _Reader(pixels_BCHW),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Relu", "Clip"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(written)


def graph_records(graph: onnx.ModelProto, network: Network, images: Images) -> Records:
    """What a graph of a network says about images, as records. Its answers are log-probabilities."""
    final, config = network.num_exits, network.config
    wanted = [probabilities_name(k) for k in range(final + 1)]
    wanted += [score_name("confidence", k) for k in range(final)]
    session = session_of(graph, None)
    parts = [session.run(wanted, {PIXELS: np.asarray(chunk)}) for chunk in in_order(images, BATCH)]
    columns: list[Any] = [np.concatenate(column) for column in zip(*parts, strict=True)]
    confidences = [logit(column) for column in columns[final + 1 :]]
    return Records(
        np.stack([logarithm(column) for column in columns[: final + 1]]),
        np.stack(confidences) if confidences else np.empty((0, len(images)), np.float32),
        np.asarray(images.labels_B),
        config.stage_macs,
        config.head_macs,
        config.backbone_macs,
        config.ensemble,
    )


def _backbone(graph: onnx.ModelProto) -> set[str]:
    """Names of the nodes that make features, and the final exit's answer."""
    made_by = {output: node for node in graph.graph.node for output in node.output}
    outputs = [output.name for output in graph.graph.output]
    todo = [name for name in outputs if name.startswith(features_name(""))]
    early = {name.replace(features_name(""), probabilities_name("")) for name in todo}
    todo += [name for name in outputs if name.startswith(probabilities_name("")) and name not in early]
    found: set[str] = set()
    while todo:
        node = made_by.get(todo.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            todo += node.input
    return found


class _Reader(CalibrationDataReader):
    def __init__(self, pixels_BCHW: Any) -> None:
        self._batches: Iterator[dict[str, Any]] = iter(
            [{PIXELS: pixels_BCHW[i : i + BATCH]} for i in range(0, len(pixels_BCHW), BATCH)]
        )

    def get_next(self) -> Any:
        return next(self._batches, None)
