"""Prepared videos -> batches: shuffled without end for training, in order to evaluate.

The order is a pure function of (seed, position) for the batches of all processes
together; a process reads its rows of each. So step k sees the same examples for any
number of processes, and all there is to remember is the number of the next step.
"""

from collections.abc import Sequence

import grain
import numpy as np

from jax_vidpred.data.schema import LABEL, MASK, START, VIDEO_ID, DataError
from jax_vidpred.data.skips import Skips
from jax_vidpred.data.source import ANNOTATED_KEYS, FLOW_KEYS, STEP_KEYS, VideoSource
from jax_vidpred.data.transforms import GivenClips, RandomClips, ReadClips, clip_span
from jax_vidpred.ops import spread

ENDLESS = 2**48  # clips; grain computes with floats, so no sys.maxsize
ALWAYS = (MASK, VIDEO_ID, START)


def check_keys(source: VideoSource, keys: Sequence[str]) -> None:
    """Says before any training whether a source can give what a system needs.

    Raises:
      DataError: an unknown key, or one that needs annotations or labels where there
        are none.
    """
    if LABEL in keys and not source.labelled.any():
        raise DataError(
            f"split {source.split!r} has no label pictures, but {LABEL!r} is asked for;"
            f" put them beside the frames (labels/{source.split}/00000/00000.png), or"
            " leave it out"
        )
    for key in keys:
        if key not in source.fields and key not in ALWAYS:
            raise DataError(
                f"key {key!r} is unknown; choose from {sorted(source.fields)}"
            )
    if source.knows(keys).any():
        return
    needy = [key for key in keys if key in (*ANNOTATED_KEYS, *FLOW_KEYS)]
    raise DataError(
        f"split {source.split!r} has no annotated video, but {', '.join(needy)} are"
        " made from annotations; add annotation files, leave these keys out, or make"
        " flow and visible by precompute_flow"
    )


def usable_videos(
    source: VideoSource, keys: Sequence[str], clip_frames: int, frame_stride: int
) -> np.ndarray:
    """Indices of the videos that can give such clips: [m] int64.

    Where a key is made from annotations, only annotated videos can; flow may be stored.
    LABEL is known of labelled videos only.

    Raises:
      DataError: as `check_keys`; a stride that flow was not made for; a video that is
        shorter than a clip.
    """
    check_keys(source, keys)
    pairs = [key for key in keys if key in STEP_KEYS]
    if pairs and frame_stride != source.frame_stride:
        raise DataError(
            f"{', '.join(pairs)} were prepared with frame_stride={source.frame_stride},"
            f" but clips with frame_stride={frame_stride} were asked for; prepare the"
            " data with that stride"
        )
    usable = np.flatnonzero(source.knows(keys))
    span = clip_span(clip_frames, frame_stride)
    shortest = usable[source.num_frames[usable].argmin()]
    if source.num_frames[shortest] < span:
        raise DataError(
            f"video {source.video_ids[shortest]} has {source.num_frames[shortest]}"
            f" frames; {clip_frames} frames at frame_stride={frame_stride} want {span};"
            " ask for shorter clips or leave the video out"
        )
    return usable


def train_batches(
    source: VideoSource,
    *,
    keys: Sequence[str],
    batch_size: int,
    clip_frames: int,
    frame_stride: int = 1,
    seed: int = 0,
    first_step: int = 0,
    skips: Skips | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch_batches: int = 4,
) -> grain.IterDataset:
    """Random clips of shuffled videos, without end.

    Every video comes once, with one clip, before any comes again. Where a clip is
    damaged, another takes its row, and all other rows are what they would have been.

    Args:
      source: where to read.
      keys: the keys that a batch needs besides MASK, VIDEO_ID and START.
      batch_size: clips in a batch of all processes together.
      clip_frames: frames in a clip.
      frame_stride: frames of the video from one frame of the clip to the next.
      seed: of order and starts.
      first_step: the batches before that one are left out, at no cost.
      skips: counts and reports damaged clips; give one to see the count.
      process_index, process_count: which rows of each batch this process reads.
      num_threads, prefetch_batches: how much is read ahead; no threads when both are 0.

    Returns:
      Batches of batch_size / process_count clips.

    Raises:
      DataError: as `usable_videos`, or a batch size that process_count does not divide;
        while reading, most clips are damaged.
    """
    usable = usable_videos(source, keys, clip_frames, frame_stride)
    span = clip_span(clip_frames, frame_stride)
    choose = RandomClips(seed, usable, source.num_frames[usable] - span + 1)
    read = ReadClips(
        source, choose, _stored(keys), clip_frames, frame_stride, skips or Skips()
    )
    rows = _rows_of_process(ENDLESS, batch_size, process_index, process_count)
    return (
        rows[first_step:]
        .map(read)
        .to_iter_dataset(_ahead(num_threads, prefetch_batches))
    )


