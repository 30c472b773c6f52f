"""The clips that are scored: which videos, which frames of them, read in batches."""

import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_vidpred import experiment
from jax_vidpred.data import builder
from jax_vidpred.data.pipeline import usable_videos
from jax_vidpred.data.schema import (
    COLLISION,
    FLOW,
    PAIRS,
    PRESENT,
    SEGMENTS,
    STATE,
    VIDEO,
    VISIBLE,
    DataError,
)
from jax_vidpred.data.source import VideoSource
from jax_vidpred.data.transforms import Clip, GivenClips, ReadClips, clip_span
from jax_vidpred.data.twin.dataset import write_dataset
from jax_vidpred.evaluation.settings import CUSTOM, Settings
from jax_vidpred.metrics.protocol import (
    TWIN,
    WITHOUT_ENTRIES,
    start_without_entries,
    starts_of,
)
from jax_vidpred.ops import spread

Batch = dict[str, np.ndarray]
EVERYTHING = (VIDEO, FLOW, VISIBLE, SEGMENTS, STATE, PRESENT, COLLISION, PAIRS)


def check_data(
    settings: Settings, section: Mapping[str, Any], data: str | None
) -> None:
    """Whether the protocol is about these data.

    Raises:
      DataError: it is not.
    """
    on_twin = settings.protocol.startswith(TWIN)
    if on_twin and (data or section["root"]):
        raise DataError(
            f"--protocol {settings.protocol} is about the twin, but the data is"
            f" {data or section['root']}; take --protocol"
            f" {settings.protocol.removeprefix(TWIN)} for CLEVRER's own files"
        )
    if settings.protocol != CUSTOM and not on_twin and not (data or section["root"]):
        raise DataError(
            f"--protocol {settings.protocol} is about CLEVRER's own files; name them"
            f" with --data, or take --protocol {TWIN}{settings.protocol}"
        )


def source_of(
    settings: Settings,
    section: Mapping[str, Any],
    folder: pathlib.Path,
    *,
    data: str | None,
    split: str,
    max_videos: int | None = None,
) -> VideoSource:
    """The videos of a split at the size and stride of the settings.

    Args:
      settings: of the evaluation.
      section: `config.data` of the trained system.
      folder: where its work directory keeps data; what is missing is made there.
      data: a folder of CLEVRER files; None = what was trained on, the twin rendered at
        the size of the settings.
      split: which videos.
      max_videos: at most so many, if they have to be made; None = all.

    Raises:
      DataError: there is no such split, or its files cannot be used.
    """
    size, only = (settings.height, settings.width), {split: max_videos}
    as_trained = size == (section["height"], section["width"])
    if data:
        root = pathlib.Path(data)
    elif section["root"] or as_trained:
        root = experiment.data_root(section, folder)
        if as_trained and settings.stride == section["frame_stride"]:
            only = None  # prepared for training, all of it
    else:
        twin = section["twin"]
        count = min(max_videos or math.inf, twin[f"num_{split}"])
        root = folder / f"twin_{settings.height}x{settings.width}_{split}_{count}"
        write_dataset(root, {split: count}, *size, seed=twin["seed"])
    sources = builder.prepare(
        root,
        folder / "prepared",
        height=settings.height,
        width=settings.width,
        grid_stride=section["grid_stride"],
        frame_stride=settings.stride,
        only=only,
    )
    if split not in sources:
        raise DataError(
            f"{data or 'the data of the work directory'} has no split {split!r}; it has"
            f" {', '.join(sources)}: give --split or --data"
        )
    return sources[split]


def fixed_clips(source: VideoSource, settings: Settings) -> list[Clip]:
    """The clips that are scored, in order of their videos.

    Raises:
      DataError: there are none.
    """
    span = clip_span(settings.clip_frames, settings.stride)
    keys = (PRESENT,) if settings.clips == WITHOUT_ENTRIES else (VIDEO,)
    usable = usable_videos(source, keys, settings.clip_frames, settings.stride)
    usable = usable[~np.isin(source.video_ids[usable], settings.left_out)]
    if settings.clips == WITHOUT_ENTRIES:
        clips = [
            (int(index), start)
            for index in usable
            if (start := _first_start(source, int(index), settings)) is not None
        ]
        if not clips:
            raise DataError(
                f"split {source.split!r} has no clip of {settings.clip_frames} frames"
                " in which nothing enters; ask for shorter clips"
            )
        return [clips[i] for i in spread.evenly(len(clips), settings.max_videos)]
    return [
        (int(index), start)
        for index in usable[spread.evenly(len(usable), settings.max_videos)]
        for start in starts_of(
            settings.clips,
            int(source.num_frames[index]),
            span,
            clips_per_video=settings.clips_per_video,
            seed=(settings.seed, int(source.video_ids[index])),
        )
    ]


def _first_start(source: VideoSource, index: int, settings: Settings) -> int | None:
    length = int(source.num_frames[index])
    present = source.empty((PRESENT,), 1, length)[PRESENT][0]
    source.read(index, 0, 1, {PRESENT: present})
    return start_without_entries(
        present,
        clip_span(settings.clip_frames, settings.stride),
        num_context=settings.num_context,
        stride=settings.stride,
    )


def batches(
    source: VideoSource,
    clips: list[Clip],
    settings: Settings,
    label_keys: Sequence[str] = (),
) -> Iterator[tuple[int, Callable[[], Batch]]]:
    """Batches of one shape; what annotations tell is zero where there are none.

    A damaged video is an error: without it the scores would be about other clips than
    those of other systems.

    Args:
      label_keys: of a system that is steered, read besides where they are stored.

    Yields:
      clips done before, and a function that reads the batch; there `known` [b] says
      whose annotation is there, and `labelled` [b] whose labels are. It raises a
      DataError where a video is damaged.
    """
    stored = [key for key in label_keys if key in source.fields]
    keys = tuple(dict.fromkeys([*EVERYTHING, *stored]))
    read = ReadClips(
        source, GivenClips(clips), keys, settings.clip_frames, settings.stride
    )
    videos = [index for index, _ in clips]
    labelled = source.knows(label_keys) & (len(stored) == len(label_keys))
    told = {"known": source.annotated[videos], "labelled": labelled[videos]}

    def batch(done):
        rows = read.map(range(done, done + settings.batch_size))
        for name, values in told.items():
            ours = values[done : done + settings.batch_size]
            rows[name] = np.pad(ours, (0, settings.batch_size - len(ours)))
        return rows

    for done in range(0, len(clips), settings.batch_size):
        yield done, functools.partial(batch, done)
