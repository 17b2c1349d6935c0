"""Files, directories and globs that a user names → image files and videos, and the frames of these."""

import glob
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from eenet.common import require
from eenet.data.readers import any_image_under, images_under, is_image, is_litter

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv")
FRAME = "#"  # between a video's name and the number of its frame


def find_images(inputs: Sequence[str | Path]) -> list[Path]:
    """The image files that are meant, in order: a directory stands for all in it and below.

    What systems and tools leave behind is passed over, unless it is named. A video counts as one file.

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


def is_video(path: str | Path) -> bool:
    """By its name."""
    return Path(path).suffix.lower() in VIDEOS


def count_frames(path: Path) -> int:
    """How many frames a video says it has, or has.

    Raises:
        FileNotFoundError, ValueError: as `frames`.
    """
    with _opened(path) as video:
        told = video.streams.video[0].frames
    return told or sum(1 for _ in frames(path))


def frames(path: Path) -> Iterator[Any]:
    """The frames of a video as PIL images, one after the other.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it can't be decoded, or PyAV isn't installed.
    """
    number, av = 0, _library()
    try:
        with _opened(path) as video:
            for frame in video.decode(video=0):
                yield frame.to_image()
                number += 1
    except av.FFmpegError as error:
        raise ValueError(f"{path} can't be decoded from frame {number} on: {error.strerror}") from error


def named_image(name: str) -> Any:
    """What a row of answers is about: an image file, a frame such as `clip.mp4#17`, or none if it is gone."""
    if Path(name).is_file():
        return Path(name)
    file, _, number = name.rpartition(FRAME)
    if not (number.isdecimal() and is_video(file) and Path(file).is_file()):
        return None
    return next(islice(frames(Path(file)), int(number), None), None)


def _library() -> Any:
    return require("av", "reading a video", "video")


def _opened(path: Path) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    av = _library()
    try:
        video = av.open(str(path))
    except av.FFmpegError as error:
        raise ValueError(f"{path} is no video that can be read: {error.strerror}") from error
    if not video.streams.video:
        video.close()
        raise ValueError(f"{path} holds no pictures")
    return video
