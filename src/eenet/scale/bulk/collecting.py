"""Answers, as they come, → a folder of parts in input order; a part that is there is whole, and stays."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import csv, fs, parquet

from eenet.scale.bulk.decoding import NUMBER
from eenet.scale.bulk.inputs import Inputs, place_of
from eenet.scale.bulk.tables import TOGETHER

PLAN_FILE = "batch.json"
KEY = "key"


@dataclass(frozen=True)
class Unfinished:
    """Which images have no part yet."""

    rows: int
    """Of a part."""
    done: frozenset[int]
    """Parts that are there."""

    def __call__(self, start: int, end: int) -> NDArray[np.bool_]:
        parts = np.arange(start, end) // self.rows
        return ~np.isin(parts, list(self.done)) if self.done else np.ones(len(parts), bool)


@dataclass
class Tally:
    """What was answered."""

    COLUMNS: ClassVar = ("exit", "relative_cost")
    """Of answers, that it looks at."""

    exits_K: list[int]
    failed: int = 0
    cost: float = 0.0
    """Relative cost, added up."""
    final_images: int = 0
    """That came to the final exit in this run."""
    final_runs: float = 0.0
    """Times the last segment ran for them."""

    @property
    def images(self) -> int:
        return sum(self.exits_K) + self.failed

    def add(self, table: Any) -> None:
        """Count rows of a part."""
        exits = table["exit"].drop_null().to_numpy()
        self.exits_K = [n + int(np.count_nonzero(exits == k)) for k, n in enumerate(self.exits_K)]
        self.failed += table["exit"].null_count
        self.cost += float(np.sum(table["relative_cost"].drop_null().to_numpy(), dtype=np.float64))
        if TOGETHER in table.column_names:
            together_B = table[TOGETHER].to_numpy()
            self.final_images += int(np.count_nonzero(together_B))
            self.final_runs += float(np.sum(1 / together_B[together_B > 0]))


class Folder:
    """Where answers are written, file by file, each whole or not at all."""

    def __init__(self, out: str, kind: str) -> None:
        """`out`: folder, or address in an object store; `kind`: of the files, `parquet` or `csv`."""
        self.out, self._kind = out, kind
        self._filesystem, self._path = place_of(out)

    def names(self) -> set[str]:
        """Of the files that are there; the folder is made if it isn't.

        Raises:
            ValueError: it can't be.
        """
        try:
            self._filesystem.create_dir(self._path, recursive=True)
            found = self._filesystem.get_file_info(fs.FileSelector(self._path))
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"can't write {self.out}: {str(error).splitlines()[0]}") from error
        return {info.base_name for info in found}

    def part_name(self, part: int) -> str:
        return f"part-{part:06}.{self._kind}"

    def read_part(self, part: int, columns: Sequence[str] | None = None) -> Any:
        """A part that is there; of all columns, or some."""
        columns = None if columns is None else list(columns)
        with self._filesystem.open_input_file(f"{self._path}/{self.part_name(part)}") as file:
            if self._kind == "parquet":
                return parquet.read_table(file, columns=columns)
            kinds = {"exit": pa.int16(), "relative_cost": pa.float32()}
            options = csv.ConvertOptions(column_types=kinds, include_columns=columns)
            return csv.read_csv(file, convert_options=options)

    def write_part(self, part: int, table: Any) -> None:
        sink = pa.BufferOutputStream()
        if self._kind == "parquet":
            parquet.write_table(table, sink)
        else:
            csv.write_csv(table, sink)
        self.write(self.part_name(part), sink.getvalue())

    def read(self, name: str) -> bytes:
        with self._filesystem.open_input_stream(f"{self._path}/{name}") as stream:
            return stream.readall()

    def write(self, name: str, content: Any) -> None:
        """Renamed when it is complete; an object store shows no object before."""
        path = f"{self._path}/{name}"
        local = isinstance(self._filesystem, fs.LocalFileSystem)
        target = f"{self._path}/.{name}.tmp" if local else path
        try:
            with self._filesystem.open_output_stream(target) as stream:
                stream.write(content)
            if local:
                self._filesystem.move(target, path)
        except (pa.ArrowException, OSError) as error:
            raise OSError(f"can't write {self.out}/{name}: {str(error).splitlines()[0]}") from error

    def refuse_if_used(self, names: set[str]) -> None:
        """Answers of two runs don't mix."""
        if names:
            raise FileExistsError(
                f"{self.out} is not empty; go on with what is in it with --resume, or give another folder"
            )


