"""A network as files that other programs run, stopping early; checked against the network itself."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.exporting.formats import FORMATS
    from eenet.exporting.writing import Export, export

__getattr__, __dir__ = lazy_names(__name__)
