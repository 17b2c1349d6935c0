"""What lies in a folder: images and folders, without what systems and tools leave behind."""

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
_LITTER = {
    "__macosx", "__pycache__", "@eadir", "@recycle", "#recycle", "#snapshot", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip


def is_litter(name: str) -> bool:
    """Whether a file or folder of this name is no data anywhere: hidden, or left by a system or a tool."""
    return name.startswith(".") or name.lower() in _LITTER


def is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_litter(name)  # noqa: PTH122


def images_in(directory: Path) -> list[Path]:
    """The image files in a directory itself, by name."""
    return sorted(p for p in directory.iterdir() if is_image(p.name) and p.is_file())


def images_under(directory: Path) -> list[Path]:
    """The image files in a directory and in all folders below it, folder by folder; links are followed."""
    return [Path(folder, name) for folder, name in sorted(_walk(directory)) if is_image(name)]


def any_image_under(directory: Path) -> bool:
    return any(is_image(name) for _, name in _walk(directory))


def folders_in(directory: Path) -> list[Path]:
    """The folders in a directory itself, by name."""
    found = (p for p in directory.iterdir() if p.is_dir() and not is_litter(p.name))
    return sorted(found, key=lambda path: path.name)


def _walk(directory: Path) -> Iterator[tuple[str, str]]:
    for folder, names, files in os.walk(directory, followlinks=True):
        names[:] = sorted(name for name in names if not is_litter(name) and not _leads_back(folder, name))
        yield from ((folder, name) for name in files)


def _leads_back(folder: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    path = Path(folder, name)
    return path.is_symlink() and Path(folder).resolve().is_relative_to(path.resolve())
