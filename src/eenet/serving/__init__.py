"""Networks over HTTP."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.serving.run import serve

__getattr__, __dir__ = lazy_names(__name__)
