"""Pixel fidelity of single frames: PSNR, SSIM, mean squared and mean absolute error.

Every function returns one number per frame, `[b, t]`; averaging is left to the caller,
who also knows which examples are padding.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

# Identical frames have infinite PSNR, which would swallow every mean.
PSNR_MAX = 100.0

# A pixel moves if a channel changes by more than this (8 of 255 levels). From frame to
# frame of a real CLEVRER video at 64x64, 95 % of all pixels change by less than 0.01:
# that is the codec. The soft edge of a shadow lies above.
MOTION_THRESHOLD = 0.03


class _Window(NamedTuple):
    weights: tuple[float, ...]  # one axis of the separable window, sums to one
    covariance_scale: float  # 1 = population; n / (n - 1) = sample


def _gaussian_window(size: int, sigma: float) -> tuple[float, ...]:
    offsets = np.arange(size) - (size - 1) / 2
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    return tuple(float(w) for w in weights / weights.sum())


SSIM_PRESETS = {
    # Wang et al. 2004, as SlotFormer, FitVid and TECO report it.
    "wang": _Window(_gaussian_window(11, 1.5), 1.0),
    # scikit-image's default: uniform window, sample covariance.
    "skimage": _Window((1 / 7,) * 7, 49 / 48),
}


def _mean(values, mask):
    """Mean over (h, w, c), over the pixels of `mask` alone if there is one."""
    if mask is None:
        return values.mean((-3, -2, -1))
    weights = jnp.broadcast_to(mask, values.shape).astype(values.dtype)
    return (values * weights).sum((-3, -2, -1)) / weights.sum((-3, -2, -1))


def mse(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Mean squared error over pixels and channels; predictions clamped to [0, 1].

    NaN for a frame without any pixel in `mask`: there the error is not defined.
    """
    return _mean(jnp.square(jnp.clip(prediction, 0.0, 1.0) - target), mask)


def mae(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Mean absolute error, otherwise as `mse`."""
    return _mean(jnp.abs(jnp.clip(prediction, 0.0, 1.0) - target), mask)


def psnr(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    mask: Bool[Array, "b t h w 1"] | None = None,
) -> Float[Array, "b t"]:
    """Peak signal-to-noise ratio of each frame, 10 log10(1 / MSE), in dB.

    Args:
      prediction: values are clamped to [0, 1].
      target: values in [0, 1].
      mask: if given, only these pixels count (`moving_pixels`).

    Returns:
      dB, at most `PSNR_MAX`; NaN for a frame without any pixel in `mask`.
    """
    error = mse(prediction, target, mask)
    # `maximum` hands a NaN on, so an empty mask stays visible.
    return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-PSNR_MAX / 10.0)))


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


def _window_matrix(weights, size):
    """[size - len(weights) + 1, size] matrix that takes means over the window."""
    rows = size - len(weights) + 1
    return sum(w * np.eye(rows, size, k) for k, w in enumerate(weights)).astype("f4")


def ssim(
    prediction: Float[Array, "b t h w c"],
    target: Float[Array, "b t h w c"],
    *,
    preset: str = "wang",
) -> Float[Array, "b t"]:
    """Structural similarity of each frame, at most 1 (Wang et al. 2004, eq. 13).

    Published numbers differ in the second decimal by the choice of window, hence a name
    for each choice: `wang` (Gaussian 11x11, sigma 1.5, population covariance) or
    `skimage` (uniform 7x7, sample covariance). Both leave out the border where the
    window does not fit. K1 = 0.01, K2 = 0.03, range 1, mean over pixels and channels.

    Args:
      prediction: values are clamped to [0, 1].
      target: values in [0, 1].
      preset: a key of `SSIM_PRESETS`.

    Raises:
      ValueError: unknown preset, or frames smaller than the window.
    """
    if preset not in SSIM_PRESETS:
        raise ValueError(f"preset={preset!r}, expected one of {sorted(SSIM_PRESETS)}")
    weights, covariance_scale = SSIM_PRESETS[preset]
    height, width = target.shape[-3:-1]
    if min(height, width) < len(weights):
        raise ValueError(
            f"frames of {height}x{width}, expected at least"
            f" {len(weights)}x{len(weights)} for SSIM preset {preset!r}"
        )

    rows, columns = _window_matrix(weights, height), _window_matrix(weights, width)

    def local_mean(values):
        # Two small matrix products: on CPU twice as fast as shifted adds, and those
        # beat a depthwise convolution. Full precision, for the variances cancel.
        return jnp.einsum(
            "ih,bthwc,jw->btijc", rows, values, columns, precision="highest"
        )

    x = jnp.clip(prediction, 0.0, 1.0)
    y = target
    mean_x, mean_y = local_mean(x), local_mean(y)
    variance_x = covariance_scale * (local_mean(x * x) - mean_x * mean_x)
    variance_y = covariance_scale * (local_mean(y * y) - mean_y * mean_y)
    covariance = covariance_scale * (local_mean(x * y) - mean_x * mean_y)
    c1, c2 = math.pow(0.01, 2), math.pow(0.03, 2)
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x * mean_x + mean_y * mean_y + c1) * (variance_x + variance_y + c2)
    )
    return similarity.mean((-3, -2, -1))
