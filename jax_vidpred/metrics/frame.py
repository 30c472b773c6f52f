"""Pixel fidelity of frames: PSNR, SSIM, mean squared and mean absolute error.

One number per frame, `[b, t]`, or where the name says so per video, `[b]`; averaging is
left to the caller, who also knows which examples are padding. Predictions are clamped
to [0, 1] first.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Identical frames have infinite PSNR, which would swallow every mean.
PSNR_MAX = 100.0
_MSE_MIN = 10.0 ** (-PSNR_MAX / 10.0)

# A pixel moves if a channel changes by more than this (8 of 255 levels). From frame to
# frame of a real CLEVRER video at 64x64, 95 % of all pixels change by less than 0.01:
# that is the codec. The soft edge of a shadow lies above.
MOTION_THRESHOLD = 0.03


class _Window(NamedTuple):
    weights: tuple[float, ...]  # one axis of the separable window, sums to one
    covariance_scale: float  # 1 = population; n / (n - 1) = sample
    border: str = "valid"  # no window reaches beyond it, or a mode of np.pad


def _gaussian_window(size: int, sigma: float) -> tuple[float, ...]:
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return tuple(float(w) for w in weights / weights.sum())


_GAUSSIAN = _gaussian_window(11, 1.5)  # of Wang et al. 2004
DEFAULT_SSIM = "wang-gauss"
SSIM_PRESETS = {
    # scikit-image with gaussian_weights=True, as SlotFormer reports it.
    "wang-gauss": _Window(_GAUSSIAN, 1.0),
    # tf.image.ssim, as FitVid and TECO report it. It filters without padding, the other
    # with padding and then crops what that touched: the same numbers.
    "tf-valid": _Window(_GAUSSIAN, 1.0),
    # scikit-image's default: uniform window, sample covariance.
    "skimage-default": _Window((1 / 7,) * 7, 49 / 48),
    # torchmetrics' default: frames are mirrored at the border and all of it counts.
    "torchmetrics": _Window(_GAUSSIAN, 1.0, "reflect"),
}


def _mean(values, mask, axes=(-3, -2, -1)):
    """Mean over axes, (h, w, c) or more, over the pixels of `mask` if there is one."""
    if mask is None:
        return values.mean(axes)
    weights = jnp.broadcast_to(mask, values.shape).astype(values.dtype)
    return (values * weights).sum(axes) / weights.sum(axes)


def mse(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Mean squared error of each frame, mean over (h, w, c) of (y - x)^2; 0 to 1.

    NaN for a frame without any pixel in `mask`: there the error is not defined.
    """
    return _mean(_squares(prediction, target), mask)


