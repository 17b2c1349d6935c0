"""More than one machine: Ray Data for many images, Ray Serve for many requests."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.scale.ray_data import BatchResult, answers, batch, predict

__getattr__, __dir__ = lazy_names(__name__)
