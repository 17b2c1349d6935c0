"""What of a race is done: a line for each step, written when it is over, so that none is done twice."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eenet.common import write_atomically

JOURNAL_FILE = "race.jsonl"


class Journal:
    """The steps that are over, with what came out, and the seconds that all took."""

    def __init__(self, out: Path, question: dict[str, Any]) -> None:
        """Go on with the race in `out`, or begin one.

        Raises:
            FileExistsError: `out` holds something else.
            ValueError: it holds a race with another question, or the journal is damaged.
        """
        self.path = out / JOURNAL_FILE
        question = json.loads(json.dumps(question))
        if not self.path.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise FileExistsError(f"{out} holds something else than a race; choose another --out")
            out.mkdir(parents=True, exist_ok=True)
            self.lines: list[dict[str, Any]] = [{"step": "question", "seconds": 0.0, "found": question}]
            self._write()
            return
        try:
            self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]
            before = self.lines[0]["found"]
            if any({"step", "seconds", "found"} != line.keys() for line in self.lines):
                raise ValueError("a line lacks a key")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path} is damaged: {error!r}") from error
        if other := [key for key in question if before.get(key) != question[key]]:
            told = ", ".join(f"{key} was {before.get(key)}, is {question[key]}" for key in other)
            raise ValueError(f"{out} holds a race with another question ({told}); choose another --out")

    @property
    def seconds(self) -> float:
        """Of all steps that are over; of a training that was taken up, also those before."""
        return sum(max(line["seconds"], _told(line["found"])) for line in self.lines)

    def found(self, step: str) -> Any:
        """What came out of a step; None if it isn't over."""
        return next((line["found"] for line in self.lines if line["step"] == step), None)

    def once(self, step: str, do: Callable[[], Any]) -> Any:
        """What comes out of a step, which is done only if it wasn't before. It can be written as JSON."""
        if (before := self.found(step)) is not None:
            return before
        began = time.perf_counter()
        found = json.loads(json.dumps(do()))
        seconds = time.perf_counter() - began
        self.lines.append({"step": step, "seconds": round(seconds, 2), "found": found})
        self._write()
        return found

    def _write(self) -> None:
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_atomically(self.path, text.encode())


def _told(found: Any) -> float:
    """Seconds that a step says it took, if it does."""
    return float(found.get("seconds", 0)) if isinstance(found, dict) else 0.0
