"""The door for users: images in, labels out, each with the exit it took."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eenet.checkpoint import CONFIG_FILE
from eenet.images import normalize, to_pixels
from eenet.network import EENet
from eenet.policies import ExitPolicy
from eenet.runtime.reference import run_one


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    label: str
    class_index: int
    probability: float
    """Of the label, in (0, 1]."""
    exit: int
    """Number of the exit the image left at, from 0; the largest is the final exit."""
    relative_cost: float
    """MACs spent / MACs of the plain backbone."""


class Predictor:
    """Classifies images; each leaves at the first exit that is sure enough.

    >>> predictor = Predictor("runs/digits")
    >>> predictor.predict("seven.png").label
    """

    def __init__(
        self, network: EENet | str | Path, *, policy: ExitPolicy | None = None, budget: float | None = None
    ) -> None:
        """A network, or the name of a checkpoint; by default under the checkpoint's policy.

        Args:
            network: with the mean and standard deviation of its images in `config`.
            policy: another one.
            budget: wanted mean relative cost, for which the checkpoint has a policy.

        Raises:
            FileNotFoundError, ValueError: the checkpoint can't be loaded, or the network has no
                `mean` and `std`, or the policy is for another number of exits,
                or there is none for this budget.
        """
        self.network = network if isinstance(network, EENet) else EENet.from_pretrained(network)
        self.network.eval()
        config = self.network.config
        if config.mean is None or config.std is None:
            where = "the network's config" if isinstance(network, EENet) else f"{CONFIG_FILE} of {network}"
            raise ValueError(f"{where} has no mean and std, so images can't be normalised")
        self._mean, self._std = config.mean, config.std
        if policy is None:
            policy = config.exit_policy(budget)
        if len(policy.thresholds) != self.network.num_exits:
            raise ValueError(
                f"the policy is for {len(policy.thresholds)} early exits, "
                f"the network has {self.network.num_exits}"
            )
        self.policy = policy
        self._costs = self.network.costs(policy.enabled)

    def predict(self, image: Any) -> Prediction:
        """Classify one image: a file, PIL image, numpy array or tensor, see `eenet.images.to_pixels`."""
        config = self.network.config
        pixels = to_pixels(image, config.input_size)
        device = next(self.network.parameters()).device
        inputs = normalize(pixels[None].to(device), self._mean, self._std)[0]
        probabilities_N, exit_index = run_one(self.network, self.policy, inputs)
        best = int(torch.argmax(probabilities_N))
        names = config.class_names
        return Prediction(
            label=names[best] if names else str(best),
            class_index=best,
            probability=probabilities_N[best].item(),
            exit=exit_index,
            relative_cost=self._costs[exit_index],
        )

    def predict_many(self, images: Iterable[Any]) -> Iterator[Prediction]:
        """Classify images one after the other, in order and in constant memory."""
        return map(self.predict, images)
