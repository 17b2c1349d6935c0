"""Where images come from; each reader gives the official splits of a data set as `LazyImageSet`s."""

from typing import TYPE_CHECKING

from eenet.common.lazy import lazy_names

if TYPE_CHECKING:
    from eenet.data.readers.distributed import digits
    from eenet.data.readers.folders import folder, unlabelled
    from eenet.data.readers.listing import any_image_under, folders_in, images_under, is_image, is_litter
    from eenet.data.readers.own import from_dataset
    from eenet.data.readers.parquet import hub
    from eenet.data.readers.rows import Columns, Size, Splits, check_classes, joined, split_of, split_within
    from eenet.data.readers.tables import is_table, table

__getattr__, __dir__ = lazy_names(__name__)
