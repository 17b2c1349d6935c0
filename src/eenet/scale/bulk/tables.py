"""The tables that go from machine to machine: their columns, and arrays of several dimensions in them."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PIXELS, UNREADABLE = "eenet_pixels", "eenet_unreadable"
FEATURES, BEFORE, SAID, SURE = "eenet_features", "eenet_before", "eenet_said_", "eenet_sure_"
ALIVE, BAGGAGE = "eenet_alive", "eenet_baggage"
TOGETHER = "eenet_together"
"""How many images ran together where this one reached the final exit."""
INTERNAL = "eenet_"
"""How columns begin that are not a user's own."""


def tensor(array: NDArray[Any]) -> Any:
    """A column of a row for each of at least one array."""
    return pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(array))


def array(column: Any) -> NDArray[Any]:
    """What `tensor` was given, or a column of numbers."""
    joined = column.combine_chunks()
    if isinstance(joined, pa.ChunkedArray):
        joined = joined.chunk(0)
    if isinstance(joined.type, pa.FixedShapeTensorType):
        return joined.to_numpy_ndarray()
    return joined.to_numpy(zero_copy_only=False)


def own_columns(table: Any) -> Any:
    """The columns of a user's own."""
    return table.select([name for name in table.column_names if not name.startswith(INTERNAL)])


def to_bytes(table: Any) -> bytes:
    """A table, to be carried in a cell of another one."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def from_bytes(content: bytes) -> Any:
    """What `to_bytes` was given."""
    return pa.ipc.open_stream(content).read_all()


def answer_schema(top_k: int) -> list[tuple[str, Any]]:
    """The columns of answers, but for those that say of what: names and types."""
    columns = [
        ("label", pa.string()),
        ("class_index", pa.int32()),
        ("probability", pa.float32()),
        ("exit", pa.int16()),
        ("relative_cost", pa.float32()),
    ]
    for k in range(1, top_k + 1):
        columns += [(f"label_{k}", pa.string()), (f"probability_{k}", pa.float32())]
    return [*columns, ("error", pa.string())]


def answered(
    keys: Any,
    probabilities_BN: NDArray[np.float32],
    exits_B: NDArray[np.integer[Any]],
    *,
    class_names: Sequence[str],
    costs_K: Sequence[float],
    top_k: int,
    together: int,
) -> Any:
    """Answers for the rows of `keys`.

    Args:
        keys: a table of columns that say of what the answers are.
        probabilities_BN: at the exit each image left at.
        exits_B: these exits.
        class_names, costs_K: of the network.
        top_k: likeliest classes to be told.
        together: how many images came to the final exit together.
    """
    names = pa.array(list(class_names), pa.string())
    best_B = probabilities_BN.argmax(1)
    rows = np.arange(len(best_B))
    values: dict[str, Any] = {
        "label": names.take(pa.array(best_B)),
        "class_index": best_B,
        "probability": probabilities_BN[rows, best_B],
        "exit": exits_B,
        "relative_cost": np.asarray(costs_K, np.float32)[exits_B],
        "error": pa.nulls(len(rows), pa.string()),
    }
    if top_k:
        likeliest_BK = np.argsort(-probabilities_BN, axis=1, kind="stable")[:, :top_k]
        for k in range(top_k):
            values[f"label_{k + 1}"] = names.take(pa.array(likeliest_BK[:, k]))
            values[f"probability_{k + 1}"] = probabilities_BN[rows, likeliest_BK[:, k]]
    final = len(costs_K) - 1
    for name, kind in answer_schema(top_k):
        keys = keys.append_column(name, pa.array(values[name], kind))
    return keys.append_column(TOGETHER, pa.array(np.where(exits_B == final, together, 0), pa.int32()))


def refused(keys: Any, errors: Any, top_k: int) -> Any:
    """Rows for images that can't be read: nothing but their errors."""
    count = keys.num_rows
    for name, kind in answer_schema(top_k):
        keys = keys.append_column(name, errors if name == "error" else pa.nulls(count, kind))
    return keys.append_column(TOGETHER, pa.array(np.zeros(count), pa.int32()))
