"""Records: what every exit said about every image, and where each image leaves under a policy."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eenet.common import require, write_atomically
from eenet.policies.ensemble import Ensemble, chain, fit_ensemble, join, probabilities
from eenet.policies.policy import ExitPolicy
from eenet.policies.scores import SCORES, plain_scores, score_of, sigmoid

if TYPE_CHECKING:
    from torch import nn

RECORDS_FILE = "records-{split}.safetensors"
"""What training leaves beside a checkpoint, of the validation and the test split."""
_TENSORS = ("logits_KBN", "confidence_logits_KB", "labels_B")
_COSTS = ("stage_macs", "head_macs", "backbone_macs")


class AnyRecords(ABC):
    """Of K exits on B inputs, whatever their task: what it takes to decide, and how good each answer is."""

    task: ClassVar[str]
    """The name of the task whose answers these are."""
    stage_macs: list[int]
    head_macs: list[int]
    backbone_macs: int
    """Of the plain network."""
    ensemble: Ensemble | None

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """That are answered."""

    @abstractmethod
    def subset(self, rows: NDArray[Any]) -> Self:
        """The records of some inputs: `rows` are their indices, or a bool for each."""

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write them as one safetensors file, `path`."""

    @abstractmethod
    def scores(self, score: str, enabled: Sequence[bool]) -> NDArray[np.float32]:
        """What a policy compares with thresholds: [K - 1, B], see `recorded_scores`.

        Args:
            score: its name, such as `max_softmax`.
            enabled: the early exits that are on.

        Raises:
            ValueError: a score that isn't known.
        """

    @abstractmethod
    def worth(self, enabled: Sequence[bool] | None = None) -> NDArray[np.float64]:
        """How good the answer of each exit is: [K, B]. Its mean over inputs is the metric, see `around`."""

    def around(self, policy: ExitPolicy) -> Self | None:  # noqa: ARG002
        """The same with a `worth` that is right near this policy; none if it is right everywhere.

        A metric that is no mean over inputs is taken as linear: there it changes as that mean does.
        """
        return None

    def quality(self, policy: ExitPolicy) -> float:
        """The metric under a policy, exactly."""
        records = self.around(policy) or self
        return float(records.worth(policy.enabled)[decide(records, policy), np.arange(len(records))].mean())

    @abstractmethod
    def joined(self) -> Self:
        """With answers of exits joined as they are best, as far as that takes no more than a second."""

    @abstractmethod
    def gated(self) -> "tuple[list[nn.Module], Self]":
        """Gates fitted to these answers, one for each early exit, and the confidences that they give."""

    @abstractmethod
    def classes_seen(self) -> set[int]:
        """The classes that occur."""

    def sureness(self) -> NDArray[np.floating]:
        """By which inputs are ordered, where no exit has a score: [B]. Default: how good answers are."""
        return self.worth()[-1]

    def alike(self, other: Any) -> bool:
        """Whether `other` holds the same answers to the same inputs, but for rounding."""
        raise NotImplementedError

    def losses(self) -> NDArray[np.float64]:
        """What each input loses at each exit, from 0 to 1: [K, B]; a `ValueError` where that isn't known."""
        raise ValueError(f"a guaranteed risk doesn't work for {self.task} yet; give a budget or max drop")

    @property
    def task_settings(self) -> dict[str, Any]:
        """What of the task's settings was fitted."""
        return {}

    def holding(self) -> NDArray[np.bool_]:
        """Which inputs hold an object, that might be missed: [B]; a `ValueError` where none is looked for."""
        raise ValueError(f"missed objects are a risk of detection, not of {self.task}")

    def costs(self, enabled: Sequence[bool] | None = None) -> list[float]:
        """Relative cost of leaving at each exit."""
        return relative_costs(self.stage_macs, self.head_macs, self.backbone_macs, enabled)


