"""Choices that are spread evenly: the same every time, and of the whole."""

import numpy as np
from jaxtyping import Int


def evenly(size: int, count: int | None) -> Int[np.ndarray, "n"]:
    """Indices of `count` of `size` items, evenly spread; of all of them where None."""
    if count is None or count >= size:
        return np.arange(size)
    return np.arange(count) * size // count


def starts(num_frames: int, span: int, count: int) -> Int[np.ndarray, "n"]:
    """First frames of `count` clips, evenly from frame 0 to the last possible one.

    Args:
      num_frames: of the video.
      span: frames from the first to the last frame of a clip.
      count: how many; fewer where the video has not as many starts.

    Returns:
      rising; none where the video is shorter than a clip.
    """
    possible = num_frames - span + 1
    if possible < 1:
        return np.zeros(0, int)
    return np.unique(np.linspace(0, possible - 1, count).astype(int))
