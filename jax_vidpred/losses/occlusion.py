"""Visibility supervision."""

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def visibility_cross_entropy(
    logit: Float[Array, "b k h w 1"], visible: Float[Array, "b k h w 1"]
) -> Float[Array, "b k"]:
    """Binary cross-entropy against the visible share of each cell, in [0, 1].

    The entropy of a soft target is taken off, so a perfect prediction costs 0.
    """
    loss = optax.sigmoid_binary_cross_entropy(logit, visible)
    clipped = jnp.clip(visible, 1e-6, 1 - 1e-6)
    floor = -(clipped * jnp.log(clipped) + (1 - clipped) * jnp.log1p(-clipped))
    return jnp.mean(loss - floor, (2, 3, 4))
