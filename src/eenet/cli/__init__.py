"""The command line: parse, call one function of `eenet`, print."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.cli.parsing import VERBS, main

__getattr__, __dir__ = lazy_names(__name__)
