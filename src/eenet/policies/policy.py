"""When an input leaves: scores, thresholds and the decision, on the outputs of every exit."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eenet.policies.scores import SCORES, score_of


@dataclass(frozen=True)
class ExitPolicy:
    """Leave at the first exit, switched on, whose score is above its threshold.

    Raises:
        ValueError: unknown score, or thresholds and flags that don't match.
    """

    score: str
    thresholds: tuple[float, ...]
    """One per early exit."""
    enabled: tuple[bool, ...] = ()
    """One per early exit. Default: all on."""

    def __post_init__(self) -> None:
        SCORES[self.score]
        if any(t != t for t in self.thresholds):
            raise ValueError(f"thresholds {self.thresholds} hold a NaN")
        if not self.enabled:
            object.__setattr__(self, "enabled", (True,) * len(self.thresholds))
        if len(self.enabled) != len(self.thresholds):
            raise ValueError(f"{len(self.thresholds)} thresholds, but {len(self.enabled)} on/off flags")

    def leaves(
        self, logits_KBN: Sequence[ArrayLike], confidence_logits_KB: Sequence[ArrayLike]
    ) -> NDArray[np.bool_]:
        """Which inputs leave at an early exit that is on, if they get there: bool [B].

        Args:
            logits_KBN: of the exits up to this one; those that are off are not looked at.
            confidence_logits_KB: of the same exits.

        Raises:
            ValueError: the policy names an unknown score.
        """
        exit_index = len(logits_KBN) - 1
        on = [k for k in range(exit_index + 1) if self.enabled[k]]
        given = (logits_KBN, confidence_logits_KB)
        logits, confidences = ([np.asarray(part[k], np.float32) for k in on] for part in given)
        return score_of(self.score, logits, confidences) > self.thresholds[exit_index]

    def decide(
        self, logits_KBN: Sequence[ArrayLike], confidence_logits_KB: Sequence[ArrayLike]
    ) -> NDArray[np.int64]:
        """The exit at which each input leaves, from the outputs of all exits: int64 [B].

        Args:
            logits_KBN: of all exits, the final one last.
            confidence_logits_KB: of the early exits.

        Raises:
            ValueError: another number of exits than the policy has thresholds for.
        """
        final = len(logits_KBN) - 1
        if final != len(self.thresholds):
            raise ValueError(f"the policy is for {len(self.thresholds)} early exits, the network has {final}")
        exits_B = np.full(len(np.asarray(logits_KBN[0])), final)
        for k in reversed(range(final)):
            if self.enabled[k]:
                exits_B[self.leaves(logits_KBN[: k + 1], confidence_logits_KB[: k + 1])] = k
        return exits_B

    def to_dict(self) -> dict[str, Any]:
        """For `config.json`."""
        return asdict(self)

    @classmethod
    def all_at(cls, exit_index: int, num_exits: int) -> "ExitPolicy":
        """All inputs leave at one exit, whatever their confidence: a static network.

        Args:
            exit_index: where; `num_exits` is the final exit, so that none leaves early.
            num_exits: early exits of the network, of which the others are off.

        Raises:
            ValueError: there is no such exit.
        """
        if not 0 <= exit_index <= num_exits:
            raise ValueError(f"exit {exit_index} is not one of 0 to {num_exits}")
        alone = tuple(k == exit_index for k in range(num_exits))
        # confidences lie in 0 … 1
        return cls("confidence", tuple(-1.0 if on else 1.0 for on in alone), alone)

    @property
    def only_exit(self) -> int | None:
        """The exit that every input takes, as by `all_at`; none if some may leave at another."""
        first = next((k for k, on in enumerate(self.enabled) if on), len(self.enabled))
        whole = first == len(self.enabled) or (self.score == "confidence" and self.thresholds[first] < 0)
        return first if whole else None

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None, num_exits: int) -> "ExitPolicy":
        """From `config.json`; without one, the paper's: learned confidence above 0.5.

        Args:
            values: as `to_dict` gives them.
            num_exits: early exits of the network.

        Raises:
            ValueError: the policy is damaged or for another number of exits.
        """
        if values is None:
            return cls("confidence", (0.5,) * num_exits)
        try:
            policy = cls(values["score"], tuple(values["thresholds"]), tuple(values["enabled"]))
            if not all(isinstance(t, float | int) for t in policy.thresholds):
                raise TypeError("thresholds must be numbers")
            if not all(isinstance(on, bool) for on in policy.enabled):
                raise TypeError("enabled must hold true or false")
        except (KeyError, TypeError) as error:
            raise ValueError(f"the policy in the checkpoint is damaged: {error!r}") from error
        if len(policy.thresholds) != num_exits:
            raise ValueError(
                f"the policy in the checkpoint has {len(policy.thresholds)} thresholds, "
                f"the network {num_exits} early exits"
            )
        return policy
