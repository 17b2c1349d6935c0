"""What the tasks have in common that answer for every place of an image, by a decoder's state."""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from eenet.common import require, write_atomically
from eenet.policies import AnyRecords
from eenet.tasks.handed import Seen
from eenet.tasks.task import Task

if TYPE_CHECKING:
    from torch import Tensor

ROWS_FILE = "predictions.csv"
TOGETHER = 16  # images at most, whose logits are held at a time
WITHOUT = (
    "--top-k", "int8", "format aoti", "format executorch", "serving by stage", "batch", "pruning",
    "optimize", "a budget in time", "measuring damaged images", "backend torch-compile",
    "starting from a trained checkpoint", "a cascade",
)  # fmt: skip
"""Verbs and options that no such task has yet."""


class DenseTask(Task):
    """The backbone's classifier gives way to a decoder; an image may have any size."""

    gate: ClassVar[str] = "gain"
    keeps_classifier: ClassVar[bool] = False
    any_size: ClassVar[bool] = True
    carried: ClassVar[Sequence[str]] = ("features", "state")
    batch_sizes: ClassVar[Sequence[int]] = (8,)
    timed_sizes: ClassVar[Sequence[int]] = (1, 16)
    objectives: ClassVar[Sequence[str] | None] = ("joint",)
    unsupported: ClassVar[Mapping[str, str]] = dict.fromkeys(WITHOUT, "")
    truths: ClassVar[str]
    """What an image's truth is, and where it lies."""
    row_suffixes: ClassVar[Sequence[str]] = (".csv", ".jsonl", ".parquet")
    """Of files of rows; any other name is a directory's."""

    def without_columns(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Options of `load` but for those of tables.

        Raises:
            ValueError: one of these is given.
        """
        columns = ("label_column", "file_column")
        if asked := [name for name in columns if options.get(name)]:
            raise ValueError(f"{asked[0]} is for tables of labels; {self.truths}")
        return {name: value for name, value in options.items() if name not in columns}

    @abstractmethod
    def images_alone(
        self,
        directory: Path,
        class_names: Sequence[str],
        *,
        size: Sequence[int],
        channels: int,
        standardise: bool,
    ) -> Any | None:
        """The images in and below a folder that holds no truths; None if it does, or holds no image.

        Args:
            directory: that is looked through.
            class_names: that they may show.
            size: (height, width) that the network was trained on.
            channels: of images.
            standardise: bring every image to the same mean and spread.

        Raises:
            ValueError: some images can't be read.
        """

    def without_truth(self, directory: Path, config: Any) -> Any | None:
        channels, *size = config.input_size
        standardise = bool(config.task_settings.get("standardise"))
        return self.images_alone(
            directory, config.named_classes, size=size, channels=channels, standardise=standardise
        )

    def varied(self, batch: Any, augmentation: Any, device: Any) -> "tuple[Tensor, Tensor]":
        from eenet.data import recoloured

        pixels_BCHW, truth = (part.to(device, non_blocking=True) for part in batch)
        return recoloured(pixels_BCHW, augmentation.colour), truth

    def read_large(self, image: Any, config: Any) -> Seen:
        from eenet.data import standardised, whole_pixels

        pixels_CHW = whole_pixels(image, config.input_size[0])
        if config.task_settings.get("standardise"):
            pixels_CHW = standardised(pixels_CHW)
        return Seen(pixels_CHW, (pixels_CHW.shape[1], pixels_CHW.shape[2]))

    def steps(self, config: Any, resize: str) -> str:
        """How to bring an image to a size, and what comes before."""
        from eenet.data import STANDARD_SPREAD

        if not config.task_settings.get("standardise"):
            return resize
        first = f"bring the values of all channels together to mean 127.5 and deviation {STANDARD_SPREAD:g}"
        return f"{first}; {resize}"

    def places(self, out: Path | None) -> tuple[Path | None, Path | None]:
        """A file of rows, or a directory of pictures with such a file in it."""
        if out is None or out.suffix in self.row_suffixes:
            return out, None
        out.mkdir(parents=True, exist_ok=True)
        return out / ROWS_FILE, out

    def same(self, row: Mapping[str, Any], found: Any) -> str | None:
        return None if int(row["exit"]) == found.exit else f"exit {row['exit']}, now it is exit {found.exit}"


def save_records(records: AnyRecords, path: str | Path, tensors: Sequence[str], about: Sequence[str]) -> None:
    """Write records as one safetensors file; names of their tensors, and of the rest."""
    save = require("safetensors.numpy", "saving records").save
    held = {name: np.ascontiguousarray(getattr(records, name)) for name in tensors}
    rest = {name: getattr(records, name) for name in about}
    write_atomically(Path(path), save(held, {"task": records.task, "about": json.dumps(rest)}))


def load_records(
    kind: Callable[..., Any],
    path: str | Path,
    tensors: Sequence[str],
    what: str,
    later: Sequence[str] = (),
) -> Any:
    """Read what `save_records` wrote.

    Args:
        kind: of records.
        path: of the file.
        tensors: by name.
        what: the records are of, in messages.
        later: tensors that older files lack.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of such records.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no records file {path}")
    safetensors: Any = require("safetensors", "reading records")
    try:
        with safetensors.safe_open(path, "np") as file:
            there = [*tensors, *(name for name in later if name in file.keys())]  # noqa: SIM118
            held: dict[str, NDArray[Any]] = {name: file.get_tensor(name) for name in there}
            return kind(**held, **json.loads(file.metadata()["about"]))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a file of records of {what}: {error}") from error
