"""What grain does to each element: choose a clip, then read a batch of clips.

A clip is only a pair (index of the video, first frame) until its batch is read, so that
frames go from the file into the arrays of the batch with no copy in between.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import grain
import numpy as np

from jax_vidpred.data.schema import MASK, START, VIDEO_ID
from jax_vidpred.data.source import VideoSource

PADDING = (-1, 0)  # the clips that fill the last batch
_ORDERS, _STARTS = 0, 1  # streams of random numbers


def clip_span(clip_frames: int, frame_stride: int) -> int:
    """Frames of the video from the first to the last frame of a clip."""
    return (clip_frames - 1) * frame_stride + 1


@dataclasses.dataclass(frozen=True)
class RandomClip(grain.transforms.Map):
    """Position in the endless order of training -> a clip, each start equally likely.

    Every video comes once before any comes again. grain's own shuffle is not used: it
    takes milliseconds for each element where there are few of them.

    Attributes:
      seed: of order and starts.
      videos: [m] indices of the videos to choose from.
      num_starts: [m] how many starts each of them has.
    """

    seed: int
    videos: np.ndarray
    num_starts: np.ndarray

    def map(self, position: int) -> tuple[int, int]:
        order = _order(self.seed, position // len(self.videos), len(self.videos))
        chosen = order[position % len(self.videos)]
        rng = np.random.default_rng((_STARTS, self.seed, position))
        return int(self.videos[chosen]), int(rng.integers(self.num_starts[chosen]))


# A batch may reach from one round into the next, and threads read ahead.
@functools.lru_cache(maxsize=8)
def _order(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng((_ORDERS, seed, epoch)).permutation(size)


@dataclasses.dataclass(frozen=True)
class ReadClips(grain.transforms.Map):
    """Clips (index [b], start [b]) -> the batch, see `schema`.

    MASK, VIDEO_ID and START are always there; where a clip is PADDING, MASK is False
    and everything else zero.
    """

    source: VideoSource
    keys: Sequence[str]
    clip_frames: int
    frame_stride: int

    def map(self, clips: tuple[np.ndarray, np.ndarray]) -> Mapping[str, np.ndarray]:
        index, start = clips
        mask = index != PADDING[0]
        batch = self.source.empty(self.keys, len(index), self.clip_frames)
        for row in np.flatnonzero(mask):
            self.source.read(
                int(index[row]),
                int(start[row]),
                self.frame_stride,
                {key: array[row] for key, array in batch.items()},
            )
        video_ids = np.where(mask, self.source.video_ids[index], 0)
        return batch | {
            MASK: mask,
            VIDEO_ID: video_ids.astype(np.int32),
            START: start.astype(np.int32),
        }
