"""Sums of the files of a folder, to notice bits that have changed since."""

import json
import pathlib
import zlib

SUMS_FILE = "crc32.json"  # {name of a file: CRC-32 of its content}
# Orbax rewrites it after a checkpoint is whole; nothing is read from it.
_UNSUMMED = "_CHECKPOINT_METADATA"
_PART = 2**22  # bytes read at a time


def write(folder: pathlib.Path) -> None:
    """Leaves the sums of all files of a folder in it."""
    (folder / SUMS_FILE).write_text(json.dumps(_sums(folder)))


def check(folder: pathlib.Path, only: str = "") -> None:
    """Compares the files of a folder with their sums; without sums nothing is said.

    Args:
      folder: that `write` was called for.
      only: the files whose names begin so.

    Raises:
      ValueError: a file is missing or not as it was written.
      OSError: a file cannot be read.
    """
    try:
        text = (folder / SUMS_FILE).read_text()
    except FileNotFoundError:
        return  # of an earlier version of this package
    there = _sums(folder, only)
    for name, total in json.loads(text).items():
        if not name.startswith(only):
            continue
        if name not in there:
            raise ValueError(f"{name} is missing")
        if there[name] != total:
            raise ValueError(f"{name} is not as it was written")


def _sums(folder: pathlib.Path, only: str = "") -> dict[str, int]:
    sums = {}
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder).as_posix()
        if not name.startswith(only) or file.name in (SUMS_FILE, _UNSUMMED):
            continue
        if file.is_file():
            total = 0
            with file.open("rb") as content:
                while part := content.read(_PART):
                    total = zlib.crc32(part, total)
            sums[name] = total
    return sums
