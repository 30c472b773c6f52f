"""What grain does to each batch of positions: choose their clips and read them.

A clip is only a pair (index of the video, first frame) until it is read, so that frames
go from the file into the arrays of the batch with no copy in between.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Mapping, Sequence

import grain
import numpy as np

from jax_vidpred.data.schema import MASK, START, VIDEO_ID
from jax_vidpred.data.skips import Skips
from jax_vidpred.data.source import DamagedError, VideoSource

Clip = tuple[int, int]  # index of the video in its source, first frame
PADDING = (-1, 0)  # the clips that fill the last batch
_ORDERS, _STARTS, _INSTEAD = 0, 1, 2  # streams of random numbers


def clip_span(clip_frames: int, frame_stride: int) -> int:
    """Frames of the video from the first to the last frame of a clip."""
    return (clip_frames - 1) * frame_stride + 1


@dataclasses.dataclass(frozen=True)
class RandomClips:
    """Position in the endless order of training -> a clip, each start equally likely.

    Every video comes once before any comes again. grain's own shuffle is not used: it
    takes milliseconds for each element where there are few of them.

    Where the clip cannot be read, `attempt` counts the other clips that are tried in
    its place; the clips of other positions stay what they are.

    Attributes:
      seed: of order and starts.
      videos: [m] indices of the videos to choose from.
      num_starts: [m] how many starts each of them has.
    """

    seed: int
    videos: np.ndarray
    num_starts: np.ndarray

    def __call__(self, position: int, attempt: int) -> Clip:
        if attempt == 0:
            order = _order(self.seed, position // len(self.videos), len(self.videos))
            chosen = order[position % len(self.videos)]
            rng = np.random.default_rng((_STARTS, self.seed, position))
        else:
            rng = np.random.default_rng((_INSTEAD, self.seed, position, attempt))
            chosen = rng.integers(len(self.videos))
        return int(self.videos[chosen]), int(rng.integers(self.num_starts[chosen]))


# A batch may reach from one round into the next, and threads read ahead.
@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((_ORDERS, seed, epoch)).permutation(size)


@dataclasses.dataclass(frozen=True)
class GivenClips:
    """Position -> the clip there; PADDING behind the end and where it is damaged."""

    clips: Sequence[Clip]

    def __call__(self, position: int, attempt: int) -> Clip:
        if attempt or position >= len(self.clips):
            return PADDING
        return self.clips[position]


@dataclasses.dataclass(frozen=True)
class ReadClips(grain.transforms.Map):
    """Positions [b] -> the batch of their clips, see `schema`.

    MASK, VIDEO_ID and START are always there; where a clip is PADDING, MASK is False
    and everything else zero.

    Attributes:
      source: where to read.
      choose: (position, attempt) -> the clip; attempts count from 0.
      keys, clip_frames, frame_stride: what is read of a clip.
      skips: counts the clips that are damaged, and then the next attempt is made; when
        None, the first one is an error (`DamagedError`).
    """

    source: VideoSource
    choose: Callable[[int, int], Clip]
    keys: Sequence[str]
    clip_frames: int
    frame_stride: int
    skips: Skips | None = None

    def map(self, positions: Sequence[int]) -> Mapping[str, np.ndarray]:
        batch = self.source.empty(self.keys, len(positions), self.clip_frames)
        # All first: between reads, with cold caches, choosing takes twice as long.
        clips = [self.choose(int(position), 0) for position in positions]
        for row, position in enumerate(positions):
            into = {key: array[row] for key, array in batch.items()}
            clips[row] = self._read(clips[row], int(position), into)
        index, start = np.array(clips).T
        mask = index != PADDING[0]
        video_ids = np.where(mask, self.source.video_ids[index], 0)
        return batch | {
            MASK: mask,
            VIDEO_ID: video_ids.astype(np.int32),
            START: start.astype(np.int32),
        }

    def _read(self, clip: Clip, position: int, into: Mapping[str, np.ndarray]) -> Clip:
        """Reads a clip, or the one in its place; says which it was."""
        for attempt in itertools.count(1):
            if clip == PADDING:
                for array in into.values():
                    array[...] = 0  # a damaged clip may have left something
                return clip
            try:
                self.source.read(*clip, self.frame_stride, into)
            except DamagedError as error:
                if self.skips is None:
                    raise
                self.skips.note_damaged(error)
                clip = self.choose(position, attempt)
            else:
                if self.skips is not None:
                    self.skips.note_read()
                return clip
