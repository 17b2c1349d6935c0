"""What fits into the minutes that were given, by what trainings took so far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from eenet.optimizing.candidates import Candidate
from eenet.optimizing.halving import within
from eenet.optimizing.journal import Journal

SPARE = 0.9  # of the minutes: the rest is for quantising and timing
TO_TRAIN = 6  # times as long as exits on a frozen network of as many MACs, all of a network takes to train
FROM_SCRATCH = 5  # epochs: with fewer, random weights come to nothing


@dataclass(frozen=True)
class Clock:
    """The minutes, and the journal that knows what took how long."""

    journal: Journal
    minutes: float | None
    """None: as many as it takes."""

    @property
    def left(self) -> float:
        """Seconds for trainings."""
        return SPARE * 60 * (self.minutes or 0) - self.journal.seconds

    def plan(self, alive: Sequence[Candidate], epochs: int, may_leave_out: bool) -> dict[str, Any]:
        """The names of those who take part, and the epochs at most, so that all rounds end in time.

        By what the given network took. Networks from scratch that could not have `FROM_SCRATCH` epochs may be
        left out, so that the others have more.
        """
        field = list(alive)
        if self.minutes is not None and alive:
            known = [candidate for candidate in alive if not candidate.from_scratch]
            if may_leave_out and known and self._epochs(field, epochs) < min(FROM_SCRATCH, epochs):
                field = known
            epochs = self._epochs(field, epochs)
        return {"names": [candidate.name for candidate in field], "epochs": epochs}

    def _epochs(self, field: Sequence[Candidate], wanted: int) -> int:
        line = self._trained()[0]
        epoch = TO_TRAIN * _rate(line) * mean(candidate.macs for candidate in field)
        return within(self.left / epoch, wanted, len(field), _around(line) / epoch)

    def fits(self, candidate: Candidate, epochs: int) -> bool:
        """Whether a training would end in time, by its own earlier ones or the slowest for a MAC."""
        if self.minutes is None:
            return True
        lines = self._trained()
        own = [_rate(line) for line in lines if line["step"].startswith(f"train {candidate.name} ")]
        rate = own[-1] if own else max(_rate(line) for line in lines)
        return median(map(_around, lines)) + rate * epochs * candidate.macs <= self.left

    def _trained(self) -> list[dict[str, Any]]:
        """All trainings that are over, the given network's first."""
        lines = [line for line in self.journal.lines if line["step"].startswith("train ")]
        return [line for line in lines if "macs" in line["found"]]


def _rate(line: Mapping[str, Any]) -> float:
    """Seconds of an epoch and a MAC."""
    return line["found"]["seconds"] / (line["found"]["epochs"] * line["found"]["macs"])


def _around(line: Mapping[str, Any]) -> float:
    """Seconds that a step took beside the training itself, which may have begun before the step."""
    return max(0.0, line["seconds"] - line["found"]["seconds"])
