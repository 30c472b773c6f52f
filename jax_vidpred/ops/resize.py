"""Resizing images as torch does it: two matrix products.

Networks that were trained in torch expect its numbers. `jax.image.resize` has another
cubic kernel (Keys' parameter -1/2; torch takes -3/4 unless it filters) and treats the
border differently.
"""

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_RADIUS = {"bilinear": 1, "bicubic": 2}  # of the kernel, in pixels


def resize(
    image: Float[Array, "*b h w c"],
    size: tuple[int, int],
    method: str = "bilinear",
    *,
    antialias: bool = False,
) -> Float[Array, "*b h2 w2 c"]:
    """torch.nn.functional.interpolate(size=size, mode=method, align_corners=False).

    Args:
      image: any values; bicubic results can leave their range.
      size: new height and width.
      method: "bilinear" or "bicubic".
      antialias: widen the kernel when shrinking, so that every pixel counts.

    Raises:
      ValueError: an unknown method, or a size without pixels.
    """
    h, w = image.shape[-3:-1]
    if method not in _RADIUS:
        raise ValueError(
            f"resize method {method!r} is unknown; use {' or '.join(_RADIUS)}"
        )
    if min(h, w, *size) < 1:
        raise ValueError(f"cannot resize {h}x{w} to {size[0]}x{size[1]}: no pixels")
    if (h, w) == tuple(size):
        return image
    rows, columns = (
        jnp.asarray(_weights(old, new, method, antialias), image.dtype)
        for old, new in zip((h, w), size, strict=True)
    )
    # Full precision: a TPU would round the pixels to eight bits of mantissa.
    precision = lax.Precision.HIGHEST
    image = jnp.einsum("yh,...hwc->...ywc", rows, image, precision=precision)
    return jnp.einsum("xw,...ywc->...yxc", columns, image, precision=precision)


def _weights(old: int, new: int, method: str, antialias: bool) -> np.ndarray:
    """What each of `old` pixels contributes to each of `new`, [new, old]."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale - 0.5
    if antialias:
        distance = (np.arange(old) - centre) / max(scale, 1.0)
        weights = _kernel(distance, method, -0.5)  # the one parameter that Pillow has
        return weights / weights.sum(1, keepdims=True)
    radius = _RADIUS[method]
    places = np.arange(-radius, old + radius)
    weights = _kernel(places - centre, method, -0.75)
    # Beyond the border the border repeats.
    folded = np.zeros((new, old))
    np.add.at(folded.T, np.clip(places, 0, old - 1), weights.T)
    return folded


def _kernel(x: np.ndarray, method: str, a: float) -> np.ndarray:
    """Hat, or the cubic convolution kernel with parameter a (Keys 1981, eq. 15)."""
    x = np.abs(x)
    if method == "bilinear":
        return np.maximum(0, 1 - x)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x <= 1, near, np.where(x < 2, far, 0))
