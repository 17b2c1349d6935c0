"""Early-exit convolutional networks: any CNN in, a trained early-exit network out.

    >>> import eenet
    >>> network = eenet.create_model("resnet20_cifar", num_classes=10, in_chans=3, num_exits=3)
    >>> network.costs_K                                  # relative cost of leaving at each exit
    >>> network = eenet.convert(my_cnn, (3, 224, 224), num_exits=4)
    >>> eenet.train(eenet.get_recipe("digits"), "runs/digits")   # → checkpoint and report.html
    >>> predictor = eenet.Predictor("runs/digits")
    >>> predictor.predict("seven.png")

The command line does the rest: `eenet train | eval | predict | calibrate | bench | info | list`.
After "Early-exit Convolutional Neural Networks", Demir & Akbas, arXiv 2409.05336.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from eenet.network import EENet, ExitOutputs, convert, create_model
    from eenet.pipeline import train
    from eenet.policies import ExitPolicy
    from eenet.readers import from_dataset
    from eenet.recipes import get_recipe
    from eenet.runtime import Prediction, Predictor
    from eenet.stages import Cut, check_backbone
    from eenet.training import TrainConfig

__all__ = [
    "Cut",
    "EENet",
    "ExitOutputs",
    "ExitPolicy",
    "Prediction",
    "Predictor",
    "TrainConfig",
    "check_backbone",
    "convert",
    "create_model",
    "from_dataset",
    "get_recipe",
    "train",
]

# Loaded on first use: torch and timm take seconds, and `eenet --help` needs neither.
_HOMES = {
    "network": ("EENet", "ExitOutputs", "convert", "create_model"),
    "pipeline": ("train",),
    "policies": ("ExitPolicy",),
    "readers": ("from_dataset",),
    "recipes": ("get_recipe",),
    "runtime": ("Prediction", "Predictor"),
    "stages": ("Cut", "check_backbone"),
    "training": ("TrainConfig",),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"eenet.{module}"), name)
    raise AttributeError(f"module 'eenet' has no attribute {name!r}")
