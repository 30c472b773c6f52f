"""Data roots with a folder per split: of frames as pictures, or of HDF5 files.

    ROOT/train/00000/00000.png        or    ROOT/train/shard_0001.hdf5
    ROOT/val/00000/00000.png                ROOT/val/shard_0001.hdf5
    ROOT/labels/train/00000/00000.png       pictures of what is to be seen, optional

The layouts that users of RIVER have (its README), see `h5_files` for the second. The
files come from anywhere, so nothing outside of the root is read, whatever links say.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from jax_vidpred.data.schema import DataError
from jax_vidpred.data.video_io import H5_SUFFIXES, IMAGE_SUFFIXES, picture_files

SPLIT_FOLDERS = {
    "train": "train",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}
LABELS = "labels"
MAX_DIGITS = 9  # of a number that int32 can hold


def index_splits(root: pathlib.Path) -> dict[str, dict[int, pathlib.Path]]:
    """The videos of each split, by number, in rising order.

    A folder's name is the number of its video. Where not all names of a split are
    numbers, the videos are counted in the order of their names. Those of HDF5 files are
    counted through all files of the split.

    Returns:
      For each split that has videos: number -> folder of pictures, or the place in an
      HDF5 file (`FILE/KEY`).

    Raises:
      DataError: a split, or a number, is there twice.
    """
    found: dict[str, dict[int, pathlib.Path]] = {}
    for name, split in SPLIT_FOLDERS.items():
        folder = root / name
        videos = _index_split(folder) if folder.is_dir() else {}
        if videos and split in found:
            raise DataError(
                f"{root}: split {split!r} is there twice, val and validation; keep one"
                " of them"
            )
        if videos:
            found[split] = videos
    return found


def _index_split(folder: pathlib.Path) -> dict[int, pathlib.Path]:
    shards, videos = [], []
    for entry in os.scandir(folder):
        if entry.name.startswith((".", "__MACOSX")):
            continue
        path = folder / entry.name
        if path.suffix.lower() in H5_SUFFIXES and entry.is_file():
            shards.append(path)
        elif entry.is_dir():
            videos.append(path)
    if shards and videos:
        raise DataError(
            f"{folder}: holds HDF5 files ({shards[0].name}) and folders of frames"
            f" ({videos[0].name}); keep one of the two"
        )
    if shards:
        # Not everybody has HDF5 files, and its library takes time to load.
        from jax_vidpred.data import h5_files

        return dict(enumerate(h5_files.index_shards(sorted(shards))))
    videos.sort()
    if not all(_is_number(path.name) for path in videos):
        return dict(enumerate(videos))
    numbered: dict[int, pathlib.Path] = {}
    for path in sorted(videos, key=lambda path: int(path.name)):
        other = numbered.setdefault(int(path.name), path)
        if other != path:
            raise DataError(
                f"video {int(path.name)} is there twice, {other} and {path}; keep one"
                " of them"
            )
    return numbered


def index_labels(
    root: pathlib.Path, videos: dict[str, dict[int, pathlib.Path]]
) -> dict[tuple[str, int], pathlib.Path]:
    """The label pictures of (split, number), where there are any.

    Those in HDF5 files are those of the same key in the file of the same name: what
    stands in one that is damaged is not counted.

    Raises:
      DataError: as `index_splits`; names that are no numbers differ from the videos'.
    """
    labels = {}
    for split, places in index_splits(root / LABELS).items():
        by_key = {_key(place): place for place in places.values() if _key(place)}
        for number, video in videos.get(split, {}).items():
            in_files = by_key and _key(video)
            place = by_key.get(_key(video)) if in_files else places.get(number)
            if place is None:
                continue
            names = {place.name, video.name}
            if len(names) > 1 and not all(map(_is_number, names)):
                raise DataError(
                    f"{place} would be the labels of {video}: names that are no"
                    " numbers must be the same on both sides; rename the folders"
                )
            labels[split, number] = place
    return labels


def check_frames(
    folder: pathlib.Path, suffixes: Sequence[str] = IMAGE_SUFFIXES
) -> None:
    """Whether the pictures of a video are all there, and its own.

    Raises:
      DataError: a name without number, a number twice, a gap, or a link that leads out
        of the root.
    """
    check_inside(folder)
    before = None
    for path in picture_files(folder, suffixes):
        digits = path.stem[len(path.stem.rstrip("0123456789")) :]
        if not digits:
            raise DataError(
                f"{path}: frames are named by their numbers, as 00000.png; rename or"
                " remove it"
            )
        name = (path.stem.removesuffix(digits), int(digits))
        if before is not None and name != (before[0], before[1] + 1):
            raise DataError(
                f"{path}: wanted frame {before[1] + 1} after {before[1]}; number the"
                " frames of a video without gaps, in one file format"
            )
        if path.is_symlink():
            check_inside(path, folder.parents[1])
        before = name


def write_frames(folder: pathlib.Path, video: UInt8[np.ndarray, "t h w 3"]) -> None:
    """Writes the frames of a video as 00000.png, 00001.png, ...

    Raises:
      DataError: they cannot be written.
    """
    try:
        folder.mkdir(parents=True)
        for at, frame in enumerate(video):
            Image.fromarray(frame).save(folder / f"{at:05d}.png")
    except OSError as error:
        raise DataError(
            f"{folder}: cannot be written ({error.strerror or error}); free space or"
            " choose another folder"
        ) from error


def check_inside(path: pathlib.Path, root: pathlib.Path | None = None) -> None:
    """Refuses a link that leads out of the root, which is two levels up.

    Raises:
      DataError: it does.
    """
    root = root or path.parents[1]
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{path}: leads out of {root}, and such links are not followed; copy what"
            " it names there"
        )


def _key(place: pathlib.Path) -> tuple[str, str] | None:
    """File and key of a video in an HDF5 file."""
    is_h5 = place.parent.suffix.lower() in H5_SUFFIXES
    return (place.parent.name, place.name) if is_h5 else None


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal() and len(name) <= MAX_DIGITS