@dataclass(frozen=True)
class Records(AnyRecords):
    """The outputs of K exits on B labelled images, with what each exit costs."""

    task: ClassVar[str] = "classification"
    logits_KBN: NDArray[np.float32]
    confidence_logits_KB: NDArray[np.float32]
    """K - 1 rows."""
    labels_B: NDArray[np.int64]
    stage_macs: list[int]
    head_macs: list[int]
    backbone_macs: int
    ensemble: Ensemble | None = None
    """How answers are joined, see `eenet.policies.ensemble`."""

    def __post_init__(self) -> None:
        for name in _TENSORS:  # whatever holds numbers on the CPU, torch's tensors too
            object.__setattr__(self, name, np.asarray(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.labels_B)

    @property
    def num_classes(self) -> int:
        """That are answered."""
        return self.logits_KBN.shape[2]

    def answers(self, enabled: Sequence[bool] | None = None) -> NDArray[np.float32]:
        """What is answered at each exit, joined with those of the exits before that are on: logits [K, B, N].

        At an exit that is switched off: its own answer.

        Args:
            enabled: for each early exit. Default: all on.
        """
        return self.logits_KBN if self.ensemble is None else np.stack(list(self._answers(enabled)))

    def correct(self, enabled: Sequence[bool] | None = None) -> NDArray[np.bool_]:
        """Whether the answer at each exit is right: bool [K, B].

        Args:
            enabled: the early exits that are on; by default all. Only they have a say in joint answers.
        """
        return np.stack([logits_BN.argmax(1) == self.labels_B for logits_BN in self._answers(enabled)])

    def right(self, policy: ExitPolicy) -> NDArray[np.bool_]:
        """Whether each input is answered rightly where it leaves under `policy`: bool [B].

        Raises:
            ValueError: as `decide`.
        """
        return self.correct(policy.enabled)[decide(self, policy), np.arange(len(self))]

    def _answers(self, enabled: Sequence[bool] | None) -> Iterator[NDArray[np.float32]]:
        """One exit after the other, since all at once may need much memory."""
        joined_BN = None
        weights_K = chain(self.ensemble, enabled or [True] * len(self.head_macs))
        for logits_BN, weights in zip(self.logits_KBN, weights_K, strict=True):
            if weights is None:
                yield logits_BN
            else:
                joined_BN = join(probabilities(logits_BN), joined_BN, weights)
                yield joined_BN

    @cached_property
    def full_accuracy(self) -> float:
        """Of the final exit on all inputs, with all exits on."""
        return float(self.correct()[-1].mean())

    def scores(self, score: str, enabled: Sequence[bool]) -> NDArray[np.float32]:
        for mark, what in (("dense", "pixels"), ("boxes", "boxes")):
            if SCORES.mark(score, mark):
                known = ", ".join(plain_scores())
                raise ValueError(f"score {score!r} is for answers of {what}; choose from {known}")
        rows = []
        for k in range(len(enabled)):
            seen = [i for i in range(k) if enabled[i]] + [k]
            outputs = (list(of[seen]) for of in (self.logits_KBN, self.confidence_logits_KB))
            rows.append(score_of(score, *outputs))
        return np.stack(rows) if rows else np.empty((0, len(self)), np.float32)

    def worth(self, enabled: Sequence[bool] | None = None) -> NDArray[np.float64]:
        """1 where the answer at an exit is right, else 0: [K, B]; `enabled` as for `correct`."""
        return self.correct(enabled).astype(np.float64)

    def joined(self) -> "Records":
        """With the weights by which exits best answer together, see `eenet.policies.ensemble`."""
        own_KBN = [probabilities(logits_BN.astype(np.float64)) for logits_BN in self.logits_KBN]
        return replace(self, ensemble=fit_ensemble(own_KBN, self.labels_B))

    def gated(self) -> "tuple[list[nn.Module], Records]":
        """Gates fitted to the joined answers, and the confidences they give. Labels are not used."""
        from eenet.policies.fitting import with_gates

        return with_gates(self)

    def classes_seen(self) -> set[int]:
        return set(self.labels_B.tolist())

    def sureness(self) -> NDArray[np.floating]:
        """The largest class probability of the final exit's answer: [B]."""
        return probabilities(self.answers()[-1]).max(1)

    def alike(self, other: Any) -> bool:
        return (
            np.array_equal(self.labels_B, other.labels_B)
            and self.ensemble == other.ensemble
            and self.logits_KBN.shape == other.logits_KBN.shape
            and np.allclose(self.logits_KBN, other.logits_KBN, rtol=0, atol=1e-3)
        )

    def subset(self, rows: NDArray[Any]) -> "Records":
        outputs = {name: getattr(self, name)[:, rows] for name in ("logits_KBN", "confidence_logits_KB")}
        return replace(self, **outputs, labels_B=self.labels_B[rows])

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """`logits` [K, B, N], `answers` [K, B, N] joined over exits, `confidences` [K - 1, B] in (0, 1),
        `labels` [B], `costs` [K] relative.
        """
        return {
            "logits": self.logits_KBN,
            "answers": self.answers(),
            "confidences": sigmoid(self.confidence_logits_KB),
            "labels": self.labels_B,
            "costs": np.array(self.costs()),
        }

    def to_pandas(self) -> Any:
        """A table with a row for each input: `label`, and for every exit `answer_K`, `probability_K` of it,
        `right_K`, and for early exits `confidence_K`.
        """
        pandas: Any = require("pandas", "a table of records")
        columns: dict[str, Any] = {"label": self.labels_B}
        for k, answers_BN in enumerate(self.answers()):
            columns[f"answer_{k}"] = answers_BN.argmax(1)
            columns[f"probability_{k}"] = probabilities(answers_BN).max(1)
            columns[f"right_{k}"] = answers_BN.argmax(1) == self.labels_B
            if k < len(self.head_macs):
                columns[f"confidence_{k}"] = sigmoid(self.confidence_logits_KB[k])
        return pandas.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        save = require("safetensors.numpy", "saving records").save
        tensors = {name: np.ascontiguousarray(getattr(self, name)) for name in _TENSORS}
        costs = {name: getattr(self, name) for name in _COSTS}
        about = {"costs": json.dumps(costs), "ensemble": json.dumps(self.ensemble)}
        write_atomically(Path(path), save(tensors, about))

    @staticmethod
    def load(path: str | Path) -> "Records":
        """Read what `save` wrote.

        Args:
            path: of the safetensors file.

        Raises:
            FileNotFoundError: no such file.
            ValueError: not a file of records.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"no records file {path}")
        safetensors: Any = require("safetensors", "reading records")
        try:
            with safetensors.safe_open(path, "np") as file:
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
                about = file.metadata()
                ensemble = json.loads(about.get("ensemble", "null"))
                return Records(**tensors, **json.loads(about["costs"]), ensemble=ensemble)
        except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a file of records: {error}") from error


def relative_costs(
    stage_macs: Sequence[int],
    head_macs: Sequence[int],
    backbone_macs: int,
    enabled: Sequence[bool] | None = None,
) -> list[float]:
    """Cost of leaving at each exit, relative to the plain backbone.

    Args:
        stage_macs: K entries, in running order.
        head_macs: K - 1 entries, one per early exit.
        backbone_macs: the plain backbone's MACs.
        enabled: K - 1 flags; the head of an exit that is off isn't run and costs nothing. Default: all on.
    """
    switched_on = [True] * len(head_macs) if enabled is None else list(enabled)
    spent, costs = 0, []
    for k, macs in enumerate(stage_macs):
        spent += macs
        if k < len(head_macs) and switched_on[k]:
            spent += head_macs[k]
        costs.append(spent / backbone_macs)
    return costs


def decide(records: AnyRecords, policy: ExitPolicy) -> NDArray[np.int64]:
    """The exit at which each recorded input leaves: int64 [B].

    Raises:
        ValueError: the policy is for another number of exits.
    """
    early = len(records.head_macs)
    if len(policy.thresholds) != early:
        raise ValueError(f"the policy is for {len(policy.thresholds)} early exits, the network has {early}")
    scores_KB = recorded_scores(records, policy.score, policy.enabled)
    scores_KB[[not on for on in policy.enabled]] = -np.inf
    return first_above(scores_KB, np.array(policy.thresholds)[:, None])


def recorded_scores(
    records: AnyRecords, score: str, enabled: Sequence[bool] | None = None
) -> NDArray[np.float32]:
    """Score of every early exit and input: float32 [K - 1, B].

    Args:
        records: of inputs.
        score: see `eenet.policies.scores`.
        enabled: exits that a score may look back at; one that is off sees those before it. Default: all.
    """
    return records.scores(score, enabled if enabled is not None else [True] * len(records.head_macs))


def first_above(scores_KB: NDArray[np.float32], threshold: ArrayLike) -> NDArray[np.int64]:
    """The first exit at which each input's score is above the threshold, else the final one: int64 [B].

    `threshold` is shared, or one per exit: [K - 1, 1].
    """
    above_KB = scores_KB > np.asarray(threshold, np.float32)
    return np.concatenate([above_KB, np.ones((1, scores_KB.shape[1]), bool)]).argmax(0)
