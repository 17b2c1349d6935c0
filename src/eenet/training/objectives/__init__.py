"""Training losses over all exits, by name: ours, the paper's, and those of other methods."""

from eenet.training.objectives.base import OBJECTIVES
from eenet.training.objectives.choosing import (
    get_objective,
    settings_of,
    takes_class_weights,
    trains_confidence,
    unused,
)
from eenet.training.objectives.joint import IGNORED, imitation, joint_cross_entropy
from eenet.training.objectives.paper import mixtures
from eenet.training.objectives.rivals import even_gradients, shallow_deep

__all__ = [
    "IGNORED",
    "OBJECTIVES",
    "even_gradients",
    "get_objective",
    "imitation",
    "joint_cross_entropy",
    "mixtures",
    "settings_of",
    "shallow_deep",
    "takes_class_weights",
    "trains_confidence",
    "unused",
]
