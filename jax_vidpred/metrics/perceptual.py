"""LPIPS, and whether a video changes in time as the true one does: tLPIPS, tL1, tOF.

A prediction may look right in every frame and still flicker or stand still. The
temporal metrics compare steps, from one frame to the next, with the same steps of the
truth (TecoGAN, Chu et al. 2020). First each video for itself, the true one once for all
systems that are scored on it, then the two:

    true = changes(truth, last_context, distance), motion(truth, last_context)
    error = change_error_x100(changes(prediction, last_context, distance), true[0])
    tof = motion_error(motion(prediction, last_context), true[1])

TecoGAN has no context and compares steps between predicted frames. Here step t leads to
predicted frame t, and the first one starts from the last frame of the context in both
videos: a jump at the seam counts. All steps and all pixels do (TecoGAN's script leaves
out two frames at both ends and crops to multiples of 32).

Every function gives one number per frame or step, `[b, t]`; averaging is left to the
caller.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_vidpred.metrics.flow import endpoint_errors
from jax_vidpred.ops.farneback import farneback
from jax_vidpred.ops.image import to_uint8

# Of pairs of images [n, h, w, 3] in [0, 1]; `features.lpips.lpips_distance` makes one.
Distance = Callable[[Array, Array], Float[Array, "n"]]

# OpenCV's weights of red, green and blue (ITU-R BT.601), of 2^15 in all.
_GREY_WEIGHTS = (9798, 19235, 3735)


def lpips(
    prediction: Float[Array, "b t h w 3"],
    target: Float[Array, "b t h w 3"],
    distance: Distance,
) -> Float[Array, "b t"]:
    """LPIPS of each frame, distance(y_t, x_t); 0 for equal frames (Zhang et al. 2018).

    Args:
      prediction: values are clamped to [0, 1].
      target: values in [0, 1].
      distance: says which net it is (alex, vgg, squeeze); name it where you report it.
    """
    return _distances(jnp.clip(prediction, 0.0, 1.0), target, distance)


def changes(
    video: Float[Array, "b t h w 3"],
    last_context: Float[Array, "b h w 3"],
    distance: Distance,
) -> Float[Array, "b t"]:
    """How much each frame differs from the one before, distance(v_{t-1}, v_t).

    Args:
      video: frames after the context, true or predicted; clamped to [0, 1].
      last_context: the frame before them; the same for both.
      distance: LPIPS for tLPIPS, `l1` for tL1.
    """
    video = _with_context(video, last_context)
    return _distances(video[:, :-1], video[:, 1:], distance)


def change_error_x100(
    prediction: Float[Array, "b t"], target: Float[Array, "b t"]
) -> Float[Array, "b t"]:
    """tLPIPS or tL1, by the distance in it: 100 |d(y_{t-1}, y_t) - d(x_{t-1}, x_t)|.

    Of each step t; 0 is best. The mean over t, with AlexNet, is TecoGAN's "tLP100".
    A difference of amounts: change in the wrong place costs nothing as long as there is
    as much of it. 0 to 100 for `l1`, without a bound for LPIPS.

    Args:
      prediction, target: from `changes`, with the same distance.
    """
    return 100 * jnp.abs(prediction - target)


def l1(
    first: Float[Array, "n h w c"], second: Float[Array, "n h w c"]
) -> Float[Array, "n"]:
    """Mean absolute difference of images, 0 to 1: a distance that needs no weights."""
    return jnp.abs(first - second).mean((1, 2, 3))


def motion(
    video: Float[Array, "b t h w 3"], last_context: Float[Array, "b h w 3"]
) -> Float[Array, "b t h w 2"]:
    """Flow of each step, from frame t-1 to frame t, seen by Farneback's method.

    Forward flow (x right, y down) in pixels, on the grid of frame t-1: `ops.farneback`
    of grey frames. These are rounded to 8 bits, as those of a video file are.

    Args:
      video, last_context: as for `changes`.
    """
    grey = grey_levels(_with_context(video, last_context)).astype(jnp.float32)
    # Clip by clip: all together do not fit a CPU's cache and take half as long again.
    return jax.lax.map(lambda clip: farneback(clip[None])[0], grey)


def motion_error(
    prediction: Float[Array, "b t h w 2"], target: Float[Array, "b t h w 2"]
) -> Float[Array, "b t"]:
    """tOF: mean over pixels of |OF(y_{t-1}, y_t) - OF(x_{t-1}, x_t)|, Euclidean length.

    Of each step t, in pixels of the frames that were given; 0 is best. TecoGAN reports
    the mean over t. Most pixels of a still scene do not move, so a frozen video scores
    hardly more than the mean speed of the true one: report that beside it.

    Args:
      prediction, target: from `motion`.
    """
    return endpoint_errors(prediction, target).mean((-2, -1))


def grey_levels(video: Float[Array, "*b 3"]) -> Int[Array, "*b"]:
    """0.299 red + 0.587 green + 0.114 blue, 0..255, to the bit as OpenCV rounds it.

    Args:
      video: in [0, 1], rounded to 8 bits first.
    """
    red, green, blue = jnp.moveaxis(to_uint8(video).astype(jnp.int32), -1, 0)
    weighted = sum(
        weight * channel
        for weight, channel in zip(_GREY_WEIGHTS, (red, green, blue), strict=True)
    )
    return (weighted + 2**14) >> 15


def _with_context(video, last_context):
    return jnp.concatenate([last_context[:, None], jnp.clip(video, 0.0, 1.0)], 1)


def _distances(first, second, distance):
    """Of each frame, [b, t]."""
    shape = first.shape[:2]
    first, second = (x.reshape(-1, *x.shape[2:]) for x in (first, second))
    return distance(first, second).reshape(shape)
