"""The race for the fastest network within a drop of accuracy; several trained networks as one."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.optimizing.cascading import cascade
    from eenet.optimizing.results import Optimized, OptimizedRow
    from eenet.optimizing.search import optimize

__getattr__, __dir__ = lazy_names(__name__)
