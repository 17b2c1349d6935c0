"""Files, directories and globs that a user names → image files."""

import glob
from collections.abc import Sequence
from pathlib import Path

from eenet.data.readers import any_image_under, images_under, is_image, is_litter


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """The image files that are meant, in order: a directory stands for all in it and below.

    What systems and tools leave behind is passed over, unless it is named.

    Raises:
        FileNotFoundError: a directory holds no image, or nothing matches a glob.
        ValueError: nothing is given.
    """
    files: list[Path] = []
    for given in inputs:
        path = Path(given)
        if path.exists() or not glob.has_magic(str(given)):
            files += _images_of(path)
        else:
            files += sorted({file for match in _matches(str(given)) for file in _images_of(match)})
    if not files:
        raise ValueError("give at least one image file, directory or glob")
    return files


def _images_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    if not (found := images_under(path)):
        raise FileNotFoundError(f"no image in the directory {path}, nor below it")
    return found


def _matches(pattern: str) -> list[Path]:
    """Images and directories that match, by name; other files if there is no image."""
    fixed = next(i for i, part in enumerate(Path(pattern).parts) if glob.has_magic(part))
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    found = [path for path in found if not any(is_litter(part) for part in path.parts[fixed:])]
    images = [path for path in found if path.is_dir() or is_image(path.name)]
    if not found:
        raise FileNotFoundError(f"no file matches {pattern}")
    return [path for path in images if not path.is_dir() or any_image_under(path)] or found
