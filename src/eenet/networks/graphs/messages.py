"""ONNX models as protobuf messages: read, built and cut without the package onnx, 55 MB with what it needs.

Fields and numbers are those of the standard: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
What isn't declared here is kept when a message is read and written again.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

FLOAT, UINT8, INT8, INT64, BOOL, FLOAT16 = 1, 2, 3, 7, 9, 10
DTYPES: dict[int, type[Any]] = {
    1: np.float32, 2: np.uint8, 3: np.int8, 4: np.uint16, 5: np.int16, 6: np.int32, 7: np.int64, 9: np.bool_,
    10: np.float16, 11: np.double, 12: np.uint32, 13: np.uint64,
}  # fmt: skip
_CODES = {np.dtype(kind): code for code, kind in DTYPES.items()}
HALF = "float16"
_EXTERNAL = 1  # where a tensor's data is

# A field: name, number, type; a `*` is repeated.
_MESSAGES = {
    "Pair": "key 1 string, value 2 string",
    "Opset": "domain 1 string, version 2 int64",
    "Dim": "dim_value 1 int64, dim_param 2 string",
    "Shape": "dim 1 *Dim",
    "TensorType": "elem_type 1 int32, shape 2 Shape",
    "Type": "tensor_type 1 TensorType",
    "ValueInfo": "name 1 string, type 2 Type",
    "Tensor": (
        "dims 1 *int64, data_type 2 int32, float_data 4 *float, int32_data 5 *int32, int64_data 7 *int64, "
        "name 8 string, raw_data 9 bytes, double_data 10 *double, uint64_data 11 *uint64, "
        "external_data 13 *Pair, data_location 14 int32"
    ),
    "Attribute": (
        "name 1 string, f 2 float, i 3 int64, s 4 bytes, t 5 Tensor, g 6 Graph, floats 7 *float, "
        "ints 8 *int64, strings 9 *bytes, tensors 10 *Tensor, graphs 11 *Graph, type 20 int32"
    ),
    "Node": (
        "input 1 *string, output 2 *string, name 3 string, op_type 4 string, attribute 5 *Attribute, "
        "domain 7 string"
    ),
    "Graph": (
        "node 1 *Node, name 2 string, initializer 5 *Tensor, input 11 *ValueInfo, output 12 *ValueInfo, "
        "value_info 13 *ValueInfo"
    ),
    "Model": (
        "ir_version 1 int64, producer_name 2 string, producer_version 3 string, graph 7 Graph, "
        "opset_import 8 *Opset, metadata_props 14 *Pair"
    ),
}  # fmt: skip


def _declare() -> Mapping[str, Any]:
    """Classes by name, in a pool of their own: the package onnx may be there as well."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="eenet/onnx.proto", package="eenet", syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for text in fields.split(","):
            field, number, kind = text.split()
            repeated, kind = kind.startswith("*"), kind.lstrip("*")
            added = message.field.add(name=field, number=int(number))
            added.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            if kind in _MESSAGES:
                added.type, added.type_name = kinds.TYPE_MESSAGE, f".eenet.{kind}"
            else:
                added.type = getattr(kinds, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"eenet.{name}"))
        for name in _MESSAGES
    }


_classes = _declare()
Model: Any = _classes["Model"]
Graph: Any = _classes["Graph"]
Node: Any = _classes["Node"]
Tensor: Any = _classes["Tensor"]
ValueInfo: Any = _classes["ValueInfo"]


class Place(NamedTuple):
    """Where the data of a float32 tensor lie."""

    file: str
    offset: int
    length: int
    stored: str | None = None
    """`float16`: in half precision. Other programs then can't read them."""


def parse(content: bytes, name: str) -> Any:
    """A model from its bytes.

    Raises:
        ValueError: they aren't a model; `name` says whose.
    """
    try:
        model = Model.FromString(content)
    except DecodeError as error:
        raise ValueError(f"{name} is not a readable ONNX model: {error}") from error
    if not model.graph.node or not model.graph.output:
        raise ValueError(f"{name} is not a readable ONNX model: it holds no graph")
    return model