def eval_batches(
    source: VideoSource,
    *,
    keys: Sequence[str],
    batch_size: int,
    clips: Sequence[tuple[int, int]],
    clip_frames: int,
    frame_stride: int = 1,
    skips: Skips | None = None,
    process_index: int = 0,
    process_count: int = 1,
    num_threads: int = 2,
    prefetch_batches: int = 2,
) -> grain.IterDataset:
    """Given clips, in order, each once.

    The last batch is filled up with zeros, MASK False: all batches have one shape and
    all processes the same number of batches. A damaged clip becomes such a row too.

    Args:
      clips: (index of the video in the source, first frame), see `fixed_clips`.
      Others as in `train_batches`.

    Returns:
      Batches of batch_size / process_count clips; can be iterated any number of times.

    Raises:
      DataError: as `train_batches`; no clips; a clip that the source cannot give.
    """
    usable = usable_videos(source, keys, clip_frames, frame_stride)
    span = clip_span(clip_frames, frame_stride)
    if not clips:
        raise DataError(
            f"no clips of split {source.split!r} given; wanted at least one"
        )
    for index, start in clips:
        if index not in usable or not 0 <= start <= source.num_frames[index] - span:
            raise DataError(
                f"clip (index {index}, start {start}): split {source.split!r} has no"
                f" {span} frames with {', '.join(keys)} there; choose clips with"
                " fixed_clips"
            )
    read = ReadClips(
        source,
        GivenClips(clips),
        _stored(keys),
        clip_frames,
        frame_stride,
        skips or Skips(),
    )
    num_rows = len(clips) + -len(clips) % batch_size
    rows = _rows_of_process(num_rows, batch_size, process_index, process_count)
    return rows.map(read).to_iter_dataset(_ahead(num_threads, prefetch_batches))


def fixed_clips(
    source: VideoSource,
    *,
    keys: Sequence[str],
    clip_frames: int,
    frame_stride: int = 1,
    clips_per_video: int = 1,
    max_videos: int | None = None,
) -> tuple[tuple[int, int], ...]:
    """The same clips (index, start) in every evaluation, spread evenly over a video.

    One clip per video starts at frame 0; k clips start from frame 0 to the last
    possible frame. max_videos takes videos spread evenly over the split.

    Raises:
      DataError: as `usable_videos`.
    """
    usable = usable_videos(source, keys, clip_frames, frame_stride)
    span = clip_span(clip_frames, frame_stride)
    return tuple(
        (int(index), int(start))
        for index in usable[spread.evenly(len(usable), max_videos)]
        for start in spread.starts(int(source.num_frames[index]), span, clips_per_video)
    )


def _stored(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(key for key in keys if key not in ALWAYS)


def _rows_of_process(
    num_rows: int, batch_size: int, process_index: int, process_count: int
) -> grain.MapDataset:
    """Cuts the positions into batches, and each batch into blocks, one per process."""
    if batch_size < 1 or batch_size % process_count:
        raise DataError(
            f"batch_size={batch_size} cannot be shared by {process_count} processes;"
            f" choose a multiple of {process_count}"
        )
    blocks = grain.MapDataset.range(num_rows).batch(batch_size // process_count)
    return blocks[process_index::process_count]


def _ahead(num_threads: int, prefetch_batches: int) -> grain.ReadOptions:
    return grain.ReadOptions(
        num_threads=num_threads, prefetch_buffer_size=prefetch_batches
    )
