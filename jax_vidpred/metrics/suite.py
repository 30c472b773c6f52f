"""What is measured on every predicted clip, in one call."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_vidpred.metrics import consistency, frame, motion, perceptual
from jax_vidpred.ops.flow import endpoint_distance

# Flow faster than this, in cells of its grid per step, counts as motion.
MOVING_CELLS = 0.05
# A clip with less motion, in pixels on average, has none to be compared with: noise of
# the codec and the border effects of Farneback's method. Twin clips have 0.2.
LEAST_MOTION = 0.01


class TrueSteps(flax.struct.PyTreeNode):
    """What the true video does from frame to frame: once for all that is scored on it.

    Attributes:
      change: see `perceptual.changes`, in L1.
      motion: see `perceptual.motion`.
    """

    change: Float[Array, "b t"]
    motion: Float[Array, "b t h w 2"]


def true_steps(
    truth: Float[Array, "b t h w 3"], last_context: Float[Array, "b h w 3"]
) -> TrueSteps:
    """Steps of the true future, the first one from the last frame of the context."""
    return TrueSteps(
        change=perceptual.changes(truth, last_context, perceptual.l1),
        motion=perceptual.motion(truth, last_context),
    )


def frame_scores(
    prediction: Float[Array, "b t h w 3"],
    truth: Float[Array, "b t h w 3"],
    last_context: Float[Array, "b h w 3"],
    steps: TrueSteps,
    ssim: str = frame.DEFAULT_SSIM,
) -> dict[str, Array]:
    """Everything that needs no weights and no annotation.

    Returns:
      `fidelity`; of each frame [b, t] `ssim_moving` around moving pixels (NaN where
      there are none), `tl1_x100` and `tof`; of each clip [b]
      `psnr_moving`, `mse_moving` and `mae_moving` over the moving pixels of all its
      frames together (frames with hardly one would otherwise count as much as others),
      `motion_ratio` (NaN below LEAST_MOTION), `flickering`, and if there are frames
      enough `smoothness` and `acceleration_ratio` (these of the video with the frame
      before it; a frozen one is perfectly smooth and calm, with ratios of 0).
    """
    moving = frame.moving_pixels(truth, last_context)
    own = perceptual.motion(prediction, last_context)
    own_change = perceptual.changes(prediction, last_context, perceptual.l1)
    whole = jnp.concatenate([last_context[:, None], prediction], 1)
    true = jnp.concatenate([last_context[:, None], truth], 1)
    scores = {
        **fidelity(prediction, truth, ssim),
        **_ssim(prediction, truth, ssim, moving),
        "psnr_moving": frame.psnr_video(prediction, truth, moving),
        "mse_moving": _pooled(frame.mse, prediction, truth, moving),
        "mae_moving": _pooled(frame.mae, prediction, truth, moving),
        "tl1_x100": perceptual.change_error_x100(own_change, steps.change),
        "tof": perceptual.motion_error(own, steps.motion),
        "motion_ratio": jnp.where(
            motion.motion_energy(steps.motion) > LEAST_MOTION,
            motion.motion_energy_ratio(own, steps.motion),
            jnp.nan,
        ),
        "flickering": consistency.temporal_flickering(whole),
    }
    if whole.shape[1] > 2:
        scores["smoothness"] = _smoothness(whole)
        scores["acceleration_ratio"] = motion.acceleration_ratio(whole, true)
    return scores


def headline_scores(
    prediction: Float[Array, "b t h w 3"],
    truth: Float[Array, "b t h w 3"],
    last_context: Float[Array, "b h w 3"],
) -> dict[str, Array]:
    """`psnr`, `ssim` [b, t] and `psnr_moving` [b] of `frame_scores`, in no time."""
    moving = frame.moving_pixels(truth, last_context)
    return {
        "psnr": frame.psnr(prediction, truth),
        "psnr_moving": frame.psnr_video(prediction, truth, moving),
        **_ssim(prediction, truth),
    }


def fidelity(
    prediction: Float[Array, "b t h w 3"],
    truth: Float[Array, "b t h w 3"],
    ssim: str = frame.DEFAULT_SSIM,
) -> dict[str, Array]:
    """Fidelity of frames, each for itself.

    Returns:
      of each frame [b, t] `psnr`, `mse`, `mae` and, unless frames are too small for its
      window, `ssim` (of the preset); of each clip [b] `psnr_video` and
      `capped_frames`.
    """
    return {
        "psnr": frame.psnr(prediction, truth),
        "psnr_video": frame.psnr_video(prediction, truth),
        "capped_frames": frame.capped_frames(prediction, truth),
        "mse": frame.mse(prediction, truth),
        "mae": frame.mae(prediction, truth),
        **_ssim(prediction, truth, ssim),
    }


def _ssim(prediction, truth, preset=frame.DEFAULT_SSIM, moving=None):
    """Nothing for frames that are smaller than the window."""
    if min(truth.shape[2:4]) < len(frame.SSIM_PRESETS[preset].weights):
        return {}
    name = "ssim" if moving is None else "ssim_moving"
    return {name: frame.ssim(prediction, truth, moving, preset=preset)}


def _smoothness(video):
    """`consistency.flow_smoothness` with the flow that Farneback's method sees."""
    kept = consistency.kept_frames(video)
    forward = perceptual.motion(kept[:, 1:], kept[:, 0])
    turned = kept[:, ::-1]
    backward = perceptual.motion(turned[:, 1:], turned[:, 0])[:, ::-1]
    return consistency.flow_smoothness(video, backward, forward)


def _pooled(metric, prediction, truth, mask):
    """A mean per frame, made one over the mask's pixels of all frames of a clip."""
    b, t, h, w, c = truth.shape
    prediction, truth, mask = (
        x.reshape(b, 1, t * h, w, -1) for x in (prediction, truth, mask)
    )
    return metric(prediction, truth, mask)[:, 0]


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
