"""Running an early-exit network so that inputs really leave early."""

from eenet.runtime.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor"]
