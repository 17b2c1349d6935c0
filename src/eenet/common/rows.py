"""Results streamed into a file as they come, CSV, JSON lines or Parquet, resumable; or one JSON document."""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from eenet.common.files import write_atomically

SUFFIXES = (".csv", ".jsonl", ".parquet")
DOCUMENT = ".json"
FIRST = 100


class RowFile:
    """A file of rows, complete after every flush; Parquet and JSON are made of lines beside it at the end.

    with RowFile("answers.csv", ["file", "label"]) as rows:
        rows.write({"file": "a.png", "label": "cat"})
    """

    def __init__(
        self,
        path: str | Path,
        columns: list[str],
        *,
        resume: bool = False,
        document: Callable[[Iterable[Mapping[str, Any]]], Any] | None = None,
    ) -> None:
        """Create the file, or go on with it.

        Args:
            path: ends in .csv, .jsonl or .parquet; with `document` in .json too.
            columns: of the rows; what a row lacks stays empty.
            resume: keep the rows that are there. Without it, a file that is there is an error.
            document: all rows → what a .json file holds.

        Raises:
            FileExistsError: there is such a file, and `resume` isn't given.
            ValueError: unknown suffix, the file can't be written, or it has other columns.
        """
        self.path, self.columns = Path(path), columns
        kind = self.path.suffix.lower()
        known = (*SUFFIXES, DOCUMENT) if document else SUFFIXES
        if kind not in known:
            raise ValueError(f"can't write {path}: the name must end in {', '.join(known)}")
        if kind == DOCUMENT and resume:
            raise ValueError(f"{path} is written whole, so there is nothing to resume; give a .jsonl file")
        self._parquet, self._csv = kind == ".parquet", kind == ".csv"
        self._document = document if kind == DOCUMENT else None
        beside = self._parquet or self._document
        self._streamed = self.path.with_name(self.path.name + ".part.jsonl") if beside else self.path
        if not resume and self.path.exists():
            raise FileExistsError(f"{path} is there already; go on with --resume, or give another --out")
        kept = self._kept() if resume else []
        self.done = {str(row[columns[0]]) for row in kept}
        """First column of the rows that are there."""
        self.first = kept[:FIRST]
        """Some of them; of CSV all values are text."""
        go_on = resume and self._streamed.exists()
        try:
            self._file: IO[str] = self._streamed.open("a" if go_on else "w", newline="", encoding="utf-8")
        except OSError as error:
            raise ValueError(f"can't write {path}: {error.strerror or error}") from error
        self._writer = csv.DictWriter(self._file, columns, restval="", extrasaction="ignore")
        if self._csv and not self._file.tell():
            self._writer.writeheader()
        if not go_on:
            for row in kept:  # of a Parquet file
                self.write(row)
        self._file.flush()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row."""
        if self._csv:
            self._writer.writerow({key: _cell(value) for key, value in row.items()})
        else:
            self._file.write(json.dumps({key: row.get(key) for key in self.columns}) + "\n")

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()
        if self._parquet:
            self._to_parquet()
        if self._document:
            rows = (json.loads(line) for line in self._streamed.read_text(encoding="utf-8").splitlines())
            write_atomically(self.path, (json.dumps(self._document(rows)) + "\n").encode())
            self._streamed.unlink()

    def __enter__(self) -> "RowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _to_parquet(self) -> None:
        import pyarrow
        import pyarrow.parquet

        rows = [json.loads(line) for line in self._streamed.read_text(encoding="utf-8").splitlines()]
        table = pyarrow.table({name: [row.get(name) for row in rows] for name in self.columns})
        temporary = self.path.with_name(f".{self.path.name}.tmp")
        pyarrow.parquet.write_table(table, temporary)
        temporary.replace(self.path)
        self._streamed.unlink()

    def _kept(self) -> list[dict[str, Any]]:
        """Whole rows of an earlier run; a line that was cut off is taken off the file."""
        if self._parquet and self.path.exists() and not self._streamed.exists():
            import pyarrow.parquet

            return self._fitting(pyarrow.parquet.read_table(self.path).to_pylist())
        if not self._streamed.exists():
            return []
        content = self._streamed.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._streamed, len(whole))
        if not self._csv:
            return self._fitting([json.loads(line) for line in whole.decode().splitlines()])
        reader = csv.DictReader(io.StringIO(whole.decode(), newline=""))
        rows = list(reader)
        if reader.fieldnames:
            self._check_columns(list(reader.fieldnames))
        return rows

    def _fitting(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for row in rows[:1]:
            self._check_columns(list(row))
        return rows

    def _check_columns(self, found: list[str]) -> None:
        if found != self.columns:
            raise ValueError(
                f"{self.path} has the columns {', '.join(found)}; this run writes {', '.join(self.columns)}"
            )


def _cell(value: Any) -> Any:
    """Of a CSV file: nothing for none, JSON for lists."""
    if isinstance(value, list | dict):
        return json.dumps(value)
    return "" if value is None else value
