"""Files of videos -> a prepared data set, made once and used again.

The videos under a folder, their annotations, labels and stored flow become files of
records (see `records`), in a folder that is named after all that it was made from.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import math
import os
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import tensorflow_datasets as tfds
from absl import logging

from jax_vidpred.data.clevrer import Files, choose_files
from jax_vidpred.data.flow_files import FlowGrid, find_flow
from jax_vidpred.data.lock import one_at_a_time
from jax_vidpred.data.records import Clevrer, ClevrerConfig, say
from jax_vidpred.data.schema import NUM_FRAMES, DataError
from jax_vidpred.data.source import VideoSource


def prepare(
    root: str | os.PathLike,
    out: str | os.PathLike,
    *,
    height: int,
    width: int,
    grid_stride: int,
    frame_stride: int = 1,
    compression: Literal["uncompressed", "zstd"] = "uncompressed",
    num_workers: int | None = None,
    only: Mapping[str, int | None] | None = None,
) -> dict[str, VideoSource]:
    """The videos under a folder as sources to read clips from.

    What is prepared already is used again, if the files (names, sizes, times) and the
    settings are the same; else it is made, and appears at once or not at all. Files
    that cannot be used are skipped, counted and listed in `skipped.json`.

    Processes that call it at once take turns: the first makes it, the others wait and
    use it. What a killed run has left behind is removed by the next.

    Args:
      root: folder of videos in any layout that `clevrer.index_files` knows.
      out: folder for prepared data sets.
      height, width: of the stored frames, in pixels.
      grid_stride: pixels per cell of the grid that flow and visibility live on.
      frame_stride: frames between the two frames that flow, visibility and collisions
        are about.
      compression: a video takes height * width * 0.53 KiB uncompressed, with "zstd"
        10 times less, but reading takes 1.6 times as long.
      num_workers: processes that read files; as many as there are cores when None.
      only: split -> how many of its videos, spread evenly; None = all.

    Returns:
      A source for each split that has videos.

    Raises:
      DataError: no videos, none that can be used, sizes that the grid does not divide,
        or no room for the result.
    """
    for name, size in (("height", height), ("width", width)):
        if size < grid_stride or size % grid_stride:
            raise DataError(
                f"{name}={size} is no multiple of grid_stride={grid_stride}; choose"
                f" {max(size // grid_stride, 1) * grid_stride}"
            )
    grid = FlowGrid(height, width, grid_stride, frame_stride)
    files = {
        split: [_with_flow(root, grid, one) for one in videos]
        for split, videos in choose_files(root, only).items()
    }
    config = ClevrerConfig(
        name=f"{grid.name}_{compression}_{fingerprint(root, files)}",
        height=height,
        width=width,
        grid_stride=grid_stride,
        frame_stride=frame_stride,
        compression=compression,
        files=files,
        num_workers=num_workers or os.cpu_count() or 1,
    )
    out = os.path.abspath(out)
    with _quiet_tfds(), one_at_a_time(_folder(out, config)):
        sources = _open(out, config)
        if sources is None:
            _build(out, config)
            sources = _open(out, config)
    if sources is None:
        raise DataError(
            f"{_folder(out, config)} was made, but cannot be read; choose another"
            " folder"
        )
    return sources


def _with_flow(root: str | os.PathLike, grid: FlowGrid, files: Files) -> Files:
    """Adds stored flow, where it cannot be cast."""
    if files.annotation is not None:
        return files
    flow = find_flow(root, grid, files.video_id, files.split)
    return dataclasses.replace(files, flow=flow)


def _folder(out: str, config: ClevrerConfig) -> pathlib.Path:
    return pathlib.Path(out) / Clevrer.name / config.name


def _build(out: str, config: ClevrerConfig) -> None:
    folder = _folder(out, config)
    shutil.rmtree(folder, ignore_errors=True)  # damaged, or of a killed run
    try:
        builder = Clevrer(data_dir=out, config=config)
        builder.download_and_prepare(
            file_format="array_record",
            download_dir=folder / "downloads",  # stays empty
            download_config=tfds.download.DownloadConfig(try_download_gcs=False),
        )
    except OSError as error:
        reason = str(error).split(";")[0]  # ArrayRecord goes on about its parts
        raise DataError(
            f"{folder}: cannot be written ({reason}){_room(out, config)}; free space or"
            " choose another folder"
        ) from error
    num_videos = {s: len(v) for s, v in builder.info.metadata["videos"].items()}
    skipped = [row for rows in builder.skipped.values() for row in rows]
    counts = ", ".join(f"{split} {count}" for split, count in num_videos.items())
    say(f"Prepared {sum(num_videos.values())} videos ({counts}) in {folder}")
    if skipped:
        say(
            f"Skipped {len(skipped)} videos that cannot be used; the first:"
            f" {skipped[0][1]} (all in {builder.data_path / 'skipped.json'})"
        )


def _room(out: str, config: ClevrerConfig) -> str:
    """How much there is, and about how much it takes: videos have 128 frames."""
    a_frame = sum(
        math.prod(field.shape) * np.dtype(field.stored).itemsize
        for field in config.fields.values()
    )
    wanted = a_frame * NUM_FRAMES * sum(map(len, config.files.values()))
    try:
        free = shutil.disk_usage(out).free
    except OSError:
        return ""
    return (
        f": it takes about {wanted / 2**20:.1f} MiB if not compressed, and"
        f" {free / 2**20:.1f} MiB are free"
    )


def _open(out: str, config: ClevrerConfig) -> dict[str, VideoSource] | None:
    """A source for each split; None where the data set is absent or not whole."""
    folder = _folder(out, config)
    sources = {}
    try:
        builder = Clevrer(data_dir=out, config=config)
        if not builder.is_prepared():
            return None
        metadata = builder.info.metadata
        for split, videos in metadata["videos"].items():
            labelled = metadata["labelled"][split] if config.labels else []
            records = builder.as_data_source(
                split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
            )
            for end in np.cumsum(builder.info.splits[split].shard_lengths):
                records[end - 1]  # opens the file: it is there and not cut short
            video_ids, num_frames, annotated, flow_source = zip(*videos, strict=True)
            sources[split] = VideoSource(
                split=split,
                records=records,
                fields=config.fields,
                frame_stride=config.frame_stride,
                video_ids=np.array(video_ids, np.int32),
                num_frames=np.array(num_frames, np.int32),
                annotated=np.array(annotated, bool),
                labelled=np.isin(video_ids, labelled),
                flow_source=flow_source,
                fingerprint=config.name,
                folder=os.fspath(folder),
            )
    except Exception as error:  # TFDS raises of all kinds, AssertionError too
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        say(f"{folder} is damaged ({reason}); it is made again")
        return None
    return sources


@contextlib.contextmanager
def _quiet_tfds():
    """Without TFDS' own progress bars, banners and advice; errors still pass."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()
        logging.set_verbosity(verbosity)


def fingerprint(root: str | os.PathLike, files: Mapping[str, Sequence[Files]]) -> str:
    """A short hash of the names, sizes and times of all files that are read."""
    digest = hashlib.sha256()
    for one in itertools.chain(*files.values()):
        for path in (one.video, one.annotation, one.flow, one.label):
            if path is None:
                continue
            for part in sorted(path.iterdir()) if path.is_dir() else [path]:
                stat = _stat(part)
                row = (str(part.relative_to(root)), stat.st_size, int(stat.st_mtime))
                digest.update(repr(row).encode())
    return digest.hexdigest()[:12]


def _stat(path: pathlib.Path) -> os.stat_result:
    try:
        return path.stat()
    except NotADirectoryError:  # a video in an HDF5 file
        return path.parent.stat()
    except FileNotFoundError:  # a link to nothing: reading will say so
        return path.lstat()
