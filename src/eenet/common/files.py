"""Files that are written whole or not at all, errors that name them, the cache."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def blaming(path: Path | str, keys: str) -> Iterator[None]:
    """Name file and keys in a mistake found below."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {keys}: {error}") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name and rename, so that a file is never half written."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"can't write {path}: {error.strerror or error}") from error


def sha256(path: Path) -> str:
    """Of what a file holds, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_directory() -> Path:
    """`$EENET_CACHE`, by default `~/.cache/eenet`. It may not exist yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("EENET_CACHE") or Path(base) / "eenet")
