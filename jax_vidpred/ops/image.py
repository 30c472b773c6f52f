"""Images: value range, layout, averaging over areas."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

AnyArray = Array | np.ndarray


def to_float(
    image: UInt8[AnyArray, "..."] | Float[AnyArray, "..."],
) -> Float[AnyArray, "..."]:
    """uint8 in 0..255 to float32 in [0, 1]; floating images pass through."""
    if image.dtype == jnp.uint8:
        return image.astype(jnp.float32) / 255
    return image


def to_uint8(image: Float[Array, "..."]) -> UInt8[Array, "..."]:
    """float in [0, 1] (clipped) to the nearest uint8."""
    return jnp.round(jnp.clip(image, 0, 1) * 255).astype(jnp.uint8)


def depth_to_space(
    x: Float[Array, "b h w c"], block: int
) -> Float[Array, "b h2 w2 c2"]:
    """Spreads channels over block x block pixels (sub-pixel convolution, Shi 2016)."""
    b, h, w, c = x.shape
    x = x.reshape(b, h, w, block, block, c // block**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h * block, w * block, -1)


def space_to_depth(
    x: Float[Array, "b h w c"], block: int
) -> Float[Array, "b h2 w2 c2"]:
    """Gathers block x block pixels into channels: the inverse of `depth_to_space`.

    Raises:
      TypeError: height or width is not divisible by `block`.
    """
    b, h, w, c = x.shape
    x = x.reshape(b, h // block, block, w // block, block, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(b, h // block, w // block, -1)


def area_mean(
    image: Float[Array, "*b h w c"], height: int, width: int
) -> Float[Array, "*b h2 w2 c"]:
    """Shrinks by averaging over areas; sizes need not divide.

    Each pixel of the result is the mean of the picture under it, pixels that are only
    partly under it counting by their share.
    """
    rows = _area_weights(image.shape[-3], height)
    columns = _area_weights(image.shape[-2], width)
    return jnp.einsum("...hwc,yh,xw->...yxc", image, rows, columns)


def _area_weights(old: int, new: int) -> np.ndarray:
    """[new, old] share of each old pixel in each new one; rows sum to 1."""
    scale = old / new
    start = np.arange(new)[:, None] * scale
    edge = np.arange(old)
    overlap = np.minimum(start + scale, edge + 1) - np.maximum(start, edge)
    return (np.clip(overlap, 0, None) / scale).astype(np.float32)
