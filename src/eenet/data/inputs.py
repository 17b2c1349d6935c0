"""Files, directories and globs that a user names → image files."""

import glob
from collections.abc import Sequence
from pathlib import Path

from eenet.data.readers import image_files


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found = image_files(path)
            if not found:
                raise FileNotFoundError(f"no image in the directory {path}")
        elif path.exists() or not glob.has_magic(str(given)):
            found = [path]
        else:
            found = [Path(name) for name in sorted(glob.glob(str(given), recursive=True))]  # noqa: PTH207
            if not found:
                raise FileNotFoundError(f"no file matches {given}")
        files += found
    if not files:
        raise ValueError("give at least one image file, directory or glob")
    return files
