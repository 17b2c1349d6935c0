"""What `eenet bench` prints: every column by the same samples, and what it means."""

from statistics import fmean, median
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from eenet.evaluation.benching import Bench, pace
from eenet.networks.network import EENet
from eenet.policies.policy import ExitPolicy
from eenet.runtime.timing import BenchRow, Contender, row_of, spread, time_network, times_in_turn

RATIOS = {
    "speedup": ("plain_ms", "early_exit_ms"),
    "efficiency": ("ideal_ms", "early_exit_ms"),
    "realised": ("speedup", "mac_speedup"),
    "against_speedup": ("against_ms", "early_exit_ms"),
    "exported_speedup": ("plain_ms", "exported_ms"),
}


@st.composite
def made_up(draw: st.DrawFn, runs: int | None = None) -> dict[str, NDArray[np.float64]]:
    """Times of all contenders, noisy and skewed, runs × batches."""
    shape = runs or draw(st.integers(1, 5)), draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    skew = draw(st.sampled_from([0.01, 0.5, 3.0]))
    names = ("plain", "early_exit", "part 0", "part 1", "against", "exported")
    return {name: rng.lognormal(rng.normal(0, 2), skew, shape) for name in names}


def row(times: dict[str, Any], *, backend: str = "torch", batch_size: int = 4) -> BenchRow:
    parts = sum(name.startswith("part") for name in times)
    shares, costs = np.full(parts + 1, 1 / (parts + 1)), np.linspace(0.3, 1.1, parts + 1)
    return row_of(times, shares, costs, (True,) * parts, backend=backend, batch_size=batch_size)


def flat(plain: float, early_exit: float, **which: Any) -> BenchRow:
    """Times without noise."""
    found = {"plain": plain, "early_exit": early_exit, "part 0": plain / 3}
    return row({name: np.full((5, 6), ms) for name, ms in found.items()}, **which)


def columns(text: str) -> list[dict[str, str]]:
    lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return [dict(zip(header, cells, strict=True)) for cells in rows]


def shown(*rows: BenchRow, repeats: int = 5) -> str:
    return str(Bench(rows=list(rows), hardware="a machine", versions={}, repeats=repeats))


@given(made_up())
def test_all_columns_are_of_the_same_samples(times: dict[str, Any]) -> None:
    found = row(times)
    for name in ("plain", "early_exit"):
        batches = [median(column) for column in times[name].T.tolist()]
        assert getattr(found, f"{name}_ms") == pytest.approx(fmean(batches), rel=1e-3)
        low, middle, high = (getattr(found, f"{name}_p{p}_ms") for p in (50, 95, 99))
        assert low == pytest.approx(median(batches), rel=1e-3)
        assert low <= middle <= high <= max(batches) * 1.001
    for key, (above, below) in RATIOS.items():
        assert getattr(found, key) == getattr(found, above) / getattr(found, below), key
    assert found.speedup_low * 0.999 <= found.speedup <= found.speedup_high * 1.001


@given(made_up())
def test_printed_ratios_are_those_of_the_printed_columns(times: dict[str, Any]) -> None:
    (cells,) = columns(shown(row(times)))
    for key, slow, fast in (
        ("speed-up ×", "plain ms", "early exit ms"),
        ("against ×", "against ms", "early exit ms"),
        ("exported ×", "plain ms", "exported ms"),
    ):
        assert cells[key] == f"{float(cells[slow]) / float(cells[fast]):.3g}"


def test_one_slow_moment_moves_no_column() -> None:
    quiet = {
        name: np.full((7, 10), ms) for name, ms in (("plain", 2.0), ("early_exit", 1.0), ("part 0", 0.5))
    }
    loud = {name: held.copy() for name, held in quiet.items()}
    loud["early_exit"][3] *= 50
    loud["plain"][5, 2] = 1000
    assert {**row(loud).to_dict(), "speedup_low": 2.0, "speedup_high": 2.0} == row(quiet).to_dict()


def test_the_spread_holds_what_new_runs_give() -> None:
    rng = np.random.default_rng(1)

    def drawn() -> tuple[Any, Any]:
        weather = rng.lognormal(0, 0.5, (9, 1))  # the same for both
        return weather * rng.lognormal(0.7, 0.1, (9, 20)), weather * rng.lognormal(0, 0.1, (9, 20))

    held = 0
    for _ in range(40):
        low, high = spread(*drawn())
        held += low <= np.exp(0.7) <= high
        assert high - low < 0.5, "weather that both see is no spread"
    assert held > 25


