"""From pixels to answers: run a batch through the segments and shrink it after every exit."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from eenet.policies import ExitPolicy, Floats, Weights, join, looks_back, probabilities, score_of_answers
from eenet.runtime.backends.backend import Backend, Outputs


class Answers(NamedTuple):
    """What a batch of images got."""

    probabilities_BN: NDArray[np.float32]
    """At the exit each image left at; of pixels [B, N, h, w]."""
    exits_B: NDArray[np.intp]
    scores_BK: NDArray[np.float32] | None = None
    """Of every early exit that an image came to, NaN elsewhere; from the queued engine only."""


def run_batch(backend: Backend, policy: ExitPolicy, pixels_BCHW: NDArray[np.uint8]) -> Answers:
    """Run images until each has left; after an exit only those that stay go on.

    Args:
        backend: made for the segments of this policy.
        policy: its thresholds.
        pixels_BCHW: any number of images, also none.

    Raises:
        ValueError: a score or probability is NaN.
    """
    final = len(policy.thresholds)
    count = len(pixels_BCHW)
    if backend.one_at_a_time and count > 1:
        single = [run_batch(backend, policy, pixels_CHW[None]) for pixels_CHW in pixels_BCHW]
        pairs = zip(*((one.probabilities_BN, one.exits_B) for one in single), strict=True)
        return Answers(*map(np.concatenate, pairs))
    back = looks_back(policy.score)
    if count and not back:
        on = [policy.thresholds[s.exit] for s in backend.segments if s.exit is not None and s.exit < final]
        if (found := backend.run_through(pixels_BCHW, on)) is not None:
            probabilities_BN, exits_B = found
            check_number(probabilities_BN, exits_B)
            return Answers(probabilities_BN, exits_B)
    if count == 1 and not back:
        return _run_one(backend, policy, pixels_BCHW)
    exits_B = np.full(count, final, np.intp)
    rows_B = np.arange(count)  # the images that are still on their way
    parts: list[tuple[NDArray[np.intp], NDArray[np.float32]]] = []
    features, before_BN = pixels_BCHW, None
    seen: Seen = []
    for index, segment in enumerate(backend.segments):
        if not len(rows_B):
            break
        features, probabilities_BN, score_B = backend.run(index, features)
        assert probabilities_BN is not None
        assert segment.exit is not None
        check_number(probabilities_BN if score_B is None else score_B, segment.exit)
        joined_BN = joined(probabilities_BN, before_BN, segment.weights)
        if score_B is None:
            parts.append((rows_B, answers(probabilities_BN, joined_BN)))
            break
        if back:
            seen.append((probabilities_BN, score_B))
            score_B = score_of_answers(policy.score, seen)
        leaves_B = score_B > policy.thresholds[segment.exit]
        if not leaves_B.any():
            before_BN = carried(probabilities_BN, joined_BN, segment.weights)
            continue
        leaving = np.flatnonzero(leaves_B)
        parts.append((rows_B[leaving], answers(probabilities_BN, joined_BN, leaving)))
        exits_B[rows_B[leaving]] = segment.exit
        staying = np.flatnonzero(~leaves_B)
        rows_B = rows_B[staying]
        if len(staying):
            features = backend.shrink(features, staying)
            before_BN = carried(probabilities_BN, joined_BN, segment.weights, staying)
            seen = [(said_BN[staying], sure_B[staying]) for said_BN, sure_B in seen]
    return Answers(_in_order(parts, len(exits_B)), exits_B)


def _run_one(backend: Backend, policy: ExitPolicy, features: Any) -> Answers:
    """The same for a single image, for which all that is said of rows takes 4 to 6 % of the time."""
    before_1N = None
    for index, segment in enumerate(backend.segments):
        features, probabilities_1N, score_1 = backend.run(index, features)
        assert probabilities_1N is not None
        assert segment.exit is not None
        check_number(probabilities_1N if score_1 is None else score_1, segment.exit)
        joined_1N = joined(probabilities_1N, before_1N, segment.weights)
        if score_1 is None or score_1[0] > policy.thresholds[segment.exit]:
            return Answers(answers(probabilities_1N, joined_1N), np.array([segment.exit]))
        before_1N = carried(probabilities_1N, joined_1N, segment.weights)
    raise AssertionError("the last segment has no score")


Seen = list[tuple[NDArray[np.float32], NDArray[np.float32]]]
"""Class probabilities and confidences at the exits so far, for a score that looks back."""
Rows = NDArray[np.intp] | slice
ALL = slice(None)


class Carried(NamedTuple):
    """What images take along from one segment to the next."""

    features: Any
    before_BN: Floats | None = None
    """What the exits so far said together."""
    seen: Seen = []  # noqa: RUF012 - never changed
    """What each of them said, if the score looks back."""


class Parted(NamedTuple):
    """What a segment makes of images: some leave, the others go on."""

    leaving: NDArray[np.intp]
    probabilities_BN: NDArray[np.float32]
    """Of those that leave."""
    staying: NDArray[np.intp]
    carried: Carried
    """By those that stay; nothing, if none does."""
    score_B: NDArray[np.float32] | None
    """Of all; none behind the last segment."""


def run_segment(backend: Backend, policy: ExitPolicy, index: int, images: Carried) -> Parted:
    """One segment alone, for engines that gather images again behind every exit.

    Args:
        backend: made for the segments of this policy.
        policy: its thresholds.
        index: of the segment.
        images: at least one; pixels [B, C, H, W] for the first segment.

    Raises:
        ValueError: a score or probability is NaN.
    """
    weights = backend.segments[index].weights
    return part(backend, policy, index, images, backend.run(index, images.features), weights)


def part(
    backend: Backend,
    policy: ExitPolicy,
    index: int,
    images: Carried,
    outputs: Outputs,
    weights: Weights | None,
) -> Parted:
    """The same for images that ran already, perhaps together with those of other policies.

    Args:
        backend, index, images: as of `run_segment`.
        policy: of these images; no exit is on that the backend has no segment for.
        outputs: of the segment, for these images.
        weights: by which this policy's exits answer together, here.
    """
    exit_index, own_BN, score_B = backend.segments[index].exit, outputs.probabilities_BN, outputs.score_B
    assert own_BN is not None
    assert exit_index is not None
    check_number(own_BN if score_B is None else score_B, exit_index)
    on = score_B is None or policy.enabled[exit_index]
    joined_BN, seen = joined(own_BN, images.before_BN, weights), images.seen
    leaves_B = np.full(len(own_BN), on)
    if score_B is not None and on:
        if looks_back(policy.score):
            seen = [*seen, (own_BN, score_B)]
            score_B = score_of_answers(policy.score, seen)
        leaves_B = score_B > policy.thresholds[exit_index]
    leaving, staying, carry = np.flatnonzero(leaves_B), np.flatnonzero(~leaves_B), Carried(None)
    if len(staying):
        carry = Carried(
            backend.take(outputs.features, staying),
            carried(own_BN, joined_BN, weights, staying) if on else images.before_BN,
            [(said_BN[staying], sure_B[staying]) for said_BN, sure_B in seen],
        )
    return Parted(leaving, answers(own_BN, joined_BN, leaving), staying, carry, score_B)


def joined(own_BN: Floats, before_BN: Floats | None, weights: Weights | None) -> Floats | None:
    """What exits say together, see `eenet.policies.ensemble`; nothing before a second one speaks."""
    return None if before_BN is None or weights is None else join(own_BN, before_BN, weights)


def answers(own_BN: Floats, joined_BN: Floats | None, rows: Rows = ALL) -> NDArray[np.float32]:
    """Probabilities that some of the images leave with."""
    return own_BN[rows] if joined_BN is None else probabilities(joined_BN[rows])


def carried(
    own_BN: Floats, joined_BN: Floats | None, weights: Weights | None, rows: Rows = ALL
) -> Floats | None:
    """What those that stay take along to the next exit."""
    if weights is None:
        return None
    return join(own_BN[rows], None, weights) if joined_BN is None else joined_BN[rows]


def check_number(values: NDArray[np.float32], exits: int | NDArray[np.integer[Any]]) -> None:
    """NaN compares with nothing: it would go through the whole network and come out as class 0.

    `exits`: where the values are from, all of them or each row.
    """
    if not math.isnan(values.item() if values.size == 1 else values.sum()):  # the quick way
        return
    nan_B = np.isnan(values).reshape(len(values), -1).any(1)
    if nan_B.any():  # infinities of both signs have no sum either
        exit_index = np.broadcast_to(exits, len(values))[nan_B.argmax()]
        raise ValueError(
            f"exit {exit_index} gives NaN; the weights or the images hold values that are not finite"
        )


def _in_order(parts: list[tuple[NDArray[np.intp], NDArray[np.float32]]], count: int) -> NDArray[np.float32]:
    if not parts:
        return np.empty((0, 0), np.float32)
    if len(parts) == 1:
        return parts[0][1]
    probabilities_BN = np.empty((count, *parts[0][1].shape[1:]), np.float32)
    for rows, values in parts:
        probabilities_BN[rows] = values
    return probabilities_BN
