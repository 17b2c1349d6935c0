"""What actors do with tables of pixels: run the whole network, or one segment of it, and hand on what stays.

Between segments only the images that stay are rows. The answers of those that left travel as baggage in a
cell of a row that stays, so that nothing is lost or there twice when Ray runs a table again elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eenet.networks import Network
from eenet.runtime import Backend, Carried, Predictor, create_backend, run_segment, segments_of
from eenet.scale.bulk.tables import (
    ALIVE,
    BAGGAGE,
    BEFORE,
    FEATURES,
    PIXELS,
    SAID,
    SURE,
    UNREADABLE,
    answered,
    array,
    from_bytes,
    own_columns,
    refused,
    tensor,
    to_bytes,
)
from eenet.scale.shipping import PLAIN, Files, How, unpacked


class _Answering:
    """What both kinds of actors know of the network."""

    def __init__(self, network: Network, how: How) -> None:
        config = network.config
        self._how = how
        self._told: dict[str, Any] = {
            "class_names": config.named_classes,
            "costs_K": network.costs(how.policy.enabled),
            "top_k": how.top_k,
        }

    def _answered(
        self, keys: Any, probabilities_BN: NDArray[np.float32], exits_B: NDArray[Any], together: int
    ) -> Any:
        return answered(keys, probabilities_BN, exits_B, together=together, **self._told)

    def _unreadable(self, table: Any) -> tuple[Any, list[Any]]:
        """The rows that can be read, and the answers for the others."""
        errors = table[UNREADABLE]
        if errors.null_count == table.num_rows:
            return table, []
        bad = table.filter(errors.is_valid())
        told = refused(own_columns(bad), bad[UNREADABLE].combine_chunks(), self._how.top_k)
        return table.filter(errors.is_null()), [told]


class WholeNetwork(_Answering):
    """Runs all of it, with our own engine, which shrinks batches after every exit."""

    def __init__(self, files: Files, how: How) -> None:
        with unpacked(files) as network:
            super().__init__(network, how)
            self._predictor = predictor_of(network, how)

    def __call__(self, table: Any) -> Any:
        table, found = self._unreadable(table)
        most, final = self._how.batch_size, len(self._told["costs_K"]) - 1
        for start in range(0, table.num_rows, most):
            part = table.slice(start, most)
            answers = self._predictor.run(array(part[PIXELS]))
            stayed = int(np.count_nonzero(answers.exits_B == final))
            found.append(self._answered(own_columns(part), answers.probabilities_BN, answers.exits_B, stayed))
        return pa.concat_tables(found)


class OneSegment(_Answering):
    """Runs one segment; its table is a batch."""

    def __init__(self, files: Files, how: How, index: int) -> None:
        with unpacked(files) as network:
            super().__init__(network, how)
            self._backend = plain_backend(network, how)
        self._index, self._last = index, index == len(self._backend.segments) - 1

    def __call__(self, table: Any) -> Any:
        if self._index == 0:
            alive, found = self._unreadable(table)
        else:
            found = [from_bytes(cell) for cell in table[BAGGAGE].drop_null().to_pylist()]
            alive = table.filter(table[ALIVE])
        if not alive.num_rows:
            return self._handed_on(own_columns(table).slice(0, 1), None, found)
        keys = own_columns(alive)
        parted = run_segment(self._backend, self._how.policy, self._index, _carried(alive))
        if len(parted.leaving):
            exits_B = np.full(len(parted.leaving), self._backend.segments[self._index].exit)
            left = keys.take(pa.array(parted.leaving))
            found.append(self._answered(left, parted.probabilities_BN, exits_B, alive.num_rows))
        staying = keys.take(pa.array(parted.staying)) if len(parted.staying) else keys.slice(0, 1)
        return self._handed_on(staying, parted.carried if len(parted.staying) else None, found)

    def _handed_on(self, keys: Any, carried: Carried | None, found: Sequence[Any]) -> Any:
        """The answers, behind the last segment; before it a row for each image that stays, and the answers as
        baggage of the first. If none stays, a row that is no image carries them."""
        if self._last:
            return pa.concat_tables(found)
        baggage = [to_bytes(pa.concat_tables(found).combine_chunks()) if found else None]
        baggage += [None] * (keys.num_rows - 1)
        columns: dict[str, Any] = {
            ALIVE: pa.array(np.full(keys.num_rows, carried is not None)),
            BAGGAGE: pa.array(baggage, pa.large_binary()),
        }
        if carried is not None:
            columns[FEATURES] = tensor(np.asarray(carried.features))
            if carried.before_BN is not None:
                columns[BEFORE] = tensor(np.asarray(carried.before_BN))
            for k, (said_BN, sure_B) in enumerate(carried.seen):
                columns |= {f"{SAID}{k}": tensor(said_BN), f"{SURE}{k}": pa.array(sure_B)}
        for name, column in columns.items():
            keys = keys.append_column(name, column)
        return keys


def predictor_of(network: Network, how: How) -> Predictor:
    """The engine of an actor that runs the whole network."""
    return Predictor(
        network,
        policy=how.policy,
        backend=how.backend,
        providers=how.providers,
        batch_size=how.batch_size,
        threads=how.threads if how.backend in ("onnxruntime", "openvino") else None,
    )


def plain_backend(network: Network, how: How) -> Backend:
    """The segments, with features that any machine takes."""
    return create_backend(
        how.backend,
        network,
        segments_of(how.policy, network.config.ensemble),
        how.policy.score,
        threads=how.threads,
        providers=tuple(how.providers) or PLAIN,
    )


def _carried(table: Any) -> Carried:
    """What the images of a table bring."""
    if PIXELS in table.column_names:
        return Carried(array(table[PIXELS]))
    before_BN = array(table[BEFORE]) if BEFORE in table.column_names else None
    count = sum(name.startswith(SAID) for name in table.column_names)
    seen = [(array(table[f"{SAID}{k}"]), array(table[f"{SURE}{k}"])) for k in range(count)]
    return Carried(array(table[FEATURES]), before_BN, seen)