def test_after_a_single_run_batches_that_differ_are_spread() -> None:
    plain, fast = np.full((1, 20), 0.04), np.full((1, 20), 0.05)
    plain[0, 3] = 1.0  # of one moment
    assert plain.mean() > fast.mean()
    low, high = spread(plain, fast)
    assert low < 1 < high
    assert spread(np.full((1, 4), 2.0), np.ones((1, 4))) == (2.0, 2.0)


def test_sentences_say_where_early_exit_is_slower_and_what_to_do() -> None:
    text = shown(
        flat(0.246, 0.335, batch_size=1),
        flat(6.0, 3.0, batch_size=64),
        flat(0.2, 0.4, backend="openvino", batch_size=1),
    )
    said = " ".join(text.split())
    slower = "At batch 1 on torch early exit takes 1.36 times as long as the plain network here: 0.335"
    assert slower in said
    assert "MACs would say 1.43 ×. Leave early exits off, or serve in batches of 64." in said
    assert (
        "At batch 64 on torch early exit is 2 times as fast as the plain network here: 3 against 6 ms" in said
    )
    assert said.count("or serve in batches") == 1, "on openvino there is no larger batch that pays"
    assert said.count("Leave early exits off") == 2
    assert "Efficiency:" in said
    header = list(columns(text)[0])
    assert header == [
        "backend",
        "batch",
        "plain ms",
        "early exit ms",
        "p95 ms",
        "speed-up ×",
        "MACs would say ×",
        "efficiency",
    ]


def test_what_runs_do_not_tell_apart_is_not_called_faster() -> None:
    for speedup in (0.99, 1.01):
        assert (
            pace("fp32", speedup, 0.97, 1.04) == "can't be told from fp32 here (0.97 to 1.04 times as fast)"
        )
    assert pace("fp32", 1.5, 1.2, 1.7) == "is 1.5 times as fast as fp32 here"
    assert pace("fp32", 0.5, 0.4, 0.7) == "takes 2 times as long as fp32 here"


def test_columns_that_need_a_word_get_it() -> None:
    times = {name: np.full((2, 40), 1.0) for name in ("plain", "early_exit", "part 0")}
    times["early_exit"][:, 0] = 100.0  # only few images go on
    text = " ".join(shown(row(times)).split())
    assert "p95 lies below the mean" in text
    assert "Against:" not in text
    flat_times = {name: np.ones((2, 4)) for name in ("plain", "early_exit", "part 0", "against", "exported")}
    text = " ".join(shown(row(flat_times)).split())
    assert "p95 lies below the mean" not in text
    assert "Against: the other network" in text
    assert "Exported: the files" in text


def test_contenders_take_turns_on_the_same_batches() -> None:
    seen: list[tuple[str, int]] = []
    pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)

    def contender(name: str) -> Contender:
        return Contender(name, lambda batch: seen.append((name, int(batch[0, 0, 0, 0]))))

    times = times_in_turn([contender("a"), contender("b")], pixels, batch_size=2, repeats=3, run_seconds=1e-9)
    assert {name: held.shape for name, held in times.items()} == {"a": (3, 2), "b": (3, 2)}
    assert all((held > 0).all() for held in times.values())
    timed = seen[-12:]
    assert [name for name, _ in timed] == ["a", "a", "b", "b"] * 3
    assert [first for _, first in timed] == [0, 2] * 6


def test_a_row_agrees_with_itself(trained: EENet, digits: Any) -> None:
    pixels = digits.pixels(slice(40))
    found = time_network(
        trained,
        ExitPolicy("max_softmax", (0.5,) * trained.num_exits),
        pixels,
        backend="torch",
        batch_size=8,
        repeats=2,
    )
    assert found.speedup == found.plain_ms / found.early_exit_ms
    assert found.early_exit_p50_ms <= found.early_exit_p95_ms <= found.early_exit_p99_ms
    assert sum(found.exit_shares) == pytest.approx(1)
    assert found.batches >= 2
