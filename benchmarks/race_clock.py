"""Thresholds for the least time by a clock, which is a backend and a batch size."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from eenet.networks import Config, Network
from eenet.policies import ExitPolicy, Records, policy_for_budget
from eenet.runtime import stage_times, timed
from eenet.tasks import expected_accuracy


class Clock(TypedDict):
    """What to time with."""

    backend: str
    batch_size: int


CLOCKS: dict[str, Clock] = {
    f"{backend}_{size}": {"backend": backend, "batch_size": size}
    for backend, size in product(("onnxruntime", "openvino"), (1, 64))
}
EQUAL = 0.001  # of accuracy: 5 of 5,000 images, where an interval is 35 to each side


def set_by_clocks(
    network: Network,
    config: Config,
    budgets: Sequence[str],
    held_out: Records,
    pixels_BCHW: NDArray[np.uint8],
) -> Iterator[tuple[str, str, ExitPolicy]]:
    """For budgets of a network and every clock the thresholds that keep as much in the least time here.

    As `--for latency` sets them. Gives budget, clock and thresholds.

    Args:
        network: on whose backends the clocks run.
        config: what it knows about leaving.
        budgets: of these, whose accuracy is to be kept.
        held_out: its answers to validation images.
        pixels_BCHW: images to take the time with.
    """
    for clock, on in CLOCKS.items():
        times = stage_times(network, pixels_BCHW, **on).to_dict()
        for budget in budgets:
            own = ExitPolicy.from_dict(config.budgets[budget], len(config.exits))
            least = expected_accuracy(held_out, own) - EQUAL
            if found := quickest(timed(held_out, times), own.score, least, held_out):
                yield budget, clock, found


def quickest(in_time: Records, score: str, least: float, full: Records) -> ExitPolicy | None:
    """The policy of the least budget, to 0.01, of which so much is expected, as of all larger ones.

    None if there is none. `full`: as of `expected_accuracy`.
    """

    @cache
    def policy(step: int) -> ExitPolicy:
        return policy_for_budget(in_time, step / 100, scores=[score], any_exits=True)

    steps = range(int(100 * in_time.costs()[0]) + 1, int(100 * max(in_time.costs())) + 2)
    found = bisect_left(steps, True, key=lambda step: expected_accuracy(in_time, policy(step), full) >= least)
    return policy(steps[found]) if found < len(steps) else None
