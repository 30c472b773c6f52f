"""Images: value range and layout."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def to_float(image: UInt8[Array, "..."] | Float[Array, "..."]) -> Float[Array, "..."]:
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
