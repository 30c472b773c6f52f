"""Optical flow fields: resizing, advection, end-point distance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


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
