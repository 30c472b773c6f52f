"""Consistency of one video with itself: VBench's scores and companions without weights.

No truth is compared, so a frozen video wins every one of these scores: each is printed
beside `metrics.motion.motion_energy_ratio`, and beside its value on the true video.

VBench (Huang et al. 2024) reads video files, frames of 0..255; where that matters,
frames are rounded to these levels here too. VBench's number of a data set pools all
frames; for videos of equal length that is the mean over clips.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jax_vidpred.ops.flow import resize_flow
from jax_vidpred.ops.warp import warp

# Value that the leaderboard of VBench shows as 0 and as 1.
LEADERBOARD = {
    "subject_consistency": (0.1462, 1.0),
    "background_consistency": (0.2615, 1.0),
    "motion_smoothness": (0.706, 0.9975),
    "temporal_flickering": (0.6293, 1.0),
}
_SMALLEST_NORM = 1e-12

# (first [b, h, w, 3], second [b, h, w, 3]), in [0, 1] -> the frame midway between
Interpolator = Callable[
    [Float[Array, "b h w 3"], Float[Array, "b h w 3"]], Float[Array, "b h w 3"]
]


def leaderboard_value(name: str, value):
    """(value - low) / (high - low): a score as VBench's leaderboard rescales it.

    Not clipped, so the result may leave [0, 1]. `value` is a number or an array.

    Raises:
      ValueError: `name` is not a key of LEADERBOARD.
    """
    if name not in LEADERBOARD:
        raise ValueError(f"score {name!r}, expected one of {sorted(LEADERBOARD)}")
    low, high = LEADERBOARD[name]
    return (value - low) / (high - low)


def feature_consistency(features: Float[Array, "b t d"]) -> Float[Array, "b"]:
    """VBench's subject and background consistency: two networks, one formula.

    mean over i >= 1 of (max(0, cos(f_i-1, f_i)) + max(0, cos(f_0, f_i))) / 2; in
    [0, 1], higher is better, 1 for equal frames.

    Subject consistency: f_i is the class token of DINO ViT-B/16, of frames resized to
    224 pixels at the shorter side. Background consistency: the image embedding of CLIP
    ViT-B/32, of frames resized (bicubic) and cropped to 224 x 224. That is the whole
    frame, no subject is masked: `free_background_consistency` does what the name says.

    Args:
      features: of every frame; their length does not matter, a vector of zeros is like
        nothing.

    Raises:
      ValueError: fewer than two frames.

    Source: VBench, subject_consistency.py and background_consistency.py.
    """
    _check_length(features, 2, "consistency")
    norm = jnp.linalg.norm(features, axis=-1, keepdims=True)
    features = features / jnp.maximum(norm, _SMALLEST_NORM)
    later = features[:, 1:]
    previous = jnp.einsum("btd,btd->bt", features[:, :-1], later, precision="highest")
    first = jnp.einsum("bd,btd->bt", features[:, 0], later, precision="highest")
    return (jnp.maximum(previous, 0) + jnp.maximum(first, 0)).mean(1) / 2


def free_background_consistency(
    video: Float[Array, "b t h w 3"], occupied: Bool[Array, "b t h w"]
) -> Float[Array, "b"]:
    """Does the background stay as it is, where it can be seen? Needs no weights.

    For frame t >= 1, let F be the pixels that are free in frame 0, in t - 1 and in t:
    neither they nor one of their eight neighbours shows an object. (The pixels around
    an object show a mix of it and the floor, and change as it moves.) Let d(s, t) be
    the mean of |y_s - y_t| over F and channels. The score is the mean over t of
    1 - (d(t-1, t) + d(0, t)) / 2; in [0, 1], higher is better. Frames without a free
    pixel are left out; NaN for a clip that has no other.

    Under a static camera only shadows, reflections and noise of the codec change there:
    the value of the true video says how much.

    Args:
      video: values are clamped to [0, 1]. Frame 0 is what the others are held against,
        so let it be the last frame of the context.
      occupied: True where a frame shows an object, as the video itself has it (not as
        the truth): else an object in a wrong place counts as changed background.

    Raises:
      ValueError: fewer than two frames.

    Source: own; VBench's formula with a distance of pixels for that of features.
    """
    _check_length(video, 2, "consistency")
    video = jnp.clip(video, 0.0, 1.0)
    occupied = lax.reduce_window(
        occupied, False, lax.bitwise_or, (1, 1, 3, 3), (1, 1, 1, 1), "SAME"
    )
    free = ~(occupied[:, :-1] | occupied[:, 1:] | occupied[:, :1])
    previous = jnp.abs(video[:, :-1] - video[:, 1:]).mean(-1)
    first = jnp.abs(video[:, :1] - video[:, 1:]).mean(-1)
    count = free.sum((2, 3))
    change = ((previous + first) / 2 * free).sum((2, 3)) / jnp.maximum(count, 1)
    seen = count > 0
    return ((1 - change) * seen).sum(1) / seen.sum(1)


def temporal_flickering(video: Float[Array, "b t h w c"]) -> Float[Array, "b"]:
    """1 - mean |y_t - y_t+1| over frames, pixels and channels; no weights.

    In [0, 1], higher is calmer, 1 for a frozen video. VBench applies it to scenes that
    should stand still; here objects move, so the true video has less than 1.

    Args:
      video: clamped to [0, 1] and rounded to 255 levels.

    Raises:
      ValueError: fewer than two frames.

    Source: VBench, temporal_flickering.py: (255 - mean absolute difference) / 255.
    """
    _check_length(video, 2, "flickering")
    levels = _levels(video)
    return 1 - jnp.abs(levels[:, 1:] - levels[:, :-1]).mean((1, 2, 3, 4)) / 255


def motion_smoothness(
    video: Float[Array, "b t h w 3"], interpolate: Interpolator
) -> Float[Array, "b"]:
    """Are the odd frames what an interpolator puts between the even ones?

    1 - mean |y_2i+1 - midpoint(y_2i, y_2i+2)| over frames, pixels and channels; in
    [0, 1], higher is smoother, 1 for a frozen video. A last frame of an odd number is
    not used.

    Args:
      video: clamped to [0, 1] and rounded to 255 levels.
      interpolate: VBench's is AMT-S (Li et al. 2023); it is called once, with all pairs
        of all videos as a batch. Its result is rounded to 255 levels.

    Raises:
      ValueError: fewer than three frames.

    Source: VBench, motion_smoothness.py: (255 - mean absolute difference) / 255.
    """
    _check_length(video, 3, "smoothness")
    kept = kept_frames(_levels(video) / 255)
    b, pairs = kept.shape[0], kept.shape[1] - 1
    frame = kept.shape[2:]
    first, second = (
        part.reshape(b * pairs, *frame) for part in (kept[:, :-1], kept[:, 1:])
    )
    return _agreement(video, interpolate(first, second).reshape(b, pairs, *frame))


def flow_smoothness(
    video: Float[Array, "b t h w 3"],
    backward: Float[Array, "b k gh gw 2"],
    forward: Float[Array, "b k gh gw 2"],
) -> Float[Array, "b"]:
    """`motion_smoothness` with `midpoint` as the interpolator: no weights but the flow.

    Args:
      video: clamped to [0, 1] and rounded to 255 levels.
      backward, forward: the flow between each of `kept_frames(video)` and the next, as
        in `midpoint`; in pixels of their own grid, which may be coarser than the
        frames. Flow to the odd frame in between would know what it has to foretell.

    Returns:
      as `motion_smoothness`; it and VBench's value differ by their interpolators.

    Raises:
      ValueError: fewer than three frames, or flow of another number of frames.
    """
    _check_length(video, 3, "smoothness")
    kept = kept_frames(_levels(video) / 255)
    if not backward.shape[1] == forward.shape[1] == kept.shape[1] - 1:
        raise ValueError(
            f"flow of {backward.shape[1]} and {forward.shape[1]} steps; wanted"
            f" {kept.shape[1] - 1}, between the {kept.shape[1]} kept frames"
        )
    return _agreement(video, midpoint(kept[:, :-1], kept[:, 1:], backward, forward))


def kept_frames(video: Float[Array, "b t h w c"]) -> Float[Array, "b m h w c"]:
    """Frames 0, 2, 4, ...: those between which smoothness interpolates."""
    return video[:, ::2]


def midpoint(
    first: Float[Array, "*b h w c"],
    second: Float[Array, "*b h w c"],
    backward: Float[Array, "*b gh gw 2"],
    forward: Float[Array, "*b gh gw 2"],
) -> Float[Array, "*b h w c"]:
    """The frame midway: mean of both neighbours, each moved half of its way.

    (first(p + backward(p) / 2) + second(p + forward(p) / 2)) / 2. It takes the flow at
    the place of its own frame for that of the frame between, so at the edges of fast
    objects each half is wrong on one side.

    Args:
      first, second: two frames.
      backward: lives on the grid of `second` and points back to `first`.
      forward: lives on the grid of `first` and points on to `second`.
    """
    h, w = first.shape[-3:-1]
    backward, forward = (resize_flow(flow, h, w) for flow in (backward, forward))
    return (warp(first, backward / 2) + warp(second, forward / 2)) / 2


def _agreement(video, midpoints):
    odd = _levels(video[:, 1::2])[:, : midpoints.shape[1]]
    return 1 - jnp.abs(odd - _levels(midpoints)).mean((1, 2, 3, 4)) / 255


def _levels(video):
    return jnp.round(jnp.clip(video, 0.0, 1.0) * 255)


def _check_length(video, least, name):
    if video.shape[1] < least:
        raise ValueError(
            f"{name} of {video.shape[1]} frames; it wants at least {least}"
        )
