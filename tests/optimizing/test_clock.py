"""What fits into the minutes: against trainings that are added up by hand."""

from pathlib import Path
from typing import Any

import pytest

from eenet.optimizing.candidates import Candidate
from eenet.optimizing.clock import SPARE, TO_TRAIN, Clock
from eenet.optimizing.journal import Journal

MACS = 100
FROZEN = {"seconds": 40.0, "epochs": 4, "macs": MACS}  # so an epoch of all weights takes 60 seconds
PRUNED = [Candidate(f"pruned to {share}", {"prune": share}, MACS) for share in (0.5, 0.7)]
OTHERS = [Candidate(name, {"model": name}, MACS) for name in ("resnet18", "vgg11")]


def clock(place: Path, minutes: float | None, around: float = 0.0) -> Clock:
    """After exits were trained on the given network, with so many seconds around that."""
    journal = Journal(place, {})
    journal.lines.append({"step": "train given None", "seconds": 40.0 + around, "found": FROZEN})
    assert FROZEN["seconds"] / FROZEN["epochs"] * TO_TRAIN == 60
    return Clock(journal, minutes)


@pytest.mark.parametrize("around", [0.0, 30.0])
@pytest.mark.parametrize("epochs", [4, 12])
def test_as_many_epochs_as_end_in_time(tmp_path: Path, epochs: int, around: float) -> None:
    """Two networks in one round: `epochs` and what is around them, twice."""
    seconds = 40 + around + 2 * (60 * epochs + around)
    enough, little = (
        clock(tmp_path / name, factor * seconds / 60 / SPARE, around)
        for name, factor in (("enough", 1.001), ("little", 0.999))
    )
    assert enough.plan(PRUNED, 50, may_leave_out=True)["epochs"] == epochs
    assert little.plan(PRUNED, 50, may_leave_out=True)["epochs"] == epochs - 1


@pytest.mark.parametrize(
    ("minutes", "may", "names"),
    [(10, True, PRUNED), (10, False, PRUNED + OTHERS), (60, True, PRUNED + OTHERS)],
)
def test_without_time_nothing_starts_from_scratch(
    tmp_path: Path, minutes: float, may: bool, names: list[Candidate]
) -> None:
    """Unless a user has named it."""
    planned = clock(tmp_path / "race", minutes).plan(PRUNED + OTHERS, 50, may_leave_out=may)
    assert planned["names"] == [candidate.name for candidate in names]


def test_without_minutes_all_is_tried(tmp_path: Path) -> None:
    endless = clock(tmp_path / "race", None)
    assert endless.plan(OTHERS, 50, may_leave_out=True) == {"names": ["resnet18", "vgg11"], "epochs": 50}
    assert endless.fits(OTHERS[0], 10**6)


@pytest.mark.parametrize(("rest", "fits"), [(71, True), (69, False)])
def test_a_training_fits_with_what_is_around_it(tmp_path: Path, rest: float, fits: bool) -> None:
    """Five epochs at 10 seconds, and 20 around them."""
    seconds = 40 + 20 + rest
    assert clock(tmp_path / "race", seconds / 60 / SPARE, around=20).fits(PRUNED[0], 5) == fits


def test_its_own_pace_counts_most(tmp_path: Path) -> None:
    found: dict[str, Any] = {"seconds": 5.0, "epochs": 1, "macs": MACS}
    mine = clock(tmp_path / "race", (40 + 5 + 51) / 60 / SPARE)
    assert not mine.fits(PRUNED[0], 10)
    mine.journal.lines.append({"step": "train pruned to 0.5 1", "seconds": 5.0, "found": found})
    assert mine.fits(PRUNED[0], 10)
    assert not mine.fits(PRUNED[1], 10)