class Parts:
    """The answers of a job in input order: which file an image is in depends on its number alone."""

    def __init__(
        self, folder: Folder, inputs: Inputs, *, plan: dict[str, Any], rows: int, key: str | None
    ) -> None:
        """Prepare; `open` it next.

        Args:
            folder: for the answers.
            inputs: what is answered.
            plan: what the answers depend on; a folder with another plan is refused.
            rows: of a part.
            key: column of the inputs that is copied into the answers' column of this name.
        """
        self._folder, self._inputs, self._rows, self._key = folder, inputs, rows, key
        self._plan = {
            "images": inputs.count,
            "inputs": inputs.fingerprint(),
            "rows": rows,
            "key": key,
            **plan,
        }
        self._waiting: dict[int, list[Any]] = {}
        self._seen: dict[int, NDArray[np.bool_]] = {}
        self.done: frozenset[int] = frozenset()

    def check_key(self) -> None:
        """Whether the key column is there.

        Raises:
            ValueError: it isn't.
        """
        key = self._key
        if key is None:
            return
        if not self._inputs.tables:
            raise ValueError(f"image files have no column {key!r}; their names are in the column file")
        table = self._inputs.units[0].table
        filesystem, path = place_of(table)
        with filesystem.open_input_file(path) as opened:
            names = parquet.ParquetFile(opened).schema_arrow.names
        if key not in names:
            raise ValueError(f"{table} has no column {key!r}; it has {', '.join(names)}")

    def open(self, *, resume: bool) -> None:
        """Make the folder, or see which parts are there.

        Raises:
            FileExistsError: something is, and `resume` is off.
            ValueError: what is there comes from another plan, or the folder can't be written.
        """
        names = self._folder.names()
        if not resume:
            self._folder.refuse_if_used(names)
        if PLAN_FILE in names:
            self._check(json.loads(self._folder.read(PLAN_FILE)))
        elif names:
            raise ValueError(f"{self._folder.out} holds no answers to go on with; give another folder")
        else:
            self._folder.write(PLAN_FILE, (json.dumps(self._plan, indent=2) + "\n").encode())
        count = -(-self._inputs.count // self._rows)
        self.done = frozenset(part for part in range(count) if self._folder.part_name(part) in names)

    def _check(self, before: dict[str, Any]) -> None:
        words = {"inputs": "other images", "network": "another network", "policy": "another policy"}
        for name, value in json.loads(json.dumps(self._plan)).items():
            if before.get(name) != value:
                what = words.get(name, f"{name} {before.get(name)}, not {value}")
                raise ValueError(f"{self._folder.out} holds answers for {what}; give another folder")

    def size(self, part: int) -> int:
        """Images of a part."""
        return min(self._rows, self._inputs.count - part * self._rows)

    def add(self, answers: Any) -> list[Any]:
        """Take answers in any order; the parts that are complete by them, which were written."""
        finished = []
        numbers = answers[NUMBER].to_numpy()
        parts = numbers // self._rows
        for part in np.unique(parts).tolist():
            rows = np.flatnonzero(parts == part)
            seen = self._seen.setdefault(part, np.zeros(self.size(part), bool))
            inside = numbers[rows] - part * self._rows
            self._waiting.setdefault(part, []).append(answers.take(pa.array(rows[~seen[inside]])))
            seen[inside] = True
            if seen.all():
                finished.append(self._finish(part))
        return finished

    def close(self) -> list[Any]:
        """Nothing is left: every image was answered."""
        return []

    def _finish(self, part: int) -> Any:
        table = pa.concat_tables(self._waiting.pop(part)).sort_by(NUMBER)
        del self._seen[part]
        start = part * self._rows
        named, answers = self._named(start, start + table.num_rows), table.drop_columns([NUMBER, TOGETHER])
        for name in answers.column_names:
            named = named.append_column(name, answers[name])
        self._folder.write_part(part, named)
        return table

    def _named(self, start: int, end: int) -> Any:
        """The columns that say of what the answers are."""
        files, rows, keys = list[str](), list[int](), list[Any]()
        for unit, a, b in self._inputs.between(start, end):
            files += unit.files[a:b] or [unit.table] * (b - a)
            rows += range(unit.row + a, unit.row + b)
            if self._key is not None:
                filesystem, path = place_of(unit.table)
                with filesystem.open_input_file(path) as opened:
                    table = parquet.ParquetFile(opened).read_row_groups(list(unit.groups), [self._key])
                keys.append(table.slice(a, b - a))
        columns: dict[str, Any] = {"file": pa.array(files, pa.string())}
        if self._inputs.tables:
            columns["row"] = pa.array(rows, pa.int64())
        if self._key is not None:
            columns[KEY] = pa.concat_tables(keys).column(0)
        return pa.table(columns)


class Arrivals:
    """Answers with columns of a user's own, in the order they come."""

    def __init__(self, folder: Folder, rows: int) -> None:
        """Make the folder, which must be empty; `rows`: of a part."""
        folder.refuse_if_used(folder.names())
        self._folder, self._rows, self._count = folder, rows, 0
        self._waiting: list[Any] = []

    def add(self, answers: Any) -> list[Any]:
        """Take answers; the parts that were written."""
        self._waiting.append(answers)
        return self._written(self._rows)

    def close(self) -> list[Any]:
        """The part that was written of the rest, if there was any."""
        return self._written(1)

    def _written(self, least: int) -> list[Any]:
        finished = []
        while sum(table.num_rows for table in self._waiting) >= least:
            table = pa.concat_tables(self._waiting)
            part, rest = table.slice(0, self._rows), table.slice(self._rows)
            self._folder.write_part(self._count, part.drop_columns([TOGETHER]))
            self._waiting, self._count = [rest], self._count + 1
            finished.append(part)
        return finished