def read_model(path: Path) -> Any:
    """A model, with the weights that lie in files beside it.

    Raises:
        FileNotFoundError: it isn't there, or a file with weights.
        ValueError: it is damaged, or refers to something outside of its directory.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing")
    model = parse(path.read_bytes(), str(path))
    held: dict[str, bytes] = {}
    for tensor in model.graph.initializer:
        if tensor.data_location != _EXTERNAL:
            continue
        where = {pair.key: pair.value for pair in tensor.external_data}
        name = where.get("location", "")
        if Path(name).name != name or not name:
            raise ValueError(f"{path}: the weights {tensor.name!r} lie outside of the directory, in {name!r}")
        if name not in held:
            beside = path.parent / name
            if not beside.is_file():
                raise FileNotFoundError(f"{beside} is missing; {path.name} has its weights there")
            held[name] = beside.read_bytes()
        start, length = int(where.get("offset", 0)), int(where.get("length", 0))
        if not 0 <= start <= start + length <= len(held[name]):
            raise ValueError(f"{path}: {name} is too short to hold {tensor.name!r}")
        tensor.raw_data = held[name][start : start + length]
        if where.get("stored") == HALF:
            tensor.raw_data = np.frombuffer(tensor.raw_data, "<f2").astype("<f4").tobytes()
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
    return model


def put_outside(tensor: Any, place: Place) -> None:
    """Leave a tensor's data in a file beside the model."""
    tensor.ClearField("raw_data")
    tensor.data_location = _EXTERNAL
    for key, value in place._asdict().items():
        if value is not None:
            tensor.external_data.add(key="location" if key == "file" else key, value=str(value))


def to_array(tensor: Any) -> NDArray[Any]:
    """The values of a tensor.

    Raises:
        ValueError: a kind of number that numpy doesn't know.
    """
    if tensor.data_type not in DTYPES:
        raise ValueError(f"the tensor {tensor.name!r} is of a kind that isn't supported: {tensor.data_type}")
    kind, shape = np.dtype(DTYPES[tensor.data_type]), tuple(tensor.dims)
    if tensor.HasField("raw_data"):
        return np.frombuffer(tensor.raw_data, kind.newbyteorder("<")).astype(kind, copy=False).reshape(shape)
    if kind == np.float16:
        return np.array(tensor.int32_data, np.uint16).view(np.float16).reshape(shape)
    fields = {np.float32: "float_data", np.int64: "int64_data", np.double: "double_data"}
    fields |= dict.fromkeys((np.uint32, np.uint64), "uint64_data")
    return np.array(getattr(tensor, fields.get(kind.type, "int32_data"))).astype(kind).reshape(shape)


def from_array(array: NDArray[Any], name: str = "") -> Any:
    """A tensor of these values."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return Tensor(name=name, dims=array.shape, data_type=_CODES[array.dtype], raw_data=little.tobytes())


def value_info(name: str, kind: int, shape: Sequence[int | str | None]) -> Any:
    """What goes in or out; of a dimension that isn't known nothing is said."""
    info = ValueInfo(name=name)
    info.type.tensor_type.elem_type = kind
    info.type.tensor_type.shape.SetInParent()
    for size in shape:
        dim = info.type.tensor_type.shape.dim.add()
        if isinstance(size, str):
            dim.dim_param = size
        elif size is not None:
            dim.dim_value = size
    return info


def make_node(op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> Any:
    """An operation; attributes are int, float, lists of int, tensors or graphs."""
    node = Node(op_type=op_type, input=inputs, output=outputs)
    for name, value in attributes.items():
        fields: dict[type[Any], tuple[str, int]] = {float: ("f", 1), int: ("i", 2), list: ("ints", 7)}
        field, kind = {**fields, Tensor: ("t", 4), Graph: ("g", 5)}[type(value)]
        node.attribute.add(name=name, type=kind, **{field: value})
    return node


def copy_of(message: Any) -> Any:
    """A message of its own."""
    copied = type(message)()
    copied.CopyFrom(message)
    return copied


def extract(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
    """The part of a graph that makes `outputs` of `inputs`: what it needs, in the same order.

    Raises:
        ValueError: an output isn't made by the graph.
    """
    graph = model.graph
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
    known = {info.name: info for infos in (graph.value_info, graph.input, graph.output) for info in infos}
    if missing := [name for name in outputs if name not in made_by or name not in known]:
        raise ValueError(f"the graph has no output {missing[0]!r}")
    needed: set[int] = set()
    seen, todo = set(inputs), list(outputs)
    while todo:
        name = todo.pop()
        if name in seen or name not in made_by:
            continue
        node = graph.node[made_by[name]]
        needed.add(made_by[name])
        seen.update(node.output)
        todo += _used(node)
    part = Model()
    for field in ("ir_version", "producer_name", "producer_version"):
        setattr(part, field, getattr(model, field))
    part.opset_import.extend(model.opset_import)
    part.graph.name = "part"
    part.graph.node.extend(graph.node[i] for i in sorted(needed))
    used = {name for i in needed for name in _used(graph.node[i])}
    made = {name for i in needed for name in graph.node[i].output}
    part.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in used)
    part.graph.input.extend(known[name] if name in known else ValueInfo(name=name) for name in inputs)
    part.graph.output.extend(known[name] for name in outputs)
    ends = {*inputs, *outputs}
    part.graph.value_info.extend(info for name, info in known.items() if name in made and name not in ends)
    return part


def _used(node: Any) -> Iterator[str]:
    """What a node takes, and what the graphs in it take from outside."""
    yield from node.input
    for attribute in node.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            for inner in graph.node:
                yield from _used(inner)
            yield from (info.name for info in graph.output)
