"""Command: videos of any layout into the HDF5 files that RIVER reads, and back to PNG.

    python -m jax_vidpred.convert_h5 --data_dir frames/ --out_dir h5/ --image_size 128
    python -m jax_vidpred.convert_h5 --data_dir h5/ --out_dir frames/ --to png

A split appears at once, when it is whole. The same line again goes on with the splits
that are missing. What could not be used is left out and listed in convert_h5.json.
"""

import argparse
import contextlib
import functools
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jax_vidpred import command
from jax_vidpred.data.builder import fingerprint
from jax_vidpred.data.clevrer import Files, index_files, read_or_error, read_pictures
from jax_vidpred.data.frame_folders import LABELS, write_frames
from jax_vidpred.data.h5_files import ShardWriter
from jax_vidpred.data.lock import one_at_a_time
from jax_vidpred.data.records import VIDEOS_PER_WORKER
from jax_vidpred.data.schema import LABEL, VIDEO, DataError
from jax_vidpred.data.video_io import IMAGE_SUFFIXES, write_whole
from jax_vidpred.data.workers import ordered_map

LEDGER = "convert_h5.json"
FOLDERS = {"train": "train", "validation": "val", "test": "test"}


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line; options have the names that RIVER's converter gives them."""
    parser = argparse.ArgumentParser(
        prog="python -m jax_vidpred.convert_h5",
        description="Pack videos into the HDF5 files that RIVER reads, or unpack them.",
    )
    add = parser.add_argument
    add("--data_dir", required=True, help="folder of videos in any layout")
    add("--out_dir", required=True, help="folder for train, val and test")
    add("--image_size", type=int, help="side of the square frames (as they are)")
    add(
        "--extension",
        choices=[suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES],
        help="of frames in folders; others are left out (any)",
    )
    add("--to", choices=("h5", "png"), default="h5", help="what to make (h5)")
    add("--workers", type=int, help="processes that read (one per core)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parse_arguments(arguments)
    return command.run("convert_h5", lambda: _main(options))


def _main(options: argparse.Namespace) -> int:
    if options.image_size is not None and options.image_size < 1:
        raise DataError(f"--image_size {options.image_size}: wanted 1 or more")
    found = index_files(options.data_dir)
    out = pathlib.Path(options.out_dir)
    with one_at_a_time(out):
        made_from = {
            split: {
                "files": fingerprint(options.data_dir, {split: files}),
                "image_size": options.image_size,
                "extension": options.extension,
                "to": options.to,
            }
            for split, files in found.items()
        }
        ledger = _read_ledger(out)
        # All of them before any work.
        missing = [s for s in found if not _is_whole(out, ledger, s, made_from[s])]
        with command.progress() as show:
            for split in missing:
                with _part_of(out, split) as parts:
                    report = _convert(options, split, found[split], parts, show)
                    ledger[split] = {"made_from": made_from[split], **report}
                    write_whole(out / LEDGER, json.dumps(ledger, indent=1).encode())
    counts = ", ".join(f"{FOLDERS[split]} {ledger[split]['videos']}" for split in found)
    print(
        f"{sum(ledger[split]['videos'] for split in found)} videos ({counts}) in {out}"
        f" ({len(missing)} of {len(found)} splits made now)"
    )
    skipped = [row for split in found for row in ledger[split]["skipped"]]
    if skipped:
        command.say(
            f"convert_h5: left out {len(skipped)} videos that cannot be used; the"
            f" first: {skipped[0]} (all in {out / LEDGER})"
        )
    return 0


def _convert(
    options: argparse.Namespace,
    split: str,
    files: Sequence[Files],
    parts: dict[str, pathlib.Path],
    show: Callable[[str, int, int], None],
) -> dict[str, Any]:
    """Writes a split into the folders of `parts`: its VIDEO and LABEL.

    Returns:
      How many `videos` were written, and why others were `skipped`.

    Raises:
      DataError: none can be used, or the result cannot be written.
    """
    size = options.image_size
    suffixes = (f".{options.extension}",) if options.extension else IMAGE_SUFFIXES
    read = functools.partial(
        read_or_error, read=read_pictures, size=size and (size, size), suffixes=suffixes
    )
    workers = min(
        options.workers or os.cpu_count() or 1, len(files) // VIDEOS_PER_WORKER
    )
    labelled = any(one.label for one in files)
    keys = (VIDEO, LABEL) if labelled else (VIDEO,)
    videos, skipped = 0, []
    with contextlib.ExitStack() as stack:
        results = stack.enter_context(
            contextlib.closing(ordered_map(read, files, workers))
        )
        write = {key: _writer(stack, options.to, parts[key]) for key in keys}
        for index, (one, arrays) in enumerate(zip(files, results, strict=True)):
            show(f"converting {FOLDERS[split]}", index, len(files))
            if options.to == "h5" and labelled and one.label is None:
                # Videos are counted there: its labels would be those of the next one.
                arrays = DataError(f"{one.video}: has no labels, but others have them")
            if isinstance(arrays, DataError):
                skipped.append(str(arrays))
                continue
            for key, array in arrays.items():
                write[key](one.video_id, array)
            videos += 1
        show(f"converting {FOLDERS[split]}", len(files), len(files))
    if not videos:
        raise DataError(
            f"none of the {len(files)} videos of split {split!r} can be used; the"
            f" first: {skipped[0]}"
        )
    return {"videos": videos, "skipped": skipped}


def _writer(
    stack: contextlib.ExitStack, to: str, folder: pathlib.Path
) -> Callable[[int, np.ndarray], None]:
    """A function that writes the video of a number into a folder."""
    folder.mkdir(parents=True)
    if to == "png":
        return lambda number, video: write_frames(folder / f"{number:05d}", video)
    shards = stack.enter_context(ShardWriter(folder))
    return lambda number, video: shards.add(video)


def _places(out: pathlib.Path, split: str) -> dict[str, pathlib.Path]:
    name = FOLDERS[split]
    return {LABEL: out / LABELS / name, VIDEO: out / name}


def _is_whole(
    out: pathlib.Path, ledger: dict[str, Any], split: str, made_from: dict[str, Any]
) -> bool:
    """Whether a split is there.

    Raises:
      DataError: another one is in its place.
    """
    there = [place for place in _places(out, split).values() if place.exists()]
    if there and ledger.get(split, {}).get("made_from") != made_from:
        raise DataError(
            f"{there[0]} is there already, and was not made of these files with these"
            " options; delete it or choose another --out_dir"
        )
    return _places(out, split)[VIDEO] in there


@contextlib.contextmanager
def _part_of(out: pathlib.Path, split: str) -> Iterator[dict[str, pathlib.Path]]:
    """Folders to write VIDEO and LABEL to, which appear as the split in the end."""
    places = _places(out, split)
    part = out / f".{FOLDERS[split]}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a killed run
    try:
        parts = {key: part / key for key in places}
        yield parts
        for key, place in places.items():
            if parts[key].exists():
                shutil.rmtree(place, ignore_errors=True)  # labels of a killed run
                place.parent.mkdir(exist_ok=True)
                parts[key].rename(place)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read_ledger(out: pathlib.Path) -> dict[str, Any]:
    path = out / LEDGER
    if not path.exists():
        return {}
    try:
        ledger = json.loads(path.read_text())
        for row in ledger.values():
            int(row["videos"]), list(row["skipped"]), dict(row["made_from"])
        return ledger
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}); delete it and the splits beside"
            " it, or choose another --out_dir"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
