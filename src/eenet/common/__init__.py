"""What every room uses: progress on the terminal, files written whole, results, tables, the registry."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.common.console import progress, say, steady_progress, training_progress, working
    from eenet.common.files import blaming, cache_directory, write_atomically
    from eenet.common.lazy import require
    from eenet.common.machine import cores, hardware, keep_freed_memory
    from eenet.common.registry import Registry, import_plugin, register
    from eenet.common.results import Result
    from eenet.common.rows import RowFile
    from eenet.common.tables import counted, format_row, format_table, lines, wrapped

__getattr__, __dir__ = lazy_names(__name__)