def mae(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Mean absolute error |y - x|, otherwise as `mse`."""
    return _mean(jnp.abs(jnp.clip(prediction, 0.0, 1.0) - target), mask)


def psnr(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Peak signal-to-noise ratio of each frame, 10 log10(1 / MSE), in dB.

    Its mean over frames is what SlotFormer, FitVid and TECO report. Compare
    `psnr_video`.

    Args:
      prediction: values are clamped to [0, 1].
      target: values in [0, 1].
      mask: if given, only these pixels count (`moving_pixels`).

    Returns:
      0 to `PSNR_MAX` dB; NaN for a frame without any pixel in `mask`.
    """
    return _decibels(mse(prediction, target, mask))


def psnr_video(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b"]:
    """PSNR of each video, 10 log10(1 / MSE) with the MSE over all its frames, in dB.

    Frames that are predicted badly dominate, so it is lower than the mean of `psnr`
    over frames, and the two do not compare. With a mask every pixel counts alike, in
    frames with many of them and with few.

    Returns:
      as `psnr`; NaN for a video without any pixel in `mask`.
    """
    squares = _squares(prediction, target)
    return _decibels(_mean(squares, mask, (-4, -3, -2, -1)))


def capped_frames(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Int[Array, "b"]:
    """How many frames of each video have the PSNR `PSNR_MAX`, 0 to t.

    A mean of `psnr` that contains such frames depends on the cap.
    """
    return (mse(prediction, target, mask) <= _MSE_MIN).sum(-1)


def _squares(prediction, target):
    return jnp.square(jnp.clip(prediction, 0.0, 1.0) - target)


def _decibels(error):
    # `maximum` hands a NaN on, so an empty mask stays visible.
    return -10.0 * jnp.log10(jnp.maximum(error, _MSE_MIN))


def moving_pixels(
    target: Float[Array, "b t h w c"],
    last_context: Float[Array, "b h w c"],
    *,
    threshold: float = MOTION_THRESHOLD,
) -> Bool[Array, "b t h w 1"]:
    """Pixels that look different from the last frame that the model has seen.

    These are the pixels where copying that frame is wrong: where an object has gone to
    and what it has uncovered, also if it came to rest in between. The true video alone
    decides, so every system is measured on the same pixels.

    Args:
      target: the true future, in [0, 1].
      last_context: the frame before it, in [0, 1].
      threshold: smallest change of any channel that counts.
    """
    change = jnp.abs(target - last_context[:, None])
    return change.max(-1, keepdims=True) > threshold


def _window_matrix(window, size):
    """[n, size] matrix that takes means over the window, n = size unless "valid"."""
    places = np.arange(size)
    if window.border != "valid":
        places = np.pad(places, len(window.weights) // 2, mode=window.border)
    rows = len(places) - len(window.weights) + 1
    each = np.eye(size)[places]
    return sum(w * each[k : k + rows] for k, w in enumerate(window.weights)).astype(
        "f4"
    )


def ssim(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
    *,
    preset: str = DEFAULT_SSIM,
) -> Float[Array, "b t"]:
    """Structural similarity of each frame, -1 to 1 (Wang et al. 2004, eq. 13).

    Mean over pixels and channels of

      (2 m_x m_y + C1) (2 s_xy + C2) / ((m_x^2 + m_y^2 + C1) (s_x^2 + s_y^2 + C2))

    with means m and (co)variances s over the window around the pixel, C1 = 0.01^2 and
    C2 = 0.03^2 for the range 1. Published numbers differ in the second decimal by the
    choice of window and border, hence a name for each choice:

    - `wang-gauss` and `tf-valid`: Gaussian 11x11, sigma 1.5, population covariance,
      without the border where the window does not fit. One window, two programs.
    - `skimage-default`: uniform 7x7, sample covariance, without the border.
    - `torchmetrics`: the Gaussian window on mirrored frames, with the border.

    Args:
      prediction: values are clamped to [0, 1].
      target: values in [0, 1].
      mask: if given, only windows around these pixels count (`moving_pixels`).
      preset: a key of `SSIM_PRESETS`.

    Returns:
      NaN for a frame in which no window counts.

    Raises:
      ValueError: unknown preset, or frames smaller than the window.
    """
    if preset not in SSIM_PRESETS:
        raise ValueError(f"preset={preset!r}, expected one of {sorted(SSIM_PRESETS)}")
    window = SSIM_PRESETS[preset]
    height, width = target.shape[-3:-1]
    if min(height, width) < len(window.weights):
        raise ValueError(
            f"frames of {height}x{width}, expected at least"
            f" {len(window.weights)}x{len(window.weights)} for SSIM preset {preset!r}"
        )

    rows, columns = _window_matrix(window, height), _window_matrix(window, width)

    def local_mean(values):
        # Two small matrix products: on CPU twice as fast as shifted adds, and those
        # beat a depthwise convolution. Full precision, for the variances cancel.
        return jnp.einsum(
            "ih,bthwc,jw->btijc", rows, values, columns, precision="highest"
        )

    x = jnp.clip(prediction, 0.0, 1.0)
    y = target
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = window.covariance_scale * (local_mean(x * x) - mean_x * mean_x)
    variance_y = window.covariance_scale * (local_mean(y * y) - mean_y * mean_y)
    covariance = window.covariance_scale * (local_mean(x * y) - mean_x * mean_y)
    c1, c2 = math.pow(0.01, 2), math.pow(0.03, 2)
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    )
    if mask is not None:
        # Of the windows that fit: those whose middle is a pixel of the mask.
        top = (height - similarity.shape[2]) // 2
        left = (width - similarity.shape[3]) // 2
        mask = mask[:, :, top : height - top, left : width - left]
    return _mean(similarity, mask, (-3, -2, -1))
