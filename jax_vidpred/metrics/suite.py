"""What is measured on every predicted clip, in one call."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_vidpred.metrics import frame
from jax_vidpred.ops.flow import endpoint_distance

SSIM_PRESET = "wang"
# Flow faster than this, in cells of its grid per step, counts as motion.
MOVING_CELLS = 0.05


def frame_scores(
    prediction: Float[Array, "b t h w 3"],
    truth: Float[Array, "b t h w 3"],
    last_context: Float[Array, "b h w 3"],
) -> dict[str, Float[Array, "b t"] | Float[Array, "b"]]:
    """Fidelity of predicted frames.

    Returns:
      `psnr` and `ssim` (preset SSIM_PRESET) of each frame [b, t], and of each clip [b]
      `psnr_moving`, see `psnr_moving`. Frames too small for the window of SSIM have
      none.
    """
    scores = {
        "psnr": frame.psnr(prediction, truth),
        "psnr_moving": psnr_moving(prediction, truth, last_context),
    }
    if min(truth.shape[2:4]) >= len(frame.SSIM_PRESETS[SSIM_PRESET].weights):
        scores["ssim"] = frame.ssim(prediction, truth, preset=SSIM_PRESET)
    return scores


def psnr_moving(
    prediction: Float[Array, "b t h w 3"],
    truth: Float[Array, "b t h w 3"],
    last_context: Float[Array, "b h w 3"],
) -> Float[Array, "b"]:
    """PSNR over all moving pixels of a clip's future together.

    Pooled before the logarithm: frames with hardly a moving pixel would otherwise count
    as much as others. NaN for a clip in which nothing moves.
    """
    moving = frame.moving_pixels(truth, last_context)
    error = jnp.square(jnp.clip(prediction, 0.0, 1.0) - truth).mean(-1, keepdims=True)
    pooled = (error * moving).sum((1, 2, 3, 4)) / moving.sum((1, 2, 3, 4))
    # `maximum` hands on the NaN of 0 / 0.
    return -10.0 * jnp.log10(jnp.maximum(pooled, 10.0 ** (-frame.PSNR_MAX / 10.0)))


def moving_flow_error(
    prediction: Float[Array, "b k gh gw 2"],
    truth: Float[Array, "b k gh gw 2"],
    width: int,
    known: Bool[Array, "b"],
) -> Float[Array, "b k"]:
    """End-point error of each step, mean over the cells that move in truth.

    Args:
      prediction, truth: in cells of the grid.
      width: of the frames; the result is in their pixels (cells are square).
      known: clips whose true flow is known.

    Returns:
      pixels per step; NaN where nothing moves or the truth is not known.
    """
    moves = jnp.linalg.norm(truth, axis=-1) > MOVING_CELLS
    distance = endpoint_distance(prediction, truth) * (width / truth.shape[-2])
    error = (distance * moves).sum((-2, -1)) / moves.sum((-2, -1))
    return jnp.where(known[:, None], error, jnp.nan)
