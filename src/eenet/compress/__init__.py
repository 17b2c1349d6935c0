"""Networks made smaller: pruned channels, in a backbone or in a network with exits."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.compress.pruning import HOW, Pruning, prune, pruned, sparsity_of

__getattr__, __dir__ = lazy_names(__name__)
