"""The simulator of fleets against what can be counted by hand."""

import numpy as np
import pytest
from fleet import bursts, simulate, sized
from fleet_times import Times
from hypothesis import given, settings
from hypothesis import strategies as st

TIMES = Times(batch_K=[0.02, 0.01], image_K=[0.001, 0.004], hop_K=[0.0, 0.005], hop_image_K=[0.0, 0.001])
"""Binary fractions would be exact; these are read more easily."""


def test_one_machine_runs_batch_after_batch() -> None:
    """Of six images, four in a batch: the first batch has one survivor, the second two."""
    exits_B = np.array([0, 0, 1, 0, 1, 1])
    found = simulate(TIMES, exits_B, np.zeros(6), [1], 4)
    alone = 0.02 + 0.001 + 0.01 + 0.004  # the first image is taken when it comes, and leaves early
    assert found.batches_K[0] == [1, 4, 1]
    assert found.batches_K[1] == [2, 1]
    first = 0.021
    second = first + 0.02 + 0.004 + 0.01 + 0.008
    assert found.seconds_B[0] == pytest.approx(first)
    assert found.seconds_B[1] == pytest.approx(first + 0.024)
    assert found.seconds_B[2] == pytest.approx(second)
    assert found.seconds_B[5] == pytest.approx(second + alone)
    assert found.busy == pytest.approx(found.end) == pytest.approx(second + alone)


def test_survivors_gather_in_the_second_pool() -> None:
    """Two machines for the first segment, one for the second, which gathers what comes while it is busy."""
    exits_B = np.ones(40, np.intp)
    staged = simulate(TIMES, exits_B, np.zeros(40), [2, 1], 4)
    whole = simulate(TIMES, exits_B, np.zeros(40), [3], 4)
    assert sum(staged.batches_K[1]) == sum(whole.batches_K[1]) == 40
    assert max(staged.batches_K[1]) == 4
    work = sum(TIMES.seconds(1, count, travels=True) for count in staged.batches_K[1])
    work += sum(TIMES.seconds(0, count) for count in staged.batches_K[0])
    assert staged.busy == pytest.approx(work)


def test_tables_are_joined_to_full_batches() -> None:
    """Of eight images in tables of three, every second one stays; the next segment waits for three."""
    exits_B = np.array([0, 1] * 4)
    found = simulate(TIMES, exits_B, np.zeros(8), [1, 1], 3, table=3)
    assert found.batches_K[0] == [3, 3, 2]
    assert found.batches_K[1] == [3, 1]
    first, handed = TIMES.seconds(0, 3), TIMES.seconds(1, 3, travels=True)
    assert found.seconds_B[1] == found.seconds_B[5] == pytest.approx(2 * first + handed)
    whole = simulate(TIMES, exits_B, np.zeros(8), [1], 2, table=3)
    assert whole.batches_K == [[2, 1, 2, 1, 2], [1, 1, 1, 1]]
    assert whole.busy == pytest.approx(whole.end)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_every_image_is_answered_once(data: st.DataObject) -> None:
    count, batch = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 8))
    exits_B = np.array(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    pools = data.draw(st.sampled_from([[1], [3], [1, 1], [2, 3]]))
    arrivals_B = np.sort(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    table = data.draw(st.sampled_from([None, 1, 5]))
    found = simulate(TIMES, exits_B, np.asarray(arrivals_B), pools, batch, table=table)
    least = [TIMES.seconds(0, 1), TIMES.seconds(0, 1) + TIMES.seconds(1, 1)]
    assert (found.seconds_B >= np.array(least)[exits_B] - 1e-9).all()
    assert sum(found.batches_K[0]) == count
    assert sum(found.batches_K[1]) == (exits_B == 1).sum()
    assert max(found.batches_K[0] + found.batches_K[1]) <= batch
    assert found.busy <= sum(pools) * found.end + 1e-9


def test_bursts_have_the_rate_on_average() -> None:
    times_B = bursts(1000.0, 50_000)
    assert len(times_B) / times_B[-1] == pytest.approx(1000, rel=0.05)
    within = times_B[times_B < 40] % 10 < 1
    assert within.mean() == pytest.approx(0.4, abs=0.03)


def test_machines_follow_the_work() -> None:
    sizes = sized(TIMES, np.array([0.75, 0.25]), 100, 10)
    first, second = 0.03 / 10, 0.25 * (0.01 + 0.04 + 0.005 + 0.01) / 10
    assert sizes[0] / sizes[1] == pytest.approx(first / second, rel=0.05)
