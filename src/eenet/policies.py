"""When an input leaves: scores, thresholds and the decision, on the outputs of every exit."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor


def max_softmax(logits_BN: Tensor, confidence_logits_B: Tensor) -> Tensor:  # noqa: ARG001
    """Largest class probability."""
    return logits_BN.softmax(1).amax(1)


def confidence(logits_BN: Tensor, confidence_logits_B: Tensor) -> Tensor:  # noqa: ARG001
    """The learned confidence, in (0, 1)."""
    return confidence_logits_B.sigmoid()


def entropy(logits_BN: Tensor, confidence_logits_B: Tensor) -> Tensor:  # noqa: ARG001
    """Negative entropy of the class probabilities, in nats. BranchyNet, Teerapittayanon et al. 2016."""
    log_p = logits_BN.log_softmax(1)
    return (log_p.exp() * log_p).sum(1)


def margin(logits_BN: Tensor, confidence_logits_B: Tensor) -> Tensor:  # noqa: ARG001
    """Largest minus second largest class probability."""
    top = logits_BN.softmax(1).topk(min(2, logits_BN.shape[1]), 1).values
    return top[:, 0] - top[:, 1:].sum(1)  # nothing to take away where there is one class only


SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max_softmax": max_softmax,
    "confidence": confidence,
    "entropy": entropy,
    "margin": margin,
}


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
        if self.score not in SCORES:
            raise ValueError(f"unknown score {self.score!r}; choose from {', '.join(SCORES)}")
        if any(t != t for t in self.thresholds):
            raise ValueError(f"thresholds {self.thresholds} hold a NaN")
        if not self.enabled:
            object.__setattr__(self, "enabled", (True,) * len(self.thresholds))
        if len(self.enabled) != len(self.thresholds):
            raise ValueError(f"{len(self.thresholds)} thresholds, but {len(self.enabled)} on/off flags")

    def leaves(self, exit_index: int, logits_BN: Tensor, confidence_logits_B: Tensor) -> Tensor:
        """Which inputs leave at this early exit, if they get there: bool [B]."""
        score_B = SCORES[self.score](logits_BN.float(), confidence_logits_B.float())
        return score_B > self.thresholds[exit_index]

    def decide(self, logits_KBN: Sequence[Tensor], confidence_logits_KB: Sequence[Tensor]) -> Tensor:
        """The exit at which each input leaves, from the outputs of all exits: int64 [B]."""
        final = len(logits_KBN) - 1
        if final != len(self.thresholds):
            raise ValueError(f"the policy is for {len(self.thresholds)} early exits, the network has {final}")
        exits_B = torch.full((len(logits_KBN[0]),), final, device=logits_KBN[0].device)
        for k in reversed(range(final)):
            if self.enabled[k]:
                exits_B[self.leaves(k, logits_KBN[k], confidence_logits_KB[k])] = k
        return exits_B

    def to_dict(self) -> dict[str, Any]:
        """For `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any] | None, num_exits: int) -> "ExitPolicy":
        """From `config.json`; without one, the paper's: learned confidence above 0.5.

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
