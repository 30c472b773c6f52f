"""Optical flow fields: resizing, end-point distance, consistency of two directions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_vidpred.ops.warp import places, warp


def resize_flow(
    flow: Float[Array, "*b h w 2"], height: int, width: int
) -> Float[Array, "*b h2 w2 2"]:
    """Resamples flow bilinearly; x and y are rescaled by their own factors."""
    *batch, h, w, _ = flow.shape
    resized = jax.image.resize(flow, (*batch, height, width, 2), "bilinear")
    factors = jnp.array([width / w, height / h], flow.dtype)
    return resized * jnp.broadcast_to(factors, resized.shape)


def endpoint_distance(
    prediction: Float[Array, "*b h w 2"],
    target: Float[Array, "*b h w 2"],
    epsilon: float = 1e-3,
) -> Float[Array, "*b h w"]:
    """Euclidean distance of two flow fields, sqrt(|p - t|^2 + eps^2) - eps.

    The offset keeps the gradient finite where both agree, and the distance zero there.
    """
    square = jnp.sum((prediction - target) ** 2, -1)
    return jnp.sqrt(square + epsilon**2) - epsilon


def visible_by_consistency(
    flow: Float[Array, "*b h w 2"], reverse: Float[Array, "*b h w 2"]
) -> Float[Array, "*b h w 1"]:
    """Where the reverse flow leads back to where the flow came from: 1, else 0.

    |f + r(p + f)|^2 <= 0.01 (|f|^2 + |r(p + f)|^2) + 0.5, with both fields in pixels of
    the full resolution (Meister et al. 2018, UnFlow, section 3.2; Sundaram et al.
    2010). What points out of the picture (beyond the outer edge of its border pixels)
    is not visible.

    Args:
      flow: from the grid of the result into the other frame.
      reverse: from the other frame's grid back.
    """
    h, w = flow.shape[-3:-1]
    back = warp(reverse, flow)
    mismatch = jnp.sum((flow + back) ** 2, -1)
    length = jnp.sum(flow**2, -1) + jnp.sum(back**2, -1)
    x, y = places(flow)
    x, y = x + flow[..., 0], y + flow[..., 1]
    inside = (x >= -0.5) & (x <= w - 0.5) & (y >= -0.5) & (y <= h - 0.5)
    visible = inside & (mismatch <= 0.01 * length + 0.5)
    return visible[..., None].astype(flow.dtype)
