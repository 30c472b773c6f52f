"""Protocols: which frames of which videos are predicted, and at which size.

A protocol names everything that decides about a number besides the system: size and
stride of the frames, how many are given and how many predicted, and the rule that picks
the clips. A rule is a function of the video alone, so anybody gets the same clips.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from jax_vidpred.ops import spread

SPREAD, WITHOUT_ENTRIES, RANDOM = "spread", "without_entries", "random"
RULES = (SPREAD, WITHOUT_ENTRIES, RANDOM)
TWIN = "twin-"  # begins the name of a protocol on simulated videos
Clips = Sequence[Sequence[int]]  # (video id, first raw frame)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """One way to measure.

    Attributes:
      height, width: of the frames, which are the whole picture, squashed.
      stride: raw frames from one frame of a clip to the next.
      num_context, num_future: frames given, and predicted.
      clips: rule that picks the clips of a video, one of RULES.
      clips_per_video: for the rules "spread" and "random".
      ssim: preset of `metrics.frame.SSIM_PRESETS`.
      left_out: ids of videos that do not take part.
    """

    height: int
    width: int
    stride: int
    num_context: int
    num_future: int
    clips: str
    clips_per_video: int = 1
    ssim: str = "wang-gauss"
    left_out: tuple[int, ...] = ()


PROTOCOLS = {
    # Wu et al. 2023: validation videos, at most one clip of each, 128 frames long.
    # It leaves out one whose annotation its authors call broken.
    "slotformer": Protocol(64, 64, 2, 6, 42, WITHOUT_ENTRIES, left_out=(10800,)),
    # Davtyan et al. 2023: windows of 76 raw frames that start anywhere.
    "river": Protocol(128, 128, 5, 2, 14, RANDOM),
    # The PyTorch reference: every frame, clips from the start of each video.
    "reference": Protocol(160, 240, 1, 20, 12, SPREAD, ssim="skimage-default"),
}
PROTOCOLS |= {
    TWIN + name: dataclasses.replace(protocol, left_out=())
    for name, protocol in PROTOCOLS.items()
}


def starts_of(
    rule: str,
    num_frames: int,
    span: int,
    *,
    clips_per_video: int = 1,
    seed: Sequence[int] = (0,),
) -> list[int]:
    """First raw frames of the clips of one video, rising.

    "spread": evenly from frame 0 to the last possible one, so one clip starts at 0.
    "random": drawn without repetition, by `seed`.

    Args:
      rule: SPREAD or RANDOM.
      num_frames: of the video.
      span: raw frames from the first to the last frame of a clip.
      clips_per_video: how many, if the video has as many starts.
      seed: of the draw; should name the video.

    Returns:
      starts; none where the video is shorter than a clip.
    """
    if rule == SPREAD:
        return spread.starts(num_frames, span, clips_per_video).tolist()
    possible = max(num_frames - span + 1, 0)
    count = min(clips_per_video, possible)
    drawn = np.random.default_rng(seed).choice(possible, count, replace=False)
    return sorted(drawn.tolist())


def start_without_entries(
    present: Bool[np.ndarray, "t n"], span: int, *, num_context: int, stride: int
) -> int | None:
    """The first start after which nothing comes into view unforeseen.

    No object comes into view between the third-last frame of the context and the end of
    the clip: what enters later cannot be predicted. This is the rule of SlotFormer's
    CLEVRER protocol (Wu et al. 2023).

    Args:
      present: of every raw frame, which objects are in view.
      span: raw frames from the first to the last frame of a clip.
      num_context: frames of the clip that are given.
      stride: raw frames between them.

    Returns:
      the first raw frame of the clip; None where there is none.
    """
    # enters[t]: some object is in view in frame t + 1 and was not in frame t.
    enters = (present[1:] & ~present[:-1]).any(-1)
    foreseen = max(num_context - 3, 0) * stride
    for start in range(len(present) - span + 1):
        if not enters[start + foreseen : start + span - 1].any():
            return start
    return None


def clips_hash(clips: Clips) -> str:
    """SHA-256 of the exact list of clips, as JSON without spaces at the ends."""
    listed = [[int(video), int(start)] for video, start in clips]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()
